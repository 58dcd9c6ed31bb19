"""What makes a room homely: lamps, vases, textiles, plants."""

from __future__ import annotations

import math

from PIL import Image, ImageDraw

from .colour import shift
from .curves import Point, box, leaf, oval, path, smooth, turned_by
from .kind import Ink
from .parts import BRASS, CREAM, LEAF, bloom, glazed_body, handle
from .pen import TILT, Pen
from .shading import patterned, swatch

_VASES: list[list[Point]] = [
    path(".14 0, .20 .06, .29 .26, .27 .44, .13 .60, .10 .68, .13 .76"),
    path(".16 0, .24 .05, .30 .18, .24 .36, .15 .5, .14 .62, .2 .74"),
    path(".19 0, .21 .03, .23 .4, .22 .62, .12 .7, .12 .76"),
]


def vase(pen: Pen, ink: Ink) -> None:
    dice = ink.dice
    profile = _VASES[int(dice.random() * len(_VASES))]
    rim, top = profile[-1]
    pen.opening(top, rim, ink.main, wall=0.02)
    for i in range(5):
        lean = (i - 2) * 0.13 + (dice.random() - 0.5) * 0.06
        tall = 1.0 + 0.16 * (1 - abs(i - 2) / 2) + dice.random() * 0.08
        stem = [((i - 2) * 0.03, top - 0.02), (lean * 0.5, (top + tall) / 2), (lean, tall)]
        pen.line(stem, 0.013, shift(LEAF, light=-0.08))
        pen.form(
            leaf(lean * 0.55, (top + tall) / 2 + 0.02, 0.16, 0.06, 55 if i % 2 else 125),
            shift(LEAF, light=0.05 * (i % 3)),
            "slant",
        )
        bloom(pen.at(lean, tall, 0.105 + 0.03 * dice.random()), ink.second, i)
    glazed_body(pen, ink, profile)
    front = oval(0, top, rim, rim * TILT, 180, 360)
    pen.line(front, 0.018, shift(ink.main, light=0.08), curve=False)


def flower(pen: Pen, ink: Ink) -> None:
    for i in range(5):
        lean = (i - 2) * 0.17 + (ink.dice.random() - 0.5) * 0.06
        tall = 0.72 - 0.12 * abs(i - 2) + ink.dice.random() * 0.1
        pen.line(
            [((i - 2) * 0.03, 0), (lean * 0.6, tall * 0.5), (lean, tall)],
            0.017,
            shift(LEAF, light=-0.08),
        )
        for side in (25, 150):
            pen.form(
                leaf(lean * 0.45, tall * 0.36, 0.26, 0.09, side + lean * 30),
                shift(LEAF, light=0.04 * (i % 3)),
                "slant",
            )
        bloom(pen.at(lean, tall, 0.15 + 0.03 * (i % 2)), shift(ink.main, light=0.05 * (i % 2)), i)


def candle(pen: Pen, ink: Ink) -> None:
    dish = pen.at(0, 0)
    dish.turned([(0.2, 0), (0.27, 0.03), (0.29, 0.07)], BRASS, "metal")
    dish.opening(0.07, 0.29, BRASS, wall=0.02)
    pen.at(0, 0.035).turned([(0.15, 0), (0.15, 0.55)], ink.main, "matt", curve=False)
    pen.form(oval(0, 0.585, 0.15, 0.15 * TILT), shift(ink.main, light=0.10), "slant")
    pen.line([(0, 0.59), (0.005, 0.64)], 0.012, (50, 38, 34))
    pen.glow(0, 0.72, 0.42, (255, 206, 120), 0.75)
    flame = path("0 .62, .045 .67, .03 .75, 0 .84, -.035 .75, -.045 .68")
    pen.form(smooth(flame, closed=True), (255, 196, 84), "fall")
    pen.form(oval(0, 0.675, 0.02, 0.04), (255, 246, 214))


def lamp(pen: Pen, ink: Ink) -> None:
    pen.turned([(0.17, 0), (0.18, 0.025), (0.05, 0.05)], BRASS, "metal")
    stem: list[Point] = path(".05 .04, .115 .12, .135 .24, .08 .36, .03 .42, .022 .56")
    pen.turned(stem, ink.second, "glazed")
    pen.form(oval(0, 0.565, 0.33, 0.05), (255, 232, 178))
    pen.glow(0, 0.60, 0.75, (255, 214, 140), 0.5)
    pen.turned([(0.335, 0.56), (0.2, 1.0)], ink.main, "matt", curve=False)
    pen.soft(oval(0, 0.66, 0.16, 0.1), (255, 226, 160), 0.06, 0.5)
    pen.form(oval(0, 1.0, 0.2, 0.2 * TILT), shift(ink.main, light=-0.08), "fall")


def pendant(pen: Pen, ink: Ink) -> None:
    pen.line([(0, 0.7), (0, 3.0)], 0.014, (48, 44, 42))
    pen.glow(0, 0.3, 0.9, (255, 216, 146), 0.5)
    pen.form(oval(0, 0.3, 0.42, 0.07), (255, 230, 170))
    pen.turned(path(".43 .3, .40 .42, .28 .56, .1 .64, .055 .7, .05 .76"), ink.main, ink.finish)


def cushion(pen: Pen, ink: Ink) -> None:
    pillow = smooth(
        path("-.44 .03, 0 0, .44 .03, .42 .36, .47 .70, 0 .66, -.47 .70, -.42 .36"), closed=True
    )
    pen.form(pillow, ink.main, "ball")
    for x in (-0.2, 0, 0.2):
        pen.line([(x * 1.25, 0.06), (x, 0.34), (x * 1.25, 0.62)], 0.02, ink.second)
    for x, y in ((-0.45, 0.69), (0.45, 0.69), (-0.43, 0.04), (0.43, 0.04)):
        pen.ball(x, y, 0.035, 0.035, ink.second)


def blanket(pen: Pen, ink: Ink) -> None:
    for i in range(4):
        y = 0.13 * i
        rgb = (ink.main, shift(ink.main, light=0.05), ink.second, shift(ink.main, light=-0.05))[i]
        pen.form(box(-0.46 + 0.012 * i, y, 0.46 - 0.016 * i, y + 0.14, 0.07), rgb, "rise")
        pen.line([(-0.40, y + 0.035), (0.40, y + 0.035)], 0.008, shift(rgb, light=-0.1))
    for k in range(17):
        pen.line(
            [(-0.4 + 0.05 * k, 0.02), (-0.405 + 0.05 * k, -0.06)],
            0.012,
            shift(ink.main, light=0.08),
        )


def _wicker(ink: Ink) -> Image.Image:
    base = swatch("side", "matt", ink.main)

    def weave(draw: ImageDraw.ImageDraw, side: int) -> None:
        step = side // 14
        for row in range(14):
            for column in range(14):
                if (row + column) % 2:
                    draw.rounded_rectangle(
                        (column * step, row * step, (column + 1) * step, row * step + step - 4),
                        6,
                        fill=255,
                    )

    return patterned(base, swatch("side", "matt", shift(ink.main, light=-0.13)), weave)


_BASKET = path(".32 0, .38 .22, .41 .48")


def basket(pen: Pen, ink: Ink) -> None:
    handle(pen, path("-.34 .46, -.26 .74, 0 .84, .26 .74, .34 .46"), 0.05, ink.main)
    pen.turned(_BASKET, ink.main, "matt", skin=_wicker(ink))
    pen.opening(0.48, 0.41, ink.main, wall=0.04)


def basket_front(pen: Pen, ink: Ink) -> None:
    pen.turned(_BASKET, ink.main, "matt", skin=_wicker(ink), front=True)
    rim = oval(0, 0.48, 0.39, 0.39 * TILT, 180, 360)
    pen.line(rim, 0.04, shift(ink.main, light=0.06), curve=False)


def planter(pen: Pen, ink: Ink) -> None:
    for i, angle in enumerate((150, 30, 128, 52, 108, 72, 90)):
        size = 0.46 + 0.14 * math.sin(math.radians(angle)) + 0.06 * ink.dice.random()
        green = shift(LEAF, light=-0.07 + 0.035 * (i % 4))
        x = 0.12 * math.cos(math.radians(angle))
        pen.form(leaf(x, 0.38, size, 0.19, angle), green, "slant")
        tip = turned_by([(x, 0.38), (x + size * 0.9, 0.38)], angle, x, 0.38)
        pen.line(tip, 0.008, shift(green, light=0.1))
    glazed_body(pen, ink, [(0.2, 0), (0.25, 0.2), (0.29, 0.42)])
    pen.line(
        oval(0, 0.42, 0.285, 0.285 * TILT, 180, 360), 0.03, shift(ink.main, light=0.06), curve=False
    )


def mirror(pen: Pen, ink: Ink) -> None:
    pen.form(oval(0, 0.5, 0.43, 0.5), ink.main, "slant", "metal")
    pen.form(oval(0, 0.5, 0.385, 0.455), (206, 220, 226), "slant")
    for x, w in ((-0.16, 0.09), (0.02, 0.035)):
        pen.form(
            [(x, 0.2), (x + w, 0.2), (x + w + 0.26, 0.8), (x + 0.26, 0.8)],
            (244, 250, 252),
            alpha=0.6,
        )


def clock(pen: Pen, ink: Ink) -> None:
    for side in (-1, 1):
        pen.line([(side * 0.22, 0.12), (side * 0.3, 0.0)], 0.05, shift(ink.main, light=-0.1))
    pen.ball(0, 0.46, 0.44, 0.44, ink.main, "glazed")
    pen.form(oval(0, 0.46, 0.36, 0.36), CREAM, "slant")
    for hour in range(12):
        angle = math.radians(30 * hour)
        near = 0.26 if hour % 3 == 0 else 0.29
        marks = [(d * math.sin(angle), 0.46 + d * math.cos(angle)) for d in (near, 0.32)]
        pen.line(marks, 0.016, (58, 54, 52))
    pen.line([(0, 0.46), (-0.13, 0.58)], 0.026, (44, 40, 40))
    pen.line([(0, 0.46), (0.15, 0.68)], 0.018, (44, 40, 40))
    pen.ball(0, 0.46, 0.025, 0.025, ink.second)
