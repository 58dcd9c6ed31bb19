"""What a provider says that it has charged: its export, by UTC day and model."""

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timezone
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Literal, TypeAlias

import pyarrow as pa

from dagster_imagegen.engine.errors import ConfigurationError, abbreviate

Figure: TypeAlias = Literal["cost_usd", "requests", "tokens"]
FIGURES: tuple[Figure, ...] = ("cost_usd", "requests", "tokens")
Group: TypeAlias = tuple[date, str]
"""A UTC day and a model."""

_AMOUNT_MAX = Decimal(10) ** 15
_PLACES = 12
"""Further ones are rounded: exports print sums of floats, with digits that mean nothing."""

_PLAIN = ("day", "model")
_DAYS = ("start_time_iso", "start_time")
_OPENAI = ("amount_value", "line_item")
_NEEDED = (
    "day and model, with at least one of cost_usd, requests and tokens; or those of OpenAI's costs "
    "export: start_time or start_time_iso, amount_value and line_item"
)


@dataclass(frozen=True, kw_only=True)
class ProviderExport:
    """The figures of an export by day and model. `figures` names those that it has."""

    name: str
    figures: tuple[Figure, ...]
    groups: Mapping[Group, Mapping[Figure, Decimal]]

    @property
    def days(self) -> tuple[date, date] | None:
        """The first and the last day that it names."""
        days = [day for day, _ in self.groups]
        return (min(days), max(days)) if days else None


def read_export(
    export: str | Path | pa.Table, *, models: Mapping[str, str] | None = None
) -> ProviderExport:
    """Read a CSV file or an Arrow table in the plain form or that of OpenAI's costs export.

    The plain form has the columns `day` and `model`, and at least one of `cost_usd`, `requests` and
    `tokens`. A time with a zone is converted to UTC; one without is taken as UTC. Lines of the same
    day and model are added up. In OpenAI's form the model is the line item up to its first comma.
    `models` maps names of the export to names of the usage table. An empty figure is 0.

    Raises:
        ConfigurationError: The columns are others, there are no rows, or one has another number of
            fields or a value that cannot be read. It names the file, the line and what is needed.
    """
    if isinstance(export, pa.Table):
        return _summed("the table", export.column_names, export.to_pylist(), models or {})
    path = Path(export)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            lines = _whole(str(path), reader)
            return _summed(str(path), reader.fieldnames or (), lines, models or {})
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigurationError(f"{path} cannot be read as a CSV file: {error}") from error


def _whole(name: str, lines: Iterable[dict[Any, Any]]) -> Iterator[dict[Any, Any]]:
    """The lines of a CSV file, each with as many fields as there are columns.

    A file that was cut off, or an amount such as 1,000 without quotes, would be another amount.
    """
    for number, line in enumerate(lines, start=1):
        if None in line or None in line.values():
            some = "more" if None in line else "fewer"
            raise ConfigurationError(
                f"{name}, row {number}: there are {some} fields than columns; export it again, "
                "with fields that have commas in quotes"
            )
        yield line


def _summed(
    name: str,
    columns: Sequence[str],
    lines: Iterable[Mapping[str, Any]],
    models: Mapping[str, str],
) -> ProviderExport:
    figures = _figures_of(name, columns)
    groups: dict[Group, dict[Figure, Decimal]] = {}
    for (day, model), values in _read(name, lines, figures, openai=_is_openai(columns)):
        group = (day, models.get(model, model))
        sums = groups.setdefault(group, dict.fromkeys(figures, Decimal(0)))
        for figure, value in values.items():
            sums[figure] += value
    if not groups:
        raise ConfigurationError(f"{name} has no rows, so there is nothing to compare with")
    return ProviderExport(name=name, figures=figures, groups=groups)


def _is_openai(columns: Sequence[str]) -> bool:
    return set(_OPENAI) <= set(columns) and any(each in columns for each in _DAYS)


def _figures_of(name: str, columns: Sequence[str]) -> tuple[Figure, ...]:
    if _is_openai(columns):
        return ("cost_usd",)
    figures: tuple[Figure, ...] = tuple(each for each in FIGURES if each in columns)
    if set(_PLAIN) <= set(columns) and figures:
        return figures
    if len(columns) == 1 and ";" in columns[0]:
        raise ConfigurationError(
            f"{name} has semicolons between its fields; export it with commas between fields, and "
            "a point in amounts"
        )
    found = ", ".join(columns) if columns else "none"
    raise ConfigurationError(f"{name} has the columns {found}; needed are {_NEEDED}")


def _read(
    name: str, lines: Iterable[Mapping[str, Any]], figures: Sequence[Figure], *, openai: bool
) -> Iterator[tuple[Group, dict[Figure, Decimal]]]:
    for number, line in enumerate(lines, start=1):
        place = f"{name}, row {number}"
        if openai:
            _check_currency(place, line)
            when = line.get("start_time_iso") or line.get("start_time")
            model = str(line["line_item"] or "").partition(",")[0].strip()
            values = {"cost_usd": line["amount_value"]}
        else:
            when, model = line["day"], str(line["model"] or "").strip()
            values = {each: line[each] for each in figures}
        if not model:
            raise ConfigurationError(f"{place}: no model is named; group the export by model")
        amounts: dict[Figure, Decimal] = {
            each: _number(place, each, values[each]) for each in figures
        }
        yield (_day(place, when), model), amounts


def _check_currency(place: str, line: Mapping[str, Any]) -> None:
    currency = str(line.get("amount_currency") or "usd")
    if currency.lower() != "usd":
        raise ConfigurationError(f"{place}: amount_currency must be usd, got {currency}")


def _number(place: str, column: str, value: object) -> Decimal:
    try:
        number = Decimal(str(value).strip()) if value not in (None, "") else Decimal(0)
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite() or abs(number) >= _AMOUNT_MAX:
        raise ConfigurationError(
            f"{place}: {column} must be a plain number such as 1234.50, below {_AMOUNT_MAX:f}, "
            f"got {abbreviate(value)}"
        )
    exponent = number.as_tuple().exponent
    is_short = isinstance(exponent, int) and -_PLACES <= exponent <= 0
    return number if is_short else number.quantize(Decimal(1).scaleb(-_PLACES))


def _day(place: str, value: object) -> date:
    if isinstance(value, datetime):
        return _utc(value)
    if isinstance(value, date):
        return value
    text = str(value or "").strip()
    try:
        if text.isdecimal() and len(text) > len("20261126"):
            return datetime.fromtimestamp(int(text), timezone.utc).date()
        # Python 3.10 does not know the Z.
        return _utc(datetime.fromisoformat(re.sub("[Zz]$", "+00:00", text)))
    except (ValueError, OverflowError, OSError) as error:
        raise ConfigurationError(
            f"{place}: the day must be a date such as 2026-11-26, got {abbreviate(value)}"
        ) from error


def _utc(time: datetime) -> date:
    return (time.astimezone(timezone.utc) if time.tzinfo else time).date()
