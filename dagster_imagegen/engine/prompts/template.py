"""Prompt templates: text with the names of columns in braces."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from string import Formatter

from dagster_imagegen.engine.errors import ConfigurationError, InvalidRequest, did_you_mean
from dagster_imagegen.engine.prompts.parameters import is_null


@dataclass(frozen=True, kw_only=True)
class PromptTemplate:
    """A prompt with named columns: "A studio photo of {name}, {price:.2f} EUR".

    A column takes its value as it is: text, a number or a date, with a format spec where wanted.
    There is no access to attributes or items, no position and no conversion, so a template can
    read the table and nothing else. `{{` and `}}` stand for braces.
    """

    text: str
    pieces: tuple[tuple[str, str | None, str], ...]
    """(literal text, the column after it or None, its format spec)."""

    @classmethod
    def parse(cls, text: str) -> "PromptTemplate":
        """Raises `ConfigurationError` for what a template cannot hold."""
        try:
            parsed = list(Formatter().parse(text))
        except ValueError as error:
            raise ConfigurationError(
                f"prompt template {text!r}: {error}; write {{{{ and }}}} for braces"
            ) from error
        pieces: list[tuple[str, str | None, str]] = []
        for literal, name, spec, conversion in parsed:
            if name is not None:
                _check_field(text, name, spec or "", conversion)
            pieces.append((literal, name, spec or ""))
        return cls(text=text, pieces=tuple(pieces))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it names, each once, in order."""
        return tuple(dict.fromkeys(name for _, name, _ in self.pieces if name is not None))

    def check_columns(self, known: Iterable[str]) -> None:
        """Raise `ConfigurationError` for the first column that is not among the known ones."""
        known = list(known)
        for name in self.columns:
            if name not in known:
                raise ConfigurationError(
                    f'prompt template {self.text!r}: there is no column "{name}"'
                    + did_you_mean(name, known)
                )

    def fill(self, row: Mapping[str, object]) -> str:
        """The prompt of one row. Raises `InvalidRequest`, naming the column, for its value."""
        parts: list[str] = []
        for literal, name, spec in self.pieces:
            parts.append(literal)
            if name is not None:
                parts.append(_filled(name, row[name], spec))
        return "".join(parts)


def _check_field(text: str, name: str, spec: str, conversion: str | None) -> None:
    remedy = None
    if not name or name.isdigit():
        remedy = "name a column, as in {name}"
    elif "." in name or "[" in name:
        remedy = "only whole columns can be named; put the part wanted in a column of its own"
    elif conversion:
        remedy = f"a conversion (!{conversion}) has no use here; leave it out"
    elif "{" in spec:
        remedy = "a format spec cannot hold a field"
    if remedy:
        raise ConfigurationError(f"prompt template {text!r}: {{{name}}}: {remedy}")


def _filled(name: str, value: object, spec: str) -> str:
    if is_null(value):
        raise InvalidRequest(name, value, "the template needs a value; fill it or drop the row")
    if not isinstance(value, str | int | float | Decimal | date | datetime | time):
        raise InvalidRequest(
            name, value, f"a template takes text, numbers and dates, not {type(value).__name__}"
        )
    # pandas makes floats of integers where some are missing: 2024.0 must read as 2024.
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    try:
        return format(value, spec)
    except ValueError as error:
        raise InvalidRequest(name, value, f'format spec "{spec}" does not fit: {error}') from error
