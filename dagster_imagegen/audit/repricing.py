"""Recorded requests at the prices of another list. What is on record stays as it is."""

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from dagster_imagegen.audit.scan import codes, compute, encoded_batches, with_dictionary
from dagster_imagegen.engine.attempt import SANDBOX, Cost, TokenUsage
from dagster_imagegen.engine.money.price_list import PriceList
from dagster_imagegen.engine.record.schema import MONEY

if TYPE_CHECKING:
    import pyarrow.dataset as ds  # loads pandas, if it is there

OF_SANDBOX = "the sandbox costs nothing"
"""Why a request to the sandbox is not repriced."""

_TOKENS = tuple(TokenUsage.__dataclass_fields__)
_KEPT = (
    *(
        "attempt_id",
        "started_at",
        "asset_key",
        "partition_key",
        "asset_group",
        "asset_owners",
        "asset_tags",
    ),
    *("model", "status", "cost_basis"),
)
_DECIDING = (
    *("model", "status", "cost_basis", "endpoint_id", "billing"),
    *("size", "quality", "answered_size", "answered_quality", "partial_images"),
    *("svg_total_tokens", *_TOKENS),
)
"""What decides the price of a request."""
_READ = tuple(dict.fromkeys((*_KEPT, *_DECIDING, "cost_usd")))

_PRICED: pa.Schema = pa.schema(
    [
        ("repriced_usd", MONEY),
        ("repriced_basis", pa.string()),
        ("price_source", pa.string()),
        ("price_as_of", pa.date32()),
        ("not_repriced", pa.string()),
    ]
)
REPRICED: pa.Schema = pa.schema(
    [
        ("attempt_id", pa.string()),
        ("started_at", pa.timestamp("us", tz="UTC")),
        *((name, pa.string()) for name in _KEPT[2:]),
        ("recorded_usd", MONEY),
        *((field.name, field.type) for field in _PRICED),
    ]
)
"""Recorded and repriced cost side by side; `not_repriced` says why there is no repriced cost."""


def reprice(
    usage: "ds.Dataset", prices: PriceList, *, where: pc.Expression | None = None
) -> Iterator[pa.RecordBatch]:
    """Each request of the usage table with the cost that it would have by `prices`.

    Yields batches of `REPRICED`, one for each batch that is read, and changes nothing. A request
    that was not billed costs nothing by any list. One whose cost the list cannot tell has no
    `repriced_usd`, and `not_repriced` says why.
    """
    for fragment in usage.get_fragments(filter=where):
        # Those that decide a price have few values each, which Parquet has as dictionaries.
        for batch in encoded_batches(fragment, usage.schema, _READ, where, encoded=_DECIDING):
            if batch.num_rows:
                yield _repriced(batch, prices)


def _repriced(batch: pa.RecordBatch, prices: PriceList) -> pa.RecordBatch:
    """Rows that agree in all that decides a price are priced once."""
    code = codes([with_dictionary(batch[name]) for name in _DECIDING], batch.num_rows)
    row = compute.cumulative_sum(pa.repeat(pa.scalar(1, pa.int32()), batch.num_rows))
    found: Any = pa.table({"code": code, "row": row})
    found = found.group_by("code", use_threads=False).aggregate([("row", "min")]).combine_chunks()
    first = compute.subtract(found["row_min"].chunk(0), 1)
    different = batch.select(list(_DECIDING)).take(first).to_pylist()
    priced = pa.Table.from_pylist([_priced(each, prices) for each in different], schema=_PRICED)
    priced = priced.take(compute.index_in(code, found["code"].chunk(0))).combine_chunks()
    kept: Any = {name: batch[name].cast(REPRICED.field(name).type) for name in _KEPT}
    made: Any = {name: priced[name].chunk(0) for name in _PRICED.names}
    columns = {**kept, "recorded_usd": batch["cost_usd"], **made}
    return pa.RecordBatch.from_arrays([columns[n] for n in REPRICED.names], schema=REPRICED)


def _priced(row: Mapping[str, Any], prices: PriceList) -> dict[str, Any]:
    reason = _reason(row)
    if reason is not None:
        return {"not_repriced": reason}
    if row["billing"] == "not_billed":
        return {"repriced_usd": Decimal(0), "repriced_basis": "estimated"}
    cost = _cost(row, prices)
    if cost.usd is None:
        return {"not_repriced": _no_price(row, prices)}
    return {
        "repriced_usd": cost.usd,
        "repriced_basis": cost.basis,
        "price_source": cost.source,
        "price_as_of": cost.as_of,
    }


def _reason(row: Mapping[str, Any]) -> str | None:
    if SANDBOX in (row["endpoint_id"], row["cost_basis"]):
        return OF_SANDBOX
    if row["cost_basis"] == "reported":
        return "the endpoint reported what it charged"
    if row["billing"] not in ("billed", "not_billed"):
        return "whether it was billed is unknown"
    if row["model"] is None:
        return "no model is on record"
    return "the text model of an svg has no price" if row["svg_total_tokens"] else None


def _cost(row: Mapping[str, Any], prices: PriceList) -> Cost:
    return prices.cost(
        row["model"],
        tokens=TokenUsage(**{name: row[name] for name in _TOKENS}),
        size=row["answered_size"] or row["size"],
        quality=row["answered_quality"] or row["quality"],
        partial_images=row["partial_images"] or 0,
        image_made=row["status"] == "succeeded",
    )


def _no_price(row: Mapping[str, Any], prices: PriceList) -> str:
    model = row["model"]
    if prices.find(model) is None:
        return f'the price list has no model "{model}"'
    if row["output_tokens"] is not None:
        return "the list has no price for its tokens, or for its size and quality"
    return "the answer has no token counts, and the list no price for its size and quality"
