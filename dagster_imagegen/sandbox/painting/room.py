"""Indoor scenes: a studio sweep, a table by a window, a kitchen, a room."""

from __future__ import annotations

import random

from PIL import Image, ImageDraw, ImageFilter

from .brief import Brief
from .colour import COLOURS, RGB, lightness, mix, ramp, shift
from .curves import Point, box, oval, smooth
from .palette import Palette
from .pen import Pen
from .stage import Stage

_LIGHTS: dict[str, tuple[RGB, float]] = {
    "dawn": ((255, 190, 170), 0.42),
    "morning": ((255, 226, 170), 0.50),
    "noon": ((255, 250, 232), 0.50),
    "sunset": ((255, 156, 84), 0.55),
    "dusk": ((196, 150, 220), 0.28),
    "night": ((150, 176, 232), 0.30),
}

_WOODS: dict[str, RGB] = {"wood": (190, 138, 88), "walnut": (112, 74, 52)}


def paint_room(image: Image.Image, brief: Brief, palette: Palette) -> Stage:
    """Paint an indoor scene on `image` (RGBA) and say where its things stand."""
    dice = brief.dice("room")
    width, height = image.size
    aspect = width / height
    wall = palette.wall
    image.paste(
        ramp(
            ((0.0, shift(wall, light=0.035)), (0.7, wall), (1.0, shift(wall, light=-0.05))),
            image.size,
        )
    )
    pen = Pen(image, origin=(width / 2, height), unit=height)
    _falloff(image)
    floor = 0.30 if aspect >= 1 else 0.27
    kitchen, room = brief.place == "kitchen", brief.place == "room"
    if kitchen:
        _tiles(pen, aspect, wall, floor)
    elif room:
        _panelling(pen, aspect, wall, dice)
    else:
        _shape_behind(pen, aspect, palette, dice, floor)
    if brief.time or room or dice.random() < 0.4:
        _window_light(
            image, *_LIGHTS[brief.time or "morning"], lean=0.5 if dice.random() < 0.5 else -0.5
        )
    surface = brief.surface or ("stone" if kitchen else "wood" if room else None)
    if surface is None:
        _sweep(image, wall, floor)
    else:
        _table(pen, aspect, floor, _surface_colour(brief, surface, wall), surface, dice)
    return Stage(
        floor=floor * 0.52,
        horizon=floor,
        light=_LIGHTS[brief.time or "noon"][0],
        dark=lightness(wall) < 0.4,
    )


def _surface_colour(brief: Brief, surface: str, wall: RGB) -> RGB:
    if brief.surface_colour:
        return brief.surface_colour
    own = _WOODS.get(surface) or {
        "marble": COLOURS["pearl"],
        "stone": mix(COLOURS["stone"], wall, 0.35),
        "linen": mix(COLOURS["oatmeal"], wall, 0.3),
        "concrete": COLOURS["ash"],
    }.get(surface, _WOODS["wood"])
    return shift(own, light=-0.22) if brief.time in {"night", "dusk"} else own


def _falloff(image: Image.Image) -> None:
    """The wall is lighter on the upper left, where the light comes from."""
    width, height = image.size
    side = 2 * max(width, height)
    fade = Image.radial_gradient("L").point(
        [round(max(0.0, 1 - v / 200) ** 1.6 * 74) for v in range(256)]
    )
    left, top = (0.5 - 0.22 * width / side) * 256, (0.5 - 0.2 * height / side) * 256
    frame = (left, top, left + 256 * width / side, top + 256 * height / side)
    mask = fade.resize(image.size, Image.Resampling.BILINEAR, box=frame)
    image.paste((255, 252, 244, 255), (0, 0), mask)


def _shape_behind(
    pen: Pen, aspect: float, palette: Palette, dice: random.Random, floor: float
) -> None:
    """One large quiet shape behind the subject: an arch, a disc, a panel, or hills of colour."""
    wall = palette.wall
    tint = shift(wall, light=0.055 if lightness(wall) < 0.86 else -0.05, chroma=1.35, hue=8)
    warm = mix(tint, palette.accent, 0.22)
    reach = min(0.36, aspect * 0.36)
    roll = dice.random()
    if roll < 0.3:
        pen.form(
            [(-reach, floor - 0.1), (reach, floor - 0.1), *oval(0, 0.58, reach, reach, 0, 180)],
            warm,
            "rise",
        )
    elif roll < 0.6:
        x = (dice.random() - 0.5) * 0.25 * aspect
        pen.form(oval(x, 0.60, reach * 0.95, reach * 0.95), warm, "rise")
    elif roll < 0.8:
        edge = aspect * (0.06 + 0.1 * dice.random())
        pen.form(box(-aspect, floor - 0.1, -edge, 1.1), warm, "rise")
    else:
        hill = smooth(
            [
                (-aspect, 0.44),
                (-aspect * 0.3, 0.68),
                (aspect * 0.12, 0.52),
                (aspect * 0.4, 0.60),
                (aspect, 0.42),
            ]
        )
        pen.form([*hill, (aspect, 0), (-aspect, 0)], warm, "rise")
        pen.form(oval(aspect * 0.24, 0.76, 0.11, 0.11), mix(warm, palette.accent, 0.35), "rise")


def _window_light(image: Image.Image, rgb: RGB, strength: float, *, lean: float) -> None:
    """Sun through a window, aslant on the wall; soft, and cut by its bars."""
    width, height = 240, 240
    mask = Image.new("L", (width, height))
    draw = ImageDraw.Draw(mask)
    for row in range(3):
        for column in range(2):
            x, y = 62 + column * 58, 18 + row * 54
            cut = lean * 46
            corners: list[Point] = [(x, y), (x + 50, y), (x + 50, y + 46), (x, y + 46)]
            slanted = [
                (px + (120 - py) * lean * 0.55, py + (px - 120) * lean * 0.35 + cut * 0.1)
                for px, py in corners
            ]
            draw.polygon(slanted, fill=round(255 * strength))
    mask = mask.filter(ImageFilter.GaussianBlur(2.6))
    mask = mask.resize(image.size, Image.Resampling.BILINEAR)
    image.paste((*rgb, 255), (0, 0), mask)


def _sweep(image: Image.Image, wall: RGB, floor: float) -> None:
    """A paper sweep: the wall runs into the floor without an edge."""
    width, height = image.size
    top = round(height * (1 - floor - 0.10))
    light = shift(wall, light=0.03)
    fill = ramp(
        ((0.0, wall), (0.45, light), (1.0, shift(wall, light=-0.07))), (width, height - top)
    )
    mask = (
        Image.linear_gradient("L")
        .resize((width, height - top))
        .point([min(255, round(v * 1.9)) for v in range(256)])
    )
    image.paste(fill, (0, top), mask)


def _tiles(pen: Pen, aspect: float, wall: RGB, floor: float) -> None:
    joint = shift(wall, light=0.05 if lightness(wall) < 0.85 else -0.05)
    tall = 0.085
    for row in range(int((1 - floor) / tall) + 1):
        y = floor + row * tall
        pen.line([(-aspect, y), (aspect, y)], 0.004, joint, curve=False)
        x = -aspect / 2 - (tall if row % 2 else 0)
        while x < aspect / 2:
            pen.line([(x, y), (x, y + tall)], 0.004, joint, curve=False)
            x += tall * 2
    pen.form(box(-aspect, 0.84, aspect, 0.862), shift((176, 124, 78), light=-0.02))
    pen.soft(
        [(-aspect, 0.84), (aspect, 0.84), (aspect, 0.80), (-aspect, 0.80)],
        shift(wall, light=-0.3),
        0.012,
        0.28,
    )


def _panelling(pen: Pen, aspect: float, wall: RGB, dice: random.Random) -> None:
    pen.form(box(-aspect, 0.0, aspect, 0.34), shift(wall, light=0.05))
    pen.form(box(-aspect, 0.27, aspect, 0.335), shift(wall, light=0.09))
    x = (-0.28 if dice.random() < 0.5 else 0.28) * aspect
    frame = shift(wall, light=-0.35)
    pen.form(box(x - 0.13, 0.62, x + 0.13, 0.94), frame, "slant")
    pen.form(box(x - 0.118, 0.632, x + 0.118, 0.928), COLOURS["ivory"], "slant")
    pen.form(oval(x, 0.8, 0.06, 0.06), shift(wall, light=-0.12, chroma=2, hue=60))
    pen.form(
        smooth(
            [
                (x - 0.10, 0.66),
                (x - 0.05, 0.74),
                (x + 0.02, 0.70),
                (x + 0.10, 0.77),
                (x + 0.10, 0.65),
                (x - 0.10, 0.65),
            ]
        ),
        shift(wall, light=-0.25, chroma=1.6),
    )


def _table(  # noqa: PLR0917 - two callers, both in this module
    pen: Pen, aspect: float, floor: float, rgb: RGB, surface: str, dice: random.Random
) -> None:
    """A surface that fills the foreground, in its material."""
    pen.form(box(-aspect, -0.02, aspect, floor), rgb, "fall")
    image = pen.layer
    width, height = image.size
    top = round(height * (1 - floor))
    image.paste(
        ramp(
            ((0.0, shift(rgb, light=0.06)), (0.6, rgb), (1.0, shift(rgb, light=-0.09))),
            (width, height - top),
        ),
        (0, top),
    )
    if surface in {"wood", "walnut"}:
        _grain(pen, aspect, floor, rgb, dice)
    elif surface == "marble":
        _veins(pen, aspect, floor, rgb, dice)
    elif surface == "linen":
        for k in range(5):
            x = (k / 4 - 0.5) * aspect * 1.1
            pen.soft(
                [(x, 0), (x + 0.05, 0), (x * 0.86 + 0.03, floor), (x * 0.86, floor)],
                shift(rgb, light=-0.1),
                0.016,
                0.5,
            )
    else:
        for _ in range(160):
            x, y = (dice.random() - 0.5) * aspect, floor * dice.random()
            tone = shift(rgb, light=(-0.10, 0.06, -0.05)[int(dice.random() * 3)])
            r = 0.0015 + 0.0025 * dice.random()
            pen.form(oval(x, y, r * 1.6, r, steps=6), tone, "flat")
    pen.line([(-aspect, floor), (aspect, floor)], 0.005, shift(rgb, light=0.10), curve=False)


def _veins(pen: Pen, aspect: float, floor: float, rgb: RGB, dice: random.Random) -> None:
    """Marble: a few soft clouds along one direction, and fine veins through them."""
    for k in range(7):
        x, y = (dice.random() - 0.5) * aspect * 1.2, floor * dice.random()
        rise = 0.10 + 0.05 * dice.random()
        vein = [(x + t * 0.085, y + t * 0.085 * rise + 0.007 * dice.random()) for t in range(-3, 4)]
        below = [p for p in vein if p[1] < floor]
        if len(below) < 3:
            continue
        tone = shift(rgb, light=-0.05 - 0.07 * dice.random())
        if k % 2:
            wide = [*below, *[(px, py - 0.022) for px, py in reversed(below)]]
            pen.soft(wide, tone, 0.011, 0.5)
        pen.line(below, 0.0016 + 0.0012 * dice.random(), tone)


def _grain(pen: Pen, aspect: float, floor: float, rgb: RGB, dice: random.Random) -> None:
    """Boards that come towards us: seams closer together far away, and grain along them."""
    y = floor
    step = 0.028
    while y > 0:
        for _ in range(5):
            x = (dice.random() - 0.5) * aspect * 1.2
            long = (0.12 + 0.4 * dice.random()) * aspect
            at_y = y - step * dice.random()
            wave = [(x + long * t, at_y + 0.004 * (dice.random() - 0.5)) for t in (0, 0.3, 0.6, 1)]
            pen.line(
                wave,
                0.0016 + 0.0016 * dice.random(),
                shift(rgb, light=-0.035 - 0.03 * dice.random()),
            )
        y -= step
        pen.line([(-aspect, y), (aspect, y)], 0.0032, shift(rgb, light=-0.15), curve=False)
        pen.line(
            [(-aspect, y - 0.003), (aspect, y - 0.003)], 0.0016, shift(rgb, light=0.06), curve=False
        )
        step *= 1.42


def paint_ledge(image: Image.Image, brief: Brief, palette: Palette) -> Stage:
    """Something to stand on before a view: a table, a stone, or snow."""
    width, height = image.size
    aspect = width / height
    floor = 0.20
    pen = Pen(image, origin=(width / 2, height), unit=height)
    image.paste(image.filter(ImageFilter.GaussianBlur(height / 160)))
    if brief.surface is None and (brief.weather == "snow" or brief.season == "winter"):
        drift = smooth(
            [(-aspect, 0.18), (-aspect * 0.25, 0.215), (aspect * 0.1, 0.2), (aspect, 0.225)]
        )
        pen.form([*drift, (aspect, -0.1), (-aspect, -0.1)], (232, 238, 246), "fall")
    else:
        surface = brief.surface or ("wood" if brief.seed % 2 else "stone")
        rgb = _surface_colour(brief, surface, palette.wall)
        _table(pen, aspect, floor, rgb, surface, brief.dice("ledge"))
    dark = brief.time in {"night", "dusk"}
    return Stage(floor=0.11, horizon=floor, light=_LIGHTS[brief.time or "noon"][0], dark=dark)
