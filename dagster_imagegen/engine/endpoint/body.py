"""The body of an answer → what it holds, whatever its content type says.

A body is an image, JSON, JSON lines, base64, a link or a web page; the bytes tell which. Events are
read in events.py, while they come.
"""

import re
import zlib
from collections.abc import AsyncGenerator, Mapping
from typing import cast

import httpx
import pybase64

from dagster_imagegen.engine.endpoint.error_body import read_error
from dagster_imagegen.engine.endpoint.events import EventReader, as_partial
from dagster_imagegen.engine.endpoint.failures import AnswerHead, Failure, classify
from dagster_imagegen.engine.endpoint.image_json import Found, image_in_broken_json
from dagster_imagegen.engine.endpoint.image_text import SAMPLE_CHARACTERS, spells_image
from dagster_imagegen.engine.endpoint.kinds import FailureKind
from dagster_imagegen.engine.endpoint.response import (
    AnswerContent,
    AnswerFacts,
    GeneratedImage,
    ImageLink,
    ambiguous,
    image_of,
    read_answer,
    read_found,
)
from dagster_imagegen.engine.endpoint.wire import decode, load_json, message_of
from dagster_imagegen.engine.image_header import read_header

PIECE_BYTES = 262_144  # how much of a compressed body is unpacked at once
# What unpacks to more than this, and to more than so many times its size, is no image but a bomb.
UNPACKED_BYTES = 4_000_000
UNPACKED_RATIO = 50
BASE64 = re.compile(rb'"b64_json"\s{0,20}:\s{0,20}"')
LARGE_CHARACTERS = 4 * SAMPLE_CHARACTERS
GZIP = b"\x1f\x8b\x08"
SPACE = b" \t\r\n"
LINK = re.compile(r"https?://\S{1,4000}", re.IGNORECASE)
WEB_PAGE_TYPES = ("text/html", "application/xhtml+xml")
WEB_PAGE = re.compile(
    # A comment ends at its first `-->`: left to choose, matching many of them takes forever.
    rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*|<!--(?:(?!-->).)*-->\s*)*"
    rb"<(?:!doctype\s+html|html|head)\b",
    re.IGNORECASE | re.DOTALL,
)


async def unpacked(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    """The body in pieces of bounded size, unpacked if the server compressed it unasked.

    httpx unpacks whatever one read brings as a whole, and nested codings: an answer of 3 KB can
    take gigabytes of memory before its size is checked. So only a single gzip or deflate is
    unpacked, piece by piece, and no further than an image can be compressed.

    Raises:
        httpx.DecodingError: The body is broken, a bomb, or has another coding.
    """
    if response.is_stream_consumed:  # A transport other than the network has read it already.
        yield response.content
        return
    coding = response.headers.get("content-encoding", "").strip().lower() or "identity"
    unpack = None
    came = made = 0
    async for chunk in cast("httpx.AsyncByteStream", response.stream):
        if not came and coding == "identity" and chunk.startswith(GZIP):
            coding = "gzip"  # A proxy has lost the header; no image begins like that.
        came += len(chunk)
        if coding == "identity":
            yield chunk
            continue
        try:
            unpack = unpack or zlib.decompressobj(_window_bits(coding, chunk))
            packed, piece = chunk, None
            while piece is None or len(piece) == PIECE_BYTES:
                piece = unpack.decompress(packed, PIECE_BYTES)
                packed = unpack.unconsumed_tail
                made += len(piece)
                if made > UNPACKED_BYTES + UNPACKED_RATIO * came:
                    raise httpx.DecodingError(f"{came:,} bytes of {coding} unpack to far more")
                yield piece
        except zlib.error as error:
            raise httpx.DecodingError(f"broken {coding}: {error}") from error


def _window_bits(coding: str, start: bytes) -> int:
    """What zlib calls a format. Deflate should have a header, and often has none."""
    if coding in ("gzip", "x-gzip"):
        return zlib.MAX_WBITS | 16
    if coding == "deflate":
        return zlib.MAX_WBITS if start[:1] and start[0] & 15 == zlib.DEFLATED else -zlib.MAX_WBITS
    raise httpx.DecodingError(f"content-encoding must be gzip or deflate, got {coding[:40]!r}")


def read_body(body: bytes | bytearray, head: AnswerHead) -> AnswerContent:
    """What the whole body of an answer holds."""
    if not head.is_success:
        return classify(body, head)
    if read_header(body):
        return image_of(bytes(body), AnswerFacts())
    return _of_large_base64(body, head) or _read_whole(body, head)


def _of_large_base64(body: bytes | bytearray, head: AnswerHead) -> GeneratedImage | None:
    """The image of JSON that holds it as long base64; None for `_read_whole` to find out.

    Nearly all of such an answer is base64. It is decoded where it is, and only the rest is read as
    JSON, with the beginning of the base64 in its place.
    """
    named = BASE64.search(body)
    end = -1 if named is None else body.find(b'"', named.end())
    if named is None or end - named.end() < LARGE_CHARACTERS:
        return None
    start, kept = named.end(), named.end() + SAMPLE_CHARACTERS
    try:
        with memoryview(body) as view:
            data = pybase64.b64decode(view[start:end], validate=True)
        rest = load_json(bytes(body[:kept]) + bytes(body[end:]))
    except ValueError:
        return None
    result = read_answer(rest, head, decoded={body[start:kept].decode(): data})
    return result if isinstance(result, GeneratedImage) else None


def _read_whole(body: bytes | bytearray, head: AnswerHead) -> AnswerContent:
    try:
        return read_answer(load_json(body), head)
    except ValueError as error:
        return (
            _of_broken_json(body, head)
            or _of_text(body)
            or _not_json(body, head, problem=str(error))
        )


def read_cut_off(body: bytes | bytearray, head: AnswerHead) -> AnswerContent | None:
    """What a body holds whose end may be missing; None unless that is JSON that is whole."""
    try:
        return read_answer(load_json(body), head) if _is_closed(body) else None
    except ValueError:
        return _of_broken_json(body, head)


def _is_closed(body: bytes | bytearray) -> bool:
    return body.rstrip(SPACE).endswith((b"}", b"]"))


def _of_broken_json(body: bytes | bytearray, head: AnswerHead) -> AnswerContent | None:
    """The result of JSON lines, or of the image in JSON that is broken or too deep elsewhere."""
    if not body.lstrip(b"\xef\xbb\xbf" + SPACE).startswith((b"{", b"[")):
        return None
    reader = EventReader(head)
    for line in body.splitlines():
        if line[:1] == b"{" and reader.result is None:
            try:
                reader.read("", load_json(line))
            except ValueError:
                continue
    result = reader.end()
    if result is not None:
        return result
    encoded = image_in_broken_json(body) if _is_closed(body) else None
    if encoded is None:
        return None
    image = read_found(Found(text=encoded, is_link=False, places=()))
    if isinstance(image, GeneratedImage) and b"partial_image" in body:
        return as_partial(image)
    return image


def _of_text(body: bytes | bytearray) -> AnswerContent | None:
    """The image that a text is or links to; None if it is any other text."""
    text = decode(body).strip()
    if LINK.fullmatch(text):
        return ImageLink(url=text, facts=AnswerFacts())
    if not spells_image(text):
        return None
    return read_found(Found(text=text, is_link=False, places=()))


def _not_json(body: bytes | bytearray, head: AnswerHead, *, problem: str) -> Failure:
    if not body:
        return ambiguous("empty_body", "the answer is empty")
    if _is_web_page(body, head.headers):
        # Not an image endpoint: a website, or a gateway's page for every unknown address.
        page = read_error(body).message or "HTML page"
        message = "the answer is a web page instead of an image ({}); check base_url"
        # The title comes from the website; what stands in a page can come from the request.
        title = page if b"<title" in body[:20_000].lower() else "HTML page"
        return Failure(
            kind=FailureKind.MISCONFIGURED,
            code="html_answer",
            message=message.format(page),
            own_message=message.format(title),
            http_status=head.http_status,
        )
    start = message_of(repr(bytes(body[:32])), limit=120)
    return ambiguous(
        "broken_json",
        f"the answer is {len(body)} bytes of neither JSON nor an image",
        detail=f": {start} ({message_of(problem)})",
    )


def _is_web_page(body: bytes | bytearray, headers: Mapping[str, str]) -> bool:
    """Whether it looks like a page, or is declared one and is not JSON."""
    declared = headers.get("content-type", "").strip().lower().startswith(WEB_PAGE_TYPES)
    looks_like_json = body[:100].lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"{", b"["))
    return bool(WEB_PAGE.match(body[:2000])) or (declared and not looks_like_json)
