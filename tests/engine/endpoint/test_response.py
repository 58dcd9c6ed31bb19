"""What an answer holds: every form an image comes in, and streams however they are cut."""

import asyncio
import base64
import io
import itertools
import json
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, features

from dagster_imagegen.engine.endpoint.body import read_body
from dagster_imagegen.engine.endpoint.events import read_stream
from dagster_imagegen.engine.endpoint.failures import AnswerHead, Failure
from dagster_imagegen.engine.endpoint.kinds import FailureKind
from dagster_imagegen.engine.endpoint.response import (
    AnswerContent,
    GeneratedImage,
    ImageLink,
)
from dagster_imagegen.engine.endpoint.wire import load_json
from dagster_imagegen.engine.image_header import read_header

NOW = 1_700_000_000.0
STREAM_HEAD = AnswerHead(http_status=200, headers={}, now=NOW)
SVG = b'<?xml version="1.0"?>\n<!-- made -->\n<svg xmlns="x" stroke-width="9" viewBox="0 0 30 20"/>'


def picture(image_format: str, size: tuple[int, int] = (24, 16), **options: Any) -> bytes:
    """An image, encoded by Pillow."""
    buffer = io.BytesIO()
    mode = "P" if image_format == "GIF" else "RGB"
    Image.new(mode, size).save(buffer, image_format, **options)
    return buffer.getvalue()


PNG = picture("PNG")
B64 = base64.b64encode(PNG).decode()


def answered(body: object, http_status: int = 200, **headers: str) -> AnswerContent:
    """What an answer holds; header names are given with underscores."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    head = AnswerHead(http_status=http_status, headers=named, now=NOW)
    return read_body(bytearray(data), head)


def image(body: object) -> GeneratedImage:
    result = answered(body)
    assert isinstance(result, GeneratedImage), result
    return result


def failed(body: object) -> Failure:
    result = answered(body)
    assert isinstance(result, Failure), result
    return result


def test_the_references_own_answer() -> None:
    """Everything that the answer says of its image is kept, with the exact bytes."""
    body = {
        "created": 1677649456,
        "data": [{"b64_json": B64, "revised_prompt": "a mug\nin red"}],
        "background": "opaque",
        "output_format": "png",
        "quality": "high",
        "size": "1536x1024",
        "usage": {
            "input_tokens": 12,
            "total_tokens": 4172,
            "output_tokens": 4160,
            "input_tokens_details": {"text_tokens": 10, "image_tokens": 2, "cached_tokens": 1},
            "output_tokens_details": {"image_tokens": 4000, "text_tokens": 160},
        },
    }
    result = image(body)
    assert result.data == PNG
    assert (result.format, result.width, result.height) == ("png", 24, 16)
    assert (result.created, result.revised_prompt) == (1677649456, "a mug\nin red")
    assert (result.size, result.quality, result.background) == ("1536x1024", "high", "opaque")
    assert result.output_format == "png"
    assert result.tokens is not None
    assert list(vars(result.tokens).values()) == [12, 4160, 4172, 10, 2, 1, 160, 4000]


def test_what_is_null_is_absent_and_what_is_unknown_is_ignored() -> None:
    """Nulls, other types and new keys change nothing."""
    item = {"b64_json": B64, "url": None, "revised_prompt": None, "index": 0}
    result = image({"created": None, "data": [item], "size": 7.5, "usage": None, "metrics": {}})
    facts = (result.created, result.size, result.quality, result.revised_prompt, result.tokens)
    assert facts == (None,) * 5


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {},
        {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0},
        {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0, "image_count": 1},
        {"input_tokens": "12"},
        {"input_tokens": -1, "total_tokens": True},
        {"cost_in_usd_ticks": 0},
        [],
    ],
)
def test_missing_and_all_zero_usage_is_unknown(usage: object) -> None:
    """No counts and made-up counts are None, never free."""
    result = image({"data": [{"b64_json": B64}], "usage": usage})
    assert result.tokens is None
    assert result.reported_cost_usd is None


def test_usage_in_the_shape_of_a_chat() -> None:
    """Prompt and completion tokens are input and output tokens."""
    usage = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
    tokens = image({"data": [{"b64_json": B64}], "usage": usage}).tokens
    assert tokens is not None
    assert (tokens.input_tokens, tokens.output_tokens, tokens.total_tokens) == (5, 7, 12)


def test_the_providers_own_bill() -> None:
    """Ticks of xAI are exact: 10,000,000,000 are one dollar."""
    body = {"data": [{"b64_json": B64}], "usage": {"cost_in_usd_ticks": 700_000_001}}
    assert image(body).reported_cost_usd == Decimal("0.0700000001")


@pytest.mark.parametrize(
    "item",
    [
        {"b64_json": B64},
        {"b64_json": "\n".join(B64[i : i + 76] for i in range(0, len(B64), 76))},
        {"b64_json": f"data:image/png;base64,{B64}"},
        {"b64_json": "", "url": f"data:image/png;base64,{B64}"},
        {"b64_json": None, "url": f"DATA:image/png;charset=x;base64,{B64}"},
        {"url": "data:image/png," + "".join(f"%{byte:02x}" for byte in PNG)},
    ],
)
def test_every_way_to_write_the_bytes(item: dict[str, str | None]) -> None:
    """Base64 with or without line breaks, and data URLs in either field."""
    assert image({"data": [item]}).data == PNG


def test_a_raw_image_is_an_answer() -> None:
    """A body that is the image itself needs no JSON around it."""
    assert image(PNG).data == PNG


# What a provider may put under a key that it knows, and what it may not.
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["input_tokens", "output_tokens", "total_tokens", "text_tokens"])
            | st.text(max_size=4),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)
ITEM_KEYS = ["revised_prompt", "url", "mime_type", "b64", "x"]
BODY_KEYS = ["created", "usage", "size", "quality", "background", "output_format", "metrics", "x"]


@given(
    st.dictionaries(st.sampled_from(ITEM_KEYS), VALUES),
    st.dictionaries(st.sampled_from(BODY_KEYS), VALUES),
)
def test_an_image_is_not_lost_over_what_stands_beside_it(
    item: dict[str, Any], body: dict[str, Any]
) -> None:
    """It is paid for: whatever else an answer says, its image comes out, to the byte."""
    result = image({**body, "data": [{**item, "b64_json": B64}]})
    assert result.data == PNG
    assert (result.format, result.width, result.height) == ("png", 24, 16)
    assert result.created is None or isinstance(result.created, int)
    if (tokens := result.tokens) is not None:
        counts = (tokens.input_tokens, tokens.output_tokens, tokens.total_tokens)
        assert any(counts)
        assert all(count is None or count >= 0 for count in counts)


@given(st.dictionaries(st.sampled_from(["data", *BODY_KEYS]), VALUES))
def test_no_body_breaks_the_reader_of_answers(body: dict[str, Any]) -> None:
    """Without an image there is a failure of a known kind, or a link: never an exception."""
    assert not isinstance(answered(body), GeneratedImage)


def test_the_first_entry_that_has_an_image_counts() -> None:
    """An entry without one does not hide the next."""
    assert image({"data": [{}, {"b64_json": B64}]}).data == PNG


@pytest.mark.parametrize("url", ["https://cdn.example/a.png?sig=1", "/files/a.png", "a.png"])
def test_a_url_is_a_link(url: str) -> None:
    """Whoever sends has to fetch it; what the answer says of it is kept for then."""
    result = answered({"data": [{"url": url, "revised_prompt": "r"}], "usage": {"total_tokens": 3}})
    assert isinstance(result, ImageLink)
    assert result.url == url
    assert result.facts.revised_prompt == "r"
    assert result.facts.tokens is not None


def test_an_image_is_not_lost_over_the_spelling_of_its_prompt() -> None:
    """Lone surrogates and raw control characters in a text are replaced in that text."""
    body = b'{"data":[{"b64_json":"%s","revised_prompt":"a\\ud800b\\u0000c"}],"x":"\t"}'
    result = image(body % B64.encode())
    assert result.data == PNG
    assert result.revised_prompt == "a\ufffdb\ufffdc"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "empty_body"),
        (b'{"data":[{"b64_json":"iVBOR', "broken_json"),
        (b"[" * 100_000, "broken_json"),
        (b"\xff\xfe\x00", "broken_json"),
        (b"OK", "broken_json"),
        ({"data": [{"b64_json": B64[:-7] + "!"}]}, "broken_base64"),
        ({"data": [{"b64_json": B64[:-3]}]}, "broken_base64"),
        ({"data": [{"b64_json": base64.b64encode(b"hello").decode()}]}, "not_an_image"),
        ({"data": [{"b64_json": "", "url": ""}]}, "no_image"),
        ({"data": [{"b64_json": 7}]}, "no_image"),
        ({"data": []}, "no_image"),
        ({"data": None}, "no_image"),
        ({}, "no_image"),
        ([1], "no_image"),
        (b"null", "no_image"),
        ({"data": [{"url": "data:image/png;base64,####"}]}, "broken_base64"),
    ],
)
def test_a_success_without_an_image_is_ambiguous(body: object, code: str) -> None:
    """The work may have been done and billed, whatever is wrong with the answer."""
    failure = failed(body)
    assert (failure.kind, failure.code) == (FailureKind.AMBIGUOUS, code)
    assert (failure.status, failure.billing) == ("unknown", "unknown")
    assert failure.message.isprintable()


def test_counted_tokens_survive_a_broken_image() -> None:
    """What was counted was billed, even if the image is lost."""
    failure = failed({"data": [{"b64_json": "####"}], "usage": {"total_tokens": 9}})
    assert failure.tokens is not None
    assert failure.billing == "billed"


def test_a_web_page_is_a_wrong_address() -> None:
    """Every request would get the page; whether something stands behind it, nobody knows."""
    failure = failed(b"<!DOCTYPE html><html><title>Welcome</title></html>")
    assert failure.kind is FailureKind.MISCONFIGURED
    assert failure.billing == "unknown"
    assert "Welcome" in failure.message
    assert "base_url" in failure.message


@pytest.mark.parametrize(
    "body",
    [
        b"\xef\xbb\xbf<!DOCTYPE html><title>Welcome</title>",
        b"<!-- a\ncomment --> <!-- and one --><html><title>Welcome</title>",
        b'<?xml version="1.0"?>\n<html xmlns="x"><title>Welcome</title>',
        b'\xef\xbb\xbf<?xml version="1.0"?><!-- c --><!DOCTYPE  html PUBLIC><title>Welcome</title>',
        b"<head><title>Welcome</title></head>",
        b"<HEAD>\n<title>Welcome</title>",
    ],
)
def test_a_web_page_is_known_however_it_begins(body: bytes) -> None:
    """A byte order mark, comments and an XML declaration may come first; its title is named."""
    failure = failed(body)
    assert (failure.kind, failure.billing) == (FailureKind.MISCONFIGURED, "unknown")
    assert "(HTML page: Welcome)" in failure.message


@pytest.mark.parametrize("content_type", ["text/html", "Text/HTML; charset=utf-8"])
@pytest.mark.parametrize("body", [b"It works!", b"<p>It works!", b"<center><h1>It works!"])
def test_what_is_declared_a_web_page_is_one(content_type: str, body: bytes) -> None:
    """A page without a head is known by its content type alone, also as XHTML."""
    for declared in (content_type, "application/xhtml+xml"):
        failure = answered(body, content_type=declared)
        assert isinstance(failure, Failure)
        assert (failure.kind, failure.billing) == (FailureKind.MISCONFIGURED, "unknown")
        assert "It works!" in failure.message


def test_an_answer_that_is_declared_a_web_page_and_is_none() -> None:
    """Some servers call everything text/html: an image is one, and broken JSON stops nothing."""
    assert isinstance(
        answered({"data": [{"b64_json": B64}]}, content_type="text/html"), GeneratedImage
    )
    assert isinstance(answered(PNG, content_type="text/html"), GeneratedImage)
    for body in (b'{"data": [', b"\xef\xbb\xbf [1", b""):
        broken = answered(body, content_type="text/html")
        assert isinstance(broken, Failure)
        assert broken.kind is FailureKind.AMBIGUOUS


@pytest.mark.timeout(300)  # A thousandth of that, or hours.
def test_many_comments_take_no_time() -> None:
    """Neither the search for a page nor that for an svg tries where else a comment could end."""
    assert failed(b"<!---->" * 20_000 + b"<x>").code == "broken_json"


def test_json_of_every_depth() -> None:
    """Deeper than it can be written out again, it is refused: an error is read or not, no crash."""
    # Every one around the depth that is refused, and more sparsely what is far beyond.
    for depth in (*range(100, 350), *range(350, 1100, 7)):
        nested = b"[" * depth + b"]" * depth
        body = b'{"detail":[{"loc":[%s],"msg":%s}],"message":"no"}' % (nested, nested)
        assert isinstance(answered(body, 422), Failure)
        if depth > 250:
            with pytest.raises(ValueError, match="nested too deep"):
                load_json(body)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"code": "moderation_blocked", "message": "no"}, FailureKind.REFUSED),
        ({"type": "insufficient_quota", "message": "no"}, FailureKind.OUT_OF_CREDIT),
        ({"message": "something"}, FailureKind.AMBIGUOUS),
    ],
)
def test_an_error_with_a_status_of_success(error: object, kind: FailureKind) -> None:
    """It is what its code says; without one that is known, nobody can tell."""
    assert failed({"error": error}).kind is kind


@pytest.mark.parametrize(
    ("data", "header"),
    [
        (picture("PNG", (300, 7)), ("png", 300, 7)),
        (picture("JPEG", (300, 7)), ("jpeg", 300, 7)),
        (picture("JPEG", (31, 77), progressive=True, comment=b"x" * 900), ("jpeg", 31, 77)),
        (b"\xff\xd8\xff\xff" + picture("JPEG", (31, 77))[2:], ("jpeg", 31, 77)),
        (picture("GIF", (300, 7)), ("gif", 300, 7)),
        (picture("WEBP", (300, 7)), ("webp", 300, 7)),
        (picture("WEBP", (300, 7), lossless=True), ("webp", 300, 7)),
        (picture("WEBP", (300, 7), exif=b"Exif\0\0II*\0\x08\0\0\0\0\0"), ("webp", 300, 7)),
        (SVG, ("svg", 30, 20)),
        (b"<svg width=\"40px\" height='50'>", ("svg", 40, 50)),
        (b'<svg width="100%" height="100%">', ("svg", None, None)),
        (b'<svg viewBox="0 0 1e999 1e999">', ("svg", None, None)),
        (b'<svg viewBox="0 0 nan 9">', ("svg", None, None)),
        (b'<svg viewBox="0 0 -40 -50">', ("svg", None, None)),
        (b'<svg viewBox="0 0 2147483648 9">', ("svg", None, None)),
        (picture("PNG")[:16] + b"\xff" * 8, ("png", None, None)),
        (b"\x89PNG\r\n\x1a\n", ("png", None, None)),
        (b"\xff\xd8\xff\xe0\x00\x10", ("jpeg", None, None)),
        (b"RIFF....WEBPVP8X", ("webp", 1, 1)),
    ],
)
def test_format_and_size_are_read_from_the_bytes(
    data: bytes, header: tuple[str, int | None, int | None]
) -> None:
    """What is declared does not count; a header that is cut short has no size."""
    found = read_header(data)
    assert found is not None
    assert (found.format, found.width, found.height) == header


@pytest.mark.skipif(not features.check("avif"), reason="Pillow was built without AVIF")
def test_the_size_of_an_avif() -> None:
    """The whole image's size, not that of its alpha plane or tiles."""
    buffer = io.BytesIO()
    Image.new("RGBA", (48, 20)).save(buffer, "AVIF")
    found = read_header(buffer.getvalue())
    assert found is not None
    assert (found.format, found.width, found.height) == ("avif", 48, 20)


def test_an_image_of_absurd_dimensions_costs_nothing() -> None:
    """The size is read and no pixel is made."""
    bomb = bytearray(PNG)
    bomb[16:24] = (2**31 - 1).to_bytes(4, "big") * 2
    found = read_header(bomb)
    assert found is not None
    assert found.width == 2**31 - 1


@given(
    st.sampled_from(["PNG", "JPEG", "GIF", "WEBP"]),
    st.tuples(st.integers(1, 400), st.integers(1, 400)),
    st.integers(0, 200),
)
def test_sizes_are_those_that_pillow_reads(
    image_format: str, size: tuple[int, int], cut: int
) -> None:
    """For every format and size; and no cut of the bytes breaks the reader."""
    data = picture(image_format, size)
    found = read_header(data)
    assert found is not None
    assert (found.width, found.height) == size
    read_header(data[:cut])


@given(st.binary(max_size=60), st.sampled_from([b"", b"\xff\xd8\xff", b"RIFF1234WEBP", b"<svg "]))
def test_no_bytes_break_the_reader_of_headers(data: bytes, start: bytes) -> None:
    """Whatever follows a magic number, there is a header or None."""
    read_header(start + data)


# -- streams ---------------------------------------------------------------------------------------


def event(kind: str, **fields: object) -> bytes:
    data = json.dumps({"type": f"image_generation.{kind}", **fields})
    return f"event: image_generation.{kind}\ndata: {data}\n\n".encode()


def partial(index: int = 0) -> bytes:
    return event("partial_image", b64_json="AAAA", partial_image_index=index)


COMPLETED = event(
    "completed", b64_json=B64, created_at=5, size="1024x1024", usage={"total_tokens": 4}
)


def error_event(code: str | None = None, kind: str | None = None) -> bytes:
    error = {"type": kind, "code": code, "message": "Sorry.", "param": None}
    return f"event: error\ndata: {json.dumps({'type': 'error', 'error': error})}\n\n".encode()


def streamed(
    body: bytes, cuts: list[int] | None = None, error: Exception | None = None
) -> AnswerContent:
    """The result of a stream that arrives in pieces and then ends, or fails."""

    async def chunks() -> AsyncIterator[bytes]:
        edges = sorted({min(cut, len(body)) for cut in cuts or []} | {0, len(body)})
        for start, end in itertools.pairwise(edges):
            yield body[start:end]
        if error is not None:
            raise error

    return asyncio.run(read_stream(chunks(), STREAM_HEAD))


def test_a_stream_with_partial_images() -> None:
    """The completed event is the image; what it says of itself is kept."""
    result = streamed(partial(0) + partial(1) + COMPLETED)
    assert isinstance(result, GeneratedImage)
    assert (result.data, result.created, result.size) == (PNG, 5, "1024x1024")
    assert result.tokens is not None


STREAMS: list[tuple[bytes, str]] = [
    (partial() + COMPLETED, "image"),
    (COMPLETED + partial() + partial(1), "image"),
    (b": hello\n\n: ping\r\n\r\n" + COMPLETED.replace(b"\n", b"\r\n"), "image"),
    (COMPLETED.replace(b"\n", b"\r"), "image"),
    (COMPLETED.rstrip(b"\n"), "image"),
    (COMPLETED.replace(b"event: image_generation.completed\n", b""), "image"),
    (COMPLETED.replace(b'"type": "image_generation.completed", ', b""), "image"),
    (b"data: " + json.dumps({"data": [{"b64_json": B64}]}).encode() + b"\n\n", "image"),
    (COMPLETED + b"data: [DONE]\n\n", "image"),
    (partial(), "stream_ended"),
    (b"", "stream_ended"),
    (b"data: [DONE]\n\n", "stream_ended"),
    (b"data: {}\n\ndata: 7\n\ndata: \n\nid: 3\n\nretry: x\n\n", "stream_ended"),
    (COMPLETED[:-30], "stream_ended"),
    (event("completed", b64_json=None), "no_image"),
    (event("completed", b64_json="####"), "broken_base64"),
    (partial() + error_event("moderation_blocked"), "moderation_blocked"),
    (b"event: error\ndata: went wrong\n\n", "server_error"),
]


def outcome(result: AnswerContent) -> str:
    if isinstance(result, GeneratedImage):
        assert result.data == PNG
        return "image"
    assert isinstance(result, Failure)
    return result.code or result.kind.name.lower()


@pytest.mark.parametrize(("body", "expected"), STREAMS)
def test_streams_of_every_kind(body: bytes, expected: str) -> None:
    """A completed event makes an image, wherever it stands and however lines end."""
    assert outcome(streamed(body)) == expected


@given(st.sampled_from(STREAMS), st.lists(st.integers(0, 700), max_size=40))
def test_chunks_change_nothing(stream: tuple[bytes, str], cuts: list[int]) -> None:
    """However a stream is cut on its way, also in mid character or line end, it says the same."""
    body, expected = stream
    assert outcome(streamed(body, cuts)) == expected


@given(st.sampled_from(STREAMS))
def test_byte_by_byte(stream: tuple[bytes, str]) -> None:
    """The hardest of all chunkings."""
    body, expected = stream
    assert outcome(streamed(body, list(range(len(body))))) == expected


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (error_event("image_generation_failed"), FailureKind.SERVER_ERROR),
        (error_event(None, "image_generation_server_error"), FailureKind.SERVER_ERROR),
        (error_event(None, "image_generation_user_error"), FailureKind.REFUSED),
        (error_event("invalid_value", "image_generation_user_error"), FailureKind.REJECTED),
        (error_event("rate_limit_exceeded"), FailureKind.RATE_LIMITED),
        (error_event("insufficient_quota"), FailureKind.OUT_OF_CREDIT),
        (error_event("content_policy_violation"), FailureKind.REFUSED),
        (error_event("429"), FailureKind.RATE_LIMITED),
        (error_event("new_code", "new_type"), FailureKind.SERVER_ERROR),
        (partial(), FailureKind.AMBIGUOUS),
    ],
)
def test_errors_in_a_stream_are_errors_like_any(body: bytes, kind: FailureKind) -> None:
    """They are classified as the body of an error would be; a silent end is ambiguous."""
    result = streamed(body)
    assert isinstance(result, Failure)
    assert result.kind is kind


def test_nothing_is_read_past_the_final_event() -> None:
    """A server that keeps the stream open, or breaks it off, has brought the image all the same."""
    asked_again: list[bool] = []

    async def chunks() -> AsyncIterator[bytes]:
        yield partial() + COMPLETED
        asked_again.append(True)

    result = asyncio.run(read_stream(chunks(), STREAM_HEAD))
    assert outcome(result) == "image"
    assert asked_again == []


def test_a_last_event_counts_although_its_end_was_lost() -> None:
    """The data is whole, so the missing empty line says nothing."""
    assert outcome(streamed(COMPLETED[:-2], error=ConnectionError())) == "image"


def test_a_broken_connection_comes_out() -> None:
    """Without a final event, whoever reads the stream learns why it ended."""
    with pytest.raises(ConnectionError):
        streamed(partial() + COMPLETED[:-40], error=ConnectionError())


def test_lines_of_many_megabytes() -> None:
    """Large partials pass by, and the image behind them is whole."""
    big = base64.b64encode(bytes(6_000_000)).decode()
    body = event("partial_image", b64_json=big) + COMPLETED
    assert outcome(streamed(body, list(range(0, len(body), 65_536)))) == "image"
