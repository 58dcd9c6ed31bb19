"""The last touches: vignette, grain, the exact size, and the mark that says sandbox."""

from __future__ import annotations

import functools
import random

from PIL import Image, ImageChops, ImageDraw

_GRAIN = {"low": 4, "medium": 7, "high": 10}
_TILE = 256
_LETTERS: dict[str, tuple[tuple[float, ...], ...]] = {
    "S": (
        (
            1,
            0.12,
            0.75,
            0,
            0.25,
            0,
            0,
            0.2,
            0.2,
            0.45,
            0.8,
            0.55,
            1,
            0.8,
            0.75,
            1,
            0.25,
            1,
            0,
            0.88,
        ),
    ),
    "A": ((0, 1, 0.5, 0, 1, 1), (0.2, 0.65, 0.8, 0.65)),
    "N": ((0, 1, 0, 0, 1, 1, 1, 0),),
    "D": ((0, 0, 0, 1, 0.5, 1, 1, 0.7, 1, 0.3, 0.5, 0, 0, 0),),
    "B": ((0, 0.48, 0.7, 0.48, 0.95, 0.7, 0.75, 1, 0, 1, 0, 0, 0.65, 0, 0.88, 0.22, 0.7, 0.48),),
    "O": (
        (0.5, 0, 0.15, 0.15, 0, 0.5, 0.15, 0.85, 0.5, 1, 0.85, 0.85, 1, 0.5, 0.85, 0.15, 0.5, 0),
    ),
    "X": ((0, 0, 1, 1), (1, 0, 0, 1)),
}


def finish(
    image: Image.Image, size: tuple[int, int], *, quality: str, transparent: bool
) -> Image.Image:
    """`image` (RGBA) at exactly `size`, finished; RGB unless `transparent`."""
    if transparent:
        result = image.resize(size, Image.Resampling.LANCZOS) if image.size != size else image
    else:
        flat = image.convert("RGB")
        flat = _vignette(flat)
        result = flat.resize(size, Image.Resampling.BICUBIC) if flat.size != size else flat
        result = _grain(result, _GRAIN.get(quality, _GRAIN["medium"]))
    _mark(result)
    return result


def _vignette(image: Image.Image) -> Image.Image:
    fade = Image.radial_gradient("L").point(
        [round(max(0.0, v / 255 - 0.42) ** 1.5 * 110) for v in range(256)]
    )
    image.paste((18, 14, 30), (0, 0), fade.resize(image.size, Image.Resampling.BILINEAR))
    return image


@functools.cache
def _tile(strength: int) -> Image.Image:
    """Grey noise from 0 to `strength`, the same in every process."""
    # Not for secrets: the same request must give the same picture.
    noise = Image.frombytes("L", (_TILE, _TILE), random.Random(7).randbytes(_TILE * _TILE))  # noqa: S311
    return noise.point([round(v * strength / 255) for v in range(256)])


def _grain(image: Image.Image, strength: int) -> Image.Image:
    """Film grain; it also hides the steps of a gradient, as it is laid at the final size."""
    sheet = Image.new("L", image.size)
    tile = _tile(strength)
    sheet.paste(tile, (0, 0))
    # Doubling what is there needs a few pastes, where tiling 8 megapixels needs hundreds.
    wide, tall = min(_TILE, image.width), min(_TILE, image.height)
    while wide < image.width:
        sheet.paste(sheet.crop((0, 0, wide, tall)), (wide, 0))
        wide *= 2
    while tall < image.height:
        sheet.paste(sheet.crop((0, 0, image.width, tall)), (0, tall))
        tall *= 2
    return ImageChops.add(image, Image.merge("RGB", (sheet, sheet, sheet)), 1, -(strength // 2))


def _mark(image: Image.Image) -> None:
    """SANDBOX, small, in the lower right corner; left out where it would be larger than the art."""
    width, height = image.size
    tall = round(min(width, height) * 0.0155)
    if tall < 5:
        return
    gap, wide = tall * 0.62, tall * 0.66
    total = round(7 * wide + 6 * gap)
    sharper = 4
    mask = Image.new("L", ((total + 4) * sharper, (tall + 4) * sharper))
    draw = ImageDraw.Draw(mask)
    for i, letter in enumerate("SANDBOX"):
        for stroke in _LETTERS[letter]:
            x0 = (2 + i * (wide + gap)) * sharper
            path = [
                (x0 + x * wide * sharper, (2 + y * tall) * sharper)
                for x, y in zip(stroke[::2], stroke[1::2], strict=True)
            ]
            draw.line(path, fill=255, width=max(2, round(tall * sharper * 0.11)), joint="curve")
    mask = mask.reduce(sharper)
    margin = round(min(width, height) * 0.028)
    corner = (width - mask.width - margin, height - mask.height - margin)
    if corner[0] < 0 or corner[1] < 0:
        return
    _press(image, mask, corner)


def _press(image: Image.Image, mask: Image.Image, corner: tuple[int, int]) -> None:
    """Light on dark and dark on light, and see-through on nothing."""
    area = (*corner, corner[0] + mask.width, corner[1] + mask.height)
    if image.mode == "RGBA":
        patch = Image.new("RGBA", mask.size, (110, 110, 116, 255))
        patch.putalpha(mask.point([round(v * 0.6) for v in range(256)]))
        image.alpha_composite(patch, corner)
        return
    level = image.crop(area).convert("L").resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
    bright = isinstance(level, (int, float)) and level > 140
    ink = (24, 22, 30) if bright else (255, 255, 255)
    image.paste(ink, corner, mask.point([round(v * 0.62) for v in range(256)]))
