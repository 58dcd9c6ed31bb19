"""Things people carry and keep."""

from __future__ import annotations

import math

from .colour import shift
from .curves import box, moved, oval, path, smooth
from .kind import Ink
from .parts import BRASS, CREAM, DARK
from .pen import Pen


def book(pen: Pen, ink: Ink) -> None:
    colours = (ink.main, ink.second, shift(ink.main, light=0.12, hue=18))
    for i, rgb in enumerate(colours):
        y, nudge, half = 0.165 * i, (0.0, 0.035, -0.03)[i], (0.48, 0.44, 0.41)[i]
        pages = box(nudge - half + 0.02, y + 0.02, nudge + half - 0.02, y + 0.135, 0.01)
        pen.form(pages, CREAM, "rise")
        for k in (0.055, 0.085, 0.11):
            pen.line(
                [(nudge, y + k), (nudge + half - 0.03, y + k)], 0.003, shift(CREAM, light=-0.14)
            )
        for edge in (y, y + 0.13):
            pen.form(box(nudge - half, edge, nudge + half, edge + 0.028, 0.012), rgb, "rise")
        pen.form(box(nudge - half, y, nudge - half + 0.24, y + 0.158, 0.03), rgb, "side")
        pen.form(
            box(nudge - half + 0.05, y + 0.05, nudge - half + 0.19, y + 0.11, 0.005),
            shift(rgb, light=0.2),
        )


def shoe(pen: Pen, ink: Ink) -> None:
    upper = smooth(
        path("-.56 .12, -.56 .34, -.5 .56, -.24 .54, -.06 .4, .2 .31, .5 .25, .62 .12"),
        closed=False,
    )
    pen.form(upper, ink.main, "slant", "matt")
    pen.form(smooth([(0.3, 0.12), (0.36, 0.27), (0.52, 0.24), (0.63, 0.12)]), CREAM, "slant")
    pen.form(
        smooth([(-0.57, 0.13), (-0.56, 0.36), (-0.46, 0.34), (-0.42, 0.13)]), ink.second, "slant"
    )
    pen.line([(-0.3, 0.16), (-0.12, 0.24), (0.14, 0.17), (0.26, 0.24)], 0.045, ink.second)
    for k in range(4):
        x, y = -0.2 + 0.1 * k, 0.49 - 0.055 * k
        pen.line([(x - 0.06, y - 0.09), (x + 0.04, y)], 0.022, CREAM)
    pen.form(box(-0.6, 0.0, 0.66, 0.13, 0.06), CREAM, "rise")
    pen.line([(-0.56, 0.05), (0.62, 0.05)], 0.014, ink.second)


def watch(pen: Pen, ink: Ink) -> None:
    for y0, y1 in ((0.0, 0.3), (0.7, 1.0)):
        pen.form(box(-0.13, y0, 0.13, y1, 0.05), ink.main, "side")
    pen.form(
        oval(0, 0.5, 0.3, 0.3),
        BRASS if ink.finish != "metal" else (190, 194, 198),
        "slant",
        "metal",
    )
    pen.form(oval(0, 0.5, 0.25, 0.25), CREAM, "slant")
    for hour in range(12):
        a = math.radians(30 * hour)
        pen.line([(d * math.sin(a), 0.5 + d * math.cos(a)) for d in (0.2, 0.225)], 0.012, DARK)
    pen.line([(0, 0.5), (-0.09, 0.58)], 0.02, DARK)
    pen.line([(0, 0.5), (0.1, 0.65)], 0.014, DARK)
    pen.ball(0.315, 0.5, 0.03, 0.035, BRASS, "glazed")


def backpack(pen: Pen, ink: Ink) -> None:
    pen.line(
        [(-0.1, 0.9), (-0.08, 1.02), (0.08, 1.02), (0.1, 0.9)], 0.035, shift(ink.main, light=-0.15)
    )
    for side in (-1, 1):
        pen.form(
            box(side * 0.36 - 0.07, 0.1, side * 0.36 + 0.07, 0.42, 0.06),
            shift(ink.main, light=-0.1),
            "side",
        )
    body = smooth(
        path("-.36 .03, 0 0, .36 .03, .37 .5, .3 .84, 0 .94, -.3 .84, -.37 .5"), closed=True
    )
    pen.form(body, ink.main, "side")
    pen.line([(-0.31, 0.60), (0, 0.64), (0.31, 0.60)], 0.012, shift(ink.main, light=-0.2))
    pen.form(box(-0.26, 0.08, 0.26, 0.46, 0.08), shift(ink.main, light=0.04), "slant")
    pen.form(box(-0.27, 0.34, 0.27, 0.48, 0.05), shift(ink.main, light=-0.05), "rise")
    for x in (-0.15, 0.15):
        pen.form(box(x - 0.025, 0.24, x + 0.025, 0.66, 0.015), (150, 98, 60), "side")
        pen.form(box(x - 0.035, 0.3, x + 0.035, 0.35, 0.01), BRASS, "slant", "metal")


def guitar(pen: Pen, ink: Ink) -> None:
    body = smooth(
        path(
            "0 0, .2 .03, .26 .17, .16 .31, .2 .44, .1 .53, 0 .54, -.1 .53, -.2 .44, "
            "-.16 .31, -.26 .17, -.2 .03"
        ),
        closed=True,
    )
    pen.form(moved(body, 0.025, -0.006), shift(ink.main, light=-0.22))
    pen.form(body, ink.main, "slant", "glazed")
    pen.form(oval(0, 0.35, 0.085, 0.075), (38, 26, 22), "fall")
    pen.form(box(-0.03, 0.34, 0.03, 0.95), (74, 48, 34), "side")
    pen.form(box(-0.045, 0.93, 0.045, 1.08, 0.02), shift(ink.main, light=-0.12), "slant")
    pen.form(box(-0.09, 0.145, 0.09, 0.17, 0.01), (52, 36, 30))
    for x in (-0.018, -0.006, 0.006, 0.018):
        pen.line([(x, 0.16), (x, 0.98)], 0.003, (236, 226, 206))
    for k in range(3):
        for side in (-1, 1):
            pen.ball(side * 0.06, 0.96 + 0.045 * k, 0.014, 0.012, BRASS, "glazed")


def camera(pen: Pen, ink: Ink) -> None:
    pen.form(box(-0.16, 0.54, 0.18, 0.72, 0.05), shift(ink.main, light=-0.05), "rise")
    pen.form(box(-0.46, 0.56, -0.28, 0.64, 0.02), (190, 192, 196), "side", "metal")
    pen.form(box(-0.55, 0.0, 0.55, 0.58, 0.08), ink.main, "rise")
    pen.form(box(-0.55, 0.44, 0.55, 0.58, 0.06), (206, 206, 204), "slant")
    for r, rgb in (
        (0.26, (58, 58, 62)),
        (0.22, (26, 27, 31)),
        (0.16, (40, 52, 82)),
        (0.09, (18, 20, 30)),
    ):
        pen.form(oval(0.02, 0.28, r, r), rgb, "slant", "glazed")
    pen.form(oval(-0.05, 0.35, 0.045, 0.035), (220, 232, 246), alpha=0.8)
    pen.form(box(0.32, 0.47, 0.46, 0.55, 0.02), (255, 240, 200), "slant")


def umbrella(pen: Pen, ink: Ink) -> None:
    pen.line(path("0 .9, 0 .12, .05 .03, .13 .04, .15 .12"), 0.03, (104, 70, 48))
    top = oval(0, 0.56, 0.56, 0.42, 0, 180, steps=40)
    scallops = [
        p for k in range(4) for p in oval(-0.42 + 0.28 * k, 0.56, 0.14, 0.055, 180, 0, steps=10)
    ]
    pen.form([*top, *scallops], ink.main, "slant", "matt")
    for k in (-1, 1):
        rib = smooth([(0, 0.98), (k * 0.11, 0.8), (k * 0.14, 0.56)])
        other = smooth([(k * 0.42, 0.56), (k * 0.32, 0.82), (0, 0.98)])
        pen.form(
            [
                *rib,
                *oval(
                    k * 0.28, 0.56, 0.14, 0.055, 180 if k > 0 else 0, 0 if k > 0 else 180, steps=10
                ),
                *other,
            ],
            ink.second,
            "slant",
            alpha=0.9,
        )
    pen.line([(0, 0.97), (0, 1.05)], 0.02, (104, 70, 48))
