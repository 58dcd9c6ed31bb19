"""People and animals."""

from __future__ import annotations

from .colour import mix, shift
from .curves import box, leaf, oval, path, smooth
from .kind import Ink
from .parts import CREAM, handle
from .pen import Pen


def cat(pen: Pen, ink: Ink) -> None:
    deep = shift(ink.main, light=-0.05)
    pen.line([(0.22, 0.08), (0.48, 0.05), (0.54, 0.24), (0.42, 0.36)], 0.085, deep)
    pen.form(
        smooth(path("-.24 0, .26 0, .33 .2, .22 .46, .12 .62, -.12 .62, -.2 .4"), closed=True),
        ink.main,
        "side",
    )
    for x in (-0.15, -0.02):
        pen.form(box(x, 0, x + 0.11, 0.34, 0.05), shift(ink.main, light=0.03), "side")
    for side in (-1, 1):
        pen.form([(side * 0.22, 0.80), (side * 0.2, 1.03), (side * 0.04, 0.92)], ink.main, "slant")
        pen.form([(side * 0.18, 0.83), (side * 0.175, 0.97), (side * 0.08, 0.9)], (226, 150, 142))
    pen.ball(0, 0.76, 0.25, 0.2, ink.main)
    for side in (-1, 1):
        pen.ball(side * 0.1, 0.78, 0.042, 0.05, (198, 208, 96), "glazed")
        pen.form(oval(side * 0.1, 0.78, 0.014, 0.042), (28, 28, 30))
        for dy in (0.0, 0.035):
            pen.line([(side * 0.07, 0.70 - dy * 0.3), (side * 0.32, 0.72 - dy)], 0.006, CREAM)
    pen.form([(-0.026, 0.715), (0.026, 0.715), (0, 0.685)], (214, 120, 116))


def dog(pen: Pen, ink: Ink) -> None:
    pen.line([(0.26, 0.12), (0.44, 0.22), (0.48, 0.38)], 0.07, ink.main)
    pen.form(
        smooth(path("-.22 0, .3 0, .32 .2, .2 .42, .1 .6, -.14 .6, -.2 .36"), closed=True),
        ink.main,
        "side",
    )
    pen.form(
        smooth(path("-.16 .22, -.02 .1, .06 .3, -.04 .5, -.14 .46"), closed=True),
        shift(ink.main, light=0.16, chroma=0.6),
    )
    for x in (-0.18, -0.03):
        pen.form(box(x, 0, x + 0.12, 0.36, 0.05), shift(ink.main, light=0.03), "side")
    pen.ball(0, 0.78, 0.22, 0.21, ink.main)
    pen.form(oval(0, 0.68, 0.12, 0.1), shift(ink.main, light=0.16, chroma=0.6), "ball")
    for side in (-1, 1):
        ear = smooth(
            [
                (side * 0.13, 0.95),
                (side * 0.27, 0.9),
                (side * 0.31, 0.68),
                (side * 0.22, 0.6),
                (side * 0.17, 0.76),
            ],
            closed=True,
        )
        pen.form(ear, shift(ink.main, light=-0.14), "slant")
        pen.ball(side * 0.085, 0.81, 0.03, 0.034, (34, 28, 28), "glazed")
    pen.form(oval(0, 0.735, 0.045, 0.032), (38, 32, 34), "ball", "glazed")
    pen.line([(-0.05, 0.65), (0, 0.635), (0.05, 0.65)], 0.012, (70, 50, 46))
    pen.line([(-0.13, 0.565), (0, 0.54), (0.13, 0.565)], 0.04, ink.second)


def bird(pen: Pen, ink: Ink) -> None:
    pen.line([(-0.7, 0.06), (0.0, 0.03), (0.7, 0.08)], 0.035, (104, 76, 56))
    for x in (-0.04, 0.08):
        pen.line([(x, 0.2), (x, 0.05)], 0.016, (88, 66, 54))
    pen.form(
        smooth([(-0.18, 0.26), (-0.5, 0.12), (-0.56, 0.18), (-0.2, 0.42)], closed=True),
        shift(ink.main, light=-0.12),
        "slant",
    )
    pen.form(
        smooth(
            path("-.26 .3, -.05 .14, .2 .2, .34 .44, .34 .66, .2 .78, .04 .68, -.12 .48"),
            closed=True,
        ),
        ink.main,
        "ball",
    )
    pen.form(
        smooth(path(".02 .18, .2 .22, .32 .44, .2 .46, .06 .34"), closed=True),
        shift(ink.second, light=0.06),
        "slant",
    )
    pen.form(leaf(0.12, 0.5, 0.5, 0.22, 218), shift(ink.main, light=-0.1), "slant")
    pen.form([(0.34, 0.68), (0.5, 0.63), (0.35, 0.59)], (226, 154, 52))
    pen.ball(0.24, 0.67, 0.032, 0.032, (26, 26, 30), "glazed")


def fish(pen: Pen, ink: Ink) -> None:
    pen.form(
        smooth([(-0.32, 0.36), (-0.66, 0.66), (-0.58, 0.36), (-0.66, 0.06)], closed=True),
        shift(ink.main, light=-0.06),
        "slant",
    )
    pen.form(
        smooth([(-0.1, 0.56), (0.06, 0.78), (0.24, 0.56)], closed=True),
        shift(ink.second, light=-0.03),
        "slant",
    )
    pen.form(leaf(0.56, 0.36, 1.02, 0.86, 180), ink.main, "ball", "glazed")
    for k in range(4):
        x = 0.2 - 0.14 * k
        pen.line(
            oval(x, 0.36, 0.1, 0.17 - 0.02 * k, 100, 260),
            0.014,
            shift(ink.main, light=0.13),
            curve=False,
        )
    pen.form(leaf(0.16, 0.3, 0.28, 0.14, 214), ink.second, "slant")
    pen.ball(0.4, 0.43, 0.05, 0.05, CREAM)
    pen.ball(0.41, 0.43, 0.028, 0.028, (22, 24, 30), "glazed")


def person(pen: Pen, ink: Ink) -> None:
    skin = ((224, 172, 136), (150, 98, 70), (246, 208, 178), (104, 68, 50))[
        int(ink.dice.random() * 4)
    ]
    for side in (-1, 1):
        pen.form(
            smooth(
                [(side * 0.02, 0.4), (side * 0.12, 0.4), (side * 0.1, 0.02), (side * 0.03, 0.02)],
                closed=True,
            ),
            (56, 60, 78),
            "side",
        )
        pen.form(box(side * 0.07 - 0.06, 0, side * 0.07 + 0.06, 0.04, 0.02), (44, 38, 40))
        handle(
            pen,
            [(side * 0.12, 0.68), (side * 0.2, 0.54), (side * 0.17, 0.40)],
            0.062,
            shift(ink.main, light=-0.05),
        )
    pen.form(
        smooth(path("-.14 .34, .14 .34, .13 .55, .12 .7, 0 .75, -.12 .7, -.13 .55"), closed=True),
        ink.main,
        "side",
    )
    pen.form(box(-0.03, 0.7, 0.03, 0.8, 0.02), shift(skin, light=-0.06))
    pen.ball(0, 0.87, 0.085, 0.1, skin)
    pen.form(
        [*oval(0, 0.885, 0.095, 0.1, -5, 185, steps=24), (-0.06, 0.91), (0.05, 0.93)],
        mix((46, 34, 30), ink.second, 0.15),
        "slant",
    )
