"""Tables and totals to what Dagster shows of a materialization."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, TypeAlias

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc

from dagster_imagegen.engine.generation import Totals, cost_text
from dagster_imagegen.engine.planning import Plan
from dagster_imagegen.previews import contact_sheet, pictures, strip

Metadata: TypeAlias = dict[str, Any]

TABLE_COLUMNS_MAX = 60
"""Columns that a schema or a lineage is told for; a wider table would fill the event."""

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
) -> Metadata:
    """Previews, counts by status, cost, tokens, row count, column schema and lineage, and URI."""
    totals = done.totals
    counts = count_values([done.images["image_status"]])
    metadata: Metadata = {
        "imagegen/cost_usd": float(totals.cost_usd),
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
    shown = {"imagegen/thumbnails": strip(small), "imagegen/preview": contact_sheet(small)}
    return {name: dg.MetadataValue.md(text) for name, text in shown.items() if text} | metadata


def usage_metadata(usage: pa.Table, *, uri: str, image_asset: dg.AssetKey) -> Metadata:
    """Cost by basis, tokens and counts by status of these usage rows, schema, lineage and URI."""
    statuses = count_values([usage["status"]])
    return {
        "imagegen/cost_usd": float(_sum(usage["cost_usd"]) or 0),
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
                name=field.name,
                type=str(field.type),
                description=(field.metadata or {}).get(b"description", b"").decode() or None,
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
        for batch in table.drop_columns(dropped).to_batches(max_chunksize=4096):
            for row in batch.to_pylist():
                if row["image_status"] == "generated":
                    row["image_status"] = "reused"
                line = json.dumps(row, sort_keys=True, default=_content)
                digest.update(line.encode() + b"\n")
        digest.update(b"\x00")
    return dg.DataVersion(digest.hexdigest()[:32])


def usage_version(usage: Iterable[pa.Table]) -> dg.DataVersion:
    """A digest of which requests these are; rows never change once they are written."""
    ids = [str(each) for table in usage for each in table["attempt_id"].to_pylist()]
    return dg.DataVersion(hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()[:32])


def _content(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else f"{type(value).__name__} {value}"


def _pass_cost(done: FinishedPass) -> str:
    totals = done.totals
    text = cost_text(totals.cost_usd, totals.list_price_usd, sandbox=done.plan.sandbox)
    if totals.unpriced:
        text += f", and {totals.unpriced:,} requests of unknown cost"
    return text


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
        name: [dg.TableColumnDep(asset_key=lineage.prompt_table, column_name=name)]
        for name in list(carried)[:TABLE_COLUMNS_MAX]
    }
    deps["prompt"] = [
        dg.TableColumnDep(asset_key=lineage.prompt_table, column_name=name)
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
