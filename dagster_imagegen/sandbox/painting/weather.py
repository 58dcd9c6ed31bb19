"""What falls or hangs in the air between us and the subject."""

from __future__ import annotations

from PIL import Image, ImageDraw, ImageFilter

from .brief import Brief
from .colour import COLOURS, shift
from .curves import leaf
from .palette import Palette
from .pen import Pen


def paint_weather(image: Image.Image, brief: Brief, palette: Palette, *, outdoors: bool) -> None:
    """Snow, rain and fog; leaves in autumn, petals in spring."""
    if brief.weather == "snow":
        _snow(image, brief)
    elif brief.weather == "rain":
        _rain(image, brief)
    elif brief.weather == "fog" and outdoors:
        _fog(image)
    if brief.season == "autumn":
        _drift(image, brief, ("rust", "ochre", "orange", "burgundy"))
    elif brief.season == "spring":
        _drift(image, brief, ("blush", "pink", "white"))


def _snow(image: Image.Image, brief: Brief) -> None:
    dice = brief.dice("snow")
    width, height = image.size
    for count, size, blur, alpha in (
        (140, 0.0028, 0.5, 210),
        (60, 0.005, 1.0, 220),
        (16, 0.013, 4.0, 150),
    ):
        mask = Image.new("L", (width // 2 + 1, height // 2 + 1))
        draw = ImageDraw.Draw(mask)
        for _ in range(count):
            x, y = dice.random() * mask.width, dice.random() * mask.height
            r = max(0.6, size * mask.height * (0.6 + 0.8 * dice.random()))
            draw.ellipse((x - r, y - r, x + r, y + r), fill=alpha)
        mask = mask.filter(ImageFilter.GaussianBlur(blur * mask.height / 512))
        mask = mask.resize(image.size, Image.Resampling.BILINEAR)
        image.paste((255, 255, 255, 255), (0, 0), mask)


def _rain(image: Image.Image, brief: Brief) -> None:
    dice = brief.dice("rain")
    width, height = image.size
    mask = Image.new("L", image.size)
    draw = ImageDraw.Draw(mask)
    for _ in range(170):
        x, y = dice.random() * width * 1.1, dice.random() * height
        long = height * (0.02 + 0.05 * dice.random())
        draw.line(
            (x, y, x - long * 0.22, y + long),
            fill=round(50 + 110 * dice.random()),
            width=max(1, height // 620),
        )
    image.paste((226, 236, 244, 255), (0, 0), mask.filter(ImageFilter.GaussianBlur(height / 1400)))


def _fog(image: Image.Image) -> None:
    width, height = image.size
    pen = Pen(image, origin=(width / 2, height), unit=height)
    half = width / height
    for y, thick, alpha in ((0.36, 0.05, 0.55), (0.22, 0.045, 0.5), (0.06, 0.06, 0.35)):
        band = [
            (-half, y - thick),
            (half, y - thick * 0.4),
            (half, y + thick),
            (-half, y + thick * 0.5),
        ]
        pen.soft(band, (232, 236, 234), 0.05, alpha)


def _drift(image: Image.Image, brief: Brief, colours: tuple[str, ...]) -> None:
    dice = brief.dice("drift")
    width, height = image.size
    pen = Pen(image, origin=(width / 2, height), unit=height)
    half = width / height / 2
    for k in range(20):
        x, y = (dice.random() * 2 - 1) * half, dice.random()
        if abs(x) < half * 0.45 and 0.12 < y < 0.75:
            continue
        rgb = shift(COLOURS[colours[k % len(colours)]], light=0.04 * (k % 3 - 1))
        long = 0.022 + 0.022 * dice.random()
        pen.form(leaf(x, y, long, long * 0.5, dice.random() * 360), rgb, "slant")
