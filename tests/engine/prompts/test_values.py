"""One notion of a value: null, number and text mean the same wherever a row comes from."""

import csv
import io
import sqlite3
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import Enum
from typing import Any, NamedTuple
from uuid import UUID

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv as pacsv
import pytest
from pydantic import BaseModel

from dagster_imagegen.engine.errors import ConfigurationError, PromptTableError
from dagster_imagegen.engine.prompts.parameters import check_params
from dagster_imagegen.engine.prompts.rows import PromptTable
from dagster_imagegen.engine.prompts.table import read_prompts
from dagster_imagegen.engine.prompts.template import PromptTemplate

ID = UUID("12345678-1234-5678-1234-567812345678")


def read(source: object, **arguments: Any) -> PromptTable:
    given: dict[str, Any] = {"endpoint_id": "here", "model": "m", **arguments}
    return read_prompts(source, **given)


def prompts(source: object, template: str) -> list[str]:
    return [row.requests[0].prompt for row in read(source, template=template).rows]


@dataclass
class Data:
    prompt: str
    sku: int


class Model(BaseModel):
    prompt: str
    sku: int


class Tuple(NamedTuple):
    prompt: str
    sku: int


class Quality(str, Enum):
    LOW = "low"


def sqlite_row() -> sqlite3.Row:
    connection = sqlite3.connect(":memory:")
    connection.row_factory = sqlite3.Row
    row = connection.execute("select 'a mug' as prompt, 7 as sku").fetchone()
    connection.close()
    return row


@pytest.mark.parametrize(
    "row",
    [Data("a mug", 7), Model(prompt="a mug", sku=7), Tuple("a mug", 7), sqlite_row()],
    ids=lambda row: type(row).__name__,
)
def test_rows_of_any_kind_are_rows(row: object):
    """In a list; one alone is told to be put in one."""
    table = read([row, {"prompt": "a cup", "sku": None}])
    assert [each.requests[0].prompt for each in table.rows] == ["a mug", "a cup"]
    assert table.carried.to_pydict() == {"sku": [7, None]}
    with pytest.raises(ConfigurationError, match="got one row; put it in a list"):
        read(row)


@pytest.mark.parametrize(
    "null",
    [
        None,
        float("nan"),
        np.float32("nan"),
        np.datetime64("NaT", "ns"),
        pd.NA,
        pd.NaT,
        Decimal("NaN"),
    ],
    ids=repr,
)
def test_every_null_is_null(null: object):
    """It overrides nothing, is a bad row of a template, and is carried as null."""
    table = read(
        [{"prompt": "a", "n": null, "x": null}, {"prompt": "b", "x": "y"}], overrides=["n"]
    )
    assert len(table.rows[0].requests) == 1
    assert table.carried["x"].to_pylist() == [None, "y"]
    with pytest.raises(PromptTableError, match="x must be set, for the prompt template"):
        read([{"x": null}], template="{x}")


@pytest.mark.parametrize(
    "source",
    [
        [{"x": np.float32(4.99)}],
        pa.table({"x": pa.array([4.99], pa.float32())}),
        pl.DataFrame({"x": [4.99]}, schema={"x": pl.Float32}),
        pd.DataFrame({"x": pd.Series([4.99], dtype="float32")}),
        pd.DataFrame({"x": pd.Series([4.99, 1], dtype="float32"), "y": [1, "a"]}).head(1),
    ],
)
def test_a_float32_has_the_digits_that_it_was_written_with(source: object):
    """4.99, not 4.989999771118164."""
    assert prompts(source, "{x} EUR") == ["4.99 EUR"]


def test_a_float32_in_extra_body_is_sent_as_written():
    """Also inside a struct."""
    body = pa.array([{"guidance": 4.99}], pa.struct([("guidance", pa.float32())]))
    table = read(pa.table({"prompt": ["a"], "extra_body": body}), overrides=["extra_body"])
    assert table.rows[0].requests[0].extra_body == '{"guidance":4.99}'


def test_scalars_of_libraries_are_values():
    """numpy's, UUIDs and enums, in prompts, ids, templates and parameters."""
    row = {
        "i": np.int64(3),
        "b": np.bool_(True),
        "s": np.str_("mug"),
        "t": np.datetime64("2026-01-02T03:04:05", "ns"),
        "u": ID,
        "q": Quality.LOW,
    }
    assert prompts([row], "{i} {b} {s} {t:%d %B} {u} {q}") == [f"3 True mug 02 January {ID} low"]
    assert prompts([{"t": datetime(2026, 1, 2)}], "{t:%d}") == ["02"]
    table = read([{"prompt": "a", "prompt_id": ID, "x": ID}])
    assert table.rows[0].prompt_id == str(ID)
    assert table.carried["x"].to_pylist() == [str(ID)]
    params = {"quality": Quality.LOW, "n": np.int64(2), "extra_body": {"seed": np.int64(3)}}
    assert check_params(params) == {"quality": "low", "n": 2, "extra_body": {"seed": 3}}
    assert type(check_params({"quality": Quality.LOW}).get("quality")) is str


CSV = "name,quality,n,stream\nmug,,,\ncup,high,2,true\n"


@pytest.mark.parametrize(
    "source",
    [list(csv.DictReader(io.StringIO(CSV))), pacsv.read_csv(io.BytesIO(CSV.encode()))],
    ids=["csv.DictReader", "pyarrow.csv"],
)
def test_an_empty_cell_of_csv_is_null_and_its_text_is_a_value(source: object):
    """It falls back to the asset's value."""
    rows = read(
        source,
        template="{name}",
        overrides=["quality", "n", "stream"],
        params={"quality": "low", "partial_images": 1},
    ).rows
    assert [(row.requests[0].quality, len(row.requests)) for row in rows] == [
        ("low", 1),
        ("high", 2),
    ]
    assert [row.requests[0].stream for row in rows] == [None, True]
    with pytest.raises(
        PromptTableError, match="row 0: quality must be set, for the prompt template"
    ):
        read(source, template="{quality}")


def test_a_row_of_csv_with_too_many_cells_is_named():
    """csv.DictReader puts them under None."""
    rows = list(csv.DictReader(io.StringIO("prompt\na\nb,c\n")))
    with pytest.raises(PromptTableError, match="row 1: row must not have more cells"):
        read(rows)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("\ufeffprompt", r'"\\ufeffprompt"\? it begins with a byte order mark'),
        ("ï»¿prompt", "it begins with a byte order mark"),
        (" prompt ", '" prompt "\\? it has spaces around it'),
        ("PROMPT", '"PROMPT"\\? its case differs'),
        ("pro\u200bmpt", "characters that cannot be seen"),
    ],
)
def test_a_header_that_only_looks_right_is_pointed_out(name: str, shown: str):
    """A byte order mark cannot be seen in a message, so it is written out."""
    with pytest.raises(ConfigurationError, match='no column "prompt"; did you mean') as caught:
        read([{name: "a"}])
    assert caught.match(shown)


def test_a_column_that_only_looks_like_prompt_id_is_warned_of():
    """It is carried, and the rows are named by their positions."""
    (warning,) = read([{"\ufeffprompt_id": "x", "prompt": "a"}]).warnings
    assert 'no column "prompt_id"; did you mean "\\ufeffprompt_id"' in warning
    assert read([{"prompt_id": "x", "Prompt_ID": "y", "prompt": "a"}]).warnings == ()


@pytest.mark.parametrize(
    "spec", [">999999999", ".999999999f", "0>10001", "%999999999d", "9" * 5000]
)
def test_a_format_spec_cannot_fill_the_memory(spec: str):
    """An error of the definition, before any value is formatted."""
    with pytest.raises(ConfigurationError, match="a number in its format spec must be at most"):
        PromptTemplate.parse(f"{{price:{spec}}}")
    assert prompts([{"x": 3}], "{x:>10}") == ["         3"]


def test_an_immense_decimal_cannot_fill_the_memory():
    """Written out, it has a billion digits."""
    immense = Decimal("1E+999999999")
    with pytest.raises(PromptTableError, match="must be a smaller number"):
        read([{"x": immense}], template="{x:f}")
    with pytest.raises(PromptTableError, match="n must be an integer"):
        read([{"prompt": "a", "n": immense}], overrides=["n"])


def test_an_empty_parameter_is_an_error():
    """None leaves it out; empty text would be sent."""
    with pytest.raises(ConfigurationError, match="size must not be empty; None leaves it out"):
        check_params({"size": ""})
