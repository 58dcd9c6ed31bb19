"""Reading JSON of any shape, and the few values in it that mean something.

Nothing here trusts its input. A value that is absent, null, of another type, negative or too large
for a table reads as None; text is returned without characters that a table, a log or a terminal
cannot hold.
"""

import json
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, TypeVar, cast

import pydantic_core

from dagster_imagegen.engine.attempt import SvgUsage, TokenUsage

MESSAGE_CHARACTERS = 500
VALUE_CHARACTERS = 100_000
COUNT_MAX = 2**63 - 1
VALUES_MAX = 2_000_000  # each takes up to 100 bytes of memory; an svg has many commas
DEPTH_MAX = 200  # of the fast parser
COST_MAX_USD = Decimal(1_000_000)  # for one request: more is not a price
XAI_TICKS_PER_USD = 10**10
MODEL_CHARACTERS = 100
COUNTS_OF_SVG = ("input_tokens", "output_tokens", "total_tokens")
T = TypeVar("T")


def load_json(data: bytes | bytearray | str) -> Any:
    """The value of a JSON document; raises ValueError if it is not one.

    Lone surrogates and raw control characters, which the fast parser refuses, are accepted:
    the spelling of a revised prompt is no reason to lose an image. Also accepted are a byte order
    mark, UTF-16 and UTF-32. A document nested deeper than `DEPTH_MAX`, or of so many values that
    they would take much more memory than its bytes, is refused.
    """
    if isinstance(data, str):
        values = sum(map(data.count, ",[{"))
    else:
        values = sum(map(data.count, (b",", b"[", b"{")))
    if values > VALUES_MAX:
        raise ValueError("JSON of too many values")
    try:
        return pydantic_core.from_json(data, cache_strings="keys")
    except ValueError:
        text = data if isinstance(data, str) else decode(data)
    try:
        value = json.loads(text, strict=False)
    except RecursionError:
        raise ValueError("JSON nested too deep") from None
    if _is_deeper(value, DEPTH_MAX):
        # Whoever writes it out again, as text or as JSON, would raise RecursionError.
        raise ValueError("JSON nested too deep")
    return value


def _is_deeper(value: object, depth: int) -> bool:
    level: list[object] = [value]
    for _ in range(depth):
        level = [
            child
            for each in level
            for child in (mapping_of(each).values() if isinstance(each, dict) else list_of(each))
        ]
    return bool(level)


def decode(data: bytes | bytearray) -> str:
    """Bytes as text without a byte order mark, also if they are not valid UTF-8."""
    return data.decode(json.detect_encoding(data), "replace")


def mapping_of(value: object) -> Mapping[str, Any]:
    """`value` if it is a JSON object, else an empty one."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def list_of(value: object) -> list[Any]:
    """`value` if it is a JSON array, else an empty one."""
    return cast("list[Any]", value) if isinstance(value, list) else []


def text_of(value: object) -> str | None:
    """Text without lone surrogates and NULs, which a Parquet file cannot hold."""
    if not isinstance(value, str) or not value:
        return None
    return re.sub("[\x00\ud800-\udfff]", "\ufffd", value[:VALUE_CHARACTERS])


def message_of(value: object, *, limit: int = MESSAGE_CHARACTERS) -> str | None:
    """Text on one printable line of at most `limit` characters; None if nothing is left of it."""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        return None
    text = str(value)[: 8 * limit] if isinstance(value, str) else str(count_of(value) or "")
    line = one_line(text)
    return (line if len(line) <= limit else line[: limit - 1] + "…") or None


def one_line(text: str) -> str:
    """Text on one line, with one space for each run of spaces and unprintable characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def count_of(value: object) -> int | None:
    """A whole number that is at least 0 and fits a 64-bit column, else None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if not 0 <= value <= COUNT_MAX or value != int(value):
        return None
    return int(value)


def first(*values: T | None) -> T | None:
    """The first value that is not None."""
    return next((value for value in values if value is not None), None)


def tokens_of(usage: object) -> TokenUsage | None:
    """The counts of a `usage` object in the words of the images API or of the chat API.

    None where it is missing or all zero: some servers send a made-up object of zeros.
    """

    counts = mapping_of(usage)
    inputs, outputs = (
        mapping_of(counts.get(f"{images}_tokens_details") or counts.get(f"{chat}_tokens_details"))
        for images, chat in (("input", "prompt"), ("output", "completion"))
    )

    def count(name: str, chat_name: str) -> int | None:
        return first(count_of(counts.get(name)), count_of(counts.get(chat_name)))

    tokens = TokenUsage(
        input_tokens=count("input_tokens", "prompt_tokens"),
        output_tokens=count("output_tokens", "completion_tokens"),
        total_tokens=count_of(counts.get("total_tokens")),
        input_text_tokens=count_of(inputs.get("text_tokens")),
        input_image_tokens=count_of(inputs.get("image_tokens")),
        input_cached_tokens=count_of(inputs.get("cached_tokens")),
        output_text_tokens=count_of(outputs.get("text_tokens")),
        output_image_tokens=count_of(outputs.get("image_tokens")),
    )
    return tokens if any(vars(tokens).values()) else None


def svg_usage_of(usage: object) -> SvgUsage | None:
    """What an answer says of the text model that wrote its svg; None if it says nothing."""
    said = mapping_of(usage)
    svg = SvgUsage(
        model=message_of(said.get("model"), limit=MODEL_CHARACTERS),
        **{name: count_of(said.get(name)) for name in COUNTS_OF_SVG},
    )
    return svg if any(vars(svg).values()) else None


def cost_of(usage: object) -> Decimal | None:
    """The cost in USD that the provider reports in `usage`; 0 counts as not reported.

    xAI counts ticks; others write `cost`, as a number, as text or as an object with a total.
    """
    bill = mapping_of(usage)
    ticks = count_of(bill.get("cost_in_usd_ticks"))
    if ticks:
        return Decimal(ticks) / XAI_TICKS_PER_USD
    costs = (bill.get(name) for name in ("cost", "cost_usd", "total_cost"))
    totals = (mapping_of(cost).get("total_cost", cost) for cost in costs)
    return first(*map(usd_of, totals))


def cost_in_headers(headers: Mapping[str, str]) -> Decimal | None:
    """The cost in USD that a gateway (LiteLLM) reports in the head of its answer."""
    return usd_of(headers.get("x-litellm-response-cost"))


def usd_of(amount: object) -> Decimal | None:
    """An amount of USD, as a number or as text; None if it is 0 or no price at all."""
    if isinstance(amount, bool) or not isinstance(amount, (int, float, str)):
        return None
    try:
        usd = Decimal(str(amount)[:40].strip().removeprefix("$"))
    except (ArithmeticError, ValueError):
        return None
    return usd if usd.is_finite() and 0 < usd < COST_MAX_USD else None
