"""The painter: the same picture for the same request, another for another, and never a grey box."""

import io
import subprocess
import sys

import pytest
from PIL import Image, ImageChops, ImageStat

from dagster_imagegen.sandbox.painter import MARK, encode, paint
from dagster_imagegen.sandbox.painting.brief import read_brief
from dagster_imagegen.sandbox.painting.catalogue import KINDS
from dagster_imagegen.sandbox.painting.colour import COLOURS, oklch, to_oklch
from dagster_imagegen.sandbox.painting.words import SUBJECTS

MUG = "A studio photo of a red enamel mug on a wooden table, soft morning light"
PLACES = ["mountain", "sea", "forest", "desert", "city", "kitchen", "room", "garden", "meadow"]


def small(prompt: str, **settings: str) -> Image.Image:
    return paint(prompt, width=96, height=96, **settings)


def difference(a: Image.Image, b: Image.Image) -> float:
    """The mean difference of two pictures, 0 to 255."""
    return sum(ImageStat.Stat(ImageChops.difference(a, b)).mean) / len(a.getbands())


def dominant_hue(image: Image.Image) -> int:
    """The hue (0 to 255) that most of the picture's saturation is in."""
    hues, weights = [0] * 256, image.convert("HSV")
    data = weights.tobytes()
    for i in range(0, len(data), 3):
        hues[data[i]] += data[i + 1]
    wrapped = [sum(hues[(h + k) % 256] for k in range(-8, 9)) for h in range(256)]
    return wrapped.index(max(wrapped))


def test_the_same_request_gives_the_same_bytes():
    """Nothing but the arguments decides the picture."""
    first, second = (encode(small(MUG), output_format="png", compression=None) for _ in range(2))
    assert first == second


def test_another_process_paints_the_same_picture():
    """Neither hash randomization nor what was painted before leaves a trace."""
    program = (
        "import sys; from dagster_imagegen.sandbox.painter import encode, paint; "
        f"image = paint({MUG!r}, width=96, height=96); "
        "sys.stdout.buffer.write(encode(image, output_format='png', compression=None))"
    )
    small("something else first")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout == encode(small(MUG), output_format="png", compression=None)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a red mug", "a blue mug"),
        ("a red mug", "a red sofa"),
        ("a red mug", "a red mug at night"),
        ("a red mug", "a red mug in the snow"),
        ("a glorp", "a blimf"),
        ("the sea", "the desert"),
    ],
)
def test_different_prompts_give_visibly_different_pictures(one: str, other: str):
    """A colour, a thing, a time, a weather, an unknown word, a place: each changes the picture."""
    assert difference(small(one), small(other)) > 6


def test_the_pictures_of_a_catalogue_are_all_different():
    """No two kinds of thing are drawn alike."""
    images = [small(f"a {name}", background="transparent").tobytes() for name in KINDS]
    assert len(set(images)) == len(KINDS)


def test_variants_of_one_prompt_differ():
    """n requests of one prompt give n pictures."""
    images = [small("a teal vase", variant_seed=str(i)).tobytes() for i in range(4)]
    assert len(set(images)) == 4


def test_quality_changes_the_detail_and_not_the_composition():
    """A draft in low quality shows what high quality will."""
    low, high = (small(MUG, quality=q) for q in ("low", "high"))
    assert low.tobytes() != high.tobytes()
    assert difference(low, high) < 8


@pytest.mark.parametrize(
    ("colour", "hue"),
    [
        ("crimson", 250),
        ("orange", 20),
        ("green", 95),
        ("teal", 128),
        ("cobalt", 158),
        ("violet", 185),
    ],
)
@pytest.mark.parametrize("thing", ["mug", "sofa", "zibbet"])
def test_the_colour_word_decides_the_dominant_hue(colour: str, hue: int, thing: str):
    """The picture is in the prompt's colour, for known and unknown things alike."""
    distance = abs(dominant_hue(small(f"a {colour} {thing}")) - hue)
    assert min(distance, 256 - distance) < 22


@pytest.mark.parametrize("prompt", ["a red mug", "three green apples", "an unheard-of blimf"])
def test_a_transparent_background_holds_the_subject_alone(prompt: str):
    """The corners are empty, the middle is solid, and edges are in between."""
    image = paint(prompt, width=256, height=256, background="transparent")
    assert image.mode == "RGBA"
    alpha = image.getchannel("A")
    assert [alpha.getpixel(p) for p in ((0, 0), (255, 0), (0, 255))] == [0, 0, 0]
    counts = alpha.histogram()
    assert counts[255] > 0.1 * 256 * 256
    assert counts[0] > 0.2 * 256 * 256
    assert sum(counts[1:255]) > 100


@pytest.mark.parametrize("output_format", ["png", "webp", "jpeg"])
@pytest.mark.parametrize("size", [(16, 16), (1, 1), (160, 90), (90, 160), (700, 20), (20, 700)])
def test_every_format_decodes_at_the_exact_size(output_format: str, size: tuple[int, int]):
    """However odd the size, it is the size that was asked for."""
    data = encode(
        paint(MUG, width=size[0], height=size[1]), output_format=output_format, compression=70
    )
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        assert (image.format or "").lower() == output_format
        assert image.size == size
        assert image.mode == "RGB"


def test_a_picture_larger_than_what_is_painted_has_its_size():
    """Pictures beyond the painter's own resolution are enlarged, not cut."""
    assert paint("the sea", width=2400, height=600, quality="low").size == (2400, 600)


@pytest.mark.parametrize("output_format", ["png", "webp"])
def test_transparency_survives_encoding(output_format: str):
    """png and webp carry the alpha channel."""
    image = paint("a red mug", width=64, height=64, background="transparent")
    with Image.open(
        io.BytesIO(encode(image, output_format=output_format, compression=None))
    ) as read:
        assert read.convert("RGBA").getpixel((0, 0)) == (0, 0, 0, 0)
        assert read.mode == "RGBA"


@pytest.mark.parametrize("output_format", ["png", "webp", "jpeg"])
def test_every_file_says_it_is_from_the_sandbox(output_format: str):
    """A sandbox picture that strays into production can be told by its metadata."""
    data = encode(small("a red mug"), output_format=output_format, compression=None)
    assert MARK.encode() in data


def test_a_sandbox_mark_is_seen_in_the_corner():
    """The picture itself says it too."""
    image = paint("a red mug on white", width=512, height=512)
    corner = image.crop((380, 470, 512, 512)).convert("L")
    low, high = corner.getextrema()
    assert isinstance(low, int | float)
    assert isinstance(high, int | float)
    assert high - low > 70


def test_compression_makes_smaller_files():
    """`output_compression` is the quality of jpeg and webp."""
    image = paint("a forest", width=256, height=256)
    for output_format in ("jpeg", "webp"):
        sizes = [len(encode(image, output_format=output_format, compression=c)) for c in (20, 95)]
        assert sizes[0] < sizes[1]


def test_an_unknown_format_is_an_error():
    """The server must answer 400 rather than send something else."""
    with pytest.raises(ValueError, match="gif"):
        encode(small("a red mug"), output_format="gif", compression=None)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "rest", ["", " at night in the rain", " in autumn fog", " at sunset, a boat and a cat"]
)
def test_every_place_time_and_weather_can_be_painted(place: str, rest: str):
    """No combination of words is an error, or a plain box."""
    image = paint(f"the {place}{rest}", width=96, height=64, quality="low")
    assert sum(ImageStat.Stat(image).stddev) > 20


@pytest.mark.parametrize(
    "prompt", ["x", "   ", "\U0001f408 猫 на столе", "red " * 8000, "9" * 5000, "#ff8800"]
)
def test_no_prompt_is_an_error(prompt: str):
    """Whatever the server lets through, the painter can paint."""
    assert small(prompt).size == (96, 96)


def test_a_prompt_is_read_as_a_person_would():
    """Colours and counts go to the things they stand before or after; places are not things."""
    brief = read_brief("Three green apples and a walnut desk lamp on white, at dusk")
    apples, lamp = brief.subjects
    assert (apples.name, apples.colour, apples.count) == ("apple", COLOURS["green"], 3)
    assert (lamp.name, lamp.colour) == ("lamp", COLOURS["brown"])
    assert brief.backdrop == COLOURS["white"]
    assert brief.time == "dusk"


def test_a_colour_named_after_a_place_is_only_a_colour():
    """Midnight blue is no night and forest green no forest; an orange is a fruit and a colour."""
    brief = read_brief("an orange beside a midnight blue jug with a forest green rim")
    assert (brief.time, brief.place) == (None, None)
    assert [s.name for s in brief.subjects] == ["orange", "carafe"]
    assert brief.subjects[0].colour == COLOURS["orange"]


def test_every_word_for_a_subject_can_be_drawn():
    """The words and the drawings name the same things."""
    assert set(SUBJECTS.values()) == set(KINDS)


@pytest.mark.parametrize("rgb", [(198, 47, 47), (0, 0, 0), (255, 255, 255), (31, 72, 176)])
def test_colours_survive_the_way_to_oklch_and_back(rgb: tuple[int, int, int]):
    """The colour arithmetic loses no more than a rounding."""
    assert max(abs(a - b) for a, b in zip(oklch(*to_oklch(rgb)), rgb, strict=True)) <= 5
