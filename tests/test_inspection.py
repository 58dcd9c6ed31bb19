"""Stored images against what is on record of them, and against each other."""

import hashlib
import io
import itertools
import random
import struct
import zlib
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image, ImageDraw

from dagster_imagegen.inspection import LOOK_BITS, Expected, inspect_images, near_duplicates


def drawn(color: str = "red", *, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """A picture with a few shapes."""
    image = Image.new(mode, (640, 480), "white")
    draw = ImageDraw.Draw(image)
    rng = random.Random(seed)
    for _ in range(6):
        left, top = rng.randrange(500), rng.randrange(350)
        draw.ellipse((left, top, left + 130, top + 120), fill=color)
    return image


def encoded(image: Image.Image, image_format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def problem(data: bytes, **expected: Any) -> str | None:
    """What is wrong with an image of these bytes."""
    (found,) = inspect_images([Expected(path="x", **expected)], lambda _: data)
    return found.problem


def looks(*pictures: bytes) -> list[int]:
    expected = [Expected(path=str(at)) for at in range(len(pictures))]
    found = inspect_images(expected, lambda path: pictures[int(path)])
    return [each.look for each in found if each.look is not None]


def differ(one: bytes, other: bytes) -> int:
    """In how many bits two pictures' looks differ."""
    first, second = looks(one, other)
    return (first ^ second).bit_count()


# -- on record -------------------------------------------------------------------------------------

PNG = encoded(drawn())
ON_RECORD = Expected(
    path="x",
    sha256=hashlib.sha256(PNG).hexdigest(),
    size_bytes=len(PNG),
    format="png",
    width=640,
    height=480,
    size="640x480",
)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, None),
        ({"size": "auto"}, None),
        ({"size": None}, None),
        ({"size": "0640x0480"}, None),
        ({"size": "1024x1024"}, "is 640x480, and 1024x1024 was requested"),
        ({"size_bytes": 3}, f"has {len(PNG):,} bytes instead of 3"),
        ({"sha256": "f" * 64}, "has the sha256 "),
        ({"format": "webp"}, "is png instead of webp"),
        ({"width": 641}, "is 640x480 instead of 641x480"),
    ],
)
def test_an_image_is_what_is_on_record(change: dict[str, Any], told: str | None) -> None:
    """Or what is not is told."""
    (found,) = inspect_images([replace(ON_RECORD, **change)], lambda _: PNG)
    assert (found.problem or "").startswith(told or "")
    assert (found.problem is None) is (told is None)


def test_an_image_that_is_torn_cannot_be_decoded() -> None:
    """Although its first bytes are those of an image, and its sha256 is the recorded one."""
    for image_format in ("PNG", "JPEG", "WEBP", "GIF"):
        data = encoded(drawn(), image_format)[:-200]
        told = problem(data, sha256=hashlib.sha256(data).hexdigest())
        assert told is not None
        assert told.startswith("cannot be decoded: ")


@pytest.mark.parametrize("data", [b"", b"<html>", b"\x00" * 100])
def test_what_is_no_image_is_told(data: bytes) -> None:
    """Whatever it is called."""
    assert problem(data) == "is not an image of a known format"


def test_a_huge_image_is_not_decoded() -> None:
    """A few bytes can claim gigabytes of pixels."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk
    data += struct.pack(">I", zlib.crc32(chunk))
    (found,) = inspect_images([Expected(path="x")], lambda _: data)
    assert (found.problem, found.look) == (None, None)


def test_a_store_that_is_away_is_an_error() -> None:
    """And says nothing about the images."""

    def away(path: str) -> bytes:
        raise ConnectionError(path)

    with pytest.raises(ConnectionError):
        inspect_images([Expected(path="x")], away)


# -- how they look ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [
        encoded(drawn(), "JPEG", quality=60),
        encoded(drawn(), "WEBP", quality=40),
        encoded(drawn().resize((320, 240))),
        encoded(drawn(mode="RGBA")),
        encoded(drawn().quantize(16), "GIF"),
    ],
)
def test_the_same_picture_looks_alike(other: bytes) -> None:
    """Compressed, scaled, with alpha or a palette."""
    assert differ(PNG, other) <= 10


def test_other_pictures_do_not() -> None:
    """Nor does the same one in another colour."""
    others = [encoded(drawn("blue")), *(encoded(drawn(seed=seed)) for seed in range(1, 9))]
    assert min(differ(PNG, other) for other in others) > 15


def test_transparent_pixels_have_no_colour() -> None:
    """They are shown on white."""
    clear = Image.new("RGBA", (640, 480), (255, 0, 0, 0))
    assert differ(encoded(clear), encoded(Image.new("RGB", (640, 480), "white"))) == 0


@pytest.mark.parametrize("distance", [0, 1, 4, 10, 48])
def test_every_pair_of_few_bits_is_found(distance: int) -> None:
    """As by comparing all with all."""
    rng = random.Random(distance)
    some: list[int | None] = [rng.getrandbits(LOOK_BITS) for _ in range(60)]
    for origin in list(some):
        for flips in (0, distance, distance + 1):
            bits = sum(1 << bit for bit in rng.sample(range(LOOK_BITS), flips))
            some.append((origin or 0) ^ bits)
    rng.shuffle(some)
    some[5] = None
    alike = {
        b
        for a, b in itertools.combinations(range(len(some)), 2)
        if a != 5 != b and ((some[a] or 0) ^ (some[b] or 0)).bit_count() <= distance
    }
    found = near_duplicates(some, distance)
    assert set(found) == alike
    for at, other in found.items():
        assert other < at
        assert ((some[at] or 0) ^ (some[other] or 0)).bit_count() <= distance
