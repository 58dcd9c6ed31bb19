"""An answer → the image in it, a link to it, or a classified failure. Nothing is sent from here.

    Body ──> GeneratedImage      as base64, as a `data:` URL, or raw
         ──> ImageLink           a URL that the client has to fetch
         ──> Failure             (failures.py)

The bytes decide what an image is; what the answer declares is recorded and not relied on.
"""

import re
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, TypeAlias
from urllib.parse import unquote_to_bytes

import httpx
import pybase64
from httpx_sse import EventSource, ServerSentEvent

from dagster_imagegen.engine.attempt import TokenUsage
from dagster_imagegen.engine.endpoint.error_body import error_of_json, read_error
from dagster_imagegen.engine.endpoint.failures import AnswerHead, Failure, classify, failure_of
from dagster_imagegen.engine.endpoint.kinds import FailureKind
from dagster_imagegen.engine.endpoint.waits import RateHeadroom
from dagster_imagegen.engine.endpoint.wire import (
    cost_of,
    count_of,
    first,
    list_of,
    load_json,
    mapping_of,
    message_of,
    text_of,
    tokens_of,
)
from dagster_imagegen.engine.image_header import read_header

PARAMETER_CHARACTERS = 100
PIECE_BYTES = 262_144  # how much of a compressed body is unpacked at once
WEB_PAGE_TYPES = ("text/html", "application/xhtml+xml")
WEB_PAGE = re.compile(
    # A comment ends at its first `-->`: left to choose, matching many of them takes forever.
    rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*|<!--(?:(?!-->).)*-->\s*)*"
    rb"<(?:!doctype\s+html|html|head)\b",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True, kw_only=True)
class AnswerFacts:
    """What an answer says about its image; None where it is absent or null."""

    revised_prompt: str | None = None
    created: int | None = None
    size: str | None = None
    quality: str | None = None
    background: str | None = None
    output_format: str | None = None
    tokens: TokenUsage | None = None
    reported_cost_usd: Decimal | None = None


@dataclass(frozen=True, kw_only=True)
class GeneratedImage(AnswerFacts):
    """An image: `data` are the exact bytes; format, width and height are read from them."""

    data: bytes
    format: str
    width: int | None
    height: int | None

    def __repr__(self) -> str:
        return f"<GeneratedImage {self.format} {self.width}x{self.height}, {len(self.data)} bytes>"


@dataclass(frozen=True, kw_only=True)
class ImageLink:
    """An image that is made and paid for, and has to be fetched: `url`, absolute or relative."""

    url: str
    facts: AnswerFacts


Result: TypeAlias = GeneratedImage | ImageLink | Failure


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The image or failure of one request, and what the head of its answer says.

    `headroom` is what is left of the rate limit, where headers announce it.
    """

    result: GeneratedImage | Failure
    http_status: int | None = None
    request_id: str | None = None
    headroom: RateHeadroom | None = None


async def unpacked(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    """The body in pieces of bounded size, unpacked if the server compressed it unasked.

    httpx unpacks whatever one read brings as a whole, and nested codings: an answer of 3 KB can
    take gigabytes of memory before its size is checked. So only a single gzip or deflate is
    unpacked, piece by piece.

    Raises:
        httpx.DecodingError: The body is broken, or has another coding.
    """
    if response.is_stream_consumed:  # A transport other than the network has read it already.
        yield response.content
        return
    coding = response.headers.get("content-encoding", "").strip().lower() or "identity"
    unpack = None
    async for chunk in response.aiter_raw():
        if coding == "identity":
            yield chunk
            continue
        try:
            unpack = unpack or zlib.decompressobj(_window_bits(coding, chunk))
            packed, piece = chunk, None
            while piece is None or len(piece) == PIECE_BYTES:
                piece = unpack.decompress(packed, PIECE_BYTES)
                packed = unpack.unconsumed_tail
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


def read_body(body: bytes | bytearray, head: AnswerHead) -> Result:
    """What the whole body of an answer holds."""
    if not head.is_success:
        return classify(body, head)
    if read_header(body):
        return image_of(bytes(body), AnswerFacts())
    try:
        answer = load_json(body)
    except ValueError as error:
        return _not_json(body, head, problem=str(error))
    return _read_answer(answer, head)


async def read_stream(chunks: AsyncIterator[bytes], head: AnswerHead) -> Result:
    """The result of a stream of server-sent events, decided by its first final event.

    Nothing is read past that event. Partial images are dropped as they come, so at most one event
    is in memory. `chunks` limits how much is read, and may raise: an event that is complete by
    then counts.
    """
    stream = _Chunks(chunks)
    # httpx-sse decodes nothing but a response.
    response = httpx.Response(200, headers={"content-type": "text/event-stream"}, stream=stream)
    result: Result | None = None
    partials = 0
    async for event in EventSource(response).aiter_sse():
        if result is None:
            kind, data = _read_event(event)
            partials += kind.endswith("partial_image")
            if kind == "error":
                result = failure_of(error_of_json(data), head)
            elif kind.endswith("completed"):
                result = _read_answer(data, head)
            stream.wanted = result is None
    if result is None and stream.error is not None:
        raise stream.error
    return result or ambiguous(
        "stream_ended",
        f"the stream ended after {partials} partial images, without image_generation.completed",
    )


def _read_event(event: ServerSentEvent) -> tuple[str, object]:
    """The kind of an event and its data. The data's own type takes precedence."""
    try:
        data = load_json(event.data)
    except ValueError:
        return ("error" if event.event == "error" else "", event.data)
    fields = mapping_of(data)
    if fields.get("error") is not None:
        return "error", data
    if list_of(fields.get("data")):  # a whole answer, as a single event
        return "completed", data
    return str(first(fields.get("type"), event.event)), data


class _Chunks(httpx.AsyncByteStream):
    """Chunks that always end with an empty line, so that a complete last event is not dropped."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self.wanted = True
        self.error: Exception | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._chunks:
                yield chunk
                if not self.wanted:
                    return
        except Exception as error:  # noqa: BLE001  # raised again after the last event is read
            self.error = error
        yield b"\n\n"


def image_of(data: bytes, facts: AnswerFacts) -> GeneratedImage | Failure:
    """The image that these bytes are, or an ambiguous failure where they are none."""
    header = read_header(data)
    if header is None:
        start = message_of(repr(data[:16]), limit=80)
        message = f"the answer's {len(data)} bytes are not an image: {start}"
        return ambiguous("not_an_image", message, facts)
    size = {"width": header.width, "height": header.height}
    return GeneratedImage(data=data, format=header.format, **size, **vars(facts))


def ambiguous(code: str, message: str, facts: AnswerFacts | None = None) -> Failure:
    """A failure after which nobody can tell whether the work was done and billed."""
    return _without_image(FailureKind.AMBIGUOUS, code, message, facts)


def saving_failed(problem: str, facts: AnswerFacts) -> Failure:
    """The failure of an image that was made and billed, and cannot be downloaded."""
    message = f"the image was made and cannot be downloaded: {problem}"
    return _without_image(FailureKind.SAVING_FAILED, "download_failed", message, facts)


def _without_image(
    kind: FailureKind, code: str, message: str, facts: AnswerFacts | None
) -> Failure:
    facts = facts or AnswerFacts()
    return Failure(
        kind=kind,
        code=code,
        message=message,
        tokens=facts.tokens,
        reported_cost_usd=facts.reported_cost_usd,
    )


def _read_answer(answer: object, head: AnswerHead) -> Result:
    top = mapping_of(answer)
    # A `completed` event is its own only item.
    items = [mapping_of(item) for item in list_of(top.get("data"))] or [top]
    item = next((i for i in items if _has_image(i)), items[0])
    facts = _facts(top, item)
    if not _has_image(item):
        return _no_image(answer, facts, head)
    encoded = item.get("b64_json")
    if isinstance(encoded, str) and encoded:
        return _image_of_base64(encoded, facts)
    url = str(item.get("url")).strip()
    if url[:5].lower() == "data:":
        return _image_of_data_url(url, facts)
    return ImageLink(url=url, facts=facts)


def _has_image(item: Mapping[str, Any]) -> bool:
    return any(isinstance(item.get(key), str) and item.get(key) for key in ("b64_json", "url"))


def _facts(top: Mapping[str, Any], item: Mapping[str, Any]) -> AnswerFacts:
    def parameter(name: str) -> str | None:
        return first(
            *(message_of(place.get(name), limit=PARAMETER_CHARACTERS) for place in (top, item))
        )

    usage = top.get("usage")
    return AnswerFacts(
        revised_prompt=first(
            text_of(item.get("revised_prompt")), text_of(top.get("revised_prompt"))
        ),
        created=first(count_of(top.get("created")), count_of(top.get("created_at"))),
        size=parameter("size"),
        quality=parameter("quality"),
        background=parameter("background"),
        output_format=parameter("output_format"),
        tokens=tokens_of(usage),
        reported_cost_usd=cost_of(usage),
    )


def _image_of_base64(encoded: str, facts: AnswerFacts) -> GeneratedImage | Failure:
    if encoded[:5].lower() == "data:":
        return _image_of_data_url(encoded, facts)
    try:
        data = pybase64.b64decode(encoded, validate=True)
    except ValueError:
        try:  # some servers break the lines
            data = pybase64.b64decode("".join(encoded.split()), validate=True)
        except ValueError:
            return ambiguous("broken_base64", "the image is broken base64", facts)
    return image_of(data, facts)


def _image_of_data_url(url: str, facts: AnswerFacts) -> GeneratedImage | Failure:
    head, _, content = url.partition(",")
    if head.lower().endswith(";base64"):
        return _image_of_base64(content, facts)
    return image_of(unquote_to_bytes(content), facts)


def _no_image(answer: object, facts: AnswerFacts, head: AnswerHead) -> Failure:
    """An answer of status 2xx without an image: the error that it holds, or an ambiguous one."""
    if mapping_of(answer).get("error") is not None:
        return failure_of(error_of_json(answer), head, otherwise=FailureKind.AMBIGUOUS)
    keys = message_of(", ".join(sorted(map(str, mapping_of(answer)))), limit=200)
    what = f"an object with {keys}" if keys else f"{type(answer).__name__}"
    return ambiguous("no_image", f"the answer holds no image but {what}", facts)


def _not_json(body: bytes | bytearray, head: AnswerHead, *, problem: str) -> Failure:
    if not body:
        return ambiguous("empty_body", "the answer is empty")
    if _is_web_page(body, head.headers):
        # Not an image endpoint: a website, or a gateway's page for every unknown address.
        page = read_error(body).message or "HTML page"
        return Failure(
            kind=FailureKind.MISCONFIGURED,
            code="html_answer",
            message=f"the answer is a web page instead of an image ({page}); check base_url",
            http_status=head.http_status,
        )
    start = message_of(repr(bytes(body[:32])), limit=120)
    return ambiguous(
        "broken_json",
        f"the answer is {len(body)} bytes of neither JSON nor an image: {start} "
        f"({message_of(problem)})",
    )


def _is_web_page(body: bytes | bytearray, headers: Mapping[str, str]) -> bool:
    """Whether it looks like a page, or is declared one and is not JSON."""
    declared = headers.get("content-type", "").strip().lower().startswith(WEB_PAGE_TYPES)
    looks_like_json = body[:100].lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"{", b"["))
    return bool(WEB_PAGE.match(body[:2000])) or (declared and not looks_like_json)
