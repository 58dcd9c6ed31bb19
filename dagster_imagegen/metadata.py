"""What Dagster shows of a materialization: previews, counts, cost, schema and data version."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import dagster as dg
import pyarrow as pa

from dagster_imagegen.engine.errors import ConfigurationError
from dagster_imagegen.engine.run.plan import Plan
from dagster_imagegen.engine.run.progress import Totals, cost_text
from dagster_imagegen.previews import contact_sheet, pictures, strip

TABLE_COLUMNS_MAX = 60
"""A schema and a lineage show this many columns: those of a wide table would fill the event."""

TEXT_CHARACTERS = 200
"""The longest name, type or description of a column that is shown; some are pages long."""

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
)


@dataclass(frozen=True, kw_only=True)
class FinishedPass:
    """What a pass over one prompt table planned, made and spent.

    `retry_can_help` is whether a retry of the run would request any of what is missing.
    """

    plan: Plan
    images: pa.Table
    totals: Totals
    retry_can_help: bool = False


def image_metadata(
    done: FinishedPass,
    *,
    uri: str,
    read_image: Callable[[str], bytes],
    upstream: dg.AssetKey | None = None,
    prompt_columns: Sequence[str] = (),
    captions: bool = True,
) -> dict[str, Any]:
    """Previews, counts by status, spending, row count, column schema and lineage, and the URI.

    `upstream` is the asset that is the prompt table, if one is, and its `prompt_columns` make the
    prompt. Without `captions` no prompt is shown.
    """
    counts = count_values([done.images["image_status"]])
    partial = partial_images(done.images)
    small = pictures(done.images, read_image)
    shown = {
        "imagegen/thumbnails": strip(small),
        "imagegen/preview": contact_sheet(small, captions=captions),
    }
    metadata: dict[str, Any] = {
        **{name: dg.MetadataValue.md(text) for name, text in shown.items() if text},
        "imagegen/images": done.images.num_rows,
        "imagegen/generated": counts.pop("generated", 0),
        "imagegen/reused": counts.pop("reused", 0),
        **{f"imagegen/{status}": count for status, count in sorted(counts.items())},
        **({"imagegen/partial_images": partial} if partial else {}),
        **spending_metadata(done.totals, sandbox=done.plan.sandbox),
        "dagster/row_count": done.images.num_rows,
        "dagster/column_schema": column_schema(done.images.schema),
        # Dagster shows the first on an asset's definition only, the second on a materialization.
        "dagster/uri": uri,
        "imagegen/storage": dg.MetadataValue.path(uri),
    }
    if upstream is not None:
        carried = done.plan.prompts.carried.column_names
        metadata["dagster/column_lineage"] = _column_lineage(carried, upstream, prompt_columns)
    return metadata


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
        f"{f'${usd:,.4f} ' if usd or basis != 'unknown' else ''}{basis} ({requests:,})"
        for basis, (requests, usd) in sorted(totals.by_basis.items())
    ]
    return ", ".join(parts) or "$0.00, nothing was sent"


def count_values(columns: "Iterable[pa.ChunkedArray[Any]]") -> Counter[str]:
    """How often each text occurs in the columns."""
    return Counter(str(value) for column in columns for value in column.to_pylist())


def partial_images(images: pa.Table) -> int:
    """How many rows of an image table have a partial image."""
    return images["image_partial"].to_pylist().count(True)


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
                f'column "{_cut(name)}" of the prompt table ({_cut(str(column.schema.types[0]))}) '
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
    return _cut(text) or None


def _cut(text: str) -> str:
    return text if len(text) <= TEXT_CHARACTERS else f"{text[: TEXT_CHARACTERS - 1]}…"


def _column_lineage(
    carried: Sequence[str], upstream: dg.AssetKey, prompt_columns: Sequence[str]
) -> dg.TableColumnLineage:
    def column(name: str) -> dg.TableColumnDep:
        return dg.TableColumnDep(asset_key=upstream, column_name=_cut(name))

    deps = {_cut(name): [column(name)] for name in list(carried)[:TABLE_COLUMNS_MAX]}
    deps["prompt"] = [column(name) for name in prompt_columns]
    return dg.TableColumnLineage(deps_by_column=deps)
