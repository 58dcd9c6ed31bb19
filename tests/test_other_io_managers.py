"""Image assets with IO managers that users have: of DuckDB and of dagster-polars, for real."""

import importlib
from decimal import Decimal
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from tests.conftest import Project, of_rows

pytestmark = [
    pytest.mark.io_managers,
    pytest.mark.filterwarnings("ignore::dagster.BetaWarning"),
    pytest.mark.filterwarnings("ignore::dagster.PreviewWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

ROWS = [
    {"prompt": "a", "price": Decimal("1.10"), "count": 2**40 + 1},
    {"prompt": "b", "price": None, "count": None},
]


def manager_of(name: str, folder: Path) -> Any:
    """The project's default IO manager. Its package is only there for these tests."""
    if name == "polars":
        module = importlib.import_module("dagster_polars")
        return module.PolarsParquetIOManager(base_dir=str(folder / "tables"))
    module = importlib.import_module(f"dagster_{name}")
    kind = {"duckdb_pandas": "DuckDBPandasIOManager", "duckdb_polars": "DuckDBPolarsIOManager"}
    return getattr(module, kind[name])(database=str(folder / "shop.duckdb"), schema="public")


def frame_of(table_type: str) -> Any:
    import pandas as pd
    import polars as pl

    return pd.DataFrame if table_type == "pandas" else pl.DataFrame


MANAGERS = [("duckdb_pandas", "pandas"), ("duckdb_polars", "polars"), ("polars", "polars")]
each_manager = pytest.mark.parametrize(("name", "table_type"), MANAGERS)


def values(frame: Any, column: str) -> list[Any]:
    """A column, with None for every kind of null."""
    import pandas as pd

    return [None if pd.isna(each) else each for each in frame[column].to_list()]


@each_manager
def test_an_image_table_is_stored_and_read_back(
    project: Project, tmp_path: Path, name: str, table_type: str
) -> None:
    """With its nulls, costs and large numbers; only pandas in DuckDB makes floats of decimals."""
    project.settings = {"max_concurrency": 1}
    project.sandbox.script(None, "moderation_blocked")
    seen: list[Any] = []

    def reader(hero: Any) -> None:
        seen.append(hero)

    reader.__annotations__ = {"hero": frame_of(table_type), "return": None}
    resources = {"imagegen": project.resource(), "io_manager": manager_of(name, tmp_path)}
    hero = of_rows(ROWS, quality="low", table_type=table_type)
    result = project.run(hero, dg.asset(reader), resources=resources)
    (frame,) = seen
    assert isinstance(frame, frame_of(table_type))
    usage = {row["prompt"]: row["cost_usd"] for row in project.usage(result).to_pylist()}
    prices, costs = [Decimal("1.10"), None], [usage["a"], usage["b"]]
    if name == "duckdb_pandas":
        prices, costs = ([each and float(each) for each in some] for some in (prices, costs))
    assert values(frame, "price") == prices
    assert values(frame, "image_cost_usd") == costs
    assert values(frame, "image_status") == ["generated", "refused"]
    assert [each is None for each in values(frame, "image_path")] == [False, True]
    assert values(frame, "count") == [2**40 + 1, None]


@each_manager
def test_what_it_cannot_store_is_refused_before_paying(
    project: Project, tmp_path: Path, name: str, table_type: str
) -> None:
    """The message names the table type to set."""
    resources = {"imagegen": project.resource(), "io_manager": manager_of(name, tmp_path)}
    (error,) = project.errors(project.run(of_rows(ROWS), resources=resources, fails=True))
    assert f'Set table_type="{table_type}"' in error
    assert "Nothing was sent" in error
    assert project.sent() == 0
