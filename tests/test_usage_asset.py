"""`build_usage_asset`: what the image assets have cost, on a page of Dagster."""

from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from dagster_imagegen import (
    ImageGenError,
    ImageGenResource,
    build_usage_asset,
    image_asset,
)
from dagster_imagegen.engine.attempt import Identity
from dagster_imagegen.engine.money.amounts import usd_text
from dagster_imagegen.engine.record.schema import SCHEMA
from dagster_imagegen.sandbox import Fault
from dagster_imagegen.usage_asset import COLUMNS, ROWS_MAX, measured, usage_metadata
from tests.conftest import Project, Store, materialized


@image_asset(quality="low")
def hero() -> list[str]:
    return ["a mug", "a pot"]


@image_asset(quality="low", size="1536x1024")
def banner() -> list[str]:
    return ["a tent"]


@image_asset(model="nobody-knows-its-price")
def odd() -> list[str]:
    return ["a hat"]


def shown(result: dg.ExecuteInProcessResult, name: str = "usage") -> dict[str, Any]:
    """The values of a materialization's metadata."""
    metadata = materialized(result)[name].metadata
    return {key: getattr(each, "value", each) for key, each in metadata.items()}


def records(metadata: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """The rows of a table in metadata."""
    return [dict(each.data) for each in metadata[f"imagegen/cost_by_{name}"].records]


def rows(*given: dict[str, Any]) -> pa.Table:
    """Usage rows of one day, asset, model and run, unless they say otherwise."""
    filled = [
        {
            "asset_key": "hero",
            "model": "m",
            "root_run_id": "run",
            "status": "succeeded",
            "started_at": datetime(2026, 11, 25, 23, 59, tzinfo=timezone.utc),
            "cost_basis": "metered",
            **row,
        }
        for row in given
    ]
    return measured(pa.Table.from_pylist(filled, schema=SCHEMA))


def test_the_bill_is_that_of_the_usage_table(project: Project) -> None:
    """By asset, by model and by day, each the same sum, and the numbers that are plotted."""
    usage = build_usage_asset(image_assets=[hero, banner])
    metadata = shown(project.run(hero, banner, usage))
    cost = float(project.sandbox.totals.cost_usd)
    assert metadata["imagegen/cost_usd"] == pytest.approx(cost)
    assert metadata["imagegen/cost_usd_max"] == pytest.approx(cost)
    assert (metadata["imagegen/requests"], metadata["imagegen/images"]) == (3, 3)
    assert metadata["imagegen/cost"] == usd_text(project.sandbox.totals.cost_usd)
    assert metadata["dagster/row_count"] == 3
    by_asset = {each["asset"]: each for each in records(metadata, "asset")}
    assert {name: each["requests"] for name, each in by_asset.items()} == {"hero": 2, "banner": 1}
    for name in ("asset", "model", "day"):
        assert sum(each["cost_usd"] for each in records(metadata, name)) == pytest.approx(cost)
    today = datetime.now(timezone.utc).date().isoformat()
    assert [each["day"] for each in records(metadata, "day")] == [today]
    assert [each["model"] for each in records(metadata, "model")] == ["openai-gpt-image-1"]


def test_the_totals_grow_and_the_run_stands_apart(project: Project) -> None:
    """A run that sends nothing adds nothing."""
    usage = build_usage_asset(image_assets=[hero, banner])
    first = shown(project.run(hero, usage))
    second = shown(project.run(hero, banner, usage))
    third = shown(project.run(usage))
    assert (first["imagegen/requests"], first["imagegen/run_requests"]) == (2, 2)
    assert (second["imagegen/requests"], second["imagegen/run_requests"]) == (3, 1)
    assert (third["imagegen/requests"], third["imagegen/run_requests"]) == (3, 0)
    assert second["imagegen/run_cost_usd"] == pytest.approx(
        second["imagegen/cost_usd"] - first["imagegen/cost_usd"]
    )
    assert (third["imagegen/run_cost_usd"], third["imagegen/run_images"]) == (0.0, 0)


def test_only_the_named_assets_count_and_nothing_is_sent(project: Project) -> None:
    """Others share the storage."""
    project.run(hero, banner)
    project.sent()
    metadata = shown(project.run(build_usage_asset(image_assets=["banner"])))
    assert [each["asset"] for each in records(metadata, "asset")] == ["banner"]
    assert metadata["imagegen/requests"] == 1
    assert project.sent() == 0


def test_requests_of_a_run_in_progress_count(project: Project) -> None:
    """Those that are answered; they are in a journal, and filtered as the others are."""
    identity = Identity(run_id="run", root_run_id="run", asset_key="hero")
    project.sandbox.script(None, Fault("hang"))  # so that the run cannot end before it is asked
    with project.resource(max_concurrency=1, drain_seconds=0.5).open_engine() as engine:
        prompts = engine.read_prompts(["a", "b", "c"], params={"quality": "low"})
        with engine.generate(prompts, identity=identity) as generation:
            next(iter(generation))
            counts = {
                key: engine.usage.read(columns=COLUMNS, where=pc.field("asset_key") == key).num_rows
                for key in ("hero", "banner")
            }
            assert not list((project.folder / "store" / "usage").rglob("*.parquet"))
    assert counts["hero"] >= 1
    assert counts["banner"] == 0


def test_nothing_was_sent_yet(project: Project) -> None:
    """An empty storage is no error."""
    metadata = shown(project.run(build_usage_asset(image_assets=[hero]), select=["usage"]))
    assert metadata["imagegen/cost"] == "$0.00"
    assert (metadata["imagegen/requests"], metadata["imagegen/cost_usd"]) == (0, 0.0)
    assert records(metadata, "day") == []


def test_a_renamed_asset_is_found(project: Project) -> None:
    """By the key that it has where it runs."""

    def renamed(asset: dg.AssetsDefinition) -> dg.AssetsDefinition:
        keys = {
            each: each.with_prefix("shop") for each in (dg.AssetKey("hero"), dg.AssetKey("usage"))
        }
        return asset.with_attributes(asset_key_replacements=keys)

    usage = build_usage_asset(image_assets=[hero])
    metadata = shown(project.run(renamed(hero), renamed(usage)), "shop/usage")
    assert [each["asset"] for each in records(metadata, "asset")] == ["shop/hero"]


def test_unknown_is_not_zero(project: Project) -> None:
    """A request without a price is counted, is in no sum, and leaves no upper bound."""
    usage = build_usage_asset(image_assets=[hero, odd])
    metadata = shown(project.run(hero, odd, usage))
    assert metadata["imagegen/unpriced_requests"] == 1
    assert str(metadata["imagegen/cost"]).endswith(" and 1 request of unknown cost")
    assert metadata["imagegen/cost_usd"] > 0
    assert "imagegen/cost_usd_max" not in metadata
    by_asset = {each["asset"]: each for each in records(metadata, "asset")}
    assert (by_asset["odd"]["cost_usd"], by_asset["odd"]["cost_usd_max"]) == (None, None)
    assert by_asset["hero"]["cost_usd_max"] == by_asset["hero"]["cost_usd"]


def test_what_was_charged_and_what_may_have_been_are_two_figures() -> None:
    """Older rows have the first only."""
    table = rows(
        {"cost_usd": Decimal("0.5"), "cost_usd_max": Decimal("0.5")},
        {"cost_usd": Decimal(0), "cost_usd_max": Decimal("0.25"), "status": "failed"},
        {"cost_usd": Decimal("0.125")},
    )
    metadata = usage_metadata(table, run="run", uri="here")
    assert (metadata["imagegen/cost_usd"], metadata["imagegen/cost_usd_max"]) == (0.625, 0.875)
    assert metadata["imagegen/cost"] == "$0.6250, at most $0.8750"
    assert (metadata["imagegen/requests"], metadata["imagegen/images"]) == (3, 2)


def test_the_sandbox_never_adds_to_money(project: Project) -> None:
    """Its requests are counted, whatever their rows say."""
    imagegen = ImageGenResource(
        base_url="sandbox",
        model="openai-gpt-image-1",
        storage_uri=str(project.folder / "store"),
    )
    usage = build_usage_asset(image_assets=[hero])
    metadata = shown(project.run(hero, usage, resources={"imagegen": imagegen}))
    assert metadata["imagegen/cost"] == "$0.00; 2 requests to the sandbox cost nothing"
    assert (metadata["imagegen/sandbox_requests"], metadata["imagegen/cost_usd"]) == (2, 0.0)
    hostile = {"cost_basis": "sandbox", "cost_usd": Decimal(5), "cost_usd_max": Decimal(9)}
    metadata = usage_metadata(rows(hostile, {"cost_basis": "sandbox"}), run="", uri="")
    assert (metadata["imagegen/cost_usd"], metadata["imagegen/cost_usd_max"]) == (0.0, 0.0)
    assert metadata["imagegen/unpriced_requests"] == 0


def test_days_are_those_of_utc_the_latest_first() -> None:
    """As in the budget."""
    late = datetime(2026, 11, 25, 23, 59, 59, 999999, tzinfo=timezone.utc)
    early = datetime(2026, 11, 26, tzinfo=timezone.utc)
    metadata = usage_metadata(rows({"started_at": late}, {"started_at": early}), run="", uri="")
    assert [each["day"] for each in records(metadata, "day")] == ["2026-11-26", "2026-11-25"]


def test_a_long_table_is_cut_and_still_adds_up() -> None:
    """An event must stay small: the rest is one row."""
    given = [
        {"asset_key": "x" * 500 + str(n), "model": f"m{n}", "cost_usd": Decimal(n)}
        for n in range(2 * ROWS_MAX)
    ]
    metadata = usage_metadata(rows(*given), run="run", uri="here")
    table = records(metadata, "asset")
    assert len(table) == ROWS_MAX + 1
    assert table[0]["cost_usd"] == 2 * ROWS_MAX - 1
    assert table[-1]["asset"] == f"{ROWS_MAX} more"
    assert sum(each["cost_usd"] for each in table) == metadata["imagegen/cost_usd"]
    event = dg.AssetMaterialization("usage", metadata=metadata)
    assert len(dg.serialize_value(event)) < 40_000


def test_it_is_an_asset_like_any(project: Project) -> None:
    """Its upstream, columns and attributes; no IO manager is asked for anything."""
    usage = build_usage_asset(
        "spending",
        image_assets=[hero, dg.AssetDep("banner")],
        resource_key="pictures",
        group_name="costs",
        metadata={"team": "shop"},
    )
    (spec,) = usage.specs
    assert {dep.asset_key.to_user_string() for dep in spec.deps} == {"hero", "banner"}
    assert (spec.group_name, spec.kinds, spec.metadata["team"]) == ("costs", {"parquet"}, "shop")
    assert spec.description == "Every request that was sent for `hero`, `banner`, and its cost."
    columns: Any = spec.metadata["dagster/column_schema"]
    assert [each.name for each in columns.columns] == SCHEMA.names
    assert all(each.description for each in columns.columns)
    store = Store()
    project.run(usage, resources={"pictures": project.resource(), "io_manager": store})
    assert store.values == {}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"image_assets": []}, "usage: image_assets must be a list of image assets, got []"),
        ({"image_assets": "hero"}, "usage: image_assets must be a list of image assets"),
        ({"image_assets": dg.AssetSpec("x")}, "usage: image_assets must be a list of image assets"),
        ({"image_assets": [hero], "deps": [odd]}, "usage: has no argument deps"),
        ({"image_assets": [hero], "config_schema": {}}, 'no argument "config_schema"'),
        ({"image_assets": [hero], "gruop_name": "x"}, 'no argument "gruop_name"; did you mean'),
    ],
)
def test_arguments_that_cannot_work_are_errors(arguments: dict[str, Any], told: str) -> None:
    """At definition time, with the remedy."""
    with pytest.raises(ImageGenError) as error:
        build_usage_asset(**arguments)
    assert told in str(error.value)


def test_only_the_columns_that_count_are_read() -> None:
    """Prompts and errors are most of the table."""
    assert set(COLUMNS) < set(SCHEMA.names)
    assert not {"prompt", "error_message", "revised_prompt"} & set(COLUMNS)
