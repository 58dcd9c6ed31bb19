"""What is met outside: trees, houses, vehicles."""

from __future__ import annotations

import math

from .colour import shift
from .curves import box, oval, path, smooth
from .kind import Ink
from .parts import CREAM, DARK
from .pen import Pen


def tree(pen: Pen, ink: Ink) -> None:
    pen.form(
        smooth(path("-.07 0, .08 0, .04 .2, .05 .5, -.04 .5, -.035 .2"), closed=True),
        (92, 66, 48),
        "side",
    )
    for x in (-0.16, 0.17):
        pen.line([(0, 0.3), (x * 0.6, 0.42), (x, 0.52)], 0.035, (92, 66, 48))
    dice = ink.dice
    for i in range(13):
        angle, far = 2.4 * i, 0.27 * math.sqrt(i / 13)
        r = 0.19 + 0.06 * dice.random()
        x, y = far * 1.15 * math.cos(angle), 0.68 + far * math.sin(angle)
        pen.ball(x, y, r, r * 0.94, shift(ink.main, light=(y - 0.68) * 0.28 - x * 0.12))


def pine(pen: Pen, ink: Ink) -> None:
    pen.form(box(-0.04, 0, 0.04, 0.2), (84, 60, 44), "side")
    for i in range(5):
        low, wide = 0.12 + 0.165 * i, 0.36 - 0.062 * i
        tier = [
            (-wide, low),
            (-wide * 0.4, low - 0.025),
            (0, low + 0.01),
            (wide * 0.4, low - 0.025),
            (wide, low),
            (wide * 0.3, low + 0.16),
            (0, low + 0.3),
            (-wide * 0.3, low + 0.16),
        ]
        pen.form(tier, shift(ink.main, light=-0.05 + 0.025 * i), "slant")


def house(pen: Pen, ink: Ink) -> None:
    pen.form(box(0.20, 0.62, 0.30, 0.96), (128, 78, 62), "side")
    pen.form(path("-.42 0, .2 0, .2 .5, -.11 .76, -.42 .5"), CREAM, "slant")
    pen.form([(0.2, 0), (0.5, 0.04), (0.5, 0.5), (0.2, 0.5)], shift(CREAM, light=-0.12), "rise")
    pen.form([(-0.11, 0.82), (0.32, 0.80), (0.56, 0.47), (0.2, 0.46)], ink.main, "rise")
    pen.line(
        [(-0.5, 0.46), (-0.11, 0.80), (0.22, 0.46)], 0.05, shift(ink.main, light=-0.07), curve=False
    )
    pen.form(box(-0.2, 0, -0.03, 0.29, 0.02), ink.second, "slant")
    for x, y in ((-0.345, 0.2), (0.05, 0.2), (-0.16, 0.47)):
        pen.form(box(x, y, x + 0.1, y + 0.14, 0.01), (255, 220, 140), "fall")
    pen.form([(0.3, 0.2), (0.41, 0.21), (0.41, 0.36), (0.3, 0.35)], (255, 214, 130), "fall")


def lighthouse(pen: Pen, ink: Ink) -> None:
    pen.glow(0, 0.88, 0.8, (255, 236, 170), 0.7)
    pen.turned([(0.19, 0), (0.12, 0.78)], CREAM, "matt", curve=False)
    for y in (0.1, 0.36, 0.62):
        r = 0.19 - 0.07 * y / 0.78
        pen.turned([(r + 0.001, y), (r - 0.011, y + 0.13)], ink.main, "matt", curve=False)
    pen.turned([(0.16, 0.78), (0.16, 0.81)], DARK, "matt", curve=False)
    pen.turned([(0.09, 0.82), (0.09, 0.94)], (255, 232, 160), "matt", curve=False)
    pen.turned([(0.13, 0.94), (0.07, 1.02), (0.01, 1.06)], ink.main, "matt")


def boat(pen: Pen, ink: Ink) -> None:
    pen.line([(0.0, 0.15), (0.0, 1.0)], 0.022, (92, 64, 44))
    pen.form(smooth([(0.03, 0.24), (0.44, 0.26), (0.30, 0.60), (0.04, 0.97)]), CREAM, "slant")
    pen.form(
        smooth([(-0.04, 0.26), (-0.36, 0.28), (-0.20, 0.6), (-0.04, 0.86)]),
        shift(ink.second, light=0.08),
        "slant",
    )
    hull = smooth([(-0.5, 0.21), (0.0, 0.17), (0.58, 0.24)]) + smooth(
        path(".45 .06, .34 0, -.3 0, -.42 .06, -.5 .21")
    )
    pen.form(hull, ink.main, "rise", "glazed")
    pen.line([(-0.49, 0.195), (0.0, 0.155), (0.56, 0.225)], 0.018, CREAM)


def bicycle(pen: Pen, ink: Ink) -> None:
    for x in (-0.42, 0.42):
        for k in range(6):
            a = math.radians(30 * k)
            dx, dy = 0.24 * math.cos(a), 0.24 * math.sin(a)
            pen.line([(x - dx, 0.27 - dy), (x + dx, 0.27 + dy)], 0.005, (150, 150, 154))
        pen.line(oval(x, 0.27, 0.25, 0.25), 0.035, DARK, curve=False)
        pen.ball(x, 0.27, 0.03, 0.03, DARK)
    for bars in (
        path("-.42 .27, -.05 .27, .3 .62, -.17 .62, -.42 .27"),
        [(-0.05, 0.27), (-0.2, 0.72)],
        [(0.42, 0.27), (0.28, 0.74)],
    ):
        pen.line(bars, 0.034, ink.main, curve=False)
    pen.line([(0.28, 0.74), (0.25, 0.8), (0.36, 0.82), (0.4, 0.76)], 0.03, DARK)
    pen.form(
        smooth([(-0.32, 0.74), (-0.1, 0.72), (-0.1, 0.76), (-0.3, 0.79)], closed=True),
        (120, 76, 48),
    )
    pen.line([(-0.05, 0.27), (0.02, 0.16)], 0.022, DARK)
    pen.ball(-0.05, 0.27, 0.06, 0.06, (120, 120, 126))


def car(pen: Pen, ink: Ink) -> None:
    cabin = smooth(path("-.42 .36, -.30 .60, 0 .66, .24 .58, .42 .36"))
    pen.form(cabin, shift(ink.main, light=-0.02), "rise")
    pen.form(
        smooth([(-0.34, 0.37), (-0.25, 0.56), (-0.04, 0.605), (-0.04, 0.37)]),
        (188, 214, 224),
        "slant",
    )
    pen.form(
        smooth([(0.0, 0.37), (0.0, 0.605), (0.2, 0.54), (0.33, 0.37)]), (188, 214, 224), "slant"
    )
    body = smooth(
        path("-.72 .14, -.72 .3, -.5 .4, 0 .41, .5 .39, .72 .3, .74 .14, .5 .1, -.5 .1"),
        closed=True,
    )
    pen.form(body, ink.main, "rise", "glazed")
    pen.line([(-0.66, 0.33), (0.0, 0.355), (0.64, 0.325)], 0.012, shift(ink.main, light=0.2))
    for x in (-0.44, 0.44):
        pen.ball(x, 0.14, 0.15, 0.15, DARK)
        pen.ball(x, 0.14, 0.075, 0.075, (196, 198, 202), "metal")
    pen.ball(0.69, 0.27, 0.04, 0.05, (255, 236, 170))
    pen.line([(0.02, 0.32), (0.1, 0.32)], 0.014, (206, 208, 210))


def rocket(pen: Pen, ink: Ink) -> None:
    pen.glow(0, 0.0, 0.4, (255, 180, 90), 0.8)
    pen.form(smooth([(-0.1, 0.16), (0.0, -0.2), (0.1, 0.16)]), (255, 190, 84), "fall")
    for side in (-1, 1):
        pen.form(
            smooth(
                [(side * 0.14, 0.42), (side * 0.34, 0.2), (side * 0.33, 0.04), (side * 0.13, 0.17)]
            ),
            ink.main,
            "slant",
        )
    body = smooth(
        path("-.13 .13, .13 .13, .2 .42, .14 .78, 0 1.02, -.14 .78, -.2 .42"), closed=True
    )
    pen.form(body, CREAM, "side", "glazed")
    pen.form(
        [(-0.15, 0.76), *oval(0, 0.76, 0.15, 0.02, 180, 360), (0.1, 0.88), (0, 1.02), (-0.1, 0.88)],
        ink.main,
        "side",
        "glazed",
    )
    pen.form(oval(0, 0.58, 0.085, 0.085), ink.main, "slant")
    pen.form(oval(0, 0.58, 0.06, 0.06), (132, 190, 220), "slant", "glazed")
    pen.form(box(-0.035, 0.08, 0.035, 0.36, 0.03), ink.main, "side")


def balloon(pen: Pen, ink: Ink) -> None:
    for x in (-0.1, 0.1):
        pen.line([(x * 2.2, 0.34), (x, 0.15)], 0.008, (90, 70, 56), curve=False)
    outline = smooth(
        path(
            "0 .28, .14 .30, .34 .52, .4 .74, .28 .98, 0 1.06, -.28 .98, -.4 .74, "
            "-.34 .52, -.14 .30"
        ),
        closed=True,
    )
    pen.form(outline, ink.main, "ball")
    for k, share in enumerate((0.72, 0.34)):
        gore = [(x * share, y) for x, y in outline]
        pen.form(gore, ink.second if k == 0 else ink.main, "ball")
    pen.form(box(-0.11, 0.0, 0.11, 0.16, 0.03), (156, 108, 66), "side")
