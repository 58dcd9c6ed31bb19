"""Colours by name, and the arithmetic on them: done in OKLCH, where equal steps look equal."""

from __future__ import annotations

import functools
import math
from typing import TypeAlias

from PIL import Image

RGB: TypeAlias = tuple[int, int, int]

_NAMED = """
red c62f2f  crimson b3122f  scarlet d62718  ruby 9b1238  cherry a8152f  burgundy 6b1a2b
maroon 6e1423  wine 6f1d3a  brick a3452f  vermilion dd4526  rust a8481f  terracotta c0643f
coral f0765f  salmon f18e78  orange ef7f1a  tangerine f28a1c  apricot f4ac6d  peach f7b58c
amber f0a31c  ochre c58a1f  mustard d3a11e  yellow f3cb2b  gold d4a530  golden d8a838
lemon f4df4e  saffron f0b422  honey d9982b  sand d9bf92  beige dccab0  cream f3e8cf
ivory f5efdf  champagne ead7b5  buttercream f6e6b4  butter f4dd94  oat d9c8a8  oatmeal d5c6ac
biscuit d8b98c  caramel b9773a  tan c79a6b  camel b98a55  khaki b3a46a  brown 7a4a2c
chocolate 4f2d1d  chestnut 7f3f23  coffee 5b3d2b  mocha 77543f  umber 5e4330  sienna a0522d
taupe 8f8175  olive 7c7a2c  moss 69763a  lime a5cf3c  chartreuse b7d331  green 3f8f4f
emerald 12835a  jade 2f9c77  mint a4dcc0  sage 9db391  fern 5d9455  forest 24543a
pistachio b2cf8b  eucalyptus 7fa596  teal 0f7f82  turquoise 2bb6b0  aqua 55c8cf  cyan 1db5cf
petrol 17525f  sky 7fbfe6  azure 2c8be0  blue 2e62c4  cobalt 1f48b0  navy 1c2f5c
indigo 37318c  sapphire 17499e  denim 44658f  cornflower 6a8fe0  periwinkle 8f95e3
midnight 1a2145  slate 5d6b7a  lavender b7a5de  lilac c3a3d6  violet 7b45c4  purple 6f3a97
amethyst 8f5fc4  mauve b384a3  plum 6d2f5b  aubergine 3f2140  eggplant 432347  magenta c42a86
fuchsia d6308f  pink ee94b0  blush eec1b9  rose dd7f8d  raspberry b21e57  peony e58ba6
black 26252a  charcoal 3b3d42  graphite 4a4c52  ink 22283a  anthracite 35383d  grey 8d9096
gray 8d9096  silver b9bec5  ash a5a7a6  pewter 80858a  smoke 9fa3a6  stone b6ab9b
pearl e9e4da  white f4f2ee  snowwhite f8f8f8  chalk efece4  eggshell efe6d2  alabaster efeae0
rouge c62f2f  rojo c62f2f  rot c62f2f  bleu 2e62c4  blau 2e62c4  azul 2e62c4  vert 3f8f4f
verde 3f8f4f  noir 26252a  blanc f4f2ee  gelb f3cb2b  jaune f3cb2b
"""


def from_hex(text: str) -> RGB:
    return int(text[0:2], 16), int(text[2:4], 16), int(text[4:6], 16)


_PAIRS = _NAMED.split()
COLOURS: dict[str, RGB] = {
    name: from_hex(value) for name, value in zip(_PAIRS[::2], _PAIRS[1::2], strict=True)
}


def _to_linear(value: int) -> float:
    v = value / 255
    return v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4


def _from_linear(value: float) -> int:
    v = min(1.0, max(0.0, value))
    return round(255 * (12.92 * v if v <= 0.0031308 else 1.055 * v ** (1 / 2.4) - 0.055))


@functools.lru_cache(maxsize=4096)
def to_oklch(rgb: RGB) -> tuple[float, float, float]:
    """Lightness 0 to 1, chroma 0 to about 0.33, hue in degrees."""
    r, g, b = (_to_linear(v) for v in rgb)
    l_ = (0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b) ** (1 / 3)
    m_ = (0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b) ** (1 / 3)
    s_ = (0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b) ** (1 / 3)
    lightness = 0.2104542553 * l_ + 0.7936177850 * m_ - 0.0040720468 * s_
    a = 1.9779984951 * l_ - 2.4285922050 * m_ + 0.4505937099 * s_
    bb = 0.0259040371 * l_ + 0.7827717662 * m_ - 0.8086757660 * s_
    return lightness, math.hypot(a, bb), math.degrees(math.atan2(bb, a)) % 360


def _linear(lightness: float, chroma: float, hue: float) -> tuple[float, float, float]:
    a = chroma * math.cos(math.radians(hue))
    b = chroma * math.sin(math.radians(hue))
    l_ = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    m_ = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    s_ = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return (
        4.0767416621 * l_ - 3.3077115913 * m_ + 0.2309699292 * s_,
        -1.2684380046 * l_ + 2.6097574011 * m_ - 0.3413193965 * s_,
        -0.0041960863 * l_ - 0.7034186147 * m_ + 1.7076147010 * s_,
    )


@functools.lru_cache(maxsize=4096)
def oklch(lightness: float, chroma: float, hue: float) -> RGB:
    """The nearest colour a screen has: lightness and hue are kept, chroma gives way."""
    lightness = min(0.995, max(0.02, lightness))
    chroma = max(0.0, chroma)
    for _ in range(12):
        channels = _linear(lightness, chroma, hue)
        if all(-0.002 <= c <= 1.002 for c in channels):
            break
        chroma *= 0.88
    r, g, b = _linear(lightness, chroma, hue)
    return _from_linear(r), _from_linear(g), _from_linear(b)


def mix(a: RGB, b: RGB, share: float) -> RGB:
    """`share` of `b` in `a`."""
    return (
        round(a[0] + (b[0] - a[0]) * share),
        round(a[1] + (b[1] - a[1]) * share),
        round(a[2] + (b[2] - a[2]) * share),
    )


def shift(rgb: RGB, *, light: float = 0.0, chroma: float = 1.0, hue: float = 0.0) -> RGB:
    """`rgb` with lightness added, chroma multiplied and hue turned."""
    lightness, c, h = to_oklch(rgb)
    return oklch(lightness + light, c * chroma, h + hue)


def at(rgb: RGB, *, light: float, chroma: float | None = None, most: float = 1.0) -> RGB:
    """The hue of `rgb` at a given lightness, with its own chroma up to `most`, or the given one."""
    _, c, h = to_oklch(rgb)
    return oklch(light, min(c, most) if chroma is None else chroma, h)


def lightness(rgb: RGB) -> float:
    return to_oklch(rgb)[0]


@functools.lru_cache(maxsize=512)
def tones(rgb: RGB, contrast: float = 1.0) -> tuple[bytes, bytes, bytes]:
    """Lookup tables from a shading map (0 shade, 150 the colour itself, 255 highlight).

    Shade goes a little cooler and richer, light a little warmer, as painters mix them.
    """
    level, chroma, hue = to_oklch(rgb)
    cool = -8 if 20 < hue < 260 else 8
    steps: list[RGB] = []
    for i in range(17):
        value = i * 16
        if value <= 150:
            depth = (150 - value) / 150 * contrast
            fall = depth * (0.16 + 0.26 * level)
            steps.append(oklch(level - fall, chroma * (1 + 0.12 * depth), hue - cool * depth))
        else:
            rise = (value - 150) / 105
            steps.append(
                oklch(
                    level + (1.0 - level) * 0.72 * rise, chroma * (1 - 0.6 * rise), hue + 4 * rise
                )
            )
    tables: list[bytes] = []
    for channel in range(3):
        table = bytearray()
        for value in range(256):
            i, part = value // 16, (value % 16) / 16
            table.append(round(steps[i][channel] * (1 - part) + steps[i + 1][channel] * part))
        tables.append(bytes(table))
    return tables[0], tables[1], tables[2]


def tinted(shading: Image.Image, rgb: RGB, contrast: float = 1.0) -> Image.Image:
    """A greyscale shading map as light falling on something of colour `rgb`."""
    return Image.merge("RGB", [shading.point(list(t)) for t in tones(rgb, contrast)])


def ramp(stops: tuple[tuple[float, RGB], ...], size: tuple[int, int]) -> Image.Image:
    """A vertical gradient through `stops` (position 0 at the top to 1 at the bottom)."""
    steps = 256
    strip = Image.new("RGB", (1, steps))
    for i in range(steps):
        strip.putpixel((0, i), _on_ramp(stops, i / (steps - 1)))
    return strip.resize(size, Image.Resampling.BILINEAR)


def _on_ramp(stops: tuple[tuple[float, RGB], ...], where: float) -> RGB:
    before = stops[0]
    for after in stops:
        if where <= after[0]:
            span = after[0] - before[0]
            return mix(before[1], after[1], 0.0 if span <= 0 else (where - before[0]) / span)
        before = after
    return before[1]
