"""`build_generate_images_op`: prompt tables in jobs and graphs."""

import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pyarrow as pa
import pytest

from dagster_imagegen import build_generate_images_op
from dagster_imagegen.engine.errors import ConfigurationError
from dagster_imagegen.ops import OpArguments, op_argument_names
from dagster_imagegen.sandbox import Fault, Sandbox
from tests import terminated_run
from tests.conftest import Project, column, materialized

# Dagster's own, of arguments that are passed on to it.
pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")

ROWS = [{"product": "mug", "size": "1536x1024"}, {"product": "tent", "size": None}]


def shots(**arguments: Any) -> dg.OpDefinition:
    given: Any = {"quality": "low", **arguments}
    return build_generate_images_op("shots", prompt="A {product} on white", **given)


def job_of(op: dg.OpDefinition, rows: Any = ROWS, **options: Any) -> tuple[dg.JobDefinition, Any]:
    """load → op → publish; and the list that gets what `publish` is called with."""
    published: list[Any] = []

    @dg.op
    def load() -> Any:
        return rows

    @dg.op
    def publish(images: Any) -> None:
        published.append(images)

    def catalogue() -> None:
        publish(op(load()))

    return dg.job(catalogue) if not options else dg.job(**options)(catalogue), published


def run(
    project: Project, job: dg.JobDefinition, *, fails: bool = False, **options: Any
) -> dg.ExecuteInProcessResult:
    result = job.execute_in_process(
        instance=project.instance,
        resources={"imagegen": project.resource()},
        raise_on_error=False,
        **options,
    )
    assert result.success is not fails, project.errors(result)
    return result


def config(name: str = "shots", **given: Any) -> dict[str, Any]:
    return {"ops": {name: {"config": given}}}


def output(result: dg.ExecuteInProcessResult, step: str = "shots") -> dict[str, Any]:
    """The metadata of a step's output."""
    (event,) = [each for each in result.events_for_node(step) if each.is_successful_output]
    return {name: each.value for name, each in event.step_output_data.metadata.items()}


def skipped(result: dg.ExecuteInProcessResult) -> list[str | None]:
    return [each.step_key for each in result.all_events if each.is_step_skipped]


# -- in a job --------------------------------------------------------------------------------------


def test_the_op_hands_the_image_table_on(project: Project) -> None:
    """Template and overrides are as of an asset; the usage rows name the run and the step."""
    job, published = job_of(shots(overrides=["size"]))
    result = run(project, job)
    (images,) = published
    assert column(images, "prompt") == ["A mug on white", "A tent on white"]
    assert column(images, "image_status") == ["generated", "generated"]
    sizes = {each.body["prompt"]: each.body.get("size") for each in project.sandbox.requests}
    assert sizes["A mug on white"] == "1536x1024" != sizes["A tent on white"]
    rows = project.usage(result)
    assert rows.num_rows == project.sent() == 2
    assert set(column(rows, "step_key")) == {"shots"}
    assert set(column(rows, "asset_key")) == {None}


def test_the_output_shows_counts_cost_tokens_and_pictures(project: Project) -> None:
    """As a materialization does."""
    job, _ = job_of(shots())
    told = output(run(project, job))
    assert told["imagegen/generated"] == told["dagster/row_count"] == 2
    assert told["imagegen/cost_usd"] > 0
    assert told["imagegen/total_tokens"] > 0
    assert "data:image" in told["imagegen/thumbnail_1"]


def test_an_op_in_a_graph_is_named_by_its_handle(project: Project) -> None:
    """Two of one op on the same storage pay once for the same images."""
    op = shots()

    @dg.op
    def load() -> Any:
        return ROWS

    @dg.graph
    def both() -> None:
        rows = load()
        op(rows)
        op.alias("again")(rows)

    @dg.job
    def catalogue() -> None:
        both()

    result = run(project, catalogue)
    assert project.sent() == 2
    assert set(column(project.usage(result), "step_key")) <= {"both.shots", "both.again"}


def test_the_partition_of_a_job_is_on_record(project: Project) -> None:
    """As that of an asset is."""
    job, _ = job_of(shots(), partitions_def=dg.StaticPartitionsDefinition(["mon", "tue"]))
    result = run(project, job, partition_key="tue")
    assert column(project.usage(result), "partition_key") == ["tue", "tue"]


def test_the_table_is_of_the_library_that_was_asked_for(project: Project) -> None:
    """And may be made of an image table, whose columns have a prefix then."""
    job, published = job_of(
        shots(table_type="pandas", carry_prefix="old_"), [{"product": "mug", "image_path": "here"}]
    )
    run(project, job)
    (images,) = published
    assert isinstance(images, pd.DataFrame)
    assert list(images["old_image_path"]) == ["here"]


def test_what_dagster_takes_is_passed_on(project: Project) -> None:
    """Also further inputs, for order alone."""
    op = shots(
        ins={"ready": dg.In(dg.Nothing)},
        out=dg.Out(io_manager_key="kept", description="the images"),
        tags={"team": "shop"},
        retry_policy=dg.RetryPolicy(max_retries=3),
        pool="images",
        description="Shots.",
        required_resource_keys={"other"},
    )
    assert set(op.ins) == {"prompt_table", "ready"}
    assert op.outs["result"].io_manager_key == "kept"
    assert not op.outs["result"].is_required
    assert op.tags == {"team": "shop"}
    assert op.retry_policy == dg.RetryPolicy(max_retries=3)
    assert op.pool == "images"
    assert op.description == "Shots."
    assert {"imagegen", "other"} <= op.required_resource_keys


def test_max_usd_holds_for_the_op(project: Project) -> None:
    """And a retry cannot help, so that there is none."""
    job, _ = job_of(shots(retry_policy=dg.RetryPolicy(max_retries=3)))
    result = run(project, job, run_config=config(max_usd=0), fails=True)
    (error,) = project.errors(result)
    assert "This run's config has max_usd: 0" in error
    assert project.sent() == 0
    assert not [each for each in result.all_events if each.is_step_up_for_retry]


# -- failures --------------------------------------------------------------------------------------


def test_a_retried_op_pays_nothing_twice(project: Project) -> None:
    """Its first try fails with one of two images; the second requests the other alone."""
    project.settings = {"retry": {"max_attempts": 1}}
    project.sandbox.script(Fault("server_error", prompt="tent"))
    job, published = job_of(shots(retry_policy=dg.RetryPolicy(max_retries=1)))
    result = run(project, job)
    assert len([each for each in result.all_events if each.is_step_up_for_retry]) == 1
    assert [each.billed for each in project.sandbox.requests].count(True) == 2
    assert len(project.sandbox.requests) == project.usage(result).num_rows == 3
    assert column(published[0], "image_status") == ["reused", "generated"]


def test_rows_without_an_image_fail_the_op(project: Project) -> None:
    """With what was made and spent; the steps downstream do not run."""
    project.settings = {"retry": {"max_attempts": 1}}
    project.sandbox.script(Fault("server_error", prompt="tent"))
    job, published = job_of(shots())
    result = run(project, job, fails=True)
    assert published == []
    (error,) = project.errors(result)
    assert "1 of 2 rows have no image: 1 failed. The op has no output" in error
    (event,) = [each for each in result.all_events if each.is_step_failure]
    failure = event.step_failure_data.user_failure_data
    assert failure is not None
    told = failure.metadata
    assert told["imagegen/generated"].value == told["imagegen/failed"].value == 1
    assert told["imagegen/cost_usd"].value > 0  # pyright: ignore[reportOperatorIssue, reportOptionalOperand]  # a float


def test_fail_on_lets_rows_without_an_image_through(project: Project) -> None:
    """As of an asset."""
    project.sandbox.script(Fault("content_policy_violation", prompt="tent"))
    job, published = job_of(shots())
    run(project, job)
    assert column(published[0], "image_status") == ["generated", "refused"]
    strict, _ = job_of(shots(fail_on=["refused"]))
    run(project, strict, fails=True)


@pytest.mark.parametrize("fault", ["invalid_api_key", "model_not_found"])
def test_no_retry_where_none_can_help(project: Project, fault: Any) -> None:
    """One error, and not one for each try."""
    project.sandbox.script(Fault(fault, times=None))
    job, _ = job_of(shots(retry_policy=dg.RetryPolicy(max_retries=3)))
    result = run(project, job, fails=True)
    assert not [each for each in result.all_events if each.is_step_up_for_retry]


def test_a_bad_row_is_named_before_anything_is_sent(project: Project) -> None:
    """As by an asset."""
    job, _ = job_of(shots(overrides=["size"]), [{"product": "mug", "size": 7}])
    (error,) = project.errors(run(project, job, fails=True))
    assert "size" in error
    assert project.sent() == 0


def test_an_io_manager_that_cannot_store_it_is_named_before(project: Project) -> None:
    """Before anything is paid for."""

    class Texts(dg.IOManager):
        def handle_output(self, context: dg.OutputContext, obj: str) -> None: ...
        def load_input(self, context: dg.InputContext) -> str:
            return ""

    job, _ = job_of(shots(out=dg.Out(io_manager_key="texts")))
    result = job.execute_in_process(
        instance=project.instance,
        resources={"imagegen": project.resource(), "texts": Texts()},
        raise_on_error=False,
    )
    assert "cannot store" in project.errors(result)[0]
    assert project.sent() == 0


# -- runs of a part --------------------------------------------------------------------------------


@pytest.mark.parametrize(("given", "sent"), [({"plan_only": True}, 0), ({"limit": 1}, 1)])
def test_a_run_of_a_part_has_no_output(project: Project, given: dict[str, Any], sent: int) -> None:
    """What is downstream is skipped, for it would take a part for the whole."""
    job, published = job_of(shots())
    result = run(project, job, run_config=config(**given))
    assert project.sent() == sent
    assert (published, skipped(result)) == ([], ["publish"])
    log = "\n".join(project.logs(result))
    assert "The op has no output, so the steps downstream of it are skipped" in log
    assert "plan: 2 rows" in log or "rows not run: 1" in log


def test_a_limit_that_leaves_nothing_out_is_none(project: Project) -> None:
    """The image table is whole."""
    job, published = job_of(shots())
    run(project, job, run_config=config(limit=2))
    assert published[0].num_rows == 2


def test_an_asset_of_a_graph_is_never_a_part(project: Project) -> None:
    """The op's metadata is the materialization's; a limited run materializes nothing."""
    op = shots()

    @dg.op
    def load() -> Any:
        return ROWS

    @dg.graph_asset
    def hero() -> Any:
        return op(load())

    given = {"ops": {"hero": config(limit=1)}}
    limited = project.run(hero, run_config=given)
    assert materialized(limited) == {}
    told = materialized(project.run(hero))["hero"].metadata
    assert (told["imagegen/generated"].value, told["imagegen/reused"].value) == (1, 1)


# -- termination -----------------------------------------------------------------------------------


def test_an_op_that_is_terminated_loses_nothing(tmp_path: Path) -> None:
    """It waits for what is in flight; the next run requests the rest alone."""
    third = threading.Event()
    received: list[str] = []

    def count(prompt: str) -> bool:
        received.append(prompt)
        if len(received) == 3:
            third.set()
        return False

    with Sandbox(paint=False, latency_seconds=1.0, refuse=count) as sandbox:
        command = [sys.executable, "-m", "tests.terminated_run", sandbox.base_url, str(tmp_path)]
        with subprocess.Popen([*command, "op"]) as process:
            assert third.wait(timeout=300)
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=300)
        requests = sandbox.requests
    assert 3 <= len(requests) < terminated_run.ROWS
    with terminated_run.instance(tmp_path) as instance:
        (ended,) = instance.get_runs()
        assert ended.status in (dg.DagsterRunStatus.CANCELED, dg.DagsterRunStatus.FAILURE)
        lines = [each.user_message for each in instance.all_logs(ended.run_id)]
    assert any(f"stopped after {len(requests)} of {terminated_run.ROWS} images" in x for x in lines)
    with Sandbox(paint=False) as sandbox:
        resource = terminated_run.resource(sandbox.base_url, tmp_path)
        usage = resource.usage()
        assert set(column(usage, "status")) == {"succeeded"}
        assert set(column(usage, "step_key")) == {"heroes"}
        assert usage.num_rows == len(requests)
        again = terminated_run.drawing.execute_in_process(resources={"imagegen": resource})
        assert again.success
        assert len(sandbox.requests) == terminated_run.ROWS - len(requests)


# -- without a job ---------------------------------------------------------------------------------


def test_the_op_can_be_called_directly(project: Project) -> None:
    """As in a unit test."""
    op: Callable[..., Any] = shots()
    context = dg.build_op_context(resources={"imagegen": project.resource()})
    (result,) = op(context, prompt_table=ROWS)
    assert isinstance(result.value, pa.Table)
    assert result.metadata["imagegen/generated"].value == 2
    assert set(column(project.resource().usage(), "step_key")) == {"shots"}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"qualty": "low"}, 'no argument "qualty".*"quality"'),
        ({"on_incomplete": "materialize"}, 'no argument "on_incomplete"'),
        ({"size": 7}, "shots: size"),
        ({"fail_on": ["broken"]}, '"broken" is not a status'),
        ({"out": {"a": dg.Out()}}, "out must be one dg.Out"),
        ({"resource_key": "config"}, "resource_key must be"),
    ],
)  # fmt: skip
def test_an_argument_that_cannot_work_is_an_error(arguments: dict[str, Any], told: str) -> None:
    """At definition time."""
    with pytest.raises(ConfigurationError, match=told):
        shots(**arguments)


def test_type_checkers_know_the_arguments() -> None:
    """All that this version of Dagster takes, but what it has given up."""
    assert op_argument_names() - {"version"} == set(OpArguments.__annotations__)
