"""One image: requested again until it has an outcome, within the budget."""

import asyncio
from collections import Counter
from decimal import Decimal

from dagster_imagegen.engine.attempt import Outcome
from dagster_imagegen.engine.endpoint.kinds import FailureKind
from dagster_imagegen.engine.errors import BudgetExhausted
from dagster_imagegen.engine.money.budget import Allowance
from dagster_imagegen.engine.pacing.pacer import PauseTooLong
from dagster_imagegen.engine.run.context import PassContext
from dagster_imagegen.engine.run.plan import Job
from dagster_imagegen.engine.run.sender import Sender, Sent
from dagster_imagegen.engine.run.verdict import Unresolved


class AttemptLoop:
    """Brings one image after the other to its outcome. `allowance` is None without a budget."""

    def __init__(
        self, context: PassContext, sender: Sender, *, allowance: Allowance | None
    ) -> None:
        self._context = context
        self._sender = sender
        self._allowance = allowance

    async def produce(self, job: Job) -> Outcome | None:
        """Request an image until there is an outcome. None: the pass stops before there is one."""
        context = self._context
        failed: Counter[FailureKind] = Counter()
        unresolved = job.unresolved
        number = 0
        while True:
            number += 1
            try:
                sent = await self._attempt(job, number=number, unresolved=unresolved)
            except PauseTooLong as pause:
                return _deferred(job, "wait_too_long", context.retry.too_long(pause.seconds))
            if not isinstance(sent, Sent):
                return sent
            outcome, failure = Outcome.of(sent.attempt), sent.failure
            if failure is None:
                return outcome
            failed[failure.kind] += 1
            unresolved = sent.unresolved
            if failure.kind.rules.only_if_allowed:
                unresolved = unresolved.one_more()
            wait = context.retry.wait_before_next(
                failure,
                failed=failed,
                random=context.rng,
                may_resend_unknown=context.retry.resend_unknown or unresolved.may_resend,
            )
            if error := failure.error_that_ends_run(
                f"{job.request.endpoint_id}, model {job.request.model!r}",
                out_of_tries=wait is None,
                with_message=context.record_prompts,
            ):
                context.stop.fail(error)
                return outcome
            if wait is None:
                return outcome
            if context.stop.is_set():
                return None
            await asyncio.sleep(wait)

    async def _attempt(
        self, job: Job, *, number: int, unresolved: Unresolved
    ) -> Sent | Outcome | None:
        """One request within the budget; or the outcome without one."""
        reserved_usd = job.worst_case.usd or Decimal(0)
        if self._allowance is not None and not await self._allowance.reserve(reserved_usd):
            return self._beyond_the_budget(job, reserved_usd, self._allowance)
        spent_usd: Decimal | None = Decimal(0)
        try:
            claimed = await self._sender.claim(job, number=number, unresolved=unresolved)
            if isinstance(claimed, Outcome):
                return claimed
            spent_usd = None
            sent = await self._sender.send(job, claimed)
            spent_usd = sent.list_price_usd
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
