"""The usage table: what goes in comes out, in JSON and in Parquet, and others can read it."""

import string
from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import polars
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagster_imagegen.engine.errors import ConfigurationError, StorageError
from dagster_imagegen.engine.record.parts import (
    bound_usd,
    decode_part,
    encode_part,
    journal_of,
    part_path,
    read_rows,
    scan_rows,
)
from dagster_imagegen.engine.record.schema import (
    MONEY,
    SCHEMA,
    TIME,
    VERSION_KEY,
    Row,
    attempt_of,
    decode_values,
    encode_values,
    row_of,
    to_table,
)
from dagster_imagegen.engine.storage import Storage

NOON = datetime(2026, 11, 22, 12, 0, 0, 123456, tzinfo=timezone.utc)

VALUES: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.string(): st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
    pa.int32(): st.integers(-(2**31), 2**31 - 1),
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.bool_(): st.booleans(),
    pa.date32(): st.dates(),
    MONEY: st.decimals(-(10**9), 10**9, places=10),
    TIME: st.datetimes(timezones=st.just(timezone.utc)),
}
ALWAYS = ("run_id", "root_run_id", "fingerprint", "status", "cost_basis", "image_path")
COLUMNS = {field.name: VALUES[field.type] for field in SCHEMA}
ROWS: st.SearchStrategy[Row] = st.fixed_dictionaries({}, optional=COLUMNS)
WHOLE_ROWS: st.SearchStrategy[Row] = st.fixed_dictionaries(
    {name: st.text("abc", min_size=1) for name in ALWAYS},
    optional={name: values for name, values in COLUMNS.items() if name not in ALWAYS},
)
"""Rows of attempts that brought an image."""


def row(**values: Any) -> Row:
    return {
        "attempt_id": "20261122T120000000000Z-ab-0",
        "fingerprint": "f" * 64,
        "started_at": NOON,
        "status": "succeeded",
        "cost_usd": Decimal("0.0421234567"),
        "price_as_of": date(2026, 11, 1),
        "input_tokens": 17,
        **values,
    }


@settings(max_examples=60)
@given(ROWS)
def test_any_row_survives_a_journal_line(values: Row):
    """JSON of one line gives every value back, with its type."""
    line = encode_values(values)
    assert len(line.splitlines()) == 1
    assert "\t" not in line
    assert decode_values(line) == values


@settings(max_examples=25)
@given(st.lists(WHOLE_ROWS, min_size=1, max_size=3))
def test_any_attempts_survive_a_part(rows: list[Row]):
    """Parquet gives every value back, with its type, and null where there was none.

    A cost without an upper bound has itself for one.
    """
    numbered = [{**each, "started_at": NOON, "attempt_id": f"{n}"} for n, each in enumerate(rows)]
    for each in numbered:
        if each.get("cost_usd_max") is None:
            each["cost_usd_max"] = each.get("cost_usd")
    attempts = [attempt_of(each) for each in numbered]
    read = pq.read_table(pa.BufferReader(encode_part(attempts))).to_pylist()
    assert read == [{name: each.get(name) for name in SCHEMA.names} for each in numbered]
    assert decode_part(encode_part(attempts)) == attempts


def test_a_part_carries_its_schema_and_version():
    """The columns, their order, their descriptions and the version are in the file."""
    schema = pq.read_schema(pa.BufferReader(encode_part([attempt_of(row())])))
    assert schema.names == SCHEMA.names
    assert schema.types == SCHEMA.types
    assert (schema.metadata or {})[b"dagster_imagegen.usage_schema"] == b"1"
    assert (schema.field("cost_usd").metadata or {})[b"description"].startswith(b"what was charged")


def test_a_part_is_in_the_order_of_sending():
    """Rows are sorted by when they were put on record, whatever order they came in."""
    rows = [row(attempt_id=str(n), started_at=NOON + timedelta(seconds=n)) for n in (2, 0, 1)]
    part = encode_part(map(attempt_of, rows))
    assert [each.attempt_id for each in decode_part(part)] == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("column", "value", "kept"),
    [
        ("revised_prompt", "half a \ud83d pair", "half a \\ud83d pair"),
        ("cost_usd", Decimal("0.123456789012345"), Decimal("0.1234567890")),
        ("cost_usd", Decimal("1e30"), None),
        ("cost_usd", Decimal("NaN"), None),
        ("input_tokens", 2**70, None),
        ("http_status", 2**40, None),
        ("prompt", "nul \0, \u2028 and tab\t", "nul \0, \u2028 and tab\t"),
    ],
)
def test_no_value_keeps_a_part_from_being_written(column: str, value: object, kept: object):
    """What a column cannot hold is escaped, rounded or left out; the row and the others stay."""
    part = encode_part([attempt_of(row(**{column: value}))])
    (read,) = pq.read_table(pa.BufferReader(part)).to_pylist()
    assert read[column] == kept
    assert read["price_as_of"] == date(2026, 11, 1)
    assert read["attempt_id"] == "20261122T120000000000Z-ab-0"


def test_a_part_is_named_for_its_journal_and_its_day():
    """The path tells the journal, and the journal tells the path."""
    path = part_path("20261122T235959999999Z-ab12")
    assert path == "usage/date=2026-11-22/20261122T235959999999Z-ab12.parquet"
    assert journal_of(path) == "20261122T235959999999Z-ab12"
    assert journal_of("usage/date=2026-11-22/notes.txt") is None


def test_others_can_read_a_folder_of_parts(tmp_path: Path):
    """pyarrow.dataset, DuckDB and polars read the same rows and sums without our help."""
    for day in (20, 21, 22):
        path = tmp_path / part_path(f"202611{day}T000000000000Z-ab")
        path.parent.mkdir(parents=True)
        rows = [attempt_of(row(attempt_id=f"{day}-{n}")) for n in range(3)]
        path.write_bytes(encode_part(rows))
    folder = tmp_path / "usage"
    expected = 9 * Decimal("0.0421234567")

    table = ds.dataset(folder, partitioning="hive").to_table()
    assert pc.sum(table["cost_usd"]).as_py() == expected
    assert pc.sum(table["input_tokens"]).as_py() == 9 * 17

    found = duckdb.execute(
        f"select sum(cost_usd), sum(input_tokens), count(*), min(started_at at time zone 'UTC') "
        f"from read_parquet('{folder}/**/*.parquet')"
    ).fetchall()
    assert found == [(expected, 9 * 17, 9, NOON.replace(tzinfo=None))]

    frame = polars.read_parquet(folder)
    assert frame["cost_usd"].sum() == expected
    assert frame["started_at"][0] == NOON


def test_an_older_part_reads_with_gaps(tmp_path: Path):
    """A part without today's columns is read as null there; a stranger's file is not opened."""
    old = to_table([row(attempt_id="old")]).drop_columns(["price_as_of", "image_width"])
    pq.write_table(old, tmp_path / "old.parquet")
    new = attempt_of(row(attempt_id="new", fingerprint="g"))
    (tmp_path / "new.parquet").write_bytes(encode_part([new]))
    (tmp_path / "notes.txt").write_text("not a part")
    paths, storage = ["old.parquet", "new.parquet"], Storage(str(tmp_path))
    rows = read_rows(paths, [], storage=storage)
    assert rows.schema.names == SCHEMA.names
    assert rows["price_as_of"].to_pylist() == [None, date(2026, 11, 1)]
    about_g = pc.field("fingerprint") == "g"
    found = read_rows(paths, [], storage=storage, columns=["attempt_id"], where=about_g)
    assert found.to_pylist() == [{"attempt_id": "new"}]


@pytest.mark.parametrize(
    "read", [read_rows, partial(scan_rows, scan=lambda rows: rows.count_rows())]
)
def test_a_part_of_a_newer_version_is_not_read(tmp_path: Path, read: Callable[..., Any]):
    """Its rows may mean anything, so that neither a bill nor a plan is made of them."""
    storage = Storage(str(tmp_path))
    paths = [part_path(f"202611{day}T110000000000Z-a") for day in (22, 21)]
    for path in paths:
        storage.put_now(path, encode_part([attempt_of(row())]))
    read(paths, [], storage=storage)
    table = pq.read_table(tmp_path / paths[0])
    newer = table.replace_schema_metadata({VERSION_KEY: "7"})
    pq.write_table(newer, tmp_path / paths[0])
    with pytest.raises(ConfigurationError, match=r"has schema 7 of the usage table.*upgrade"):
        read(paths, [], storage=storage)
    pq.write_table(table.replace_schema_metadata({VERSION_KEY: b"o\xff"}), tmp_path / paths[0])
    with pytest.raises(StorageError, match=r"b'o\\xff'.*Restore it") as caught:
        read(paths, [], storage=storage)
    assert paths[0] in str(caught.value)
    assert not caught.value.can_pass


def test_what_counts_against_a_budget_is_the_same_in_a_table():
    """Cost, else worst case, else nothing: of attempts one by one, and summed over their rows."""
    attempts = [
        attempt_of(row(attempt_id="a", worst_case_usd=Decimal(5))),
        attempt_of(row(attempt_id="b", cost_usd=None, worst_case_usd=Decimal("0.5"))),
        attempt_of(row(attempt_id="c", cost_usd=None)),
        attempt_of(row(attempt_id="d", status=None, worst_case_usd=Decimal(2), cost_usd=None)),
    ]
    bounds = [each.bound_usd for each in attempts]
    assert bounds == [Decimal("0.0421234567"), Decimal("0.5"), 0, 2]
    assert bound_usd(to_table(map(row_of, attempts))) == sum(bounds)


def test_a_strict_budget_counts_what_may_have_been_charged():
    """The upper bound where a row has one, which older rows have not; else as any budget."""
    failed = row(
        attempt_id="a",
        cost_usd=Decimal(0),
        cost_usd_max=Decimal("0.25"),
        worst_case_usd=Decimal("0.25"),
    )
    older = row(attempt_id="b", cost_usd=Decimal("0.5"), cost_usd_max=None)
    table = to_table([failed, older])
    assert bound_usd(table) == Decimal("0.5")
    assert bound_usd(table, strict=True) == Decimal("0.75")
    assert row_of(attempt_of(failed))["cost_usd_max"] == Decimal("0.25")


def test_the_values_cover_every_column():
    """The strategies above know every type of the schema, and printable names only."""
    assert {field.type for field in SCHEMA} == set(VALUES)
    assert all(set(name) <= set(string.ascii_lowercase + "_0123456789") for name in SCHEMA.names)
