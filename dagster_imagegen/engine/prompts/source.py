"""Reads whatever a user passes as a prompt table into columns."""

import re
import sys
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

import pyarrow as pa
from pydantic import BaseModel

from dagster_imagegen.engine.errors import ConfigurationError, PromptTableError, RowProblem
from dagster_imagegen.engine.prompts.values import narrowed, plain
from dagster_imagegen.engine.request import has_lone_surrogate

if TYPE_CHECKING:  # Loading it takes long, and loads pandas.
    import pyarrow.dataset as pads

ACCEPTED = (
    "a pyarrow, pandas or polars table, a DuckDB relation, a list of dicts, or a list of prompts"
)

_NOT_ARROW = (pa.ArrowException, TypeError, ValueError, OverflowError)
INDEX_NAME = re.compile(r"__index_level_\d+__")


@dataclass(frozen=True, kw_only=True)
class PromptColumns:
    """The columns of a prompt table: an Arrow `table`, or `lists` of Python values.

    Python values are kept as they are until each row is checked, so that a number among the
    prompts is one bad row, and not a table that Arrow rejects as a whole.
    """

    names: tuple[str, ...]
    num_rows: int
    table: pa.Table | None = None
    lists: Mapping[str, list[object]] = field(default_factory=dict[str, list[object]])

    def cells(self, name: str, start: int = 0, stop: int | None = None) -> list[object]:
        """The values of one column, or of some of its rows, each as `plain` has it."""
        stop = self.num_rows if stop is None else stop
        if self.table is None:
            return [plain(value) for value in self.lists[name][start:stop]]
        column = self.table[name].slice(start, stop - start)
        correct = narrowed(column.type)
        return [plain(correct(value)) for value in column.to_pylist()]

    def carry(self, names: Iterable[str]) -> pa.Table:
        """Some columns as Arrow, with the same types, values and order.

        The view layouts of polars become plain ones, because Arrow cannot take rows of them yet.

        Raises:
            PromptTableError: No Arrow type holds a column of Python values.
        """
        if self.table is not None:
            return without_views(self.table.select(list(names)))
        # The column that selects nothing keeps the number of rows.
        rows = pa.table({"": pa.nulls(self.num_rows)}).select([])
        for name in names:
            rows = rows.append_column(name, _to_arrow(name, self.lists[name]))
        return rows


def renamed(table: PromptColumns, renames: Mapping[str, str]) -> PromptColumns:
    """The same with other names of some columns.

    Raises `ConfigurationError` if a new name is that of another column.
    """
    taken = sorted(set(renames.values()) & set(table.names))
    if taken:
        raise ConfigurationError(
            f"carry_prefix gives columns the names {', '.join(taken)}, which the prompt table has "
            "already; set another prefix"
        )
    new = tuple(renames.get(name, name) for name in table.names)
    return replace(
        table,
        names=new,
        table=table.table and table.table.rename_columns(list(new)),
        lists={renames.get(name, name): values for name, values in table.lists.items()},
    )


def concatenated(tables: Mapping[str, object]) -> pa.Table:
    """The rows of several prompt tables as one, in the order of the keys.

    A column that a table does not have is null in its rows.
    Raises `ConfigurationError` for what `read_source` rejects, and if types of columns differ.
    """
    read = [read_source(tables[key]) for key in sorted(tables)]
    rows = [each.carry(each.names) for each in read if each.names]
    try:
        return pa.concat_tables(rows, promote_options="default") if rows else pa.table({})
    except pa.ArrowException as error:
        raise ConfigurationError(
            f"the prompt tables of partitions cannot be joined: {error}"
        ) from error


def read_source(source: object) -> PromptColumns:
    """Read a pyarrow, pandas, polars or DuckDB table, or an iterable of rows or of prompts.

    A row is a dict, a dataclass, a pydantic model, a named tuple, or a row of SQLite.

    Raises:
        ConfigurationError: It is not a prompt table; the message says what to do.
        PromptTableError: Some rows are not dicts, as other rows are.
    """
    got, remedy = _not_a_table(source)
    if got:
        raise ConfigurationError(f"a prompt table must be {ACCEPTED}, got {got}; {remedy}")
    datasets = sys.modules.get("pyarrow.dataset")  # Whoever has a dataset has loaded it.
    if datasets is not None and isinstance(source, datasets.Dataset | datasets.Scanner):
        return _from_arrow(cast("pads.Dataset | pads.Scanner", source).to_table())
    if _is_arrow(source) or _is_pandas(source):
        return _from_frame(source)
    if isinstance(source, Iterable):
        return _from_items(list(cast("Iterable[object]", source)))
    raise ConfigurationError(f"a prompt table must be {ACCEPTED}, got {type(source).__qualname__}")


def _not_a_table(source: object) -> tuple[str, str]:
    """What a common mistake is, and its remedy; empty for what may be a table."""
    if source is None:
        return "None", "check that the function has a return statement"
    if isinstance(source, str | bytes):
        return "one string", "put it in a list"
    if isinstance(source, set | frozenset):
        return "a set, whose order differs between runs", "use sorted(...)"
    if type(source).__name__ == "LazyFrame":
        return "a LazyFrame, which has no rows yet", "call .collect() on it"
    if not isinstance(source, Mapping):
        is_row = not _is_arrow(source) and not _is_pandas(source) and _as_dict(source) is not None
        return ("one row", "put it in a list") if is_row else ("", "")
    values = list(cast("Mapping[object, object]", source).values())
    if any(_is_table(value) for value in values):
        return (
            "a dict of partitions, from a run over several partitions",
            "join its tables, or run one partition at a time "
            "(backfill_policy=BackfillPolicy.multi_run())",
        )
    if values and all(isinstance(value, list | tuple) or _is_arrow(value) for value in values):
        return "a dict of columns", "pass pyarrow.table(...) of it"
    return "a dict", "put one row in a list"


def _is_arrow(source: object) -> bool:
    return hasattr(source, "__arrow_c_stream__") or hasattr(source, "__arrow_c_array__")


def _is_pandas(source: object) -> bool:
    # pandas before 2.2 does not have the Arrow protocol, and iterates over its column names.
    return type(source).__module__.partition(".")[0] == "pandas"


def _is_table(value: object) -> bool:
    """Whether it has columns or row dicts of its own, so that it is not a column."""
    if isinstance(value, list | tuple):
        rows = cast("list[object] | tuple[object, ...]", value)
        return bool(rows) and isinstance(rows[0], Mapping)
    return any(hasattr(value, name) for name in ("column_names", "columns", "collect"))


def _from_frame(source: Any) -> PromptColumns:
    try:
        return _from_arrow(pa.table(source))
    except _NOT_ARROW as error:
        if _is_pandas(source):
            return _from_pandas(source, error)
        series = _series(source)
        if series is not None:
            return PromptColumns(names=("prompt",), num_rows=len(series), table=series)
        raise ConfigurationError(
            f"{type(source).__qualname__} cannot be read as a table: {error}"
        ) from error


def _series(source: Any) -> pa.Table | None:
    """A single column as a table with one column `prompt`; None if it is no column."""
    try:
        return pa.table({"prompt": pa.chunked_array(source)})
    except _NOT_ARROW:
        return None


def _from_pandas(source: Any, error: Exception) -> PromptColumns:
    """The Python values of a Series, or of a frame with mixed columns, which Arrow rejects."""
    if hasattr(source, "columns"):
        columns = [(str(name), source.iloc[:, at]) for at, name in enumerate(source.columns)]
    elif hasattr(source, "notna"):
        columns = [("prompt", source)]
    else:
        raise ConfigurationError(f"{type(source).__qualname__} cannot be read: {error}") from error
    _check_unique([name for name, _ in columns])
    lists: dict[str, list[object]] = {name: list(column.to_numpy()) for name, column in columns}
    return PromptColumns(names=tuple(lists), num_rows=len(source), lists=lists)


def _from_arrow(table: pa.Table) -> PromptColumns:
    # A pandas index without a name is the row numbers left after a filter, not a column.
    names = [name for name in table.column_names if not INDEX_NAME.fullmatch(name)]
    _check_unique(names)
    metadata = dict(table.schema.metadata or {})
    metadata.pop(b"pandas", None)
    table = table.select(names).replace_schema_metadata(metadata or None)
    return PromptColumns(names=tuple(names), num_rows=table.num_rows, table=table)


def _check_unique(names: list[str]) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ConfigurationError(f"column names must be unique, got {repeated} more than once")


def _from_items(items: list[object]) -> PromptColumns:
    found = [_as_dict(item) for item in items]
    rows = [row for row in found if row is not None]
    if not rows:
        return PromptColumns(
            names=("prompt",) if items else (), num_rows=len(items), lists={"prompt": items}
        )
    problems = [
        _row_problem(at, item, "must be a dict, as other rows are", got=type(item).__name__)
        for at, (item, row) in enumerate(zip(items, found, strict=True))
        if row is None
    ]
    problems += [
        _row_problem(at, row[None], "must not have more cells than the header of its CSV file")
        for at, row in enumerate(found)
        if row is not None and None in row
    ]
    if problems:
        raise PromptTableError(problems)
    # All rows' keys: the first row may leave some out.
    names = list(dict.fromkeys(name for row in rows for name in row))
    for name in names:
        if not isinstance(name, str) or has_lone_surrogate(name):
            raise ConfigurationError(f"column names must be valid UTF-8 text, got {name!r}")
    lists = {str(name): [row.get(name) for row in rows] for name in names}
    return PromptColumns(names=tuple(lists), num_rows=len(rows), lists=lists)


def _as_dict(row: Any) -> Mapping[object, object] | None:
    """A row of any kind as a mapping of its columns; None for what is no row."""
    if isinstance(row, Mapping):
        return cast("Mapping[object, object]", row)
    if isinstance(row, BaseModel):
        return cast("Mapping[object, object]", row.model_dump())
    if is_dataclass(row) and not isinstance(row, type):
        return cast("Mapping[object, object]", asdict(row))
    if not isinstance(row, type) and hasattr(row, "_asdict"):
        return row._asdict()
    # Rows of SQLite and other databases.
    if hasattr(row, "keys") and hasattr(row, "__getitem__") and not isinstance(row, type):
        names = [str(name) for name in row.keys()]  # noqa: SIM118  # it iterates over its values
        _check_unique(names)
        return {name: row[name] for name in names}
    return None


def _row_problem(position: int, value: object, rule: str, *, got: str = "") -> RowProblem:
    return RowProblem(
        position=position, prompt_id=None, column="row", value=value, rule=rule, got=got
    )


def _to_arrow(name: str, values: list[Any]) -> Any:  # Any: the stubs type arrays by their values
    # The pandas nulls of Python values are null, as those of a pandas table are.
    values = [str(value) if isinstance(value, UUID) else value for value in values]
    if _rejects(values):
        values = [plain(value) for value in values]
    try:
        return pa.array(values, from_pandas=True)
    except _NOT_ARROW as error:
        position = bisect_left(range(1, len(values)), True, key=lambda end: _rejects(values[:end]))
        problem = RowProblem(
            position=position,
            prompt_id=None,
            column=name,
            value=values[position],
            rule="must have an Arrow type, the same as the column's other values",
            detail=str(error),
        )
        raise PromptTableError([problem]) from error


def _rejects(values: Any) -> bool:
    try:
        pa.array(values, from_pandas=True)
    except _NOT_ARROW:
        return True
    return False


def without_views(table: pa.Table) -> pa.Table:
    """The same table without the view layouts of text and bytes, at any depth."""
    fields = [each.with_type(_plain(each.type)) for each in table.schema]
    schema = pa.schema(fields)
    if schema == table.schema:
        return table
    return table.cast(schema).replace_schema_metadata(table.schema.metadata)


def _plain(kind: Any) -> Any:  # Any: the stubs know no common type for nested ones
    """The same Arrow type without view layouts, at any depth."""
    if pa.types.is_dictionary(kind):
        return pa.dictionary(kind.index_type, _plain(kind.value_type), kind.ordered)
    if pa.types.is_struct(kind):
        return pa.struct([each.with_type(_plain(each.type)) for each in kind])
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(_plain(kind.value_type)), kind.list_size)
    if pa.types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(_plain(kind.value_type)))
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_plain(kind.value_type)))
    return {"string_view": pa.large_string(), "binary_view": pa.large_binary()}.get(str(kind), kind)
