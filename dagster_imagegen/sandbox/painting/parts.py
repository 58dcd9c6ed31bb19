"""Colours of common materials, and pieces that many subjects are made with."""

from __future__ import annotations

from PIL import ImageDraw

from .colour import RGB, shift
from .curves import Point, leaf, moved, smooth
from .kind import Ink
from .pen import Pen
from .shading import patterned, swatch

COFFEE: RGB = (74, 44, 28)


BRASS: RGB = (206, 164, 84)


STEEL: RGB = (176, 182, 188)


OAK: RGB = (196, 142, 88)


LEAF: RGB = (74, 122, 78)


CREAM: RGB = (242, 234, 216)


DARK: RGB = (40, 38, 44)


def handle(pen: Pen, path: list[Point], width: float, rgb: RGB) -> None:
    """A round bar: its shade, its colour, and a light along its upper left."""
    pen.line(path, width, shift(rgb, light=-0.13))
    pen.line(moved(path, -width * 0.10, width * 0.10), width * 0.68, shift(rgb, light=-0.02))
    pen.line(
        moved(path, -width * 0.18, width * 0.2), width * 0.20, shift(rgb, light=0.13, chroma=0.8)
    )


def glazed_body(
    pen: Pen, ink: Ink, profile: list[Point], *, curve: bool = True, front: bool = False
) -> None:
    """A turned body in the ink's colour, sometimes dipped in its second or banded with it."""
    base = swatch("side", ink.finish, ink.main)
    skin = None
    if ink.pattern in {"dipped", "banded"} and ink.finish != "glass":
        over = swatch("side", "matt" if ink.pattern == "dipped" else ink.finish, ink.second)

        def paint(draw: ImageDraw.ImageDraw, side: int) -> None:
            if ink.pattern == "dipped":
                draw.rectangle((0, side * 0.66, side, side), fill=255)
            else:
                for top in (0.16, 0.24):
                    draw.rectangle((0, side * top, side, side * (top + 0.035)), fill=255)

        skin = patterned(base, over, paint)
    pen.turned(profile, ink.main, ink.finish, skin=skin, curve=curve, front=front)


def bloom(pen: Pen, rgb: RGB, turn: int) -> None:
    """A flower head about 2 wide: two rings of petals and a heart."""
    for ring, (reach, light) in enumerate(((1.0, -0.06), (0.68, 0.05))):
        for k in range(7):
            petal = leaf(0, 0, reach, 0.62 * reach, 360 * k / 7 + turn * 17 + ring * 26)
            pen.form(petal, shift(rgb, light=light + 0.03 * (k % 2)), "slant")
    pen.ball(0, 0, 0.27, 0.25, (224, 170, 62))


def spout(pen: Pen, path: list[Point], rgb: RGB) -> None:
    pen.form(smooth(path, closed=True), shift(rgb, light=-0.03), "slant", "matt")
