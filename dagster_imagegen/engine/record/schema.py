"""The columns of the usage table, and how an attempt becomes a row and is read from one."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from functools import lru_cache, partial
from itertools import islice, repeat
from typing import Any, TypeAlias, TypeVar

import pyarrow as pa

from dagster_imagegen.engine.attempt import (
    NO_IDENTITY,
    NO_REPLY,
    NO_SVG,
    NO_TOKENS,
    Attempt,
    Cost,
    CostBasis,
    Identity,
    ImageFile,
    Reply,
    RequestRecord,
    Result,
    SvgUsage,
    TokenUsage,
)
from dagster_imagegen.engine.errors import ConfigurationError, StorageError, abbreviate
from dagster_imagegen.engine.request import PARAMETERS

T = TypeVar("T")

SCHEMA_VERSION = 1
VERSION_KEY = b"dagster_imagegen.usage_schema"
"""In the Parquet metadata of a part."""

Row: TypeAlias = dict[str, Any]
"""One attempt at the edge of Parquet and JSON: a value, or nothing, for each column."""

MONEY = pa.decimal128(20, 10)
TIME = pa.timestamp("us", tz="UTC")
_MONEY_STEP = Decimal(1).scaleb(-10)

_IDENTITY: tuple[tuple[str, pa.DataType, str], ...] = (
    ("attempt_id", pa.string(), "the request: <journal>-<number>; unique in the storage"),
    ("run_id", pa.string(), "Dagster run"),
    ("root_run_id", pa.string(), "the run that this one retries, or the run itself"),
    ("asset_key", pa.string(), "asset that requested the image, as a/b"),
    ("partition_key", pa.string(), "partition that requested it"),
    ("step_key", pa.string(), "step that requested it"),
    ("asset_owners", pa.string(), "its owners, with commas"),
    ("asset_group", pa.string(), "its group"),
    ("asset_tags", pa.string(), "its tags of `usage_tags`, as JSON"),
    ("prompt_id", pa.string(), "row of the prompt table"),
    ("variant", pa.int32(), "0 to n-1"),
    ("fingerprint", pa.string(), "sha256 of what decides the image"),
)
_TYPES: Mapping[str, pa.DataType] = {
    "string": pa.string(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "bool": pa.bool_(),
}
_MODEL, *_PARAMETERS = (
    (each.name, _TYPES[each.column_type], each.description)
    for each in PARAMETERS.values()
    if each.column_type
)
_RECORDED = tuple(name for name, _, _ in (_MODEL, *_PARAMETERS))
_REQUEST: tuple[tuple[str, pa.DataType, str], ...] = (
    ("endpoint_id", pa.string(), "who received the request; 'sandbox' never costs money"),
    _MODEL,
    ("prompt_sha256", pa.string(), "sha256 of the prompt's UTF-8 bytes"),
    ("prompt", pa.string(), "as sent; null where prompts are not recorded"),
    *_PARAMETERS,
    ("worst_case_usd", MONEY, "the most it could cost, by the price list, before it was sent"),
)
_RESULT: tuple[tuple[str, pa.DataType, str], ...] = (
    ("status", pa.string(), "succeeded, refused, rejected, rate_limited, failed, unknown"),
    ("billing", pa.string(), "billed, not_billed, unknown"),
    ("http_status", pa.int32(), "of the answer"),
    ("error_code", pa.string(), "the endpoint's, or this package's"),
    ("error_message", pa.string(), "the endpoint's, or this package's"),
    ("request_id", pa.string(), "the provider's"),
    ("attempt", pa.int32(), "1 for the first try of this image in this run"),
    ("started_at", TIME, "when it was put on record, before it was sent"),
    ("finished_at", TIME, "when its outcome was known"),
    ("revised_prompt", pa.string(), "as answered"),
    ("answered_at", TIME, "`created` of the answer"),
    ("answered_size", pa.string(), "as answered; says what an `auto` became"),
    ("answered_quality", pa.string(), "as answered"),
    ("answered_background", pa.string(), "as answered"),
    ("answered_format", pa.string(), "as answered"),
    ("input_tokens", pa.int64(), "as answered; null where the answer does not say"),
    ("input_text_tokens", pa.int64(), "as answered"),
    ("input_image_tokens", pa.int64(), "as answered"),
    ("input_cached_tokens", pa.int64(), "as answered"),
    ("output_tokens", pa.int64(), "as answered"),
    ("output_text_tokens", pa.int64(), "as answered"),
    ("output_image_tokens", pa.int64(), "as answered"),
    ("total_tokens", pa.int64(), "as answered"),
    ("svg_model", pa.string(), "the text model that wrote an svg, as answered"),
    ("svg_input_tokens", pa.int64(), "of that model, as answered"),
    ("svg_output_tokens", pa.int64(), "of that model, as answered"),
    ("svg_total_tokens", pa.int64(), "of that model, as answered"),
    ("cost_usd", MONEY, "what was charged as far as anybody can tell; the worst case if unknown"),
    ("cost_usd_max", MONEY, "the most that may have been charged; null before 0.2"),
    ("cost_basis", pa.string(), "reported, metered, estimated, unknown, sandbox"),
    ("price_source", pa.string(), "where the price comes from"),
    ("price_as_of", pa.date32(), "when the price was checked"),
    ("image_path", pa.string(), "relative to the storage"),
    ("image_sha256", pa.string(), "of the stored bytes, which are the provider's"),
    ("image_size_bytes", pa.int64(), "of the stored bytes"),
    ("image_format", pa.string(), "as detected from the bytes"),
    ("image_width", pa.int32(), "pixels"),
    ("image_height", pa.int32(), "pixels"),
    ("image_partial", pa.bool_(), "whether it is a partial image of a broken stream"),
    (
        "image_provenance",
        pa.string(),
        "marks of origin: none, c2pa, iptc:<type>; null: not looked for, or before 0.2",
    ),
)

SCHEMA: pa.Schema = pa.schema(
    [
        pa.field(name, kind, metadata={"description": text})
        for name, kind, text in (*_IDENTITY, *_REQUEST, *_RESULT)
    ],
    metadata={VERSION_KEY: str(SCHEMA_VERSION)},
)


def check_version(metadata: Mapping[bytes, bytes] | None, *, of: str) -> None:
    """Raise `ConfigurationError` for the part `of` a newer schema, whose rows may mean anything.

    Raises `StorageError` for a version that is no number. `metadata` is that of its schema; a part
    without a version is one of this schema.
    """
    told = (metadata or {}).get(VERSION_KEY, SCHEMA_VERSION)
    try:
        version = int(told)
    except ValueError:
        raise StorageError(
            f"damaged part of the usage table: {of} names {abbreviate(told)} as the version of its "
            "schema, which is no number, so that nothing is sent. Restore it from a backup, or "
            "delete it: then images that are in storage are used all the same, and requests that "
            "were refused or failed are sent again",
            can_pass=False,
        ) from None
    if version > SCHEMA_VERSION:
        raise ConfigurationError(
            f"{of} has schema {version} of the usage table, and this version of dagster-imagegen "
            f"knows {SCHEMA_VERSION}; upgrade it"
        )


_DECODERS = {MONEY: Decimal, TIME: datetime.fromisoformat, pa.date32(): date.fromisoformat}
_FROM_JSON = {field.name: _DECODERS[field.type] for field in SCHEMA if field.type in _DECODERS}

# -- attempts and rows -----------------------------------------------------------------------------


def request_columns(attempt: Attempt) -> Row:
    """The columns that are on record before a request is sent."""
    request, worst_case = attempt.request, attempt.worst_case
    return {
        **vars(attempt.identity),
        "prompt_id": attempt.prompt_id,
        "variant": request.variant,
        "fingerprint": request.fingerprint,
        "endpoint_id": request.endpoint_id,
        "prompt_sha256": request.prompt_sha256,
        "prompt": request.prompt,
        **request.parameters,
        "attempt": attempt.number,
        "worst_case_usd": worst_case.usd,
        "price_source": worst_case.source,
        "price_as_of": worst_case.as_of,
        "started_at": attempt.started_at,
    }


def result_columns(result: Result) -> Row:
    """The columns that a result adds."""
    image = {} if result.image is None else vars(result.image)
    return {
        "status": result.status,
        "billing": result.billing,
        "finished_at": result.finished_at,
        "error_code": result.error_code,
        "error_message": result.error_message,
        **vars(result.reply),
        **vars(result.tokens),
        **{f"svg_{name}": value for name, value in vars(result.svg).items()},
        "cost_usd": result.cost.usd,
        "cost_usd_max": result.cost.most_usd,
        "cost_basis": result.cost.basis,
        "price_source": result.cost.source,
        "price_as_of": result.cost.as_of,
        **{f"image_{name}": value for name, value in image.items()},
    }


def row_of(attempt: Attempt) -> Row:
    """An attempt as a row of the usage table."""
    result = {} if attempt.result is None else result_columns(attempt.result)
    return {"attempt_id": attempt.attempt_id, **request_columns(attempt), **result}


_FIELDS: Mapping[str, Mapping[str, str]] = {
    "identity": {name: name for name in Identity.__dataclass_fields__},
    "request": {n: n for n in RequestRecord.__dataclass_fields__ if n != "parameters"},
    "parameters": {name: name for name in _RECORDED},
    "reply": {name: name for name in Reply.__dataclass_fields__},
    "tokens": {name: name for name in TokenUsage.__dataclass_fields__},
    "svg": {f"svg_{name}": name for name in SvgUsage.__dataclass_fields__},
    "image": {f"image_{name}": name for name in ImageFile.__dataclass_fields__},
}
_NO_PARAMETERS: Mapping[str, Any] = {}
_ROWS_AT_ONCE = 4_096
_ROWS_AS_DICTS = 512

Columns: TypeAlias = Mapping[str, Sequence[Any]]
"""The values of each column, in the order of the rows. A column that is absent reads as null."""


def attempts_of(table: pa.Table) -> Iterator[Attempt]:
    """The attempts that the rows of a table stand for, read column by column.

    As dicts, all rows at once would take gigabytes, and several times as long.
    """
    for batch in table.to_batches(max_chunksize=_ROWS_AT_ONCE):
        columns = {name: batch.column(name).to_pylist() for name in batch.schema.names}
        yield from _attempts(columns, batch.num_rows)


def attempt_of(row: Row) -> Attempt:
    """The attempt that a row stands for. Columns that are absent read as null."""
    return next(_attempts({name: [value] for name, value in row.items()}, 1))


def result_of(row: Row) -> Result:
    """The result in a row that has a status."""
    return next(_results({name: [value] for name, value in row.items()}, 1))


def _attempts(columns: Columns, count: int) -> Iterator[Attempt]:
    of = partial(_values, columns, count=count)
    costs = zip(of("worst_case_usd"), of("price_source"), of("price_as_of"), strict=True)
    rows = zip(
        *(of("attempt_id"), of("prompt_id"), of("attempt"), of("started_at"), of("status")),
        _objects("identity", _identity, columns, count, none=NO_IDENTITY),
        _objects("parameters", _parameters, columns, count, none=_NO_PARAMETERS),
        zip(*(of(name) for name in _FIELDS["request"]), strict=True),
        (_worst_case(*each) for each in costs),
        _results(columns, count),
        strict=True,
    )
    names = tuple(_FIELDS["request"].values())
    for at, prompt_id, number, started, status, identity, parameters, asked, most, result in rows:
        request = dict(zip(names, asked, strict=True))
        yield Attempt(
            attempt_id=at,
            identity=identity,
            request=RequestRecord(parameters=parameters, **request),
            prompt_id=prompt_id,
            number=number,
            worst_case=most,
            started_at=started,
            result=result if status else None,
        )


def _results(columns: Columns, count: int) -> Iterator[Result]:
    of = partial(_values, columns, count=count)
    costs = (of(name) for name in ("cost_usd", "cost_usd_max", "cost_basis"))
    costs = zip(*costs, of("price_source"), of("price_as_of"), strict=True)
    rows = zip(
        *(of("status"), of("billing"), of("finished_at"), of("error_code"), of("error_message")),
        _objects("reply", Reply, columns, count, none=NO_REPLY),
        _objects("tokens", TokenUsage, columns, count, none=NO_TOKENS),
        _objects("svg", SvgUsage, columns, count, none=NO_SVG),
        (_cost(*each) for each in costs),
        of("image_path"),
        _objects("image", ImageFile, columns, count, none=None),
        strict=True,
    )
    for status, billing, at, code, message, reply, tokens, svg, cost, path, image in rows:
        yield Result(
            status=status,
            billing=billing,
            finished_at=at,
            error_code=code,
            error_message=message,
            reply=reply,
            tokens=tokens,
            svg=svg,
            cost=cost,
            image=None if path is None else image,
        )


def _values(columns: Columns, name: str, *, count: int) -> Iterable[Any]:
    return columns[name] if name in columns else repeat(None, count)


def _objects(
    part: str, kind: Callable[..., T], columns: Columns, count: int, *, none: T | None
) -> Iterable[Any]:
    """A part of each row's attempt; `none` where the row says nothing of it."""
    fields = {name: columns[col] for col, name in _FIELDS[part].items() if col in columns}
    names = tuple(fields)
    if not fields:
        return repeat(none, count)
    return (
        none if values.count(None) == len(values) else kind(**dict(zip(names, values, strict=True)))
        for values in zip(*fields.values(), strict=True)
    )


# Values that many attempts have in common: a million of them are read for one plan.


@lru_cache(maxsize=4_096)
def _identity(**values: Any) -> Identity:
    present = {name: value for name, value in values.items() if value is not None}
    return Identity(**{**vars(NO_IDENTITY), **present})


def _parameters(**values: Any) -> Mapping[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


@lru_cache(maxsize=4_096)
def _worst_case(usd: Decimal | None, source: str | None, as_of: date | None) -> Cost:
    basis = "unknown" if usd is None else "estimated"
    return Cost(usd=usd, basis=basis, source=source, as_of=as_of)


@lru_cache(maxsize=4_096)
def _cost(
    usd: Decimal | None,
    most: Decimal | None,
    basis: CostBasis | None,
    source: str | None,
    as_of: date | None,
) -> Cost:
    max_usd = None if most == usd else most
    return Cost(usd=usd, basis=basis or "unknown", source=source, as_of=as_of, max_usd=max_usd)


# -- JSON and Arrow --------------------------------------------------------------------------------


def encode_values(values: Row) -> str:
    """Columns as one line of JSON; the inverse of `decode_values`. Nulls are left out."""
    return _encode({name: value for name, value in values.items() if value is not None})


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
    raise TypeError(f"a usage row cannot hold a value of type {type(value).__name__}")


_encode = json.JSONEncoder(default=_to_json, separators=(",", ":")).encode


def to_table(rows: Iterable[Row], schema: pa.Schema = SCHEMA) -> pa.Table:
    """Rows as an Arrow table of `SCHEMA`, or of some of its columns.

    A value that its column cannot hold (a provider's lone surrogate, a number out of range) is
    escaped, rounded or left out, so that the row of a request that was sent is never lost.
    """
    each = iter(rows)
    tables = [schema.empty_table()]
    # As dicts they take several kilobytes each.
    while some := list(islice(each, _ROWS_AS_DICTS)):
        try:
            tables.append(pa.Table.from_pylist(some, schema=schema))
        except (pa.ArrowException, ValueError, TypeError, OverflowError):
            fitting = [_fitting(row) for row in some]
            tables.append(pa.Table.from_pylist(fitting, schema=schema))
    return pa.concat_tables(tables)


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
