"""The answers of other servers of the protocol."""

import base64
from io import BytesIO
from typing import Any
from urllib.parse import urljoin

import pytest
from PIL import Image

from dagster_imagegen.sandbox import Sandbox
from dagster_imagegen.sandbox.orders import Shape
from tests.sandbox.asking import get, post


def ask(shape: Shape, **body: Any) -> tuple[dict[str, Any], str]:
    """The answer of a server of that shape, and the format of the image in it."""
    with Sandbox(answer_shape=shape, paint=False) as sandbox:
        answer = post(sandbox, **body).json()
        entry = answer["data"][0]
        if entry.get("b64_json") is not None:
            data = base64.b64decode(entry["b64_json"])
        else:
            data = get(urljoin(sandbox.root_url, entry["url"])).content
        return answer, str(Image.open(BytesIO(data)).format)


def test_together() -> None:
    """No created, no usage, JPEG by default, and `response_format` chooses url or base64."""
    answer, image_format = ask("together")
    assert image_format == "JPEG"
    assert {"created", "usage"}.isdisjoint(answer)
    assert "b64_json" in answer["data"][0]
    assert "url" in ask("together", response_format="url")[0]["data"][0]


def test_xai() -> None:
    """A url, the exact bill in ticks, and no patience with `size`."""
    answer, image_format = ask("xai", size=None, model="gpt-image-1", output_format=None)
    assert image_format == "JPEG"
    assert answer["data"][0]["mime_type"] == "image/jpeg"
    assert answer["data"][0]["url"].startswith("http://127.0.0.1:")
    with Sandbox(answer_shape="xai", paint=False) as sandbox:
        ticks = post(sandbox, size=None).json()["usage"]["cost_in_usd_ticks"]
        assert ticks == sandbox.totals.cost_usd * 10**10
        assert post(sandbox, size="1024x1024").status_code == 400


def test_sglang() -> None:
    """A relative url, and usage as chat servers count."""
    answer, _ = ask("sglang")
    assert answer["data"][0]["url"].startswith("/sandbox/images/")
    assert answer["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 272,
        "total_tokens": 275,
        "image_count": 1,
    }


def test_vllm() -> None:
    """Nulls for what it does not have, metrics, and no usage."""
    answer, _ = ask("vllm")
    assert answer["data"][0]["url"] is None
    assert answer["data"][0]["revised_prompt"] is None
    assert "metrics" in answer
    assert "usage" not in answer


@pytest.mark.parametrize("shape", ["localai", "litellm"])
def test_usage_of_nothing_but_zeros(shape: Shape) -> None:
    """Servers and proxies that count nothing answer zeros; the log knows better."""
    answer, _ = ask(shape)
    assert answer["usage"]["total_tokens"] == 0
    assert answer["usage"]["output_tokens_details"]["image_tokens"] == 0
    assert ("url" in answer["data"][0]) == (shape == "localai")


def test_bare() -> None:
    """Only what the reference promises always."""
    answer, _ = ask("bare")
    assert set(answer) == {"created", "data"}
    assert set(answer["data"][0]) == {"b64_json"}


def test_raw() -> None:
    """The body is the image, also for who asked for a stream."""
    with Sandbox(answer_shape="raw", paint=False) as sandbox:
        for stream in (False, True):
            response = post(sandbox, stream=stream, partial_images=1, output_format="webp")
            assert response.headers["content-type"] == "image/webp"
            assert Image.open(BytesIO(response.content)).format == "WEBP"
