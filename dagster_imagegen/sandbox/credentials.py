"""Marks of origin in the sandbox's pictures, in the places where real ones are.

The JUMBF box has the structure of a C2PA manifest store and no signature: it is found, and does not
verify. The XMP packet says that an algorithm made the picture.
"""

import struct
import zlib

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
MANIFEST_STORE = b"c2pa" + bytes.fromhex("0011001080000000aa00389b")
"""The type of a JUMBF box that is a manifest store: `c2pa`, and what all types end with."""

XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
    'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
    'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    f'Iptc4xmpExt:DigitalSourceType="{SOURCE_TYPE}"/></rdf:RDF></x:xmpmeta>'
).encode()


def with_credentials(image: bytes) -> bytes:
    """A PNG, JPEG or WebP with credentials and a digital source type; others as they are."""
    if image.startswith(b"\x89PNG"):
        first = 8 + 25  # After the signature and IHDR.
        xmp = b"XML:com.adobe.xmp\0\0\0\0\0" + XMP
        return (
            image[:first] + _png_chunk(b"caBX", _store()) + _png_chunk(b"iTXt", xmp) + image[first:]
        )
    if image.startswith(b"\xff\xd8"):
        xmp = b"http://ns.adobe.com/xap/1.0/\0" + XMP
        credentials = b"JP" + struct.pack(">HI", 1, 1) + _store()
        return image[:2] + _segment(0xE1, xmp) + _segment(0xEB, credentials) + image[2:]
    if image.startswith(b"RIFF") and image[12:16] == b"VP8X":
        flags = bytes([image[20] | 0x04])  # Says that there is XMP.
        body = image[8:20] + flags + image[21:] + _riff(b"XMP ", XMP) + _riff(b"C2PA", _store())
        return b"RIFF" + struct.pack("<I", len(body)) + body
    return image


def _store() -> bytes:
    return _box(b"jumb", _box(b"jumd", MANIFEST_STORE + b"\x03c2pa\0"))


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + kind + content


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


def _segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", 2 + len(content)) + content


def _riff(kind: bytes, content: bytes) -> bytes:
    return kind + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
