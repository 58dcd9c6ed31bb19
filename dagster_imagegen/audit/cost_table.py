"""The usage table as a tidy table of costs, scanned a batch at a time."""

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from dagster_imagegen.audit.scan import sums_by
from dagster_imagegen.audit.superseded import REPLACED, RETRIED, superseded
from dagster_imagegen.engine.attempt import SANDBOX
from dagster_imagegen.engine.errors import ConfigurationError, did_you_mean

if TYPE_CHECKING:
    import pyarrow.dataset as ds  # loads pandas, if it is there

compute: Any = pc
"""pyarrow's stubs know no arrays beside scalars."""

SUM_OF_MONEY = pa.decimal128(38, 10)
KEPT = "kept"
CAUSES = (KEPT, "refused", "failed", "unknown", RETRIED, REPLACED)
"""What a request was paid for: an image that is in use, or one of the kinds of waste."""

DIMENSIONS: Mapping[str, tuple[pa.DataType, str]] = {
    "day": (pa.date32(), "UTC day on which the requests were put on record"),
    "sandbox": (pa.bool_(), "whether they went to the sandbox; then they cost nothing"),
    "endpoint_id": (pa.string(), "who received them"),
    "asset_key": (pa.string(), "asset that they were for"),
    "partition_key": (pa.string(), "partition that they were for"),
    "asset_group": (pa.string(), "group of that asset"),
    "asset_owners": (pa.string(), "owners of that asset, with commas"),
    "asset_tags": (pa.string(), "chosen tags of that asset, as JSON"),
    "model": (pa.string(), "as sent"),
    "quality": (pa.string(), "as sent; as answered if that was `auto` or nothing"),
    "size": (pa.string(), "as sent; as answered if that was `auto` or nothing"),
    "status": (pa.string(), "as in the usage table"),
    "cause": (pa.string(), "kept, refused, failed, unknown, retried, replaced"),
}
"""What the table is grouped by unless something else is asked for."""

FURTHER_DIMENSIONS = (
    "run_id",
    "root_run_id",
    "step_key",
    "cost_basis",
    "billing",
    "error_code",
    "user",
)
"""Columns of the usage table that it can be grouped by as well."""

TAG = "tag:"
"""What the name of a dimension begins with that is one of the tags, e.g. `tag:team`."""

COUNTS: Mapping[str, str] = {
    "requests": "requests that were sent",
    "images": "images that were stored",
    "images_kept": "images that are in use: neither made again nor replaced since",
    "unpriced_requests": "requests of unknown cost, which are in no sum",
    "input_tokens": "as answered",
    "output_tokens": "as answered",
    "total_tokens": "as answered",
}
MONEYS: Mapping[str, str] = {
    "cost_usd": "what was charged as far as anybody can tell",
    "cost_usd_max": "the most that may have been charged",
    "waste_usd": "of `cost_usd`, what was paid for no image that is in use",
}
MEASURES = (*COUNTS, *MONEYS)
PER_IMAGE = "cost_per_image_kept_usd"

_TOKENS = ("input_tokens", "output_tokens", "total_tokens")
_VALUES = (*_TOKENS, "cost_usd", "cost_usd_max")
_ANSWERED = ("quality", "size")


def _field(name: str, kind: pa.DataType, text: str) -> "pa.Field[Any]":
    return pa.field(name, kind, metadata={"description": text})


def _tag_of(name: str) -> str:
    return name.removeprefix(TAG) if name.startswith(TAG) else ""


def _of_dimension(name: str) -> tuple[pa.DataType, str]:
    text = f"tag `{_tag_of(name)}` of the asset" if _tag_of(name) else "as in the usage table"
    return DIMENSIONS.get(name, (pa.string(), text))


def schema_of(by: Sequence[str] = tuple(DIMENSIONS)) -> pa.Schema:
    """The schema of a cost table that is grouped by these columns."""
    return pa.schema(
        [
            *(_field(name, *_of_dimension(name)) for name in by),
            *(_field(name, pa.int64(), text) for name, text in COUNTS.items()),
            *(_field(name, SUM_OF_MONEY, text) for name, text in MONEYS.items()),
            _field(PER_IMAGE, SUM_OF_MONEY, "`cost_usd`, waste included, by image kept"),
        ]
    )


COST_SCHEMA = schema_of()


def cost_table(
    usage: "ds.Dataset",
    *,
    by: Sequence[str] = tuple(DIMENSIONS),
    where: pc.Expression | None = None,
    finds_superseded: bool = True,
) -> pa.Table:
    """A tidy table of costs: one row for each combination of `by`, with the columns of
    `schema_of(by)`, sorted by `by`.

    `usage` is a dataset with the usage table's schema, as `UsageTable.scan` opens it; it is
    scanned, never loaded. `where` filters its rows. Money of the sandbox is 0 whatever its rows
    say. Without `finds_superseded` the causes `retried` and `replaced` are not looked for, which
    saves reading every fingerprint. Beside `DIMENSIONS` and `FURTHER_DIMENSIONS`, `by` can name
    one of the tags, as `tag:team`. Raises `ConfigurationError` for a name that is none.
    """
    _check(by)
    of_no_use = superseded(usage) if finds_superseded else {}
    return summed(_classified(_scanned(usage, by, where, of_no_use)), by)


def _check(by: Sequence[str]) -> None:
    known = (*DIMENSIONS, *FURTHER_DIMENSIONS)
    for name in by:
        if name not in known and not _tag_of(name):
            raise ConfigurationError(
                f'costs cannot be grouped by "{name}"; they can be by {", ".join(known)}, tag:NAME'
                + did_you_mean(name, known)
            )


# -- the scan --------------------------------------------------------------------------------------


def _scanned(
    usage: "ds.Dataset",
    by: Sequence[str],
    where: pc.Expression | None,
    of_no_use: Mapping[str, "pa.Array[Any]"],
) -> pa.Table:
    """Sums by what was asked for, and by what decides which requests cost money and why."""
    asked = [
        "asset_tags" if _tag_of(name) else name for name in by if name not in ("cause", "sandbox")
    ]
    answered = [f"answered_{name}" for name in _ANSWERED if name in by]
    always = ["status", "endpoint_id", "cost_basis"]
    keys = list(dict.fromkeys((*asked, *answered, *always)))
    columns = {"started_at" if name == "day" else name for name in keys} | set(_VALUES)
    keys.append("superseded")
    if any(len(ids) for ids in of_no_use.values()):
        columns.add("attempt_id")
    sums = sums_by(
        usage, keys=keys, values=_VALUES, columns=sorted(columns), where=where, marks=of_no_use
    )
    for name in _ANSWERED:
        if name in by:
            at = sums.schema.get_field_index(name)
            sums = sums.set_column(at, name, _as_made(sums[name], sums[f"answered_{name}"]))
    for name in by:
        if tag := _tag_of(name):
            sums = sums.append_column(name, _values_of(tag, sums["asset_tags"]))
    return sums


def _values_of(tag: str, tags: Any) -> Any:
    """The value of one tag in each JSON object; null where it is not among them."""
    encoded: Any = compute.dictionary_encode(tags.combine_chunks())
    values = [json.loads(each).get(tag) for each in encoded.dictionary.to_pylist()]
    return pa.array(values, pa.string()).take(encoded.indices)


def _as_made(sent: Any, answered: Any) -> Any:
    chosen = compute.if_else(compute.equal(sent, "auto"), pa.scalar(None, pa.string()), sent)
    return compute.coalesce(chosen, answered, sent)


# -- causes, and money that is none ----------------------------------------------------------------


def _classified(sums: pa.Table) -> pa.Table:
    """Sums with `cause` and `sandbox`, and without the money of the sandbox."""
    status: Any = compute.fill_null(sums["status"], "unknown")
    stored = compute.equal(status, "succeeded")
    told = compute.is_in(status, value_set=pa.array(["refused", "unknown"]))
    cause = compute.if_else(
        stored,
        compute.coalesce(sums["superseded"], pa.scalar(KEPT)),
        compute.if_else(told, status, "failed"),
    )
    sandbox = compute.or_(
        compute.fill_null(compute.equal(sums["cost_basis"], SANDBOX), False),
        compute.fill_null(compute.equal(sums["endpoint_id"], SANDBOX), False),
    )
    requests, kept = sums["requests"], compute.equal(cause, KEPT)
    zero = pa.scalar(Decimal(0), SUM_OF_MONEY)
    cost = compute.if_else(sandbox, zero, sums["cost_usd"].cast(SUM_OF_MONEY))
    made = {
        "cause": cause,
        "sandbox": sandbox,
        "images": compute.if_else(stored, requests, 0),
        "images_kept": compute.if_else(kept, requests, 0),
        "unpriced_requests": compute.if_else(sandbox, 0, sums["cost_usd_nulls"]),
        "cost_usd": cost,
        "cost_usd_max": compute.if_else(sandbox, zero, sums["cost_usd_max"].cast(SUM_OF_MONEY)),
        "waste_usd": compute.if_else(kept, zero, cost),
    }
    columns = {name: sums[name] for name in sums.column_names if name not in made}
    both: Any = {**columns, **made}
    return pa.table(both)


def summed(costs: pa.Table, by: Sequence[str]) -> pa.Table:
    """The rows of a cost table summed by fewer columns; by none, one row of totals."""
    sums: Any = costs.group_by(list(by)).aggregate([(name, "sum") for name in MEASURES])
    names = [name.removesuffix("_sum") for name in sums.column_names]
    sums = sums.rename_columns(names).append_column(PER_IMAGE, _per_image(sums))
    sums = sums.select([*by, *MEASURES, PER_IMAGE]).cast(schema_of(by))
    return sums.sort_by([(name, "ascending") for name in by]) if by else sums


def _per_image(sums: Any) -> Any:
    """Null where no image is kept: nothing is known of what one costs."""
    pairs = zip(sums["cost_usd_sum"].to_pylist(), sums["images_kept_sum"].to_pylist(), strict=True)
    step = Decimal(1).scaleb(-10)
    each = [
        (usd / count).quantize(step) if usd is not None and count else None for usd, count in pairs
    ]
    return pa.array(each, SUM_OF_MONEY)
