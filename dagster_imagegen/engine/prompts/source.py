"""What a user hands over as a prompt table, as columns: Arrow tables, data frames, lists."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import pyarrow as pa
import pyarrow.dataset as pads

from dagster_imagegen.engine.errors import ConfigurationError, PromptTableError, RowProblem
from dagster_imagegen.engine.request import has_lone_surrogate

KINDS = (
    "a pyarrow, pandas or polars table, a DuckDB relation, a list of dicts, or a list of prompts"
)


@dataclass(frozen=True, kw_only=True)
class PromptSource:
    """The columns of a prompt table: in Arrow where it came so, else Python values as given.

    Python values stay as they are until a row is judged, so that a number among the prompts is
    one bad row, not a table that Arrow refuses as a whole.
    """

    names: tuple[str, ...]
    num_rows: int
    table: pa.Table | None = None
    lists: Mapping[str, list[object]] = field(default_factory=dict[str, list[object]])

    def cells(self, name: str) -> list[object]:
        """The values of one column as Python objects."""
        if self.table is None:
            return self.lists[name]
        return cast("list[object]", self.table[name].to_pylist())

    def carry(self, names: Iterable[str]) -> pa.Table:
        """Some of the columns in Arrow: same type, values and order.

        One exception: the view layouts that polars hands over become plain ones, because Arrow
        cannot yet take rows of them. Python values that no Arrow type holds are a
        `PromptTableError`.
        """
        if self.table is not None:
            return _without_views(self.table.select(list(names)))
        # Rows are counted by a column, which the selection then leaves out.
        rows = pa.table({"": pa.nulls(self.num_rows)}).select([])
        for name in names:
            rows = rows.append_column(name, _to_arrow(name, self.lists[name]))
        return rows


def read_source(source: object) -> PromptSource:
    """Columns of whatever `source` is; `ConfigurationError` with the remedy if it is none."""
    refusal = _refusal(source)
    if refusal:
        raise ConfigurationError(f"{refusal}. A prompt table is {KINDS}")
    if isinstance(source, pads.Dataset | pads.Scanner):
        return _from_arrow(source.to_table())
    if _is_arrow(source) or _is_pandas(source):
        return _from_frame(source)
    if isinstance(source, Iterable):
        return _from_items(list(cast("Iterable[object]", source)))
    raise ConfigurationError(
        f"{type(source).__qualname__} is not a prompt table. A prompt table is {KINDS}"
    )


def _refusal(source: object) -> str | None:
    if source is None:
        return "the prompt table is None; was a return statement forgotten?"
    if isinstance(source, str | bytes):
        return "one string is not a prompt table; put it in a list"
    if isinstance(source, set | frozenset):
        return "a set has no order, so its rows would change places between runs; use sorted(...)"
    if type(source).__name__ == "LazyFrame":
        return "a LazyFrame holds no rows yet; call .collect() on it"
    if isinstance(source, Mapping):
        values = list(cast("Mapping[object, object]", source).values())
        if any(_is_table(value) for value in values):
            return (
                "a dict of partitions, as a run over several partitions hands it over, is not one "
                "prompt table; join its tables, or run one partition at a time "
                "(backfill_policy=BackfillPolicy.multi_run())"
            )
        if values and all(isinstance(value, list | tuple) or _is_arrow(value) for value in values):
            return "a dict of columns is not a prompt table; pass pyarrow.table(...) of it"
        return "a dict is not a prompt table; put one row in a list"
    return None


def _is_arrow(source: object) -> bool:
    return hasattr(source, "__arrow_c_stream__") or hasattr(source, "__arrow_c_array__")


def _is_pandas(source: object) -> bool:
    # pandas before 2.2 speaks no Arrow protocol, and iterates over its column names.
    return type(source).__module__.partition(".")[0] == "pandas"


def _is_table(value: object) -> bool:
    """Told from a column: it has columns or row dicts of its own."""
    if isinstance(value, list | tuple):
        rows = cast("list[object] | tuple[object, ...]", value)
        return bool(rows) and isinstance(rows[0], Mapping)
    return any(hasattr(value, name) for name in ("column_names", "columns", "collect"))


def _from_frame(source: Any) -> PromptSource:
    try:
        return _from_arrow(pa.table(source))
    except (pa.ArrowException, TypeError, ValueError) as error:
        if _is_pandas(source):
            return _from_pandas(source, error)
        series = _series(source)
        if series is not None:
            return PromptSource(names=("prompt",), num_rows=len(series), table=series)
        raise ConfigurationError(
            f"{type(source).__qualname__} cannot be read as a table: {error}"
        ) from error


def _series(source: Any) -> pa.Table | None:
    """A table of one column, prompt, of what is a single column itself."""
    try:
        return pa.table({"prompt": pa.chunked_array(source)})
    except (pa.ArrowException, TypeError, ValueError):
        return None


def _from_pandas(source: Any, error: Exception) -> PromptSource:
    """The Python values of a frame with mixed columns, which Arrow refuses; or of a Series."""
    columns: list[tuple[str, Any]]
    if hasattr(source, "columns"):
        columns = [(str(name), source.iloc[:, at]) for at, name in enumerate(source.columns)]
    elif hasattr(source, "notna"):
        columns = [("prompt", source)]
    else:
        raise ConfigurationError(f"{type(source).__qualname__} cannot be read: {error}") from error
    _refuse_repeats([name for name, _ in columns])
    lists: dict[str, list[object]] = {
        name: column.astype(object).where(column.notna(), None).tolist() for name, column in columns
    }
    return PromptSource(names=tuple(lists), num_rows=len(source), lists=lists)


def _from_arrow(table: pa.Table) -> PromptSource:
    # A pandas index without a name is row numbers left over from a filter, not a column.
    names = [name for name in table.column_names if not _is_index(name)]
    _refuse_repeats(names)
    metadata = {
        key: value for key, value in (table.schema.metadata or {}).items() if key != b"pandas"
    }
    table = table.select(names).replace_schema_metadata(metadata or None)
    return PromptSource(names=tuple(names), num_rows=table.num_rows, table=table)


def _is_index(name: str) -> bool:
    return name.startswith("__index_level_") and name.endswith("__")


def _refuse_repeats(names: list[str]) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ConfigurationError(f"the prompt table has several columns called {repeated}")


def _from_items(items: list[object]) -> PromptSource:
    rows = [cast("Mapping[object, object]", row) for row in items if isinstance(row, Mapping)]
    if not rows:
        return PromptSource(
            names=("prompt",) if items else (), num_rows=len(items), lists={"prompt": items}
        )
    problems = [
        RowProblem(
            position=at, prompt_id=None, column="row", value=item, remedy="is a dict in other rows"
        )
        for at, item in enumerate(items)
        if not isinstance(item, Mapping)
    ]
    if problems:
        raise PromptTableError(problems)
    # All rows' keys: the first row may leave some out.
    names = list(dict.fromkeys(name for row in rows for name in row))
    for name in names:
        if not isinstance(name, str) or has_lone_surrogate(name):
            raise ConfigurationError(f"column names are strings that UTF-8 can carry, not {name!r}")
    lists = {str(name): [row.get(name) for row in rows] for name in names}
    return PromptSource(names=tuple(lists), num_rows=len(rows), lists=lists)


def _to_arrow(name: str, values: Any) -> Any:  # Any: the stubs type arrays by their values
    try:
        return pa.array(values)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        whole = error
    # Bisect for the first row without which Arrow would have taken the column.
    taken, refused = 0, len(values)
    while refused - taken > 1:
        middle = (taken + refused) // 2
        try:
            pa.array(values[:middle])
            taken = middle
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            refused = middle
    problem = RowProblem(
        position=taken,
        prompt_id=None,
        column=name,
        value=values[taken],
        remedy="does not fit the column's other values, or Arrow at all",
        detail=str(whole),
    )
    raise PromptTableError([problem]) from whole


def _without_views(table: pa.Table) -> pa.Table:
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
