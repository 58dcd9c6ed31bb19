"""Outlines as lists of points: y grows upwards, the ground is y = 0, a subject is about 1 high."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

Point: TypeAlias = tuple[float, float]


def path(text: str) -> list[Point]:
    """Points written as "x y, x y"; an outline of twelve stays legible that way."""
    numbers = [float(n) for n in text.replace(",", " ").split()]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def smooth(points: Sequence[Point], *, closed: bool = False, steps: int = 8) -> list[Point]:
    """A curve through every point (Catmull-Rom)."""
    count = len(points)
    if count < 3:
        return list(points)
    result: list[Point] = []
    for i in range(count if closed else count - 1):
        if closed:
            p0, p1, p2, p3 = (points[(i + k - 1) % count] for k in range(4))
        else:
            p0, p1 = points[max(0, i - 1)], points[i]
            p2, p3 = points[i + 1], points[min(count - 1, i + 2)]
        for step in range(steps):
            t = step / steps
            result.append(
                (_knot(p0[0], p1[0], p2[0], p3[0], t), _knot(p0[1], p1[1], p2[1], p3[1], t))
            )
    if not closed:
        result.append(points[-1])
    return result


def _knot(a: float, b: float, c: float, d: float, t: float) -> float:
    return b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))


def oval(  # noqa: PLR0917 - an ellipse is its four numbers, drawn hundreds of times
    x: float,
    y: float,
    rx: float,
    ry: float,
    start: float = 0,
    end: float = 360,
    *,
    steps: int = 72,
) -> list[Point]:
    """An arc of an ellipse, in degrees anticlockwise from the right; all of it by default."""
    result: list[Point] = []
    for i in range(steps + 1):
        angle = math.radians(start + (end - start) * i / steps)
        result.append((x + rx * math.cos(angle), y + ry * math.sin(angle)))
    return result


def box(x0: float, y0: float, x1: float, y1: float, radius: float = 0.0) -> list[Point]:
    """A rectangle with rounded corners."""
    r = min(radius, abs(x1 - x0) / 2, abs(y1 - y0) / 2)
    if r <= 0:
        return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    corners = [
        (x1 - r, y1 - r, 0),
        (x0 + r, y1 - r, 90),
        (x0 + r, y0 + r, 180),
        (x1 - r, y0 + r, 270),
    ]
    result: list[Point] = []
    for x, y, start in corners:
        result.extend(oval(x, y, r, r, start, start + 90, steps=8))
    return result


def moved(points: Sequence[Point], dx: float = 0.0, dy: float = 0.0) -> list[Point]:
    return [(x + dx, y + dy) for x, y in points]


def turned_by(
    points: Sequence[Point], degrees: float, x: float = 0.0, y: float = 0.0
) -> list[Point]:
    """The points turned anticlockwise about (x, y)."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return [(x + (px - x) * c - (py - y) * s, y + (px - x) * s + (py - y) * c) for px, py in points]


def mirrored(points: Sequence[Point]) -> list[Point]:
    """An outline given as its right half, from bottom to top, made whole."""
    return [*points, *[(-x, y) for x, y in reversed(points)]]


def leaf(x: float, y: float, length: float, width: float, degrees: float) -> list[Point]:
    """A pointed leaf that starts at (x, y) and grows in a direction."""
    half = [
        (length * t, width * math.sin(math.pi * t**0.8) / 2)
        for t in (0, 0.1, 0.25, 0.45, 0.7, 0.88, 1)
    ]
    other = [(px, -py) for px, py in reversed(half[1:-1])]
    return turned_by(moved(smooth([*half, *other], closed=True, steps=4), x, y), degrees, x, y)
