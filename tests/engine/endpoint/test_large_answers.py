"""Answers that are nearly all base64, which is decoded where it is."""

import base64
import json

import pytest

from dagster_imagegen.engine.endpoint.body import read_body
from dagster_imagegen.engine.endpoint.failures import AnswerHead, Failure
from dagster_imagegen.engine.endpoint.response import GeneratedImage
from tests.engine.endpoint.peer import PNG

HEAD = AnswerHead(http_status=200, headers={"content-type": "application/json"}, now=0.0)
IMAGE = PNG + bytes(range(256)) * 400
OTHER = PNG + bytes(range(255, -1, -1)) * 400
B64, OTHER_B64 = base64.b64encode(IMAGE).decode(), base64.b64encode(OTHER).decode()
USAGE = {"output_tokens": 7, "total_tokens": 9}


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"data": [{"b64_json": B64, "revised_prompt": "r"}], "usage": USAGE}),
        json.dumps({"usage": USAGE, "data": [{"revised_prompt": "r", "b64_json": B64}]}, indent=2),
        json.dumps(
            {"usage": USAGE, "data": [{"b64_json": B64, "revised_prompt": "r"}, {"b64_json": "AA"}]}
        ),
        json.dumps(
            {"data": [{"b64_json": B64, "revised_prompt": "r"}, {"b64_json": OTHER_B64}]}
            | {"usage": USAGE}
        ),
        json.dumps({"data": [{"b64_json": B64, "revised_prompt": "r"}], "usage": USAGE}).replace(
            "/", "\\/"
        ),
        json.dumps(
            {
                "data": [{"b64_json": f"data:image/png;base64,{B64}", "revised_prompt": "r"}],
                "usage": USAGE,
            }
        ),
    ],
    ids=["plain", "indented", "short second", "two images", "escaped", "data url"],
)
def test_a_large_image_is_whole_with_what_stands_beside_it(body: str) -> None:
    """However its base64 is written, and wherever it stands."""
    result = read_body(bytearray(body.encode()), HEAD)
    assert isinstance(result, GeneratedImage), result
    assert result.data == IMAGE
    assert result.revised_prompt == "r"
    assert result.tokens is not None
    assert result.tokens.output_tokens == 7


@pytest.mark.parametrize("place", [5000, -5])
def test_broken_base64_is_a_failure_also_where_its_beginning_is_good(place: int) -> None:
    """The beginning alone, with which it is recognized, is never taken for the image."""
    broken = f"{B64[:place]}!{B64[place + 1 :]}"
    result = read_body(json.dumps({"data": [{"b64_json": broken}]}).encode(), HEAD)
    assert isinstance(result, Failure)
    assert result.code == "broken_base64"


def test_an_image_in_json_that_is_cut_off_later_is_whole() -> None:
    """What is missing after the image loses nothing."""
    result = read_body(json.dumps({"data": [{"b64_json": B64}]}).encode()[:-1], HEAD)
    whole = json.dumps({"data": [{"b64_json": B64}]}).encode()[:-2] + b",}]}"
    assert not isinstance(result, GeneratedImage) or result.data == IMAGE
    found = read_body(whole, HEAD)
    assert isinstance(found, GeneratedImage)
    assert found.data == IMAGE
