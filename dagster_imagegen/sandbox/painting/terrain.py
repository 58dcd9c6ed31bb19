"""The lands: each painted in layers from far to near, and each says where its horizon is."""

from __future__ import annotations

from .colour import COLOURS, RGB, mix, oklch, ramp, shift
from .curves import Point, box, leaf, oval
from .outdoors import pine, tree
from .parts import bloom
from .view import View, cloud, far, near, plain_ink, ridge


def mountains(view: View) -> float:
    for i in range(4):
        depth = 0.85 - 0.25 * i
        base = 0.44 - 0.085 * i
        skyline = ridge(view, base, 0.30 - 0.055 * i, 5 + i, sharp=True)
        view.pen.form(skyline, far(view, depth), "rise")
        if i < 2:
            _caps(view, skyline, base + 0.10, far(view, depth))
    fore = ridge(view, 0.17, 0.03, 3, sharp=False)
    view.pen.form(fore, near(view), "fall")
    for _ in range(9):
        x = (view.dice.random() * 2 - 1) * view.half
        size = 0.07 + 0.07 * view.dice.random()
        pine(view.pen.at(x, 0.16, size), plain_ink(view, far(view, 0.12)))
    return 0.2


def _caps(view: View, ridge: list[Point], line: float, rgb: RGB) -> None:
    """Snow on the peaks: the part of the skyline above `line`, with a ragged lower edge."""
    run: list[Point] = []
    snow = mix(rgb, (252, 250, 248), 0.78)
    for point in [*ridge[:-2], (9.0, -1.0)]:
        if point[1] > line:
            run.append(point)
        elif run:
            if len(run) > 2:
                width = run[-1][0] - run[0][0]
                edge = [
                    (run[-1][0] - width * k / 6, line + (0.02 if k % 2 else -0.012))
                    for k in range(1, 6)
                ]
                view.pen.form([*run, *edge], snow, "slant")
            run = []


def sea(view: View) -> float:
    pen, half, dice = view.pen, view.half, view.dice
    horizon = 0.42
    view.pen.form(ridge(view, horizon - 0.005, 0.05, 3, sharp=False), far(view, 0.75), "rise")
    width, height = pen.layer.size
    top = round(height * (1 - horizon))
    near = shift(view.ground, light=-0.14)
    water = ramp(
        ((0.0, mix(view.ground, view.sky[2], 0.55)), (0.35, view.ground), (1.0, near)),
        (width, height - top),
    )
    pen.layer.paste(water, (0, top))
    for _ in range(70):
        t = dice.random() ** 1.6
        y = horizon * (1 - t) - 0.004
        x = (dice.random() * 2 - 1) * half
        long = (0.02 + 0.16 * t) * (0.4 + dice.random())
        rgb = mix(view.ground, view.sky[2], 0.75) if dice.random() < 0.65 else near
        pen.form(leaf(x, y, long, 0.004 + 0.011 * t, 0), rgb, "flat", alpha=0.55)
    return horizon


def forest(view: View) -> float:
    for i in range(4):
        depth = 0.8 - 0.24 * i
        base = 0.34 - 0.075 * i
        view.pen.form(ridge(view, base + 0.03, 0.03, 3, sharp=False), far(view, depth), "rise")
        count = round((15 - 2 * i) * max(0.6, view.half * 2))
        for k in range(count):
            x = (2 * (k + view.dice.random()) / count - 1) * view.half * 1.05
            size = (0.2 + 0.09 * i) * (0.75 + 0.5 * view.dice.random())
            if i == 3 and abs(x) < view.half * 0.55:
                continue
            grow = tree if (k * 7 + i) % 4 == 0 and i > 1 else pine
            grow(
                view.pen.at(x, base, size),
                plain_ink(view, shift(far(view, depth), light=0.04 * (k % 3 - 1))),
            )
    view.pen.form(ridge(view, 0.15, 0.02, 3, sharp=False), near(view), "fall")
    return 0.2


def dunes(view: View) -> float:
    for i in range(5):
        base = 0.40 - 0.085 * i
        dune = ridge(view, base, 0.10 - 0.01 * i, 2, sharp=False)
        rgb = far(view, 0.7 - 0.17 * i)
        view.pen.form(dune, shift(rgb, light=0.07), "slant")
        crest = max(dune, key=lambda p: p[1])
        shade = [p for p in dune if p[0] >= crest[0] and p[1] > -0.05]
        foot = [(crest[0] + 0.55 * (p[0] - crest[0]) + 0.06, p[1] - 0.10) for p in reversed(shade)]
        if len(shade) > 3:
            view.pen.form([*shade, *foot], shift(rgb, light=-0.07), "rise", alpha=0.85)
    return 0.2


def city(view: View) -> float:
    pen, dice, half = view.pen, view.dice, view.half
    for i in range(3):
        x = -half * 1.05
        rgb = far(view, 0.66 - 0.27 * i)
        while x < half:
            wide = 0.06 + 0.08 * dice.random()
            tall = (0.72 - 0.16 * i) * (0.5 + 0.5 * dice.random())
            block = shift(rgb, light=0.03 * (dice.random() - 0.5))
            pen.form(box(x, 0.1, x + wide, tall), block, "side")
            if dice.random() < 0.3:
                pen.form([(x, tall), (x + wide / 2, tall + 0.05), (x + wide, tall)], block, "slant")
            if i:
                _windows(view, x, wide, tall, block)
            x += wide * (0.86 + 0.3 * dice.random())
    pen.form(
        box(-half * 1.1, -0.02, half * 1.1, 0.16),
        shift(view.ground, light=-0.06, chroma=0.6),
        "fall",
    )
    pen.form(
        box(-half * 1.1, 0.15, half * 1.1, 0.172), shift(view.ground, light=0.1, chroma=0.5), "rise"
    )
    for k in range(-6, 7):
        x = k * 0.22
        pen.form(
            [(x, 0.05), (x + 0.1, 0.05), (x + 0.085, 0.06), (x + 0.005, 0.06)],
            (226, 214, 176),
            "flat",
            alpha=0.7,
        )
    return 0.2


def _windows(view: View, x: float, wide: float, tall: float, block: RGB) -> None:
    lit: RGB = (255, 214, 128) if view.night else mix(view.sky[1], (255, 255, 255), 0.35)
    columns = max(2, int(wide / 0.028))
    gap = wide / columns
    y = tall - 0.04
    while y > 0.2:
        for c in range(columns):
            if view.dice.random() < (0.55 if view.night else 0.8):
                left = x + c * gap + gap * 0.25
                view.pen.form(
                    box(left, y, left + gap * 0.5, y + 0.018), mix(lit, block, 0.25), "flat"
                )
        y -= 0.036


def meadow(view: View) -> float:
    for i in range(4):
        hill = ridge(view, 0.40 - 0.075 * i, 0.09 - 0.015 * i, 2 + i % 2, sharp=False)
        view.pen.form(hill, shift(far(view, 0.66 - 0.2 * i), light=0.05, hue=-8 * i), "slant")
    for k in range(11):
        x = (view.dice.random() * 2 - 1) * view.half
        size = 0.05 + 0.05 * view.dice.random()
        grow = tree if k % 3 else pine
        grow(
            view.pen.at(x, 0.30 + 0.03 * view.dice.random(), size),
            plain_ink(view, far(view, 0.32)),
        )
    view.pen.form(ridge(view, 0.16, 0.025, 2, sharp=False), near(view), "fall")
    _tufts(view, 46)
    return 0.21


def _tufts(view: View, count: int) -> None:
    for _ in range(count):
        x, y = (view.dice.random() * 2 - 1) * view.half, 0.14 * view.dice.random()
        for lean in (70, 90, 110):
            blade = leaf(x, y, 0.018 + 0.03 * (0.14 - y) / 0.14, 0.005, lean)
            view.pen.form(blade, shift(near(view), light=0.09), "flat")


def garden(view: View) -> float:
    horizon = meadow(view)
    hues = (view.accent, shift(view.accent, hue=50), (240, 232, 214), (226, 120, 130))
    for k in range(34):
        x = (view.dice.random() * 2 - 1) * view.half
        y = 0.17 * (1 - k / 34)
        size = 0.012 + 0.018 * (k / 34)
        view.pen.line([(x, y), (x, y + size * 2.4)], size * 0.18, shift(view.ground, light=-0.16))
        bloom(view.pen.at(x, y + size * 2.6, size), hues[k % 4], k)
    return horizon


def space(view: View) -> float:
    pen, dice, half = view.pen, view.dice, view.half
    for rgb, size in (
        (shift(view.accent, light=-0.1), 0.8),
        (view.ground, 0.7),
        (shift(view.ground, hue=60), 0.5),
    ):
        pen.glow((dice.random() * 2 - 1) * half, dice.random(), size, rgb, 0.55)
    x, y = half * (0.45 if dice.random() < 0.5 else -0.45), 0.74
    r = 0.15
    planet = shift(view.accent, chroma=1.1)
    pen.line(
        oval(x, y, r * 1.75, r * 0.42, 0, 180),
        0.018,
        mix(planet, (255, 240, 214), 0.5),
        curve=False,
    )
    pen.ball(x, y, r, r, planet)
    pen.line(
        oval(x, y, r * 1.75, r * 0.42, 180, 360),
        0.018,
        mix(planet, (255, 240, 214), 0.6),
        curve=False,
    )
    pen.ball(-x * 1.3, 0.46, 0.05, 0.05, shift(planet, hue=120))
    pen.form(
        oval(0, -1.36, max(1.5, half * 1.7), 1.5, 0, 180), shift(view.ground, light=0.05), "rise"
    )
    for _ in range(9):
        cx = (dice.random() * 2 - 1) * half
        pen.form(
            oval(cx, 0.06 * dice.random(), 0.04, 0.009), shift(view.ground, light=-0.06), "fall"
        )
    return 0.16


def clouds_below(view: View) -> float:
    for i in range(4):
        for _ in range(5):
            x = (view.dice.random() * 2 - 1) * view.half * 1.1
            white = mix(view.sky[2], (255, 255, 255), 0.35 + 0.15 * i)
            cloud(view.pen, (x, 0.26 - 0.075 * i), 0.22 + 0.07 * i, white, 0.85)
    return 0.2


def under(view: View) -> float:
    pen, dice, half = view.pen, view.dice, view.half
    for _ in range(5):
        x = (dice.random() * 2 - 1) * half
        ray = [(x, 1.02), (x + 0.07, 1.02), (x + 0.28, 0.1), (x + 0.02, 0.1)]
        pen.form(ray, (190, 240, 236), "flat", alpha=0.10)
    pen.form(ridge(view, 0.14, 0.05, 3, sharp=False), oklch(0.42, 0.06, 220), "fall")
    for k in range(14):
        x, tall = (dice.random() * 2 - 1) * half, 0.14 + 0.2 * dice.random()
        weed = [(x, 0.02), (x + 0.02, tall * 0.4), (x - 0.015, tall * 0.75), (x + 0.02, tall)]
        pen.line(weed, 0.014, shift(COLOURS["teal"] if k % 3 else view.accent, light=-0.1))
    for _ in range(16):
        r = 0.004 + 0.01 * dice.random()
        pen.form(
            oval((dice.random() * 2 - 1) * half, 0.2 + 0.75 * dice.random(), r, r),
            (214, 246, 244),
            "slant",
            alpha=0.5,
        )
    return 0.16
