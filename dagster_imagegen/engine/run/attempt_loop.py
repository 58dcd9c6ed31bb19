"""One image: requested again until it has an outcome, within the budget."""

import asyncio
from collections import Counter
from decimal import Decimal

from dagster_imagegen.engine.attempt import Outcome
from dagster_imagegen.engine.endpoint.kinds import FailureKind
from dagster_imagegen.engine.errors import BudgetExhausted
from dagster_imagegen.engine.money.budget import Allowance
from dagster_imagegen.engine.pacing.pacer import PauseTooLong
from dagster_imagegen.engine.run.breaker import Turn
from dagster_imagegen.engine.run.context import PassContext
from dagster_imagegen.engine.run.plan import Job
from dagster_imagegen.engine.run.sender import Sender, SendingPaused, Sent
from dagster_imagegen.engine.run.verdict import Unresolved


class AttemptLoop:
    """Brings one image after the other to its outcome. `allowance` is None without a budget."""

    def __init__(
        self, context: PassContext, sender: Sender, *, allowance: Allowance | None
    ) -> None:
        self._context = context
        self._sender = sender
        self._allowance = allowance
        self._at_work = 0

    async def produce(self, job: Job, turn: Turn) -> Outcome | None:
        """Request an image until there is an outcome. None: the pass stops before there is one.

        `turn` is for the first request. Raises `SendingPaused` if it is no longer good by then.
        """
        self._at_work += 1
        try:
            return await self._produce(job, turn)
        finally:
            self._at_work -= 1

    async def _produce(self, job: Job, turn: Turn) -> Outcome | None:
        context = self._context
        failed: Counter[FailureKind] = Counter()
        unresolved = job.unresolved
        number = 0
        while True:
            number += 1
            try:
                sent = await self._attempt(job, turn, number=number, unresolved=unresolved)
            except SendingPaused:
                if number == 1:
                    raise
                number -= 1
                turn = await context.breaker.admit(spare=unresolved.count > 0)
                continue
            except PauseTooLong as pause:
                return _deferred(job, "wait_too_long", context.retry.too_long(pause.seconds))
            if not isinstance(sent, Sent):
                return sent
            outcome, failure = Outcome.of(sent.attempt), sent.failure
            if failure is None:
                return outcome
            outage = await self._is_outage(sent)
            if not (outage and failed[failure.kind]):  # However often, in an outage it counts once.
                failed[failure.kind] += 1
            unresolved = sent.unresolved
            if failure.kind.rules.only_if_allowed:
                # In an outage many answers are lost at once. Waiting for a later run to send them
                # again would pay no less.
                unresolved = unresolved.one_more(of_another_run=outage)
            wait = context.retry.wait_before_next(
                failure,
                failed=failed,
                random=context.rng,
                may_resend_unknown=context.retry.resend_unknown or unresolved.may_resend,
            )
            if wait is None:
                return outcome
            if context.stop.is_set():
                return None
            await asyncio.sleep(wait)
            turn = await context.breaker.admit(spare=unresolved.count > 0)

    async def _is_outage(self, sent: Sent) -> bool:
        """Whether it failed in an outage, and not for a reason of its own."""
        if sent.streak is None or sent.failure is None:
            return False
        if not (sent.failure.kind.rules.only_if_allowed and sent.failure.is_outage):
            return sent.streak.is_outage
        return await self._context.breaker.is_outage(
            sent.streak, others_at_work=lambda: self._at_work > 1
        )

    async def _attempt(
        self, job: Job, turn: Turn, *, number: int, unresolved: Unresolved
    ) -> Sent | Outcome | None:
        """One request within the budget; or the outcome without one."""
        sent = None
        try:
            sent = await self._within_budget(job, turn, number=number, unresolved=unresolved)
            return sent
        finally:
            if not isinstance(sent, Sent):
                self._context.breaker.give_up(turn)

    async def _within_budget(
        self, job: Job, turn: Turn, *, number: int, unresolved: Unresolved
    ) -> Sent | Outcome | None:
        reserved_usd = job.worst_case.usd or Decimal(0)
        if self._allowance is not None and not await self._allowance.reserve(reserved_usd):
            return self._beyond_the_budget(job, reserved_usd, self._allowance)
        spent_usd: Decimal | None = Decimal(0)
        try:
            claimed = await self._sender.claim(job, turn, number=number, unresolved=unresolved)
            if isinstance(claimed, Outcome):
                return claimed
            spent_usd = None
            sent = await self._sender.send(job, claimed)
            price = sent.list_price
            spent_usd = price.most_usd if self._context.strict else price.usd
            return sent
        finally:
            if self._allowance is not None:
                self._allowance.settle(reserved_usd, spent_usd)

    def _beyond_the_budget(
        self, job: Job, reserved_usd: Decimal, allowance: Allowance
    ) -> Outcome | None:
        message = (
            f"the budget has ${max(allowance.left_usd, Decimal(0)):,.4f} left, and another request "
            f"of this kind can cost ${reserved_usd:,.4f}"
        )
        if self._context.defers:
            return _deferred(job, "budget_exhausted", message)
        self._context.stop.fail(
            BudgetExhausted(
                f"{message}. What was made is saved; raise the max_usd of the budget or of this "
                "run, or run again when the budget's period is over. "
                "budget.when_exhausted='defer' leaves the rest to a later run without failing"
            )
        )
        return None


def _deferred(job: Job, code: str, message: str | None) -> Outcome:
    """Left to a later run, and not sent in this one, or not again."""
    return Outcome(
        fingerprint=job.request.fingerprint,
        status="deferred",
        error_code=code,
        error_message=message,
    )
