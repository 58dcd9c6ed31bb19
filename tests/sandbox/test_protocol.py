"""The sandbox against the reference: what it accepts, refuses, answers, and streams."""

import base64
import json
from io import BytesIO
from typing import Any
from xml.etree import ElementTree

import httpx
import openai
import pytest
from PIL import Image

from dagster_imagegen.sandbox import Sandbox
from tests.sandbox.asking import MUG, get, post


def image_of(response: httpx.Response) -> Image.Image:
    return Image.open(BytesIO(base64.b64decode(response.json()["data"][0]["b64_json"])))


def events_of(response: httpx.Response) -> list[dict[str, Any]]:
    blocks = response.text.strip().split("\n\n")
    return [json.loads(block.split("data: ", 1)[1]) for block in blocks]


def test_it_answers_the_reference_body(imagegen_sandbox: Sandbox) -> None:
    """Every field of the reference's answer is there, with the table's tokens."""
    answer = post(imagegen_sandbox, size="1024x1024", quality="high").json()
    assert set(answer) == {
        "created", "data", "background", "output_format", "quality", "size", "usage",
    }  # fmt: skip
    assert answer["size"] == "1024x1024"
    assert answer["usage"]["input_tokens"] == 3
    assert answer["usage"]["output_tokens"] == 4160
    assert answer["usage"]["total_tokens"] == 4163
    assert answer["usage"]["output_tokens_details"] == {"image_tokens": 4160, "text_tokens": 0}


@pytest.mark.parametrize("output_format", ["png", "webp", "jpeg"])
def test_it_makes_every_format_and_size(imagegen_sandbox: Sandbox, output_format: str) -> None:
    """The bytes are of the format and the dimensions that were asked for."""
    image = image_of(post(imagegen_sandbox, output_format=output_format, size="200x120"))
    assert image.format == output_format.upper()
    assert image.size == (200, 120)


def test_transparency_is_real(imagegen_sandbox: Sandbox) -> None:
    """A transparent background has pixels one can see through; an opaque one has no alpha."""
    clear = image_of(post(imagegen_sandbox, background="transparent", size="256x256"))
    assert clear.mode == "RGBA"
    assert clear.getchannel("A").getextrema()[0] == 0
    assert image_of(post(imagegen_sandbox, background="opaque", size="64x64")).mode == "RGB"


def test_the_same_request_gives_the_same_bytes_and_another_prompt_others() -> None:
    """Pictures are a function of the request, also on another server."""
    with Sandbox() as one, Sandbox() as other:
        first = post(one, size="256x256").json()["data"][0]["b64_json"]
        assert post(other, size="256x256").json()["data"][0]["b64_json"] == first
        blue = post(one, size="256x256", prompt="a blue mug")
        assert blue.json()["data"][0]["b64_json"] != first


@pytest.mark.imagegen_sandbox(paint=False)
def test_auto_is_answered_as_a_choice(imagegen_sandbox: Sandbox) -> None:
    """`auto` turns into what is made and billed, and not always into the same."""
    chosen: set[tuple[str, str]] = set()
    for number in range(6):
        answer = post(imagegen_sandbox, prompt=f"mug {number}", size="auto", quality="auto").json()
        assert "auto" not in (answer["size"], answer["quality"], answer["background"])
        chosen.add((answer["size"], answer["quality"]))
    assert len(chosen) > 1


@pytest.mark.imagegen_sandbox(paint=False)
@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"prompt": ""}, "prompt", "missing_required_parameter"),
        ({"prompt": None}, "prompt", "missing_required_parameter"),
        ({"prompt": 7}, "prompt", "invalid_type"),
        ({"prompt": "x" * 32_001}, "prompt", "string_above_max_length"),
        ({"user": "x" * 257}, "user", "string_above_max_length"),
        ({"n": 0}, "n", "integer_below_min_value"),
        ({"n": 11}, "n", "integer_above_max_value"),
        ({"n": True}, "n", "invalid_type"),
        ({"size": "big"}, "size", "invalid_value"),
        ({"size": "5000x64"}, "size", "invalid_value"),
        ({"quality": "ultra"}, "quality", "invalid_value"),
        ({"background": "green"}, "background", "invalid_value"),
        ({"background": "transparent", "output_format": "jpeg"}, "background", "invalid_value"),
        ({"output_format": "bmp"}, "output_format", "invalid_value"),
        ({"output_format": "gif", "output_compression": 50}, "output_compression", "invalid_value"),
        ({"output_format": "gif", "stream": True}, "output_format", "invalid_value"),
        ({"output_format": "gif", "partial_images": 1}, "output_format", "invalid_value"),
        ({"output_format": "gif", "frame_count": 1}, "frame_count", "integer_below_min_value"),
        ({"output_format": "gif", "frame_count": 17}, "frame_count", "integer_above_max_value"),
        ({"frame_count": 4}, "frame_count", "invalid_value"),
        ({"frame_duration_ms": 100}, "frame_duration_ms", "invalid_value"),
        ({"svg": {"model": "m"}}, "svg", "invalid_value"),
        ({"output_format": "svg", "svg": "m"}, "svg", "invalid_type"),
        ({"output_format": "svg", "n": 2}, "n", "invalid_value"),
        ({"output_format": "svg", "stream": True}, "stream", "invalid_value"),
        ({"complexity": "highest"}, "complexity", "invalid_value"),
        ({"safety_identifier": 7}, "safety_identifier", "invalid_type"),
        ({"output_format": "webp", "output_compression": 101}, "output_compression",
         "integer_above_max_value"),
        ({"output_compression": 50}, "output_compression", "invalid_value"),
        ({"moderation": "none"}, "moderation", "invalid_value"),
        ({"stream": "yes"}, "stream", "invalid_type"),
        ({"partial_images": -1}, "partial_images", "integer_below_min_value"),
        ({"response_format": "url"}, "response_format", "unknown_parameter"),
    ],
)  # fmt: skip
def test_hard_limits_are_refused(
    imagegen_sandbox: Sandbox, change: dict[str, Any], param: str, code: str
) -> None:
    """Whatever breaks a limit of the reference is a 400 that names it, and is not billed."""
    response = post(imagegen_sandbox, **change)
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["param"], error["code"]) == (param, code)
    assert not imagegen_sandbox.requests[0].billed


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"n": 2}, "n"),
        ({"stream": True}, "partial_images"),
        ({"output_format": "gif"}, "output_format"),
        ({"output_format": "svg"}, "output_format"),
    ],
)
def test_digitalocean_s_dialect_keeps_to_its_reference(change: dict[str, Any], param: str) -> None:
    """What OpenAI's current models take and the reference does not is refused there."""
    with Sandbox(error_dialect="digitalocean", paint=False) as sandbox:
        response = post(sandbox, **change)
        assert response.status_code == 400
        assert f"Invalid '{param}'" in response.json()["message"]
    with Sandbox(paint=False) as sandbox:
        assert post(sandbox, **change).status_code == 200


@pytest.mark.parametrize("paint", [True, False])
def test_a_gif_has_its_frames(*, paint: bool) -> None:
    """As many as asked for, nine unless told, each billed as an image."""
    with Sandbox(paint=paint) as sandbox:
        gif: dict[str, Any] = {"output_format": "gif", "size": "96x64"}
        film = image_of(post(sandbox, **gif, frame_count=4, frame_duration_ms=120))
        assert (film.format, getattr(film, "n_frames"), film.info["duration"]) == ("GIF", 4, 120)  # noqa: B009  # Pillow does not declare it
        post(sandbox, **gif)
        one, other = sandbox.requests
        assert one.output_tokens * 9 == other.output_tokens * 4


def test_an_svg_reports_its_author_s_tokens(imagegen_sandbox: Sandbox) -> None:
    """Beside the usage; the prompt in it is text and no markup."""
    asked: dict[str, Any] = {
        "prompt": "<script>alert(1)</script>",
        "output_format": "svg",
        "size": "96x64",
    }
    answer = post(imagegen_sandbox, **asked, svg={"model": "m"}).json()
    drawing = base64.b64decode(answer["data"][0]["b64_json"]).decode()
    root = ElementTree.fromstring(drawing)
    assert (root.get("width"), root.get("height")) == ("96", "64")
    assert "<script" not in drawing
    counts = answer["svg_usage"]
    assert counts["total_tokens"] == counts["input_tokens"] + counts["output_tokens"] > 0


def test_a_stream_can_have_no_partial_images(imagegen_sandbox: Sandbox) -> None:
    """OpenAI streams the finished picture alone."""
    response = post(imagegen_sandbox, stream=True, partial_images=0, size="64x64")
    assert [event["type"] for event in events_of(response)] == ["image_generation.completed"]


def test_the_model_list_has_current_models_and_when_they_end(imagegen_sandbox: Sandbox) -> None:
    """What OpenAI shut down is not in it; what ends has its date."""
    listed = get(f"{imagegen_sandbox.base_url}/models").json()["data"]
    ends = {model["id"]: model.get("shutdown_date") for model in listed}
    assert ends["gpt-image-2.5-flare"] is None
    assert ends["gpt-image-1-mini"] == "2026-12-01"
    assert "gpt-image-1" not in ends


def test_a_wrong_method_is_told_the_right_one(imagegen_sandbox: Sandbox) -> None:
    """405 names what is allowed."""
    response = get(f"{imagegen_sandbox.base_url}/images/generations")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff"])
def test_a_body_that_is_no_json_object_is_refused(imagegen_sandbox: Sandbox, body: bytes) -> None:
    """Nonsense is a 400 and is logged as it came."""
    url = f"{imagegen_sandbox.base_url}/images/generations"
    assert httpx.post(url, verify=False, timeout=60, content=body).status_code == 400
    assert imagegen_sandbox.requests[0].status == 400


@pytest.mark.imagegen_sandbox(paint=False)
def test_limits_are_inclusive(imagegen_sandbox: Sandbox) -> None:
    """What is just within the limits is taken, and null means not set."""
    nulls = dict.fromkeys(("n", "quality", "background", "output_format", "stream", "user"))
    assert post(imagegen_sandbox, **nulls).status_code == 200
    longest = post(imagegen_sandbox, prompt="é" * 32_000, user="u" * 256)
    assert longest.status_code == 200
    assert longest.json()["usage"]["input_tokens"] == 8000


@pytest.mark.parametrize("prompt", [r"\u0000", r"\ud83c\udfa8", " ", "مرحبا", "<b>|=1+1"])
def test_any_text_can_be_a_prompt(imagegen_sandbox: Sandbox, prompt: str) -> None:
    """NUL, emoji and blanks are painted and logged like any other prompt."""
    url = f"{imagegen_sandbox.base_url}/images/generations"
    raw = f'{{"prompt": "{prompt}", "size": "64x64"}}'.encode()
    assert httpx.post(url, content=raw, verify=False, timeout=60).status_code == 200
    log = get(f"{imagegen_sandbox.root_url}/sandbox/requests").json()
    assert log["requests"][0]["body"] == json.loads(raw)


def test_a_lone_surrogate_is_refused_and_booked(imagegen_sandbox: Sandbox) -> None:
    """What is not text is a 400; the log still shows what came."""
    url = f"{imagegen_sandbox.base_url}/images/generations"
    raw = rb'{"prompt": "\ud800"}'
    assert httpx.post(url, content=raw, verify=False, timeout=60).status_code == 400
    log = get(f"{imagegen_sandbox.root_url}/sandbox/requests").json()
    assert log["requests"][0]["body"] == {"prompt": "\ud800"}


def test_sizes_are_judged_by_their_list_only_when_strict() -> None:
    """`strict_sizes` holds sizes against the model's published list."""
    with Sandbox(strict_sizes=True) as strict:
        assert post(strict, size="64x64").status_code == 400
        assert post(strict, size="1024x1536").status_code == 200


@pytest.mark.imagegen_sandbox(paint=False)
def test_other_models_make_several_images_of_which_each_is_billed(
    imagegen_sandbox: Sandbox,
) -> None:
    """n different pictures, n times the output tokens."""
    answer = post(imagegen_sandbox, model="flux", n=3, size="1024x1024", quality="low").json()
    assert len({entry["b64_json"] for entry in answer["data"]}) == 3
    assert answer["usage"]["output_tokens"] == 3 * 272


def test_a_stream_sharpens_and_completes(imagegen_sandbox: Sandbox) -> None:
    """Partial images come in order, each unlike the others, before the picture of the request."""
    response = post(
        imagegen_sandbox, stream=True, partial_images=2, size="1024x1024", quality="low"
    )
    assert response.headers["content-type"].startswith("text/event-stream")
    *partials, completed = events_of(response)
    assert [event["partial_image_index"] for event in partials] == [0, 1]
    assert completed["type"] == "image_generation.completed"
    assert completed["usage"]["output_tokens"] == 272 + 2 * 100
    whole = post(imagegen_sandbox, size="1024x1024", quality="low").json()["data"][0]["b64_json"]
    assert completed["b64_json"] == whole
    assert len({event["b64_json"] for event in (*partials, completed)}) == 3
    differences = [_difference(event["b64_json"], whole) for event in partials]
    assert differences[0] > differences[1] > 0


def _difference(one: str, other: str) -> int:
    import PIL.ImageChops
    import PIL.ImageStat

    images = [Image.open(BytesIO(base64.b64decode(text))).convert("L") for text in (one, other)]
    return int(PIL.ImageStat.Stat(PIL.ImageChops.difference(*images)).sum[0])


def test_a_key_can_be_demanded() -> None:
    """By default any key or none will do; with `api_key` only that one, also as Azure sends it."""
    with Sandbox(api_key="right", paint=False) as sandbox:
        url = f"{sandbox.base_url}/images/generations"
        for headers, status in [
            ({}, 401),
            ({"authorization": "Bearer wrong"}, 401),
            ({"authorization": "Bearer right"}, 200),
            ({"api-key": "right"}, 200),
        ]:
            assert (
                httpx.post(url, verify=False, timeout=60, json=MUG, headers=headers).status_code
                == status
            )


def test_everything_says_that_it_is_a_sandbox(imagegen_sandbox: Sandbox) -> None:
    """The headers, the model list and the images' metadata tell it from a provider."""
    response = post(imagegen_sandbox, size="64x64")
    assert response.headers["server"] == "dagster-imagegen-sandbox"
    assert response.headers["x-sandbox"] == "dagster-imagegen"
    assert "sandbox" in str(image_of(response).info).lower()
    models = get(f"{imagegen_sandbox.base_url}/models").json()["data"]
    assert {model["owned_by"] for model in models} == {"dagster-imagegen-sandbox"}
    assert get(f"{imagegen_sandbox.base_url}/models/gpt-image-1.5").json() in models


def test_refusals_are_told_as_the_moderation_tells_them() -> None:
    """Phrases, or a predicate, choose the prompts that are blocked, without a bill."""
    with (
        Sandbox(refuse=["Forbidden"], paint=False) as by_phrase,
        Sandbox(refuse=lambda prompt: len(prompt) > 5, paint=False) as by_predicate,
    ):
        for sandbox in (by_phrase, by_predicate):
            response = post(sandbox, prompt="a forbidden mug")
            assert response.status_code == 400
            assert response.json()["error"]["code"] == "moderation_blocked"
            assert response.json()["error"]["moderation_details"]["moderation_stage"] == "input"
            assert not sandbox.requests[0].billed
            assert post(sandbox, prompt="mug").status_code == 200


def test_the_openai_client_works_unchanged(imagegen_sandbox: Sandbox) -> None:
    """Generating, streaming, the model list and typed errors, through OpenAI's own package."""
    with openai.OpenAI(base_url=imagegen_sandbox.base_url, api_key="any", max_retries=0) as client:
        answer = client.images.generate(
            prompt="a red mug", model="gpt-image-1", size="1024x1024", quality="low"
        )
        assert answer.data is not None
        assert answer.usage is not None
        assert answer.usage.output_tokens == 272
        stream = client.images.generate(
            prompt="a red mug",
            model="gpt-image-1",
            size="1024x1024",
            quality="low",
            stream=True,
            partial_images=1,
        )
        *partials, completed = list(stream)
        assert [event.type for event in partials] == ["image_generation.partial_image"]
        assert completed.type == "image_generation.completed"
        assert completed.b64_json == answer.data[0].b64_json
        assert "gpt-image-2.5-flare" in [model.id for model in client.models.list()]
        imagegen_sandbox.script("rate_limited")
        with pytest.raises(openai.RateLimitError) as caught:
            client.images.generate(prompt="a red mug", model="gpt-image-1")
        assert caught.value.code == "rate_limit_exceeded"
