"""Every way of failing, as httpx sees it, and how it is logged."""

import base64
import binascii
import json
import time
from io import BytesIO
from typing import Any
from urllib.parse import urljoin

import httpx
import pytest
from PIL import Image

from dagster_imagegen.sandbox import Fault, Sandbox
from dagster_imagegen.sandbox.errors import Dialect
from dagster_imagegen.sandbox.faults import (
    KINDS,
    LOST_ANSWERS,
    ODD_ANSWERS,
    STATUS_FAULTS,
    STREAM_FAULTS,
    FaultPlan,
)
from tests.sandbox.asking import MUG, get, post

pytestmark = pytest.mark.imagegen_sandbox(paint=False)


BILLED = ("request_timeout", "gateway_timeout", "origin_timeout", "refused_in_200")


@pytest.mark.parametrize("kind", STATUS_FAULTS)
def test_status_faults(imagegen_sandbox: Sandbox, kind: str) -> None:
    """The status and code of the table are answered, and billed only where work was done."""
    imagegen_sandbox.script(kind)
    response = post(imagegen_sandbox)
    expected = STATUS_FAULTS[kind]
    assert response.status_code == expected.status
    if expected.body is None:
        assert response.json()["error"]["code"] == expected.code
    else:
        assert response.json() == expected.body
    row = imagegen_sandbox.requests[0]
    assert (row.status, row.fault) == (expected.status, kind)
    assert row.billed == (kind in BILLED)
    assert post(imagegen_sandbox).status_code == 200


@pytest.mark.parametrize(
    ("kind", "error", "text"),
    [
        ("closed", httpx.RemoteProtocolError, "without sending a response"),
        ("truncated", httpx.RemoteProtocolError, "without sending complete message body"),
        ("reset", httpx.ReadError, ""),
        ("hang", httpx.ReadTimeout, ""),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_broken_connections(
    imagegen_sandbox: Sandbox, kind: str, error: type[Exception], text: str, stream: bool
) -> None:
    """The connection really breaks, the work is billed, and the next request is served."""
    imagegen_sandbox.script(kind)
    timeout = httpx.Timeout(60, read=0.2 if kind == "hang" else 60)
    with pytest.raises(error) as caught:
        post(imagegen_sandbox, stream=stream, partial_images=1, timeout=timeout)
    if not stream:
        assert text in str(caught.value)
    while not imagegen_sandbox.totals.billed:  # which who gave up on it can be ahead of
        time.sleep(0.01)
    row = imagegen_sandbox.requests[0]
    assert row.billed
    assert row.status == (200 if kind in ("truncated", "reset") else None)
    assert post(imagegen_sandbox).status_code == 200


def test_a_stream_breaks_after_what_came_before(imagegen_sandbox: Sandbox) -> None:
    """A reset in mid stream leaves the partial images that were sent."""
    imagegen_sandbox.script("truncated")
    url = f"{imagegen_sandbox.base_url}/images/generations"
    received: list[bytes] = []
    body = {**MUG, "stream": True, "partial_images": 2}
    with httpx.stream("POST", url, verify=False, timeout=60, json=body) as response:
        chunks = response.iter_raw()
        with pytest.raises(httpx.RemoteProtocolError):
            received.extend(chunks)
    text = b"".join(received)
    assert text.count(b"event: image_generation.partial_image") == 2
    assert b"event: image_generation.completed" in text
    assert not text.endswith(b"\n\n")


@pytest.mark.parametrize("stream", [False, True])
def test_unreadable_answers(imagegen_sandbox: Sandbox, stream: bool) -> None:
    """200 with a body that holds no image: each is broken in its way, and billed."""
    kinds = ("broken_json", "broken_base64", "no_image", "empty_data", "html")
    imagegen_sandbox.script(*kinds)
    for kind in kinds:
        response = post(imagegen_sandbox, stream=stream, partial_images=1)
        assert response.status_code == 200
        in_events = response.headers["content-type"].startswith("text/event-stream")
        text = response.text
        if in_events:
            text = text.strip().split("\n\n")[-1].split("data: ", 1)[1]
        assert in_events == (stream and kind not in ("empty_data", "html"))
        if kind == "broken_json":
            with pytest.raises(json.JSONDecodeError):
                json.loads(text)
        elif kind == "html":
            assert text.startswith("<html>")
        else:
            body = json.loads(text)
            entry = body if in_events else (body["data"] or [{}])[0]
            if kind == "broken_base64":
                with pytest.raises(binascii.Error):
                    base64.b64decode(entry["b64_json"], validate=True)
            else:
                assert "b64_json" not in entry
                assert "url" not in entry
    assert [row.billed for row in imagegen_sandbox.requests] == [True] * len(kinds)


@pytest.mark.parametrize("kind", ["url", "url_relative", "url_late", "url_gone", "url_data"])
def test_images_by_url(imagegen_sandbox: Sandbox, kind: str) -> None:
    """A `url` is absolute, relative, `data:`, or 404 for a moment or for good."""
    inline = base64.b64decode(post(imagegen_sandbox).json()["data"][0]["b64_json"])
    imagegen_sandbox.script(kind)
    entry = post(imagegen_sandbox).json()["data"][0]
    assert "b64_json" not in entry
    url = entry["url"]
    if kind == "url_data":
        assert base64.b64decode(url.removeprefix("data:image/png;base64,")) == inline
        return
    assert url.startswith("/") == (kind == "url_relative")
    downloads = [get(urljoin(imagegen_sandbox.root_url, url)) for _ in range(3)]
    served = {"url_late": [404, 200, 200], "url_gone": [404] * 3}.get(kind, [200] * 3)
    assert [download.status_code for download in downloads] == served
    assert all(download.content == inline for download in downloads if download.is_success)
    assert [row.path for row in imagegen_sandbox.other_requests] == [httpx.URL(url).path] * 3
    assert imagegen_sandbox.totals.requests == 2


def test_odd_answers(imagegen_sandbox: Sandbox) -> None:
    """A raw image, bytes of another format, usage of zeros or none, and nulls."""
    imagegen_sandbox.script("raw_image", "other_format", "zero_usage", "no_usage", "nulls")
    raw = post(imagegen_sandbox)
    assert raw.headers["content-type"] == "image/png"
    assert Image.open(BytesIO(raw.content)).format == "PNG"
    other = post(imagegen_sandbox).json()
    assert other["output_format"] == "png"
    assert Image.open(BytesIO(base64.b64decode(other["data"][0]["b64_json"]))).format == "JPEG"
    zero = post(imagegen_sandbox).json()["usage"]
    assert (zero["input_tokens"], zero["output_tokens"], zero["total_tokens"]) == (0, 0, 0)
    assert "usage" not in post(imagegen_sandbox).json()
    nulls = post(imagegen_sandbox).json()
    assert nulls["data"][0]["b64_json"]
    assert nulls["usage"] is None
    assert nulls["data"][0]["revised_prompt"] is None
    assert [row.output_tokens for row in imagegen_sandbox.requests] == [272] * 5


def test_stream_faults(imagegen_sandbox: Sandbox) -> None:
    """A stream ends without its picture, with an error, or has it before the partial images."""
    imagegen_sandbox.script(*STREAM_FAULTS)
    assert post(imagegen_sandbox).status_code == 200  # not a stream: passed by
    seen = {
        kind: [
            line.removeprefix("event: ").removeprefix("image_generation.")
            for line in post(imagegen_sandbox, stream=True, partial_images=2).text.split("\n")
            if line.startswith("event: ")
        ]
        for kind in STREAM_FAULTS
    }
    assert seen == {
        "stream_cut": ["partial_image", "partial_image"],
        "stream_error": ["partial_image", "partial_image", "error"],
        "stream_completed_first": ["completed", "partial_image", "partial_image"],
    }
    assert all(row.billed for row in imagegen_sandbox.requests)


def test_a_fault_can_be_told_how(imagegen_sandbox: Sandbox) -> None:
    """Headers, message and billing of a fault can be set; so can how often and for whom."""
    imagegen_sandbox.script(
        Fault("rate_limited", headers={"retry-after-ms": "250"}, message="try again in 12s"),
        Fault("server_error", billed=True),
        Fault("closed", billed=False),
        Fault("bad_gateway", prompt="blue", times=None),
    )
    assert post(imagegen_sandbox, prompt="a blue mug").status_code == 502
    limited = post(imagegen_sandbox)
    assert limited.headers["retry-after-ms"] == "250"
    assert "retry-after" not in limited.headers
    assert limited.json()["error"]["message"] == "try again in 12s"
    assert post(imagegen_sandbox).status_code == 500
    with pytest.raises(httpx.RemoteProtocolError):
        post(imagegen_sandbox)
    assert post(imagegen_sandbox, prompt="a blue cup").status_code == 502
    assert [row.billed for row in imagegen_sandbox.requests] == [False, False, True, False, False]


def test_a_script_is_used_up_in_order(imagegen_sandbox: Sandbox) -> None:
    """None lets one request pass; `times` repeats; then all is well."""
    imagegen_sandbox.script(None, Fault("server_error", times=2), "bad_gateway")
    statuses = [post(imagegen_sandbox).status_code for _ in range(5)]
    assert statuses == [200, 500, 500, 502, 200]


def test_random_faults_repeat_with_their_seed() -> None:
    """Rates are met, and the same seed fails the same requests."""
    rates = {"rate_limited": 0.2, "server_error": 0.1}

    def kinds(seed: int) -> list[str | None]:
        plan = FaultPlan(rates=rates, seed=seed)
        drawn = [plan.take(prompt="", stream=False) for _ in range(1000)]
        return [fault.kind if fault else None for fault in drawn]

    assert kinds(1) == kinds(1) != kinds(2)
    assert 150 < kinds(1).count("rate_limited") < 250
    assert 70 < kinds(1).count("server_error") < 130


def test_bad_plans_are_named() -> None:
    """An unknown kind lists those that exist; rates beyond certainty are refused."""
    with pytest.raises(ValueError, match=r"unknown fault 'rate_limit'; known faults: rate_limited"):
        Fault("rate_limit")
    with pytest.raises(ValueError, match="must add up to between 0 and 1"):
        FaultPlan(rates={"closed": 0.7, "reset": 0.7})


def test_every_kind_is_in_one_class() -> None:
    """The four lists together are all kinds, without overlap."""
    assert len(KINDS) == len(set(KINDS))
    assert set(KINDS) == {*STATUS_FAULTS, *LOST_ANSWERS, *ODD_ANSWERS, *STREAM_FAULTS}


@pytest.mark.parametrize(
    ("dialect", "body"),
    [
        ("openai", {"error": {"message": "Incorrect API key provided.", "param": None,
                              "type": "invalid_request_error", "code": "invalid_api_key"}}),
        ("xai", {"code": "401", "error": "Incorrect API key provided."}),
        ("fastapi", {"detail": "Incorrect API key provided."}),
    ],
)  # fmt: skip
def test_error_dialects(dialect: Dialect, body: dict[str, Any]) -> None:
    """The same error in the words of another server."""
    with Sandbox(error_dialect=dialect, faults=["invalid_api_key"]) as sandbox:
        response = post(sandbox)
        assert response.status_code == 401
        assert response.json() == body


def test_error_dialects_of_their_own_kind() -> None:
    """DigitalOcean's id, FastAPI's 422, Azure's inner error, a page, nothing, and no UTF-8."""
    with Sandbox(error_dialect="digitalocean", faults=["rate_limited"]) as sandbox:
        response = post(sandbox)
        assert response.json() == {
            "id": "too_many_requests",
            "message": "Rate limit reached for images per min. Please try again in 1s.",
            "request_id": response.headers["x-request-id"],
        }
    with Sandbox(error_dialect="fastapi") as sandbox:
        response = post(sandbox, size="x")
        assert response.status_code == 422
        assert response.json()["detail"][0]["loc"] == ["body", "size"]
    with Sandbox(error_dialect="azure", refuse=["mug"]) as sandbox:
        error = post(sandbox).json()["error"]
        assert error["code"] == "contentFilter"
        assert error["inner_error"]["code"] == "ResponsibleAIPolicyViolation"
    with Sandbox(error_dialect="html", faults=["bad_gateway"]) as sandbox:
        assert post(sandbox).text.startswith("<html>")
    with Sandbox(error_dialect="empty", faults=["bad_gateway"]) as sandbox:
        assert post(sandbox).content == b""
    with Sandbox(error_dialect="not_utf8", faults=["bad_gateway"]) as sandbox:
        content = post(sandbox).content
    with pytest.raises(UnicodeDecodeError):
        content.decode()
