"""Checks of parameters, as a user or a row of a prompt table sets them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from dagster_imagegen.engine.errors import ConfigurationError, InvalidRequest, did_you_mean
from dagster_imagegen.engine.prompts.values import (
    is_empty,
    json_value,
    number_of,
    plain,
    whole_number,
)
from dagster_imagegen.engine.request import (
    PARAMETERS,
    PROMPT,
    ImageParams,
    ImageRequest,
    Kind,
    Parameter,
    canonical_json,
)

_TYPES: Mapping[Kind, tuple[type, str]] = {
    "text": (str, "text"),
    "integer": (int, "an integer"),
    "boolean": (bool, "true or false"),
    "mapping": (Mapping, "a mapping"),
}


def check_params(params: Mapping[str, object]) -> ImageParams:
    """Check parameters where an asset is defined, long before a run.

    Raises:
        ConfigurationError: A name is unknown; the message has the nearest one.
        InvalidRequest: A value has the wrong type or breaks a hard limit.
    """
    for name in params:
        _check_name(name)
    typed = {name: check_param(name, value) for name, value in params.items()}
    probe: dict[str, Any] = {"endpoint_id": "", "model": "any", "prompt": "any", **typed}
    for name in typed:
        if name == "n" or PARAMETERS[name].kind == "mapping":
            del probe[name]
    ImageRequest(**probe).check()
    return cast("ImageParams", typed)


def check_overrides(overrides: Sequence[str]) -> None:
    """Raise `ConfigurationError` unless every name is that of a parameter. Needs no table."""
    if not isinstance(overrides, list | tuple):
        got = f'"{overrides}"' if isinstance(overrides, str) else type(overrides).__name__
        remedy = f"; write overrides=[{got}]" if isinstance(overrides, str) else ""
        raise ConfigurationError(f"overrides must be a list of column names, got {got}{remedy}")
    for name in overrides:
        _check_name(name, place="overrides: ")


def _check_name(name: object, place: str = "") -> None:
    if name not in PARAMETERS:
        raise ConfigurationError(
            f'{place}unknown request parameter "{name}"' + did_you_mean(str(name), PARAMETERS)
        )


def check_param(name: str, value: object, *, in_table: bool = False) -> Any:
    """The checked value of one parameter; raises `InvalidRequest`.

    In a table, whole floats and decimals are integers too, because pandas makes floats of integers
    beside nulls and DuckDB makes decimals of large ones. Integers, booleans and mappings can be
    text there, as in CSV, and null fields of a mapping are left out.
    """
    parameter = PARAMETERS[name]
    if parameter.kind == "mapping":
        return _check_mapping(parameter, _mapping_in_cell(name, value) if in_table else value)
    if in_table:
        return check_value(parameter, _in_cell(parameter, value))
    checked = check_value(parameter, value)
    if checked is not None and is_empty(checked):
        raise InvalidRequest(name, None, "must not be empty", remedy="None leaves it out")
    return checked


def check_value(parameter: Parameter, value: object) -> Any:
    """The plain value, if it has the type and keeps the limits of `parameter`.

    Raises `InvalidRequest` otherwise.
    """
    kind, words = _TYPES[parameter.kind]
    value = plain(value)
    wrong = not isinstance(value, kind) or (kind is int and isinstance(value, bool))
    if wrong and value is not None:
        raise wrong_type(parameter.name, value, words)
    for problem in parameter.problems(value):
        raise problem
    return value


def _in_cell(parameter: Parameter, cell: object) -> object:
    """What a cell stands for where its table has no type for it."""
    cell = plain(cell)
    if parameter.kind == "integer":
        whole = number_of(cell) if isinstance(cell, str) else whole_number(cell)
        return cell if whole is None else whole
    if parameter.kind == "boolean" and isinstance(cell, str):
        return {"true": True, "false": False}.get(cell.strip().lower(), cell)
    return cell


def _check_mapping(parameter: Parameter, value: object) -> Any:
    """Its values appear in no message: a negative_prompt, say, can repeat the prompt."""
    value = json_value(value)
    if value is not None and not isinstance(value, Mapping):
        got = type(value).__name__
        raise InvalidRequest(parameter.name, None, f"must be a mapping, got {got}")
    merge_mappings(parameter.name, cast("Mapping[str, Any] | None", value))
    return value


def wrong_type(name: str, value: object, words: str) -> InvalidRequest:
    """The error for a value that must be of another type: "size must be text, got int 7"."""
    return InvalidRequest(name, value, f"must be {words}", got=type(value).__name__)


def _mapping_in_cell(name: str, cell: object) -> object:
    cell = plain(cell)
    if isinstance(cell, str):
        try:
            return json.loads(cell)
        except ValueError as error:
            raise InvalidRequest(name, cell, f"must be JSON ({error})") from error
    if isinstance(cell, Mapping):
        fields = cast("Mapping[str, object]", cell)
        return {key: value for key, value in fields.items() if value is not None}
    return cell


def merge_mappings(name: str, *layers: Mapping[str, Any] | None) -> str:
    """Canonical JSON of the layers of a mapping parameter, later ones winning; "" for none.

    Raises:
        InvalidRequest: JSON cannot hold a value, or `extra_body` names another part of the body,
            which would pass unchecked there and make the record of the request untrue.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        merged.update(layer or {})
    for key, value in merged.items():
        if PARAMETERS[name].body == "merged" and (key == PROMPT.name or _has_own_place(key)):
            rule = f'must not contain "{key}", which is a parameter of its own'
            raise InvalidRequest(name, None, rule, remedy=f"set {key} itself")
        _check_json(name, key, value)
    return canonical_json(merged) if merged else ""


def _has_own_place(key: str) -> bool:
    parameter = PARAMETERS.get(key)
    return (
        parameter is not None and parameter.body == "field" and not parameter.allowed_in_extra_body
    )


def _check_json(name: str, key: object, value: object) -> None:
    if not isinstance(key, str):
        raise InvalidRequest(name, None, f"must have names that are text, got {key!r}")
    try:
        canonical_json(value)
    except (TypeError, ValueError) as error:
        rule = f'must be JSON, which cannot hold the {type(value).__name__} of "{key}" ({error})'
        raise InvalidRequest(name, None, rule) from error
