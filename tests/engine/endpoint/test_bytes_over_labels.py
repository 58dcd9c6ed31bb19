"""Whatever an answer is called, what it holds is read: over HTTP, one odd server after another."""

import asyncio
import base64
import gzip
import json
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import httpx
import pytest

from dagster_imagegen.engine.endpoint.client import ImageClient
from dagster_imagegen.engine.endpoint.failures import Failure
from dagster_imagegen.engine.endpoint.kinds import FailureKind
from dagster_imagegen.engine.endpoint.response import Answer, GeneratedImage
from tests.engine.endpoint.peer import (
    ANSWER,
    PNG,
    REQUEST,
    Act,
    ask,
    drips,
    hangs,
    http,
    resets,
    says,
    says_and_closes,
)
from tests.virtual_time import run_virtual

# An image whose base64 has each of the letters that alphabets differ in, and is padded.
IMAGE = PNG + bytes([0xFB, 0xEF, 0xBE, 0xFF, 0xFF, 0xFF, 0x3E]) * 30 + b"\0" * (-len(PNG) % 3 + 1)
B64 = base64.b64encode(IMAGE).decode()
assert {"+", "/"} < set(B64)
assert B64.endswith("=")
JSON = json.dumps({"data": [{"b64_json": B64}]}).encode()
PICTURE = says(http(IMAGE, content_type="image/png"))


def event(name: str | None, **data: object) -> bytes:
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(data)}\n\n".encode()


COMPLETED = event("image_generation.completed", type="image_generation.completed", b64_json=B64)
OTHER = PNG + b"an earlier one"
PARTIAL = event(
    "image_generation.partial_image",
    type="image_generation.partial_image",
    partial_image_index=0,
    b64_json=base64.b64encode(OTHER).decode(),
)


def image(*acts: Act, **options: Any) -> GeneratedImage:
    answer, peer = ask(*acts, **options)
    assert isinstance(answer.result, GeneratedImage), answer.result
    assert len([each for each in peer.received if each.body]) == 1
    return answer.result


def failure(*acts: Act, **options: Any) -> Failure:
    answer, _ = ask(*acts, **options)
    assert isinstance(answer.result, Failure), answer.result
    return answer.result


LABELS = [
    *("text/event-stream", "Text/Event-Stream; charset=utf-8", "application/json"),
    *("application/x-ndjson", "text/plain", "image/png", "application/octet-stream", ""),
]
BODIES = {
    "events": PARTIAL + COMPLETED,
    "events with CRLF": (PARTIAL + COMPLETED).replace(b"\n", b"\r\n"),
    "events without spaces": COMPLETED.replace(b": ", b":"),
    "events behind a BOM": b"\xef\xbb\xbf" + COMPLETED,
    "events behind what kept the connection": b"\r\n" * 400 + COMPLETED,
    "events behind a comment": b": hello\n\n" + COMPLETED,
    "an event without a name": event(None, b64_json=B64),
    "events without empty lines": COMPLETED.replace(b"\n\n", b"\n") + b"data: [DONE]\n",
    "JSON": JSON,
    "JSON behind a BOM": b"\xef\xbb\xbf" + JSON,
    "JSON behind what kept the connection": b"\n \r\n" * 400 + JSON,
    "JSON in UTF-16": JSON.decode().encode("utf-16"),
    "JSON in UTF-16 without a BOM": JSON.decode().encode("utf-16-le"),
    "JSON lines": b'{"step": 1}\n{"status": "done", "b64_json": "%s"}\n' % B64.encode(),
    "JSON in JSON": json.dumps(JSON.decode()).encode(),
    "JSON with a comma too many": JSON.replace(b"}]}", b"},]}"),
    "the repr of a dict": repr(json.loads(JSON)).encode(),
    "the image": IMAGE,
    "the image behind a blank line": b"\r\n" + IMAGE,
    "base64": B64.encode(),
    "base64 in quotes": f'"{B64}"\n'.encode(),
    "JSON in gzip": gzip.compress(JSON),
    "the image in gzip": gzip.compress(IMAGE),
    "a data URL in Markdown": f"![a mug](data:image/png;base64,{B64}) Here it is.".encode(),
    "a data URL": f"data:image/png;base64,{B64}".encode(),
}


@pytest.mark.parametrize("label", [*LABELS, "text/html"])
@pytest.mark.parametrize("name", BODIES)
def test_a_body_is_what_its_bytes_are(name: str, label: str) -> None:
    """Its content type neither adds to it nor takes from it."""
    assert image(says(http(BODIES[name], content_type=label))).data == IMAGE


def test_an_answer_without_a_content_type() -> None:
    """Nothing is declared, so nothing can be wrong."""
    head = b"HTTP/1.1 200 X\r\n\r\n"
    for body in (COMPLETED, JSON, IMAGE):
        assert image(says_and_closes(head + body)).data == IMAGE


@pytest.mark.parametrize(
    "text",
    [
        B64.rstrip("="),
        B64.replace("+", "-").replace("/", "_"),
        B64.replace("+", "-").replace("/", "_").rstrip("="),
        B64.replace("+", " "),
        f'"{B64}"',
        f'\\"{B64}\\"',
        f"b'{B64}'",
        f" {B64}\n",
        "\r\n".join(B64[at : at + 64] for at in range(0, len(B64), 64)),
        " ".join(B64[at : at + 64] for at in range(0, len(B64), 64)),
        B64.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D"),
        f"data:image/png;base64,{B64.replace('+', ' ')}",
        f"data:;base64,{B64}",
        f"\u200b{B64}\u200b",
        f"image/png;base64,{B64}",
        f"data:image/png,{B64}",
    ],
)
def test_base64_as_servers_write_it(text: str) -> None:
    """Of either alphabet, padded or not, in quotes, in lines, or as a form or a URL writes it."""
    for field in ("b64_json", "url"):
        body = json.dumps({"data": [{field: text}]}).encode()
        assert image(says(http(body))).data == IMAGE


ITEM = {"b64_json": B64}


@pytest.mark.parametrize(
    "answer",
    [
        {"data": ITEM},
        {"images": [], "data": [ITEM]},
        {"data": [], "images": [ITEM]},
        {"data": None, "images": [B64]},
        {"images": [], "image": B64},
        {"image": {"base64": B64}},
        {"output": [f"data:image/png;base64,{B64}"]},
        {"result": B64, "status": "success"},
        {"result": "success", "artifacts": [{"base64": B64, "finishReason": "SUCCESS"}]},
        {"result": {"images": [{"image": B64}]}},
        {"predictions": [{"bytesBase64Encoded": B64, "mimeType": "image/png"}]},
        {"candidates": [{"content": {"parts": [{"text": "."}, {"inlineData": {"data": B64}}]}}]},
        {"choices": [{"message": {"images": [{"image_url": {"url": f"data:;base64,{B64}"}}]}}]},
        {"output": [{"type": "image_generation_call", "result": B64}]},
        {"statusCode": 200, "body": json.dumps({"data": [ITEM]})},
        {"error": None, "data": [ITEM]},
        [ITEM],
        [B64],
        {"data": [{"b64_json": "not one"}, ITEM]},
        {"data": [{"b64_json": "", "url": None, "image": B64}]},
    ],
)
def test_images_under_other_names(answer: object) -> None:
    """Lists, objects and texts, as other image services name them."""
    assert image(says(http(json.dumps(answer).encode()))).data == IMAGE


@pytest.mark.parametrize(
    "answer",
    [
        {"data": {"url": "/a.png"}},
        {"images": [], "result": {"images": [{"url": "/a.png"}]}},
        {"images": [{"image_url": {"url": "/a.png"}}]},
        {"data": [{"b64_json": None, "url": "/a.png"}]},
        {"imageURL": "/a.png"},
    ],
)
def test_links_under_other_names(answer: object) -> None:
    """They are fetched as any."""
    assert image(says(http(json.dumps(answer).encode())), PICTURE).data == IMAGE


def test_what_is_asked_for_is_not_taken_for_the_answer() -> None:
    """A request that an answer repeats can hold an image too, and a text is no image."""
    answer = {"input": {"image": B64}, "request": {"images": [B64]}, "result": "A mug.", "data": []}
    assert failure(says(http(json.dumps(answer).encode()))).code == "no_image"


def test_an_image_behind_thousands_of_other_texts_is_not_looked_for() -> None:
    """Whoever sends so many wants to keep the reader busy."""
    answer = {"images": [*["A mug."] * 20_000, B64]}
    assert failure(says(http(json.dumps(answer).encode()))).code == "no_image"


def test_facts_beside_an_image_wherever_it_is() -> None:
    """The objects around an image say what is said of it; the outermost counts."""
    answer = {
        "response": {"created": 5, "usage": {"output_tokens": 9}, "data": {**ITEM, "size": "1x1"}}
    }
    result = image(says(http(json.dumps(answer).encode())))
    assert (result.created, result.size) == (5, "1x1")
    assert result.tokens is not None
    assert result.tokens.output_tokens == 9


def test_an_image_beside_json_that_is_nested_too_deep() -> None:
    """The document cannot be parsed safely; its image is read all the same."""
    for depth in (150, 500, 900, 50_000):
        nested = b"[" * depth + b"]" * depth
        body = b'{"data":[{"b64_json":"%s"}],"x":%s}' % (B64.encode().replace(b"/", b"\\/"), nested)
        assert image(says(http(body))).data == IMAGE


def test_an_error_that_is_nested_too_deep() -> None:
    """Neither a recursion nor a crash: an error of its status."""
    for depth in (150, 500, 900, 50_000):
        nested = b"[" * depth + b"]" * depth
        body = b'{"detail":[{"loc":[%s],"msg":%s}],"error":%s}' % (nested, nested, nested)
        assert failure(says(http(body, 400))).kind is FailureKind.REJECTED


# -- streams ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "events",
    [
        event("image_edit.completed", b64_json=B64),
        event("image_generation.done", type="image_generation.done", b64_json=B64),
        event("done", images=[{"url": f"data:image/png;base64,{B64}"}]),
        event("result", image=B64),
        event(None, object="image.generation.chunk", data=[ITEM]),
        event(None, type="response.output_item.done", item={"result": B64}),
        f"event: final\ndata: {B64}\n\n".encode(),
        f"data: data:image/png;base64,{B64}\n\n".encode(),
        event("image", b64_json=B64) + b"data: [DONE]\n\n",
        event("image_generation.completed", b64_json=B64).replace(b"}", b",}"),
    ],
)
def test_final_events_of_other_names(events: bytes) -> None:
    """What brings an image and is not partial is the image."""
    result = image(says_and_closes(http(PARTIAL + events)))
    assert (result.data, result.partial) == (IMAGE, False)


def test_nothing_is_waited_for_after_the_final_event() -> None:
    """A server that keeps the connection open has said all there is."""
    for end in (
        event("done", image=B64),
        event("other", image=B64) + b"data: [DONE]\n\n",
        COMPLETED,
    ):
        assert image(says(http(PARTIAL + end, length=10**6))).data == IMAGE


ENDS: dict[str, tuple[Act, dict[str, Any]]] = {
    "closed": (says_and_closes(http(PARTIAL)), {}),
    "cut": (says_and_closes(http(PARTIAL + COMPLETED[:-99], length=10**6)), {}),
    "reset": (resets(http(PARTIAL, length=10**6)), {}),
    "done": (says(http(PARTIAL + b"data: [DONE]\n\n", length=10**6)), {}),
    "broken": (says(http(PARTIAL + event("image_generation.completed", b64_json="#"))), {}),
    "broken and open": (
        says(http(PARTIAL + event("image_generation.completed", b64_json="#"), length=10**6)),
        {},
    ),
    "too long": (
        drips(http(PARTIAL, length=10**9), b": " + b"x" * 9000 + b"\n\n", seconds=0),
        {"max_body_bytes": 50_000},
    ),
}


@pytest.mark.parametrize("end", ENDS)
def test_the_last_partial_image_of_a_stream_without_another(end: str) -> None:
    """It was paid for: it is better than nothing, and marked as what it is."""
    act, options = ENDS[end]
    result = image(act, **options)
    assert (result.data, result.partial) == (OTHER, True)


def test_the_last_partial_image_of_a_stream_that_falls_silent() -> None:
    """For as long as an answer may take in all."""

    class Silent(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            return httpx.Response(200, content=self.body())

        async def body(self) -> AsyncIterator[bytes]:
            yield PARTIAL
            await asyncio.sleep(10**6)

    async def run() -> Answer:
        async with ImageClient(base_url="http://127.0.0.1", transport=Silent()) as client:
            return await client.send(REQUEST)

    result = run_virtual(run()).result
    assert isinstance(result, GeneratedImage)
    assert (result.data, result.partial) == (OTHER, True)


def test_a_partial_image_in_json_lines_and_as_a_link() -> None:
    """Wherever it comes from, it is marked."""
    lines = b'{"type": "partial", "b64_json": "%s"}\n{"x": 1}\n' % B64.encode()
    assert image(says(http(lines))).partial
    assert image(says(http(event("preview", url="/a.png"))), PICTURE).partial


def test_the_latest_partial_image_counts_and_one_that_is_broken_does_not() -> None:
    """Of two whole ones the second."""
    later = event("x.partial_image", b64_json=B64)
    broken = event("x.partial_image", b64_json=B64[:50] + "#")
    assert image(says(http(PARTIAL + later + broken))).data == IMAGE


def test_the_cost_of_a_completed_event_without_its_image() -> None:
    """The partial image that stands in for it cost what the event says."""
    usage = {"output_tokens": 77}
    last = event("image_generation.completed", b64_json=None, usage=usage)
    result = image(says(http(PARTIAL + last)))
    assert result.partial
    assert result.tokens is not None
    assert result.tokens.output_tokens == 77


@pytest.mark.parametrize(
    "error",
    [
        event("error", error={"code": "moderation_blocked", "message": "No."}),
        event(None, error={"code": "moderation_blocked", "message": "No."}),
        event("response.failed", error={"code": "moderation_blocked", "message": "No."}),
    ],
)
def test_an_error_is_better_than_a_partial_image(error: bytes) -> None:
    """It says what became of the request, and whether to send it again."""
    assert failure(says(http(PARTIAL + error, length=10**6))).kind is FailureKind.REFUSED


def test_a_partial_image_that_is_cut_short_is_no_image() -> None:
    """Half of a picture, whatever the event is called."""
    for cut in (
        f"event: final\ndata: {B64[:200]}".encode(),
        PARTIAL[:-99],
        b'{"type": "partial", "b64_json": "' + B64[:200].encode(),
        B64[:200].encode(),
    ):
        result = failure(says_and_closes(http(cut, length=10**6)))
        assert result.code == "connection_lost"


# -- the bill --------------------------------------------------------------------------------------


def billed(usage: object = None, **headers: Any) -> Decimal | None:
    body = json.dumps({"data": [ITEM], "usage": usage}).encode()
    return image(says(http(body, **headers))).reported_cost_usd


@pytest.mark.parametrize(
    ("usage", "usd"),
    [
        ({"cost": 0.04}, "0.04"),
        ({"cost": "0.0412345678901"}, "0.0412345678901"),
        ({"cost": "$0.04 "}, "0.04"),
        ({"cost": 1e-05}, "0.00001"),
        ({"cost": 2}, "2"),
        ({"cost": {"input": 1, "total_cost": 0.5}}, "0.5"),
        ({"cost_in_usd_ticks": 700_000_000, "cost": 9}, "0.07"),
        ({"cost": 0}, None),
        ({"cost": "0.0"}, None),
        ({"cost": -1}, None),
        ({"cost": True}, None),
        ({"cost": "NaN"}, None),
        ({"cost": "Infinity"}, None),
        ({"cost": 1e300}, None),
        ({"cost": "free"}, None),
        ({"cost": []}, None),
        ({"cost": {}}, None),
        ({"cost": "1" * 9000}, None),
    ],
)
def test_the_cost_that_an_answer_names(usage: object, usd: str | None) -> None:
    """In USD, as a number or as text; 0 and what is no price are not reported."""
    assert billed(usage) == (usd and Decimal(usd))


def test_the_cost_in_the_head_of_an_answer() -> None:
    """A gateway's, where the body names none: also for a link, a raw image and a failure."""
    header: dict[str, Any] = {"x_litellm_response_cost": "0.0125"}
    usd = Decimal("0.0125")
    assert billed(**header) == usd
    assert billed({"cost": 0.5}, **header) == Decimal("0.5")
    assert billed(x_litellm_response_cost="0.0") is None
    link = says(http(b'{"data":[{"url":"/a"}]}', **header))
    assert image(link, PICTURE).reported_cost_usd == usd
    assert image(says(http(IMAGE, **header))).reported_cost_usd == usd
    lost = failure(says(http(b"{}", **header)))
    assert (lost.reported_cost_usd, lost.billing) == (usd, "billed")


def test_what_is_no_image_stays_what_it_is() -> None:
    """No label makes an image of it either."""
    for label in LABELS:
        for body, code in ((b"OK", "broken_json"), (b"{}", "no_image"), (b"", "empty_body")):
            assert failure(says(http(body, content_type=label))).code == code
    assert failure(hangs, timeout_seconds=0.3).code == "read_timeout"
    assert isinstance(ask(says(http(ANSWER)))[0], Answer)
