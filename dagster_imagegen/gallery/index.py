"""The data of a gallery's page: scripts that hand rows to it, a thousand to a file."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

from dagster_imagegen.gallery.entries import PARAMETER_COLUMNS, Entry

FIELDS = (
    "id",
    "asset",
    "partition",
    "row",
    "variant",
    "revision",
    "status",
    "error",
    "at",
    "prompt",
    "revised",
    "model",
    "parameters",
    "cost",
    "most",
    "sandbox",
    "requests",
    "path",
    "thumb",
    "format",
    "width",
    "height",
    "bytes",
    "sha256",
    "provenance",
)
"""What the page knows of an entry; in a file each entry is a list in this order."""

CHUNK_ENTRIES = 1_000
CHUNK_CHARACTERS = 2_000_000
TEXT_CHARACTERS = 4_000
"""Of a prompt. Ten thousand of the longest that an endpoint takes would be 320 MB."""

_APART = frozenset({"model", "revision"})
_MADE_AT = "%Y%m%dT%H%M%S"
_NAME = re.compile(r"(\d{8}T\d{6})-[0-9a-f]{16}(-hidden)?\.js")


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """One file of rows. Its name has the time of its build and the hash of its content, so that no
    build needs a file of another one."""

    name: str
    script: bytes
    entries: int


def index_row(entry: Entry, thumbnail: str | None, *, hidden: bool) -> list[Any]:
    """The values of `FIELDS` for one entry; without what `_private` has if `hidden`."""
    row = entry.row
    shown: dict[str, Any] = {
        "id": row["fingerprint"],
        "asset": row["asset_key"],
        "partition": row["partition_key"],
        "row": row["prompt_id"],
        "variant": row["variant"],
        "revision": row["revision"],
        "status": row["status"],
        "error": row["error_code"],
        "at": None if row["started_at"] is None else row["started_at"].isoformat(),
        "model": row["model"],
        "sandbox": entry.is_sandbox,
        "requests": entry.requests,
        "path": row["image_path"],
        "thumb": thumbnail,
        "format": row["image_format"],
        "width": row["image_width"],
        "height": row["image_height"],
        "bytes": row["image_size_bytes"],
        "sha256": row["image_sha256"],
        "provenance": row["image_provenance"],
    }
    if not hidden:
        shown |= _private(entry)
    return [shown.get(name) for name in FIELDS]


def _private(entry: Entry) -> dict[str, Any]:
    """What only those may see who may see the usage table."""
    row = entry.row
    parameters = {
        name: _cut(str(row[name]))
        for name in PARAMETER_COLUMNS
        if row[name] is not None and name not in _APART
    }
    texts = [text for text in (row["error_code"], row["error_message"]) if text]
    return {
        "prompt": _cut(row["prompt"]),
        "revised": _cut(row["revised_prompt"]),
        "parameters": parameters,
        "error": _cut(": ".join(texts)) if texts else None,
        "cost": _amount(entry.cost_usd),
        "most": _amount(entry.cost_usd_max),
    }


def chunks(
    rows: Sequence[Sequence[Any]], *, made_at: datetime, hidden: bool = False
) -> Iterator[Chunk]:
    """The files of rows, in their order. The names say of those that are `hidden` that they are."""
    lines: list[str] = []
    size = 0
    for row in rows:
        line = json.dumps(row, separators=(",", ":"))
        lines.append(line)
        size += len(line)
        if len(lines) == CHUNK_ENTRIES or size > CHUNK_CHARACTERS:
            yield _chunk(lines, made_at, hidden=hidden)
            lines, size = [], 0
    if lines:
        yield _chunk(lines, made_at, hidden=hidden)


def manifest(chunks: Sequence[Chunk], facts: Mapping[str, Any]) -> bytes:
    """The script that names the chunks, and says what is the same for all entries."""
    listed = [{"name": each.name, "entries": each.entries} for each in chunks]
    text = json.dumps({**facts, "fields": FIELDS, "chunks": listed}, separators=(",", ":"))
    return f"gallery.manifest({text});\n".encode()


def chunk_made_at(file_name: str) -> datetime | None:
    """When the build of a chunk wrote its files; None for a file that is no chunk."""
    found = _NAME.fullmatch(file_name)
    if found is None:
        return None
    return datetime.strptime(found[1], _MADE_AT).replace(tzinfo=timezone.utc)


def shows_record(file_name: str) -> bool:
    """Whether a file is a chunk with prompts and costs in it."""
    found = _NAME.fullmatch(file_name)
    return found is not None and found[2] is None


def _chunk(lines: Sequence[str], made_at: datetime, *, hidden: bool) -> Chunk:
    body = ",\n".join(lines)
    digest = hashlib.sha256(body.encode()).hexdigest()[:16]
    suffix = "-hidden" if hidden else ""
    name = f"{made_at.astimezone(timezone.utc):{_MADE_AT}}-{digest}{suffix}"
    return Chunk(
        name=name, script=f'gallery.chunk("{name}",[\n{body}\n]);\n'.encode(), entries=len(lines)
    )


def _cut(text: str | None) -> str | None:
    if text is None or len(text) <= TEXT_CHARACTERS:
        return text
    return f"{text[:TEXT_CHARACTERS]}… ({len(text):,} characters)"


def _amount(usd: Decimal | None) -> str | None:
    return None if usd is None else f"{usd.normalize():f}"
