"""What a value is, whichever library it comes from: null, a number, text, or a time."""

import struct
import sys
from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal, InvalidOperation
from enum import Enum
from numbers import Integral
from typing import Any, cast
from uuid import UUID

import pyarrow as pa

DIGITS_MAX = 400
"""A decimal with more digits before or after its point is no number of a prompt table."""

_PANDAS_NULLS = ("NAType", "NaTType")
_SHORT_FLOATS = {2: "e", 4: "f"}
"""The codes by which `struct` reads floats of that many bytes."""


def plain(value: object) -> Any:
    """The Python value that a cell or an argument stands for; None for every kind of null.

    None, NaN, NaT and pd.NA are null. Scalars of numpy and pyarrow become Python's, an enum its
    value, a UUID its text. A float32 keeps the digits that it was written with: 4.99.
    """
    if type(value) in (str, int, bool):
        return value
    if is_null(value):
        return None
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, pa.Scalar):
        scalar = cast("pa.Scalar[Any]", value)
        return plain(narrowed(scalar.type)(scalar.as_py()))
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.generic):
        return _from_numpy(value)
    if isinstance(value, UUID):
        return str(value)
    return str.__str__(value) if isinstance(value, str) else value


def is_null(value: object) -> bool:
    """Whether it is None, NaN, NaT or pd.NA."""
    if value is None or type(value).__name__ in _PANDAS_NULLS:
        return True
    if isinstance(value, Decimal):
        return value.is_nan()
    return isinstance(value, float | datetime) and value != value  # noqa: PLR0124  # NaN does not equal itself


def is_empty(value: object) -> bool:
    """Whether a cell is null, or text without a character to see: what CSV has for null."""
    return value is None or (isinstance(value, str) and not value.strip())


def narrowed(kind: Any) -> Callable[[Any], Any]:  # Any: the stubs know no common type
    """How to correct the Python values of an Arrow type: a float32 of 4.99 is read as
    4.989999771118164. Applies inside lists and structs too."""
    if pa.types.is_float16(kind) or pa.types.is_float32(kind):
        return lambda value: None if value is None else _shortest(value, kind.bit_width // 8)
    if pa.types.is_dictionary(kind):
        return narrowed(kind.value_type)
    if pa.types.is_struct(kind):
        fields = {each.name: narrowed(each.type) for each in kind}
        return lambda value: value and {name: fields[name](value[name]) for name in value}
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        item = narrowed(kind.value_type)
        return lambda value: value and [item(each) for each in value]
    return lambda value: value


def json_value(value: object) -> Any:
    """A value as JSON has it: plain at any depth, decimals as numbers."""
    value = plain(value)
    if isinstance(value, Mapping):
        fields = cast("Mapping[object, object]", value)
        return {key: json_value(each) for key, each in fields.items()}
    if isinstance(value, list | tuple):
        return [json_value(each) for each in cast("list[object]", value)]
    if isinstance(value, Decimal):
        whole = whole_number(value)
        return float(value) if whole is None else whole
    return value


def whole_number(value: object) -> int | None:
    """The integer that a number stands for: 3 for 3, 3.0 and Decimal("3.00"); else None."""
    if isinstance(value, bool):
        return None
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    if not isinstance(value, Decimal) or not value.is_finite() or is_immense(value):
        return None
    return int(value) if value == int(value) else None


def number_of(text: str) -> int | None:
    """The integer that a text stands for, as in "3" or "3.0"; else None."""
    try:
        return whole_number(Decimal(text.strip()))
    except InvalidOperation:
        return None


def is_immense(value: Decimal) -> bool:
    """Whether a decimal, written out, is longer than any number that is meant."""
    return value.is_finite() and abs(value.adjusted()) > DIGITS_MAX


def _from_numpy(value: Any) -> Any:
    kind, size = value.dtype.kind, value.dtype.itemsize
    if kind == "f":
        return plain(_shortest(float(value), size))
    python = value.item()
    if kind == "M" and isinstance(python, int):  # Nanoseconds, for which Python has no type.
        python = value.astype("datetime64[us]").item()
    return plain(python)


def _shortest(value: float, size: int) -> float:
    """The number with the fewest digits that a float of `size` bytes reads as `value`."""
    code = _SHORT_FLOATS.get(size)
    if code is None or not abs(value) < float("inf"):
        return value
    candidates = (float(f"{value:.{digits}g}") for digits in range(1, 9))
    return next((each for each in candidates if _as_short(each, code) == value), value)


def _as_short(value: float, code: str) -> float | None:
    try:
        return struct.unpack(code, struct.pack(code, value))[0]
    except OverflowError:
        return None
