"""How much an event of Dagster may hold: some event logs have columns of 64 KB."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

import dagster as dg

EVENT_BYTES = 56_000
"""Of metadata. The rest of 65,535 is for what Dagster adds: names, tags, the run's id."""

TEXT_CHARACTERS = 200
TEXT_BYTES = 400
"""The longest name, type or description that is shown, if nothing else is said of it."""

T = TypeVar("T")


def room(metadata: Mapping[str, Any]) -> int:
    """How many bytes of an event are left beside this metadata; less than 0 if it is too much."""
    return EVENT_BYTES - _size(dg.AssetMaterialization("x", metadata=metadata))


def within(values: Iterable[T], max_bytes: int) -> Iterator[T]:
    """The first of these values of Dagster that fit."""
    for value in values:
        max_bytes -= _size(value)
        if max_bytes < 0:
            return
        yield value


def cut(text: str, *, characters: int = TEXT_CHARACTERS, max_bytes: int = TEXT_BYTES) -> str:
    """A text of any length and script, short enough that many of them fit."""
    short = text[:characters]
    while json_size(f"{short}…") > max_bytes:
        short = short[: len(short) * 9 // 10]
    return text if short == text else f"{short[: characters - 1]}…"


def json_size(text: str) -> int:
    """The bytes that a text takes in an event: a letter has one, an emoji twelve."""
    return len(json.dumps(text))


def _size(value: Any) -> int:
    return len(dg.serialize_value(value))
