"""What counts against a budget of all that is on record."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc

from dagster_imagegen.engine.attempt import Identity
from dagster_imagegen.engine.money.budget import Budget
from dagster_imagegen.engine.record import Record
from dagster_imagegen.engine.record.parts import BOUND_COLUMNS, bound_usd, part_day, read_rows
from dagster_imagegen.engine.record.schema import TIME
from dagster_imagegen.engine.storage import Storage

_COLUMNS = ("asset_key", "root_run_id", "started_at", *BOUND_COLUMNS)


def remaining_usd(
    budgets: Sequence[Budget],
    record: Record,
    identity: Identity,
    *,
    storage: Storage,
    now: datetime,
) -> Decimal:
    """What the tightest of the budgets has left for `identity`; `storage` holds the parts."""
    return min(
        budget.max_usd - _spent_usd(budget, record, identity, storage=storage, now=now)
        for budget in budgets
    )


def _spent_usd(
    budget: Budget, record: Record, identity: Identity, *, storage: Storage, now: datetime
) -> Decimal:
    """Others' reservations included. Unknown costs, and what is under way, count at their bound.

    A reservation is what its pass leaves of it if its own budget is not strict: for a strict one,
    what others have under way counts a little more than it can cost.
    """
    begins = budget.begins(now)
    # A journal opened before midnight can hold rows of the next day, for a few minutes.
    oldest = None if begins is None else (begins - timedelta(days=1)).date()
    parts = [part for part in record.parts if oldest is None or part_day(part) >= oldest]
    table = read_rows(parts, record.open_attempts, storage=storage, columns=_COLUMNS)
    if budget.scope == "asset":
        table = table.filter(_is("asset_key", identity.asset_key))
    if budget.per == "run":
        table = table.filter(_is("root_run_id", identity.root_run_id))
    if begins is not None:
        table = table.filter(pc.field("started_at") >= pa.scalar(begins, TIME))
    reserved = (r.usd for r in record.reservations if budget.counts(identity, r.identity))
    return bound_usd(table, strict=budget.strict) + sum(reserved, Decimal(0))


def _is(column: str, value: str | None) -> pc.Expression:
    return pc.field(column).is_null() if value is None else pc.field(column) == value
