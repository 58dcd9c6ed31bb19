"""Tables and totals to what Dagster shows of a materialization. Reads images, writes nothing."""

import base64
import hashlib
import io
import json
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, TypeAlias

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from dagster_imagegen.engine.generation import Totals, cost_text
from dagster_imagegen.engine.planning import Plan

Metadata: TypeAlias = dict[str, Any]

PREVIEWS = 12
PREVIEW_COLUMNS = 4
PREVIEW_BYTES = 36_000
"""All previews together, as Dagster stores them. Some event-log databases hold 64 KB an event, and
the column schema is in it too."""

PREVIEW_FORMS = ((176, 60), (144, 50), (112, 45), (80, 40), (56, 35))
"""(longest side in pixels, quality): the first with which all fit is taken."""

PIXELS_MAX = 64_000_000
IMAGE_BYTES_MAX = 64_000_000
CAPTION_CHARACTERS = 48
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
    counts = Counter[str](done.images["image_status"].to_pylist())
    metadata: Metadata = {
        "imagegen/cost_usd": float(totals.cost_usd),
        "imagegen/cost": _pass_cost(done),
        "imagegen/images": done.images.num_rows,
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
    shown = previews(done.images, read_image)
    return {"imagegen/preview": dg.MetadataValue.md(shown), **metadata} if shown else metadata


def usage_metadata(usage: pa.Table, *, uri: str, image_asset: dg.AssetKey) -> Metadata:
    """Cost by basis, tokens and counts by status of these usage rows, schema, lineage and URI."""
    statuses = Counter[str](usage["status"].to_pylist())
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
    """`$0.40 metered (38 requests), $0.02 estimated (1), unknown (1)`: never one sum of unequals."""
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


def _content(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else f"{type(value).__name__} {value}"


# -- previews ------------------------------------------------------------------------------------


def previews(
    images: pa.Table,
    read_image: Callable[[str], bytes],
    *,
    most: int = PREVIEWS,
    max_bytes: int = PREVIEW_BYTES,
) -> str:
    """Markdown with small pictures of the first images, those made now before the others.

    At most `max_bytes` as Dagster stores it (as JSON), with fewer or smaller pictures where it
    would be more. An image that cannot be shown (SVG, a broken file, one of absurd size, one that
    is gone) is left out: a preview never fails an asset. "" without any.
    """
    pictures: list[tuple[Image.Image, str]] = []
    for path, caption in _candidates(images, limit=4 * most):
        picture = _decoded(path, read_image)
        if picture is not None:
            pictures.append((picture, caption))
        if len(pictures) == most:
            break
    while pictures:
        for side, quality in PREVIEW_FORMS:
            markdown = _grid([(_data_uri(p, side, quality), caption) for p, caption in pictures])
            if len(json.dumps(markdown)) <= max_bytes:
                return markdown
        pictures = pictures[: len(pictures) // 2]
    return ""


def _candidates(images: pa.Table, *, limit: int) -> Iterator[tuple[str, str]]:
    """Paths and captions of distinct images, those made now first."""
    table = images.select(["image_path", "image_status", "image_size_bytes", "prompt"])
    seen: set[str] = set()
    for status in ("generated", "reused"):
        rows = table.filter(pc.field("image_status") == status).slice(0, limit)
        for row in rows.to_pylist():
            path = row["image_path"]
            if path not in seen and (row["image_size_bytes"] or 0) <= IMAGE_BYTES_MAX:
                seen.add(path)
                yield path, row["prompt"]


def _decoded(path: str, read_image: Callable[[str], bytes]) -> Image.Image | None:
    side = PREVIEW_FORMS[0][0]
    try:
        with warnings.catch_warnings():
            # Pillow warns of decompression bombs before it refuses them.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(read_image(path))) as image:
                if image.width * image.height > PIXELS_MAX:
                    return None
                image.draft("RGB", (2 * side, 2 * side))  # JPEG: decodes a smaller one at once.
                picture = image.convert("RGBA" if _has_alpha(image) else "RGB")
                picture.thumbnail((side, side))
                return picture
    except Exception:  # noqa: BLE001  # whatever a file or a storage may do, it is a preview
        return None


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info


def _data_uri(picture: Image.Image, side: int, quality: int) -> str:
    small = picture.copy()
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=quality, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _grid(pictures: Sequence[tuple[str, str]]) -> str:
    """A markdown table of pictures, each over its prompt."""
    width = min(PREVIEW_COLUMNS, len(pictures))
    lines: list[str] = []
    for start in range(0, len(pictures), width):
        row = list(pictures[start : start + width])
        row += [("", "")] * (width - len(row))
        lines.append(_cells(f"![image]({uri})" if uri else "" for uri, _ in row))
        if start == 0:
            lines.append(_cells(["---"] * width))
        lines.append(_cells(literal(caption) if uri else "" for uri, caption in row))
    return "\n".join(lines)


def _cells(cells: Iterator[str] | Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def literal(text: str) -> str:
    """Text as inline code, so that nothing in it is read as markdown, HTML or a link.

    Cut, on one line, and with stand-ins for the two characters that end a cell or a code span.
    """
    one_line = " ".join(text.split())
    cut = one_line if len(one_line) <= CAPTION_CHARACTERS else f"{one_line[:CAPTION_CHARACTERS]}…"
    printable = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in cut)
    return f"`{printable.replace('`', chr(0x2B9)).replace('|', chr(0xA6)) or ' '}`"


# -- the rest ------------------------------------------------------------------------------------


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
        "dagster/uri": uri,
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
