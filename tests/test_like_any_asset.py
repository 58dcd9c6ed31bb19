"""An image asset where Dagster's own assets go: called, checked, automated, loaded by hundreds."""

import sys
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import dagster as dg
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from dagster_imagegen import ImageGenResource, build_image_asset, image_asset
from dagster_imagegen.engine.errors import ConfigurationError
from dagster_imagegen.run_config import ImageRunConfig
from dagster_imagegen.sandbox import Fault
from dagster_imagegen.table_types import TABLE_TYPES, TableType, convert_table
from tests.conftest import Project, column, materialized, of_rows, table_asset

# Dagster's own, of arguments that are passed on to it.
pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")


# -- called directly, as in a unit test ------------------------------------------------------------


def called(asset: dg.AssetsDefinition, *arguments: Any, **inputs: Any) -> Any:
    """The one event that a call of the asset yields."""
    events: Any = asset(*arguments, **inputs)
    (event,) = events
    return event


class Wishes(dg.Config):
    subject: str = "mug"


def test_it_can_be_called_with_a_context_and_its_inputs(project: Project) -> None:
    """It yields what its step would: here the materialization."""

    @image_asset
    def hero(products: list[str], config: Wishes) -> list[str]:
        return [f"{each} {config.subject}" for each in products]

    with dg.build_asset_context(resources={"imagegen": project.resource()}) as context:
        result = called(hero, context, ["a red"])
    assert column(result.value, "prompt") == ["a red mug"]
    resource = project.resource()
    context = dg.build_asset_context()
    again = called(hero, context, products=["a red"], imagegen=resource)
    assert column(again.value, "image_status") == ["reused"]
    (usage,) = resource.usage().to_pylist()
    assert (usage["asset_key"], usage["step_key"]) == ("hero", "hero")


def test_it_can_be_called_for_a_partition_and_without_a_function(project: Project) -> None:
    """The usage row names the partition."""
    days = dg.StaticPartitionsDefinition(["mon", "tue"])
    shots = build_image_asset("shots", prompt_table="products", partitions_def=days)
    resources = {"imagegen": project.resource()}
    context = dg.build_asset_context(resources=resources, partition_key="tue")
    result = called(shots, context, prompt_table=["a mug"])
    assert result.value.num_rows == 1
    assert column(project.resource().usage(), "partition_key") == ["tue"]


def test_it_can_be_called_for_several_partitions(project: Project) -> None:
    """It yields a dict of their tables, and the usage rows name the partitions."""
    days = dg.StaticPartitionsDefinition(["mon", "tue", "wed"])
    shots = build_image_asset("shots", prompt_table="products", partitions_def=days)
    context = dg.build_asset_context(
        resources={"imagegen": project.resource()},
        partition_key_range=dg.PartitionKeyRange("mon", "tue"),
    )
    result = called(shots, context, prompt_table={"mon": ["a mug"], "tue": ["a bowl"]})
    prompts = {day: column(table, "prompt") for day, table in result.value.items()}
    assert prompts == {"mon": ["a mug"], "tue": ["a bowl"]}
    assert sorted(column(project.resource().usage(), "partition_key")) == ["mon", "tue"]


# -- what the function returns ---------------------------------------------------------------------


def test_a_returned_result_is_merged_into_ours(project: Project) -> None:
    """Its value is the prompt table; its metadata, tags, version and checks are added."""

    @image_asset(check_specs=[dg.AssetCheckSpec("few", asset="hero")])
    def hero() -> "dg.MaterializeResult[list[str]]":
        return dg.MaterializeResult(
            value=["a mug"],
            metadata={"source": "shop"},
            tags={"season": "winter"},
            data_version=dg.DataVersion("7"),
            check_results=[dg.AssetCheckResult(check_name="few", passed=True)],
        )

    result = project.run(hero)
    event = materialized(result)["hero"]
    assert event.metadata["source"].value == "shop"
    assert event.metadata["imagegen/images"].value == 1
    tags = event.tags or {}
    assert (tags["season"], tags["dagster/data_version"]) == ("winter", "7")
    (check,) = result.get_asset_check_evaluations()
    assert check.check_name == "few"
    assert column(result.output_for_node("hero"), "prompt") == ["a mug"]


def test_a_returned_output_is_taken_apart_as_well(project: Project) -> None:
    """Without a data version, ours is kept."""

    @image_asset
    def hero() -> dg.Output[list[str]]:
        return dg.Output(["a mug"], metadata={"source": "shop"})

    event = materialized(project.run(hero))["hero"]
    assert event.metadata["source"].value == "shop"
    assert len((event.tags or {})["dagster/data_version"]) == 32


def test_a_returned_result_without_a_value_is_no_prompt_table(project: Project) -> None:
    """The error says what its value must be."""

    @image_asset
    def hero() -> "dg.MaterializeResult[Any]":
        return dg.MaterializeResult()

    (error,) = project.errors(project.run(hero, fails=True))
    assert "must be the prompt table" in error


# -- checks and automation -------------------------------------------------------------------------


def test_a_check_of_its_own_reads_the_image_table_and_other_assets(project: Project) -> None:
    """As `additional_ins` name them."""
    hero = of_rows(["a mug"])
    products = table_asset(["a mug"])

    @dg.asset_check(asset=hero, additional_ins={"wanted": dg.AssetIn("products")})
    def all_there(hero: pa.Table, wanted: list[str]) -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=column(hero, "prompt") == wanted)

    definitions = dg.Definitions(
        assets=[hero, products],
        asset_checks=[all_there],
        resources={"imagegen": project.resource()},
    )
    job = definitions.resolve_implicit_global_asset_job_def()
    (check,) = job.execute_in_process(instance=project.instance).get_asset_check_evaluations()
    assert check.passed


def test_nothing_downstream_is_requested_after_a_run_that_materialized_nothing(
    project: Project,
) -> None:
    """Neither after a failed one nor after a limited one nor after a plan, by `eager()`."""
    project.settings = {"retry": {"max_attempts": 1}}
    hero = of_rows(["one", "two"])

    @dg.asset(deps=[hero], automation_condition=dg.AutomationCondition.eager())
    def thumbs() -> None: ...

    definitions = dg.Definitions(assets=[hero, thumbs], resources={"imagegen": project.resource()})
    state = dg.evaluate_automation_conditions(definitions, project.instance)
    project.sandbox.script(Fault("server_error", prompt="two"))
    requested: list[int] = []
    for fails, config in (
        (False, {"plan_only": True}),
        (False, {"limit": 1}),
        (True, {}),
        (False, {}),
    ):
        project.run(hero, fails=fails, run_config={"ops": {"hero": {"config": config}}})
        state = dg.evaluate_automation_conditions(
            definitions, project.instance, cursor=state.cursor
        )
        requested.append(state.get_num_requested(thumbs.key))
    assert requested == [0, 0, 0, 1]


# -- image tables as prompt tables -----------------------------------------------------------------


def test_an_image_table_can_be_the_next_prompt_table(project: Project) -> None:
    """Its columns are carried under the prefix, by which the template names them."""
    hero = of_rows([{"prompt": "a mug", "prompt_id": "m", "sku": 7}], n=2)
    snow = build_image_asset(
        "snow", prompt_table=hero, prompt="{hero_prompt} in the snow", carry_prefix="hero_"
    )
    result = project.run(hero, snow)
    before, after = (result.output_for_node(name) for name in ("hero", "snow"))
    assert column(after, "prompt") == ["a mug in the snow"] * 2
    assert column(after, "sku") == [7, 7]
    assert column(after, "hero_prompt_id") == ["m", "m"]
    assert column(after, "hero_image_uri") == column(before, "image_uri")
    lineage: Any = materialized(result)["snow"].metadata["dagster/column_lineage"].value
    names = {name: deps[0].column_name for name, deps in lineage.deps_by_column.items()}
    assert (names["hero_image_uri"], names["prompt"]) == ("image_uri", "prompt")
    assert names["sku"] == "sku"


def test_without_a_template_prompts_and_ids_are_the_rows_own(project: Project) -> None:
    """The same pictures at another size, say."""
    hero = of_rows([{"prompt": "a mug", "prompt_id": "m"}])
    large = build_image_asset("large", prompt_table=hero, carry_prefix="small_", size="1536x1024")
    images = project.run(hero, large).output_for_node("large")
    assert (column(images, "prompt"), column(images, "prompt_id")) == (["a mug"], ["m"])
    assert column(images, "small_image_format") == ["png"]


def test_a_prefix_that_gives_a_name_twice_is_refused(project: Project) -> None:
    """Before anything is sent, with the columns."""
    hero = of_rows([{"prompt": "a", "image_x": 1, "old_image_x": 2}], carry_prefix="old_")
    (error,) = project.errors(project.run(hero, fails=True))
    assert "old_image_x, which the prompt table has already" in error
    assert project.sent() == 0


# -- partitions ------------------------------------------------------------------------------------

DAYS = dg.DailyPartitionsDefinition("2026-01-01", end_date="2026-01-15")


@pytest.mark.parametrize("weekly", [False, True], ids=["unpartitioned", "weekly"])
def test_images_of_the_prompts_of_several_partitions(project: Project, weekly: bool) -> None:
    """Where the upstream asset has partitions that the images do not, its tables are joined."""

    @dg.asset(partitions_def=DAYS)
    def products(context: dg.AssetExecutionContext) -> list[dict[str, str]]:
        return [{"name": f"mug of {context.partition_key}"}]

    weeks = dg.WeeklyPartitionsDefinition("2026-01-04", end_date="2026-01-15")
    partitions: dict[str, Any] = {"partitions_def": weeks} if weekly else {}
    shots = build_image_asset(
        "shots", prompt_table=products, prompt="a {name}", quality="low", **partitions
    )
    days = [f"2026-01-{day:02}" for day in (range(4, 11) if weekly else range(1, 15))]
    for day in days:
        project.run(products, partition_key=day)
    run: dict[str, Any] = {"partition_key": "2026-01-04"} if weekly else {}
    images = project.run(products, shots, select=["shots"], **run).output_for_node("shots")
    assert column(images, "prompt") == [f"a mug of {day}" for day in days]


def test_a_dict_that_is_not_of_partitions_is_not_taken_for_them(project: Project) -> None:
    """Columns by name would otherwise be paid for as prompts."""
    products = table_asset({"prompt": ["a mug"], "name": ["mug"]})
    shots = build_image_asset("shots", prompt_table=products)
    (error,) = project.errors(project.run(products, shots, fails=True))
    assert "a dict of columns" in error
    assert project.sent() == 0


# -- table types -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table_type", "kind"), [("pandas", pd.DataFrame), ("polars", pl.DataFrame)]
)
def test_the_value_is_a_table_of_another_library(
    project: Project, table_type: TableType, kind: type
) -> None:
    """Which the next asset takes, and whose values are those of Arrow."""
    seen: list[Any] = []
    hero = of_rows(
        [{"prompt": "a mug", "sku": 7}, {"prompt": "b", "sku": None}], table_type=table_type
    )

    @dg.asset
    def thumbs(hero: Any) -> None:
        seen.append(hero)

    project.run(hero, thumbs)
    (value,) = seen
    assert isinstance(value, kind)
    back = pa.table(value)
    assert column(back, "sku") == [7, None]
    assert all(isinstance(each, Decimal) for each in column(back, "image_cost_usd"))
    assert pa.types.is_integer(back.schema.field("sku").type)
    assert column(back, "image_error_code") == [None, None]


@pytest.mark.parametrize("table_type", TABLE_TYPES)
def test_a_conversion_keeps_every_value(table_type: TableType) -> None:
    """Decimals, nulls beside integers and booleans, times, lists."""
    table = pa.table(
        {
            "money": pa.array([Decimal("0.0123456789"), None], pa.decimal128(20, 10)),
            "large": pa.array([2**60 + 1, None]),
            "flag": pa.array([True, None]),
            "at": pa.array([1, None], pa.timestamp("us", "UTC")),
            "tags": pa.array([["a"], None]),
        }
    )
    back = pa.table(convert_table(table, table_type))
    assert back.to_pylist() == table.to_pylist()


def test_a_table_type_is_checked_where_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name, and whether its library is installed."""
    wrong: Any = "panda"
    with pytest.raises(ConfigurationError, match='did you mean "pandas"'):
        of_rows([], table_type=wrong)
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(ConfigurationError, match=r"hero: .*pip install polars"):
        of_rows([], table_type="polars")


class Frames(dg.IOManager):
    """Stores pandas alone."""

    def handle_output(self, context: dg.OutputContext, obj: pd.DataFrame) -> None:
        obj.to_csv()

    def load_input(self, context: dg.InputContext) -> None:
        raise NotImplementedError


def test_the_table_type_is_what_the_io_manager_stores(project: Project) -> None:
    """The error names the type to set; with it, the table is stored."""
    resources = {"imagegen": project.resource(), "io_manager": Frames()}
    (error,) = project.errors(project.run(of_rows(["a"]), resources=resources, fails=True))
    assert 'Set table_type="pandas".' in error
    assert project.sent() == 0
    project.run(of_rows(["a"], table_type="pandas"), resources=resources)
    (error,) = project.errors(
        project.run(of_rows(["a"], table_type="polars"), resources=resources, fails=True)
    )
    assert "is a polars DataFrame" in error


class PolarsFrames(dg.IOManager):
    """Stores polars alone, of more than one kind, as those of `dagster-polars` say."""

    def handle_output(
        self, context: dg.OutputContext, obj: pl.DataFrame | pl.LazyFrame | None
    ) -> None:
        raise NotImplementedError

    def load_input(self, context: dg.InputContext) -> None:
        raise NotImplementedError


def test_the_remedy_is_found_among_several_types(project: Project) -> None:
    """Any of them names the library."""
    resources = {"imagegen": project.resource(), "io_manager": PolarsFrames()}
    (error,) = project.errors(project.run(of_rows(["a"]), resources=resources, fails=True))
    assert 'Set table_type="polars".' in error
    assert project.sent() == 0


# -- hundreds of them ------------------------------------------------------------------------------


def plain_asset(name: str) -> dg.AssetsDefinition:
    """An asset with a function, a run config and a resource, as ours have."""

    def asset(
        context: dg.AssetExecutionContext, config: ImageRunConfig, imagegen: ImageGenResource
    ) -> None: ...

    return dg.asset(name=name, kinds={"image"})(asset)


def image_asset_of(name: str) -> dg.AssetsDefinition:
    """One with a function, as users write it."""

    def prompts() -> list[str]:
        return ["a mug"]

    return image_asset(name=name, quality="low")(prompts)


def seconds_to_load(make: Callable[[str], dg.AssetsDefinition], count: int) -> float:
    """How long a code location of as many takes."""
    begun = time.process_time()
    assets = [make(f"asset_{number}") for number in range(count)]
    resource = ImageGenResource(base_url="sandbox", model="any", storage_uri="images")
    definitions = dg.Definitions(assets=assets, resources={"imagegen": resource})
    definitions.resolve_asset_graph()
    return time.process_time() - begun


@pytest.mark.full
def test_five_hundred_load_in_about_the_time_of_plain_assets() -> None:
    """At most one and a half times as long; the best of several, because others use the machine."""
    best: dict[Any, float] = {}
    for _ in range(7):
        for make in (plain_asset, image_asset_of):
            best[make] = min(seconds_to_load(make, 500), best.get(make, 1e9))
    assert best[image_asset_of] <= 1.5 * best[plain_asset], best
