"""What an image says of its own origin, found in its bytes without decoding or altering them.

Two marks are looked for: content credentials (C2PA, a JUMBF box in a PNG's `caBX` chunk, a JPEG's
APP11 segments or a WebP's `C2PA` chunk), and IPTC's digital source type, in XMP or in the
credentials. That they are there is all that is said: `c2pa_verification.py` verifies them. Loops
and searches are bounded whatever the bytes are.
"""

import re
import struct
from collections.abc import Callable, Iterator, Mapping

from dagster_imagegen.engine.image_header import MARKERS_WITHOUT_LENGTH, sniff

Bytes = bytes | bytearray

NONE = "none"
C2PA = "c2pa"
IPTC = "iptc:"
BLOCKS_MAX = 10_000
SEARCHED_BYTES = 1_000_000
"""Of one block. A manifest with its certificates and a thumbnail has some 100 KB."""

_SOURCE_TYPE = re.compile(
    rb"(?:cv\.iptc\.org/newscodes/digitalsourcetype/|DigitalSourceType\s*(?:=\s*[\"']|>\s*))"
    rb"([A-Za-z][A-Za-z0-9]{2,63})(?![A-Za-z0-9:])"
)
_JUMBF = b"jumb"
_XMP_CHUNK = b"XML:com.adobe.xmp\0"
_XMP_SEGMENT = b"http://ns.adobe.com/xap/1.0/\0"
_START_OF_SCAN = 0xDA


def marks_of(data: Bytes) -> set[str]:
    """The marks that `provenance` finds; none for a format in which it is not looked for."""
    return set((provenance(data) or NONE).split()) - {NONE}


def provenance(data: Bytes) -> str | None:
    """`none`, `c2pa`, `iptc:trainedAlgorithmicMedia`, or both, divided by a space.

    None for a format in which it is not looked for (AVIF, GIF, SVG). Never raises.
    """
    read = _BLOCKS.get(sniff(data) or "")
    if read is None:
        return None
    credentials, source_type = False, None
    try:
        for kind, block in read(data):
            credentials |= kind == C2PA
            found = source_type or _SOURCE_TYPE.search(block)
            source_type = found
    except (struct.error, IndexError):
        pass  # Cut short: what was found before holds.
    words = [C2PA] if credentials else []
    if source_type is not None:
        words.append(IPTC + source_type.group(1).decode())
    return " ".join(words) or NONE


def _png(data: Bytes) -> Iterator[tuple[str, bytes]]:
    at = 8
    for _ in range(BLOCKS_MAX):
        length, kind = struct.unpack_from(">I4s", data, at)
        start = at + 8
        if kind == b"caBX" and data[start + 4 : start + 8] == _JUMBF:
            yield C2PA, _block(data, start, length)
        elif kind == b"iTXt" and data.startswith(_XMP_CHUNK, start):
            yield "xmp", _block(data, start, length)
        elif kind == b"IEND":
            return
        at = start + length + 4


def _jpeg(data: Bytes) -> Iterator[tuple[str, bytes]]:
    at = 2
    for _ in range(BLOCKS_MAX):
        if data[at] != 0xFF:
            return
        marker = data[at + 1]
        if marker == 0xFF:  # Padding before a marker.
            at += 1
            continue
        if marker in MARKERS_WITHOUT_LENGTH:
            at += 2
            continue
        if marker == _START_OF_SCAN:
            return
        (length,) = struct.unpack_from(">H", data, at + 2)
        block = _block(data, at + 4, length - 2)
        # `JP`, then the number of the box and of this part of it, then the box.
        if marker == 0xEB and block[:2] == b"JP" and block[12:16] == _JUMBF:
            yield C2PA, block
        elif marker == 0xE1 and block.startswith(_XMP_SEGMENT):
            yield "xmp", block
        at += 2 + length


def _webp(data: Bytes) -> Iterator[tuple[str, bytes]]:
    at = 12
    for _ in range(BLOCKS_MAX):
        kind, length = struct.unpack_from("<4sI", data, at)
        if kind == b"C2PA" and data[at + 12 : at + 16] == _JUMBF:
            yield C2PA, _block(data, at + 8, length)
        elif kind == b"XMP ":
            yield "xmp", _block(data, at + 8, length)
        at += 8 + length + length % 2


def _block(data: Bytes, start: int, length: int) -> bytes:
    return bytes(data[start : start + max(0, min(length, SEARCHED_BYTES))])


_BLOCKS: Mapping[str, Callable[[Bytes], Iterator[tuple[str, bytes]]]] = {
    "png": _png,
    "jpeg": _jpeg,
    "webp": _webp,
}
