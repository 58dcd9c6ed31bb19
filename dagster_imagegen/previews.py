"""Small pictures for Dagster's asset page, as markdown with the pictures in it."""

import base64
import io
import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from dagster_imagegen.engine.image_header import read_header

PICTURES = 12
SHEET_COLUMNS = 4
SHEET_BYTES = 36_000
"""Of a whole sheet, as Dagster stores it. Some event-log databases allow 64 KB per event, and the
event also has the column schema."""

SHEET_FORMS = ((224, 60), (176, 60), (144, 50), (112, 45), (80, 40), (56, 35))
"""(longest side in pixels, quality): the first with which all pictures fit is used."""

STRIP_CHARACTERS = 999
"""Dagster shows markdown of fewer than 1,000 characters in place, and longer text on a click."""

STRIP_FORMS = (
    (5, 48, 20),
    (4, 48, 20),
    (4, 40, 20),
    (3, 40, 20),
    (3, 32, 15),
    (2, 32, 15),
    (1, 40, 15),
    (1, 32, 10),
    (1, 20, 5),
)
"""(pictures, height in pixels, quality): the first that fits is used."""

PIXELS_MAX = 40_000_000
"""More than 8K has. Decoding needs at most eight bytes per pixel: two copies of four."""

IMAGE_BYTES_MAX = 64_000_000
FORMATS = frozenset({"png", "jpeg", "webp", "gif", "avif"})
JPEG_SCANS_MAX = 32
"""A progressive JPEG has about ten. Each visits every pixel, however few bytes it has."""

CAPTION_CHARACTERS = 64


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One image, made small, and its prompt."""

    image: Image.Image
    prompt: str


def pictures(images: pa.Table, read_image: Callable[[str], bytes]) -> list[Picture]:
    """The first images of an image table, those made in this run before the others.

    Images that cannot be shown (SVG, broken, very large, deleted) are left out: a preview never
    fails an asset.
    """
    decoded = (
        (_decoded(path, read_image), prompt)
        for path, prompt in _candidates(images, limit=4 * PICTURES)
    )
    found = (Picture(image=image, prompt=prompt) for image, prompt in decoded if image is not None)
    return list(islice(found, PICTURES))


def contact_sheet(
    pictures: Sequence[Picture], *, captions: bool = True, max_bytes: int = SHEET_BYTES
) -> str:
    """A markdown table of pictures, each above its prompt if `captions`; "" without pictures.

    To stay within `max_bytes` of JSON, as Dagster stores it, pictures are made smaller or left out.
    """
    shown = list(pictures)
    while shown:
        for side, quality in SHEET_FORMS:
            cells = [(_data_uri(_shrunk(p.image, side, side), quality), p.prompt) for p in shown]
            markdown = _grid(cells, captions=captions)
            if len(json.dumps(markdown)) <= max_bytes:
                return markdown
        shown = shown[: len(shown) // 2]
    return ""


def strip(pictures: Sequence[Picture], *, max_characters: int = STRIP_CHARACTERS) -> str:
    """The first few side by side as one picture, small enough to be shown without a click."""
    for count, height, quality in STRIP_FORMS:
        row = [_shrunk(each.image, 2 * height, height) for each in pictures[:count]]
        if not row:
            return ""
        joined = Image.new("RGB", (sum(each.width + 2 for each in row) - 2, height), "white")
        left = 0
        for each in row:
            joined.paste(each, (left, (height - each.height) // 2))
            left += each.width + 2
        markdown = f"![images]({_data_uri(joined, quality)})"
        if len(markdown) <= max_characters:
            return markdown
    return ""


def literal(text: str) -> str:
    """Text as inline code on one line, so that nothing in it is markdown, HTML or a link.

    It is cut, and similar characters replace the two that end a table cell or a code span.
    """
    one_line = " ".join(text.split())
    cut = one_line if len(one_line) <= CAPTION_CHARACTERS else f"{one_line[:CAPTION_CHARACTERS]}…"
    printable = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in cut)
    stand_ins = {"`": "\N{MODIFIER LETTER PRIME}", "|": "\N{BROKEN BAR}"}
    return f"`{printable.translate(str.maketrans(stand_ins)) or ' '}`"


def _candidates(images: pa.Table, *, limit: int) -> Iterator[tuple[str, str]]:
    """Paths and prompts of distinct images, those made in this run first."""
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
    side = SHEET_FORMS[0][0]
    try:
        data = read_image(path)
        image_format = _format_to_show(data)
        if image_format is None:
            return None
        with warnings.catch_warnings():
            # Images that Pillow warns of are left out below.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=[image_format]) as image:
                if image.width * image.height > PIXELS_MAX:  # A GIF's frame can be larger.
                    return None
                image.draft("RGB", (2 * side, 2 * side))  # JPEG: decodes a smaller one at once.
                small = _small(image, side)
                # On white: a picture with alpha takes twice the bytes, and its sheet is white.
                paper = Image.new("RGB", small.size, "white")
                paper.paste(small, mask=small if small.mode == "RGBA" else None)
                return paper
    except Exception:  # noqa: BLE001  # whatever a file or a storage does, this is a preview
        return None


def _format_to_show(data: bytes) -> str | None:
    """The format by the first bytes; None for images that are not decoded.

    Some decoders allocate the whole canvas before Pillow checks its size, and by default Pillow
    tries every format that it knows.
    """
    header = read_header(data)
    if header is None or header.format not in FORMATS:
        return None
    if (header.width or 0) * (header.height or 0) > PIXELS_MAX:
        return None
    # These two bytes begin a scan and occur nowhere else in a JPEG.
    too_slow = header.format == "jpeg" and data.count(b"\xff\xda") > JPEG_SCANS_MAX
    return None if too_slow else header.format.upper()


def _small(image: Image.Image, side: int) -> Image.Image:
    """The picture made small before it is converted, because a copy of the whole is large."""
    if "transparency" in image.info or image.mode in ("1", "P", "PA"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    image.thumbnail((side, side))
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _shrunk(image: Image.Image, width: int, height: int) -> Image.Image:
    small = image.copy()
    small.thumbnail((width, height))
    return small


def _data_uri(image: Image.Image, quality: int) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _grid(cells: Sequence[tuple[str, str]], *, captions: bool) -> str:
    width = min(SHEET_COLUMNS, len(cells))
    lines: list[str] = []
    for start in range(0, len(cells), width):
        row = [*cells[start : start + width], *[("", "")] * width][:width]
        lines.append(_line(f"![image]({uri})" if uri else "" for uri, _ in row))
        if start == 0:
            lines.append(_line(["---"] * width))
        if captions:
            lines.append(_line(literal(prompt) if uri else "" for uri, prompt in row))
    return "\n".join(lines)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
