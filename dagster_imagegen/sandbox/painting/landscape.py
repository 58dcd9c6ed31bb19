"""Outdoor scenes, in layers from the sky to the foreground."""

from __future__ import annotations

from PIL import Image

from . import terrain
from .brief import Brief
from .colour import RGB, at, mix, ramp, shift, to_oklch
from .curves import oval
from .palette import Palette
from .pen import Pen
from .stage import Stage
from .view import View, cloud

_SKIES: dict[str, tuple[RGB, RGB, RGB]] = {
    "dawn": ((122, 144, 192), (226, 178, 186), (252, 214, 178)),
    "morning": ((126, 182, 214), (206, 224, 220), (252, 232, 198)),
    "noon": ((74, 152, 212), (142, 198, 228), (222, 238, 236)),
    "sunset": ((76, 52, 112), (214, 92, 92), (255, 190, 98)),
    "dusk": ((34, 38, 84), (108, 80, 138), (230, 150, 140)),
    "night": ((10, 14, 38), (22, 36, 78), (52, 78, 118)),
    "space": ((10, 8, 28), (26, 18, 58), (56, 34, 92)),
    "fog": ((176, 188, 194), (202, 208, 208), (224, 224, 218)),
    "rain": ((84, 98, 116), (122, 136, 150), (166, 176, 182)),
    "snow": ((150, 170, 192), (190, 204, 218), (228, 234, 240)),
    "under": ((70, 186, 200), (22, 122, 158), (10, 58, 100)),
}

_GROUNDS: dict[str, RGB] = {
    "mountain": (72, 92, 118),
    "sea": (34, 104, 140),
    "forest": (46, 96, 70),
    "desert": (214, 154, 92),
    "city": (66, 72, 104),
    "meadow": (108, 152, 78),
    "garden": (94, 146, 84),
    "sky": (118, 166, 198),
    "space": (72, 54, 112),
    "under": (16, 84, 120),
}


def paint_landscape(image: Image.Image, brief: Brief, palette: Palette, place: str) -> Stage:
    """Paint an outdoor scene on `image` (RGBA) and say where its things stand."""
    width, height = image.size
    time = brief.time or ("night" if place == "city" and brief.seed % 3 == 0 else None)
    sky = _sky(brief, palette, place, time)
    snowy = brief.weather == "snow" or brief.season == "winter"
    view = View(
        pen=Pen(image, origin=(width / 2, height), unit=height),
        half=width / height / 2,
        sky=sky,
        ground=_ground(brief, palette, place, snowy=snowy),
        accent=palette.accent,
        dice=brief.dice("landscape"),
        night=time in {"night", "dusk"} or place == "space",
        snowy=snowy,
    )
    image.paste(ramp(((0.0, sky[0]), (0.42, sky[1]), (0.72, sky[2]), (1.0, sky[2])), image.size))
    if place != "under":
        _heavens(view, time, brief)
    horizon = {
        "mountain": terrain.mountains,
        "sea": terrain.sea,
        "forest": terrain.forest,
        "desert": terrain.dunes,
        "city": terrain.city,
        "meadow": terrain.meadow,
        "garden": terrain.garden,
        "space": terrain.space,
        "sky": terrain.clouds_below,
        "under": terrain.under,
    }[place](view)
    return Stage(floor=horizon * 0.45, horizon=horizon, light=sky[2], dark=view.night)


def _sky(brief: Brief, palette: Palette, place: str, time: str | None) -> tuple[RGB, RGB, RGB]:
    key = place if place in {"space", "under"} else time or brief.weather or "noon"
    top, middle, low = _SKIES[key]
    if palette.named and not brief.subjects and not time:
        top, middle, low = (
            at(palette.main, light=level, most=0.11) for level in (0.62, 0.78, 0.92)
        )
    elif time is None and brief.weather is None and place not in {"space", "under"}:
        turn = (brief.dice("sky").random() - 0.5) * 50
        top, middle, low = (shift(c, hue=turn) for c in (top, middle, low))
        low = mix(low, at(palette.main, light=0.9, most=0.08), 0.4)
    if brief.weather == "fog":
        top, middle, low = (mix(c, _SKIES["fog"][1], 0.5) for c in (top, middle, low))
    if brief.backdrop:
        top, middle = mix(top, brief.backdrop, 0.6), mix(middle, brief.backdrop, 0.4)
    return top, middle, low


def _ground(brief: Brief, palette: Palette, place: str, *, snowy: bool) -> RGB:
    base = _GROUNDS[place]
    if brief.season == "autumn" and place in {"forest", "meadow", "garden", "mountain"}:
        base = (186, 98, 46)
    if palette.named and not brief.subjects:
        level, _, _ = to_oklch(base)
        base = at(palette.main, light=min(0.55, level), most=0.14)
    if snowy:
        base = mix((178, 196, 218), base, 0.2)
    if brief.time in {"night", "dusk"}:
        base = mix(shift(base, light=-0.2), (28, 34, 70), 0.35)
    elif brief.time == "sunset":
        base = mix(shift(base, light=-0.12), (126, 52, 74), 0.3)
    return base


def _heavens(view: View, time: str | None, brief: Brief) -> None:
    """Sun, moon, stars and clouds."""
    pen, dice, half = view.pen, view.dice, view.half
    x = (dice.random() - 0.5) * half * 1.1
    if view.night:
        for _ in range(90):
            r = 0.0012 + 0.0024 * dice.random() ** 3
            star = (dice.random() * 2 - 1) * half, 0.36 + 0.64 * dice.random()
            pen.form(
                oval(*star, r, r, steps=8),
                (255, 250, 232),
                "flat",
                alpha=0.35 + 0.6 * dice.random(),
            )
        if time:
            pen.glow(x, 0.78, 0.34, (214, 224, 255), 0.35)
            pen.form(oval(x, 0.78, 0.075, 0.075), (250, 244, 222), "slant")
    elif brief.weather not in {"fog", "rain", "snow"}:
        low = time in {"sunset", "dawn"}
        y, r = (0.44, 0.13) if low else (0.76, 0.085)
        sun: RGB = (255, 214, 130) if low else (255, 246, 214)
        pen.glow(x, y, 0.62, sun, 0.6)
        pen.form(oval(x, y, r, r), sun, "rise")
    if not view.night:
        for i in range(3):
            spot = (dice.random() * 2 - 1) * half, 0.62 + 0.12 * i + 0.05 * dice.random()
            cloud(
                pen, spot, 0.10 + 0.1 * dice.random(), mix(view.sky[2], (255, 255, 255), 0.45), 0.6
            )
