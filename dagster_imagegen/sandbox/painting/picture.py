"""Scene, subjects, shadows and weather, put together into one picture."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

from PIL import Image, ImageFilter

from .arrangement import Placed, arrange
from .brief import Brief
from .catalogue import KINDS
from .colour import RGB, lightness, shift
from .kind import Ink
from .landscape import paint_landscape
from .palette import Palette, apart, choose_palette
from .pen import Pen
from .room import paint_ledge, paint_room
from .stage import Stage
from .weather import paint_weather

_INDOORS = {"studio", "kitchen", "room"}
_AT_HOME_IN = {
    "sea": {"boat", "lighthouse", "fish", "bird"},
    "city": {"car", "bicycle", "person", "umbrella", "dog", "cat"},
}


def compose(brief: Brief, size: tuple[int, int], *, transparent: bool) -> Image.Image:
    """The picture at `size`, RGBA; if `transparent`, the subjects alone on nothing."""
    palette = choose_palette(brief)
    place = _place(brief)
    aspect = size[0] / size[1]
    layer = Image.new("RGBA", size)
    if transparent:
        stage = Stage(floor=0.08, horizon=0.0, light=(255, 255, 255), dark=False)
        _draw(layer, arrange(brief, stage, aspect, fill=0.84), brief, palette)
        return _centred(layer)
    # A backdrop that was asked for gives way only where the subject would vanish in it.
    least = 0.05 if brief.backdrop else 0.13
    palette = replace(palette, wall=apart(palette.main, palette.wall, least))
    image = Image.new("RGBA", size, (*palette.wall, 255))
    outdoors = place not in _INDOORS
    stage = (
        paint_landscape(image, brief, palette, place)
        if outdoors
        else paint_room(image, brief, palette)
    )
    placed = arrange(brief, stage, aspect, fill=0.56 if outdoors else 0.62, empty=outdoors)
    if outdoors and _needs_ledge(brief, place, placed):
        stage = paint_ledge(image, brief, palette)
        placed = arrange(brief, stage, aspect, fill=0.58)
    if placed:
        _draw(layer, placed, brief, palette)
        if outdoors:
            layer = _in_the_light(layer, stage, brief)
        wet = place == "sea" and not _needs_ledge(brief, place, placed)
        _shade(image, layer, placed, stage, wet=wet)
        image.alpha_composite(layer)
    paint_weather(image, brief, palette, outdoors=outdoors)
    return image


def _centred(layer: Image.Image) -> Image.Image:
    """What is drawn on `layer`, in its middle."""
    bounds = layer.getbbox()
    if bounds is None:
        return layer
    result = Image.new("RGBA", layer.size)
    left = (layer.width - bounds[2] + bounds[0]) // 2
    top = (layer.height - bounds[3] + bounds[1]) // 2
    result.paste(layer.crop(bounds), (left, top))
    return result


def _place(brief: Brief) -> str:
    """Where the picture is set: as told, or where its weather or its subject is at home."""
    if brief.place:
        return brief.place
    if brief.weather and not brief.surface:
        return {"snow": "mountain", "rain": "city", "fog": "forest"}[brief.weather]
    if brief.backdrop or brief.surface:
        return "studio"
    if brief.subjects:
        return KINDS[brief.subjects[0].name].home
    if brief.time or brief.season:
        return ("mountain", "sea", "meadow", "forest")[brief.seed % 4]
    return "studio"


def _needs_ledge(brief: Brief, place: str, placed: list[Placed]) -> bool:
    """Things of the house stand on something, and only boats stand on the sea."""
    if not placed or not any(p.kind.stands == "stands" for p in placed):
        return False
    if brief.surface:
        return True
    names = {s.name for s in brief.subjects}
    if place in _AT_HOME_IN and names <= _AT_HOME_IN[place]:
        return False
    return place in {"sea", "sky", "under"} or KINDS[brief.subjects[0].name].home in _INDOORS


def _draw(layer: Image.Image, placed: list[Placed], brief: Brief, palette: Palette) -> None:
    width, height = layer.size
    dice = brief.dice("ink")
    flip = dice.random() < 0.4
    first = placed[0]
    fronts: dict[int, Callable[[], None]] = {}
    holders = {item.inside for item in placed}
    for item in sorted(placed, key=lambda p: (p.inside is not None, -p.y)):
        ink = _ink(item, brief, palette, same=item.index == first.index)
        origin = (width / 2 + item.x * height, height * (1 - item.y))
        pen = Pen(layer, origin=origin, unit=item.unit * height, flip=flip)
        item.kind.draw(pen, ink)
        if item.index in holders and item.kind.front:
            fronts[item.index] = functools.partial(item.kind.front, pen, ink)
    for draw_front in fronts.values():
        draw_front()


def _ink(item: Placed, brief: Brief, palette: Palette, *, same: bool) -> Ink:
    dice = brief.dice(f"item {item.index}.{item.copy}")
    wanted = item.subject
    main = wanted.colour if wanted else None
    main = main or item.colour or (palette.main if same else palette.accent)
    if item.copy and not (wanted and wanted.colour):
        main = shift(main, hue=(dice.random() - 0.5) * 26, light=(dice.random() - 0.5) * 0.06)
    second = (wanted.second if wanted else None) or (
        palette.accent if main != palette.accent else palette.main
    )
    finish = (wanted.finish if wanted else None) or item.kind.finish
    roll = dice.random() if not item.copy else 1.0
    plain = finish in {"metal", "glass"} or not (wanted is None or wanted.second or roll < 0.34)
    return Ink(
        main=main,
        second=second,
        finish=finish,
        material=None,
        pattern="" if plain else "dipped" if roll < 0.2 else "banded",
        dice=dice,
    )


def _in_the_light(layer: Image.Image, stage: Stage, brief: Brief) -> Image.Image:
    """The subject takes a little of the colour of the sky it stands under."""
    share = 0.26 if stage.dark else 0.20 if brief.time else 0.0
    if not share:
        return layer
    tint: RGB = (30, 40, 86) if stage.dark else stage.light
    veil = Image.new("RGB", layer.size, tint)
    lit = Image.blend(layer.convert("RGB"), veil, share)
    lit.putalpha(layer.getchannel("A"))
    return lit


def _shade(
    image: Image.Image, layer: Image.Image, placed: list[Placed], stage: Stage, *, wet: bool
) -> None:
    """Contact shade, and a cast shadow towards the right and back, or a reflection in water."""
    width, height = image.size
    ground = height * (1 - placed[0].y)
    floor = _average(image, placed[0])
    dark = shift(floor, light=-0.34 if lightness(floor) > 0.45 else -0.2)
    if wet:
        _reflect(image, layer, ground)
        return
    standing = [p for p in placed if p.kind.stands == "stands" and p.inside is None]
    if not standing:
        return
    _cast(image, layer, ground, dark, 0.30 if not stage.dark else 0.42)
    for item in standing:
        half = item.kind.foot * item.unit
        x, y = item.x, item.y
        pen = Pen(image, origin=(width / 2 + x * height, height * (1 - y)), unit=height)
        for grow, alpha in ((1.25, 0.32), (0.98, 0.62)):
            rx = half * grow
            patch = [
                (-rx, 0.004),
                (-rx * 0.7, -rx * 0.15),
                (rx * 0.7, -rx * 0.15),
                (rx * 1.1, 0.004),
                (rx * 0.7, rx * 0.09),
                (-rx * 0.7, rx * 0.09),
            ]
            pen.soft(patch, dark, max(0.003, half * 0.10 * grow**3), alpha)


def _average(image: Image.Image, item: Placed) -> RGB:
    """The floor's colour where the first thing stands."""
    x = min(image.width - 1, max(0, round(image.width / 2 + item.x * image.height)))
    y = min(image.height - 1, max(0, round(image.height * (1 - item.y * 0.8))))
    pixel = image.getpixel((x, y))
    if not isinstance(pixel, tuple):
        return (128, 128, 128)
    return int(pixel[0]), int(pixel[1]), int(pixel[2])


def _cast(image: Image.Image, layer: Image.Image, ground: float, rgb: RGB, strength: float) -> None:
    size = max(1, image.width // 4), max(1, image.height // 4)
    alpha = layer.getchannel("A").resize(size, Image.Resampling.BOX)
    base = ground / 4
    squash, skew = 0.34, 1.5
    shadow = alpha.transform(
        size,
        Image.Transform.AFFINE,
        (1, skew, -skew * base, 0, 1 / squash, base - base / squash),
        Image.Resampling.BILINEAR,
    )
    shadow = shadow.filter(ImageFilter.GaussianBlur(max(1.0, size[1] / 90)))
    fade = (
        Image.linear_gradient("L")
        .resize(size)
        .point([min(255, round(v * 1.2)) for v in range(256)])
    )
    black = Image.new("L", size)
    shadow = Image.composite(shadow, black, fade).point([round(v * strength) for v in range(256)])
    image.paste((*rgb, 255), (0, 0), shadow.resize(image.size, Image.Resampling.BILINEAR))


def _reflect(image: Image.Image, layer: Image.Image, ground: float) -> None:
    line = round(ground)
    above = layer.crop((0, max(0, 2 * line - layer.height), layer.width, line))
    mirrored = above.transpose(Image.Transpose.FLIP_TOP_BOTTOM).filter(
        ImageFilter.GaussianBlur(layer.height / 220)
    )
    fade = (
        Image.linear_gradient("L").transpose(Image.Transpose.FLIP_TOP_BOTTOM).resize(mirrored.size)
    )
    alpha = Image.composite(mirrored.getchannel("A"), Image.new("L", mirrored.size), fade)
    mirrored.putalpha(alpha.point([round(v * 0.5) for v in range(256)]))
    image.alpha_composite(mirrored, (0, line))
