"""One request: its hard limits, its body, its fingerprint, and the types of its parameters."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from decimal import Decimal
from types import UnionType
from typing import Annotated, Any, get_args, get_type_hints

import pyarrow as pa
import pytest

from dagster_imagegen.engine.errors import ConfigurationError, InvalidRequest
from dagster_imagegen.engine.prompts import parameters
from dagster_imagegen.engine.prompts.parameters import (
    check_overrides,
    check_param,
    check_params,
    merge_mappings,
)
from dagster_imagegen.engine.record.schema import SCHEMA
from dagster_imagegen.engine.request import (
    INTEGER_MAX,
    N_MAX,
    PARAMETERS,
    ImageParams,
    ImageRequest,
    Parameter,
)

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


def test_equal_values_of_different_types_keep_different_fingerprints():
    """JSON writes True and 1 differently, and what is made once for many requests must too."""
    assert a_request(revision=1).fingerprint != a_request(revision=True).fingerprint


def test_variants_differ_in_their_fingerprint_alone():
    """The endpoint is asked the same thing n times; storage tells the answers apart."""
    first, second = a_request(variant=0), a_request(variant=1)
    assert first.body() == second.body()
    assert first.fingerprint != second.fingerprint


@pytest.mark.parametrize(
    ("changes", "fingerprint"),
    [
        ({}, "7fe71398e516c57e6c27e9571df180b4203b8ef6a3a06572eae20baec65168a7"),
        ({"size": None}, "2524bdc8f7904d81bd4f790bb85e67ebb2a761d9d2b5441e131fc840cf1d021b"),
        (
            {"output_compression": 0, "revision": 2**31},
            "610fcd5e8d3b8edeefc6af4619e04dba782b358b26d6c1205f20cbb4bd34d3e8",
        ),
        (
            {"quality": "high", "extra_body": r'{"negative_prompt":"caf\u00e9"}'},
            "15ce2563a0e34e07ae5f8a12eb53bf89251d136ca40d2b41c916d4fac4e2032c",
        ),
        (
            {
                "endpoint_id": "sandbox",
                "model": "gpt-image-1",
                "prompt": "a mug 🫖 \x00",
                "size": "1024x1024",
                "quality": "low",
                "background": "transparent",
                "output_format": "webp",
                "output_compression": 80,
                "moderation": "low",
                "stream": True,
                "partial_images": 2,
                "user": "me",
                "extra_body": '{"seed":7}',
                "revision": 3,
                "variant": 2,
            },
            "8f58175898056433b979d9d274725376705603924014c96f657aed457e1feb49",
        ),
    ],
)
def test_a_fingerprint_is_stable(changes: dict[str, Any], fingerprint: str):
    """A changed fingerprint would buy every image again, so these are written down."""
    assert a_request(**changes).fingerprint == fingerprint


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


def test_all_problems_of_a_request_are_reported():
    """One pass over a table finds everything."""
    broken = a_request(prompt=" ", user="u" * 257, output_compression=101)
    assert [each.field for each in broken.problems()] == ["prompt", "output_compression", "user"]


def test_a_misspelt_parameter_has_a_nearest_name():
    """An unknown parameter would silently change nothing."""
    with pytest.raises(
        ConfigurationError, match='unknown request parameter "qualty"; did you mean "quality"'
    ):
        check_params({"qualty": "high"})
    with pytest.raises(ConfigurationError, match='did you mean "size"'):
        check_overrides(["Size"])
    with pytest.raises(ConfigurationError, match="known names: n, model, size"):
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


@pytest.mark.parametrize("cell", [2.5, float("inf"), "2.5", "three", True, 0, -1, Decimal("2.5")])
def test_other_cells_are_no_number_of_images(cell: object):
    """A value that only looks like a number is an error of the table."""
    with pytest.raises(InvalidRequest):
        check_param("n", cell, in_table=True)


def merge(*layers: Mapping[str, Any] | None) -> str:
    return merge_mappings("extra_body", *layers)


def test_extra_body_is_merged_and_spelt_one_way():
    """Later layers win; the order of keys does not make another image."""
    merged = merge({"seed": 1, "b": {"y": 1, "x": 2}}, None, {"seed": 2, "a": None})
    assert merged == '{"a":null,"b":{"x":2,"y":1},"seed":2}'
    assert merge({}, None) == ""
    assert check_param("extra_body", '{"seed": 1}', in_table=True) == {"seed": 1}
    assert check_param("extra_body", {"seed": 1, "b": None}, in_table=True) == {"seed": 1}


@pytest.mark.parametrize("name", ["prompt", "model", "n", "size", "stream", "user"])
def test_extra_body_cannot_set_a_parameter_of_its_own(name: str):
    """It would pass unchecked by limits, fingerprint and usage row."""
    with pytest.raises(InvalidRequest, match=f'must not contain "{name}"'):
        merge({name: 1})
    assert merge({"revision": 1}) == '{"revision":1}'  # It is not sent by that name.


@pytest.mark.parametrize("value", [float("nan"), b"bytes", object()])
def test_extra_body_is_json(value: object):
    """What JSON cannot carry is refused before a request is built of it."""
    with pytest.raises(InvalidRequest, match="must be JSON"):
        merge({"seed": value})
    with pytest.raises(InvalidRequest, match="must be JSON"):
        check_param("extra_body", "{", in_table=True)


def test_the_body_is_json_that_utf8_carries():
    """Every prompt that passes `check` can be written to the wire."""
    body = a_request(prompt="🫖 \x00 “quoted”").body()
    assert json.loads(json.dumps(body).encode()) == body


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"size": 1024}, "size must be text, got int 1024"),
        ({"n": "two"}, "n must be an integer, got str 'two'"),
        ({"stream": 1}, "stream must be true or false, got int 1"),
        ({"extra_body": ["seed"]}, "extra_body must be a mapping, got list"),
        ({"revision": -1}, "revision must be at least 0, got -1"),
        ({"revision": 2**31}, "revision must be at most 2,147,483,647, got 2147483648"),
        ({"output_compression": 101}, "output_compression must be at most 100, got 101"),
        ({"model": ""}, "model must not be empty"),
        ({"n": None}, "n must be set"),
        (
            {"background": "transparent", "output_format": "jpeg"},
            "background must not be transparent with output_format 'jpeg', got 'transparent'; "
            "use output_format png or webp",
        ),
    ],
)
def test_a_message_states_the_rule_and_the_value(params: dict[str, Any], message: str):
    """The reader learns what to write instead."""
    with pytest.raises(InvalidRequest) as caught:
        check_params(params)
    assert str(caught.value) == message


# -- the table of parameters -----------------------------------------------------------------------

TYPES = {"text": str, "integer": int, "boolean": bool, "mapping": Mapping}
SAMPLES: dict[str, Any] = {"text": "x", "integer": 7, "boolean": True, "mapping": {"x": 1}}
COLUMNS = {"string": pa.string(), "int32": pa.int32(), "int64": pa.int64(), "bool": pa.bool_()}
NOT_OF_THE_REQUEST = {"n"}


def test_the_table_is_in_step_with_the_types():
    """Each parameter is in `ImageParams`, with its type, and (but for `n`) in `ImageRequest`."""
    hints = get_type_hints(ImageParams)
    assert hints.keys() == PARAMETERS.keys()
    in_request = {each.name for each in fields(ImageRequest)}
    assert PARAMETERS.keys() - in_request == NOT_OF_THE_REQUEST
    assert in_request - PARAMETERS.keys() == {"endpoint_id", "prompt", "variant"}
    for name, parameter in PARAMETERS.items():
        types = get_args(hints[name]) if isinstance(hints[name], UnionType) else (hints[name],)
        assert (type(None) in types) == parameter.nullable
        plain = [getattr(each, "__origin__", each) for each in types if each is not type(None)]
        assert plain == [TYPES[parameter.kind]]


@pytest.mark.parametrize("parameter", PARAMETERS.values(), ids=lambda each: each.name)
def test_a_row_of_the_table_decides_checks_body_fingerprint_and_column(parameter: Parameter):
    """All of these follow from the row, for each parameter alike."""
    name, value = parameter.name, SAMPLES[parameter.kind]
    check_overrides([name])
    assert check_params({name: value}) == {name: value}
    assert check_param(name, value, in_table=True) == value
    wrong = "x" if parameter.kind == "integer" else 7
    with pytest.raises(InvalidRequest, match=f"^{name} must be .*, got {type(wrong).__name__}"):
        check_params({name: wrong})
    if parameter.nullable:
        assert check_params({name: None}) == {name: None}
    if parameter.kind == "integer":
        for beyond in (parameter.minimum - 1, parameter.maximum + 1):
            with pytest.raises(InvalidRequest, match=f"^{name} must be at (least|most)"):
                check_params({name: beyond})
    assert (name in SCHEMA.names) == (parameter.column_type is not None)
    if parameter.column_type:
        field = SCHEMA.field(name)
        assert field.type == COLUMNS[parameter.column_type]
        assert field.metadata == {b"description": parameter.description.encode()}
    if name in NOT_OF_THE_REQUEST:
        return
    held = merge_mappings(name, value) if parameter.kind == "mapping" else value
    request, plain = a_request(**{name: held}), a_request()
    assert (request.fingerprint != plain.fingerprint) == (parameter.fingerprint != "no")
    assert request.recorded(prompts=True).get(name) == held
    assert request.recorded(prompts=False).get(name) == (None if parameter.repeats_prompt else held)
    added = {"field": {name: value}, "merged": value, "no": {}}[parameter.body]
    assert request.body() == {**plain.body(), **added}


def test_columns_of_the_usage_table_keep_their_order():
    """Readers who name no columns see the same ones, in the same places."""
    request = SCHEMA.names[SCHEMA.names.index("endpoint_id") : SCHEMA.names.index("worst_case_usd")]
    assert " ".join(request) == (
        "endpoint_id model prompt_sha256 prompt size quality background output_format "
        "output_compression moderation stream partial_images user extra_body revision "
        "complexity frame_count frame_duration_ms svg safety_identifier"
    )


@dataclass(frozen=True, kw_only=True)
class LaterRequest(ImageRequest):
    """The request of a later release, with a parameter of each kind more."""

    mood: Annotated[str | None, Parameter("text")] = None
    layers: Annotated[int | None, Parameter("integer", minimum=2, maximum=16)] = None
    style: Annotated[str, Parameter("mapping")] = ""
    tenant: Annotated[str | None, Parameter("text", fingerprint="no")] = None


def later(**changes: Any) -> LaterRequest:
    return LaterRequest(**{**PLAIN, **changes})


def test_a_new_parameter_is_one_annotated_field():
    """Body, limits and usage columns follow from it."""
    request = later(mood="high", layers=17, style='{"lines":2}', tenant="s")
    added = {"mood": "high", "layers": 17, "style": {"lines": 2}, "tenant": "s"}
    assert request.body() == {**a_request().body(), **added}
    assert [str(each) for each in request.problems()] == ["layers must be at most 16, got 17"]
    assert request.recorded(prompts=True).items() >= {("layers", 17), ("style", '{"lines":2}')}


def test_a_new_parameter_changes_no_fingerprint_until_it_is_set():
    """A release with more parameters must not buy the images of an earlier one again."""
    assert later().fingerprint == a_request().fingerprint
    assert later(tenant="s").fingerprint == a_request().fingerprint
    for name, value in (("mood", "high"), ("layers", 2), ("style", "{}")):
        assert later(**{name: value}).fingerprint != a_request().fingerprint


def test_a_new_mapping_is_read_from_tables_too(monkeypatch: pytest.MonkeyPatch):
    """Its checks follow from the table of parameters, not from its name."""
    style = Parameter("mapping", name="style")
    monkeypatch.setattr(parameters, "PARAMETERS", {**PARAMETERS, "style": style})
    assert check_param("style", '{"lines": 2}', in_table=True) == {"lines": 2}
    with pytest.raises(InvalidRequest, match="style must be a mapping, got str"):
        check_param("style", "{}")


SVG = '{"model":"gpt-image-2.5-flare","reasoning":{"effort":"low"}}'


@pytest.mark.parametrize(
    ("name", "value", "unpriced"),
    [
        ("complexity", "high", True),
        ("frame_count", 2, True),
        ("frame_duration_ms", 100, True),
        ("svg", SVG, True),
        ("output_format", "gif", True),
        ("output_format", "svg", True),
        ("safety_identifier", "customer-7", False),
        ("output_format", "webp", False),
    ],
)
def test_what_has_no_published_price_is_named(name: str, value: object, *, unpriced: bool):
    """So that a budget does not take the price of one still picture for it."""
    request = a_request(**{name: value})
    assert request.unpriced == ((name,) if unpriced else ())


@pytest.mark.parametrize(
    "name", ["complexity", "frame_count", "frame_duration_ms", "svg", "safety_identifier"]
)
def test_what_extra_body_had_to_carry_before_it_still_can(name: str):
    """The images made so keep their fingerprints; but one of the two places has to be chosen."""
    held = merge({name: 2})
    request = a_request(extra_body=held)
    assert request.body()[name] == 2
    assert [*request.problems()] == []
    assert request.unpriced == (() if name == "safety_identifier" else (name,))
    twice = a_request(extra_body=held, **{name: 3 if name.startswith("frame") else SVG})
    assert [str(each).partition(", got")[0] for each in twice.problems()] == [
        f"{name} must not be set in extra_body as well"
    ]


@pytest.mark.parametrize("count", [1, 17])
def test_a_gif_has_2_to_16_frames(count: int):
    """Published limits, so that a wrong number is an error before anything is sent."""
    with pytest.raises(InvalidRequest, match="frame_count must be at"):
        check_params({"frame_count": count})
