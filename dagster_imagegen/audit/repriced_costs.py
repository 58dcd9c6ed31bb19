"""What recorded requests would have cost at other prices, in sums beside what is on record."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, TypeAlias

import pyarrow as pa

from dagster_imagegen.audit.repricing import OF_SANDBOX
from dagster_imagegen.audit.scan import compute
from dagster_imagegen.engine.errors import ConfigurationError, did_you_mean
from dagster_imagegen.engine.record.schema import MONEY

REPRICED_DIMENSIONS = (
    *("day", "asset_key", "partition_key", "asset_group", "asset_owners", "asset_tags"),
    *("model", "status", "cost_basis"),
)
"""What repriced costs can be grouped by."""

_NOTHING = pa.scalar(Decimal(0), MONEY)

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

    def add(self, sums: Mapping[str, Any]) -> None:
        """Add the sums of some requests."""
        self.repriced_requests += sums["repriced_requests"] or 0
        self.recorded_usd += sums["recorded_usd"] or 0
        self.repriced_usd += sums["repriced_usd"] or 0
        self.other_requests += sums["other_requests"] or 0
        self.other_recorded_usd += sums["other_recorded_usd"] or 0


_SUMS = tuple(RepricedSum.__dataclass_fields__)


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
        for sums in _summed(batch, by):
            _add(costs, sums, by)
    return costs


def _summed(batch: pa.RecordBatch, by: Sequence[str]) -> list[dict[str, Any]]:
    """The sums of each combination of `by` and of the reason why there is only one cost."""
    recorded, repriced, reason = (
        batch[name] for name in ("recorded_usd", "repriced_usd", "not_repriced")
    )
    # Without a recorded cost there is nothing to compare with.
    both = compute.and_(recorded.is_valid(), repriced.is_valid())
    reason = compute.if_else(
        compute.or_(both, reason.is_valid()), reason, pa.scalar("no cost is on record")
    )
    keys = {name: _keys(batch, name) for name in by}
    columns: Any = {
        **{f"by_{name}": values for name, values in keys.items()},
        "reason": reason,
        "repriced_requests": compute.cast(both, pa.int64()),
        "recorded_usd": compute.if_else(both, recorded, _NOTHING),
        "repriced_usd": compute.if_else(both, repriced, _NOTHING),
        "other_requests": compute.cast(compute.invert(both), pa.int64()),
        "other_recorded_usd": compute.if_else(both, _NOTHING, recorded),
    }
    grouped: Any = pa.table(columns).group_by([*(f"by_{name}" for name in by), "reason"])
    sums = grouped.aggregate([(name, "sum") for name in _SUMS])
    names = [name.removesuffix("_sum") for name in sums.column_names]
    return sums.rename_columns(names).to_pylist()


def _keys(batch: pa.RecordBatch, name: str) -> Any:
    if name == "day":
        return compute.cast(batch["started_at"], pa.date32(), safe=False)
    return batch[name]


def _add(costs: RepricedCosts, sums: Mapping[str, Any], by: Sequence[str]) -> None:
    reason = sums["reason"]
    if reason == OF_SANDBOX:
        costs.sandbox_requests += sums["other_requests"]
        return
    costs.total.add(sums)
    costs.groups.setdefault(tuple(sums[f"by_{name}"] for name in by), RepricedSum()).add(sums)
    if reason is not None:
        costs.reasons.setdefault(reason, RepricedSum()).add(sums)
