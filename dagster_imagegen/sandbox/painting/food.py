"""Fruit and bakery."""

from __future__ import annotations

import math

from .colour import shift
from .curves import box, leaf, oval, path, smooth
from .kind import Ink
from .parts import CREAM, LEAF
from .pen import Pen


def apple(pen: Pen, ink: Ink) -> None:
    body = smooth(
        path(
            "0 .05, .2 0, .4 .14, .47 .42, .36 .72, .16 .78, 0 .72, -.16 .78, -.36 .72, "
            "-.47 .42, -.4 .14, -.2 0"
        ),
        closed=True,
    )
    pen.form(body, ink.main, "ball", "glazed")
    pen.soft(oval(0, 0.71, 0.13, 0.035), shift(ink.main, light=-0.2), 0.02, 0.8)
    pen.line([(0.0, 0.70), (0.02, 0.82), (0.07, 0.92)], 0.03, (84, 56, 36))
    pen.form(leaf(0.04, 0.83, 0.3, 0.13, 24), LEAF, "slant")


def pear(pen: Pen, ink: Ink) -> None:
    body = smooth(
        path(
            "0 .02, .22 0, .38 .2, .33 .44, .18 .66, .13 .84, 0 .9, -.13 .84, -.18 .66, "
            "-.33 .44, -.38 .2, -.22 0"
        ),
        closed=True,
    )
    pen.form(body, ink.main, "ball", "matt")
    pen.soft(oval(0.16, 0.22, 0.12, 0.14), (206, 96, 60), 0.06, 0.35)
    pen.line([(0.0, 0.88), (-0.02, 0.97), (0.04, 1.05)], 0.028, (84, 56, 36))
    pen.form(leaf(0.0, 0.93, 0.24, 0.1, 150), LEAF, "slant")


def citrus(pen: Pen, ink: Ink) -> None:
    pen.ball(0, 0.4, 0.42, 0.4, ink.main, "matt")
    pen.soft(oval(-0.14, 0.58, 0.08, 0.06), shift(ink.main, light=0.2), 0.05, 0.6)
    pen.ball(0.02, 0.77, 0.035, 0.018, shift(LEAF, light=-0.1))
    pen.form(leaf(0.02, 0.78, 0.32, 0.14, 20), LEAF, "slant")


def lemon(pen: Pen, ink: Ink) -> None:
    body = smooth(
        path(
            "-.55 .30, -.42 .40, -.2 .58, .1 .61, .38 .46, .55 .34, .46 .22, .25 .05, "
            "-.05 0, -.36 .13"
        ),
        closed=True,
    )
    pen.form(body, ink.main, "ball", "glazed")
    pen.form(leaf(-0.5, 0.34, 0.34, 0.14, 130), LEAF, "slant")


def cherry(pen: Pen, ink: Ink) -> None:
    for x, y in ((-0.2, 0.2), (0.2, 0.16)):
        pen.line([(x, y + 0.1), (x * 0.8, 0.6), (0.06, 0.92)], 0.022, (96, 110, 54))
        pen.ball(x, y, 0.2, 0.19, ink.main, "glazed")
    pen.form(leaf(0.06, 0.9, 0.36, 0.16, -20), LEAF, "slant")


def bread(pen: Pen, ink: Ink) -> None:
    pen.form(
        smooth(
            path("-.6 .05, 0 0, .6 .05, .62 .26, .4 .43, 0 .48, -.4 .43, -.62 .26"), closed=True
        ),
        ink.main,
        "ball",
    )
    for x in (-0.36, -0.12, 0.12, 0.36):
        pen.form(
            leaf(x - 0.08, 0.16, 0.3, 0.08, 58), shift(ink.main, light=0.17, chroma=0.7), "slant"
        )


def cake(pen: Pen, ink: Ink) -> None:
    pen.turned([(0.4, 0), (0.4, 0.34)], CREAM, "matt", curve=False)
    pen.turned([(0.405, 0.12), (0.405, 0.19)], ink.main, "matt", curve=False)
    pen.form(oval(0, 0.34, 0.4, 0.4 * 0.17), ink.main, "slant")
    for k in range(9):
        x = -0.38 + 0.095 * k
        pen.form(
            box(
                x,
                0.34 - 0.07 * math.sqrt(max(0, 1 - (x / 0.4) ** 2)) - 0.06 - 0.05 * (k % 3),
                x + 0.085,
                0.35,
                0.04,
            ),
            ink.main,
            "side",
        )
    for k in range(5):
        pen.ball(
            -0.2 + 0.1 * k, 0.37 + (0.02 if k % 2 else -0.01), 0.05, 0.05, (186, 36, 52), "glazed"
        )
