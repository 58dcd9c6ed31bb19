"""Checks of parameters, as a user or a row of a prompt table sets them."""

import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from numbers import Integral
from typing import Any, cast

from dagster_imagegen.engine.errors import ConfigurationError, InvalidRequest, did_you_mean
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
    if isinstance(overrides, str):
        raise ConfigurationError(
            f'overrides must be a list of column names; write overrides=["{overrides}"]'
        )
    for name in overrides:
        _check_name(name, place="overrides: ")


def _check_name(name: str, place: str = "") -> None:
    if name not in PARAMETERS:
        raise ConfigurationError(
            f'{place}unknown request parameter "{name}"' + did_you_mean(name, PARAMETERS)
        )


def check_param(name: str, value: object, *, in_table: bool = False) -> Any:
    """The checked value of one parameter; raises `InvalidRequest`.

    In a table, whole floats and decimals are integers too, because pandas makes floats of integers
    beside nulls and DuckDB makes decimals of large ones. A mapping there can be JSON text, or a
    struct, whose null fields are left out.
    """
    parameter = PARAMETERS[name]
    if parameter.kind == "mapping" and in_table:
        value = _mapping_in_cell(name, value)
    checked = check_value(parameter, value, in_table=in_table)
    if parameter.kind == "mapping":
        merge_mappings(name, checked)
    return checked


def check_value(parameter: Parameter, value: object, *, in_table: bool = False) -> Any:
    """The value, if it has the type and keeps the limits of `parameter`; else `InvalidRequest`."""
    kind, words = _TYPES[parameter.kind]
    if parameter.kind == "integer" and (in_table or isinstance(value, Integral)):
        whole = whole_number(value)
        value = value if whole is None else whole
    wrong = not isinstance(value, kind) or (kind is int and isinstance(value, bool))
    if wrong and value is not None:
        raise wrong_type(parameter.name, value, words)
    for problem in parameter.problems(value):
        raise problem
    return value


def wrong_type(name: str, value: object, words: str) -> InvalidRequest:
    """The error for a value that must be of another type: "size must be text, got int 7"."""
    return InvalidRequest(name, value, f"must be {words}", got=type(value).__name__)


def _mapping_in_cell(name: str, cell: object) -> object:
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
    if PARAMETERS[name].body == "merged":
        for key in merged:
            if key == PROMPT.name or (key in PARAMETERS and PARAMETERS[key].body == "field"):
                rule = f'must not contain "{key}", which is a parameter of its own'
                raise InvalidRequest(name, merged, rule, remedy=f"set {key} itself")
    try:
        return canonical_json(merged) if merged else ""
    except (TypeError, ValueError) as error:
        raise InvalidRequest(name, merged, f"must be JSON ({error})") from error


def is_null(value: object) -> bool:
    """Whether a cell is None, or NaN or NaT (which do not equal themselves), as pandas has it."""
    return value is None or (isinstance(value, float | datetime) and value != value)  # noqa: PLR0124  # see above


def whole_number(value: object) -> int | None:
    """The integer that a number stands for: 3 for 3, 3.0 and Decimal("3.00"); else None."""
    if isinstance(value, bool):
        return None
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, float | Decimal) and math.isfinite(value) and value == int(value):
        return int(value)
    return None
