"""One request: claimed on record, sent once, its image and its result made durable."""

import asyncio
from dataclasses import dataclass, replace

from dagster_imagegen.engine.attempt import (
    IMAGE_NOT_SAVED,
    OUTCOME_LOST,
    Attempt,
    Cost,
    Identity,
    Outcome,
    RequestRecord,
    Result,
)
from dagster_imagegen.engine.endpoint.kinds import FailureKind
from dagster_imagegen.engine.endpoint.response import Answer, Failure, GeneratedImage
from dagster_imagegen.engine.errors import StorageError
from dagster_imagegen.engine.images import UnsavedImage
from dagster_imagegen.engine.pacing.pacer import NotWanted, Signal, Slot
from dagster_imagegen.engine.record import AlreadyThere, Contended, Granted
from dagster_imagegen.engine.run.answers import cost_of_answer, result_of_answer, signal_of
from dagster_imagegen.engine.run.breaker import Streak
from dagster_imagegen.engine.run.context import PassContext
from dagster_imagegen.engine.run.gate import Turn
from dagster_imagegen.engine.run.jobs import Job
from dagster_imagegen.engine.run.verdict import Unresolved


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The right to send one request: a turn, a slot, and an attempt on record.

    `unresolved` counts what other writers left unresolved in the meantime, too.
    """

    turn: Turn
    slot: Slot
    attempt_id: str
    unresolved: Unresolved


@dataclass(frozen=True, kw_only=True)
class Sent:
    """A request that was sent and settled. `failure` is None where it brought an image, `streak`
    also where it shows that the endpoint works.

    `list_price` is what it cost at list price, which the sandbox's results do not hold.
    """

    attempt: Attempt
    unresolved: Unresolved
    failure: Failure | None
    streak: Streak | None
    list_price: Cost


class SendingPaused(Exception):
    """Sending has paused since the turn was given; nothing was put on record."""


class Sender:
    """Claims and sends requests for one pass."""

    def __init__(self, context: PassContext) -> None:
        self._context = context
        self.sending: set[asyncio.Task[None] | None] = set()
        """The tasks that wait for an answer; stopping waits for them."""
        self._not_taken: set[str] = set()
        """The attempts whose image the storage has failed to take so far."""
        self._first_image: str | None = None
        self._storage_takes = asyncio.Event()
        self._storage_takes.set()

    async def claim(
        self, job: Job, turn: Turn, *, number: int, unresolved: Unresolved
    ) -> Claim | Outcome:
        """A free slot and an attempt on record in it; or the outcome that another writer brought.

        Raises `PauseTooLong` where the endpoint asks everybody to wait for too long, and
        `SendingPaused` where the turn is no longer good.
        """
        context, request = self._context, job.request
        attempt = Attempt(
            attempt_id="",
            identity=self._identity(job),
            prompt_id=job.prompt_id,
            request=RequestRecord.of(request, record_prompt=context.record_prompts),
            number=number,
            worst_case=job.worst_case,
        )
        while True:
            decision = await self._intend(attempt, turn, unresolved)
            if isinstance(decision, Claim):
                return decision
            if isinstance(decision, AlreadyThere):
                return await self._adopted(decision, request.fingerprint)
            other = await context.record.outcome_of(decision.rival, request.fingerprint)
            if other is None:
                continue
            if self._died_sending(other):
                unresolved = unresolved.one_more(of_another_run=True)
                if unresolved.may_resend:
                    continue
            if other.status in ("succeeded", "refused", "unknown"):
                return Outcome.of(other, reused=True)

    def _identity(self, job: Job) -> Identity:
        """On whose behalf it is sent: of a pass over several partitions, the job's own."""
        identity = self._context.identity
        if job.partition_key is None:
            return identity
        return replace(identity, partition_key=job.partition_key)

    async def _intend(
        self, attempt: Attempt, turn: Turn, unresolved: Unresolved
    ) -> Claim | AlreadyThere | Contended:
        context = self._context
        slot = await self._slot(turn)
        claim: Claim | None = None
        try:
            decision = await context.record.intend(attempt)
            if not isinstance(decision, Granted):
                return decision
            if context.stop.is_set():
                await context.record.withdraw(decision.attempt_id)
                raise asyncio.CancelledError
            claim = Claim(
                turn=turn, slot=slot, attempt_id=decision.attempt_id, unresolved=unresolved
            )
            return claim
        finally:
            if claim is None:
                context.pacer.release(slot, Signal(outcome="unclear"))

    async def _slot(self, turn: Turn) -> Slot:
        """A free slot, at a time when the storage takes images."""
        context = self._context
        while True:
            await self._storage_takes.wait()
            # A turn that is no longer good takes no slot: a probe may wait behind it.
            try:
                slot = await context.pacer.acquire(wanted=lambda: context.gate.allows(turn))
            except NotWanted:
                raise SendingPaused from None
            if self._storage_takes.is_set():
                return slot
            context.pacer.release(slot, Signal(outcome="unclear"))

    async def _adopted(self, found: AlreadyThere, fingerprint: str) -> Outcome:
        context = self._context
        attempt = await context.record.attempt(found.attempt_id, fingerprint)
        if attempt is None or attempt.status != "succeeded":
            attempt = await context.images.adopt(found.attempt_id, found.path, attempt)
        return Outcome.of(attempt, reused=True)

    def _died_sending(self, attempt: Attempt) -> bool:
        """Whether a writer of another root run left this attempt open when it died."""
        result = attempt.result
        return (
            result is not None
            and result.status == "unknown"
            and result.error_code == OUTCOME_LOST
            and attempt.identity.root_run_id != self._context.identity.root_run_id
        )

    async def send(self, job: Job, claim: Claim) -> Sent:
        """Send what is on record; on return its image and its result are durable."""
        context, request = self._context, job.request
        task = asyncio.current_task()
        self.sending.add(task)
        try:
            context.totals.sent(self._identity(job).partition_key)
            answer, streak = await self._answer(job, claim)
            cost = cost_of_answer(context.prices, request, answer, worst_case=job.worst_case)
            result = self._result(answer, cost)
            said = answer.result
            failure = said if isinstance(said, Failure) else None
            if isinstance(said, GeneratedImage):
                image = context.images.unsaved(
                    said, fingerprint=request.fingerprint, attempt_id=claim.attempt_id
                )
                del answer, said  # Its bytes are freed once they are spilled.
                result = await self._saved(image, claim.attempt_id, result, list_price=cost)
            attempt = await self._settle(claim.attempt_id, result, list_price=cost)
        finally:
            self.sending.discard(task)
        return Sent(
            attempt=attempt,
            unresolved=claim.unresolved,
            failure=failure,
            streak=streak,
            list_price=cost,
        )

    async def _answer(self, job: Job, claim: Claim) -> tuple[Answer, Streak | None]:
        """Send once. Pacer and breaker learn from the answer before it is put on record."""
        context, request = self._context, job.request
        signal = Signal(outcome="unclear")
        context.pacer.sending(claim.slot)
        try:
            answer = await context.endpoint.send(request, on_partial=context.on_partial)
            # In an outage failures say nothing about how much the endpoint takes in good health.
            said = answer.result
            if not (context.gate.is_paused and isinstance(said, Failure) and said.is_outage):
                signal = signal_of(answer)
        finally:
            context.pacer.release(claim.slot, signal)
        failure = answer.result if isinstance(answer.result, Failure) else None
        model = f"model {request.model!r}"
        if failure is not None and _may_lack_model(failure):
            life = context.prices.life(request.model)
            model += f" ({life.explanation(context.now().date())})" if life else ""
        return answer, context.breaker.observe(claim.turn, failure, model=model)

    def _result(self, answer: Answer, cost: Cost) -> Result:
        """What an answer comes to, with the wait that is too long, where it asks for one."""
        context, said = self._context, answer.result
        result = result_of_answer(
            answer,
            cost,
            sandbox=context.sandbox,
            finished_at=context.now(),
            with_texts=context.record_prompts,
        )
        reason = context.retry.too_long(said.wait_seconds) if isinstance(said, Failure) else None
        if reason is None:
            return result
        message = f"{result.error_message}; {reason}" if result.error_message else reason
        return replace(result, error_message=message)

    async def _settle(self, attempt_id: str, result: Result, *, list_price: Cost) -> Attempt:
        """Put the result on record, then count what is there."""
        attempt = await self._context.record.settle(attempt_id, result)
        partition = attempt.identity.partition_key
        self._context.totals.add(partition, result, list_price=list_price)
        return attempt

    async def _saved(
        self, image: UnsavedImage, attempt_id: str, result: Result, *, list_price: Cost
    ) -> Result:
        """Store the image, or spill it to this machine if the storage stays away: it is paid for.

        While the storage fails to take it, nothing new is sent. Raises `StorageError`, the attempt
        settled, when patience with the storage ends.
        """

        def failed() -> None:
            self._not_taken.add(attempt_id)
            self._storage_takes.clear()

        try:
            file = await self._context.images.save(image, failed=failed)
            self._first_image = self._first_image or file.path
            return replace(result, image=file)
        except (StorageError, asyncio.CancelledError) as error:
            kept = await self._spill(image)
            if isinstance(error, asyncio.CancelledError):
                raise
            message = f"{error}. The image is paid for and {kept}"
            unsaved = replace(
                result, status="failed", error_code=IMAGE_NOT_SAVED, error_message=message
            )
            await self._settle(attempt_id, unsaved, list_price=list_price)
            raise StorageError(message) from error
        finally:
            self._not_taken.discard(attempt_id)
            if not self._not_taken:
                self._storage_takes.set()

    async def check_images(self) -> None:
        """Raise `StorageError` if the first image that was stored here is gone by now.

        Whoever deletes a folder or empties a bucket deletes that one as well.
        """
        images = self._context.images
        if self._first_image is not None and await images.missing([self._first_image]):
            raise StorageError(
                f"{images.uri(self._first_image)}, which this run has stored, is gone: somebody "
                "deleted the storage's images during the run. Restore them if you can; what is not "
                "restored is requested again by a run with `redo: [missing]`",
                can_pass=False,
            )

    async def _spill(self, image: UnsavedImage) -> str:
        try:
            where = await self._context.images.spill(image)
        except StorageError as error:
            return f"lost, because it could not be kept on this machine either: {error}"
        return f"kept at {where}; the next run on this machine stores it instead of buying another"


def _may_lack_model(failure: Failure) -> bool:
    """Whether an answer can mean that the model is gone. 401 and 403 are about the account."""
    if failure.kind is not FailureKind.MISCONFIGURED or failure.http_status in (401, 403):
        return False
    said = f"{failure.code} {failure.message}".lower()
    return failure.http_status in (404, 410) or "model" in said
