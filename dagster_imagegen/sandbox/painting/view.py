"""A view outdoors: what its layers share, and the pieces they are built of."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass

from .colour import RGB, mix, shift
from .curves import Point, oval, smooth
from .kind import Ink
from .pen import Pen


@dataclass(frozen=True, kw_only=True)
class View:
    pen: Pen
    half: float  # half the picture's width, in heights
    sky: tuple[RGB, RGB, RGB]
    ground: RGB
    accent: RGB
    dice: random.Random
    night: bool
    snowy: bool


def cloud(pen: Pen, centre: Point, size: float, rgb: RGB, alpha: float) -> None:
    x, y = centre
    puffs = [
        *oval(x + 0.75 * size, y, 0.5 * size, 0.2 * size, -90, 90, steps=10),
        *oval(x + 0.25 * size, y + 0.2 * size, 0.45 * size, 0.3 * size, 20, 160, steps=12),
        *oval(x - 0.4 * size, y + 0.1 * size, 0.4 * size, 0.24 * size, 60, 180, steps=12),
        *oval(x - 0.8 * size, y, 0.4 * size, 0.2 * size, 90, 270, steps=10),
    ]
    pen.form(puffs, rgb, "rise", alpha=alpha)


def ridge(view: View, base: float, rough: float, peaks: int, *, sharp: bool) -> list[Point]:
    """A skyline around height `base`, closed below the picture."""
    dice, half = view.dice, view.half
    points: list[Point] = []
    count = max(4, round(peaks * max(0.6, half * 2)))
    for i in range(count + 1):
        x = -half * 1.15 + 2.3 * half * i / count
        up = rough * ((0.35 + 0.65 * dice.random()) if i % 2 else 0.4 * dice.random() - 0.3)
        points.append((x + (dice.random() - 0.5) * half * 0.9 / count, base + up))
    if sharp:
        return [*_jagged(points, dice), (half * 1.2, -0.1), (-half * 1.2, -0.1)]
    return [*smooth(points), (half * 1.2, -0.1), (-half * 1.2, -0.1)]


def _jagged(points: list[Point], dice: random.Random) -> list[Point]:
    for scale in (0.14, 0.10, 0.07):
        finer: list[Point] = []
        for (x0, y0), (x1, y1) in itertools.pairwise(points):
            bump = (dice.random() - 0.5) * scale * abs(y1 - y0)
            finer += [(x0, y0), ((x0 + x1) / 2, (y0 + y1) / 2 + bump)]
        points = [*finer, points[-1]]
    return points


def far(view: View, depth: float) -> RGB:
    """The ground's colour seen through air; depth 1 is the horizon."""
    return mix(shift(view.ground, light=-0.16 * (1 - depth)), view.sky[2], 0.82 * depth)


def near(view: View) -> RGB:
    if view.snowy:
        return mix((238, 242, 248), view.ground, 0.25 if not view.night else 0.6)
    return shift(view.ground, light=-0.10)


def plain_ink(view: View, rgb: RGB) -> Ink:
    return Ink(
        main=rgb, second=view.accent, finish="matt", material=None, pattern="", dice=view.dice
    )
