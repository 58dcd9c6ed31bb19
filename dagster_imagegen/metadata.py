"""Tables and totals to what Dagster shows of a materialization."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, TypeAlias

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc

from dagster_imagegen.engine.errors import ConfigurationError
from dagster_imagegen.engine.run.plan import Plan
from dagster_imagegen.engine.run.progress import Totals, cost_text
from dagster_imagegen.previews import contact_sheet, pictures, strip

Metadata: TypeAlias = dict[str, Any]

TABLE_COLUMNS_MAX = 60
"""Columns that a schema or a lineage is told for; a wider table would fill the event."""

TEXT_CHARACTERS = 200
"""Of a column's name, type and description: some types and descriptions are pages long."""

# What an image's own bytes, sha256 and address make of a row's content; when and by whom it was
# made, and what it cost, are not content.
CONTENT_COLUMNS = (
    "prompt_id",
    "prompt",
    "image_variant",
    "image_revision",
    "image_fingerprint",
    "image_path",
    "image_sha256",
)


@dataclass(frozen=True, kw_only=True)
class FinishedPass:
    """What one pass over one prompt table came to."""

    plan: Plan
    images: pa.Table
    usage: pa.Table
    totals: Totals


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """Where a prompt table came from, when it is one asset's value as it stands."""

    prompt_table: dg.AssetKey
    prompt_columns: tuple[str, ...]


def image_metadata(
    done: FinishedPass,
    *,
    uri: str,
    read_image: Callable[[str], bytes],
    lineage: Lineage | None = None,
    captions: bool = True,
) -> Metadata:
    """Previews, counts by status, cost, tokens, row count, column schema and lineage, and URI.

    Without `captions` no prompt is in it.
    """
    totals = done.totals
    counts = count_values([done.images["image_status"]])
    metadata: Metadata = {
        **_cost_metadata(totals.cost_usd, unpriced=totals.unpriced),
        "imagegen/cost": _pass_cost(done),
        "imagegen/images": done.images.num_rows,
        "imagegen/generated": counts.pop("generated", 0),
        "imagegen/reused": counts.pop("reused", 0),
        **{f"imagegen/{status}": count for status, count in sorted(counts.items())},
        "imagegen/requests": totals.requests,
        "imagegen/input_tokens": totals.input_tokens,
        "imagegen/output_tokens": totals.output_tokens,
        "imagegen/total_tokens": totals.total_tokens,
        **_table_metadata(done.images, uri=uri),
    }
    if done.plan.sandbox:
        metadata["imagegen/list_price_usd"] = float(totals.list_price_usd)
    if lineage is not None:
        carried = done.plan.prompts.carried.column_names
        metadata["dagster/column_lineage"] = _image_lineage(carried, lineage)
    small = pictures(done.images, read_image)
    sheet = contact_sheet(small, captions=captions)
    shown = {"imagegen/thumbnails": strip(small), "imagegen/preview": sheet}
    return {name: dg.MetadataValue.md(text) for name, text in shown.items() if text} | metadata


def usage_metadata(usage: pa.Table, *, uri: str, image_asset: dg.AssetKey) -> Metadata:
    """Cost by basis, tokens and counts by status of these usage rows, schema, lineage and URI."""
    statuses = count_values([usage["status"]])
    return {
        **_cost_metadata(
            _sum(usage["cost_usd"]) or Decimal(0), unpriced=usage["cost_usd"].null_count
        ),
        "imagegen/cost": cost_by_basis(usage),
        "imagegen/requests": usage.num_rows,
        **{f"imagegen/{status}": count for status, count in sorted(statuses.items())},
        "imagegen/input_tokens": int(_sum(usage["input_tokens"]) or 0),
        "imagegen/output_tokens": int(_sum(usage["output_tokens"]) or 0),
        "imagegen/total_tokens": int(_sum(usage["total_tokens"]) or 0),
        "dagster/column_lineage": _usage_lineage(image_asset),
        **_table_metadata(usage, uri=uri),
    }


def cost_by_basis(usage: pa.Table) -> str:
    """`$0.40 metered (38), $0.02 estimated (1), unknown (1)`: never one sum of unequals."""
    costs: dict[str, Decimal] = {}
    requests = Counter[str]()
    for basis, usd in zip(
        usage["cost_basis"].to_pylist(), usage["cost_usd"].to_pylist(), strict=True
    ):
        name = basis or "unknown"
        requests[name] += 1
        costs[name] = costs.get(name, Decimal(0)) + (usd or 0)
    parts = [
        f"{'' if name == 'unknown' and not usd else f'${usd:,.4f} '}{name} ({requests[name]:,})"
        for name, usd in sorted(costs.items())
    ]
    return ", ".join(parts) or "$0.00, nothing was sent"


def count_values(columns: "Iterable[pa.ChunkedArray[Any]]") -> Counter[str]:
    """How often each text occurs in the columns."""
    return Counter(str(value) for column in columns for value in column.to_pylist())


def column_schema(schema: pa.Schema) -> dg.TableSchema:
    """The columns as Dagster shows them, with the descriptions that Arrow fields carry."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                name=_cut(field.name),
                type=_cut(str(field.type)),
                description=_description(field),
            )
            for field in list(schema)[:TABLE_COLUMNS_MAX]
        ]
    )


def data_version(images: Sequence[pa.Table]) -> dg.DataVersion:
    """A digest of what the image tables hold: carried values, prompts, and images by sha256.

    The same whether an image was made now or before, in whichever run and storage folder, and
    however its table is laid out in memory; so automation on `data_version_changed()` fires on
    change alone.
    """
    digest = hashlib.sha256()
    for table in images:
        ours = [name for name in table.column_names if name.startswith("image_")]
        dropped = [name for name in ours if name not in (*CONTENT_COLUMNS, "image_status")]
        for line in _lines(table.drop_columns(dropped)):
            digest.update(line)
        digest.update(b"\x00")
    return dg.DataVersion(digest.hexdigest()[:32])


def check_carried(carried: pa.Table) -> None:
    """Go the way that an image table's carried columns go once the images are paid for.

    Raises `ConfigurationError` for a column that cannot be taken along, by its name.
    """
    for name in carried.column_names:
        column = carried.select([name])
        try:
            column_schema(column.schema)
            for _ in _lines(column.take(pa.array([], pa.int64()))):
                pass
            for _ in _lines(column):
                pass
        except Exception as error:
            raise ConfigurationError(
                f'column "{_cut(name)}" of the prompt table ({_cut(str(column.schema.types[0]))}) '
                f"cannot be carried into the image table: {error}; convert it or leave it out"
            ) from error


def _lines(table: pa.Table) -> Iterator[bytes]:
    """A table's values, row by row, as what its version is a digest of."""
    plain = pa.table([_integers(each) for each in table.columns], names=table.column_names)
    for given, now in zip(table.schema, plain.schema, strict=True):
        if now.type != given.type:  # The integer 1 is a second in one column, a day in another.
            encoded = isinstance(given.type, pa.DictionaryType)
            kind = given.type.value_type if encoded else given.type
            yield json.dumps([given.name, str(kind)]).encode() + b"\n"
    for batch in plain.to_batches(max_chunksize=4096):
        for row in batch.to_pylist():
            if row.get("image_status") == "generated":
                row["image_status"] = "reused"
            yield json.dumps(row, sort_keys=True, default=_content).encode() + b"\n"


def _integers(column: "pa.ChunkedArray[Any]") -> "pa.ChunkedArray[Any]":
    """The column with integers for points in time and durations, wherever in its type they are.

    Arrow holds years, time zones and nanoseconds that Python's own types do not, and makes
    pandas' of some of them where it is installed.
    """
    kind = _without_time(column.type)
    if kind == column.type:
        return column
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column.cast(kind)


def _without_time(kind: pa.DataType) -> pa.DataType:
    """The type with an integer of its width for each temporal one; itself where it has none."""
    types = pa.types
    if types.is_date32(kind) or types.is_time32(kind):
        return pa.int32()
    if types.is_temporal(kind) and not types.is_interval(kind):
        return pa.int64()
    if isinstance(kind, pa.DictionaryType):
        plain = _without_time(kind.value_type)
        return kind if plain == kind.value_type else plain
    if isinstance(kind, pa.MapType):
        key, item = _field_without_time(kind.key_field), _field_without_time(kind.item_field)
        return pa.map_(key, item, keys_sorted=kind.keys_sorted)  # pyright: ignore[reportCallIssue]  # its stubs know no fields
    if isinstance(kind, pa.ListType):
        return pa.list_(_field_without_time(kind.value_field))
    if isinstance(kind, pa.LargeListType):
        return pa.large_list(_field_without_time(kind.value_field))
    if isinstance(kind, pa.FixedSizeListType):
        return pa.list_(_field_without_time(kind.value_field), kind.list_size)
    if isinstance(kind, pa.StructType):
        return pa.struct([_field_without_time(field) for field in kind])
    return kind


def _field_without_time(field: "pa.Field[Any]") -> "pa.Field[Any]":
    return field.with_type(_without_time(field.type))


def usage_version(usage: Iterable[pa.Table]) -> dg.DataVersion:
    """A digest of which requests these are; rows never change once they are written."""
    ids = [str(each) for table in usage for each in table["attempt_id"].to_pylist()]
    return dg.DataVersion(hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()[:32])


def _content(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else f"{type(value).__name__} {value}"


def _pass_cost(done: FinishedPass) -> str:
    totals = done.totals
    return cost_text(
        totals.cost_usd,
        totals.list_price_usd,
        sandbox=done.plan.sandbox,
        unpriced=totals.unpriced,
    )


def _cost_metadata(cost_usd: Decimal, *, unpriced: int) -> Metadata:
    """The cost as a figure, which Dagster plots, only where it is the whole cost."""
    if unpriced:
        return {"imagegen/unpriced_requests": unpriced}
    return {"imagegen/cost_usd": float(cost_usd)}


def _description(field: "pa.Field[Any]") -> str | None:
    text = (field.metadata or {}).get(b"description", b"").decode(errors="replace")
    return _cut(text) or None


def _cut(text: str) -> str:
    return text if len(text) <= TEXT_CHARACTERS else f"{text[: TEXT_CHARACTERS - 1]}…"


def _table_metadata(table: pa.Table, *, uri: str) -> Metadata:
    return {
        "dagster/row_count": table.num_rows,
        "dagster/column_schema": column_schema(table.schema),
        # Dagster shows the first of an asset's definition only, the second of a materialization.
        "dagster/uri": uri,
        "imagegen/storage": dg.MetadataValue.path(uri),
    }


def _image_lineage(carried: Sequence[str], lineage: Lineage) -> dg.TableColumnLineage:
    deps = {
        _cut(name): [dg.TableColumnDep(asset_key=lineage.prompt_table, column_name=_cut(name))]
        for name in list(carried)[:TABLE_COLUMNS_MAX]
    }
    deps["prompt"] = [
        dg.TableColumnDep(asset_key=lineage.prompt_table, column_name=_cut(name))
        for name in lineage.prompt_columns
    ]
    return dg.TableColumnLineage(deps_by_column=deps)


_USAGE_FROM_IMAGES: Mapping[str, str] = {
    "prompt_id": "prompt_id",
    "prompt": "prompt",
    "variant": "image_variant",
    "revision": "image_revision",
    "fingerprint": "image_fingerprint",
}


def _usage_lineage(image_asset: dg.AssetKey) -> dg.TableColumnLineage:
    return dg.TableColumnLineage(
        deps_by_column={
            name: [dg.TableColumnDep(asset_key=image_asset, column_name=theirs)]
            for name, theirs in _USAGE_FROM_IMAGES.items()
        }
    )


def _sum(column: "pa.ChunkedArray[Any]") -> Any:
    return pc.sum(column).as_py()
