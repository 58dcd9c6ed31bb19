"""One image: requested again until it has an outcome, within the budget."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal

from dagster_imagegen.engine.attempt import Outcome
from dagster_imagegen.engine.endpoint.failures import Failure
from dagster_imagegen.engine.endpoint.kinds import FailureKind
from dagster_imagegen.engine.errors import BudgetExhausted
from dagster_imagegen.engine.money.amounts import usd_text
from dagster_imagegen.engine.money.budget import Allowance
from dagster_imagegen.engine.pacing.pacer import PauseTooLong
from dagster_imagegen.engine.run.breaker import RATE_LIMITED, Streak
from dagster_imagegen.engine.run.context import PassContext
from dagster_imagegen.engine.run.gate import Turn
from dagster_imagegen.engine.run.jobs import Job
from dagster_imagegen.engine.run.sender import Sender, SendingPaused, Sent
from dagster_imagegen.engine.run.verdict import Unresolved


@dataclass(eq=False, kw_only=True, slots=True)
class Wanted:
    """An image that is to be requested, and what its requests in this pass have come to.

    `requests` is how many were sent, `failed_probes` how many of them failed while only probes
    were. `unresolved` are those that may have been paid for. `latest` is what it comes to if it is
    given up. `place` is that of its job in the plan.
    """

    place: int
    job: Job
    unresolved: Unresolved
    requests: int = 0
    failed_probes: int = 0
    latest: Outcome | None = None
    _failures: list[tuple[FailureKind, Streak | None]] = field(
        default_factory=list[tuple[FailureKind, Streak | None]]
    )

    def failed(self, failure: Failure, streak: Streak | None) -> None:
        """Note a failure."""
        self._failures.append((failure.kind, streak))

    @property
    def tries(self) -> Counter[FailureKind]:
        """How often it has failed, by kind. What fails in outages counts once, however often.

        That it was an outage may have shown after the failure.
        """
        outages = {kind for kind, streak in self._failures if streak and streak.is_outage}
        own = [kind for kind, streak in self._failures if not (streak and streak.is_outage)]
        return Counter(own) + Counter(outages)


class AttemptLoop:
    """Brings one image after the other to its outcome. `allowance` is None without a budget."""

    def __init__(
        self, context: PassContext, sender: Sender, *, allowance: Allowance | None
    ) -> None:
        self._context = context
        self._sender = sender
        self._allowance = allowance
        self.at_work = 0
        """How many images are requested, or wait for their next try."""

    async def produce(self, wanted: Wanted, turn: Turn) -> Outcome | None:
        """Request an image until there is an outcome; `turn` is for the first request.

        None: sending has paused, so that the image has to wait, or the pass stops.
        """
        self.at_work += 1
        try:
            return await self._produce(wanted, turn)
        finally:
            self.at_work -= 1

    async def _produce(self, wanted: Wanted, turn: Turn) -> Outcome | None:
        context = self._context
        while True:
            try:
                sent = await self._attempt(wanted, turn)
            except SendingPaused:
                return None
            except PauseTooLong as pause:
                reason = context.retry.too_long(pause.seconds)
                return _deferred(wanted.job, "wait_too_long", reason)
            if not isinstance(sent, Sent):
                return sent
            wanted.requests += 1
            outcome = Outcome.of(sent.attempt)
            if sent.failure is None:
                return outcome
            wait = await self._wait_after(wanted, sent, sent.failure)
            if wait is None:
                return outcome
            wanted.latest = outcome
            wanted.failed_probes += turn.is_probe and sent.failure.kind is not RATE_LIMITED
            if not (context.stop.is_set() or context.gate.is_paused):
                await asyncio.sleep(wait)
            if context.stop.is_set() or context.gate.is_paused:
                return None
            turn = Turn()

    async def _wait_after(self, wanted: Wanted, sent: Sent, failure: Failure) -> float | None:
        """How long to wait before the next request; None: not in this run."""
        wanted.failed(failure, sent.streak)
        wanted.unresolved = sent.unresolved
        once = failure.kind.rules.only_if_allowed
        in_outage = sent.streak is not None and sent.streak.is_outage
        if (
            sent.streak is not None
            and failure.is_outage
            and (once or self._wait(wanted, failure) is None)
        ):
            in_outage = await self._context.breaker.is_outage(
                sent.streak, others_at_work=lambda: self.at_work > 1
            )
        if once:
            # In an outage many answers are lost at once. Waiting for a later run to send them
            # again would pay no less.
            wanted.unresolved = wanted.unresolved.one_more(of_another_run=in_outage)
        return self._wait(wanted, failure)

    def _wait(self, wanted: Wanted, failure: Failure) -> float | None:
        retry = self._context.retry
        return retry.wait_before_next(
            failure,
            failed=wanted.tries,
            random=self._context.rng,
            may_resend_unknown=retry.resend_unknown or wanted.unresolved.may_resend,
        )

    async def _attempt(self, wanted: Wanted, turn: Turn) -> Sent | Outcome | None:
        """One request within the budget; or the outcome without one."""
        sent = None
        try:
            sent = await self._within_budget(wanted, turn)
            return sent
        finally:
            if not isinstance(sent, Sent):
                self._context.gate.give_up(turn)

    async def _within_budget(self, wanted: Wanted, turn: Turn) -> Sent | Outcome | None:
        job = wanted.job
        reserved_usd = job.worst_case.usd or Decimal(0)
        if self._allowance is not None and not await self._allowance.reserve(reserved_usd):
            return self._beyond_the_budget(job, reserved_usd, self._allowance)
        spent_usd: Decimal | None = Decimal(0)
        try:
            claimed = await self._sender.claim(
                job, turn, number=wanted.requests + 1, unresolved=wanted.unresolved
            )
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
            f"the budget has {usd_text(max(allowance.left_usd, Decimal(0)))} left, and another "
            f"request of this kind can cost {usd_text(reserved_usd)}"
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
