"""The contact sheet: pictures in rows of one width, with a caption under each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

from PIL import Image, ImageDraw, ImageFont

WIDTH, MARGIN, GAP = 2000, 72, 24
HEADER, CAPTION, RADIUS = 196, 108, 10
ROW_HEIGHT = 270  # About: a row's own follows from filling the width.
PAPER, INK, FAINT, EMPTY = (250, 248, 244), (43, 40, 37), (128, 121, 112), (234, 229, 220)
OVERSAMPLING = 4


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One product. `file` is None where there is no picture of it; `aspect` is width by height."""

    file: BinaryIO | None
    aspect: float
    caption: Sequence[str]


def draw_contact_sheet(pictures: Sequence[Picture], *, title: str, line: str) -> Image.Image:
    """All pictures on one sheet, in their order."""
    rows = [(row, _height(row)) for row in _rows(pictures)]
    height = HEADER + sum(row_height + CAPTION for _, row_height in rows) + MARGIN // 2
    sheet = Image.new("RGB", (WIDTH, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, 104), title, fill=INK, font=ImageFont.load_default(72), anchor="ls")
    draw.text((MARGIN + 3, 152), line, fill=FAINT, font=ImageFont.load_default(27), anchor="ls")
    top = HEADER
    for row, row_height in rows:
        left = MARGIN
        for picture in row:
            size = (round(picture.aspect * row_height), row_height)
            _paste(sheet, picture, (left, top), size)
            _caption(draw, picture, (left, top + row_height), size[0])
            left += size[0] + GAP
        top += row_height + CAPTION
    return sheet


def _rows(pictures: Sequence[Picture]) -> list[list[Picture]]:
    """Rows in which the pictures' widths add up to about the same."""
    total = sum(picture.aspect for picture in pictures)
    count = max(1, round(total * ROW_HEIGHT / (WIDTH - 2 * MARGIN)))
    rows: list[list[Picture]] = [[] for _ in range(count)]
    passed = 0.0
    for picture in pictures:
        middle = passed + picture.aspect / 2
        rows[int(middle / total * count)].append(picture)
        passed += picture.aspect
    return [row for row in rows if row]


def _height(row: Sequence[Picture]) -> int:
    """The height at which a row fills the width; a short row is not blown up for it."""
    free = WIDTH - 2 * MARGIN - GAP * (len(row) - 1)
    return min(round(free / sum(picture.aspect for picture in row)), ROW_HEIGHT * 4 // 3)


def _paste(
    sheet: Image.Image, picture: Picture, place: tuple[int, int], size: tuple[int, int]
) -> None:
    large = (size[0] * OVERSAMPLING, size[1] * OVERSAMPLING)
    corners = Image.new("L", large, 0)
    ImageDraw.Draw(corners).rounded_rectangle(
        (0, 0, large[0] - 1, large[1] - 1), RADIUS * OVERSAMPLING, fill=255
    )
    sheet.paste(_shown(picture, size), place, corners.resize(size, Image.Resampling.BOX))


def _shown(picture: Picture, size: tuple[int, int]) -> Image.Image:
    if picture.file is None:
        blank = Image.new("RGB", size, EMPTY)
        middle = (size[0] // 2, size[1] // 2)
        font = ImageFont.load_default(22)
        ImageDraw.Draw(blank).text(middle, "no picture", fill=FAINT, font=font, anchor="mm")
        return blank
    with Image.open(picture.file) as image:
        image.draft("RGB", size)  # A JPEG is decoded no larger than it is shown.
        shown = image.convert("RGBA").resize(size, Image.Resampling.LANCZOS)
    backed = Image.new("RGBA", size, EMPTY)
    backed.alpha_composite(shown)
    return backed.convert("RGB")


def _caption(
    draw: ImageDraw.ImageDraw, picture: Picture, place: tuple[int, int], width: int
) -> None:
    left, top = place
    for number, text in enumerate(picture.caption):
        font = ImageFont.load_default(19 if number else 23)
        length = len(text)
        while length and font.getlength(text[:length]) > width:
            length -= 1
        fill, baseline = FAINT if number else INK, top + 34 + 25 * number
        draw.text((left + 1, baseline), text[:length], fill=fill, font=font, anchor="ls")
