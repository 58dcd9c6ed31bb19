"""The parameters of a request, by name and type, as a user or a row sets them."""

import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from numbers import Integral
from typing import Any, cast

from dagster_imagegen.engine.errors import ConfigurationError, InvalidRequest, did_you_mean
from dagster_imagegen.engine.request import (
    ImageParams,
    ImageRequest,
    canonical_json,
    has_lone_surrogate,
)

PARAMETERS = tuple(ImageParams.__annotations__)
INTEGER_MAX = 2**31 - 1
"""The largest integer parameter: what an int32 column of the usage table holds."""

N_MAX = 10_000
"""The most images of one row: a year or a price in the wrong column is not an order."""

_TEXTS = (
    "model",
    "size",
    "quality",
    "background",
    "output_format",
    "moderation",
    "user",
)
_INTEGERS = ("n", "output_compression", "partial_images", "revision")
_NEVER_NULL = ("model", "n", "revision")
_SENT = ("prompt", *(name for name in PARAMETERS if name not in ("extra_body", "revision")))


def check_params(params: Mapping[str, object]) -> ImageParams:
    """The same parameters, known by name, of the right type and within the hard limits.

    Raises `ConfigurationError` with the nearest name, or `InvalidRequest`, so that a misspelt or
    impossible parameter is an error where an asset is defined, long before a run.
    """
    for name in params:
        if name not in PARAMETERS:
            raise ConfigurationError(
                f'"{name}" is not a parameter of an image request' + did_you_mean(name, PARAMETERS)
            )
    typed = {name: check_param(name, value) for name, value in params.items()}
    probe: dict[str, Any] = {"endpoint_id": "", "model": "any", "prompt": "any", **typed}
    for name in ("n", "extra_body"):
        probe.pop(name, None)
    ImageRequest(**probe).check()
    return cast("ImageParams", typed)


def check_overrides(overrides: Sequence[str]) -> None:
    """Raise `ConfigurationError` unless every name is that of a parameter.

    Can be called where an asset is defined, before there is a table.
    """
    if isinstance(overrides, str):
        raise ConfigurationError(
            f'overrides is a list of column names; write overrides=["{overrides}"]'
        )
    for name in overrides:
        if name not in PARAMETERS:
            raise ConfigurationError(
                f'overrides: "{name}" is not a parameter of an image request'
                + did_you_mean(name, PARAMETERS)
            )


def check_param(name: str, value: object, *, in_table: bool = False) -> Any:
    """The value of one parameter, or `InvalidRequest` if its type is wrong.

    In a table whole floats and decimals are integers too: pandas makes floats of integers
    where some are missing, DuckDB makes decimals of large ones.
    """
    if value is None and name not in _NEVER_NULL:
        return None
    if name in _TEXTS:
        if not isinstance(value, str):
            raise InvalidRequest(name, value, f"is text, not {type(value).__name__}")
        if has_lone_surrogate(value):
            raise InvalidRequest(name, value, "holds a lone surrogate, which UTF-8 cannot carry")
        return value
    if name in _INTEGERS:
        return _integer(name, value, in_table=in_table)
    if name == "stream":
        if not isinstance(value, bool):
            raise InvalidRequest(name, value, f"is true or false, not {type(value).__name__}")
        return value
    return _cell_extra_body(value) if in_table else _checked_extra_body(value)


def _checked_extra_body(value: object) -> object:
    merge_extra_body(value)
    return value


def _cell_extra_body(value: object) -> object:
    """JSON text, or a struct, whose null fields are those that the row leaves out."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise InvalidRequest("extra_body", value, f"is not JSON: {error}") from error
    elif isinstance(value, Mapping):
        fields = cast("Mapping[str, object]", value)
        value = {name: field for name, field in fields.items() if field is not None}
    return _checked_extra_body(value)


def _integer(name: str, value: object, *, in_table: bool) -> int:
    whole = whole_number(value) if in_table or isinstance(value, Integral) else None
    if whole is None:
        raise InvalidRequest(name, value, f"is an integer, not {type(value).__name__}")
    most = N_MAX if name == "n" else INTEGER_MAX
    if whole > most:
        raise InvalidRequest(name, value, f"is at most {most:,}")
    if name == "n" and whole < 1:
        raise InvalidRequest(name, value, "is at least 1; leave rows out that are not wanted")
    return whole


def is_null(value: object) -> bool:
    """None, or what pandas has in its place: NaN and NaT, which alone do not equal themselves."""
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


def merge_extra_body(*layers: object) -> str:
    """Canonical JSON of extra body parameters, later layers winning; "" when there are none.

    Refuses the reference's own parameters: set beside their own names they would go unchecked,
    and `n` or `prompt` would make the record of the request untrue.
    """
    merged: dict[str, object] = {}
    for layer in layers:
        if layer is None:
            continue
        if not isinstance(layer, Mapping):
            raise InvalidRequest("extra_body", layer, f"is a mapping, not {type(layer).__name__}")
        merged.update(cast("Mapping[str, object]", layer))
    for name in merged:
        if name in _SENT:
            raise InvalidRequest(
                "extra_body", merged, f'"{name}" is a parameter of its own; set it by that name'
            )
    try:
        return canonical_json(merged) if merged else ""
    except (TypeError, ValueError) as error:
        raise InvalidRequest("extra_body", merged, f"is not JSON: {error}") from error
