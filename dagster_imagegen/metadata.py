"""What Dagster shows of a materialization: previews, counts, cost, schema and data version."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, cast

import dagster as dg
import pyarrow as pa

from dagster_imagegen.engine.errors import ConfigurationError
from dagster_imagegen.engine.image_table import OUR_COLUMNS
from dagster_imagegen.engine.money.amounts import usd_text
from dagster_imagegen.engine.prompts.rows import PromptTable
from dagster_imagegen.engine.prompts.table import name_before
from dagster_imagegen.engine.run.plan import Plan
from dagster_imagegen.engine.run.progress import Totals, cost_text
from dagster_imagegen.event_size import cut, room, within
from dagster_imagegen.previews import Picture, contact_sheet, samples, thumbnails

SCHEMA_BYTES = 16_000
LINEAGE_BYTES = 10_000
"""The columns of a wide table would fill the event: as many are shown as take these bytes of it."""

SAMPLED = "image_uri"
"""The column whose description has pictures."""

TIME_TYPE = re.compile(r"\b(timestamp|duration|date\d\d|time\d\d)\[")
"""Arrow's types of times, in the text of a type."""

# The columns of ours that decide the data version. When, by whom and at what cost an image was
# made do not.
CONTENT_COLUMNS = (
    "prompt_id",
    "prompt",
    "image_variant",
    "image_revision",
    "image_fingerprint",
    "image_path",
    "image_sha256",
    "image_published_uri",
)


@dataclass(frozen=True, kw_only=True)
class FinishedPass:
    """What a pass made of one prompt table, and spent on it.

    `retry_can_help` is whether a retry of the run would request any of what is missing.
    `publishing` is the metadata of what was published.
    """

    prompts: PromptTable
    images: pa.Table
    totals: Totals
    sandbox: bool
    retry_can_help: bool = False
    publishing: Mapping[str, Any] = field(default_factory=dict[str, Any])


def result_metadata(
    images: pa.Table,
    totals: Totals,
    small: Sequence[Picture],
    *,
    sandbox: bool,
    uri: str,
    captions: bool = True,
    first: Mapping[str, Any] | None = None,
    beside: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Cost and pictures, then counts by status, spending and the URI.

    Dagster shows the entries in this order. The event also has what comes `first` and what is
    `beside`, and the contact sheet takes the room that all others leave. Without `captions` no
    prompt is shown.
    """
    counts = count_values([images["image_status"]])
    partial = partial_images(images)
    spending = spending_metadata(totals, sandbox=sandbox)
    thumbs = {
        f"imagegen/thumbnail_{number}": dg.MetadataValue.md(text)
        for number, text in enumerate(thumbnails(small), start=1)
    }
    leading = {
        **(first or {}),
        "imagegen/cost": spending.pop("imagegen/cost"),
        "imagegen/images": images.num_rows,
        **thumbs,
    }
    rest = {
        "imagegen/generated": counts.pop("generated", 0),
        "imagegen/reused": counts.pop("reused", 0),
        **{f"imagegen/{status}": count for status, count in sorted(counts.items())},
        **({"imagegen/partial_images": partial} if partial else {}),
        **spending,
        # Dagster shows the first on an asset's definition only, the second on a materialization.
        "dagster/uri": uri,
        "imagegen/storage": dg.MetadataValue.path(uri),
        **(beside or {}),
    }
    left = room({**leading, **rest})
    sheet = contact_sheet(small, captions=captions, max_bytes=left)
    return {
        **leading,
        **({"imagegen/preview": dg.MetadataValue.md(sheet)} if sheet else {}),
        **rest,
    }


def table_metadata(
    done: FinishedPass,
    small: Sequence[Picture] = (),
    *,
    upstream: dg.AssetKey | None = None,
    prompt_columns: Sequence[str] = (),
    carry_prefix: str | None = None,
) -> dict[str, Any]:
    """Row count, column schema and lineage of an image table that is stored.

    `upstream` is the asset that is the prompt table, if one is, and its `prompt_columns` make the
    prompt; those under `carry_prefix` have a name without it there.
    """
    metadata: dict[str, Any] = {
        "dagster/row_count": done.images.num_rows,
        "dagster/column_schema": _with_samples(column_schema(done.images.schema), small),
    }
    if upstream is not None:
        metadata["dagster/column_lineage"] = _column_lineage(
            done.prompts.carried.column_names, upstream, prompt_columns, carry_prefix
        )
    return metadata


def plan_metadata(plan: Plan) -> dict[str, Any]:
    """What a run would request, and what that would cost by the price list if it has a price."""
    counts = {
        "to_request": plan.to_send,
        "retried": plan.retried,
        "reused": plan.reused,
        "duplicates": plan.duplicates,
        "refused": plan.refused,
        "unknown": plan.unknown,
        "missing": plan.missing,
    }
    low, high = plan.cost_range_usd or (None, None)
    return {
        "imagegen/plan": plan.describe(),
        "imagegen/rows": plan.rows,
        "imagegen/images": plan.images,
        **{f"imagegen/{name}": count for name, count in counts.items()},
        **({} if low is None else {"imagegen/planned_usd_min": float(low)}),
        **({} if high is None else {"imagegen/planned_usd_max": float(high)}),
    }


def spending_metadata(totals: Totals, *, sandbox: bool) -> dict[str, Any]:
    """Cost, requests by status, and tokens of one pass, whether it finished or not.

    `imagegen/cost_usd`, which Dagster plots, is there only if it is the whole cost, and beside it
    `imagegen/cost_usd_max`.
    """
    unanswered = totals.requests - totals.statuses.total()
    statuses = totals.statuses + Counter(unknown=unanswered)
    unpriced = totals.unpriced + (0 if sandbox else unanswered)
    cost = cost_text(totals, sandbox=sandbox, unanswered=unanswered)
    return {
        **(
            {"imagegen/unpriced_requests": unpriced}
            if unpriced
            else {
                "imagegen/cost_usd": float(totals.cost_usd),
                "imagegen/cost_usd_max": float(totals.cost_usd_max),
            }
        ),
        "imagegen/cost": cost,
        "imagegen/cost_by_basis": cost_by_basis(totals),
        **({"imagegen/list_price_usd": float(totals.list_price_usd)} if sandbox else {}),
        "imagegen/requests": totals.requests,
        **{f"imagegen/requests_{status}": count for status, count in sorted(statuses.items())},
        "imagegen/input_tokens": totals.input_tokens,
        "imagegen/output_tokens": totals.output_tokens,
        "imagegen/total_tokens": totals.total_tokens,
    }


def cost_by_basis(totals: Totals) -> str:
    """`$0.40 metered (38), $0.02 estimated (1), unknown (1)`: no sum over different bases."""
    parts = [
        f"{f'{usd_text(usd)} ' if usd or basis != 'unknown' else ''}{basis} ({requests:,})"
        for basis, (requests, usd) in sorted(totals.by_basis.items())
    ]
    return ", ".join(parts) or f"{usd_text(Decimal(0))}, nothing was sent"


def count_values(columns: "Iterable[pa.ChunkedArray[Any]]") -> Counter[str]:
    """How often each text occurs in the columns."""
    return Counter(str(value) for column in columns for value in column.to_pylist())


def counts_text(counts: Mapping[str, int]) -> str:
    """`2 generated, 1 failed`."""
    return ", ".join(f"{count:,} {status}" for status, count in counts.items())


def partial_images(images: pa.Table) -> int:
    """How many rows of an image table have a partial image."""
    return images["image_partial"].to_pylist().count(True)


def column_schema(schema: pa.Schema) -> dg.TableSchema:
    """The columns as Dagster shows them, with the descriptions that Arrow fields carry."""
    columns = (
        dg.TableColumn(
            name=cut(field.name), type=cut(str(field.type)), description=_description(field)
        )
        for field in schema
    )
    return dg.TableSchema(columns=[*within(columns, SCHEMA_BYTES)])


def _with_samples(schema: dg.TableSchema, small: Sequence[Picture]) -> dg.TableSchema:
    """The schema with pictures in the description of `image_uri`, which comes first.

    An asset's page begins with its columns, so that this is where they are seen at once. The
    metadata, in which they are as well, is below the last column.
    """
    pictured = samples(small)
    if not pictured:
        return schema
    described = f"{pictured}\n\n{_description(OUR_COLUMNS.field(SAMPLED))}"
    column = dg.TableColumn(name=SAMPLED, type="string", description=described)
    rest = [each for each in schema.columns if each.name != SAMPLED]
    return dg.TableSchema(columns=[column, *rest])


def data_version(images: Sequence[pa.Table]) -> dg.DataVersion:
    """A digest of the image tables' content: carried values, prompts, and images by sha256.

    It does not depend on when or in which run and storage an image was made, nor on how Arrow
    holds the table in memory, so `data_version_changed()` is true only after a change.
    """
    digest = hashlib.sha256()
    for table in images:
        ours = [name for name in table.column_names if name.startswith("image_")]
        dropped = [name for name in ours if name not in (*CONTENT_COLUMNS, "image_status")]
        for line in _lines(table.drop_columns(dropped)):
            digest.update(line)
        digest.update(b"\x00")
    return dg.DataVersion(digest.hexdigest()[:32])


def check_carried(carried: pa.Table, *, show_values: bool = True) -> None:
    """Do before the images are paid for what is done with carried columns afterwards.

    Raises `ConfigurationError` naming a column that cannot be carried. Without `show_values` it
    does not repeat Arrow's message, in which values can be.
    """
    for name in carried.column_names:
        column = carried.select([name])
        try:
            column_schema(column.schema)
            column.take(pa.array([], pa.int64()))
            for _ in _lines(column):
                pass
        except Exception as error:  # noqa: BLE001  # raised again as ours
            why = f": {error}" if show_values else ""
            raise ConfigurationError(
                f'column "{cut(name)}" of the prompt table ({cut(str(column.schema.types[0]))}) '
                f"cannot be carried into the image table{why}; convert it or leave it out"
            ) from (error if show_values else None)


def _lines(table: pa.Table) -> Iterator[bytes]:
    """The bytes that a data version is a digest of: the types of times, then the rows."""
    timed: set[str] = set()
    for column in table.schema:
        encoded = isinstance(column.type, pa.DictionaryType)
        kind = str(column.type.value_type if encoded else column.type)
        if TIME_TYPE.search(kind):  # The integer 1 is a second in one column, a day in another.
            timed.add(column.name)
            yield json.dumps([column.name, kind]).encode() + b"\n"
    for batch in table.to_batches(max_chunksize=4096):
        values = [
            [_integers(each) for each in column] if name in timed else column.to_pylist()
            for name, column in zip(batch.schema.names, batch.columns, strict=True)
        ]
        for cells in zip(*values, strict=True):
            row = dict(zip(batch.schema.names, cells, strict=True))
            if row.get("image_status") == "generated":
                row["image_status"] = "reused"
            yield json.dumps(row, sort_keys=True, default=_content).encode() + b"\n"


def _integers(scalar: "pa.Scalar[Any]") -> object:
    """The value with its times and durations as integers, also inside lists and structs.

    Arrow holds years, time zones and nanoseconds that Python's types do not, and turns some into
    pandas objects if pandas is installed.
    """
    if not scalar.is_valid:
        return None
    if TIME_TYPE.match(str(scalar.type)) or isinstance(scalar, pa.DictionaryScalar):
        value = scalar.value  # pyright: ignore[reportAttributeAccessIssue]  # all of these have it
        return _integers(value) if isinstance(value, pa.Scalar) else value
    if isinstance(scalar, pa.StructScalar):
        fields = cast("Mapping[str, pa.Scalar[Any]]", scalar)
        return {name: _integers(each) for name, each in fields.items()}
    if isinstance(scalar, (pa.ListScalar, pa.LargeListScalar, pa.FixedSizeListScalar)):
        return [_integers(each) for each in cast("pa.Array[Any]", scalar.values)]
    return scalar.as_py()


def _content(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else f"{type(value).__name__} {value}"


def _description(field: "pa.Field[Any]") -> str | None:
    text = (field.metadata or {}).get(b"description", b"").decode(errors="replace")
    return cut(text) or None


def _column_lineage(
    carried: Sequence[str],
    upstream: dg.AssetKey,
    prompt_columns: Sequence[str],
    carry_prefix: str | None,
) -> dg.TableColumnLineage:
    def column(name: str) -> dg.TableColumnDep:
        return dg.TableColumnDep(
            asset_key=upstream, column_name=cut(name_before(name, carry_prefix))
        )

    prompt = [*within(map(column, prompt_columns), LINEAGE_BYTES // 2)]
    each_alone = (dg.TableColumnLineage({cut(name): [column(name)]}) for name in carried)
    deps = {
        name: on
        for each in within(each_alone, LINEAGE_BYTES // 2)
        for name, on in each.deps_by_column.items()
    }
    # Last: a carried column `prompt` is not the one that is sent.
    return dg.TableColumnLineage(deps_by_column={**deps, "prompt": prompt})
