"""What Dagster shows of a materialization: previews, figures, versions."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from dagster_imagegen import image_asset
from dagster_imagegen.engine.manifest import OUR_COLUMNS
from dagster_imagegen.engine.usage import to_table
from dagster_imagegen.metadata import (
    column_schema,
    cost_by_basis,
    data_version,
    usage_version,
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


def test_a_usage_version_is_of_which_requests() -> None:
    """No requests are always the same version."""
    one, two = (to_table([{"attempt_id": each}]) for each in ("a", "b"))
    assert usage_version([one, two]) == usage_version([two, one])
    assert usage_version([one]) != usage_version([two])
    assert usage_version([to_table([])]) == usage_version([])


# -- figures ---------------------------------------------------------------------------------------


def test_costs_of_different_kinds_are_not_one_sum() -> None:
    """What was metered, what was estimated, and what nobody knows."""
    rows = [("metered", "0.04"), ("metered", "0.01"), ("estimated", "0.2"), ("unknown", None)]
    usage = to_table(
        {"cost_basis": basis, "cost_usd": None if usd is None else Decimal(usd)}
        for basis, usd in rows
    )
    assert cost_by_basis(usage) == "$0.2000 estimated (1), $0.0500 metered (2), unknown (1)"
    assert cost_by_basis(to_table([])) == "$0.00, nothing was sent"


def test_the_schema_of_a_very_wide_table_is_cut() -> None:
    """So that the event stays small; our own columns carry their descriptions."""
    wide = pa.schema([pa.field(f"c{number}", pa.int64()) for number in range(500)])
    assert len(column_schema(wide).columns) == 60
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
    assert len(str(values["imagegen/thumbnails"])) < 1000
    assert values["imagegen/images"] == 4
    assert (values["imagegen/generated"], values["imagegen/refused"]) == (3, 1)
    assert (values["imagegen/reused"], values["imagegen/requests"]) == (0, 4)
    totals = project.sandbox.totals
    assert values["imagegen/cost_usd"] == pytest.approx(float(totals.cost_usd))
    assert values["imagegen/cost"] == f"${totals.cost_usd:,.2f}"
    assert values["imagegen/input_tokens"] == totals.input_tokens
    assert values["imagegen/output_tokens"] == totals.output_tokens
    assert values["dagster/row_count"] == 4
    assert values["dagster/uri"] == str(project.folder / "store")
    assert values["imagegen/storage"] == values["dagster/uri"]
    schema: Any = values["dagster/column_schema"]
    assert [each.name for each in schema.columns][:3] == ["price", "prompt_id", "prompt"]

    usage = materialized(result)["hero_usage"].metadata
    values = {name: getattr(each, "value", None) for name, each in usage.items()}
    assert (values["imagegen/succeeded"], values["imagegen/refused"]) == (3, 1)
    assert values["imagegen/cost_usd"] == pytest.approx(float(totals.cost_usd))
    assert values["imagegen/total_tokens"] == totals.input_tokens + totals.output_tokens
    assert Path(str(values["dagster/uri"])).is_dir()
    lineage: Any = values["dagster/column_lineage"]
    (dep,) = lineage.deps_by_column["fingerprint"]
    assert (dep.asset_key.to_user_string(), dep.column_name) == ("hero", "image_fingerprint")


def test_an_event_fits_the_smallest_event_log(project: Project) -> None:
    """64 KB for all of it, with previews, schema and lineage."""
    rows = [
        {"prompt": f"{number} mugs", **{f"c{c}": c for c in range(200)}} for number in range(20)
    ]

    @image_asset
    def hero() -> list[dict[str, Any]]:
        return rows

    result = project.run(hero)
    events = [
        each.to_json()
        for each in project.instance.all_logs(result.run_id)
        if each.dagster_event and each.dagster_event.is_step_materialization
    ]
    assert len(events) == 2
    assert max(map(len, events)) < 64_000
