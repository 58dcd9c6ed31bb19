"""The usage table: its schema, its parts, and reading them."""

import io
import json
from collections.abc import Iterable, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Literal, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from dagster_imagegen.engine.request import PARAMETERS

SCHEMA_VERSION = 1
PARTS_FOLDER = "usage"

Status: TypeAlias = Literal["succeeded", "refused", "rejected", "rate_limited", "failed", "unknown"]
Billing: TypeAlias = Literal["billed", "not_billed", "unknown"]
Row: TypeAlias = dict[str, Any]
"""One attempt: a value, or nothing, for each column of `SCHEMA`."""

MONEY = pa.decimal128(20, 10)
_MONEY_STEP = Decimal(1).scaleb(-10)
TIME = pa.timestamp("us", tz="UTC")

_IDENTITY: tuple[tuple[str, pa.DataType, str], ...] = (
    ("attempt_id", pa.string(), "the request: <journal>-<number>; unique in all storage"),
    ("run_id", pa.string(), "Dagster run"),
    ("root_run_id", pa.string(), "the run that this one retries, or itself"),
    ("asset_key", pa.string(), "asset that asked, as a/b"),
    ("partition_key", pa.string(), "partition that asked"),
    ("step_key", pa.string(), "step that asked"),
    ("prompt_id", pa.string(), "row of the prompt table"),
    ("variant", pa.int32(), "0 to n-1"),
    ("fingerprint", pa.string(), "sha256 of what decides the image"),
)
_KINDS: dict[str, pa.DataType] = {
    "string": pa.string(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "bool": pa.bool_(),
}
_MODEL, *_PARAMETERS = (
    (each.name, _KINDS[each.column_type], each.description)
    for each in PARAMETERS.values()
    if each.column_type
)
_REQUEST: tuple[tuple[str, pa.DataType, str], ...] = (
    ("endpoint_id", pa.string(), "who was asked; 'sandbox' never costs money"),
    _MODEL,
    ("prompt_sha256", pa.string(), "sha256 of the prompt's UTF-8 bytes"),
    ("prompt", pa.string(), "as sent; null where prompts are not recorded"),
    *_PARAMETERS,
    ("worst_case_usd", MONEY, "the most it could cost, by the price list, before it was sent"),
)
_OUTCOME: tuple[tuple[str, pa.DataType, str], ...] = (
    ("status", pa.string(), "succeeded, refused, rejected, rate_limited, failed, unknown"),
    ("billing", pa.string(), "billed, not_billed, unknown"),
    ("http_status", pa.int32(), "of the answer"),
    ("error_code", pa.string(), "of the answer, or ours"),
    ("error_message", pa.string(), "of the answer, or ours"),
    ("request_id", pa.string(), "the provider's"),
    ("attempt", pa.int32(), "1 for the first try of this image in this run"),
    ("started_at", TIME, "when it was put on record, before it was sent"),
    ("finished_at", TIME, "when its outcome was known"),
    ("revised_prompt", pa.string(), "as answered"),
    ("answered_at", TIME, "`created` of the answer"),
    ("answered_size", pa.string(), "as answered; tells what an `auto` became"),
    ("answered_quality", pa.string(), "as answered"),
    ("answered_background", pa.string(), "as answered"),
    ("answered_format", pa.string(), "as answered"),
    ("input_tokens", pa.int64(), "as answered; null where not said"),
    ("input_text_tokens", pa.int64(), "as answered"),
    ("input_image_tokens", pa.int64(), "as answered"),
    ("input_cached_tokens", pa.int64(), "as answered"),
    ("output_tokens", pa.int64(), "as answered"),
    ("output_text_tokens", pa.int64(), "as answered"),
    ("output_image_tokens", pa.int64(), "as answered"),
    ("total_tokens", pa.int64(), "as answered"),
    ("cost_usd", MONEY, "what it cost; where billing is unknown, the most it can have cost"),
    ("cost_basis", pa.string(), "reported, metered, estimated, unknown, sandbox"),
    ("price_source", pa.string(), "where the price is from"),
    ("price_as_of", pa.date32(), "when the price was checked"),
    ("image_path", pa.string(), "below the storage"),
    ("image_sha256", pa.string(), "of the stored bytes, which are the provider's"),
    ("image_size_bytes", pa.int64(), "of the stored bytes"),
    ("image_format", pa.string(), "as sniffed from the bytes"),
    ("image_width", pa.int32(), "pixels"),
    ("image_height", pa.int32(), "pixels"),
)

SCHEMA: pa.Schema = pa.schema(
    [
        pa.field(name, kind, metadata={"description": text})
        for name, kind, text in (*_IDENTITY, *_REQUEST, *_OUTCOME)
    ],
    metadata={"dagster_imagegen.usage_schema": str(SCHEMA_VERSION)},
)

_DECODERS = {MONEY: Decimal, TIME: datetime.fromisoformat, pa.date32(): date.fromisoformat}
_FROM_JSON = {field.name: _DECODERS[field.type] for field in SCHEMA if field.type in _DECODERS}


def part_path(journal_id: str) -> str:
    """Where the part of a journal lies: in the folder of the day on which it began (UTC)."""
    day = f"{journal_id[:4]}-{journal_id[4:6]}-{journal_id[6:8]}"
    return f"{PARTS_FOLDER}/date={day}/{journal_id}.parquet"


def part_day(path: str) -> date:
    """The day (UTC) on which the journal of a part began."""
    return date.fromisoformat(path.split("/date=", 1)[1][:10])


def journal_of(path: str) -> str | None:
    """The journal whose part lies at `path`; None where no part of ours lies there."""
    name = path.rsplit("/", 1)[-1]
    return name.removesuffix(".parquet") if name.endswith(".parquet") else None


def encode_part(rows: Iterable[Row]) -> bytes:
    """A Parquet file of the rows, in the order in which they were put on record."""
    table = to_table(rows).sort_by([("started_at", "ascending"), ("attempt_id", "ascending")])
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def decode_part(data: bytes) -> list[Row]:
    """The rows of a part."""
    return pq.read_table(io.BytesIO(data)).to_pylist()


def encode_values(values: Row) -> str:
    """Columns as one line of JSON; the inverse of `decode_values`. Nulls are left out."""
    present = {name: value for name, value in values.items() if value is not None}
    return json.dumps(present, default=_to_json, separators=(",", ":"))


def decode_values(text: str) -> Row:
    """Columns of one line of JSON, with their Python types again."""
    values: Row = json.loads(text)
    return {
        name: _FROM_JSON[name](value) if name in _FROM_JSON else value
        for name, value in values.items()
    }


def _to_json(value: object) -> str:
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no place in a usage row")


def open_parts(paths: Sequence[str], *, filesystem: Any) -> ds.Dataset:
    """The rows of the parts at `paths`, with the columns of `SCHEMA`, older parts' gaps null.

    Naming the files one by one keeps temporaries and strangers' files out.
    """
    files: Any = list(paths)
    return ds.dataset(files, schema=SCHEMA, format="parquet", filesystem=filesystem)


def worth(row: Row) -> Decimal:
    """What a row cost, at the worst case where that is all that is known; 0 if nothing is."""
    cost = row.get("cost_usd")
    return (row.get("worst_case_usd") or Decimal(0)) if cost is None else cost


def to_table(rows: Iterable[Row]) -> pa.Table:
    """Rows as an Arrow table of `SCHEMA`.

    What a column cannot hold (a provider's lone surrogate, a number out of range) is escaped,
    rounded or left out: the row of a request that was sent must not be lost to it.
    """
    listed = list(rows)
    try:
        return pa.Table.from_pylist(listed, schema=SCHEMA)
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        return pa.Table.from_pylist([_fitting(row) for row in listed], schema=SCHEMA)


def _fitting(row: Row) -> Row:
    return {field.name: _fit(row.get(field.name), field.type) for field in SCHEMA}


def _fit(value: object, kind: pa.DataType) -> object:
    if isinstance(value, str):
        value = value.encode(errors="backslashreplace").decode()
    try:
        if isinstance(value, Decimal):
            value = value.quantize(_MONEY_STEP)
        return pa.scalar(value, kind).as_py()
    except (pa.ArrowException, ArithmeticError, ValueError, TypeError):
        return None


def rows_about(
    dataset: ds.Dataset, fingerprints: Sequence[str], *, columns: Sequence[str]
) -> pa.Table:
    """The rows of these fingerprints, with these columns."""
    wanted = pa.array(fingerprints, pa.string())
    return dataset.to_table(columns=list(columns), filter=pc.field("fingerprint").isin(wanted))
