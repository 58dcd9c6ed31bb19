"""Prompt tables: every kind of them, templates, overrides, carried columns, and bad rows."""

import math
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as pads
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagster_imagegen.engine.errors import ConfigurationError, InvalidRequest, PromptTableError
from dagster_imagegen.engine.prompts.rows import PromptTable
from dagster_imagegen.engine.prompts.table import read_prompts
from dagster_imagegen.engine.prompts.template import PromptTemplate

ROWS: list[dict[str, Any]] = [
    {"prompt": "a red mug", "prompt_id": "sku-1", "price": 3, "size": "1024x1024"},
    {"prompt": "a blue mug 🫖", "prompt_id": "sku-2", "price": None, "size": None},
]


def read(source: object, **arguments: Any) -> PromptTable:
    given: dict[str, Any] = {"endpoint_id": "here", "model": "m", **arguments}
    return read_prompts(source, **given)


def problems_of(source: object, **arguments: Any) -> list[tuple[int, str]]:
    with pytest.raises(PromptTableError) as caught:
        read(source, **arguments)
    return [(problem.position, problem.column) for problem in caught.value.problems]


def kinds_of(rows: list[dict[str, Any]]) -> dict[str, object]:
    """The same rows as every kind of prompt table."""
    table = pa.Table.from_pylist(rows)
    return {
        "dicts": rows,
        "tuple": tuple(rows),
        "generator": (row for row in rows),
        "pyarrow": table,
        "batch": table.combine_chunks().to_batches()[0],
        "reader": table.to_reader(),
        "dataset": pads.dataset(table),
        "scanner": pads.dataset(table).scanner(),
        "pandas": pd.DataFrame(rows),
        "filtered pandas": pd.concat([pd.DataFrame(rows[:1]), pd.DataFrame(rows)]).iloc[1:],
        "polars": pl.DataFrame(rows),
        "duckdb": duckdb.from_arrow(table),
    }


def test_every_kind_of_table_gives_the_same_requests():
    """The same rows are the same images, whichever library holds them."""
    expected = read(ROWS, overrides=["size"])
    assert [row.requests[0].size for row in expected.rows] == ["1024x1024", "auto"]
    for kind, source in kinds_of(ROWS).items():
        got = read(source, overrides=["size"])
        assert got.rows == expected.rows, kind
        assert got.carried.column_names == ["price"], kind
        assert [
            None if value is None or math.isnan(value) else value
            for value in got.carried["price"].to_pylist()
        ] == [3, None], kind


@pytest.mark.parametrize(
    "source",
    [
        ["a mug", "a cup"],
        ("a mug", "a cup"),
        (text for text in ("a mug", "a cup")),
        dict.fromkeys(["a mug", "a cup"]).keys(),
        pa.array(["a mug", "a cup"]),
        pa.chunked_array([["a mug"], ["a cup"]]),
        pl.Series(["a mug", "a cup"]),
        pd.Series(["a mug", "a cup"]),
        pd.Categorical(["a mug", "a cup"]).astype(object).tolist(),
        pl.DataFrame({"prompt": pl.Series(["a mug", "a cup"], dtype=pl.Categorical)}),
    ],
    ids=lambda source: type(source).__name__,
)
def test_prompts_alone_are_a_table(source: object):
    """A stand-in id names a row by its position and its prompt."""
    rows = read(source).rows
    assert [row.requests[0].prompt for row in rows] == ["a mug", "a cup"]
    assert [row.prompt_id for row in rows] == ["0-c9ae3e12", "1-a58220be"]


@pytest.mark.parametrize(
    ("source", "remedy"),
    [
        (None, "return statement"),
        ("a mug", "put it in a list"),
        (b"a mug", "put it in a list"),
        ({"a mug"}, r"sorted\(...\)"),
        (pl.LazyFrame({"prompt": ["a mug"]}), r"call .collect\(\)"),
        ({"2026-01-01": pl.DataFrame({"prompt": ["a mug"]})}, "dict of partitions"),
        ({"a": [{"prompt": "a mug"}], "b": []}, "dict of partitions"),
        ({"prompt": ["a mug"]}, r"pyarrow.table\(...\)"),
        ({"prompt": "a mug"}, "put one row in a list"),
        (7, "got int"),
        (pa.array([1, 2]), None),
    ],
)
def test_what_is_no_table_says_what_to_do(source: object, remedy: str | None):
    """The commonest slips have a remedy in their message; nothing was sent."""
    with pytest.raises(ConfigurationError, match=remedy or "prompt must be text, got int 1"):
        read(source)


@pytest.mark.parametrize(
    "source",
    [[], (), iter(()), pa.table({"prompt": pa.array([], pa.string())}), pl.DataFrame()],
)
def test_an_empty_table_is_zero_rows(source: object):
    """A night without products is no failure."""
    table = read(source)
    assert table.rows == ()
    assert table.carried.num_rows == 0


def test_an_empty_table_still_needs_its_columns():
    """Otherwise the mistake would show only on the first day with rows."""
    with pytest.raises(ConfigurationError, match=r'no column "prompt".*did you mean "Prompt"'):
        read(pa.table({"Prompt": pa.array([], pa.string())}))


def test_other_columns_are_carried_untouched():
    """Same type, order and values, whatever they are; ours, overrides and leftovers are not."""
    table = pa.table(
        {
            "z": pa.array([[1], None], pa.list_(pa.int8())),
            "prompt": ["a", "b"],
            "cut": pa.array(["x", "y"]).dictionary_encode(),
            "quality": ["low", None],
            "at": pa.array([1, 2], pa.timestamp("ns", "UTC")),
        },
        metadata={"kept": "yes"},
    )
    carried = read(table, overrides=["quality"]).carried
    assert carried.equals(table.select(["z", "cut", "at"]), check_metadata=True)
    index = pd.DataFrame({"prompt": ["a", "b", "c"], "x": [1, 2, 3]}).iloc[1:]
    assert read(index).carried.to_pydict() == {"x": [2, 3]}


def test_rows_can_be_taken_of_what_polars_carries():
    """Arrow cannot take rows of polars' view layouts, nor write all of them to Parquet."""
    frame = pl.DataFrame(
        {
            "prompt": ["a", "b"],
            "text": ["x", None],
            "kind": pl.Series(["p", "q"], dtype=pl.Enum(["p", "q"])),
            "tags": [["t"], []],
            "deep": [{"a": "1", "b": b"2"}, None],
        }
    )
    carried = read(frame).carried
    assert carried.take([1, 0]).to_pylist() == frame.drop("prompt").reverse().to_dicts()
    assert carried.schema.field("text").type == pa.large_string()


def test_a_table_without_other_columns_carries_its_rows():
    """The image table is made by adding columns to these rows."""
    assert read(["a", "b"]).carried.num_rows == 2
    assert read(pa.table({"prompt": ["a", "b"]})).carried.num_rows == 2


def test_keys_of_later_rows_are_columns_too():
    """A first row without a key must not lose the others' values."""
    table = read([{"prompt": "a"}, {"prompt": "b", "sku": 7, "size": "auto"}])
    assert table.carried.to_pydict() == {"sku": [None, 7], "size": [None, "auto"]}


def test_n_images_are_n_requests_of_one_image():
    """Each can be resumed, billed and refused on its own."""
    rows = read(
        [{"prompt": "a", "n": 1}, {"prompt": "b", "n": None}], overrides=["n"], params={"n": 3}
    ).rows
    assert [[each.variant for each in row.requests] for row in rows] == [[0], [0, 1, 2]]
    assert [each.body()["n"] for each in rows[1].requests] == [1, 1, 1]


def test_params_win_over_the_resource_and_rows_over_params():
    """Null in a row overrides nothing; None in params leaves a parameter out."""
    source = [{"prompt": "a", "model": "row", "extra_body": '{"seed":3}'}, {"prompt": "b"}]
    arguments = {
        "params": {"model": "asset", "size": None, "extra_body": {"seed": 2}},
        "extra_body": {"seed": 1, "steps": 20},
        "overrides": ["model", "extra_body"],
    }
    first, second = (row.requests[0] for row in read(source, **arguments).rows)
    assert (first.model, first.extra_body) == ("row", '{"seed":3,"steps":20}')
    assert (second.model, second.extra_body) == ("asset", '{"seed":2,"steps":20}')
    assert second.size is None
    assert read(["a"]).rows[0].requests[0].model == "m"


def test_pandas_integers_beside_nulls_are_integers():
    """pandas made floats of them, and NaN of null; neither is the user's doing."""
    frame = pd.DataFrame({"prompt": ["a", "b"], "revision": [2, None], "year": [1999, None]})
    first, second = (row.requests[0] for row in read(frame, overrides=["revision"]).rows)
    assert (first.revision, second.revision) == (2, 0)
    records = pd.DataFrame({"prompt": ["a", "b"], "revision": [2, None]}).to_dict("records")
    assert [row.requests[0].revision for row in read(records, overrides=["revision"]).rows] == [
        2,
        0,
    ]
    frame = pd.DataFrame({"year": [1999, 2001, None]}).dropna()
    assert read(frame, template="a car of {year}").rows[0].requests[0].prompt == "a car of 1999"


def test_a_likely_override_that_is_not_named_is_warned_of():
    """A product's size is carried; the warning says how to make it the image's."""
    source = [{"prompt": "a", "size": "XL", "note": "x"}]
    table = read(source)
    assert table.rows[0].requests[0].size == "auto"
    assert len(table.warnings) == 1
    assert 'overrides=["size"]' in table.warnings[0]
    assert read([{"n": 3}], template="{n} mugs").warnings == ()
    assert read([{"prompt": "a", "size": "auto"}], overrides=["size"]).warnings == ()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"overrides": ["sise"]}, 'unknown request parameter "sise"; did you mean "size"'),
        ({"overrides": ["prompt"]}, "unknown request parameter"),
        ({"overrides": "size"}, r'overrides=\["size"\]'),
        ({"overrides": ["quality"]}, 'no column "quality"; did you mean "qualty"'),
        ({"params": {"qualty": "low"}}, 'did you mean "quality"'),
        ({"params": {"n": 0}}, "n must be at least 1, got 0"),
        ({"params": {"n": 2.5}}, "n must be an integer, got float 2.5"),
        ({"extra_body": {"n": 2}}, "parameter of its own"),
        ({"model": ""}, "model must not be empty"),
        (
            {"params": {"stream": True}, "streaming_needs_partials": True},
            "partial_images must be at least 1 to stream",
        ),
        ({"template": "a {nmae}"}, 'no column "nmae"; did you mean "name"'),
        ({"template": "a {name}"}, "name it in the template as {prompt}"),
        ({"template": "a {"}, "write {{ and }} for braces"),
    ],
)
def test_arguments_that_cannot_work_are_one_error(arguments: dict[str, Any], message: str):
    """An error that no row can change is reported once, however many rows there are."""
    with pytest.raises(ConfigurationError, match=message) as caught:
        read([{"prompt": "a", "qualty": "low", "name": "x"}] * 3, **arguments)
    assert not isinstance(caught.value, PromptTableError)


def test_columns_of_ours_are_refused():
    """They would be overwritten in the image table."""
    with pytest.raises(ConfigurationError, match="image_uri, image_x; rename or drop them"):
        read([{"prompt": "a", "image_uri": "x", "image_x": "y"}])
    twice = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["prompt", "prompt"])
    with pytest.raises(ConfigurationError, match="must be unique"):
        read(twice)
    with pytest.raises(ConfigurationError, match="must be unique"):
        read(pd.DataFrame([["a", 1, 2]], columns=["prompt", "x", "x"]))
    with pytest.raises(ConfigurationError, match="column names must be valid UTF-8 text"):
        read([{"prompt": "a", 1: 2}])


def test_all_bad_rows_are_reported_at_once():
    """With position, id, column, value and remedy; sound rows are not mentioned."""
    source: list[dict[str, Any]] = [
        {"prompt": "fine", "prompt_id": "a"},
        {"prompt": None, "prompt_id": "b"},
        {"prompt": "", "prompt_id": None},
        {"prompt": "x" * 32_001, "prompt_id": "c", "n": 0},
        {"prompt": 7, "prompt_id": "a", "n": "two"},
        {"prompt": "\udc00", "prompt_id": 8, "output_compression": 101},
        {"prompt": "fine", "prompt_id": 8.0},
        {"prompt": "fine", "prompt_id": ""},
        {"prompt": "fine", "prompt_id": 2.5},
    ]
    overrides = ["n", "output_compression"]
    with pytest.raises(PromptTableError) as caught:
        read(source, overrides=overrides)
    assert [(each.position, each.column) for each in caught.value.problems] == [
        (1, "prompt"),
        (2, "prompt_id"),
        (2, "prompt"),
        (3, "n"),
        (3, "prompt"),
        (4, "prompt_id"),
        (4, "prompt"),
        (4, "n"),
        (5, "output_compression"),
        (5, "prompt"),
        (6, "prompt_id"),
        (7, "prompt_id"),
        (8, "prompt_id"),
    ]
    text = str(caught.value)
    assert "13 problems in the prompt table" in text
    duplicate = "prompt_id must be unique, got 'a'; row 0 has the same one"
    assert f"row 4 (prompt_id 'a'): {duplicate}" in text
    assert "row 3 (prompt_id 'c'): n must be at least 1, got 0" in text
    assert "row 4 (prompt_id 'a'): prompt must be text, got int 7" in text
    # The same rows in pandas, as objects that Arrow refuses.
    frame = pd.DataFrame(
        {key: [row.get(key) for row in source] for key in ("prompt", "prompt_id", *overrides)},
        dtype=object,
    )
    assert problems_of(frame, overrides=overrides) == [
        (each.position, each.column) for each in caught.value.problems
    ]


def test_a_column_of_the_wrong_type_is_as_many_bad_rows():
    """An Arrow column of integers holds no prompt."""
    assert problems_of(pa.table({"prompt": [1, 2]})) == [(0, "prompt"), (1, "prompt")]
    assert problems_of([1, None]) == [(0, "prompt"), (1, "prompt")]
    table = pa.table({"prompt": ["a"], "stream": [1]})
    assert problems_of(table, overrides=["stream"]) == [(0, "stream")]


def test_rows_that_are_no_rows_and_values_that_are_no_column_are_named():
    """The first value that does not fit a carried column is found, not the column as a whole."""
    assert problems_of([{"prompt": "a"}, "b", {"prompt": "c"}, None]) == [(1, "row"), (3, "row")]
    mixed = [{"prompt": "a", "x": at} for at in range(50)]
    mixed[37]["x"] = "thirty-seven"
    assert problems_of(mixed) == [(37, "x")]
    assert problems_of([{"prompt": "a", "x": object()}]) == [(0, "x")]
    assert problems_of([{"prompt": "a", "x": "ok"}, {"prompt": "b", "x": "\ud800"}]) == [(1, "x")]


def test_a_row_can_complete_the_parameters_of_its_asset():
    """With overrides, hard limits are checked row by row."""
    source = [{"prompt": "a", "partial_images": 2}, {"prompt": "b", "partial_images": None}]
    assert problems_of(
        source,
        params={"stream": True},
        overrides=["partial_images"],
        streaming_needs_partials=True,
    ) == [(1, "partial_images")]


def test_integer_ids_become_text():
    """A SKU is a name, in whatever type it comes."""
    for ids in ([7, 8], [7.0, 8.0], [Decimal(7), Decimal(8)], ["7", "8"]):
        rows = read([{"prompt": "p", "prompt_id": each} for each in ids]).rows
        assert [row.prompt_id for row in rows] == ["7", "8"]


def test_a_template_takes_columns_as_they_are():
    """Text, numbers with a format, dates; doubled braces are braces."""
    row = {
        "name": "mug {x}",
        "price": 3.5,
        "share": Decimal("0.25"),
        "on": date(2026, 1, 2),
        "product name": "Mug",
        "ok": True,
    }
    template = "{name} at {price:.2f}, {share:.0%}, {on:%d %B}, {{{product name}}}, {ok}, {name}"
    assert read([row], template=template).rows[0].requests[0].prompt == (
        "mug {x} at 3.50, 25%, 02 January, {Mug}, True, mug {x}"
    )
    assert PromptTemplate.parse(template).columns == (
        "name",
        "price",
        "share",
        "on",
        "product name",
        "ok",
    )


def test_a_template_without_columns_is_every_row_s_prompt():
    """Also of a table that has nothing else to read."""
    table = read([{"sku": "a"}, {"sku": "b"}], template="A red mug")
    assert [row.requests[0].prompt for row in table.rows] == ["A red mug"] * 2
    assert table.carried.to_pylist() == [{"sku": "a"}, {"sku": "b"}]


def test_a_prompt_column_can_be_an_ingredient():
    """The filled template takes its place in the image table."""
    table = read([{"prompt": "a mug", "x": 1}], template="{prompt}, studio light")
    assert table.rows[0].requests[0].prompt == "a mug, studio light"
    assert table.carried.column_names == ["x"]


@pytest.mark.parametrize(
    "template",
    ["{}", "{0}", "{name.__class__}", "{name[0]}", "{name!r}", "{name:{width}}", "{name", "name}"],
)
def test_a_template_reads_columns_and_nothing_else(template: str):
    """No position, attribute, item, conversion or nested field; found where it is defined."""
    with pytest.raises(ConfigurationError, match="prompt template"):
        PromptTemplate.parse(template)


def test_values_that_a_template_cannot_take_are_bad_rows():
    """All of them at once, by the column at fault."""
    source: list[dict[str, Any]] = [
        {"x": 1},
        {"x": None},
        {"x": float("nan")},
        {"x": [1]},
        {"x": "three"},
        {"x": b"3"},
        {"x": pd.NaT},
    ]
    assert problems_of(source, template="{x:d} mugs") == [(at, "x") for at in range(1, 7)]
    assert problems_of([{"x": "y" * 32_000}], template="a {x}") == [(0, "prompt")]


COUNTS = st.one_of(st.none(), st.integers(0, 3), st.sampled_from(["", " ", "two", "1.5", "\ud800"]))
CELLS = st.one_of(st.none(), st.integers(0, 3), st.text(st.characters(), max_size=3))
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)


@settings(max_examples=60)
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "prompt": TEXTS.filter(str.strip),
                "revision": st.none() | st.integers(0, 9),
                "quality": st.none() | TEXTS,
                "note": st.none() | st.booleans(),
            }
        ),
        min_size=1,
        max_size=6,
    )
)
def test_any_rows_are_the_same_requests_in_any_kind_of_table(rows: list[dict[str, Any]]):
    """Whatever the values: types that libraries change on the way do not change an image."""
    overrides = ["revision", "quality"]
    expected = read(rows, overrides=overrides).rows
    assert [row.requests[0].prompt for row in expected] == [row["prompt"] for row in rows]
    schema = pa.schema(
        {
            "prompt": pa.string(),
            "revision": pa.int64(),
            "quality": pa.string(),
            "note": pa.bool_(),
        }
    )
    table = pa.Table.from_pylist(rows, schema=schema)
    kinds: Iterator[object] = iter((table, table.to_pandas(), pl.from_arrow(table)))
    for source in kinds:
        assert read(source, overrides=overrides).rows == expected


@settings(max_examples=60)
@given(st.lists(st.fixed_dictionaries({"prompt": CELLS, "prompt_id": CELLS, "n": COUNTS})))
def test_every_bad_row_is_reported_and_no_sound_one(rows: list[dict[str, Any]]):
    """A row is named if and only if a rule, written here a second time, says so."""

    def lone(text: str) -> bool:
        return any("\ud800" <= character <= "\udfff" for character in text)

    bad: set[int] = set()
    seen: set[str] = set()
    for at, row in enumerate(rows):
        prompt, given_id, n = row["prompt"], row["prompt_id"], row["n"]
        sound = isinstance(prompt, str) and prompt.strip() and not lone(prompt)
        name = None if given_id is None else str(given_id)
        fresh = bool(name and name.strip()) and name not in seen and not lone(name or "")
        if name and fresh:
            seen.add(name)
        count = n in (None, "", " ") or (isinstance(n, int) and n >= 1)
        if not (sound and fresh and count):
            bad.add(at)
    if bad:
        assert {at for at, _ in problems_of(rows, overrides=["n"])} == bad
    else:
        got = read(rows, overrides=["n"]).rows
        assert [len(row.requests) for row in got] == [
            row["n"] if isinstance(row["n"], int) else 1 for row in rows
        ]


def test_problems_hang_on_the_error():
    """A pipeline can show them in a table of its own."""
    with pytest.raises(PromptTableError) as caught:
        read([{"prompt": "a", "prompt_id": "x", "size": 5}], overrides=["size"])
    (problem,) = caught.value.problems
    assert (problem.position, problem.prompt_id, problem.column, problem.value) == (
        0,
        "x",
        "size",
        5,
    )
    assert problem.rule == "must be text"
    assert str(problem) == "row 0 (prompt_id 'x'): size must be text, got int 5"
    with pytest.raises(InvalidRequest):
        read(["a"], params={"user": "u" * 257})
