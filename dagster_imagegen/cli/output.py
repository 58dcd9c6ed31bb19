"""What a verb prints: tables on a terminal, tab-separated lines when piped, or JSON."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import Any, TypeVar

import click
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

Command = TypeVar("Command", bound=Callable[..., Any])

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of a formula, in a cell of CSV."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows under one name, which is their key in JSON. Every row has a value for each column."""

    name: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that a verb found: single facts, then tables."""

    facts: Mapping[str, object] = field(default_factory=dict[str, object])
    tables: Sequence[Table] = ()


def json_option(command: Command) -> Command:
    """Add `--json`, as the argument `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")(command)


def show(report: Report, *, as_json: bool) -> None:
    """Print a report on standard output.

    On a terminal it is meant for eyes. Piped, facts are lines `name<TAB>value`, and each table is
    a line of column names followed by its rows. In JSON, amounts of money are text, which keeps
    them exact.
    """
    console = Console()
    if as_json:
        text = json.dumps(_json_of(report), indent=2, ensure_ascii=False)
        click.echo("\n".join(_escaped(line, _as_json) for line in text.split("\n")))
    elif console.is_terminal:
        _show_to_eyes(report, console)
    else:
        _show_plain(report)


def note(text: str) -> None:
    """Tell a person something that is no part of the result: on standard error.

    It may quote prompts, names and answers, and is escaped as values are, but for line breaks.
    """
    click.echo("\n".join(text_of(line) for line in text.split("\n")), err=True)


def is_watched() -> bool:
    """Whether a person sees standard error, so that progress can be drawn there."""
    return sys.stderr.isatty()


def _json_of(report: Report) -> dict[str, object]:
    found: dict[str, object] = {name: _json_value(each) for name, each in report.facts.items()}
    for table in report.tables:
        found[table.name] = [
            {name: _json_value(each) for name, each in zip(table.columns, row, strict=True)}
            for row in table.rows
        ]
    return found


def _json_value(value: object) -> object:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (date, datetime)):
        return value.isoformat()
    return text_of(value)


def _show_plain(report: Report) -> None:
    for name, value in report.facts.items():
        click.echo(f"{name}\t{text_of(value)}")
    for table in report.tables:
        click.echo("\t".join(table.columns))
        for row in table.rows:
            click.echo("\t".join(text_of(each) for each in row))


def _show_to_eyes(report: Report, console: Console) -> None:
    if report.facts:
        facts = RichTable(box=None, show_header=False, pad_edge=False)
        for name, value in report.facts.items():
            facts.add_row(Text(name.replace("_", " "), style="bold"), Text(text_of(value)))
        console.print(facts)
    for table in report.tables:
        if table.rows:
            _draw(table, console)


def _draw(table: Table, console: Console) -> None:
    drawn = RichTable(title=table.name.replace("_", " "), title_justify="left")
    for index, column in enumerate(table.columns):
        amounts = all(isinstance(row[index], (int, float, Decimal)) for row in table.rows)
        drawn.add_column(column.replace("_", " "), justify="right" if amounts else "left")
    for row in table.rows:
        drawn.add_row(*(Text(text_of(each)) for each in row))
    if not _fits(drawn, console):
        for index, column in enumerate(drawn.columns):
            column.width = _least_width(table, index)
    if _fits(drawn, console):
        console.print(drawn)
    else:
        _draw_as_list(table, console)


def _fits(drawn: RichTable, console: Console) -> bool:
    wide = console.options.update(max_width=10_000)
    return drawn.__rich_measure__(console, wide).maximum <= console.width


def _least_width(table: Table, index: int) -> int:
    """Of a column: its heading may take several lines, and a value stays on one."""
    values = (text_of(row[index]) for row in table.rows)
    return max(cell_len(each) for each in (*table.columns[index].split("_"), *values))


def _draw_as_list(table: Table, console: Console) -> None:
    """What is too wide for a table: a name and a value on each line, so that paths stay whole."""
    for row in table.rows:
        console.print(Text(text_of(row[0]), style="bold"))
        for name, value in list(zip(table.columns, row, strict=True))[1:]:
            if (text := text_of(value)) != "":
                console.print(Text(f"  {name.replace('_', ' ')}: {text}"), soft_wrap=True)


def text_of(value: object) -> str:
    """A value on one line; what could command a terminal, or break a line, is escaped."""
    if value is None:
        return ""
    if isinstance(value, Decimal):
        return f"{value.normalize():f}" if value else "0"
    return _escaped(str(value), lambda each: each.encode("unicode_escape").decode())


def inert(text: str) -> str:
    """A cell of CSV that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(FORMULA) else text


def _escaped(text: str, escape: Callable[[str], str]) -> str:
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else escape(each) for each in text)


def _as_json(character: str) -> str:
    return json.dumps(character)[1:-1]
