"""What recorded requests would have cost at other prices, in sums beside what is on record."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timezone
from decimal import Decimal
from typing import Any, TypeAlias

import pyarrow as pa

from dagster_imagegen.audit.repricing import OF_SANDBOX
from dagster_imagegen.engine.errors import ConfigurationError, did_you_mean

REPRICED_DIMENSIONS = (
    *("day", "asset_key", "partition_key", "asset_group", "asset_owners", "asset_tags"),
    *("model", "status", "cost_basis"),
)
"""What repriced costs can be grouped by."""

Group: TypeAlias = tuple[object, ...]


@dataclass(kw_only=True)
class RepricedSum:
    """Both costs of the requests that could be repriced, and apart from them the recorded cost of
    those that could not: the two are of the same requests, so that they can be compared."""

    repriced_requests: int = 0
    recorded_usd: Decimal = Decimal(0)
    repriced_usd: Decimal = Decimal(0)
    other_requests: int = 0
    other_recorded_usd: Decimal = Decimal(0)

    @property
    def difference_usd(self) -> Decimal:
        """The repriced cost less the recorded one."""
        return self.repriced_usd - self.recorded_usd

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a row of `REPRICED`."""
        recorded = row["recorded_usd"]
        # Without a recorded cost there is nothing to compare with.
        if row["repriced_usd"] is None or recorded is None:
            self.other_requests += 1
            self.other_recorded_usd += recorded or 0
            return
        self.repriced_requests += 1
        self.recorded_usd += recorded
        self.repriced_usd += row["repriced_usd"]


@dataclass(kw_only=True)
class RepricedCosts:
    """Sums of both costs by group, in all, and the requests that have only one by its reason."""

    total: RepricedSum = field(default_factory=RepricedSum)
    groups: dict[Group, RepricedSum] = field(default_factory=dict[Group, RepricedSum])
    reasons: dict[str, RepricedSum] = field(default_factory=dict[str, RepricedSum])
    sandbox_requests: int = 0


def check_repriced_by(by: Sequence[str]) -> None:
    """Raise `ConfigurationError` for a name that repriced costs cannot be grouped by."""
    for name in by:
        if name not in REPRICED_DIMENSIONS:
            raise ConfigurationError(
                f'repriced costs cannot be grouped by "{name}"; they can be by '
                f"{', '.join(REPRICED_DIMENSIONS)}{did_you_mean(name, REPRICED_DIMENSIONS)}"
            )


def repriced_costs(batches: Iterable[pa.RecordBatch], *, by: Sequence[str]) -> RepricedCosts:
    """Sums of the batches of `reprice`. Requests to the sandbox are counted, and in no sum."""
    check_repriced_by(by)
    costs = RepricedCosts()
    for batch in batches:
        for row in batch.to_pylist():
            _add(costs, row, by)
    return costs


def _add(costs: RepricedCosts, row: Mapping[str, Any], by: Sequence[str]) -> None:
    reason = row["not_repriced"]
    if reason == OF_SANDBOX:
        costs.sandbox_requests += 1
        return
    if reason is None and row["recorded_usd"] is None:
        reason = "no cost is on record"
    costs.total.add(row)
    costs.groups.setdefault(tuple(_key(row, name) for name in by), RepricedSum()).add(row)
    if reason is not None:
        costs.reasons.setdefault(reason, RepricedSum()).add(row)


def _key(row: Mapping[str, Any], name: str) -> object:
    if name == "day":
        return row["started_at"].astimezone(timezone.utc).date()
    return row[name]
