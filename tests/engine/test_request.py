"""One request: its hard limits, its body, its fingerprint, and the types of its parameters."""

import json
from decimal import Decimal
from typing import Any

import pytest

from dagster_imagegen.engine.errors import ConfigurationError, InvalidRequest
from dagster_imagegen.engine.prompts.parameters import (
    INTEGER_MAX,
    N_MAX,
    check_overrides,
    check_param,
    check_params,
    merge_extra_body,
)
from dagster_imagegen.engine.request import ImageRequest

PLAIN: dict[str, Any] = {"endpoint_id": "here", "model": "m", "prompt": "a mug"}


def a_request(**changes: Any) -> ImageRequest:
    return ImageRequest(**{**PLAIN, **changes})


def test_the_body_has_nothing_that_was_not_set():
    """Only model, prompt, n and size are sent unless the user set more."""
    assert a_request().body() == {"model": "m", "prompt": "a mug", "n": 1, "size": "auto"}
    assert "size" not in a_request(size=None).body()
    assert a_request(extra_body='{"seed":7}').body()["seed"] == 7
    assert a_request(output_compression=0, stream=False).body().items() >= {
        ("output_compression", 0),
        ("stream", False),
    }


def test_variants_differ_in_their_fingerprint_alone():
    """The endpoint is asked the same thing n times; storage tells the answers apart."""
    first, second = a_request(variant=0), a_request(variant=1)
    assert first.body() == second.body()
    assert first.fingerprint != second.fingerprint


def test_a_fingerprint_is_stable():
    """A changed fingerprint would buy every image again, so this one is written down."""
    assert (
        a_request().fingerprint
        == "7fe71398e516c57e6c27e9571df180b4203b8ef6a3a06572eae20baec65168a7"
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("endpoint_id", "there"),
        ("model", "other"),
        ("prompt", "a mug "),
        ("size", None),
        ("quality", "high"),
        ("background", "opaque"),
        ("output_format", "webp"),
        ("output_compression", 50),
        ("extra_body", '{"seed":7}'),
        ("revision", 1),
        ("variant", 1),
    ],
)
def test_what_decides_the_image_decides_the_fingerprint(name: str, value: object):
    """Each of these alone makes another image."""
    assert a_request(**{name: value}).fingerprint != a_request().fingerprint


@pytest.mark.parametrize(
    ("name", "value"),
    [("user", "me"), ("moderation", "low"), ("stream", True), ("partial_images", 2)],
)
def test_what_does_not_decide_the_image_is_not_in_the_fingerprint(name: str, value: object):
    """An image made while streaming is the image made without."""
    assert a_request(**{name: value}).fingerprint == a_request().fingerprint


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": " \n"}, "prompt"),
        ({"prompt": "x" * 32_001}, "prompt"),
        ({"prompt": "a \ud800 mug"}, "prompt"),
        ({"model": ""}, "model"),
        ({"user": "u" * 257}, "user"),
        ({"output_compression": -1}, "output_compression"),
        ({"output_compression": 101}, "output_compression"),
        ({"background": "transparent", "output_format": "jpeg"}, "background"),
        ({"partial_images": -1}, "partial_images"),
        ({"revision": -1}, "revision"),
    ],
)
def test_a_hard_limit_is_named(changes: dict[str, Any], field: str):
    """What the reference refuses for certain is refused before it is sent."""
    with pytest.raises(InvalidRequest) as caught:
        a_request(**changes).check()
    assert caught.value.field == field


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": "x" * 32_000},
        {"prompt": "\x00 and 🫖"},
        {"user": "u" * 256},
        {"output_compression": 0},
        {"output_compression": 100},
        {"background": "transparent", "output_format": "webp"},
        {"background": "transparent"},
        {"size": "7680x4320", "quality": "ultra", "output_format": "svg"},
        {"stream": True},
    ],
)
def test_what_the_endpoint_may_take_is_left_to_it(changes: dict[str, Any]):
    """Sizes, models and qualities are the endpoint's to judge."""
    a_request(**changes).check()


def test_the_reference_streams_only_with_partial_images():
    """A rule of the reference's own endpoint, held only there."""
    with pytest.raises(InvalidRequest, match="at least 1"):
        a_request(stream=True).check(streaming_needs_partials=True)
    a_request(stream=True, partial_images=1).check(streaming_needs_partials=True)


def test_all_problems_of_a_request_are_told():
    """One pass over a table is to find everything."""
    broken = a_request(prompt=" ", user="u" * 257, output_compression=101)
    assert [each.field for each in broken.problems()] == ["prompt", "user", "output_compression"]


def test_a_misspelt_parameter_has_a_nearest_name():
    """A parameter that nobody knows would silently change nothing."""
    with pytest.raises(ConfigurationError, match=r'"qualty" is not .*did you mean "quality"'):
        check_params({"qualty": "high"})
    with pytest.raises(ConfigurationError, match='did you mean "size"'):
        check_overrides(["Size"])
    with pytest.raises(ConfigurationError, match="there is model, n, size"):
        check_params({"zzzzzz": 1})
    with pytest.raises(ConfigurationError, match=r'overrides=\["size"\]'):
        check_overrides("size")


@pytest.mark.parametrize(
    "params",
    [
        {"n": 0},
        {"n": None},
        {"n": True},
        {"n": 1.0},
        {"n": N_MAX + 1},
        {"revision": -1},
        {"revision": "1"},
        {"revision": INTEGER_MAX + 1},
        {"output_compression": "80"},
        {"output_compression": 101},
        {"partial_images": -1},
        {"size": 1024},
        {"quality": b"high"},
        {"user": "\udc00"},
        {"model": None},
        {"model": ""},
        {"stream": 1},
        {"extra_body": ["seed"]},
        {"background": "transparent", "output_format": "jpeg"},
    ],
)
def test_a_wrong_parameter_is_an_error_where_it_is_written(params: dict[str, Any]):
    """The definition of an asset fails, not its run at night."""
    with pytest.raises(InvalidRequest):
        check_params(params)


def test_sound_parameters_pass_as_they_are():
    """None is a choice: `size=None` leaves the size out."""
    params: dict[str, Any] = {"n": 3, "size": None, "stream": True, "extra_body": {"seed": 1}}
    assert check_params(params) == params


@pytest.mark.parametrize("cell", [3, 3.0, Decimal("3.00")])
def test_whole_numbers_in_a_table_are_integers(cell: object):
    """pandas makes floats of integers beside nulls, DuckDB decimals of sums."""
    assert check_param("n", cell, in_table=True) == 3


@pytest.mark.parametrize("cell", [2.5, float("inf"), "3", True, 0, -1, Decimal("2.5")])
def test_other_cells_are_no_number_of_images(cell: object):
    """What only looks like a number is a question for the author of the table."""
    with pytest.raises(InvalidRequest):
        check_param("n", cell, in_table=True)


def test_extra_body_is_merged_and_spelt_one_way():
    """Later layers win; the order of keys does not make another image."""
    merged = merge_extra_body({"seed": 1, "b": {"y": 1, "x": 2}}, None, {"seed": 2, "a": None})
    assert merged == '{"a":null,"b":{"x":2,"y":1},"seed":2}'
    assert merge_extra_body({}, None) == ""
    assert check_param("extra_body", '{"seed": 1}', in_table=True) == {"seed": 1}
    assert check_param("extra_body", {"seed": 1, "b": None}, in_table=True) == {"seed": 1}


@pytest.mark.parametrize("name", ["prompt", "model", "n", "size", "stream", "user"])
def test_extra_body_cannot_set_a_parameter_of_its_own(name: str):
    """It would go unchecked past limits, fingerprint and usage row."""
    with pytest.raises(InvalidRequest, match=f'"{name}" is a parameter of its own'):
        merge_extra_body({name: 1})


@pytest.mark.parametrize("value", [float("nan"), b"bytes", object()])
def test_extra_body_is_json(value: object):
    """What JSON cannot carry is refused before a request is built of it."""
    with pytest.raises(InvalidRequest, match="is not JSON"):
        merge_extra_body({"seed": value})
    with pytest.raises(InvalidRequest, match="is not JSON"):
        check_param("extra_body", "{", in_table=True)


def test_the_body_is_json_that_utf8_carries():
    """Every prompt that passes `check` can be written to the wire."""
    body = a_request(prompt="🫖 \x00 “quoted”").body()
    assert json.loads(json.dumps(body).encode()) == body
