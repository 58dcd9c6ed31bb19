"""Runs of a part of the prompt table, and of the plan alone."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_imagegen import build_image_asset, image_asset
from dagster_imagegen.sandbox import Fault
from tests.conftest import Project, Store, column, materialized, observed, of_rows, table_asset

# Dagster's own, of arguments that are passed on to it.
pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")

ROWS = ["one", "two", "three"]


def config(**given: Any) -> dict[str, Any]:
    return {"ops": {"hero": {"config": given}}}


def told(observation: dg.AssetObservation) -> dict[str, Any]:
    return {name: each.value for name, each in observation.metadata.items()}


# -- limit -----------------------------------------------------------------------------------------


def test_a_limited_run_makes_the_first_images_and_materializes_nothing(project: Project) -> None:
    """They are observed with their pictures and cost; the next run requests the rest alone."""
    hero = of_rows(ROWS)

    @dg.asset
    def thumbs(hero: Any) -> None: ...

    result = project.run(hero, thumbs, run_config=config(limit=2))
    assert [each.body["prompt"] for each in project.sandbox.requests] == ROWS[:2]
    assert materialized(result) == {}, "nor is what is downstream"
    (observation,) = observed(result)
    assert "rows not run: 1" in (observation.description or "")
    assert told(observation)["imagegen/generated"] == 2
    assert "imagegen/thumbnail_1" in observation.metadata
    project.sent()
    images = project.run(hero).output_for_node("hero")
    assert project.sent() == 1
    assert column(images, "image_status") == ["reused", "reused", "generated"]


def test_a_limit_that_leaves_nothing_out_is_none(project: Project) -> None:
    """The run covers every row, so the image table is whole."""
    result = project.run(of_rows(ROWS), run_config=config(limit=3))
    assert set(materialized(result)) == {"hero"}


def test_a_limited_run_fails_where_its_rows_do(project: Project) -> None:
    """As any run does."""
    project.settings = {"retry": {"max_attempts": 1}}
    project.sandbox.script(Fault("server_error", prompt="one"))
    result = project.run(of_rows(ROWS), run_config=config(limit=1), fails=True)
    (observation,) = observed(result)
    assert "server_error" in str(told(observation)["imagegen/problems"])


@pytest.mark.parametrize("given", [{"limit": 2}, {"plan_only": True}])
def test_the_check_is_answered_by_a_run_that_materializes_nothing(
    project: Project, given: dict[str, Any]
) -> None:
    """Dagster demands its result of every step; not every row has an image."""
    hero = of_rows(ROWS, on_incomplete="materialize")
    result = project.run(hero, run_config=config(**given))
    assert materialized(result) == {}
    (check,) = result.get_asset_check_evaluations()
    assert not check.passed


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused(project: Project, limit: int) -> None:
    """With what to set instead."""
    (error,) = project.errors(
        project.run(of_rows(ROWS), run_config=config(limit=limit), fails=True)
    )
    assert f"limit in the run config must be at least 1, got {limit}; set plan_only" in error
    assert project.sent() == 0


def test_a_limit_counts_the_rows_of_all_partitions_of_a_run(project: Project) -> None:
    """In their order."""
    letters = dg.StaticPartitionsDefinition(["a", "b", "c"])

    @image_asset(partitions_def=letters, backfill_policy=dg.BackfillPolicy.single_run())
    def hero(context: dg.AssetExecutionContext) -> dict[str, list[str]]:
        return {key: [f"{key} {number}" for number in range(2)] for key in context.partition_keys}

    tags = {
        "dagster/asset_partition_range_start": "a",
        "dagster/asset_partition_range_end": "c",
    }
    resources = {"imagegen": project.resource(), "io_manager": Store()}
    result = project.run(hero, tags=tags, resources=resources, run_config=config(limit=3))
    prompts = sorted(each.body["prompt"] for each in project.sandbox.requests)
    assert prompts == ["a 0", "a 1", "b 0"]
    counts = {each.partition: told(each)["imagegen/images"] for each in observed(result)}
    assert counts == {"a": 2, "b": 1, "c": 0}


# -- plan_only -------------------------------------------------------------------------------------


def test_a_plan_sends_nothing_and_succeeds(project: Project) -> None:
    """It is observed, with what a run would request and cost, and nothing is stored."""
    project.run(of_rows(ROWS[:1]))
    project.sent()
    stored = project.value("hero")
    result = project.run(of_rows(ROWS), run_config=config(plan_only=True))
    assert project.sent() == 0
    assert materialized(result) == {}
    assert project.value("hero") == stored
    (observation,) = observed(result)
    plan = told(observation)
    assert (plan["imagegen/to_request"], plan["imagegen/reused"]) == (2, 1)
    assert 0 < plan["imagegen/planned_usd_min"] <= plan["imagegen/planned_usd_max"]
    assert plan["imagegen/plan"].startswith("plan: 3 rows, 3 images, 2 to request, 1 already")
    assert project.usage(result).num_rows == 0


def test_a_plan_finds_bad_rows(project: Project) -> None:
    """As a run would, before anything is sent."""
    result = project.run(of_rows([""]), run_config=config(plan_only=True), fails=True)
    assert "prompt" in project.errors(result)[0]


def test_a_plan_names_the_partition(project: Project) -> None:
    """And works without a function, of a part of the rows."""
    days = dg.StaticPartitionsDefinition(["mon", "tue"])
    shots = build_image_asset("hero", prompt_table="products", partitions_def=days)
    given = config(plan_only=True, limit=2)
    result = project.run(table_asset(ROWS), shots, partition_key="tue", run_config=given)
    (observation,) = observed(result)
    assert observation.partition == "tue"
    assert told(observation)["imagegen/to_request"] == 2
    assert told(observation)["imagegen/rows_left_out"] == 1


DEFINITIONS = """
import dagster as dg
from dagster_imagegen import ImageGenResource, image_asset

@image_asset
def hero():
    return ["one", "two", "three"]

defs = dg.Definitions(
    assets=[hero],
    executor=dg.in_process_executor,
    resources={
        "imagegen": ImageGenResource(base_url="URL", model="any", storage_uri="STORE")
    },
)
"""


@pytest.mark.parametrize(("fail_on", "passed"), [(["failed"], True), (["refused"], False)])
def test_a_plan_counts_refused_rows_as_the_asset_does(
    project: Project, fail_on: list[Any], passed: bool
) -> None:
    """They are incomplete if `fail_on` names them."""
    hero = of_rows(["a mug"], fail_on=fail_on, on_incomplete="materialize")
    project.sandbox.script("moderation_blocked")
    project.run(hero)
    result = project.run(hero, run_config=config(plan_only=True))
    (check,) = result.get_asset_check_evaluations()
    assert (check.check_name, check.passed) == ("complete", passed)


def test_dg_launch_takes_both_from_a_file(project: Project) -> None:
    """As from the Launchpad: the run succeeds, and one observation is all there is of it."""
    folder, home = project.folder / "code", project.folder / "home"
    for each in (folder, home):
        each.mkdir()
    definitions = DEFINITIONS.replace("URL", project.sandbox.base_url)
    (folder / "defs.py").write_text(definitions.replace("STORE", str(folder / "store")))
    (folder / "run.yaml").write_text("ops: {hero: {config: {plan_only: true, limit: 2}}}")
    dg_program = Path(sys.executable).parent / "dg"
    launch = subprocess.run(
        [dg_program, "launch", "-f", "defs.py", "--assets", "hero", "--config", "run.yaml"],
        cwd=folder,
        env={**os.environ, "DAGSTER_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert launch.returncode == 0, launch.stdout
    with dg.DagsterInstance.from_config(str(home)) as instance:
        hero = dg.AssetKey("hero")
        assert instance.get_latest_materialization_event(hero) is None
        (record,) = instance.fetch_observations(hero, limit=5).records
    assert record.asset_observation is not None
    assert told(record.asset_observation)["imagegen/to_request"] == 2
    assert project.sent() == 0
