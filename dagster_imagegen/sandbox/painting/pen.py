"""The pen: draws lit shapes on a transparent layer, in the subject's own coordinates."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence

from PIL import Image, ImageChops, ImageDraw, ImageFilter

from .colour import RGB, shift
from .curves import Point, oval, smooth
from .shading import Finish, Shade, stretched, swatch

TILT = 0.17  # how far from above things are seen: height of a circle's ellipse over its width
_SHARPER = 3  # outlines are drawn this much larger, for soft edges
_LINEAR = Image.Resampling.BILINEAR
_COLUMNS, _ROWS = 8, 18  # of the mesh that wraps a skin around a turned body


class Pen:
    """Draws on `layer` with (0, 0) at `origin` and 1 unit `unit` pixels long, y upwards."""

    def __init__(
        self, layer: Image.Image, *, origin: tuple[float, float], unit: float, flip: bool = False
    ) -> None:
        self.layer = layer
        self.origin = origin
        self.unit = unit
        self._turn = -1.0 if flip else 1.0

    def at(self, x: float, y: float, scale: float = 1.0) -> Pen:
        """A pen for a part: its own origin at (x, y), its own unit."""
        px, py = self._pixel((x, y))
        pen = Pen(self.layer, origin=(px, py), unit=self.unit * scale)
        pen._turn = self._turn
        return pen

    def form(
        self,
        points: Sequence[Point],
        rgb: RGB,
        shade: Shade = "rise",
        finish: Finish = "matt",
        *,
        alpha: float = 1.0,
    ) -> None:
        """A closed outline filled with `rgb` under a kind of light."""
        self._stamp(points, lambda size: stretched(shade, finish, rgb, size), alpha)

    def skin(self, points: Sequence[Point], skin: Image.Image, *, alpha: float = 1.0) -> None:
        """A closed outline filled with a picture, stretched over its bounds."""
        self._stamp(points, skin.resize, alpha)

    def ball(  # noqa: PLR0917 - as short as oval, which it mirrors
        self, x: float, y: float, rx: float, ry: float, rgb: RGB, finish: Finish = "matt"
    ) -> None:
        self.form(oval(x, y, rx, ry), rgb, "ball", finish)

    def line(
        self,
        points: Sequence[Point],
        width: float,
        rgb: RGB,
        *,
        shade: Shade = "flat",
        curve: bool = True,
    ) -> None:
        """A stroke with round ends, `width` units thick."""
        path = [self._pixel(p) for p in (smooth(points) if curve else points)]
        thick = max(1.0, width * self.unit)
        left, top, right, bottom = _bounds(path, thick / 2 + 2)
        mask = Image.new("L", ((right - left) * _SHARPER, (bottom - top) * _SHARPER))
        draw = ImageDraw.Draw(mask)
        inner = [((x - left) * _SHARPER, (y - top) * _SHARPER) for x, y in path]
        draw.line(inner, fill=255, width=max(1, round(thick * _SHARPER)), joint="curve")
        r = thick * _SHARPER / 2
        for x, y in (inner[0], inner[-1]):
            draw.ellipse((x - r, y - r, x + r, y + r), fill=255)
        fill = stretched(shade, "matt", rgb, (right - left, bottom - top))
        self._lay(fill, mask.reduce(_SHARPER), (left, top))

    def turned(
        self,
        profile: Sequence[Point],
        rgb: RGB,
        finish: Finish = "glazed",
        *,
        skin: Image.Image | None = None,
        tilt: float = TILT,
        curve: bool = True,
        front: bool = False,
    ) -> None:
        """A body from the lathe: `profile` is (radius, y) from foot to rim.

        With `front` only its near wall, which hides the lower part of what was put inside.
        """
        rows = smooth(profile, steps=10) if curve else list(profile)
        r0, y0 = rows[0]
        r1, y1 = rows[-1]
        outline = [
            *oval(0, y0, r0, r0 * tilt, 180, 360),
            *rows,
            *oval(0, y1, r1, r1 * tilt, 0, -180 if front else 180),
            *[(-r, y) for r, y in reversed(rows)],
        ]
        texture = skin or swatch("side", finish, rgb)
        wide = max(r for r, _ in rows)
        low, high = y0 - r0 * tilt, y1 + r1 * tilt
        self._stamp(outline, lambda size: _wrapped(texture, size, rows, wide, (low, high), tilt))

    def opening(
        self,
        y: float,
        radius: float,
        rgb: RGB,
        *,
        liquid: RGB | None = None,
        wall: float = 0.035,
        tilt: float = TILT,
        deep: float = 0.05,
    ) -> None:
        """The open top of a turned body: its rim, the shade within, and what stands in it."""
        self.form(oval(0, y, radius, radius * tilt), shift(rgb, light=0.07), "slant", "matt")
        inner = radius - wall
        self.form(oval(0, y, inner, inner * tilt), shift(rgb, light=-0.16), "fall")
        if liquid is not None:
            drop = min(deep, inner * tilt * 0.8)
            self._within(
                oval(0, y, inner, inner * tilt),
                oval(0, y - drop, inner * 0.985, inner * tilt),
                liquid,
            )

    def glow(self, x: float, y: float, radius: float, rgb: RGB, strength: float = 0.8) -> None:
        """Light that fades from (x, y) outwards."""
        px, py = self._pixel((x, y))
        r = max(1, round(radius * self.unit))
        fade = Image.radial_gradient("L").resize((2 * r, 2 * r), _LINEAR)
        alpha = fade.point([round(max(0.0, 1 - v / 180) ** 2 * 255 * strength) for v in range(256)])
        self._lay(Image.new("RGB", (2 * r, 2 * r), rgb), alpha, (round(px) - r, round(py) - r))

    def soft(self, points: Sequence[Point], rgb: RGB, blur: float, alpha: float) -> None:
        """A blurred patch: the shade under a thing, a sheen on it."""
        path = [self._pixel(p) for p in points]
        radius = max(0.5, blur * self.unit)
        left, top, right, bottom = _bounds(path, radius * 2 + 2)
        mask = Image.new("L", (right - left, bottom - top))
        ImageDraw.Draw(mask).polygon(
            [(x - left, y - top) for x, y in path], fill=round(255 * alpha)
        )
        mask = mask.filter(ImageFilter.GaussianBlur(radius))
        self._lay(Image.new("RGB", mask.size, rgb), mask, (left, top))

    def _within(self, frame: Sequence[Point], points: Sequence[Point], rgb: RGB) -> None:
        outer = [self._pixel(p) for p in frame]
        left, top, right, bottom = _bounds(outer, 1)
        masks = [
            _mask([self._pixel(p) for p in path], (left, top, right, bottom))
            for path in (frame, points)
        ]
        fill = stretched("slant", "matt", rgb, (right - left, bottom - top))
        self._lay(fill, ImageChops.darker(masks[0], masks[1]), (left, top))

    def _pixel(self, point: Point) -> Point:
        return (
            self.origin[0] + self._turn * point[0] * self.unit,
            self.origin[1] - point[1] * self.unit,
        )

    def _stamp(
        self,
        points: Sequence[Point],
        fill_of: Callable[[tuple[int, int]], Image.Image],
        alpha: float = 1.0,
    ) -> None:
        path = [self._pixel(p) for p in points]
        bounds = _bounds(path, 1)
        mask = _mask(path, bounds)
        if alpha < 1:
            mask = mask.point([round(v * alpha) for v in range(256)])
        self._lay(fill_of(mask.size), mask, (bounds[0], bounds[1]))

    def _lay(self, fill: Image.Image, mask: Image.Image, corner: tuple[int, int]) -> None:
        """Lay `fill` through `mask` on the layer; what falls outside the layer is cut off."""
        left, top = corner
        x0, y0 = max(0, left), max(0, top)
        x1 = min(self.layer.width, left + mask.width)
        y1 = min(self.layer.height, top + mask.height)
        if x0 >= x1 or y0 >= y1:
            return
        if fill.mode == "RGBA":
            mask = ImageChops.multiply(mask, fill.getchannel("A"))
        patch = fill.convert("RGB")
        patch.putalpha(mask)
        cut = (x0 - left, y0 - top, x1 - left, y1 - top)
        self.layer.alpha_composite(patch.crop(cut), (x0, y0))


def _bounds(path: Sequence[Point], margin: float) -> tuple[int, int, int, int]:
    xs, ys = [x for x, _ in path], [y for _, y in path]
    return (
        math.floor(min(xs) - margin),
        math.floor(min(ys) - margin),
        math.ceil(max(xs) + margin) + 1,
        math.ceil(max(ys) + margin) + 1,
    )


def _mask(path: Sequence[Point], bounds: tuple[int, int, int, int]) -> Image.Image:
    left, top, right, bottom = bounds
    mask = Image.new("L", ((right - left) * _SHARPER, (bottom - top) * _SHARPER))
    inner = [((x - left) * _SHARPER, (y - top) * _SHARPER) for x, y in path]
    ImageDraw.Draw(mask).polygon(inner, fill=255)
    return mask.reduce(_SHARPER)


def _wrapped(  # noqa: PLR0917 - one caller, a few lines above
    texture: Image.Image,
    size: tuple[int, int],
    rows: Sequence[Point],
    wide: float,
    span: tuple[float, float],
    tilt: float,
) -> Image.Image:
    """`texture` bent around a turned body, so that light and pattern follow its form."""
    width, height = size
    low, high = span
    heights = [y for _, y in rows]
    # A lathe profile may run back down a little (a lip); the lookup needs rising heights.
    for i in range(1, len(heights)):
        heights[i] = max(heights[i], heights[i - 1])
    foot, rim = heights[0], heights[-1]

    def source(column: float, row: float) -> tuple[float, float]:
        x = (2 * column - 1) * wide
        y = high - row * (high - low)
        radius = _radius(rows, heights, y)
        u = max(-0.985, min(0.985, x / max(radius, 1e-6)))
        bent = y + tilt * radius * math.sqrt(1 - u * u)
        radius = _radius(rows, heights, bent)
        u = max(-0.985, min(0.985, x / max(radius, 1e-6)))
        v = (rim - bent) / max(rim - foot, 1e-6)
        return (
            (u + 1) / 2 * texture.width,
            max(0.01, min(0.99, v)) * texture.height,
        )

    grid = [
        [source(c / _COLUMNS, r / _ROWS) for c in range(_COLUMNS + 1)] for r in range(_ROWS + 1)
    ]
    mesh: list[tuple[tuple[int, int, int, int], tuple[float, ...]]] = []
    for r in range(_ROWS):
        for c in range(_COLUMNS):
            target = (
                width * c // _COLUMNS,
                height * r // _ROWS,
                width * (c + 1) // _COLUMNS,
                height * (r + 1) // _ROWS,
            )
            if target[0] == target[2] or target[1] == target[3]:
                continue
            corners = (grid[r][c], grid[r + 1][c], grid[r + 1][c + 1], grid[r][c + 1])
            mesh.append((target, tuple(v for corner in corners for v in corner)))
    return texture.transform(size, Image.Transform.MESH, mesh, Image.Resampling.BILINEAR)


def _radius(rows: Sequence[Point], heights: Sequence[float], y: float) -> float:
    i = bisect.bisect_left(heights, y)
    if i <= 0:
        return rows[0][0]
    if i >= len(rows):
        return rows[-1][0]
    low, high = heights[i - 1], heights[i]
    share = 0.0 if high <= low else (y - low) / (high - low)
    return rows[i - 1][0] * (1 - share) + rows[i][0] * share
