"""The few colours a picture is made of, chosen from the brief."""

from __future__ import annotations

from dataclasses import dataclass

from .brief import Brief
from .catalogue import KINDS
from .colour import COLOURS, RGB, at, lightness, mix, oklch, shift, to_oklch

_FAVOURITES = (
    "terracotta",
    "teal",
    "ochre",
    "sage",
    "navy",
    "coral",
    "plum",
    "emerald",
    "blush",
    "cobalt",
    "mustard",
    "petrol",
)
_QUIET = (
    "sage",
    "blush",
    "sky",
    "sand",
    "lavender",
    "apricot",
    "eucalyptus",
    "mint",
    "champagne",
    "mauve",
)


@dataclass(frozen=True, kw_only=True)
class Palette:
    """`main` is the subject's, `wall` what is behind it, `accent` what answers them."""

    main: RGB
    accent: RGB
    wall: RGB
    named: bool  # whether the prompt named a colour that rules the picture


def choose_palette(brief: Brief) -> Palette:
    """Colours of the prompt first; what it leaves open is seeded, and in harmony with them."""
    dice = brief.dice("palette")
    first = brief.subjects[0] if brief.subjects else None
    own = KINDS[first.name].colour if first else None
    main = (first.colour if first else None) or (COLOURS[own] if own else None)
    if main is None and brief.colours:
        main = next((c for c in brief.colours if c != brief.backdrop), None)
    main = main or COLOURS[_FAVOURITES[int(dice.random() * len(_FAVOURITES))]]
    accent = first.second if first and first.second else _answer(main, dice.random())
    wall = _muted(brief.backdrop) if brief.backdrop else _wall(main, dice.random(), dice.random())
    if brief.time in {"night", "dusk"}:
        wall = at(mix(wall, COLOURS["indigo"], 0.35), light=0.27, most=0.075)
    return Palette(main=main, accent=accent, wall=wall, named=bool(brief.colours))


def _answer(main: RGB, roll: float) -> RGB:
    """A second colour that goes with `main`: across the wheel, beside it, or cream."""
    level, chroma, hue = to_oklch(main)
    if chroma < 0.035:
        return COLOURS[("terracotta", "ochre", "sage", "teal", "coral")[int(roll * 5)]]
    if roll < 0.25:
        return COLOURS["cream"] if level < 0.8 else shift(main, light=-0.35)
    turn = (172, 38, -42, 145)[int(roll * 4) % 4]
    return oklch(0.82 if level < 0.55 else 0.55, min(0.12, chroma * 0.85), hue + turn)


def _wall(main: RGB, roll: float, other: float) -> RGB:
    """A wall in a tint or a depth of the subject's own hue, and apart from it in lightness."""
    level, chroma, hue = to_oklch(main)
    if chroma < 0.035:
        quiet = COLOURS[_QUIET[int(other * len(_QUIET))]]
        return at(quiet, light=0.62 if level > 0.82 else 0.84, most=0.085)
    nudge = (other - 0.5) * 30
    if level > 0.7 and 60 < hue < 125:
        return oklch(0.78, 0.085, 62 + nudge)  # a darker yellow is mud; apricot is not
    if roll < 0.28 and level > 0.5 and not 35 < hue < 125:
        return oklch(level - 0.27, min(0.095, chroma * 0.8), hue + nudge)
    light = 0.85 if level < 0.7 else 0.93 if roll < 0.6 else 0.60
    return oklch(light, min(0.075, chroma * 0.55), hue + nudge)


def _muted(rgb: RGB) -> RGB:
    """A backdrop is paper, and no paper glows."""
    return at(rgb, light=lightness(rgb), most=0.135)


def apart(colour: RGB, wall: RGB, least: float) -> RGB:
    """`wall`, lightened or darkened until `colour` can be told from it."""
    gap = lightness(wall) - lightness(colour)
    if abs(gap) >= least:
        return wall
    return shift(wall, light=(least - gap) if lightness(colour) < 0.72 else -(least + gap))
