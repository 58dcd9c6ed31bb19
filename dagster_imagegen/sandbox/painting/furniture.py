"""Furniture."""

from __future__ import annotations

from .colour import shift
from .curves import box, moved, oval, path, smooth, turned_by
from .kind import Ink
from .parts import CREAM, OAK
from .pen import Pen


def chair(pen: Pen, ink: Ink) -> None:
    for x, lean in ((-0.22, 0.03), (0.24, -0.03)):
        pen.line([(x + lean, 0.10), (x, 0.46)], 0.04, shift(OAK, light=-0.16))
    back = smooth(path("-.27 .5, .27 .5, .31 .98, .16 1.07, -.16 1.07, -.31 .98"), closed=True)
    pen.form(back, shift(ink.main, light=-0.04), "slant")
    seat = smooth(path("-.34 .40, .34 .40, .37 .48, .28 .56, -.28 .56, -.37 .48"), closed=True)
    pen.form(moved(seat, 0, -0.035), shift(ink.main, light=-0.14))
    pen.form(seat, ink.main, "slant")
    for side in (-1, 1):
        pen.line([(side * 0.30, 0.39), (side * 0.36, 0.0)], 0.045, OAK)


def stool(pen: Pen, ink: Ink) -> None:
    for x, foot in ((-0.12, -0.18), (0.12, 0.18)):
        pen.line([(x, 0.55), (foot, 0.1)], 0.04, shift(OAK, light=-0.16))
    for x, foot in ((-0.24, -0.34), (0.24, 0.34)):
        pen.line([(x, 0.56), (foot, 0.0)], 0.05, OAK)
    pen.line([(-0.28, 0.26), (0.28, 0.26)], 0.03, shift(OAK, light=-0.08))
    pen.turned([(0.33, 0.54), (0.36, 0.6), (0.35, 0.67)], ink.main, ink.finish)
    pen.form(oval(0, 0.67, 0.35, 0.07), shift(ink.main, light=0.07), "slant")


def sofa(pen: Pen, ink: Ink) -> None:
    for x in (-0.72, 0.66):
        pen.form([(x, 0.0), (x + 0.04, 0.0), (x + 0.07, 0.12), (x - 0.02, 0.12)], OAK, "side")
    pen.form(box(-0.72, 0.28, 0.72, 0.78, 0.12), shift(ink.main, light=-0.07), "rise")
    for x0, x1 in ((-0.66, 0.0), (0.0, 0.66)):
        pen.form(box(x0, 0.38, x1, 0.74, 0.09), shift(ink.main, light=-0.02), "slant")
        pen.form(box(x0, 0.24, x1, 0.44, 0.07), shift(ink.main, light=0.04), "rise")
    pen.form(box(-0.74, 0.09, 0.74, 0.26, 0.05), shift(ink.main, light=-0.05), "rise")
    for x0 in (-0.84, 0.64):
        pen.form(box(x0, 0.10, x0 + 0.2, 0.58, 0.1), ink.main, "side")
    pen.form(turned_by(box(-0.56, 0.40, -0.28, 0.68, 0.06), 10, -0.42, 0.5), ink.second, "ball")


def shelf(pen: Pen, ink: Ink) -> None:
    for y in (0.0, 0.34, 0.68, 0.98):
        pen.form(box(-0.4, y, 0.4, y + 0.045, 0.01), ink.main, "rise")
    for x in (-0.4, 0.36):
        pen.form(box(x, 0.0, x + 0.045, 1.02, 0.01), shift(ink.main, light=-0.05), "side")
    dice = ink.dice
    for y in (0.045, 0.385, 0.725):
        x = -0.33
        while x < 0.2:
            wide, tall = 0.035 + 0.03 * dice.random(), 0.16 + 0.08 * dice.random()
            hue = (
                ink.second,
                ink.main,
                CREAM,
                shift(ink.second, hue=40),
                shift(ink.second, light=-0.12),
            )
            pen.form(box(x, y, x + wide, y + tall, 0.006), hue[int(dice.random() * 5)], "side")
            x += wide + 0.006
        small = pen.at(0.27, y, 0.22)
        small.turned([(0.2, 0), (0.3, 0.3), (0.14, 0.62), (0.18, 0.72)], ink.second, "glazed")
