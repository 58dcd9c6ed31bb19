"""An image asset in shards, whose steps run in one process here: its results and its refusals."""

import hashlib
import os
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest

from dagster_imagegen import (
    ImageGenError,
    ParquetIOManager,
    build_image_asset,
    build_sharded_image_asset,
)
from dagster_imagegen.engine.attempt import Identity
from dagster_imagegen.engine.errors import ConfigurationError
from dagster_imagegen.sandbox import Fault
from dagster_imagegen.shard_files import FOLDER, ShardedPlan, ShardFiles, shard_of
from tests.conftest import Project, column, materialized, observed, table_asset

# Dagster's own, of arguments that are passed on to it.
pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")

ROWS = pa.table({"prompt": [f"a mug, {n % 10}" for n in range(12)], "sku": list(range(12))})


def sharded(**arguments: Any) -> dg.AssetsDefinition:
    given: dict[str, Any] = {"prompt_table": "products", "shards": 3, **arguments}
    return build_sharded_image_asset("hero", **given)


def config(**given: Any) -> dict[str, Any]:
    return {"ops": {"hero": {"config": given}}}


def steps(result: dg.ExecuteInProcessResult) -> list[str]:
    return [each.step_key or "" for each in result.all_events if each.is_step_start]


def shard_files(project: Project) -> list[Path]:
    return [each for each in (project.folder / "store" / FOLDER).rglob("*") if each.is_file()]


def test_it_makes_the_same_image_table_as_an_asset_without_shards(project: Project) -> None:
    """Value, metadata and data version; duplicates are requested once, and nothing is left over."""
    products = table_asset(ROWS)
    result = project.run(products, sharded())
    assert project.sent() == 10
    images = result.output_for_node("hero")
    assert column(images, "sku") == column(ROWS, "sku")
    assert column(images, "prompt") == column(ROWS, "prompt")
    assert set(column(images, "image_status")) == {"generated"}
    assert shard_files(project) == []
    plain = project.run(products, build_image_asset("hero", prompt_table="products"))
    assert project.sent() == 0
    drop = ["image_status"]
    assert images.drop_columns(drop).equals(plain.output_for_node("hero").drop_columns(drop))
    mine, theirs = (materialized(each)["hero"] for each in (result, plain))
    # The second has the same pictures, and only names the run that shows them.
    shown = {name for name in mine.metadata if re.match(r"imagegen/(preview|thumbnail_\d)$", name)}
    assert len(shown) == 4
    own = {*shown, "imagegen/requests_succeeded"}
    assert set(mine.metadata) - own == set(theirs.metadata) - {"imagegen/pictures_in"}
    versions = {(each.tags or {})["dagster/data_version"] for each in (mine, theirs)}
    assert len(versions) == 1
    assert mine.metadata["imagegen/requests"].value == 10
    assert "dagster/column_lineage" in mine.metadata


def test_a_shard_without_anything_to_request_starts_no_step(project: Project) -> None:
    """A new row starts its own shard, and is paid for alone."""
    asset = sharded()
    project.run(table_asset(ROWS), asset)
    project.sent()
    second = project.run(table_asset(ROWS), asset)
    assert steps(second) == ["products", "hero.plan", "hero.collect"]
    assert set(column(second.output_for_node("hero"), "image_status")) == {"reused"}
    more = pa.concat_tables([ROWS, pa.table({"prompt": ["a new mug"], "sku": [99]})])
    third = project.run(table_asset(more), asset)
    assert project.sent() == 1
    assert len(steps(third)) == 4
    assert column(third.output_for_node("hero"), "image_status") == [*["reused"] * 12, "generated"]
    number = shard_of(column(third.output_for_node("hero"), "image_fingerprint")[-1], 3)
    assert f"hero.shard_{number}" in steps(third)
    assert column(project.usage(third), "step_key") == [f"hero.shard_{number}"]


def test_a_row_that_fails_fails_its_shard_with_its_message(project: Project) -> None:
    """As it fails an image asset; the other shards go on, and the next run pays for that row."""
    project.settings = {"retry": {"max_attempts": 1}}
    project.sandbox.script(Fault("server_error", prompt="a mug, 7"))
    products = table_asset(ROWS)
    result = project.run(products, sharded(), fails=True)
    (error,) = project.errors(result)
    assert "1 of" in error
    assert "server_error" in error
    (observation,) = observed(result)
    assert "server_error" in str(observation.metadata["imagegen/problems"].value)
    assert materialized(result).keys() == {"products"}
    assert project.sent() == 10
    project.run(products, sharded())
    assert project.sent() == 1
    assert shard_files(project) != [], "those of the failed run, for its re-execution"


def test_rows_without_an_image_are_materialized_on_request(project: Project) -> None:
    """With the statuses that their shards reported, and the check that tells of them."""
    project.settings = {"retry": {"max_attempts": 1}}
    project.sandbox.script(Fault("server_error", prompt="a mug, 7"))
    project.sandbox.script(Fault("moderation_blocked", prompt="a mug, 8"))
    result = project.run(table_asset(ROWS), sharded(on_incomplete="materialize"))
    status = column(result.output_for_node("hero"), "image_status")
    assert status == [*["generated"] * 7, "failed", "refused", *["generated"] * 3]
    (check,) = result.get_asset_check_evaluations()
    assert (check.check_name, check.passed) == ("complete", False)
    metadata = materialized(result)["hero"].metadata
    assert metadata["imagegen/requests"].value == 10
    assert metadata["imagegen/requests_failed"].value == 1


def test_rows_that_a_budget_defers_are_deferred_in_the_table(project: Project) -> None:
    """They are on no record, so each shard tells of its own; the limit holds over all of them."""
    project.settings = {"budget": {"max_usd": 0.5, "when_exhausted": "defer"}}
    result = project.run(table_asset(ROWS), sharded(fail_on=[]))
    images = result.output_for_node("hero")
    made = column(images, "image_status").count("generated")
    assert made + column(images, "image_status").count("deferred") == 12
    assert 0 < made < 12
    assert set(column(images, "image_error_code")) == {None, "budget_exhausted"}
    assert float(materialized(result)["hero"].metadata["imagegen/cost_usd"].value) <= 0.5  # type: ignore[arg-type]


def test_the_run_config_reaches_the_shards(project: Project) -> None:
    """max_usd is a limit of all shards together; redo asks again for what was refused."""
    products = table_asset(ROWS)
    # Before the first run, which may or may not come to this row.
    project.sandbox.script(Fault("moderation_blocked", prompt="a mug, 8"))
    result = project.run(products, sharded(), run_config=config(max_usd=0.3), fails=True)
    assert any("This run's config has max_usd: 0.3" in each for each in project.errors(result))
    costs = column(project.usage(result), "cost_usd")
    assert 0 < sum(costs) <= 0.3
    project.run(products, sharded())
    project.sent()
    result = project.run(products, sharded(), run_config=config(redo=["refused"]))
    assert project.sent() == 1
    assert set(column(result.output_for_node("hero"), "image_status")) == {"reused", "generated"}


def test_a_plan_alone_starts_no_shard(project: Project) -> None:
    """It observes what a run would request, and leaves nothing behind."""
    asset = sharded(on_incomplete="materialize")
    result = project.run(table_asset(ROWS), asset, run_config=config(plan_only=True))
    assert project.sent() == 0
    assert steps(result) == ["products", "hero.plan", "hero.collect"]
    (observation,) = observed(result)
    assert observation.metadata["imagegen/to_request"].value == 10
    assert shard_files(project) == []


def test_a_limited_run_materializes_nothing(project: Project) -> None:
    """The rows that it covers are made and observed."""
    result = project.run(table_asset(ROWS), sharded(), run_config=config(limit=2))
    assert project.sent() == 2
    assert "hero" not in materialized(result)
    (observation,) = observed(result)
    assert "rows not run: 10" in (observation.description or "")
    assert observation.metadata["imagegen/generated"].value == 2


def test_bad_rows_fail_the_plan_before_anything_is_sent(project: Project) -> None:
    """All of them at once, whatever their shard."""
    rows = table_asset([{"prompt": "a"}, {"prompt": None}, {"prompt": "c"}, {"prompt": " "}])
    result = project.run(rows, sharded(), fails=True)
    (error,) = project.errors(result)
    assert "row 1" in error
    assert "row 3" in error
    assert project.sent() == 0
    assert shard_files(project) == []


def test_nothing_passes_through_an_io_manager_but_the_tables(project: Project) -> None:
    """One that takes tables alone is enough, as the default of all assets."""
    resources = {
        "imagegen": project.resource(),
        "io_manager": ParquetIOManager(uri=str(project.folder / "tables")),
    }
    project.run(table_asset(ROWS), sharded(on_incomplete="materialize"), resources=resources)
    names = {each.stem for each in (project.folder / "tables").rglob("*.parquet")}
    assert names == {"products", "hero"}


def test_an_io_manager_that_cannot_store_the_table_is_refused_by_the_plan(
    project: Project,
) -> None:
    """Before anything is sent."""

    class TextManager(dg.IOManager):
        def handle_output(self, context: dg.OutputContext, obj: str) -> None: ...

        def load_input(self, context: dg.InputContext) -> Any: ...

    resources = {"imagegen": project.resource(), "text": TextManager()}
    asset = sharded(io_manager_key="text")
    result = project.run(table_asset(ROWS), asset, resources=resources, fails=True)
    assert "cannot store" in project.errors(result)[0]
    assert project.sent() == 0


def test_a_partition_is_one_run(project: Project) -> None:
    """Usage rows name it; a run over several is refused before anything is sent."""
    days = dg.StaticPartitionsDefinition(["mon", "tue"])

    @dg.asset(partitions_def=days)
    def products(context: dg.AssetExecutionContext) -> Any:
        keys = context.partition_keys
        tables = {key: [f"a mug, {key} {n}" for n in range(3)] for key in keys}
        return tables if len(keys) > 1 else tables[keys[0]]

    asset = sharded(partitions_def=days)
    result = project.run(products, asset, partition_key="mon")
    assert set(column(project.usage(result), "partition_key")) == {"mon"}
    assert materialized(result)["hero"].partition == "mon"
    assert column(result.output_for_node("hero"), "prompt")[0] == "a mug, mon 0"
    with pytest.raises(ImageGenError, match=r"hero: a sharded asset runs one partition at a time"):
        sharded(partitions_def=days, backfill_policy=dg.BackfillPolicy.single_run())


def test_several_sharded_assets_can_share_a_project(project: Project) -> None:
    """And one can be renamed, grouped, and wait for assets that it does not read."""

    @dg.asset
    def ready() -> None: ...

    first = sharded(deps=[ready], group_name="shop", kinds={"image", "png"}, key_prefix="a")
    second = sharded(key=["b", "hero"], prompt="{sku} and {prompt}")
    renamed = second.with_attributes(
        asset_key_replacements={dg.AssetKey(["b", "hero"]): dg.AssetKey(["c", "hero"])}
    )
    result = project.run(table_asset(ROWS), ready, first, renamed)
    assert materialized(result).keys() == {"products", "ready", "a/hero", "c/hero"}
    assert set(column(project.usage(result), "asset_key")) == {"a/hero", "c/hero"}
    assert steps(result).index("ready") < steps(result).index("a__hero.plan")
    (spec,) = first.specs
    assert (spec.group_name, spec.kinds) == ("shop", {"image", "png"})


def test_op_tags_and_retry_policy_are_of_every_step_and_the_pool_of_the_shards() -> None:
    """A pool bounds how many processes send."""
    policy = dg.RetryPolicy(max_retries=2)
    tags = {"dagster-k8s/config": {"container_config": {"resources": {}}}}
    asset = sharded(op_tags=tags, retry_policy=policy, pool="image_shards")
    graph = asset.node_def
    assert isinstance(graph, dg.GraphDefinition)
    nodes = {name: graph.node_named(name).definition for name in ("plan", "shard_0", "collect")}
    ops = {name: each for name, each in nodes.items() if isinstance(each, dg.OpDefinition)}
    assert {each.retry_policy for each in ops.values()} == {policy}
    assert all("dagster-k8s/config" in each.tags for each in ops.values())
    assert {name: each.pool for name, each in ops.items()} == {
        "plan": None,
        "shard_0": "image_shards",
        "collect": None,
    }


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"shards": 0}, "hero: shards must be a whole number from 1 to 256, got 0"),
        ({"shards": True}, "got True"),
        ({"qualty": "low"}, 'has no argument "qualty".*"quality"'),
        ({"check_specs": []}, 'build_sharded_image_asset has no argument "check_specs"'),
        ({"on_incomplete": "ignore"}, "on_incomplete"),
    ],
)
def test_an_argument_that_cannot_work_is_an_error_at_definition(
    given: dict[str, Any], told: str
) -> None:
    """With the name of the asset or the function in it."""
    with pytest.raises(ImageGenError, match=told):
        sharded(**given)


def test_what_runs_left_that_never_finished_is_removed_after_a_week(project: Project) -> None:
    """It holds prompts. What is younger is kept, for a re-execution."""
    folder = project.folder / "store" / FOLDER
    for name, days in (("old", 8), ("young", 6)):
        left = folder / name / "1234" / "0.arrow"
        left.parent.mkdir(parents=True)
        left.write_bytes(b"rows")
        then = time.time() - days * 86_400
        os.utime(left, (then, then))
    project.run(table_asset(ROWS), sharded())
    assert [each.parent.parent.name for each in shard_files(project)] == ["young"]


def test_re_executions_of_one_run_do_not_mix_their_rows(project: Project) -> None:
    """They share their files: the slower one finds them replaced or gone, and says what to do."""
    with project.resource().open_engine() as engine:
        tables = [engine.read_prompts(rows, params={}) for rows in (ROWS, ROWS.slice(6))]
        files = ShardFiles(engine.usage_storage, Identity(run_id="2", root_run_id="1"))
        files.write(ShardedPlan(shards=3), tables[0])
        slower = files.plan()
        assert files.prompts(slower).carried == tables[0].carried
        files.write(ShardedPlan(shards=3), tables[1])
        with pytest.raises(ConfigurationError, match=r"another re-execution of this run.* launch"):
            files.prompts(slower)
        assert files.prompts(files.plan()).carried == tables[1].carried
        files.remove()
        for read in (files.plan, lambda: files.shard(0, partition=None)):
            with pytest.raises(ConfigurationError, match=r"is not there.* launch the asset again"):
                read()


def test_each_row_has_its_own_moderation_when_shards_are_collected(project: Project) -> None:
    """It is no part of an image: two rows can want the same one with another moderation."""
    rows = [
        {"prompt": "a mug", "moderation": "low", "n": 1},
        {"prompt": "a mug", "moderation": "auto", "n": 2},
    ]
    with project.resource().open_engine() as engine:
        table = engine.read_prompts(rows, params={}, overrides=["moderation", "n"])
        files = ShardFiles(engine.usage_storage, Identity(run_id="1", root_run_id="1"))
        files.write(ShardedPlan(shards=3), table)
        (first, second) = files.prompts(files.plan()).rows
    assert (first.requests[0].moderation, second.requests[1].moderation) == ("low", "auto")
    every = [[each.fingerprint for each in row.requests] for row in (first, second)]
    assert every == [[each.fingerprint for each in row.requests] for row in table.rows]


def test_images_are_divided_evenly_and_always_alike() -> None:
    """By their fingerprints alone."""
    prints = [hashlib.sha256(str(n).encode()).hexdigest() for n in range(8000)]
    counts = Counter(shard_of(each, 8) for each in prints)
    assert set(counts) == set(range(8))
    assert all(900 < each < 1100 for each in counts.values())
    assert shard_of("00000000000000ff" + "0" * 48, 8) == 7
