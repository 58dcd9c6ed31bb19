"""For a subject nobody taught us: a small sculpture, seeded from the prompt's words."""

from __future__ import annotations

from .colour import RGB, shift
from .curves import box, moved, oval
from .kind import Ink, Kind
from .pen import TILT, Pen


def _slab(pen: Pen, rgb: RGB, wide: float) -> float:
    pen.form(box(-wide, 0, wide, 0.09, 0.012), rgb, "side")
    pen.form(
        [(-wide, 0.09), (wide, 0.09), (wide - 0.05, 0.115), (-wide + 0.05, 0.115)],
        shift(rgb, light=0.08),
    )
    return 0.1


def _drum(pen: Pen, rgb: RGB, wide: float) -> float:
    pen.turned([(wide, 0.0), (wide, 0.22)], rgb, "matt", curve=False)
    pen.form(oval(0, 0.22, wide, wide * TILT), shift(rgb, light=0.08), "slant")
    return 0.22


def _arch(pen: Pen, rgb: RGB, wide: float) -> float:
    inner = wide * 0.52
    outline = [
        (-wide, 0),
        *oval(0, wide * 0.55, wide, wide, 180, 0),
        (wide, 0),
        (inner, 0),
        *oval(0, wide * 0.55, inner, inner, 0, 180),
        (-inner, 0),
    ]
    pen.form(moved(outline, 0.04, 0.012), shift(rgb, light=-0.17), "rise")
    pen.form(outline, rgb, "slant")
    return wide * 1.55


def _sphere(pen: Pen, rgb: RGB, wide: float) -> float:
    r = wide * 0.62
    pen.soft(oval(0.02, 0.005, r * 0.7, r * 0.12), shift(rgb, light=-0.4), 0.02, 0.5)
    pen.ball(0, r, r, r, rgb, "glazed")
    return 2 * r


def _cone(pen: Pen, rgb: RGB, wide: float) -> float:
    pen.turned([(wide * 0.72, 0.0), (wide * 0.36, 0.24), (0.004, 0.48)], rgb, "matt", curve=False)
    return 0.48


def _ring(pen: Pen, rgb: RGB, wide: float) -> float:
    r = wide * 0.72
    for grow, light in ((0.0, -0.1), (0.3, 0.0), (0.62, 0.1)):
        pen.line(
            moved(oval(0, r + 0.05, r, r), -0.016 * grow, 0.016 * grow),
            0.11 * (1 - grow * 0.75),
            shift(rgb, light=light),
            curve=False,
        )
    return 2 * r + 0.1


def _half_moon(pen: Pen, rgb: RGB, wide: float) -> float:
    bowl = [
        (-wide * 0.8, wide * 0.8),
        *oval(0, wide * 0.8, wide * 0.8, wide * 0.8, 180, 360),
        (wide * 0.8, wide * 0.8),
    ]
    pen.form(moved(bowl, 0.03, 0.01), shift(rgb, light=-0.16))
    pen.form(bowl, rgb, "slant")
    return wide * 0.8


def sculpture(pen: Pen, ink: Ink) -> None:
    """Two to four forms in balance, from the widest up, with one beside them."""
    dice = ink.dice
    hues = [
        ink.main,
        ink.second,
        shift(ink.main, light=0.16, hue=14),
        shift(ink.second, light=-0.12),
        (240, 230, 212),
    ]
    start = int(dice.random() * 5)
    side = 0.44 if dice.random() < 0.5 else -0.44
    beside = (_sphere, _cone, _drum)[int(dice.random() * 3)]
    base = (_drum, _arch)[int(dice.random() * 2)]
    crown = (_sphere, _cone, _ring, _half_moon)[int(dice.random() * 4)]
    y = _slab(pen, shift(ink.second, light=0.06), 0.66)
    beside(pen.at(side, y - 0.02), hues[(start + 3) % 5], 0.17)
    y += base(pen.at(0, y - 0.01), ink.main, 0.33)
    if base is not _arch or dice.random() < 0.5:
        middle = (_arch, _drum, _half_moon, _slab)[int(dice.random() * 4)]
        y += middle(pen.at(0.03, y), hues[(start + 1) % 5], 0.25)
    crown(pen.at(-0.02, y), hues[(start + 2) % 5 or 1], 0.2)


SCULPTURE = Kind(draw=sculpture, wide=1.35, tall=1.1, stature=1.2)
