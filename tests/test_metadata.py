"""What Dagster shows of a materialization: previews, figures, versions."""

import importlib.util
import subprocess
import sys
from collections import Counter
from decimal import Decimal
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest

from dagster_imagegen import image_asset
from dagster_imagegen.engine.image_table import OUR_COLUMNS
from dagster_imagegen.engine.money.amounts import usd_text
from dagster_imagegen.engine.run.progress import Totals
from dagster_imagegen.event_size import TEXT_BYTES, json_size
from dagster_imagegen.metadata import (
    SCHEMA_BYTES,
    check_carried,
    column_schema,
    cost_by_basis,
    data_version,
    spending_metadata,
)
from tests.conftest import Project, materialized


def image_table(*rows: dict[str, Any], **carried: list[Any]) -> pa.Table:
    """An image table of these rows, generated unless they say otherwise."""
    filled = [
        {
            "prompt_id": str(number),
            "prompt": f"prompt {number}",
            "image_variant": 0,
            "image_status": "generated",
            "image_path": f"images/{number}.png",
            "image_sha256": f"{number:064d}",
            "image_size_bytes": 100,
            **row,
        }
        for number, row in enumerate(rows)
    ]
    table = pa.Table.from_pylist(filled, schema=OUR_COLUMNS)
    for name, values in carried.items():
        table = table.add_column(0, name, pa.array(values))
    return table


# -- data version ----------------------------------------------------------------------------------


def test_the_version_does_not_tell_made_from_reused() -> None:
    """Nor when, by whom and at what cost an image was made, nor where the storage is mounted."""
    made = image_table({"image_uri": "/a/x", "image_attempt_id": "1", "image_cost_usd": Decimal(1)})
    reused = image_table({"image_status": "reused", "image_uri": "/b/x", "image_attempt_id": "2"})
    assert data_version([made]) == data_version([reused])


@pytest.mark.parametrize(
    "change",
    [
        {"image_sha256": "f" * 64},
        {"image_path": "images/other.png"},
        {"prompt": "another"},
        {"prompt_id": "another"},
        {"image_revision": 1},
        {"image_status": "refused"},
    ],
)
def test_the_version_changes_with_the_content(change: dict[str, Any]) -> None:
    """An image, a prompt, an id, a status."""
    assert data_version([image_table({}, {})]) != data_version([image_table({}, change)])


def test_the_version_changes_with_what_is_carried_and_with_the_order() -> None:
    """Both are what a downstream asset reads."""
    tables = [
        image_table({}, {}),
        image_table({}, {}, price=[1, 2]),
        image_table({}, {}, price=[1, 3]),
        image_table({}, {}, cost=[1, 2]),
        image_table({}, {}).take([1, 0]),
    ]
    versions = [data_version([table]).value for table in tables]
    assert len(set(versions)) == len(versions)
    assert data_version(tables[:1]) != data_version([*tables[:1], *tables[:1]])


def test_the_version_is_of_values_not_of_memory() -> None:
    """Chunks, slices, dictionary encoding and wide strings are how Arrow holds a table."""
    names = ["mug", "pot", "mug"]
    table = image_table({}, {}, {}, name=names)
    sliced = pa.concat_tables([table.slice(0, 1), table.slice(1)])
    encoded = table.set_column(0, "name", pa.array(names).dictionary_encode())
    wide = table.set_column(0, "name", pa.array(names, pa.large_string()))
    assert len({data_version([each]).value for each in (table, sliced, encoded, wide)}) == 1


ODD_TIMES: dict[str, pa.DataType] = {
    "beyond_year_9999": pa.timestamp("us"),
    "nowhere": pa.timestamp("us", tz="Mars/Olympus"),
    "nanoseconds": pa.timestamp("ns"),
    "lasts": pa.duration("ns"),
    "of_day": pa.time64("ns"),
    "list": pa.list_(pa.timestamp("ns")),
    "struct": pa.struct([pa.field("at", pa.timestamp("us", tz="Mars/Olympus"))]),
    "map": pa.map_(pa.string(), pa.timestamp("ns")),
}
ODD_VALUES: dict[str, list[Any]] = {
    "list": [[2**62], []],
    "struct": [{"at": 2**62}, None],
    "map": [[("a", 2**62)], []],
}


@pytest.mark.parametrize("name", ODD_TIMES)
def test_the_version_holds_whatever_time_arrow_holds(name: str) -> None:
    """Python's own types do not, and pandas, which has some of them, need not be there."""
    values = pa.array(ODD_VALUES.get(name, [2**62, 1]), ODD_TIMES[name])
    table = image_table({}, {}).add_column(0, "at", values)
    other = table.set_column(0, "at", pa.array([None, None], values.type))
    check_carried(table.select(["at"]))
    assert data_version([table]) == data_version([table])
    assert data_version([table]) != data_version([other])


def test_the_version_is_of_times_in_their_unit() -> None:
    """One second is not one microsecond; encoding by dictionary changes nothing."""
    times = [pa.array([1, 1], pa.timestamp(unit)) for unit in ("s", "us")]
    tables = [image_table({}, {}).add_column(0, "at", each) for each in times]
    assert data_version(tables[:1]) != data_version(tables[1:])
    encoded = tables[0].set_column(0, "at", times[0].dictionary_encode())
    assert data_version([encoded]) == data_version(tables[:1])


def test_the_version_does_not_need_pandas() -> None:
    """It is the same with and without."""
    script = """
import sys
class NoPandas:
    def find_spec(self, name, *_):
        if name.partition(".")[0] == "pandas":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, NoPandas())
import pyarrow as pa
from dagster_imagegen.metadata import data_version
table = pa.table({"at": pa.array([1, 2**62], pa.timestamp("ns")), "image_status": ["failed"] * 2})
print(data_version([table]).value)
"""
    without = subprocess.check_output([sys.executable, "-c", script], timeout=60, text=True)
    at = pa.array([1, 2**62], pa.timestamp("ns"))
    with_pandas = data_version([pa.table({"at": at, "image_status": ["failed"] * 2})])
    assert importlib.util.find_spec("pandas")
    assert with_pandas.value == without.strip()


# -- figures ---------------------------------------------------------------------------------------


def test_costs_of_different_kinds_are_not_one_sum() -> None:
    """What was metered, what was estimated, and what nobody knows."""
    totals = Totals(
        by_basis={
            "metered": (2, Decimal("0.05")),
            "unknown": (1, Decimal(0)),
            "estimated": (1, Decimal("0.2")),
        }
    )
    assert cost_by_basis(totals) == "$0.20 estimated (1), $0.05 metered (2), unknown (1)"
    assert cost_by_basis(Totals()) == "$0.00, nothing was sent"


def test_what_nobody_answered_is_unknown_and_has_no_cost() -> None:
    """Requests that a stopped pass gave up are counted, and the cost is not told as the whole."""
    totals = Totals(requests=3, statuses=Counter(succeeded=1, unknown=1), cost_usd=Decimal("0.1"))
    metadata = spending_metadata(totals, sandbox=False)
    assert metadata["imagegen/requests_succeeded"] == 1
    assert metadata["imagegen/requests_unknown"] == 2
    assert metadata["imagegen/cost"] == "$0.10 and 1 request of unknown cost"
    assert "imagegen/cost_usd" not in metadata


def test_texts_of_a_schema_are_cut_and_readable() -> None:
    """Of whatever length and in whatever encoding they came."""
    deep = pa.struct([pa.field(f"field_{number}", pa.string()) for number in range(500)])
    odd = pa.field("n" * 5000, deep, metadata={"description": b"caf\xe9 " * 5000})
    (column,) = column_schema(pa.schema([odd])).columns
    assert column.description is not None
    assert column.description.startswith("caf\N{REPLACEMENT CHARACTER} caf")
    assert (len(column.name), len(column.type)) == (200, 200)
    assert json_size(column.description) <= TEXT_BYTES


def test_the_schema_of_a_very_wide_table_is_cut() -> None:
    """So that the event stays small; our own columns carry their descriptions."""
    wide = pa.schema([pa.field(f"c{number}", pa.int64()) for number in range(500)])
    schema = column_schema(wide)
    assert 60 < len(schema.columns) < 500
    assert len(dg.serialize_value(schema)) < SCHEMA_BYTES + 500
    described = {each.name: each.description for each in column_schema(OUR_COLUMNS).columns}
    assert all(described.values())


def test_a_materialization_shows_pictures_costs_and_counts(project: Project) -> None:
    """Under keys that are namespaced, and Dagster's own where it has them."""

    @image_asset(quality="low", n=2)
    def hero() -> list[dict[str, Any]]:
        return [{"prompt": "a mug", "price": 3}, {"prompt": "a pot", "price": 4}]

    project.settings = {"max_concurrency": 1}
    project.sandbox.script(None, None, None, "moderation_blocked")
    result = project.run(hero)
    metadata = materialized(result)["hero"].metadata
    values = {name: getattr(each, "value", None) for name, each in metadata.items()}
    assert str(values["imagegen/preview"]).count("data:image/webp") == 3
    thumbnails = [value for name, value in values.items() if "thumbnail" in name]
    assert [len(str(each)) < 1000 for each in thumbnails] == [True] * 3
    assert values["imagegen/images"] == 4
    assert (values["imagegen/generated"], values["imagegen/refused"]) == (3, 1)
    assert (values["imagegen/reused"], values["imagegen/requests"]) == (0, 4)
    totals = project.sandbox.totals
    assert values["imagegen/cost_usd"] == pytest.approx(float(totals.cost_usd))
    assert values["imagegen/cost"] == usd_text(totals.cost_usd)
    assert values["imagegen/input_tokens"] == totals.input_tokens
    assert values["imagegen/output_tokens"] == totals.output_tokens
    assert values["imagegen/total_tokens"] == totals.input_tokens + totals.output_tokens
    assert (values["imagegen/requests_succeeded"], values["imagegen/requests_refused"]) == (3, 1)
    metered = f"{usd_text(totals.cost_usd)} metered (3)"
    assert values["imagegen/cost_by_basis"] == f"$0.00 estimated (1), {metered}"
    assert values["dagster/row_count"] == 4
    assert values["dagster/uri"] == str(project.folder / "store")
    assert values["imagegen/storage"] == values["dagster/uri"]
    schema: Any = values["dagster/column_schema"]
    names = [each.name for each in schema.columns]
    assert names[:4] == ["image_uri", "price", "prompt_id", "prompt"]
    assert len(names) == len(set(names)) == 1 + len(OUR_COLUMNS)
    assert schema.columns[0].description.count("data:image/webp") == 3
