"""The libraries whose tables an image asset can have as its value."""

import importlib.util
import sys
from typing import Any, Literal, TypeAlias, get_args

import pyarrow as pa

from dagster_imagegen.engine.errors import ConfigurationError, did_you_mean

TableType: TypeAlias = Literal["arrow", "pandas", "polars"]
TABLE_TYPES: tuple[TableType, ...] = get_args(TableType)


def check_table_type(table_type: str) -> TableType:
    """Raise `ConfigurationError` unless it is one of `TABLE_TYPES` and its library is installed."""
    for known in TABLE_TYPES:
        if table_type == known:
            if known != "arrow" and importlib.util.find_spec(known) is None:
                raise ConfigurationError(
                    f'table_type="{known}" needs {known}, which is not installed: pip install '
                    f"{known}"
                )
            return known
    raise ConfigurationError(
        f"table_type must be one of {', '.join(TABLE_TYPES)}, got {table_type!r}"
        + did_you_mean(str(table_type), TABLE_TYPES)
    )


def table_class(table_type: TableType) -> type:
    """The class of such tables. Imports its library."""
    if table_type == "arrow":
        return pa.Table
    # Not at the top: both libraries are optional, and slow to import.
    importlib.import_module(table_type)
    return sys.modules[table_type].DataFrame


def convert_table(table: pa.Table, table_type: TableType) -> Any:
    """The same rows, columns and types as a table of another library.

    pandas gets Arrow's types (`ArrowDtype`), because its own have no decimals, and turn integers
    beside nulls into floats.
    """
    if table_type == "pandas":
        import pandas as pd  # noqa: PLC0415  # optional, and slow to import

        return table.to_pandas(types_mapper=pd.ArrowDtype, ignore_metadata=True)
    if table_type == "polars":
        import polars as pl  # noqa: PLC0415  # likewise

        return pl.from_arrow(table)
    return table
