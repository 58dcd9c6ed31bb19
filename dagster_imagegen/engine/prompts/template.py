"""Templates of prompts and names: text with column names in braces."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from string import Formatter

from dagster_imagegen.engine.errors import ConfigurationError, InvalidRequest
from dagster_imagegen.engine.prompts.parameters import wrong_type
from dagster_imagegen.engine.prompts.values import is_empty, is_immense, plain

WIDTH_MAX = 10_000
"""The largest number in a format spec: a width of a billion would be a gigabyte of spaces."""


@dataclass(frozen=True, kw_only=True)
class PromptTemplate:
    """A prompt with named columns: "A studio photo of {name}, {price:.2f} EUR".

    A column's value is text, a number or a date, with a format spec where wanted. Attributes,
    items, positions and conversions are errors, so a template can read the table and nothing
    else. `{{` and `}}` stand for braces.
    """

    text: str
    pieces: tuple[tuple[str, str | None, str], ...]
    """(literal text, the column after it or None, its format spec)."""
    place: str = "prompt template"
    """What errors call it."""

    @classmethod
    def parse(cls, text: str, *, place: str = "prompt template") -> "PromptTemplate":
        """Parse a template, which errors call `place`.

        Raises:
            ConfigurationError: It holds something other than text and whole columns.
        """
        try:
            parsed = list(Formatter().parse(text))
        except ValueError as error:
            # The text itself is not shown: it is most of every prompt.
            raise ConfigurationError(f"{place}: {error}; write {{{{ and }}}} for braces") from error
        pieces: list[tuple[str, str | None, str]] = []
        for literal, name, spec, conversion in parsed:
            if name is not None:
                _check_field(name, spec or "", conversion, place)
            pieces.append((literal, name, spec or ""))
        return cls(text=text, pieces=tuple(pieces), place=place)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the template names, each once, in order."""
        return tuple(dict.fromkeys(name for _, name, _ in self.pieces if name is not None))

    def fill(self, row: Mapping[str, object], *, change: Callable[[str], str] = str) -> str:
        """The prompt of one row; `change` is applied to the text of each column.

        Raises:
            InvalidRequest: A column's value is null, of another type, or not fit for its format.
        """
        parts: list[str] = []
        for literal, name, spec in self.pieces:
            parts.append(literal)
            if name is not None:
                parts.append(change(_filled(name, row[name], spec, self.place)))
        return "".join(parts)

    def fill_all(self, columns: Mapping[str, Sequence[object]], count: int) -> Iterator[str | None]:
        """The prompts of `count` rows; None for a row of which `fill` raises an error."""
        pieces = [
            (literal, None if name is None else columns[name], name or "", spec)
            for literal, name, spec in self.pieces
        ]
        for row in range(count):
            try:
                yield "".join(
                    literal
                    if column is None
                    else literal + _filled(name, column[row], spec, self.place)
                    for literal, column, name, spec in pieces
                )
            except InvalidRequest:
                yield None


def _check_field(name: str, spec: str, conversion: str | None, place: str) -> None:
    remedy = None
    if not name or name.isdigit():
        remedy = "name a column, as in {name}"
    elif "." in name or "[" in name:
        remedy = "only whole columns can be named; put that part in a column of its own"
    elif conversion:
        remedy = f"conversions are not allowed; remove !{conversion}"
    elif "{" in spec:
        remedy = "a format spec must not contain a field"
    elif _is_wide(spec):
        remedy = f'a number in its format spec must be at most {WIDTH_MAX:,}, got "{spec}"'
    if remedy:
        raise ConfigurationError(f"{place}: {{{name}}}: {remedy}")


def _is_wide(spec: str) -> bool:
    # Python refuses to read numbers of thousands of digits.
    numbers = [each.lstrip("0") for each in re.findall(r"\d+", spec)]
    return any(len(each) > len(str(WIDTH_MAX)) or int(each or 0) > WIDTH_MAX for each in numbers)


def _filled(name: str, value: object, spec: str, place: str) -> str:
    if isinstance(value, str) and not spec and value and not value.isspace():
        return str.__str__(value)  # As it is, and as a rule.
    value = plain(value)
    if is_empty(value):
        rule = f"must be set, for the {place}"
        raise InvalidRequest(name, None, rule, remedy="fill it or drop the row")
    if not isinstance(value, str | int | float | Decimal | date | datetime | time):
        raise wrong_type(name, value, f"text, a number or a date, for the {place}")
    # pandas makes floats of integers beside nulls: 2024.0 must read as 2024.
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, Decimal) and is_immense(value):
        raise InvalidRequest(name, value, f"must be a smaller number, for the {place}")
    try:
        return format(value, spec)
    except ValueError as error:
        raise InvalidRequest(name, value, f'must fit the format spec "{spec}" ({error})') from error
