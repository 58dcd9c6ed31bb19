"""One pass over a prompt table: plan, ask, save, record, report, in this order and no other.

The pass runs in an event loop on a thread of its own, because its caller may have one already
(an async op) and may be interrupted at any moment (a terminated run).
"""

import asyncio
import contextlib
import queue
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from types import TracebackType
from typing import Any, Literal, Protocol

from typing_extensions import Self

from dagster_imagegen.engine.budget import Purse
from dagster_imagegen.engine.endpoint.client import RetryPolicy
from dagster_imagegen.engine.endpoint.response import Answer, Failure, FailureKind, GeneratedImage
from dagster_imagegen.engine.errors import (
    BudgetExhausted,
    EndpointError,
    EndpointMisconfigured,
    EndpointUnreachable,
    OutOfCredit,
    StorageError,
)
from dagster_imagegen.engine.images import Images
from dagster_imagegen.engine.journal import Identity
from dagster_imagegen.engine.ledger import AlreadyThere, Books, Granted, Ledger
from dagster_imagegen.engine.money.price_list import Cost, PriceList
from dagster_imagegen.engine.pacing.pacer import Pacer, PauseTooLong, Signal, Slot
from dagster_imagegen.engine.planning import (
    UNKNOWN_RESENDS,
    Job,
    Outcome,
    OutcomeStatus,
    Plan,
)
from dagster_imagegen.engine.request import ImageRequest
from dagster_imagegen.engine.rows import (
    IMAGE_NOT_SAVED,
    OUTCOME_LOST,
    answer_columns,
    charge,
    intent_columns,
    redact_prompt,
    without_prompt,
)
from dagster_imagegen.engine.usage import Row

GROWTH = Decimal("1.25")

_STATUS: dict[str, OutcomeStatus] = {
    "succeeded": "generated",
    "refused": "refused",
    "unknown": "unknown",
}
_ADOPTED: dict[str, OutcomeStatus] = {**_STATUS, "succeeded": "reused"}
"""What another writer's attempt at the same image settles for us; the rest is asked anew."""


class Endpoint(Protocol):
    """Whoever answers requests."""

    async def send(self, request: ImageRequest) -> Answer: ...
    async def aclose(self) -> None: ...


@dataclass(kw_only=True)
class Totals:
    """What a pass has caused so far. `requests` counts what was sent; money counts every answer.

    `list_price_usd` is what it costs at list price; outside the sandbox the same as `cost_usd`.
    `unpriced` counts answers that may have cost something that nobody can name. `statuses` counts
    answers by their row's status; `by_basis` has answers and their cost by `cost_basis`.
    """

    requests: int = 0
    succeeded: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    cost_usd: Decimal = Decimal(0)
    list_price_usd: Decimal = Decimal(0)
    unpriced: int = 0
    statuses: Counter[str] = field(default_factory=Counter[str])
    by_basis: dict[str, tuple[int, Decimal]] = field(default_factory=dict[str, tuple[int, Decimal]])


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a pass stands. `done` and `total` count distinct images."""

    done: int
    total: int
    in_flight: int
    images_per_minute: float | None
    cost_usd: Decimal
    list_price_usd: Decimal
    seconds_left: float | None
    sandbox: bool
    unpriced: int = 0

    def __str__(self) -> str:
        parts = [f"{self.done:,} of {self.total:,} images", f"{self.in_flight} in flight"]
        if self.images_per_minute is not None:
            parts.append(f"{self.images_per_minute:,.0f} a minute")
        parts.append(self.cost)
        if self.seconds_left is not None and self.done < self.total:
            minutes, seconds = divmod(round(self.seconds_left), 60)
            parts.append(f"{minutes}:{seconds:02d} left")
        return ", ".join(parts)

    @property
    def cost(self) -> str:
        """What it has cost so far, with the requests that nobody can name a cost of."""
        return cost_text(
            self.cost_usd, self.list_price_usd, sandbox=self.sandbox, unpriced=self.unpriced
        )


def cost_text(
    cost_usd: Decimal, list_price_usd: Decimal, *, sandbox: bool, unpriced: int = 0
) -> str:
    """`$1.23`, in the sandbox `$0.00 (sandbox; $1.23 at list price)`.

    With `unpriced` requests `$1.23 and 3 requests of unknown cost`: what is unknown is not 0.
    """
    if sandbox:
        return f"$0.00 (sandbox; ${list_price_usd:,.2f} at list price)"
    known = f"${cost_usd:,.2f}"
    if not unpriced:
        return known
    return f"{known} and {unpriced:,} request{'s'[: unpriced != 1]} of unknown cost"


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a pass works with, made inside its event loop by the engine."""

    ledger: Ledger
    images: Images
    endpoint: Endpoint
    pacer: Pacer
    prices: PriceList
    room: Callable[[Books], Decimal] | None = None
    """How much of the budget is left by what is on record of others; None: there is no budget."""
    defers: bool = False
    """Whether what the budget does not cover is left to a later run, instead of failing."""


@dataclass(frozen=True, kw_only=True)
class _Claim:
    """The right to send one request: a slot, and an attempt on record."""

    slot: Slot
    attempt_id: str


class Pass:
    """The side of a pass that lives in the event loop."""

    def __init__(
        self,
        parts: Parts,
        *,
        identity: Identity,
        retry: RetryPolicy,
        record_prompts: bool,
        sandbox: bool,
        drain_seconds: float,
        now: Callable[[], datetime],
        rng: random.Random,
        report: Callable[[Outcome], None],
        totals: Totals,
    ) -> None:
        self._parts = parts
        self._identity = identity
        self._retry = retry
        self._record_prompts = record_prompts
        self._sandbox = sandbox
        self._drain_seconds = drain_seconds
        self._now = now
        self._rng = rng
        self._report = report
        self._totals = totals
        self._stopping = asyncio.Event()
        self._sending: set[asyncio.Task[None] | None] = set()
        self._todo: deque[Job] = deque()
        self._purse: Purse | None = None
        self.error: Exception | None = None

    @property
    def in_flight(self) -> int:
        return len(self._sending)

    def stop(self) -> None:
        """Send nothing more; let what is in flight come back."""
        self._stopping.set()

    async def run(self, plan: Plan, *, workers: int) -> None:
        """Report what is known, then ask for the rest. `error` says why it ended early."""
        for job in plan.jobs:
            if job.known is not None:
                self._report(job.known)
        self._todo.extend(job for job in plan.jobs if job.known is None)
        try:
            try:
                if self._todo and not self._stopping.is_set():
                    await self._parts.images.check_writable()
                    await self._parts.ledger.open()
                    self._purse = await self._open_purse(self._todo)
                    await self._work(workers)
            finally:
                await self._parts.ledger.close()
        except StorageError as error:
            self._halt(error)

    async def _open_purse(self, jobs: Iterable[Job]) -> Purse | None:
        """Reserve what all of it can cost, if that is left; less of it otherwise."""
        room, ledger = self._parts.room, self._parts.ledger
        if room is None:
            return None
        worst_cases = (self._parts.prices.worst_case(job.request).usd for job in jobs)
        want = sum((usd for usd in worst_cases if usd is not None), Decimal(0))

        async def grow(total_usd: Decimal) -> Decimal:
            # A quarter more than needed now: asking again for each retry would cost a commit each.
            return await ledger.reserve(total_usd * GROWTH, room=room)

        return Purse(allowed_usd=await ledger.reserve(want, room=room), grow=grow)

    async def _work(self, workers: int) -> None:
        """Run the workers until all is done; once stopping, for `drain_seconds` at most."""
        tasks = {asyncio.create_task(self._worker()) for _ in range(min(workers, len(self._todo)))}
        finished = asyncio.ensure_future(asyncio.wait(tasks))
        stopping = asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait({finished, stopping}, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks - self._sending:
            task.cancel()  # It waits for a slot, a rival or its next try: nothing is lost.
        _, late = await asyncio.wait(tasks, timeout=self._drain_seconds)
        for task in late:
            task.cancel()  # The ledger, on closing, records its attempt as unknown.
        await asyncio.gather(*tasks, return_exceptions=True)
        await finished
        stopping.cancel()

    async def _worker(self) -> None:
        try:
            while self._todo and not self._stopping.is_set():
                outcome = await self._produce(self._todo.popleft())
                if outcome is not None:
                    self._report(outcome)
        except Exception as error:  # noqa: BLE001  # whatever it is, it ends the pass and is told
            self._halt(error)

    async def _produce(self, job: Job) -> Outcome | None:
        """Ask until there is an outcome. None: the pass is stopping before there is one."""
        attempt = 0
        failed: Counter[FailureKind] = Counter()
        while True:
            attempt += 1
            worst_case = self._parts.prices.worst_case(job.request)
            reserved_usd = worst_case.usd or Decimal(0)
            if self._purse is not None and not await self._purse.reserve(reserved_usd):
                return self._beyond_the_budget(job, reserved_usd)
            spent_usd: Decimal | None = Decimal(0)
            try:
                claimed = await self._claim(job, worst_case=worst_case, attempt=attempt)
                if isinstance(claimed, Outcome):
                    return claimed
                spent_usd = None
                answer, row, spent_usd = await self._ask(job.request, claimed)
            except PauseTooLong as pause:
                return self._deferred(job, "wait_too_long", self._retry.too_long(pause.seconds))
            finally:
                if self._purse is not None:
                    self._purse.settle(reserved_usd, spent_usd)
            status = _STATUS.get(row["status"], "failed")
            outcome = Outcome(fingerprint=job.request.fingerprint, status=status, row=row)
            if not isinstance(answer.result, Failure):
                return outcome
            failed[answer.result.kind] += 1
            wait = self._retry.wait_before_next(
                answer.result, failed=failed, random=self._rng, resends=job.resends
            )
            if error := _stops_everything(
                answer.result,
                job.request,
                out_of_tries=wait is None,
                tell_prompt=self._record_prompts,
            ):
                self._halt(error)
                return outcome
            if wait is None:
                return outcome
            if self._stopping.is_set():
                return None
            await asyncio.sleep(wait)

    def _beyond_the_budget(self, job: Job, reserved_usd: Decimal) -> Outcome | None:
        message = (
            f"what the budget has left does not cover another request of this kind, which can "
            f"cost ${reserved_usd:,.4f}"
        )
        if not self._parts.defers:
            self._halt(
                BudgetExhausted(
                    f"{message}. What was made is saved; raise the max_usd of the budget or of "
                    "this run, or run again when the budget's period is over. "
                    "budget.when_exhausted='defer' leaves the rest to a later run without failing"
                )
            )
            return None
        return self._deferred(job, "budget_exhausted", message)

    def _deferred(self, job: Job, code: str, message: str | None) -> Outcome:
        """Left to a later run, and not sent in this one, or not again."""
        row: Row = {"error_code": code, "error_message": message}
        return Outcome(fingerprint=job.request.fingerprint, status="deferred", row=row)

    async def _claim(self, job: Job, *, worst_case: Cost, attempt: int) -> "_Claim | Outcome":
        """A free slot and an attempt on record in it; or the outcome, if another writer has it."""
        parts, request = self._parts, job.request
        intent = intent_columns(
            request,
            identity=self._identity,
            prompt_id=job.prompt_id,
            attempt=attempt,
            worst_case=worst_case,
            record_prompt=self._record_prompts,
        )
        doubtful = job.doubtful
        while True:
            slot = await parts.pacer.acquire()
            sent = False
            try:
                decision = await parts.ledger.intend(intent)
                if isinstance(decision, Granted):
                    if self._stopping.is_set():
                        await parts.ledger.withdraw(decision.attempt_id)
                        raise asyncio.CancelledError
                    sent = True
                    return _Claim(slot=slot, attempt_id=decision.attempt_id)
            finally:
                if not sent:
                    parts.pacer.release(slot, Signal(outcome="unclear"))
            if isinstance(decision, AlreadyThere):
                row = await parts.ledger.row_of(decision.attempt_id)
                if row is None or row.get("status") != "succeeded":
                    row = await parts.images.adopt(decision.attempt_id, decision.path, row=row)
                return Outcome(fingerprint=request.fingerprint, status="reused", row=row)
            row = await parts.ledger.outcome_of(decision.rival)
            if row is not None and self._died_asking(row) and doubtful < UNKNOWN_RESENDS:
                doubtful += 1  # This is the later run that asks for it again.
            elif row is not None and row.get("status") in _ADOPTED:
                status = _ADOPTED[row["status"]]
                return Outcome(fingerprint=request.fingerprint, status=status, row=row)

    def _died_asking(self, row: Row) -> bool:
        """Whether a writer of another root run left this attempt open when it died."""
        return (
            row.get("status") == "unknown"
            and row.get("error_code") == OUTCOME_LOST
            and row.get("root_run_id") != self._identity.root_run_id
        )

    async def _ask(
        self, request: ImageRequest, claim: "_Claim"
    ) -> tuple[Answer, Row, Decimal | None]:
        """Send what is on record; on return its image and its outcome are durable.

        With the row comes what it cost at list price, which the sandbox's rows do not say.
        While this runs, stopping waits for it.
        """
        task = asyncio.current_task()
        self._sending.add(task)
        try:
            self._totals.requests += 1
            signal = Signal(outcome="unclear")
            try:
                answer = await self._parts.endpoint.send(request)
                signal = _signal(answer)
            finally:
                self._parts.pacer.release(claim.slot, signal)
            row, list_price_usd = self._account(request, answer)
            if isinstance(answer.result, GeneratedImage):
                row |= await self._save(answer.result, request, claim.attempt_id, row)
                self._totals.succeeded += 1
            await self._parts.ledger.settle(claim.attempt_id, row)
        finally:
            self._sending.discard(task)
        return answer, {**row, "attempt_id": claim.attempt_id}, list_price_usd

    def _account(self, request: ImageRequest, answer: Answer) -> tuple[Row, Decimal | None]:
        """The answer's columns and its list price, counted into the totals."""
        cost = charge(self._parts.prices, request, answer.result)
        row = answer_columns(answer, cost, sandbox=self._sandbox, finished_at=self._now())
        if isinstance(answer.result, Failure) and (
            reason := self._retry.too_long(answer.result.wait_seconds)
        ):
            row["error_message"] = f"{row['error_message']}; {reason}"
        if not self._record_prompts:
            row = without_prompt(row, request.prompt)
        totals, tokens = self._totals, answer.result.tokens
        if tokens is not None:
            totals.input_tokens += tokens.input_tokens or 0
            totals.output_tokens += tokens.output_tokens or 0
            totals.total_tokens += tokens.total_tokens or 0
        totals.list_price_usd += cost.usd or 0
        totals.cost_usd += row["cost_usd"] or 0
        totals.unpriced += row["cost_usd"] is None
        totals.statuses[row["status"]] += 1
        basis = row["cost_basis"] or "unknown"
        requests, usd = totals.by_basis.get(basis, (0, Decimal(0)))
        totals.by_basis[basis] = (requests + 1, usd + (row["cost_usd"] or 0))
        return row, cost.usd

    async def _save(
        self, image: GeneratedImage, request: ImageRequest, attempt_id: str, row: Row
    ) -> Row:
        """Store the image, or keep it on this machine if the storage stays away: it is paid for.

        Raises `StorageError`, the attempt settled, when the storage does not take it.
        """
        images = self._parts.images
        try:
            return await images.save(image, fingerprint=request.fingerprint, attempt_id=attempt_id)
        except (StorageError, asyncio.CancelledError) as error:
            try:
                where = await images.set_aside(
                    image, fingerprint=request.fingerprint, attempt_id=attempt_id
                )
                kept = (
                    f"kept at {where}; the next run on this machine stores it instead of buying "
                    "another"
                )
            except StorageError as second:
                kept = f"lost, for it could not be kept on this machine either: {second}"
            if isinstance(error, asyncio.CancelledError):
                raise
            message = f"{error}. The image is paid for and {kept}"
            unsaved = {"error_code": IMAGE_NOT_SAVED, "error_message": message}
            await self._parts.ledger.settle(attempt_id, {**row, "status": "failed", **unsaved})
            raise StorageError(message) from error

    def _halt(self, error: Exception) -> None:
        """End the pass for a reason; the first one is told."""
        if self.error is None:
            self.error = error
        self._stopping.set()


def _signal(answer: Answer) -> Signal:
    """What an answer says about how fast to send."""
    result, headroom = answer.result, answer.headroom
    failure = result if isinstance(result, Failure) else None
    return Signal(
        outcome=_admission(failure),
        wait_seconds=failure.wait_seconds if failure else None,
        remaining=headroom.remaining if headroom else None,
        limit=headroom.limit if headroom else None,
        reset_seconds=headroom.reset_seconds if headroom else None,
        names_concurrency=failure.names_concurrency if failure else False,
    )


def _admission(failure: Failure | None) -> Literal["accepted", "refused", "unclear"]:
    if failure is None:
        return "accepted"
    if failure.kind in (FailureKind.RATE_LIMITED, FailureKind.UNAVAILABLE):
        return "refused"
    return "unclear" if failure.http_status is None else "accepted"


def _stops_everything(
    failure: Failure, request: ImageRequest, *, out_of_tries: bool, tell_prompt: bool
) -> EndpointError | None:
    """The error that every further request would meet as well, if this failure is of that kind."""
    place = f"{request.endpoint_id}, model {request.model!r}"
    told = failure.summary if tell_prompt else redact_prompt(failure.summary, request.prompt)
    match failure.kind:
        case FailureKind.MISCONFIGURED:
            kind = EndpointMisconfigured
            message = (
                f"{place}: {told}. Every request would be answered like this, so no "
                "more are sent; check base_url, api_key, model and the parameters"
            )
        case FailureKind.OUT_OF_CREDIT:
            kind = OutOfCredit
            message = (
                f"{place}: {told}. What was paid for is saved; run again when the "
                "account has credit, and the rest is asked for"
            )
        case FailureKind.UNREACHABLE if out_of_tries:
            kind = EndpointUnreachable
            message = f"{place}: {told}. Nobody answers there; check base_url and the network"
        case _:
            return None
    return kind(message, http_status=failure.http_status, code=failure.code)


class Generation:
    """A pass under way. Iterate over it for the outcomes, as they come, one a distinct image.

    Iteration ends when every image that is wanted has an outcome, and raises `EndpointError` or
    `StorageError` when the pass was stopped early; all that was reported or paid for is durable
    by then. An interruption (KeyboardInterrupt, a terminated run) can surface in the loop: call
    `drain`, and handle what it returns. Leaving the `with` block drains as well.
    """

    def __init__(self, run: "Callable[[Generation], Coroutine[Any, Any, None]]") -> None:
        self.totals = Totals()
        self.outcomes: dict[str, Outcome] = {}
        self.journal_ids: list[str] = []
        self._plan: Future[Plan] = Future()
        self._arrived: queue.SimpleQueue[Outcome | None] = queue.SimpleQueue()
        self._error: BaseException | None = None
        self._pass: Pass | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop_asked = False
        self._started_at = time.monotonic()
        self._known = 0
        self._thread = threading.Thread(
            target=self._run_loop, args=(run,), name="imagegen-pass", daemon=True
        )
        self._thread.start()

    # -- the caller's side ---------------------------------------------------------------------

    @property
    def plan(self) -> Plan:
        """What the pass will do; waits until the books are read. Raises what went wrong there."""
        return self._plan.result()

    @property
    def progress(self) -> Progress:
        """Where the pass stands now."""
        plan, totals = self.plan, self.totals
        done, total = len(self.outcomes), len(plan.jobs)
        made = done - self._known
        minutes = (time.monotonic() - self._started_at) / 60
        rate = made / minutes if made and minutes else None
        return Progress(
            done=done,
            total=total,
            in_flight=self._pass.in_flight if self._pass else 0,
            images_per_minute=rate,
            cost_usd=totals.cost_usd,
            list_price_usd=totals.list_price_usd,
            seconds_left=(total - done) / rate * 60 if rate else None,
            sandbox=plan.sandbox,
            unpriced=totals.unpriced,
        )

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Outcome:
        return self._next(self._arrived.get())

    def beats(self, every_seconds: float) -> Iterator[Outcome | None]:
        """Iterate, and get a None whenever nothing has come for so long: time for a line of log."""
        while True:
            try:
                arrived = self._arrived.get(timeout=every_seconds)
            except queue.Empty:
                yield None
                continue
            try:
                outcome = self._next(arrived)
            except StopIteration:
                return
            yield outcome

    def _next(self, outcome: Outcome | None) -> Outcome:
        if outcome is not None:
            return outcome
        self._arrived.put(None)  # For whoever asks again.
        self._thread.join()
        if self._error is not None:
            raise self._error
        raise StopIteration

    def drain(self) -> list[Outcome]:
        """Send nothing more, wait a bounded time for what is in flight, and publish.

        Returns the outcomes that were not yet iterated over. Raises nothing of the pass's own.
        """
        self._stop_asked = True
        if self._loop is not None and self._pass is not None:
            with contextlib.suppress(RuntimeError):  # The loop has ended by itself.
                self._loop.call_soon_threadsafe(self._pass.stop)
        self._thread.join()
        rest: list[Outcome] = []
        while (outcome := self._arrived.get()) is not None:
            rest.append(outcome)
        self._arrived.put(None)
        return rest

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.drain()

    # -- the thread's side ---------------------------------------------------------------------

    def begin(self, work: Pass, plan: Plan) -> None:
        """The books are read; from here on it can be stopped."""
        self._known = sum(job.known is not None for job in plan.jobs)
        self._started_at = time.monotonic()
        self._pass = work
        self._plan.set_result(plan)
        if self._stop_asked:
            work.stop()

    def report(self, outcome: Outcome) -> None:
        self.outcomes[outcome.fingerprint] = outcome
        self._arrived.put(outcome)

    def _run_loop(self, run: "Callable[[Generation], Coroutine[Any, Any, None]]") -> None:
        async def main() -> None:
            self._loop = asyncio.get_running_loop()
            await run(self)
            if self._pass is not None and self._pass.error is not None:
                raise self._pass.error

        try:
            asyncio.run(main())
        except BaseException as error:  # noqa: BLE001  # handed to the caller's thread
            self._error = error
            if not self._plan.done():
                self._plan.set_exception(error)
        finally:
            self._arrived.put(None)
