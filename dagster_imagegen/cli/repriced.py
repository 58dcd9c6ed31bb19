"""The bill at other prices: what `usage --prices` prints and writes."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow.compute as pc

from dagster_imagegen.audit.repriced_costs import (
    RepricedCosts,
    RepricedSum,
    check_repriced_by,
    repriced_costs,
)
from dagster_imagegen.audit.repricing import REPRICED, reprice
from dagster_imagegen.audit.table_files import write_batches
from dagster_imagegen.cli.output import Report, Table
from dagster_imagegen.engine.engine import Engine
from dagster_imagegen.engine.money.price_list import PriceList

_FIGURES = (
    "repriced_requests",
    "recorded_usd",
    "repriced_usd",
    "difference_usd",
    "other_requests",
    "other_recorded_usd",
)
_REASON = ("reason", "other_requests", "other_recorded_usd")


def repriced_report(
    engine: Engine, prices: PriceList, *, by: Sequence[str], where: pc.Expression | None
) -> Report:
    """Recorded and repriced cost side by side, grouped."""
    check_repriced_by(by)
    costs = engine.usage.scan(
        lambda usage: repriced_costs(reprice(usage, prices, where=where), by=by)
    )
    facts = {**_named(costs.total), "sandbox_requests": costs.sandbox_requests}
    rows = [
        [*group, *_named(each).values()]
        for group, each in sorted(costs.groups.items(), key=lambda it: [str(k) for k in it[0]])
    ]
    usage = Table(name="usage", columns=(*by, *_FIGURES), rows=rows)
    return Report(facts=facts, tables=[usage, _reasons(costs)])


def write_repriced(
    engine: Engine, prices: PriceList, path: Path, *, where: pc.Expression | None
) -> None:
    """Write each request with both costs."""
    engine.usage.scan(
        lambda usage: write_batches(path, REPRICED, reprice(usage, prices, where=where))
    )


def _reasons(costs: RepricedCosts) -> Table:
    rows = [
        [reason, each.other_requests, each.other_recorded_usd]
        for reason, each in sorted(costs.reasons.items())
    ]
    return Table(name="not_repriced", columns=_REASON, rows=rows)


def _named(costs: RepricedSum) -> Mapping[str, object]:
    return {name: getattr(costs, name) for name in _FIGURES}
