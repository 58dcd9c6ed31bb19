"""Rows of a cost table as bars of a chart."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dagster_imagegen.audit.charts import Bar
from dagster_imagegen.audit.cost_table import CAUSES, KEPT, summed

DAYS_MAX = 62
"""More days than this are drawn as months."""
ROWS_MAX = 12

NOTHING = "(none)"
CAUSE_NAMES = {
    "refused": "refused",
    "failed": "failed",
    "unknown": "outcome unknown",
    "retried": "made again later",
    "replaced": "replaced by a revision",
}


def money(costs: pa.Table) -> pa.Table:
    """The rows of a cost table that are no sandbox's."""
    return costs.filter(~pc.field("sandbox"))


def ranked(costs: pa.Table, by: str) -> list[dict[str, Any]]:
    """The sums by one column, the most expensive first."""
    rows = summed(costs, [by]).to_pylist()
    return sorted(rows, key=lambda row: (-row["cost_usd_max"], -row["requests"], str(row[by])))


def bars_by(costs: pa.Table, by: str) -> list[Bar]:
    """The most expensive values of a column, and the rest as one bar."""
    rows = ranked(costs, by)
    bars = [_bar(_label(row[by]), [row]) for row in rows[:ROWS_MAX]]
    if rest := rows[ROWS_MAX:]:
        bars.append(_bar(f"{len(rest):,} more", rest))
    return bars


def bars_by_time(costs: pa.Table) -> list[Bar]:
    """A bar for each day that has requests, or for each month of a long time."""
    rows = summed(costs, ["day"]).to_pylist()
    days: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        text = _label(row["day"])
        days.setdefault(text if len(rows) <= DAYS_MAX else text[:7], []).append(row)
    return [_bar(label, of_day) for label, of_day in days.items()]


def bars_of_waste(costs: pa.Table) -> list[Bar]:
    """A bar for each cause of waste that there is."""
    rows = {row["cause"]: row for row in summed(costs, ["cause"]).to_pylist()}
    found = [cause for cause in CAUSES if cause != KEPT and cause in rows]
    return [_bar(CAUSE_NAMES[cause], [rows[cause]]) for cause in found]


def _label(value: object) -> str:
    return NOTHING if value is None else str(value)


def _bar(label: str, rows: Sequence[dict[str, Any]]) -> Bar:
    def total(name: str) -> Decimal:
        return sum((row[name] or Decimal(0) for row in rows), Decimal(0))

    waste = total("waste_usd")
    return Bar(
        label=label,
        kept_usd=total("cost_usd") - waste,
        waste_usd=waste,
        most_usd=total("cost_usd_max"),
    )
