"""How much may be spent: a budget, what of it is spent already, and what this pass has left.

Money is reserved at the worst case before a request and settled after it, so that no number of
requests in flight oversteps. Between writers the same is done with whole passes: each journal
says in a `reserve` record what its pass may spend (ledger.py).
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Literal, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from dagster_imagegen.engine.journal import Identity
from dagster_imagegen.engine.ledger import Books
from dagster_imagegen.engine.storage import Storage
from dagster_imagegen.engine.usage import MONEY, TIME, open_parts, part_day, to_table

Per: TypeAlias = Literal["run", "day", "month", "all"]
Scope: TypeAlias = Literal["asset", "storage"]
WhenExhausted: TypeAlias = Literal["fail", "defer"]

_COLUMNS = ("asset_key", "root_run_id", "started_at", "cost_usd", "worst_case_usd")


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The most that may be spent, in which time and by whom.

    `run` means one root run, retries of it included; days and months are UTC's. `asset` counts
    the rows of the asset that asks, `storage` every row of the usage table.
    """

    max_usd: Decimal
    per: Per = "run"
    scope: Scope = "asset"
    when_exhausted: WhenExhausted = "fail"

    def counts(self, identity: Identity, other: Identity) -> bool:
        """Whether what `other` spends now counts against what `identity` may."""
        if self.scope == "asset" and identity.asset_key != other.asset_key:
            return False
        return self.per != "run" or identity.root_run_id == other.root_run_id

    def begins(self, now: datetime) -> datetime | None:
        """Since when rows count; None: since ever (or by run)."""
        if self.per not in ("day", "month"):
            return None
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        return midnight if self.per == "day" else midnight.replace(day=1)

    def spent(
        self, books: Books, identity: Identity, *, storage: Storage, now: datetime
    ) -> Decimal:
        """What counts against it of all that is on record, reservations of others included.

        What nobody can tell the cost of, and what is under way, counts at the worst case.
        """
        begins = self.begins(now)
        rows = [to_table(books.open_rows).select(_COLUMNS)]
        # A journal opened before midnight can hold rows of the next day, for a few minutes.
        oldest = None if begins is None else (begins - timedelta(days=1)).date()
        parts = [part for part in books.parts if oldest is None or part_day(part) >= oldest]
        if parts:
            paths = [storage.full_path(part) for part in parts]
            rows.append(open_parts(paths, filesystem=storage.filesystem).to_table(list(_COLUMNS)))
        table = pa.concat_tables(rows)
        if self.scope == "asset":
            table = table.filter(_is("asset_key", identity.asset_key))
        if self.per == "run":
            table = table.filter(_is("root_run_id", identity.root_run_id))
        if begins is not None:
            table = table.filter(pc.field("started_at") >= pa.scalar(begins, TIME))
        cost = pc.coalesce(table["cost_usd"], table["worst_case_usd"], pa.scalar(Decimal(0), MONEY))
        reserved = (r.usd for r in books.reservations if self.counts(identity, r.identity))
        return (pc.sum(cost).as_py() or Decimal(0)) + sum(reserved, Decimal(0))


def _is(column: str, value: str | None) -> pc.Expression:
    return pc.field(column).is_null() if value is None else pc.field(column) == value


class Purse:
    """What one pass may still spend.

    `grow` asks for an allowance, in all, and returns what is granted, which is never less than it
    was. Without a budget there is no purse.
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

    async def reserve(self, worst_case_usd: Decimal) -> bool:
        """Set the worst case aside, waiting while requests in flight may leave enough of theirs.

        False: there is not enough, whatever becomes of them.
        """
        while self._taken + worst_case_usd > self._allowed:
            settled = self._taken - sum(self._reserved)
            if settled + worst_case_usd > self._allowed:
                if not await self._has_grown(worst_case_usd):
                    return False
                continue
            self._changed.clear()
            await self._changed.wait()
        self._taken += worst_case_usd
        self._reserved.append(worst_case_usd)
        return True

    def settle(self, worst_case_usd: Decimal, cost_usd: Decimal | None) -> None:
        """Give back what a request did not cost; nothing where nobody can tell what it did."""
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
                return False  # Each question is a commit and a look at all that is on record.
            self._allowed = await self._grow(self._taken + amount)
            if self._allowed == before:
                self._refused = amount
        return self._allowed > before
