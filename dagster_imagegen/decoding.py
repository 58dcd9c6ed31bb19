"""Stored images made small. Whatever their bytes are, time and memory are bounded."""

import contextlib
import io
import warnings
from collections.abc import Generator

from PIL import Image

from dagster_imagegen.engine.image_header import read_header

PIXELS_MAX = 40_000_000
"""More than 8K has. Decoding needs at most eight bytes per pixel: two copies of four."""

IMAGE_BYTES_MAX = 64_000_000
FORMATS = frozenset({"png", "jpeg", "webp", "gif", "avif"})
JPEG_SCANS_MAX = 32
"""A progressive JPEG has about ten. Each visits every pixel, however few bytes it has."""


def format_to_decode(data: bytes) -> str | None:
    """The format by the first bytes; None for images that are not decoded.

    Some decoders allocate the whole canvas before Pillow checks its size, and by default Pillow
    tries every format that it knows.
    """
    header = read_header(data)
    if header is None or header.format not in FORMATS:
        return None
    if (header.width or 0) * (header.height or 0) > PIXELS_MAX:
        return None
    # These two bytes begin a scan and occur nowhere else in a JPEG.
    too_slow = header.format == "jpeg" and data.count(b"\xff\xda") > JPEG_SCANS_MAX
    return None if too_slow else header.format.upper()


@contextlib.contextmanager
def without_warnings() -> Generator[None]:
    """Pillow does not warn of large images, which are left out here.

    Enter it outside of threads that decode, because Python's filters belong to the process.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def small_image(data: bytes, side: int) -> Image.Image | None:
    """The image within a square of `side` pixels, on white; None for one that is not decoded.

    Raises whatever a decoder raises for damaged bytes.
    """
    image_format = format_to_decode(data)
    if image_format is None:
        return None
    with Image.open(io.BytesIO(data), formats=[image_format]) as image:
        if image.width * image.height > PIXELS_MAX:  # A GIF's frame can be larger.
            return None
        image.draft("RGB", (3 * side // 2, 3 * side // 2))  # JPEG: decodes a smaller one at once.
        small = _small(image, side)
        # On white: a picture with alpha takes twice the bytes, and its sheet is white.
        paper = Image.new("RGB", small.size, "white")
        paper.paste(small, mask=small if small.mode == "RGBA" else None)
        return paper


def _small(image: Image.Image, side: int) -> Image.Image:
    """The picture made small before it is converted, because a copy of the whole is large."""
    if "transparency" in image.info or image.mode in ("1", "P", "PA"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    # The gap: by whole steps first, which takes a tenth of the time, and nobody sees it.
    image.thumbnail((side, side), reducing_gap=1.0)
    return image.convert("RGBA" if image.has_transparency_data else "RGB")
