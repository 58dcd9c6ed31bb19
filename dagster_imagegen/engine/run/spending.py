"""What counts against a budget of all that is on record."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc

from dagster_imagegen.engine.attempt import Attempt, Identity
from dagster_imagegen.engine.money.budget import Budget
from dagster_imagegen.engine.record import Record
from dagster_imagegen.engine.record.index import BUDGET_COLUMNS
from dagster_imagegen.engine.record.parts import bound_usd, read_rows
from dagster_imagegen.engine.record.schema import TIME
from dagster_imagegen.engine.storage import Storage


class Spending:
    """What counts against budgets in the parts of `storage`. What it has read of one it keeps."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._read: set[str] = set()
        self._published = self._read_rows((), ())

    def remaining_usd(
        self, budgets: Sequence[Budget], record: Record, identity: Identity, *, now: datetime
    ) -> Decimal:
        """What the tightest of the budgets has left for `identity`."""
        return min(
            budget.max_usd - self._spent_usd(budget, record, identity, now=now)
            for budget in budgets
        )

    def _spent_usd(
        self, budget: Budget, record: Record, identity: Identity, *, now: datetime
    ) -> Decimal:
        """Others' reservations included. Unknown costs, and what is under way, count at their
        bound.

        A reservation is what its pass leaves of it if its own budget is not strict: for a strict
        one, what others have under way counts a little more than it can cost.
        """
        begins = budget.begins(now)
        table = self._rows(record)
        if budget.scope == "asset":
            table = table.filter(_is("asset_key", identity.asset_key))
        if budget.per == "run":
            table = table.filter(_is("root_run_id", identity.root_run_id))
        if begins is not None:
            table = table.filter(pc.field("started_at") >= pa.scalar(begins, TIME))
        reserved = (r.usd for r in record.reservations if budget.counts(identity, r.identity))
        return bound_usd(table, strict=budget.strict) + sum(reserved, Decimal(0))

    def _rows(self, record: Record) -> pa.Table:
        """Of parts, of unpublished attempts, and of what the index covers, in sums."""
        if not self._read.issubset(record.parts):
            # The index has come to cover some of them, and a part must not count twice.
            self._read.clear()
            self._published = self._published.slice(0, 0)
        new = [path for path in record.parts if path not in self._read]
        self._read.update(new)
        self._published = pa.concat_tables([self._published, self._read_rows(new, ())])
        under_way = self._read_rows((), record.open_attempts)
        covered = record.sums().select(BUDGET_COLUMNS)
        return pa.concat_tables([self._published, under_way, covered])

    def _read_rows(self, parts: Sequence[str], attempts: Sequence[Attempt]) -> pa.Table:
        return read_rows(parts, attempts, storage=self._storage, columns=BUDGET_COLUMNS)


def _is(column: str, value: str | None) -> pc.Expression:
    return pc.field(column).is_null() if value is None else pc.field(column) == value
