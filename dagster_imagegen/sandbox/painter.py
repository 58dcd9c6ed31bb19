"""The sandbox's painter: a landscape, still life or abstract, with its prompt set below it.

The prompt is the seed of everything. Words for colours and times of day decide the palette; scene,
composition and depth are chance.
"""

import math
import random
import re
import textwrap
import unicodedata
from collections.abc import Callable, Sequence
from typing import Literal

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont, ImageOps

RGB = tuple[int, int, int]
Point = tuple[float, float]
PAINTED_SIDE = 1024  # a longer picture is painted at this size and enlarged; its text is not
SMOOTHING = 2  # shapes are drawn this much larger, for smooth edges
MARK = "S A N D B O X"
MARGIN, LEADING = 0.075, 1.2  # of the width, and of the font's size
# Type to try: the longest side by the font's size, and how wide a letter is taken to be, in sizes.
TYPE = ((15, 0.46), (15, 0.5), (17, 0.47), (19, 0.47), (22, 0.48), (25, 0.48), (28, 0.5), (28, 1.0))
_HUES = {
    0: "pink rose blush", 20: "red crimson coral burgundy", 42: "terracotta copper rust",
    60: "orange amber caramel brown walnut", 80: "mustard ochre brass honey gold", 100: "yellow",
    130: "olive", 147: "green sage emerald forest", 165: "mint jade", 200: "teal aqua petrol",
    235: "sky ice", 262: "blue cobalt navy", 310: "purple violet lavender plum",
}  # fmt: skip
_HUE_OF = {word: hue for hue, words in _HUES.items() for word in words.split()}
_GREYS = frozenset(["white", "ivory", "cream", "black", "charcoal", "grey", "gray", "smoke"])
# Lightness and chroma of: the sky's top, its foot, the farthest layer, the nearest, the ground.
MOODS = {
    "day": ((0.72, 0.09), (0.95, 0.05), (0.84, 0.05), (0.42, 0.09), (0.30, 0.06)),
    "dawn": ((0.66, 0.10), (0.90, 0.09), (0.78, 0.08), (0.38, 0.09), (0.27, 0.06)),
    "dusk": ((0.40, 0.12), (0.80, 0.14), (0.62, 0.11), (0.30, 0.08), (0.20, 0.05)),
    "night": ((0.19, 0.06), (0.50, 0.10), (0.50, 0.08), (0.24, 0.06), (0.15, 0.03)),
    "snow": ((0.87, 0.05), (0.96, 0.03), (0.87, 0.04), (0.56, 0.09), (0.95, 0.02)),
}
_TO_CONES = ((0.3963, 0.2158), (-0.1056, -0.0639), (-0.0895, -1.2915))
_TO_LINEAR = ((4.0767, -3.3077, 0.2310), (-1.2684, 2.6098, -0.3413), (-0.0042, -0.7034, 1.7076))


def paint(
    prompt: str, *, width: int, height: int, transparent: bool = False, seed: str = ""
) -> Image.Image:
    """The picture of `prompt`, RGB, or RGBA in the shape of an arch if `transparent`.

    The same arguments give the same pixels on the same release of Pillow; `seed` tells pictures of
    one prompt apart. Letters that Pillow's own font lacks lose their accents or become boxes.
    """
    font_size, lines = set_type(prompt, width, height)
    scale = min(1.0, PAINTED_SIDE / max(width, height))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    art = _Art(prompt, seed, size, floor=1 - (len(lines) * LEADING + 1.7) * font_size / height)
    art.dice.choice(SCENES)(art)
    image = art.image.resize((width, height))
    _write(image, art, font_size, lines)
    if transparent:
        shape = Image.new("L", (width * SMOOTHING, height * SMOOTHING))
        box = [side * part for part in (0.03, 0.97) for side in shape.size]
        corners = (True, True, False, False)
        ImageDraw.Draw(shape).rounded_rectangle(box, min(box[2:]) * 0.48, 255, corners=corners)
        image.putalpha(shape.reduce(SMOOTHING))
    return image


def colour(lightness: float, chroma: float, hue: float) -> RGB:
    """A colour of OKLCH, with less chroma where sRGB does not reach so far."""
    a, b = (chroma * part(math.radians(hue)) for part in (math.cos, math.sin))
    cones = [(lightness + x * a + y * b) ** 3 for x, y in _TO_CONES]
    linear = [sum(x * y for x, y in zip(row, cones, strict=True)) for row in _TO_LINEAR]
    if chroma > 0.005 and not all(-0.001 <= value <= 1.001 for value in linear):
        return colour(lightness, chroma * 0.9, hue)
    red, green, blue = (min(255, round(269 * max(v, 0.0031) ** (1 / 2.4) - 14)) for v in linear)
    return red, green, blue


class _Art:
    """A canvas of height 1 and width `aspect`; what lies below `floor` is kept calm for text."""

    def __init__(self, prompt: str, seed: str, size: tuple[int, int], *, floor: float) -> None:
        self.dice = dice = random.Random(f"{seed}/{prompt}")  # noqa: S311  # repeatable, not secret
        self.image = Image.new("RGB", size)
        self.floor, self.unit, self.aspect = floor, size[1], size[0] / size[1]
        words = re.findall(r"[a-z]+", prompt.lower().replace("morning", "dawn"))
        hues = [_HUE_OF[word] for word in words if word in _HUE_OF]
        self.strength = 0.4 if _GREYS.intersection(words) and not hues else 1.1
        self.hue = (hues or [dice.randrange(360)])[0]
        self.mood = ([word for word in words if word in MOODS] or [dice.choice([*MOODS])])[0]
        self.turn, warm = dice.choice((-60, -35, 35, 60, 150, 180, 210)), dice.uniform(40, 90)
        self.light, self.accent = colour(0.94, 0.06, warm), colour(0.82, 0.13, warm)
        self.ground, self.dark = self.part(4), colour(0.2, 0.05, self.hue)
        self.ink = self.dark if self.mood == "snow" else self.light
        self.sun = (self.aspect * dice.uniform(0.22, 0.78), floor * dice.uniform(0.25, 0.55))
        self.side = 1 if self.sun[0] < self.aspect / 2 else -1  # where shadows fall

    def part(self, number: int, turn: float = 0.0) -> RGB:
        """The colour of one part of the mood, see `MOODS`; `turn` is added to the hue."""
        lightness, chroma = MOODS[self.mood][number]
        return colour(lightness, chroma * self.strength, self.hue + turn)

    def tone(self, depth: float, lighter: float = 0.0, turn: float = 0.0) -> RGB:
        """The colour of a layer, from the farthest, 0, to the nearest, 1."""
        far, near = MOODS[self.mood][2:4]
        lightness, chroma = (a + (b - a) * depth for a, b in zip(far, near, strict=True))
        hue = self.hue + turn + (1 - depth) * self.turn * 0.3
        return colour(min(lightness + lighter, 0.97), (chroma + 0.02) * self.strength, hue)

    def mask(self, kind: Literal["polygon", "ellipse"], *shapes: Sequence[Point]) -> Image.Image:
        """Where the shapes are: polygons, or ellipses by two corners."""
        large = Image.new("L", (self.image.width * SMOOTHING, scale := self.unit * SMOOTHING))
        draw = getattr(ImageDraw.Draw(large), kind)
        for points in shapes:
            draw([(x * scale, y * scale) for x, y in points], fill=255)
        return large.reduce(SMOOTHING)

    def disc(self, x: float, y: float, r: float, flat: float = 1.0) -> Image.Image:
        return self.mask("ellipse", ((x - r, y - r * flat), (x + r, y + r * flat)))

    def level(self, y: float) -> Image.Image:
        return self.mask("polygon", [(0, y), (self.aspect, y), (self.aspect, 1.01), (0, 1.01)])

    def fill(self, mask: Image.Image, *tones: RGB, across: bool = False, alpha: float = 1) -> None:
        """Paint `mask` in a gradient from its top to its foot, or from left to right."""
        if (box := mask.getbbox()) is not None:
            part = mask.crop(box).point([round(value * alpha) for value in range(256)])
            strip = Image.new("RGB", (len(tones), 1) if across else (1, len(tones)))
            strip.putdata(tones)
            line = strip.resize((part.width, 1) if across else (1, part.height))
            self.image.paste(line.resize(part.size, Image.Resampling.NEAREST), box, part)

    def shadow(self, mask: Image.Image, blur: float) -> None:
        """The soft shadow that `mask` casts on what is painted so far."""
        small = mask.reduce(4).filter(ImageFilter.GaussianBlur(blur * self.unit / 4))
        shift = (1, 0, -self.side * blur * self.unit / 6, 0, 1, -blur * self.unit / 6)
        moved = small.transform(small.size, Image.Transform.AFFINE, shift)
        self.fill(moved.resize(mask.size, Image.Resampling.BILINEAR), self.dark, alpha=0.6)

    def sky(self) -> None:
        """Sky and sun; at night, moon and stars."""
        middle, foot = self.part(1, self.turn + 15), self.part(1, -self.turn)
        mesh, top = Image.new("RGB", (2, 3)), self.part(0, self.turn)
        mesh.putdata([top, self.part(0, self.turn + 30), middle, middle, foot, foot])
        self.image.paste(mesh.resize(self.image.size))
        if self.mood == "night":
            chance, r = self.dice.random, 0.003
            spots = [(self.aspect * chance(), self.floor * chance()) for _ in range(120)]
            self.fill(
                self.mask("ellipse", *(((x, y), (x + r, y + r)) for x, y in spots)), self.light
            )
        self.shine(*self.sun, self.dice.uniform(0.07, 0.14))

    def shine(self, x: float, y: float, r: float) -> None:
        """A sun, and the glow around it."""
        fade = [205 * max(0, 1 - v / 128) ** 2 for v in range(256)]
        left, top, side = (round(value * self.unit) for value in (x - 5 * r, y - 5 * r, 10 * r))
        glow = Image.radial_gradient("L").point(fade).resize((max(1, side), max(1, side)))
        self.image.paste(self.light, (left, top), glow)
        self.fill(self.disc(x, y, r), self.light, self.accent)

    def ridge(self, top: float, height: float, *, rough: bool) -> list[Point]:
        """A line from the left edge to the right: mountains if `rough`, otherwise hills."""
        line = [(self.aspect * i / 160, top) for i in range(161)]
        for octave in range(5 if rough else 2):
            pace, start = self.dice.uniform(2.6, 4.5) * 2.1**octave, self.dice.uniform(0, math.tau)
            for i, (x, y) in enumerate(line):
                turn = pace * x + start
                up = 4 * abs(turn / math.tau % 1 - 0.5) - 1 if rough else math.sin(turn)
                line[i] = (x, y - height * up / 2 ** (octave + 1))
        return line

    def land(self, line: Sequence[Point], depth: float) -> None:
        """All below `line`: lit on its edge, hazy at its foot, and the ground if `depth` is 1."""
        mask = self.mask("polygon", [*line, (self.aspect, 1.01), (0, 1.01)])
        haze = self.tone(depth), self.tone(max(0, depth - 0.5), 0.04)
        self.fill(mask, *((self.ground,) if depth == 1 else haze))
        edge = ImageChops.subtract(mask, ImageChops.offset(mask, 0, 1 + self.unit // 160))
        self.fill(edge, self.tone(depth, 0.12), alpha=0.6)


def _land(art: _Art) -> None:
    """Mountains, hills or a forest, layer by layer."""
    art.sky()
    kind, count = art.dice.choice(("mountains", "hills", "forest")), art.dice.randint(4, 6)
    for depth in (i / (count - 1) for i in range(count)):
        top, rough = art.floor * (0.5 + 0.47 * depth), kind == "mountains"
        line = art.ridge(top, 0.24 - 0.19 * depth if rough else 0.12 - 0.06 * depth, rough=rough)
        art.land(_conifers(art, line, depth) if kind == "forest" else line, depth)


def _conifers(art: _Art, line: Sequence[Point], depth: float) -> list[Point]:
    outline: list[Point] = []
    for x, y in line[:: 4 + round(6 * depth)]:
        tall = (0.08 + 0.16 * depth) * art.dice.uniform(0.35, 1.1)
        steps = [(0.26 - 0.05 * i, tall * i / 4) for i in range(4)]
        half = [point for k, up in steps for point in ((k, up), (k * 0.45, up + tall * 0.17))]
        outline += [(x - k * tall, y - up) for k, up in half]
        outline += [(x, y - tall), *((x + k * tall, y - up) for k, up in half[::-1])]
    return outline


def _sea(art: _Art) -> None:
    horizon, x = art.floor * 0.64, art.sun[0]
    art.sun = (x, min(art.sun[1], horizon * 0.75))
    art.sky()
    for depth in (0.1, 0.4):
        art.land(art.ridge(horizon, 0.12, rough=art.dice.random() < 0.5), depth)
    above = max(1, round(horizon * art.unit))
    mirror = ImageOps.flip(art.image.crop((0, 0, art.image.width, above)))
    art.image.paste(mirror.filter(ImageFilter.BoxBlur(3)), (0, above))
    art.fill(art.level(horizon), art.tone(0.3), art.tone(0.9), alpha=0.45)
    glints: list[Sequence[Point]] = []
    for down in (art.dice.random() for _ in range(90)):
        wide, top = art.dice.uniform(0.01, 0.1) * (0.4 + down), horizon + 0.36 * down * art.floor
        left = x + art.dice.gauss(0, 0.03 + 0.08 * down) - wide / 2
        glints.append(((left, top), (left + wide, top + 0.002 + 0.004 * down)))
    art.fill(art.mask("ellipse", *glints), art.light, alpha=0.7)
    art.land(art.ridge(art.floor, 0.05, rough=False), 1)


def _paper(art: _Art) -> None:
    """Sheets of paper with a hole in each, one behind the other."""
    x, y = art.aspect / 2 + art.dice.uniform(-0.1, 0.1), art.floor * art.dice.uniform(0.42, 0.52)
    art.fill(art.level(0), art.tone(0, 0.05))
    art.shine(x, y, 0.07)
    lobes = [(k, art.dice.uniform(0, 7), art.dice.uniform(0.08, 0.24) / k) for k in (2, 3, 5)]
    for i in range(6):
        radius = 0.15 + 0.4 * max(1, art.aspect) * (i / 5) ** 1.2
        hole: list[Point] = []
        for turn in (math.tau * step / 120 for step in range(120)):
            way = radius * (1 + sum(a * math.sin(k * turn + p + 0.35 * i) for k, p, a in lobes))
            hole.append((x + way * math.cos(turn), y + 0.8 * way * math.sin(turn)))
        sheet = ImageChops.invert(art.mask("polygon", hole))
        art.shadow(sheet, 0.02)
        art.fill(sheet, art.tone(i / 6, 0.04, 25 - 8 * i), art.tone(i / 5.5, 0, 40 - 8 * i))
    art.fill(art.level(art.floor), art.ground)


def _still_life(art: _Art) -> None:
    table = art.floor - 0.05
    art.fill(art.level(0), art.tone(0.3, 0, art.turn), art.tone(0, 0, art.turn), across=True)
    art.fill(art.disc(*art.sun, 0.24), art.accent, art.tone(0.1), alpha=0.5)
    art.fill(art.level(table), art.tone(0.4), *[art.ground] * 3)
    for i in range(count := art.dice.randint(2, 4)):
        place = 0.5 + 0.7 * ((i + 0.5) / count - 0.5) + art.dice.uniform(-0.03, 0.03)
        _vessel(art, art.aspect * place, table + art.dice.uniform(0.01, 0.04))


def _vessel(art: _Art, x: float, foot: float) -> None:
    tall, wide = art.dice.choice(((0.55, 0.11), (0.42, 0.13), (0.3, 0.12), (0.16, 0.18)))
    tall, wide = art.floor * tall * art.dice.uniform(0.85, 1.15), min(art.floor, art.aspect) * wide
    low, neck, lip = (art.dice.uniform(*ends) for ends in ((0.45, 1), (0.3, 0.6), (0, 0.3)))
    sides = [
        (wide * (neck + (1 - neck) * math.sin(math.pi * t**low) + lip * t**12), foot - tall * t)
        for t in (step / 40 for step in range(41))
    ]
    outline = [*((x + k, y) for k, y in sides), *((x - k, y) for k, y in sides[::-1])]
    art.shadow(art.disc(x + wide * art.side, foot, wide * 1.6, 0.13), 0.012)
    depth, turn = art.dice.uniform(0.1, 0.8), art.dice.choice((0, 0, 20, -30, art.turn))
    body = ImageChops.lighter(art.mask("polygon", outline), art.disc(x, foot, wide * neck, 0.2))
    shades = [art.tone(depth, lighter, turn) for lighter in (0.02, 0.16, 0.08, 0, -0.1, -0.12)]
    art.fill(body, *shades[:: art.side], across=True)
    art.fill(art.disc(x, foot - tall, wide * (neck + lip), 0.16), art.tone(depth, -0.16, turn))


Scene = Callable[[_Art], None]
SCENES: tuple[Scene, ...] = (_land, _land, _sea, _paper, _still_life)


def set_type(prompt: str, width: int, height: int) -> tuple[float, list[str]]:
    """The largest type in which the prompt leaves enough of the picture free, and its lines."""
    text = unicodedata.normalize("NFKD", prompt[:600]).replace("–", "-").replace("—", "-")
    text = "".join(letter for letter in text if not unicodedata.combining(letter))
    size, lines, room = 1.0, [""], width * (1 - 2 * MARGIN)
    for part, letter in TYPE:
        size = min(max(width, height) / part, height / 4)
        most = max(1, int(0.34 * height / LEADING / size))
        per_line = max(2, int(room / size / letter))
        lines = textwrap.wrap(text, per_line, max_lines=most, placeholder="…")
        font = ImageFont.load_default(max(1, size))
        whole = part == TYPE[-1][0] or not "".join(lines).endswith("…")
        if whole and all(font.getlength(line) <= room for line in lines):
            break
    return size, lines


def _write(image: Image.Image, art: _Art, size: float, lines: Sequence[str]) -> None:
    """The prompt on the ground, and the mark above it."""
    draw, left, top = ImageDraw.Draw(image), image.width * MARGIN, art.floor * image.height
    small, font = (ImageFont.load_default(max(1, part)) for part in (size * 0.55, size))
    wide = small.getlength(MARK) + size * 0.6
    draw.rectangle((left, top - 0.3 * size, left + wide, top + 0.6 * size), fill=art.accent)
    middle = (left + wide / 2, top + 0.15 * size)
    draw.text(middle, MARK, fill=art.dark, font=small, anchor="mm")
    for i, line in enumerate(lines):
        place = (left, top + (0.95 + i * LEADING) * size)
        draw.text(place, line, fill=art.ink, font=font, stroke_width=round(size / 45))
