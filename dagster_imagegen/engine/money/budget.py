"""A budget: how much may be spent, in which time and by whom, and what one pass has left of it."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal, TypeAlias

from dagster_imagegen.engine.attempt import Identity

Per: TypeAlias = Literal["run", "day", "month", "all"]
Scope: TypeAlias = Literal["asset", "storage"]
WhenExhausted: TypeAlias = Literal["fail", "defer"]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The most that may be spent.

    `per` run means one root run, its retries included; days and months are UTC's. `scope` asset
    counts the rows of the asset that sends, storage every row of the usage table. `strict` counts
    each request at the most that may have been charged, instead of what was as far as anybody can
    tell.
    """

    max_usd: Decimal
    per: Per = "run"
    scope: Scope = "asset"
    when_exhausted: WhenExhausted = "fail"
    strict: bool = False

    def counts(self, identity: Identity, other: Identity) -> bool:
        """Whether what `other` spends now counts against what `identity` may spend."""
        if self.scope == "asset" and identity.asset_key != other.asset_key:
            return False
        return self.per != "run" or identity.root_run_id == other.root_run_id

    def begins(self, now: datetime) -> datetime | None:
        """The time from which rows count; None where all rows do, or those of one run."""
        if self.per not in ("day", "month"):
            return None
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        return midnight if self.per == "day" else midnight.replace(day=1)


def budgets_of(budget: Budget | None, *, max_usd: Decimal | None) -> tuple[Budget, ...]:
    """The budgets of one run: the configured one, and `max_usd` for the run alone."""
    own = () if budget is None else (budget,)
    if max_usd is None:
        return own
    when_exhausted = "fail" if budget is None else budget.when_exhausted
    return (*own, Budget(max_usd=max_usd, when_exhausted=when_exhausted))


class Allowance:
    """What one pass may still spend. Each request's worst case is reserved before it is sent and
    settled after it, so that no number of requests in flight overspends.

    Args:
        allowed_usd: what is granted at first.
        grow: asks for an allowance, in all, and returns what is granted, never less than before.
    """

    def __init__(
        self, *, allowed_usd: Decimal, grow: Callable[[Decimal], Awaitable[Decimal]]
    ) -> None:
        self._allowed = allowed_usd
        self._taken = Decimal(0)
        """What is spent for good, and what is reserved."""
        self._reserved: list[Decimal] = []
        self._grow = grow
        self._growing = asyncio.Lock()
        self._refused: Decimal | None = None
        self._changed = asyncio.Event()

    @property
    def left_usd(self) -> Decimal:
        """What is neither spent nor reserved."""
        return self._allowed - self._taken

    @property
    def spent_usd(self) -> Decimal:
        """What is spent for good."""
        return self._taken - sum(self._reserved)

    async def reserve(self, worst_case_usd: Decimal) -> bool:
        """Reserve a worst case, waiting while requests in flight may leave enough of theirs.

        False: there is not enough, whatever they leave.
        """
        while self._taken + worst_case_usd > self._allowed:
            settled = self._taken - sum(self._reserved)
            if settled + worst_case_usd <= self._allowed:
                self._changed.clear()
                await self._changed.wait()
            elif not await self._has_grown(worst_case_usd):
                return False
        self._taken += worst_case_usd
        self._reserved.append(worst_case_usd)
        return True

    def settle(self, worst_case_usd: Decimal, cost_usd: Decimal | None) -> None:
        """Give back what a request did not cost; nothing where its cost is unknown."""
        self._reserved.remove(worst_case_usd)
        if cost_usd is not None:
            self._taken += cost_usd - worst_case_usd
        self._changed.set()

    async def _has_grown(self, amount: Decimal) -> bool:
        before = self._allowed
        async with self._growing:
            if self._allowed > before:
                return True
            if self._refused is not None and amount >= self._refused:
                return False  # Each question is a commit and a read of all that is on record.
            self._allowed = await self._grow(self._taken + amount)
            if self._allowed == before:
                self._refused = amount
        return self._allowed > before
