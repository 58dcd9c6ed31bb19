"""Reading what endpoints write: JSON of any shape, and the few values in it that mean something.

Nothing here trusts its input. What is absent, null, of another type, negative or too large for a
table reads as None; text comes out without what a table, a log or a terminal cannot hold.
"""

import json
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, TypeVar, cast

import pydantic_core

from dagster_imagegen.engine.attempt import TokenUsage

MESSAGE_CHARACTERS = 500
TEXT_CHARACTERS = 100_000
COUNT_MAX = 2**63 - 1
XAI_TICKS_PER_USD = 10**10
T = TypeVar("T")


def load_json(data: bytes | bytearray | str) -> Any:
    """The value of a JSON document; ValueError if it is none.

    Lone surrogates and raw control characters, which the fast parser refuses, are let through:
    an image must not be lost over the spelling of its revised prompt.
    """
    try:
        return pydantic_core.from_json(data, cache_strings="keys")
    except ValueError:
        text = data if isinstance(data, str) else decode(data)
        try:
            return json.loads(text, strict=False)
        except RecursionError:
            raise ValueError("JSON nested too deep") from None


def decode(data: bytes | bytearray) -> str:
    """Text of bytes that may not be UTF-8."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", "replace")
    return data.decode("utf-8", "replace")


def mapping_of(value: object) -> Mapping[str, Any]:
    """`value` if it is a JSON object, else an empty one."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def list_of(value: object) -> list[Any]:
    """`value` if it is a JSON array, else an empty one."""
    return cast("list[Any]", value) if isinstance(value, list) else []


def text_of(value: object, *, limit: int = TEXT_CHARACTERS) -> str | None:
    """Text as it is, but for lone surrogates and NULs, which no Parquet file holds."""
    if not isinstance(value, str) or not value:
        return None
    return re.sub("[\x00\ud800-\udfff]", "\ufffd", value[:limit])


def message_of(value: object, *, limit: int = MESSAGE_CHARACTERS) -> str | None:
    """Text on one printable line of at most `limit` characters; None if nothing is left of it."""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        return None
    text = str(value)[: 8 * limit] if isinstance(value, str) else str(count_of(value) or "")
    line = one_line(text)
    return (line if len(line) <= limit else line[: limit - 1] + "…") or None


def one_line(text: str) -> str:
    """Text on one printable line: what is not printable is space, and spaces are one."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def count_of(value: object) -> int | None:
    """A whole number from 0 that a 64-bit column holds."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if not 0 <= value <= COUNT_MAX or value != int(value):
        return None
    return int(value)


def first(*values: T | None) -> T | None:
    """The first that is not None."""
    return next((value for value in values if value is not None), None)


def tokens_of(usage: object) -> TokenUsage | None:
    """The counts of a `usage` object, shaped as for images or for chat.

    None where it is missing or all zero: some servers make it up, and then it means nothing.
    """
    counts = mapping_of(usage)
    inputs = mapping_of(
        first(counts.get("input_tokens_details"), counts.get("prompt_tokens_details"))
    )
    outputs = mapping_of(
        first(counts.get("output_tokens_details"), counts.get("completion_tokens_details"))
    )
    tokens = TokenUsage(
        input_tokens=first(
            count_of(counts.get("input_tokens")), count_of(counts.get("prompt_tokens"))
        ),
        output_tokens=first(
            count_of(counts.get("output_tokens")), count_of(counts.get("completion_tokens"))
        ),
        total_tokens=count_of(counts.get("total_tokens")),
        input_text_tokens=count_of(inputs.get("text_tokens")),
        input_image_tokens=count_of(inputs.get("image_tokens")),
        input_cached_tokens=count_of(inputs.get("cached_tokens")),
        output_text_tokens=count_of(outputs.get("text_tokens")),
        output_image_tokens=count_of(outputs.get("image_tokens")),
    )
    return tokens if any(vars(tokens).values()) else None


def cost_of(usage: object) -> Decimal | None:
    """The provider's own bill in USD (xAI says it in ticks); 0 is no bill, but a missing one."""
    ticks = count_of(mapping_of(usage).get("cost_in_usd_ticks"))
    return Decimal(ticks) / XAI_TICKS_PER_USD if ticks else None
