"""Whether stored images are what the image table says, and which of them look alike."""

import hashlib
import io
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from PIL import Image

from dagster_imagegen.decoding import PIXELS_MAX, format_to_decode
from dagster_imagegen.engine.attempt import ImageFile
from dagster_imagegen.engine.image_header import read_header

THREADS = 4
"""Each holds one image: its bytes, and while it is decoded eight bytes per pixel."""

LOOK_SIDE = 8
LOOK_BITS = 3 * LOOK_SIDE * LOOK_SIDE
LEVEL = 3
"""Brightness that differs by less is the noise of compression, not a gradient."""


@dataclass(frozen=True, kw_only=True)
class Expected(ImageFile):
    """What is on record of a stored image, and the `size` requested, e.g. `1024x1024` or `auto`."""

    size: str | None = None


@dataclass(frozen=True, kw_only=True)
class Inspected:
    """A stored image: what is wrong with it, and its `look`, a number that similar images share
    but for a few bits. None for what was not found."""

    problem: str | None = None
    look: int | None = None


def inspect_images(
    images: Sequence[Expected], read_image: Callable[[str], bytes]
) -> list[Inspected]:
    """Read and decode stored images, a few at a time.

    Raises what `read_image` does, but for the `FileNotFoundError` of an image that is not there.
    """
    with ThreadPoolExecutor(THREADS, thread_name_prefix="imagegen-inspect") as pool:
        return list(pool.map(partial(_inspect, read_image), images))


def _inspect(read_image: Callable[[str], bytes], expected: Expected) -> Inspected:
    try:
        data = read_image(expected.path)
    except FileNotFoundError:
        return Inspected(problem="is not in storage")
    if (problem := _bytes_problem(expected, data)) is not None:
        return Inspected(problem=problem)
    try:
        image = _decoded(data)
    except Exception as error:  # noqa: BLE001  # decoders raise whatever they like
        return Inspected(problem=f"cannot be decoded: {type(error).__name__}: {error}")
    if image is None:
        return Inspected()
    return Inspected(problem=_size_problem(expected, image.size), look=_look(image))


def _bytes_problem(expected: Expected, data: bytes) -> str | None:
    if expected.size_bytes not in (None, len(data)):
        return f"has {len(data):,} bytes instead of {expected.size_bytes:,}"
    if expected.sha256 not in (None, found := hashlib.sha256(data).hexdigest()):
        return f"has the sha256 {found[:12]}… instead of {str(expected.sha256)[:12]}…"
    header = read_header(data)
    if header is None:
        return "is not an image of a known format"
    if expected.format not in (None, header.format):
        return f"is {header.format} instead of {expected.format}"
    return None


def _size_problem(expected: Expected, size: tuple[int, int]) -> str | None:
    found = "x".join(map(str, size))
    if None not in (expected.width, expected.height) and size != (expected.width, expected.height):
        return f"is {found} instead of {expected.width}x{expected.height}"
    width, by, height = (expected.size or "").partition("x")
    if by and width.isdecimal() and height.isdecimal() and found != f"{int(width)}x{int(height)}":
        return f"is {found}, and {expected.size} was requested"
    return None


def _decoded(data: bytes) -> Image.Image | None:
    """The whole image; None for one that is not decoded (SVG, very large)."""
    image_format = format_to_decode(data)
    if image_format is None:
        return None
    with Image.open(io.BytesIO(data), formats=[image_format]) as image:
        if image.width * image.height > PIXELS_MAX:  # A GIF's frame can be larger.
            return None
        image.load()
        return image.copy()


# -- how images look -------------------------------------------------------------------------------


def _look(image: Image.Image) -> int:
    """A difference hash of each colour: whether brightness falls from a point to the next.

    Scaling, compression and small edits change a few of its bits. ImageHash, which has this one
    and others, brings SciPy and PyWavelets, which are larger than all that this package needs.
    """
    small = image.convert("RGBA").resize((LOOK_SIDE + 1, LOOK_SIDE), Image.Resampling.BOX)
    paper = Image.new("RGB", small.size, "white")
    paper.paste(small, mask=small)
    look = 0
    for channel in paper.split():
        levels = channel.tobytes()
        for at in range(len(levels)):
            if (at + 1) % (LOOK_SIDE + 1):  # Not the last of a row.
                look = look << 1 | (levels[at] > levels[at + 1] + LEVEL)
    return look


def near_duplicates(looks: Sequence[int | None], distance: int) -> dict[int, int]:
    """For the position of each look that differs from an earlier one by few bits, that position.

    Of `distance + 1` bands of bits, two such looks share at least one, so that only those that do
    are compared.
    """
    width = -(-LOOK_BITS // (distance + 1))
    first: dict[int, int] = {}
    by_band: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    found: dict[int, int] = {}
    for at, look in enumerate(looks):
        if look is None:
            continue
        if look in first:
            found[at] = first[look]
            continue
        bands = [(n, look >> n * width & (1 << width) - 1) for n in range(distance + 1)]
        alike = (
            other
            for band in bands
            for other in by_band[band]
            if (look ^ other).bit_count() <= distance
        )
        if (other := next(alike, None)) is not None:
            found[at] = first[other]
        first[look] = at
        for band in bands:
            by_band[band].append(look)
    return found
