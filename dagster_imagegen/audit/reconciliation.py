"""The usage table against what a provider says that it has charged."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from dagster_imagegen.audit.provider_export import FIGURES, Figure, Group, ProviderExport
from dagster_imagegen.audit.scan import encoded_batches, sums_by
from dagster_imagegen.engine.attempt import SANDBOX

if TYPE_CHECKING:
    import pyarrow.dataset as ds  # loads pandas, if it is there

Verdict: TypeAlias = Literal["matched", "may_be_unknown", "different", "ours_only", "theirs_only"]
"""`may_be_unknown`: the figures differ, and requests of unknown billing can be the reason."""

COLUMNS = (
    "attempt_id",
    "prompt_id",
    "asset_key",
    "model",
    "status",
    "billing",
    "started_at",
    "total_tokens",
    "cost_usd",
    "cost_usd_max",
)
NOTHING = Decimal(0)
compute: Any = pc
"""pyarrow's stubs know no arrays beside scalars."""


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """How far two figures of one day and model may be apart and still match: the larger of an
    amount and a share of the provider's figure."""

    usd: Decimal = Decimal("0.01")
    count: Decimal = NOTHING
    share: Decimal = NOTHING

    def of(self, figure: Figure, theirs: Decimal) -> Decimal:
        """The tolerance of one figure."""
        return max(self.usd if figure == "cost_usd" else self.count, self.share * abs(theirs))


@dataclass(kw_only=True)
class Bounds:
    """One figure of ours, the least that it can be, and the most; `unbounded` has no most."""

    ours: Decimal = NOTHING
    least: Decimal = NOTHING
    most: Decimal = NOTHING
    unbounded: bool = False

    def add(self, ours: Decimal, *, least: Decimal, most: Decimal | None) -> None:
        """Add one request. Without `most` it has no bound."""
        self.ours += ours
        self.least += least
        self.most += ours if most is None else most
        self.unbounded = self.unbounded or most is None

    def covers(self, theirs: Decimal, tolerance: Decimal) -> bool:
        """Whether the requests of unknown billing can make it the provider's figure."""
        return self.least - tolerance <= theirs and (
            self.unbounded or theirs <= self.most + tolerance
        )


@dataclass(frozen=True, kw_only=True)
class Line:
    """One figure of one UTC day and model. `most` is None if it has no upper bound."""

    day: date
    model: str
    figure: Figure
    ours: Decimal
    theirs: Decimal
    least: Decimal
    most: Decimal | None
    unknown_requests: int
    verdict: Verdict

    @property
    def difference(self) -> Decimal:
        """The provider's figure less ours."""
        return self.theirs - self.ours


@dataclass(frozen=True, kw_only=True)
class Reconciliation:
    """The figures of all days and models, and the requests that could explain differences.

    `unknown` are rows of the usage table of unknown billing, on days and models that do not match;
    `unknown_left_out` counts those beyond the limit.
    """

    first_day: date | None
    last_day: date | None
    lines: Sequence[Line]
    unknown: Sequence[Mapping[str, Any]]
    unknown_left_out: int

    @property
    def agrees(self) -> bool:
        """Whether every figure matches, or can be explained by requests of unknown billing."""
        return all(line.verdict in ("matched", "may_be_unknown") for line in self.lines)

    def count(self, verdict: Verdict) -> int:
        """How many lines have a verdict."""
        return sum(line.verdict == verdict for line in self.lines)

    def to_table(self) -> pa.Table:
        """The lines as a table."""
        rows = [{**vars(line), "difference": line.difference} for line in self.lines]
        return pa.Table.from_pylist(rows, schema=LINES)


_AMOUNT = pa.decimal128(38, 12)
LINES: pa.Schema = pa.schema(
    [
        ("day", pa.date32()),
        ("model", pa.string()),
        ("figure", pa.string()),
        ("ours", _AMOUNT),
        ("theirs", _AMOUNT),
        ("difference", _AMOUNT),
        ("least", _AMOUNT),
        ("most", _AMOUNT),
        ("unknown_requests", pa.int64()),
        ("verdict", pa.string()),
    ]
)


def _no_bounds() -> dict[Figure, Bounds]:
    return {figure: Bounds() for figure in FIGURES}


@dataclass
class _Ours:
    """What is on record of one day and model."""

    figures: dict[Figure, Bounds] = field(default_factory=_no_bounds)
    unknown: int = 0


def reconcile(
    usage: "ds.Dataset",
    export: ProviderExport,
    *,
    tolerance: Tolerance | None = None,
    where: pc.Expression | None = None,
    unknown_max: int = 1000,
) -> Reconciliation:
    """Compare the usage table with a provider's export, by UTC day and model.

    `usage` is scanned, never loaded. Only the days from the first to the last one of the export
    count; a request belongs to the day on which it was put on record. Requests to the sandbox, and
    those that were not billed, are left out. A request of unknown billing counts as recorded in
    `ours`, as nothing in `least`, and with its bound in `most`. `where` filters the rows further,
    for example to one endpoint. At most `unknown_max` rows of unknown billing are listed.
    """
    days = export.days
    if days is None:
        return Reconciliation(
            first_day=None, last_day=None, lines=(), unknown=(), unknown_left_out=0
        )
    counted = _counted(*days) if where is None else _counted(*days) & where
    ours = _measured(usage, counted)
    lines = list(_compared(ours, export, tolerance or Tolerance()))
    open_groups = {(line.day, line.model) for line in lines if line.verdict != "matched"}
    unknown, left_out = _unknown(usage, counted, open_groups, unknown_max)
    return Reconciliation(
        first_day=days[0],
        last_day=days[1],
        lines=lines,
        unknown=unknown,
        unknown_left_out=left_out,
    )


def _unknown(
    usage: "ds.Dataset", counted: pc.Expression, groups: Collection[Group], most: int
) -> tuple[list[dict[str, Any]], int]:
    """The first rows of unknown billing in these groups, and how many more there are."""
    billing = pc.field("billing")
    rows: list[dict[str, Any]] = []
    left_out = 0
    for row in _rows(usage, counted & (billing.is_null() | (billing == "unknown"))):
        if _group(row) not in groups:
            continue
        if len(rows) < most:
            rows.append(row)
        else:
            left_out += 1
    return rows, left_out


def _counted(first: date, last: date) -> pc.Expression:
    """The rows that a provider may have billed on these days."""
    start = datetime.combine(first, time(), timezone.utc)
    end = datetime.combine(last + timedelta(days=1), time(), timezone.utc)
    at, endpoint, basis = (pc.field(n) for n in ("started_at", "endpoint_id", "cost_basis"))
    paid = (endpoint.is_null() | (endpoint != SANDBOX)) & (basis.is_null() | (basis != SANDBOX))
    billing = pc.field("billing")
    billed = billing.is_null() | (billing != "not_billed")
    moment = pa.timestamp("us", tz="UTC")
    return (at >= pa.scalar(start, moment)) & (at < pa.scalar(end, moment)) & paid & billed


def _rows(usage: "ds.Dataset", where: pc.Expression) -> Iterator[dict[str, Any]]:
    for fragment in usage.get_fragments(filter=where):
        for batch in encoded_batches(fragment, usage.schema, COLUMNS, where):
            yield from batch.to_pylist()


def _group(row: Mapping[str, Any]) -> Group:
    return row["started_at"].astimezone(timezone.utc).date(), row["model"] or ""


def _measured(usage: "ds.Dataset", where: pc.Expression) -> dict[Group, _Ours]:
    """Sums by day and model, of all rows of one billing at once."""
    groups: dict[Group, _Ours] = {}
    sums = sums_by(
        usage,
        keys=["day", "model", "billing"],
        values=["cost_usd", "cost_usd_max", "total_tokens"],
        columns=["started_at", "model", "billing", "cost_usd", "cost_usd_max", "total_tokens"],
        where=where,
        marks={},
    )
    for row in sums.to_pylist():
        ours = groups.setdefault((row["day"], row["model"] or ""), _Ours())
        _add(ours, row)
    return groups


def _add(ours: _Ours, row: Mapping[str, Any]) -> None:
    is_unknown = row["billing"] in (None, "unknown")
    requests = Decimal(row["requests"])
    ours.unknown += row["requests"] if is_unknown else 0
    known: dict[Figure, tuple[Any, Any, int]] = {
        "cost_usd": (row["cost_usd"], row["cost_usd_max"], row["cost_usd_max_nulls"]),
        "requests": (requests, requests, 0),
        "tokens": (row["total_tokens"], row["total_tokens"], row["total_tokens_nulls"]),
    }
    for figure, (sum_of_ours, most, without) in known.items():
        amount = Decimal(sum_of_ours or 0)
        least = NOTHING if is_unknown else amount
        ours.figures[figure].add(amount, least=least, most=None if without else Decimal(most or 0))


def _compared(
    ours: Mapping[Group, _Ours], export: ProviderExport, tolerance: Tolerance
) -> Iterator[Line]:
    for group in sorted({*ours, *export.groups}):
        mine = ours.get(group)
        theirs = export.groups.get(group)
        for figure in export.figures:
            bounds = Bounds() if mine is None else mine.figures[figure]
            amount = NOTHING if theirs is None else theirs[figure]
            within = tolerance.of(figure, amount)
            yield Line(
                day=group[0],
                model=group[1],
                figure=figure,
                ours=bounds.ours,
                theirs=amount,
                least=bounds.least,
                most=None if bounds.unbounded else bounds.most,
                unknown_requests=0 if mine is None else mine.unknown,
                verdict=_verdict(mine, theirs is not None, bounds, amount, within),
            )


def _verdict(
    mine: _Ours | None, is_theirs: bool, bounds: Bounds, theirs: Decimal, within: Decimal
) -> Verdict:
    if abs(theirs - bounds.ours) <= within:
        return "matched"
    if mine is None:
        return "theirs_only"
    if (mine.unknown or bounds.unbounded or bounds.most > bounds.ours) and bounds.covers(
        theirs, within
    ):
        return "may_be_unknown"
    return "different" if is_theirs else "ours_only"
