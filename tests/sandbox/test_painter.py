"""The painter: the same picture for the same request, another for another, and its prompt on it."""

import io
import subprocess
import sys

import pytest
from PIL import Image, ImageChops, ImageStat

from dagster_imagegen.sandbox import painter
from dagster_imagegen.sandbox.painter import SCENES, colour, paint
from dagster_imagegen.sandbox.pictures import NOTE, encode

MUG = "A studio photo of a red enamel mug on a wooden table, soft morning light"
LONG = "a lighthouse keeper reads letters by lamplight while the storm throws the sea about " * 400
# Every mood and scene turns up among these.
PROMPTS = [f"{name} {mood}" for name in ("mug", "sofa", "lamp") for mood in painter.MOODS]


def small(prompt: str, *, transparent: bool = False, seed: str = "") -> Image.Image:
    return paint(prompt, width=96, height=96, transparent=transparent, seed=seed)


def difference(a: Image.Image, b: Image.Image) -> float:
    """The mean difference of two pictures, 0 to 255."""
    return sum(ImageStat.Stat(ImageChops.difference(a, b)).mean) / len(a.getbands())


def luminance(rgb: tuple[int, int, int]) -> float:
    """Relative luminance as WCAG 2 defines it."""
    linear = [v / 3294.6 if v <= 10 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: tuple[int, int, int], b: tuple[int, int, int]) -> float:
    """The contrast ratio of WCAG 2; 4.5 is asked for text, 7 for its highest grade."""
    dark, light = sorted((luminance(a), luminance(b)))
    return (light + 0.05) / (dark + 0.05)


def lower_part(image: Image.Image) -> list[tuple[int, tuple[int, int, int]]]:
    """The colours of the band that the last line of the prompt is in, the most frequent first."""
    width, height = image.size
    band = image.convert("RGB").crop(
        (width // 14, height * 88 // 100, width // 2, height * 97 // 100)
    )
    colours = band.getcolors(1 << 20)
    assert colours is not None
    return sorted(colours, reverse=True)  # pyright: ignore[reportReturnType]  # RGB has three bands


def test_the_same_request_gives_the_same_bytes_in_every_process() -> None:
    """Nothing but the arguments decides the picture, neither hash randomization nor the past."""
    program = (
        "import sys; from dagster_imagegen.sandbox.painter import paint; "
        f"sys.stdout.buffer.write(paint({MUG!r}, width=96, height=96).tobytes())"
    )
    small("something else first")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout == small(MUG).tobytes() == small(MUG).tobytes()


@pytest.mark.parametrize(
    ("one", "other"),
    [("a red mug", "a blue mug"), ("a mug by day", "a mug at night"), ("a glorp", "a blimf")],
)
def test_different_prompts_give_visibly_different_pictures(one: str, other: str) -> None:
    """A colour, a time of day, an unknown word: each changes the picture."""
    assert difference(small(one), small(other)) > 6


def test_a_catalogue_of_pictures_and_the_variants_of_one_are_all_different() -> None:
    """No two of forty prompts, and no two of a request for several images, look alike."""
    images = [small(f"product {i}") for i in range(40)]
    images += [small("product 0", seed=str(i)) for i in range(1, 5)]
    for i, image in enumerate(images):
        assert all(difference(image, other) > 2 for other in images[:i])


@pytest.mark.parametrize(("word", "hue"), [("red", 20), ("green", 147), ("cobalt", 262)])
def test_a_colour_in_the_prompt_decides_the_palette(word: str, hue: float) -> None:
    """The ground that the prompt stands on is of the hue that was asked for."""
    for mood in painter.MOODS:
        ground = lower_part(paint(f"a {word} mug, {mood}", width=256, height=256))[0][1]
        red, _, blue = (value - sum(ground) / 3 for value in ground)
        nearest = colour(0.3, 0.06, hue)
        assert (red > blue) == (nearest[0] > nearest[2])


@pytest.mark.parametrize("output_format", ["png", "webp", "jpeg"])
@pytest.mark.parametrize("size", [(16, 16), (1, 1), (160, 90), (700, 20), (20, 700), (16, 4096)])
def test_every_format_decodes_at_the_exact_size(output_format: str, size: tuple[int, int]) -> None:
    """However odd the size, it is the size that was asked for; the note is in every file."""
    data = encode(paint(MUG, width=size[0], height=size[1]), output_format, 70)
    assert NOTE.encode() in data
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        assert (image.format or "").lower() == output_format
        assert (image.size, image.mode) == (size, "RGB")


def test_a_large_picture_has_its_size_and_sharp_type() -> None:
    """Beyond the size that is painted the picture is enlarged; the prompt is set afterwards."""
    image = paint("the sea at night", width=3840, height=2160)
    assert image.size == (3840, 2160)
    ground, ink = (shade for _, shade in lower_part(image)[:2])
    assert contrast(ground, ink) > 7


@pytest.mark.parametrize("output_format", ["png", "webp"])
@pytest.mark.parametrize("size", [(256, 256), (384, 256), (256, 384)])
def test_a_transparent_picture_is_an_arch(output_format: str, size: tuple[int, int]) -> None:
    """The corners are empty, the middle is solid, edges are smooth, and files keep it so."""
    image = paint(MUG, width=size[0], height=size[1], transparent=True)
    with Image.open(io.BytesIO(encode(image, output_format))) as read:
        alpha = read.convert("RGBA").getchannel("A")
        assert (read.size, read.mode) == (size, "RGBA")
    right, foot = size[0] - 1, size[1] - 1
    assert [alpha.getpixel(xy) for xy in ((0, 0), (right, 0), (0, foot))] == [0, 0, 0]
    assert alpha.getpixel((size[0] // 2, size[1] // 2)) == 255
    shades = alpha.histogram()
    assert shades[0] > 0.1 * sum(shades)
    assert sum(shades[1:255]) > 50


def test_compression_makes_smaller_files() -> None:
    """`output_compression` is the quality of jpeg and webp."""
    image = paint("a forest", width=256, height=256)
    for output_format in ("jpeg", "webp"):
        low, high = (len(encode(image, output_format, quality)) for quality in (20, 95))
        assert low < high


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("side", [1024, 256])
def test_the_prompt_stands_out_from_its_ground(prompt: str, side: int) -> None:
    """The two commonest colours around the last line are ground and ink, 7 to 1 or better: also in
    a small picture, and in every mood."""
    image = paint(prompt, width=side, height=side)
    (grounds, ground), *others = lower_part(image)
    ink = max(others, key=lambda item: contrast(item[1], ground))
    assert contrast(ground, ink[1]) > 7
    assert grounds > ink[0] > 10


@pytest.mark.parametrize("size", [(1024, 1024), (1536, 1024), (1024, 1536), (3840, 2160)])
@pytest.mark.parametrize("prompt", ["a mug", MUG, LONG, "W" * 900])
def test_the_prompt_is_set_in_large_type_that_fits(prompt: str, size: tuple[int, int]) -> None:
    """In a thumbnail of 256 pixels a letter still has 9; what does not fit ends in an ellipsis."""
    font_size, lines = painter.set_type(prompt, *size)
    assert font_size * 256 / max(size) > 9
    assert len(lines) * font_size * painter.LEADING < 0.4 * size[1]
    whole = "".join(lines).replace(" ", "")
    assert whole.removesuffix("…") == prompt.replace(" ", "")[: len(whole.removesuffix("…"))]
    assert whole.endswith("…") == (len(prompt) > 500)


@pytest.mark.parametrize("scene", SCENES)
def test_every_scene_is_marked_as_sandbox_output(
    scene: painter.Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A label with the word stands above the prompt, dark on a light colour."""
    monkeypatch.setattr(painter, "SCENES", (scene,))
    with_mark = paint("a mug", width=512, height=512)
    monkeypatch.setattr(painter, "MARK", "")
    without = paint("a mug", width=512, height=512)
    box = ImageChops.difference(with_mark, without).getbbox()
    assert box is not None
    left, top, right, foot = box
    assert (right - left > 60, foot - top > 12) == (True, True)
    label = with_mark.crop(box).getcolors(1 << 20)
    assert label is not None
    shades = [shade for _, shade in sorted(label, reverse=True)]
    assert contrast(shades[0], shades[1]) > 4.5  # pyright: ignore[reportArgumentType]  # RGB


@pytest.mark.parametrize(
    "prompt", ["", "x", "   ", "\U0001f408 猫 на столе", LONG, "9" * 5000, "a\x00\n\tb", "%s {}"]
)
def test_no_prompt_is_an_error(prompt: str) -> None:
    """Whatever the server lets through can be painted, if need be with boxes for letters."""
    assert small(prompt).size == (96, 96)


def test_accents_and_dashes_are_shown_without() -> None:
    """The bundled font has none of them: the letter below is better than a box."""
    assert painter.set_type("café – crème", 512, 512)[1] == ["cafe - creme"]
