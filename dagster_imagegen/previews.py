"""Small pictures for Dagster's asset page, as markdown with the pictures in it."""

import base64
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image, WebPImagePlugin

from dagster_imagegen.decoding import IMAGE_BYTES_MAX, small_image, without_warnings
from dagster_imagegen.event_size import json_size

SHOWN_COLUMNS = ("prompt_id", "prompt", "image_uri", "image_path")

PICTURES = 12
SHEET_COLUMNS = 4
SHEET_BYTES = 36_000
"""Of a whole sheet, as Dagster stores it, unless an event has less room for it."""

SHEET_FORMS = ((224, 60), (176, 60), (144, 50), (112, 45), (80, 40), (56, 35))
"""(longest side in pixels, quality): the first with which all pictures fit is used."""

THUMBNAILS = 3
THUMBNAIL_CHARACTERS = 999
"""Dagster shows markdown of fewer than 1,000 characters in place, and longer text on a click."""

THUMBNAIL_FORMS = (
    (144, 20),
    (128, 20),
    (128, 10),
    (112, 10),
    (96, 10),
    (80, 10),
    (56, 10),
    (24, 5),
)

SAMPLES = 4
SAMPLE_COLUMNS = 2
SAMPLE_BYTES = 12_000
SAMPLE_FORMS = ((112, 75), (112, 60), (112, 45), (96, 40), (64, 30))
"""The description of a column is shown whatever its length, and is 260 pixels wide."""

CAPTION_CHARACTERS = 64

WEBP = WebPImagePlugin.WebPImageFile.format
"""Named by its own module: else the first picture loads those of all formats that there are."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One image, made small, with the name of its row, its prompt, and where a browser finds it."""

    image: Image.Image
    name: str
    prompt: str
    address: str | None = None


def pictures(images: pa.Table, read_image: Callable[[str], bytes]) -> list[Picture]:
    """The first images of an image table, those made in this run before the others.

    Images that cannot be shown (SVG, broken, very large, deleted) are left out: a preview never
    fails an asset.
    """
    decoded = (
        (_decoded(row["image_path"], read_image), row)
        for row in _candidates(images, limit=4 * PICTURES)
    )
    found = (
        Picture(
            image=image,
            name=row["prompt_id"],
            prompt=row["prompt"],
            address=browser_address(row["image_uri"]),
        )
        for image, row in decoded
        if image is not None
    )
    return list(islice(found, PICTURES))


def browser_address(uri: str | None) -> str | None:
    """Where a browser can open a stored image, for a link; None where it cannot.

    A page of the UI must not link to files, and an address in S3 or Azure has to be signed.
    Google's asks for a login.
    """
    scheme, _, path = (uri or "").partition("://")
    if scheme in ("http", "https"):
        return quote(f"{uri}", safe="/:?#@!$&'*+,;=%~")
    return f"https://storage.cloud.google.com/{quote(path)}" if scheme == "gs" else None


def contact_sheet(
    pictures: Sequence[Picture], *, captions: bool = True, max_bytes: int = SHEET_BYTES
) -> str:
    """A markdown table of pictures, each above its row's name, and its prompt if `captions`.

    "" without pictures. To stay within `max_bytes` of JSON, as Dagster stores it, pictures are made
    smaller or left out.
    """
    max_bytes = min(max_bytes, SHEET_BYTES)
    return _fitting(pictures, SHEET_FORMS, SHEET_COLUMNS, max_bytes, prompts=captions)


def samples(pictures: Sequence[Picture]) -> str:
    """A few pictures for the description of the column that has them, each above its row's name."""
    return _fitting(pictures[:SAMPLES], SAMPLE_FORMS, SAMPLE_COLUMNS, SAMPLE_BYTES)


def thumbnails(pictures: Sequence[Picture]) -> list[str]:
    """The first few, each short enough to be shown without a click, above its row's name."""
    made = (_thumbnail(each) for each in pictures[:THUMBNAILS])
    return [each for each in made if each]


def _thumbnail(picture: Picture) -> str:
    for form in THUMBNAIL_FORMS:
        markdown = f"{_shown(picture, form)}\n\n{literal(picture.name)}"
        if len(markdown) <= THUMBNAIL_CHARACTERS:
            return markdown
    return ""


def _fitting(
    shown: Sequence[Picture],
    forms: Sequence[tuple[int, int]],
    columns: int,
    max_bytes: int,
    *,
    prompts: bool = False,
) -> str:
    while shown:
        for form in forms:
            made = _all_shown(shown, form, max_bytes)
            if made is None:
                continue
            rows = [made, [literal(each.name) for each in shown]]
            if prompts:
                rows.append([literal(each.prompt) for each in shown])
            markdown = _grid(rows, min(columns, len(shown)))
            if json_size(markdown) <= max_bytes:
                return markdown
        shown = shown[: len(shown) // 2]
    return ""


def _all_shown(
    shown: Sequence[Picture], form: tuple[int, int], max_bytes: int
) -> Sequence[str] | None:
    """All pictures of this form; None as soon as they are too large together: each costs time."""
    made: list[str] = []
    for each in shown:
        made.append(_shown(each, form))
        if sum(map(len, made)) > max_bytes:
            return None
    return made


def literal(text: str) -> str:
    """Text as inline code on one line, so that nothing in it is markdown, HTML or a link.

    It is cut, and similar characters replace the two that end a table cell or a code span.
    """
    one_line = " ".join(text.split())
    cut = one_line if len(one_line) <= CAPTION_CHARACTERS else f"{one_line[:CAPTION_CHARACTERS]}…"
    printable = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in cut)
    stand_ins = {"`": "\N{MODIFIER LETTER PRIME}", "|": "\N{BROKEN BAR}"}
    return f"`{printable.translate(str.maketrans(stand_ins)) or ' '}`"


def _candidates(images: pa.Table, *, limit: int) -> Iterator[Mapping[str, Any]]:
    """Rows of distinct images, those made in this run first."""
    table = images.select(["image_status", "image_size_bytes", *SHOWN_COLUMNS])
    seen: set[str] = set()
    for status in ("generated", "reused"):
        rows = table.filter(pc.field("image_status") == status).slice(0, limit)
        for row in rows.to_pylist():
            path = row["image_path"]
            if path not in seen and (row["image_size_bytes"] or 0) <= IMAGE_BYTES_MAX:
                seen.add(path)
                yield row


def _decoded(path: str, read_image: Callable[[str], bytes]) -> Image.Image | None:
    try:
        data = read_image(path)
        with without_warnings():
            return small_image(data, SHEET_FORMS[0][0])
    except Exception:  # noqa: BLE001  # whatever a file or a storage does, this is a preview
        return None


def _shown(picture: Picture, form: tuple[int, int]) -> str:
    """A picture of this form as markdown, which links to the image where that is possible."""
    side, quality = form
    small = picture.image.copy()
    small.thumbnail((side, side))
    image = f"![image]({_data_uri(small, quality)})"
    return f"[{image}]({picture.address})" if picture.address else image


def _data_uri(image: Image.Image, quality: int) -> str:
    buffer = io.BytesIO()
    image.save(buffer, WEBP, quality=quality, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _grid(rows: Sequence[Sequence[str]], width: int) -> str:
    """A markdown table of blocks: as many cells of each row as fit side by side, then the next."""
    lines: list[str] = []
    for start in range(0, len(rows[0]), width):
        for row in rows:
            cells = row[start : start + width]
            lines.append(_line([*cells, *[""] * (width - len(cells))]))
            if len(lines) == 1:
                lines.append(_line(["---"] * width))
    return "\n".join(lines)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
