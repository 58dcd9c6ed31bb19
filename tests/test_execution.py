"""A step against a sandbox over HTTP: tables, statuses, partitions, logs and interruptions."""

import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from dagster_imagegen import (
    ImageGenResource,
    build_image_asset,
    execution,
    image_asset,
)
from dagster_imagegen.definition import ImageAssetDefinition
from dagster_imagegen.engine.attempt import Identity
from dagster_imagegen.engine.money.amounts import usd_text
from dagster_imagegen.execution import Execution, TableOptions
from dagster_imagegen.sandbox import Sandbox
from dagster_imagegen.sandbox.faults import Fault
from tests import terminated_run
from tests.conftest import Project, Store, column, materialized, observed, of_rows

# Dagster's own, of arguments that are passed on to it.
pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")


@image_asset(quality="medium", size="1536x1024")
def hero() -> list[str]:
    """Pictures for the front page."""
    return ["a red enamel mug on a wooden table", "the same mug in the snow"]


# -- the execution behind it -----------------------------------------------------------------------


def test_an_execution_runs_in_any_step(project: Project) -> None:
    """An op that is no asset, which an engine, a log and an identity are enough for."""
    options = TableOptions(params={"quality": "low"}, template="a {name}")

    @dg.op
    def draw(context: dg.OpExecutionContext, imagegen: ImageGenResource) -> pa.Table:
        identity = Identity(
            run_id=context.run_id, root_run_id=context.run_id, step_key=context.op.name
        )
        with imagegen.open_engine() as engine:
            run = Execution(engine=engine, log=context.log, identity=identity)
            with run.begin(run.read([{"name": "mug"}], options)) as generation:
                return run.finish(generation).images

    @dg.job(resource_defs={"imagegen": project.resource()})
    def drawing() -> None:
        draw()

    result = drawing.execute_in_process(instance=project.instance)
    assert column(result.output_for_node("draw"), "prompt") == ["a mug"]
    (row,) = project.usage(result).to_pylist()
    assert (row["asset_key"], row["step_key"]) == (None, "draw")
    assert any(line.startswith("draw: plan: 1 rows") for line in project.logs(result))


# -- tables ---------------------------------------------------------------------------------------


def test_a_column_that_cannot_be_carried_costs_nothing(project: Project) -> None:
    """It is found before anything is sent, and named with its type."""
    text = pa.py_buffer(b"\xff\xfe")
    broken = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), text])
    rows = pa.table({"prompt": ["a mug"], "note": broken})
    (error,) = project.errors(project.run(of_rows(rows), fails=True))
    assert 'column "note" of the prompt table (string) cannot be carried' in error
    assert project.sent() == 0


def test_odd_times_and_descriptions_are_carried(project: Project) -> None:
    """Into the image table as they came."""
    times = pa.array([2**62], pa.timestamp("us"))
    described = pa.field("at", times.type, metadata={"description": b"\xff"})
    schema = pa.schema([pa.field("prompt", pa.string()), described])
    rows = pa.Table.from_arrays([pa.array(["a mug"]), times], schema=schema)
    images = project.run(of_rows(rows)).output_for_node("hero")
    assert images["at"].combine_chunks().equals(times)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (None, "return statement"),
        ("a mug", "put it in a list"),
        (pl.LazyFrame({"prompt": ["a"]}), "collect()"),
        ([{"text": "a"}], 'no column "prompt"'),
        ([{"prompt": "a"}, {"prompt": None}, {"prompt": ""}], "2 problems"),
        (["x" * 32_001], "32,001"),
        ([{"prompt": "a", "image_uri": "x"}], "must not begin with"),
        ([{"prompt": "a", "prompt_id": "1"}, {"prompt": "b", "prompt_id": "1"}], "row 0"),
    ],
)
def test_a_table_that_cannot_be_sent_fails_the_step_before_anything_is(
    project: Project, rows: Any, told: str
) -> None:
    """The description names the asset and the remedy; a retry policy has nothing to try."""
    asset = of_rows(rows, retry_policy=dg.RetryPolicy(max_retries=2))
    result = project.run(asset, fails=True)
    assert project.sent() == 0
    assert materialized(result) == {}
    assert not retries(result)
    (error,) = project.errors(result)
    assert error.startswith("hero: ")
    assert told in error
    assert not (project.folder / "store").exists()


def retries(result: dg.ExecuteInProcessResult) -> list[dg.DagsterEvent]:
    """Every time that Dagster tried the step again."""
    return [each for each in result.all_events if each.event_type_value == "STEP_RESTARTED"]


# -- statuses --------------------------------------------------------------------------------------


def test_a_refused_row_is_a_row_and_the_run_succeeds(project: Project) -> None:
    """The next run does not ask again."""
    project.sandbox.script("moderation_blocked", None)
    images = project.run(hero).output_for_node("hero")
    assert sorted(images["image_status"].to_pylist()) == ["generated", "refused"]
    project.sent()
    project.run(hero)
    assert project.sent() == 0


def test_a_failed_row_fails_the_step_and_materializes_nothing(project: Project) -> None:
    """What was made and spent is observed, and the next run requests only the rest."""
    project.settings = {"retry": {"max_attempts": 1}, "max_concurrency": 1}
    project.sandbox.script(None, "server_error")
    result = project.run(hero, fails=True)
    assert materialized(result) == {}
    assert not (project.values / "hero").exists()
    (error,) = project.errors(result)
    assert "1 of 2 rows have no image: 1 failed. Nothing was materialized." in error
    assert "The server had an error" in error
    (observation,) = observed(result)
    shown: dict[str, Any] = {name: each.value for name, each in observation.metadata.items()}
    assert (shown["imagegen/generated"], shown["imagegen/failed"]) == (1, 1)
    assert shown["imagegen/cost_usd"] == float(project.sandbox.totals.cost_usd) > 0
    assert "server_error" in str(shown["imagegen/problems"])
    assert "imagegen/thumbnail_1" in shown
    assert "dagster/row_count" not in shown, "of a table that is stored alone"
    project.sent()
    again = project.run(hero)
    assert project.sent() == 1
    assert set(materialized(again)) == {"hero"}


def test_a_failed_run_leaves_the_table_of_before(project: Project) -> None:
    """A part of an image table never replaces a whole one."""
    project.settings = {"retry": {"max_attempts": 1}, "max_concurrency": 1}
    before = project.run(of_rows(["one"])).output_for_node("hero")
    project.sandbox.script("server_error")
    project.run(of_rows(["one", "two"]), fails=True)
    assert project.value("hero") == before


def test_an_incomplete_table_can_be_materialized_with_a_check_that_warns(project: Project) -> None:
    """The check passes once every row has an image."""
    project.settings = {"retry": {"max_attempts": 1}, "max_concurrency": 1}
    asset = of_rows(["one", "two"], on_incomplete="materialize", key_prefix="shop")
    project.sandbox.script(None, "server_error")
    first = project.run(asset)
    images = materialized(first)["shop/hero"]
    assert images.metadata["imagegen/failed"].value == 1
    assert observed(first) == []
    (check,) = first.get_asset_check_evaluations()
    assert (check.check_name, check.asset_key.to_user_string()) == ("complete", "shop/hero")
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert check.description == "1 of 2 rows are failed or unknown or deferred."
    assert "server_error" in str(check.metadata["imagegen/problems"].value)
    (check,) = project.run(asset).get_asset_check_evaluations()
    assert check.passed


def test_refused_rows_are_final_and_complete(project: Project) -> None:
    """Nothing more comes of them, so neither the step nor the check minds."""
    project.sandbox.script("moderation_blocked")
    result = project.run(of_rows(["one"], on_incomplete="materialize"))
    (check,) = result.get_asset_check_evaluations()
    assert check.passed


def test_deferred_rows_are_not_complete(project: Project) -> None:
    """The budget is to leave them to a later run, so the step succeeds and the check warns."""
    project.settings = {"budget": {"max_usd": 0.1, "per": "day", "when_exhausted": "defer"}}
    rows = [f"mug {number}" for number in range(20)]
    arguments: dict[str, Any] = {"quality": "low", "size": "1024x1024"}
    result = project.run(of_rows(rows, on_incomplete="materialize", **arguments))
    (check,) = result.get_asset_check_evaluations()
    assert not check.passed
    failing = of_rows(rows, fail_on=["failed", "unknown", "deferred"], **arguments)
    assert materialized(project.run(failing, fails=True)) == {}


def test_a_step_is_retried_where_a_retry_can_help(project: Project) -> None:
    """A failed image is asked for again by the step's retry policy; those made are not."""
    project.settings = {"retry": {"max_attempts": 1}, "max_concurrency": 1}
    project.sandbox.script(None, "server_error")
    policy = dg.RetryPolicy(max_retries=1)
    result = project.run(of_rows(["one", "two"], retry_policy=policy))
    assert len(retries(result)) == 1
    assert project.sent() == 3


def test_an_unknown_row_is_not_worth_a_retry_of_the_step(project: Project) -> None:
    """Only a later run asks again for what may have been billed."""
    project.sandbox.script("gateway_timeout")
    policy = dg.RetryPolicy(max_retries=3)
    result = project.run(of_rows(["one"], retry_policy=policy), fails=True)
    assert project.sent() == 1
    assert not retries(result)
    assert "1 of 1 rows have no image: 1 unknown." in project.errors(result)[0]


def test_fail_on_says_which_statuses_fail(project: Project) -> None:
    """None of them with an empty list, refused ones where they are named."""
    project.settings = {"retry": {"max_attempts": 1}}
    project.sandbox.script("server_error")
    project.run(of_rows(["one"], fail_on=[]))
    project.sandbox.script("moderation_blocked")
    result = project.run(of_rows(["two"], fail_on=["refused"]), fails=True)
    assert "1 of 1 rows have no image: 1 refused." in project.errors(result)[0]


def test_an_image_that_was_deleted_is_not_paid_for_again(project: Project) -> None:
    """The step fails and says what to do about it."""
    images = project.run(hero).output_for_node("hero")
    Path(column(images, "image_uri")[0]).unlink()
    project.sent()
    result = project.run(hero, fails=True)
    assert project.sent() == 0
    assert materialized(result) == {}
    assert "bump the row's revision" in project.errors(result)[0]


def test_an_image_that_was_deleted_is_not_worth_a_retry_of_the_step(project: Project) -> None:
    """Only who brings it back, or raises its revision, helps."""
    pictures = of_rows(["one", "two"], retry_policy=dg.RetryPolicy(max_retries=2))
    images = project.run(pictures).output_for_node("hero")
    Path(column(images, "image_uri")[0]).unlink()
    assert not retries(project.run(pictures, fails=True))


def test_a_long_prompt_id_is_told_in_short(project: Project) -> None:
    """An error lists rows, not pages."""
    project.sandbox.script("moderation_blocked")
    rows = [{"prompt": "a mug", "prompt_id": "x" * 5000}]
    (error,) = project.errors(project.run(of_rows(rows, fail_on=["refused"]), fails=True))
    assert "prompt_id 'xxx" in error
    assert len(error) < 1500


STATUSES = ("succeeded", "refused", "rejected", "rate_limited", "failed", "unknown")


@pytest.mark.parametrize("fault", ["invalid_api_key", "model_not_found", "insufficient_quota"])
def test_an_endpoint_that_refuses_everything_is_one_error(project: Project, fault: str) -> None:
    """The spending is observed, the image table left as it was, and nothing is tried again."""
    project.settings = {"max_concurrency": 1}
    rows = [f"prompt {number}" for number in range(20)]
    before = project.run(of_rows(rows[:2])).output_for_node("hero")
    project.sent()
    project.sandbox.script(*[fault] * 20)
    policy = dg.RetryPolicy(max_retries=2)
    result = project.run(of_rows(rows, retry_policy=policy), fails=True)
    sent = project.sent()
    assert 4 < sent < 9, "a few that agree"
    assert not retries(result)
    assert materialized(result) == {}
    assert project.value("hero") == before
    (code,) = set(column(project.usage(result), "error_code"))
    (observation,) = observed(result)
    assert observation.asset_key == dg.AssetKey("hero")
    metadata: dict[str, Any] = {name: each.value for name, each in observation.metadata.items()}
    assert metadata["imagegen/requests"] == sent
    assert sum(metadata.get(f"imagegen/requests_{each}", 0) for each in STATUSES) == sent
    assert metadata["imagegen/cost"] == "$0.00"
    (error,) = project.errors(result)
    assert code in error


def test_a_model_that_ends_is_one_warning(project: Project) -> None:
    """However many partitions the run is over."""
    project.settings = {"model": "gpt-image-1"}
    days = dg.StaticPartitionsDefinition(["mon", "tue"])

    @image_asset(partitions_def=days, backfill_policy=dg.BackfillPolicy.single_run())
    def daily(context: dg.AssetExecutionContext) -> dict[str, list[str]]:
        return {day: [f"a mug on {day}"] for day in context.partition_keys}

    tags = {
        "dagster/asset_partition_range_start": "mon",
        "dagster/asset_partition_range_end": "tue",
    }
    by_partition = {"imagegen": project.resource(), "io_manager": dg.InMemoryIOManager()}
    result = project.run(daily, resources=by_partition, tags=tags)
    warnings = [each for each in project.logs(result) if "shut it down on 2026-10-23" in each]
    assert len(warnings) == 1
    assert "gpt-image-2.5-flare" in warnings[0]


def test_nobody_at_the_base_url(project: Project) -> None:
    """One clear error that names the address."""
    project.settings = {"base_url": "http://127.0.0.1:9/v1", "patience_seconds": 1}
    result = project.run(hero, fails=True)
    (error,) = project.errors(result)
    assert "127.0.0.1:9" in error
    assert "check base_url and the network" in error


# -- partitions ------------------------------------------------------------------------------------

STATIC = dg.StaticPartitionsDefinition(["cats", "dogs"])
DAILY = dg.DailyPartitionsDefinition("2026-01-01", end_date="2026-02-01")
BREEDS = dg.DynamicPartitionsDefinition(name="breeds")
MULTI = dg.MultiPartitionsDefinition({"animal": STATIC, "day": DAILY})


@pytest.mark.parametrize(
    ("partitions", "key", "text"),
    [
        (STATIC, "cats", "cats"),
        (DAILY, "2026-01-02", "2026-01-02"),
        (BREEDS, "collie", "collie"),
        (MULTI, dg.MultiPartitionKey({"day": "2026-01-02", "animal": "cats"}), "cats|2026-01-02"),
    ],
    ids=["static", "time", "dynamic", "multi"],
)
def test_partitions(
    project: Project, partitions: dg.PartitionsDefinition[Any], key: str, text: str
) -> None:
    """The partition is in every usage row, its tables are its own, and it is resumed as one."""
    project.instance.add_dynamic_partitions("breeds", ["collie", "pug"])

    @image_asset(partitions_def=partitions)
    def pets(context: dg.AssetExecutionContext) -> list[str]:
        return [f"a picture of {context.partition_key}"]

    result = project.run(pets, partition_key=key)
    images: pa.Table = result.output_for_node("pets")
    assert images["prompt"].to_pylist() == [f"a picture of {text}"]
    assert column(project.usage(result), "partition_key") == [text]
    assert materialized(result)["pets"].partition == text
    project.run(pets, partition_key=key)
    assert project.sent() == 1


def in_range(first: str, last: str) -> dict[str, str]:
    """The tags of a run over several partitions, as a single-run backfill sets them."""
    return {
        "dagster/asset_partition_range_start": first,
        "dagster/asset_partition_range_end": last,
    }


def test_a_run_over_partitions_is_refused_before_it_costs(project: Project) -> None:
    """The default IO manager cannot write one; the remedy is named, the function does not run."""
    calls: list[str] = []

    @image_asset(partitions_def=STATIC, backfill_policy=dg.BackfillPolicy.single_run())
    def pets() -> dict[str, list[str]]:
        calls.append("called")
        return {}

    result = project.run(pets, tags=in_range("cats", "dogs"), fails=True)
    assert project.sent() == 0
    assert calls == []
    (error,) = project.errors(result)
    assert "over 2 partitions" in error
    assert "BackfillPolicy.multi_run()" in error


def test_a_run_over_partitions_for_an_io_manager_that_can(project: Project) -> None:
    """Tables and metadata by partition; each row names its own."""

    @dg.asset(partitions_def=STATIC, backfill_policy=dg.BackfillPolicy.single_run())
    def products(context: dg.AssetExecutionContext) -> dict[str, list[str]]:
        return {key: [f"one of the {key}"] for key in context.partition_keys}

    pets = build_image_asset(
        "pets",
        prompt_table="products",
        partitions_def=STATIC,
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    # `build_image_asset` reads a column; a list of texts is a column named prompt.
    store = Store()
    resources = {"imagegen": project.resource(), "io_manager": store}
    result = project.run(products, pets, tags=in_range("cats", "dogs"), resources=resources)
    assert project.sent() == 2
    assert {key: table["prompt"].to_pylist() for key, table in store.values["pets"].items()} == {
        "cats": ["one of the cats"],
        "dogs": ["one of the dogs"],
    }
    assert sorted(column(project.usage(result), "partition_key")) == ["cats", "dogs"]
    counts = {
        event.materialization.partition: event.materialization.metadata["imagegen/images"].value
        for event in result.get_asset_materialization_events()
        if event.materialization.asset_key == dg.AssetKey("pets")
    }
    assert counts == {"cats": 1, "dogs": 1}


@pytest.mark.parametrize(
    ("tables", "told"), [(["a"], "got one list"), ({"cats": ["a"], "cows": []}, "['dogs']")]
)
class Frames(dg.IOManager):
    """Stores pandas alone."""

    def handle_output(self, context: dg.OutputContext, obj: pd.DataFrame) -> None:
        obj.to_csv()

    def load_input(self, context: dg.InputContext) -> None:
        raise NotImplementedError


class Files(dg.UPathIOManager):
    """Stores one type of value in a file; another annotation cannot be resolved at run time."""

    def dump_to_path(
        self,
        context: dg.OutputContext,
        obj: "pd.DataFrame | None",
        path: "NotHere",  # pyright: ignore  # noqa: F821
    ) -> None:
        raise NotImplementedError

    def load_from_path(self, context: dg.InputContext, path: Any) -> None:
        raise NotImplementedError


@pytest.mark.parametrize("manager", [Frames(), Files()], ids=lambda each: type(each).__name__)
def test_an_io_manager_that_cannot_store_the_table_costs_nothing(
    project: Project, manager: Any
) -> None:
    """The error names it, what it stores and what to set."""
    hero = of_rows(["a mug"])
    resources = {"imagegen": project.resource(), "io_manager": manager}
    (error,) = project.errors(project.run(hero, resources=resources, fails=True))
    assert f'its IO manager ("io_manager", {type(manager).__name__}) cannot store' in error
    assert "DataFrame" in error
    assert "Set io_manager_key" in error
    assert project.sent() == 0


def test_a_step_of_ones_own_may_return_what_its_io_manager_stores(project: Project) -> None:
    """The value of an overridden `execute` is not known, so nothing is refused."""

    class AsFrames(ImageAssetDefinition):
        def execute(self, context: Any, imagegen: Any, prompts: Any, config: Any) -> Any:
            for event in super().execute(context, imagegen, prompts, config):
                yield event._replace(value=event.value.to_pandas())

    hero = of_rows(["a mug"], definition=AsFrames)
    project.run(hero, resources={"imagegen": project.resource(), "io_manager": Frames()})


@pytest.mark.parametrize(
    ("tables", "told"), [(["a"], "got one list"), ({"cats": ["a"], "cows": []}, "['dogs']")]
)
def test_a_run_over_partitions_needs_a_table_for_each(
    project: Project, tables: Any, told: str
) -> None:
    """What is missing and what does not belong there are named, before anything is sent."""
    pets = of_rows(tables, partitions_def=STATIC, backfill_policy=dg.BackfillPolicy.single_run())
    resources = {"imagegen": project.resource(), "io_manager": Store()}
    result = project.run(pets, tags=in_range("cats", "dogs"), resources=resources, fails=True)
    assert told in project.errors(result)[0]
    assert project.sent() == 0


def test_a_run_over_one_of_the_partitions_takes_the_same_dict(project: Project) -> None:
    """What the function of a single-run backfill returns works for a single partition too."""

    @image_asset(partitions_def=STATIC, backfill_policy=dg.BackfillPolicy.single_run())
    def pets(context: dg.AssetExecutionContext) -> dict[str, list[str]]:
        return {key: [f"one of the {key}"] for key in context.partition_keys}

    images = project.run(pets, partition_key="cats").output_for_node("pets")
    assert column(images, "prompt") == ["one of the cats"]


def test_a_stopped_run_over_partitions_observes_those_that_were_begun(project: Project) -> None:
    """Each with what it spent; the stored tables of all of them stay as they were."""
    prompts = {"cats": ["a cat"], "dogs": ["a dog"], "pugs": ["a pug"]}
    animals = dg.StaticPartitionsDefinition(list(prompts))

    @image_asset(partitions_def=animals, backfill_policy=dg.BackfillPolicy.single_run())
    def pets(context: dg.AssetExecutionContext) -> dict[str, list[str]]:
        return {key: prompts[key] for key in context.partition_keys}

    store = Store()
    resources = {"imagegen": project.resource(), "io_manager": store}
    project.run(pets, tags=in_range("cats", "pugs"), resources=resources)
    before = store.values["pets"]
    prompts.update({key: [f"another of the {key}"] for key in prompts})
    project.sandbox.script(*["invalid_api_key"] * 20)
    result = project.run(pets, tags=in_range("cats", "pugs"), resources=resources, fails=True)
    assert store.values["pets"] is before
    assert materialized(result) == {}
    counts = {each.partition: each.metadata["imagegen/requests"].value for each in observed(result)}
    assert counts == Counter(column(project.usage(result), "partition_key"))


def test_of_several_partitions_all_are_materialized_or_none(project: Project) -> None:
    """Each is observed, and the error says how to have those that are complete."""

    @image_asset(partitions_def=STATIC, backfill_policy=dg.BackfillPolicy.single_run())
    def pets(context: dg.AssetExecutionContext) -> dict[str, list[str]]:
        return {key: [f"one of the {key}"] for key in context.partition_keys}

    project.settings = {"retry": {"max_attempts": 1}}
    project.sandbox.script(Fault("server_error", prompt="one of the dogs"))
    resources = {"imagegen": project.resource(), "io_manager": Store()}
    result = project.run(pets, tags=in_range("cats", "dogs"), resources=resources, fails=True)
    assert materialized(result) == {}
    counts = {each.partition: each.metadata for each in observed(result)}
    assert counts["cats"]["imagegen/generated"].value == 1
    assert counts["dogs"]["imagegen/failed"].value == 1
    assert "imagegen/problems" not in counts["cats"]
    (error,) = project.errors(result)
    assert "1 of its 2 are complete: run them without dogs" in error
    project.sent()
    project.run(pets, partition_key="cats", resources=resources)
    assert project.sent() == 0


def test_partitions_of_one_run_are_requested_together(project: Project) -> None:
    """In one pass: all are in flight at the same time, and what several want is one request."""
    days = dg.StaticPartitionsDefinition([f"day {number:02}" for number in range(12)])

    @image_asset(partitions_def=days, backfill_policy=dg.BackfillPolicy.single_run())
    def daily(context: dg.AssetExecutionContext) -> dict[str, list[str]]:
        return {key: [f"a mug on {key}", "the same mug"] for key in context.partition_keys}

    store = Store()
    with Sandbox(paint=False, latency_seconds=1.0) as sandbox:
        resource = project.resource(base_url=sandbox.base_url)
        resources = {"imagegen": resource, "io_manager": store}
        result = project.run(daily, tags=in_range("day 00", "day 11"), resources=resources)
        assert len(sandbox.requests) == 13
        assert sandbox.totals.max_in_flight > 2, "more than one partition has"
    usage = project.usage(result).to_pylist()
    named = {row["prompt"]: row["partition_key"] for row in usage}
    assert named == {
        **{f"a mug on {key}": key for key in days.get_partition_keys()},
        "the same mug": "day 00",
    }
    requests = {
        event.materialization.partition: event.materialization.metadata["imagegen/requests"].value
        for event in result.get_asset_materialization_events()
    }
    assert requests == {key: 1 + (key == "day 00") for key in days.get_partition_keys()}
    assert {table.num_rows for table in store.values["daily"].values()} == {2}


def test_an_asset_without_partitions_in_a_partitioned_run(project: Project) -> None:
    """It runs as ever, and its rows name no partition."""

    @dg.asset(partitions_def=STATIC)
    def other() -> None: ...

    result = project.run(hero, other, partition_key="cats")
    assert column(project.usage(result), "partition_key") == [None, None]


# -- what is logged --------------------------------------------------------------------------------


def test_the_log_has_the_plan_first_and_the_sum_last(project: Project) -> None:
    """Where everything lies and what it cost is the last line."""
    lines = project.logs(project.run(hero))
    mine = [line for line in lines if line.startswith("hero: ")]
    assert mine[0].startswith("hero: plan: 2 rows, 2 images, 2 to request; $0.1")
    spent = usd_text(project.sandbox.totals.cost_usd)
    assert mine[-1].startswith(f"hero: 2 generated; cost of this run {spent}; images in ")
    assert str(project.folder / "store") in mine[-1]


def test_an_unknown_cost_is_never_told_as_nothing(project: Project) -> None:
    """The log counts the requests, and the metadata has no figure that looks like a whole."""
    project.settings = {"model": "flux-of-our-own", "max_concurrency": 1}
    result = project.run(hero)
    last = [line for line in project.logs(result) if line.startswith("hero: ")][-1]
    assert "cost of this run $0.00 and 2 requests of unknown cost;" in last
    metadata = materialized(result)["hero"].metadata
    assert metadata["imagegen/unpriced_requests"].value == 2
    assert "imagegen/cost_usd" not in metadata
    assert metadata["imagegen/cost"].value == "$0.00 and 2 requests of unknown cost"
    assert metadata["imagegen/cost_by_basis"].value == "unknown (2)"

    project.settings["patience_seconds"] = 0.1
    project.sandbox.script(None, *["invalid_api_key"] * 20)
    stopped = project.run(of_rows([f"prompt {number}" for number in range(9)]), fails=True)
    (line,) = [line for line in project.logs(stopped) if "stopped after" in line]
    assert "$0.00 and 1 request of unknown cost" in line


def test_the_sandbox_costs_nothing_and_says_what_it_would(project: Project) -> None:
    """In the log, in the metadata and in the table."""
    result = project.run(hero, resources={"imagegen": project.resource(base_url="sandbox")})
    assert project.sent() == 0
    last = [line for line in project.logs(result) if line.startswith("hero: ")][-1]
    assert re.search(r"\$0\.00 \(sandbox; \$0\.1\d{3} at list price\)", last)
    metadata = materialized(result)["hero"].metadata
    assert metadata["imagegen/cost_usd"].value == 0.0
    assert metadata["imagegen/list_price_usd"].value == pytest.approx(0.1255, abs=1e-3)
    images = result.output_for_node("hero")
    assert set(images["image_cost_basis"].to_pylist()) == {"sandbox"}
    assert sum(images["image_cost_usd"].to_pylist()) == Decimal(0)


def test_progress_is_logged_every_so_often(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the plan and the sum."""
    monkeypatch.setattr(execution, "PROGRESS_SECONDS", 0.05)
    with Sandbox(paint=False, latency_seconds=2.0) as slow:
        lines = project.logs(
            project.run(hero, resources={"imagegen": project.resource(base_url=slow.base_url)})
        )
    assert any("of 2 images" in line for line in lines)


def test_a_likely_override_that_is_not_named_is_warned_of(project: Project) -> None:
    """A product table has a size of its own, so it is carried along."""
    lines = project.logs(project.run(of_rows([{"prompt": "a", "size": "XL"}])))
    assert any('overrides=["size"]' in line for line in lines)


# -- termination -----------------------------------------------------------------------------------


def test_a_terminated_run_waits_for_what_is_in_flight_and_observes_what_it_spent(
    tmp_path: Path,
) -> None:
    """As Kubernetes ends a run: nothing more is sent, nothing that was sent is lost."""
    third = threading.Event()
    received: list[str] = []

    def count(prompt: str) -> bool:
        received.append(prompt)
        if len(received) == 3:
            third.set()
        return False

    with Sandbox(paint=False, latency_seconds=1.0, refuse=count) as sandbox:
        command = [sys.executable, "-m", "tests.terminated_run", sandbox.base_url, str(tmp_path)]
        with subprocess.Popen(command) as process:
            assert third.wait(timeout=300)
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=300)
        requests = sandbox.requests
    assert 3 <= len(requests) < terminated_run.ROWS
    with terminated_run.instance(tmp_path) as instance:
        (run,) = instance.get_runs()
        assert run.status in (dg.DagsterRunStatus.CANCELED, dg.DagsterRunStatus.FAILURE)
        assert instance.get_latest_materialization_event(dg.AssetKey("hero")) is None
        (record,) = instance.fetch_observations(dg.AssetKey("hero"), limit=10).records
        assert record.asset_observation is not None
        metadata = record.asset_observation.metadata
        lines = [each.user_message for each in instance.all_logs(run.run_id)]
    assert any(f"stopped after {len(requests)} of {terminated_run.ROWS} images" in x for x in lines)
    resource = ImageGenResource(
        base_url="http://never.asked/v1", model="any", storage_uri=str(tmp_path / "store")
    )
    usage = resource.usage("hero")
    assert metadata["imagegen/requests"].value == usage.num_rows == len(requests)
    assert set(column(usage, "status")) == {"succeeded"}
    assert not list((tmp_path / "store" / "_journal").glob("*"))


def test_a_budget_ends_the_step_or_defers_the_rest(project: Project) -> None:
    """`fail` keeps what was made and observes the spending; `defer` gives the rest a status."""

    @image_asset(quality="low", size="1024x1024")
    def hero() -> list[str]:
        return [f"mug {number}" for number in range(20)]

    budget = {"max_usd": 0.1, "per": "day"}
    project.settings = {"budget": budget}
    stopped = project.run(hero, fails=True)
    assert "max_usd" in project.errors(stopped)[0]
    assert materialized(stopped) == {}
    (observation,) = observed(stopped)
    totals = project.sandbox.totals
    assert observation.metadata["imagegen/cost_usd"].value == float(totals.cost_usd)
    assert observation.metadata["imagegen/requests_succeeded"].value == totals.billed
    assert 0 < totals.cost_usd <= Decimal("0.1")

    project.settings = {"budget": {**budget, "when_exhausted": "defer"}}
    deferred = project.run(hero)
    statuses = column(project.value("hero"), "image_status")
    assert set(statuses) == {"reused", "deferred"}
    assert materialized(deferred)["hero"].metadata["imagegen/deferred"].value == statuses.count(
        "deferred"
    )
