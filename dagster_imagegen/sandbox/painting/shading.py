"""Small greyscale maps of light on a form, tinted and stretched to any size.

A map is painted once per process at 96 pixels; 0 is full shade, 150 the colour itself, 255 a
highlight (see `colour.tones`). Stretching a small map is what keeps a picture at a few hundredths
of a second.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Literal, TypeAlias

from PIL import Image, ImageDraw

from .colour import RGB, tinted

Shade: TypeAlias = Literal["side", "ball", "rise", "fall", "flat", "slant"]
Finish: TypeAlias = Literal["matt", "glazed", "metal", "glass"]

_SIDE = 96


def _painted(value_at: Callable[[float, float], float]) -> Image.Image:
    """A map of `value_at(u, v)`, u and v from -1 (left, top) to 1, value from -1 to 1."""
    image = Image.new("L", (_SIDE, _SIDE))
    values = bytearray()
    for row in range(_SIDE):
        v = 2 * (row + 0.5) / _SIDE - 1
        for column in range(_SIDE):
            value = value_at(2 * (column + 0.5) / _SIDE - 1, v)
            level = 150 + (105 * value if value > 0 else 150 * value)
            values.append(round(min(255.0, max(0.0, level))))
    image.frombytes(bytes(values))
    return image


def _bump(x: float, centre: float, width: float) -> float:
    return math.exp(-(((x - centre) / width) ** 2))


def _round_light(u: float, v: float, finish: Finish) -> float:
    """Light from the upper left on an upright round body."""
    facing = math.sqrt(max(0.0, 1 - u * u)) * 0.80 - u * 0.58
    value = (facing - 0.72) * (0.62 if facing < 0.72 else 0.7)
    value += 0.20 * _bump(u, 1.0, 0.16) - 0.10 * (v + 0.1)
    if finish == "matt":
        return value
    if finish == "glazed":
        gloss = _bump(u, -0.50, 0.085) * max(0.0, 1 - abs(v + 0.12) ** 4 * 1.25)
        return value + 0.78 * gloss + 0.13 * _bump(u, 0.72, 0.10)
    bands = 0.85 * _bump(u, -0.48, 0.16) - 0.62 * _bump(u, -0.05, 0.20)
    return value * 0.75 + bands + 0.45 * _bump(u, 0.52, 0.13) - 0.35 * _bump(u, 0.85, 0.10)


def _ball_light(u: float, v: float, finish: Finish) -> float:
    r = min(1.0, math.hypot(u, v))
    depth = math.sqrt(1 - r * r)
    facing = -0.46 * u - 0.52 * v + 0.72 * depth
    value = (facing - 0.66) * 0.62 + 0.16 * _bump(math.hypot(u - 0.5, v - 0.72), 0.0, 0.45)
    if finish != "matt":
        value += 0.75 * _bump(math.hypot(u + 0.36, (v + 0.42) * 1.1), 0.0, 0.17)
    return value


@functools.cache
def shading_map(shade: Shade, finish: Finish) -> Image.Image:
    """The map for a way of turning to the light; shared, never drawn on."""
    ways: dict[Shade, Callable[[float, float], float]] = {
        "side": lambda u, v: _round_light(u, v, finish),
        "ball": lambda u, v: _ball_light(u, v, finish),
        "rise": lambda _u, v: 0.10 - 0.30 * (v + 0.6) / 1.6,
        "fall": lambda _u, v: -0.42 + 0.26 * (v + 1),
        "slant": lambda u, v: 0.14 - 0.22 * (u + v + 0.6),
        "flat": lambda _u, _v: 0.0,
    }
    return _painted(ways[shade])


@functools.lru_cache(maxsize=256)
def swatch(shade: Shade, finish: Finish, rgb: RGB) -> Image.Image:
    """`rgb` under that light, as RGB or, for glass, RGBA; shared, never drawn on."""
    contrast = {"matt": 0.9, "glazed": 1.0, "metal": 1.35, "glass": 0.7}[finish]
    image = tinted(shading_map(shade, finish), rgb, contrast)
    if finish == "glass":
        image.putalpha(_glass_alpha())
    return image


@functools.cache
def _glass_alpha() -> Image.Image:
    """Glass is seen at its edges and its highlight, and hardly in between."""
    return _painted(
        lambda u, _v: (
            -0.34 + 0.9 * abs(u) ** 5 + 0.6 * _bump(u, -0.5, 0.09) + 0.15 * _bump(u, 0.6, 0.2)
        )
    )


def stretched(shade: Shade, finish: Finish, rgb: RGB, size: tuple[int, int]) -> Image.Image:
    """The swatch at `size`. What faces the light evenly is one colour, and needs no stretching."""
    if shade == "flat":
        return Image.new("RGB", size, rgb)
    return swatch(shade, finish, rgb).resize(size, Image.Resampling.BILINEAR)


def patterned(
    base: Image.Image, over: Image.Image, paint: Callable[[ImageDraw.ImageDraw, int], None]
) -> Image.Image:
    """`over` where `paint(draw, side)` draws 255, `base` elsewhere: stripes, a dipped glaze."""
    big = _SIDE * 4
    mask = Image.new("L", (big, big))
    paint(ImageDraw.Draw(mask), big)
    size = (_SIDE * 2, _SIDE * 2)
    result = base.resize(size, Image.Resampling.BILINEAR)
    result.paste(over.resize(size, Image.Resampling.BILINEAR), (0, 0), mask.resize(size))
    return result
