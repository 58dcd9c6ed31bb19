"""Small pictures as markdown: few, small, safe, and never the reason why an asset fails."""

import base64
import io
import json
import re
import struct
import subprocess
import sys
import time
import tracemalloc
import zlib
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dagster_imagegen.decoding import JPEG_SCANS_MAX, PIXELS_MAX, format_to_decode
from dagster_imagegen.engine.image_header import read_header
from dagster_imagegen.event_size import json_size
from dagster_imagegen.previews import (
    SAMPLE_BYTES,
    SHEET_BYTES,
    THUMBNAIL_CHARACTERS,
    Picture,
    browser_address,
    contact_sheet,
    literal,
    pictures,
    samples,
    thumbnails,
)
from tests.test_metadata import image_table


def picture(width: int = 300, height: int = 200, *, mode: str = "RGB", form: str = "PNG") -> bytes:
    """A picture that compresses badly."""
    noise = Image.effect_noise((width, height), 80)
    buffer = io.BytesIO()
    Image.merge(mode, [noise] * len(mode)).save(buffer, form)
    return buffer.getvalue()


def shown(markdown: str) -> list[Image.Image]:
    """The pictures in a preview."""
    found = re.findall(r"data:image/webp;base64,([A-Za-z0-9+/=]+)", markdown)
    return [Image.open(io.BytesIO(base64.b64decode(each))) for each in found]


LONG_ADDRESS = "https://storage.cloud.google.com/" + "a" * 200


def noise() -> Picture:
    """A picture that takes as many bytes as any, with a prompt that does so too."""
    image = Image.effect_noise((224, 224), 80).convert("RGB")
    return Picture(image=image, name="😀日本" * 400, prompt="😀日本" * 400, address=LONG_ADDRESS)


@pytest.mark.parametrize(
    ("mode", "form"),
    [("RGB", "PNG"), ("RGBA", "PNG"), ("RGB", "JPEG"), ("RGBA", "WEBP"), ("L", "GIF")],
)
def test_every_usual_kind_of_image_is_shown_small(mode: str, form: str) -> None:
    """With the proportions that it has."""
    data = picture(mode=mode, form=form)
    found = pictures(image_table({}), lambda _: data)
    (small,) = shown(contact_sheet(found))
    assert small.size == (224, 149)
    (small,) = shown(samples(found))
    assert small.size == (112, 75)
    (thumbnail,) = thumbnails(found)
    (small,) = shown(thumbnail)
    assert small.width >= 56


def test_a_sheet_fits_any_event_log() -> None:
    """However busy the pictures, and whatever the prompts are written in; fewer if need be."""
    twelve = [noise()] * 12
    sheet = contact_sheet(twelve)
    assert len(shown(sheet)) == 12
    assert len(json.dumps(sheet)) <= SHEET_BYTES
    fewer = contact_sheet(twelve, max_bytes=4_000)
    assert 0 < len(shown(fewer)) < 12
    assert len(json.dumps(fewer)) <= 4_000
    assert contact_sheet(twelve, max_bytes=100) == ""


def test_thumbnails_are_short_enough_to_be_shown_at_once() -> None:
    """Coarser ones where they are busy; each above the name of its row."""
    plain = Image.new("RGB", (224, 149), "red")
    red = Picture(image=plain, name="MUG-01", prompt="red")
    for markdown in thumbnails([noise()] * 12):
        assert len(shown(markdown)) == 1
        assert len(markdown) <= THUMBNAIL_CHARACTERS
    (markdown,) = thumbnails([red])
    assert shown(markdown)[0].size == (144, 96)
    assert markdown.endswith("`MUG-01`")
    assert thumbnails([]) == []


def test_a_column_is_described_by_a_few_pictures() -> None:
    """However busy they are, they take little of the event."""
    assert len(shown(samples([noise()] * 12))) == 4
    assert json_size(samples([noise()] * 12)) <= SAMPLE_BYTES
    assert samples([]) == ""


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("/srv/images/a.png", None),
        ("file:///srv/images/a.png", None),
        ("s3://bucket/a.png", None),
        ("abfs://container/a.png", None),
        (None, None),
        (
            "gs://bucket/my images/(1).png",
            "https://storage.cloud.google.com/bucket/my%20images/%281%29.png",
        ),
        ("https://cdn.example/a.png?x=1)", "https://cdn.example/a.png?x=1%29"),
    ],
)
def test_a_picture_links_to_its_image_where_a_browser_can_open_it(
    uri: str | None, address: str | None
) -> None:
    """Nothing in an address ends the link before its end."""
    assert browser_address(uri) == address
    found = pictures(image_table({"image_uri": uri}), lambda _: picture())
    for markdown in (contact_sheet(found), samples(found), *thumbnails(found)):
        assert (f"]({address})" in markdown) is (address is not None)


def test_new_images_are_shown_before_old_ones() -> None:
    """What one looks for after a run over a large table."""
    old = [{"image_status": "reused"}] * 20
    table = image_table(
        *old, {"prompt": "new one"}, {"image_status": "refused", "image_path": None}
    )
    data = picture()
    found = pictures(table, lambda _: data)
    assert [each.prompt for each in found[:2]] == ["new one", "prompt 0"]
    assert len(found) == 12


def test_what_cannot_be_shown_is_left_out() -> None:
    """Broken, gone, vector, absurdly large and decompression bombs; the asset does not fail."""
    good = picture()
    bomb = io.BytesIO()
    Image.new("1", (9_000, 9_000)).save(bomb, "PNG")
    files = {
        "images/0.png": good,
        "images/1.png": good[:200],
        "images/2.png": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "images/3.png": bomb.getvalue(),
    }
    table = image_table({}, {}, {}, {}, {}, {"image_size_bytes": 10**9, "image_path": "images/0"})
    assert len(pictures(table, files.__getitem__)) == 1


# -- pictures that are meant to hurt ---------------------------------------------------------------


def png(width: int, height: int, *chunks: tuple[bytes, bytes], data: bytes = b"") -> bytes:
    """A grey PNG of that size, whatever its data."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )


def zeros(size: int) -> bytes:
    pack = zlib.compressobj(9)
    whole, rest = divmod(size, 1 << 20)
    packed = b"".join(pack.compress(bytes(1 << 20)) for _ in range(whole))
    return packed + pack.compress(bytes(rest)) + pack.flush()


def animation() -> bytes:
    """Twenty seconds of nothing much."""
    first, *others = [Image.new("P", (64, 64), color) for color in range(200)]
    buffer = io.BytesIO()
    first.save(buffer, "GIF", save_all=True, append_images=others, duration=100)
    return buffer.getvalue()


def many_scans(count: int) -> bytes:
    """A progressive JPEG; for each scan, of a few bytes, a decoder goes over all its pixels."""
    buffer = io.BytesIO()
    Image.new("L", (6_000, 6_000), 128).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    return data[:-2] + data[data.rindex(b"\xff\xda") : -2] * count + data[-2:]


def canvas(width: int, height: int) -> bytes:
    """The start of an animated WebP, for which its decoder allocates two whole canvases."""
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    frame = b"VP8 " + struct.pack("<I", 10) + b"\x30\x01\x00\x9d\x01\x2a\x01\x00\x01\x00"
    frame = b"ANMF" + struct.pack("<I", 16 + len(frame)) + bytes(16) + frame
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + sides
    body += b"ANIM" + struct.pack("<I", 6) + bytes(6) + frame
    return b"RIFF" + struct.pack("<I", len(body)) + body


GIF_SCREEN = b"GIF89a\xff\xff\xff\xff\x80\0\0" + bytes(6)
BOMBS = {
    "a large png": lambda: png(100_000, 100_000, data=zeros(10_000)),
    "a large gif": lambda: GIF_SCREEN + b",\0\0\0\0\1\0\1\0\0\2\2\x44\1\0;",
    "a large webp": lambda: canvas(16_383, 16_383),
    "text": lambda: png(2, 2, (b"zTXt", b"a\0\0" + zeros(40 << 20)), data=zeros(6)),
    "a profile": lambda: png(2, 2, (b"iCCP", b"a\0\0" + zeros(40 << 20)), data=zeros(6)),
    "scans": lambda: many_scans(20_000),
    "a program": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) print\n",
    "a drawing": lambda: b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
}

PACKED = {"text", "a profile"}
"""Pictures of two pixels, with 40 MB of something else that Python's zlib would unpack."""


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_picture_that_is_meant_to_hurt_is_not_decoded(bomb: str) -> None:
    """The guard leaves it out, or Pillow stops reading what is packed in it; neither takes long."""
    data = BOMBS[bomb]()
    table = image_table({"image_size_bytes": len(data)})
    pictures(image_table({}), lambda _: picture())  # what is loaded once
    assert (format_to_decode(data) is None) == (bomb not in PACKED)
    unpacking = _seconds(partial(zlib.decompress, zlib.compress(bytes(40 << 20))))
    tracemalloc.start()
    try:
        took = _seconds(lambda: pictures(table, lambda _: data))
        assert took < 10 * (unpacking + 0.05)  # to decode them all would be far more work
        assert pictures(table, lambda _: data) == []
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()


def test_an_animation_is_shown_as_its_first_frame() -> None:
    """The others are not looked at."""
    data = animation()
    (found,) = pictures(image_table({}), lambda _: data)
    assert found.image.size == (64, 64)


def test_a_progressive_picture_is_shown() -> None:
    """With as many scans as encoders make."""
    buffer = io.BytesIO()
    Image.effect_noise((300, 200), 80).convert("RGB").save(buffer, "JPEG", progressive=True)
    assert 2 < buffer.getvalue().count(b"\xff\xda") < JPEG_SCANS_MAX
    assert len(pictures(image_table({}), lambda _: buffer.getvalue())) == 1


def test_a_large_picture_is_made_small_before_it_is_copied() -> None:
    """A grey one is a byte a pixel, and as much again by chance; in colour it would be four.

    In a process of its own, for what was taken before cannot be told from what is taken now.
    """
    program = """
import resource, sys
import pyarrow as pa
from dagster_imagegen.previews import pictures
small, large = sys.stdin.buffer.read(int(sys.argv[1])), sys.stdin.buffer.read()
images = pa.table(
    {"image_path": ["a"], "image_status": ["generated"], "image_size_bytes": [1], "prompt": ["a"],
     "prompt_id": ["a"], "image_uri": ["a"]}
)
assert len(pictures(images, lambda _: small)) == 1  # what is loaded once
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert len(pictures(images, lambda _: large)) == 1
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    small = picture()
    large = png(5_000, PIXELS_MAX // 5_000, data=zeros(PIXELS_MAX + PIXELS_MAX // 5_000))
    told = subprocess.check_output(
        [sys.executable, "-c", program, str(len(small))], input=small + large, timeout=60
    )
    assert int(told) * 1024 < 3 * PIXELS_MAX


def test_what_is_read_of_a_jpeg_before_its_size_is_bounded() -> None:
    """Of 60 MB of padding, which cannot be told from an image, the first few thousand bytes."""
    for filling in (b"\xff", b"\xff\x01", b"\xff\xe0\0\2"):
        short, long = (b"\xff\xd8\xff\x01" + filling * count for count in (15_000, 15_000_000))
        header = read_header(long)
        assert header is not None
        assert (header.format, header.width) == ("jpeg", None)
        # A thousand times as long. What is added is for a clock that measures little time badly.
        took, takes = (_seconds(partial(read_header, data)) for data in (long, short))
        assert took < 20 * (takes + 0.002)


def _seconds(work: Callable[[], object]) -> float:
    """Of this thread, which others on the machine do not lengthen; the least of a few tries."""

    def once() -> float:
        began = time.thread_time()
        work()
        return time.thread_time() - began

    return min(once() for _ in range(3))


def test_no_images_no_preview() -> None:
    """An empty table has none, nor has one of refusals."""
    assert pictures(image_table(), lambda _: b"") == []
    assert pictures(image_table({"image_status": "refused"}), lambda _: b"") == []
    assert contact_sheet([]) == ""


@given(st.text())
def test_a_prompt_cannot_inject_anything_into_its_caption(prompt: str) -> None:
    """One line of inline code, which nothing in it ends, in a cell that nothing in it ends."""
    code = literal(prompt)
    assert code[0] == code[-1] == "`"
    assert "`" not in code[1:-1]
    assert "|" not in code
    assert code.isprintable()
    assert len(code) <= 67
