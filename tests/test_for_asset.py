"""`for_asset`: calls on behalf of the asset, op, check or sensor in which they are made."""

import logging
import threading
import time
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_imagegen import ImageGenResource
from dagster_imagegen.engine.attempt import Identity
from dagster_imagegen.engine.errors import (
    BudgetExhausted,
    ConfigurationError,
    NoImage,
    StorageError,
)
from dagster_imagegen.engine.session import Session
from dagster_imagegen.for_asset import AssetImages
from dagster_imagegen.sandbox import Fault, Sandbox
from tests.conftest import Project, column, materialized

# Dagster's own, of arguments that are passed on to it.
pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")

PARTS = "usage/**/*.parquet"


def parts(project: Project) -> list[Path]:
    """The files of the usage table."""
    return list((project.folder / "store").glob(PARTS))


def told(materialization: dg.AssetMaterialization) -> dict[str, Any]:
    return {name: each.value for name, each in materialization.metadata.items()}


def open_journals(project: Project) -> list[Path]:
    return list((project.folder / "store" / "_journal").glob("*/*"))


# -- where it runs ---------------------------------------------------------------------------------


def test_a_loop_of_calls_in_an_asset_is_one_part(project: Project) -> None:
    """Its materialization has the sums; the rows name the asset, the run and the step."""

    @dg.asset
    def hero(context: dg.AssetExecutionContext, imagegen: ImageGenResource) -> None:
        with imagegen.for_asset(context) as images:
            for number in range(20):
                assert images.generate(f"mug {number}", quality="low").status == "generated"
            assert images.generate("mug 0", quality="low").status == "reused"
            table = images.generate_many(["tent", "mug 1"], quality="low")
            assert column(table, "image_status") == ["generated", "reused"]

    result = project.run(hero)
    assert project.sent() == 21
    assert len(parts(project)) == 1
    assert open_journals(project) == []
    rows = project.usage(result)
    assert rows.num_rows == 21
    assert set(column(rows, "asset_key")) == {"hero"}
    assert set(column(rows, "step_key")) == {"hero"}
    metadata = told(materialized(result)["hero"])
    assert (metadata["imagegen/generated"], metadata["imagegen/reused"]) == (21, 2)
    cost = sum(column(rows, "cost_usd"))
    assert metadata["imagegen/cost_usd"] == pytest.approx(float(cost))
    assert metadata["imagegen/total_tokens"] == sum(column(rows, "total_tokens"))
    assert "data:image" in metadata["imagegen/thumbnail_1"]
    assert any(
        line.startswith("hero: 21 generated, 2 reused; cost $") for line in project.logs(result)
    )


def test_a_call_of_the_resource_is_a_part_of_its_own(project: Project) -> None:
    """As it was before there were blocks."""
    imagegen = project.resource()
    for number in range(3):
        imagegen.generate(f"mug {number}", quality="low")
    assert len(parts(project)) == 3


def test_the_partition_is_that_of_the_run(project: Project) -> None:
    """And is left out where the asset has none."""

    @dg.asset(partitions_def=dg.StaticPartitionsDefinition(["mon", "tue"]))
    def hero(context: dg.AssetExecutionContext, imagegen: ImageGenResource) -> None:
        with imagegen.for_asset(context) as images:
            images.generate("mug", quality="low")

    result = project.run(hero, partition_key="tue")
    assert column(project.usage(result), "partition_key") == ["tue"]
    assert told(materialized(result)["hero"])["imagegen/generated"] == 1


def test_a_run_over_several_partitions_has_a_block_for_each(project: Project) -> None:
    """One for all would show the cost of all at each."""
    wanted = {"mon": 1, "tue": 2}

    @dg.asset(
        partitions_def=dg.StaticPartitionsDefinition(["mon", "tue"]),
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    def hero(context: dg.AssetExecutionContext, imagegen: ImageGenResource) -> None:
        with pytest.raises(ConfigurationError, match="over several partitions"):
            imagegen.for_asset(context).__enter__()
        for key in context.partition_keys:
            with imagegen.for_asset(context, partition_key=key) as images:
                images.generate_many([f"{key} {each}" for each in range(wanted[key])])

    tags = {
        "dagster/asset_partition_range_start": "mon",
        "dagster/asset_partition_range_end": "tue",
    }
    result = project.run(hero, tags=tags)
    counts = {
        each.materialization.partition: told(each.materialization)["imagegen/generated"]
        for each in result.get_asset_materialization_events()
    }
    assert counts == wanted
    assert sorted(column(project.usage(result), "partition_key")) == ["mon", "tue", "tue"]


def test_a_step_of_several_assets_says_which_is_meant(project: Project) -> None:
    """Its materialization alone has the metadata."""

    @dg.multi_asset(specs=[dg.AssetSpec("big"), dg.AssetSpec("small")])
    def both(context: dg.AssetExecutionContext, imagegen: ImageGenResource):
        with pytest.raises(ConfigurationError, match=r"several assets \(big, small\)"):
            imagegen.for_asset(context).__enter__()
        with imagegen.for_asset(context, asset_key="small") as images:
            images.generate("mug", quality="low")

    result = project.run(both)
    assert told(materialized(result)["small"])["imagegen/generated"] == 1
    assert "imagegen/generated" not in told(materialized(result)["big"])
    assert column(project.usage(result), "asset_key") == ["small"]


def test_the_output_of_an_op_has_the_metadata(project: Project) -> None:
    """And the rows its step."""

    @dg.op
    def draw(context: dg.OpExecutionContext, imagegen: ImageGenResource) -> int:
        with imagegen.for_asset(context) as images:
            images.generate("mug", quality="low")
        return 1

    @dg.job(resource_defs={"imagegen": project.resource()})
    def drawing() -> None:
        draw()

    result = drawing.execute_in_process(instance=project.instance)
    (event,) = [each for each in result.all_events if each.is_successful_output]
    assert event.step_output_data.metadata["imagegen/generated"].value == 1
    (row,) = project.usage(result).to_pylist()
    assert (row["asset_key"], row["step_key"]) == (None, "draw")


def test_a_check_is_of_its_asset(project: Project) -> None:
    """Its result can have the metadata; the log has the sum."""

    @dg.asset
    def hero() -> None: ...

    @dg.asset_check(asset=hero)
    def drawable(
        context: dg.AssetCheckExecutionContext, imagegen: ImageGenResource
    ) -> dg.AssetCheckResult:
        with imagegen.for_asset(context) as images:
            images.generate("mug", quality="low")
        return dg.AssetCheckResult(passed=True, metadata=images.metadata())

    result = dg.materialize(
        [hero, drawable], instance=project.instance, resources={"imagegen": project.resource()}
    )
    (check,) = result.get_asset_check_evaluations()
    assert check.metadata["imagegen/generated"].value == 1
    (row,) = project.usage(result).to_pylist()
    assert (row["asset_key"], row["step_key"]) == ("hero", "hero_drawable")
    assert any(line.startswith("hero: 1 generated") for line in project.logs(result))


def test_a_sensor_has_neither_run_nor_step(project: Project) -> None:
    """Its rows name a stand-in for the run, as calls outside a run do."""
    imagegen = project.resource()

    @dg.sensor(job_name="any")
    def watch(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        with imagegen.for_asset(context, asset_key="hero") as images:
            return dg.SkipReason(images.generate("mug", quality="low").status)

    with dg.build_sensor_context(instance=project.instance) as context:
        skipped = watch(context)
    assert isinstance(skipped, dg.SkipReason)
    assert skipped.skip_message == "generated"
    (row,) = imagegen.usage().to_pylist()
    assert (row["asset_key"], row["step_key"]) == ("hero", None)
    assert row["run_id"].startswith("outside-")


def test_functions_that_are_called_directly(project: Project) -> None:
    """As in a unit test: their contexts keep the metadata."""
    imagegen = project.resource()

    @dg.asset
    def hero(context: dg.AssetExecutionContext) -> None:
        with imagegen.for_asset(context) as images:
            images.generate("mug", quality="low")

    @dg.op
    def draw(context: dg.OpExecutionContext) -> None:
        with imagegen.for_asset(context) as images:
            images.generate("mug", quality="low")

    of_asset, of_op = dg.build_asset_context(), dg.build_op_context()
    hero(of_asset)
    draw(of_op)
    kept = of_op.get_output_metadata("result")
    assert kept is not None
    assert kept["imagegen/reused"] == 1
    assert set(column(imagegen.usage(), "asset_key")) == {"hero"}


# -- one writer ------------------------------------------------------------------------------------


def direct(imagegen: ImageGenResource) -> Any:
    """A block outside of any run."""
    return imagegen.for_asset(dg.build_sensor_context())  # pyright: ignore[reportArgumentType]  # of any type


def test_calls_from_several_threads_pay_once(project: Project) -> None:
    """They take turns, so that a later one finds what an earlier one has paid for."""
    statuses: list[str] = []

    with direct(project.resource()) as images:

        def call() -> None:
            statuses.append(images.generate("mug", quality="low").status)

        threads = [threading.Thread(target=call) for _ in range(5)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    assert sorted(statuses) == ["generated", *["reused"] * 4]
    assert project.sent() == 1


def test_a_call_without_an_image_does_not_end_the_block(project: Project) -> None:
    """Its request is in the sums."""
    project.sandbox.script(Fault("content_policy_violation", prompt="bad"))
    with direct(project.resource()) as images:
        with pytest.raises(NoImage):
            images.generate("bad", quality="low")
        assert images.generate("good", quality="low").status == "generated"
    metadata = images.metadata()
    assert (metadata["imagegen/refused"], metadata["imagegen/generated"]) == (1, 1)
    assert metadata["imagegen/requests"] == 2
    assert len(parts(project)) == 1


def test_a_prompt_that_was_refused_is_not_sent_again_by_the_same_block(project: Project) -> None:
    """A later call plans with what earlier ones have put on record, published or not."""
    project.sandbox.script(Fault("content_policy_violation", prompt="bad", times=None))
    with direct(project.resource()) as images:
        for _ in range(2):
            with pytest.raises(NoImage):
                images.generate("bad", quality="low")
    assert project.sent() == 1


def test_a_budget_covers_all_calls_of_a_block(project: Project) -> None:
    """A call that it ends leaves the block usable: another writer goes on."""
    project.settings = {"budget": {"max_usd": 0.1, "per": "run", "strict": True}}
    made = 0
    with direct(project.resource()) as images:
        with pytest.raises(BudgetExhausted):  # noqa: PT012  # the first that is refused
            for number in range(30):
                images.generate(f"mug {number}", quality="low", size="1024x1024")
                made += 1
        assert images.generate("mug 0", quality="low", size="1024x1024").status == "reused"
        with pytest.raises(BudgetExhausted):
            images.generate("another", quality="low", size="1024x1024")
    assert made == project.sent() > 2
    usage = project.resource().usage()
    assert 0.05 < float(sum(column(usage, "cost_usd_max"))) <= 0.1
    assert open_journals(project) == []


def test_what_a_block_does_not_spend_is_free_for_others(project: Project) -> None:
    """Between its calls it reserves no more than it has spent."""
    project.resource(storage_uri=str(project.folder / "probe")).generate("any", quality="low")
    (probe,) = project.resource(storage_uri=str(project.folder / "probe")).usage().to_pylist()
    cost, worst = float(probe["cost_usd"]), float(probe["worst_case_usd"])
    # Enough for one more than these five, if what they have not cost is free.
    budget = {"max_usd": round(6 * worst - (worst - cost), 6), "per": "all", "scope": "storage"}
    project.settings = {"budget": budget}
    with direct(project.resource()) as images:
        images.generate_many([f"mug {number}" for number in range(5)], quality="low")
        assert project.resource().generate("tent", quality="low").status == "generated"


def test_the_requests_of_all_calls_keep_their_distance(project: Project) -> None:
    """The pace is the block's, and does not begin anew with each call."""
    with direct(project.resource(requests_per_minute=120)) as images:
        for number in range(4):
            images.generate(f"mug {number}", quality="low")
    times = [each.received_at for each in project.sandbox.requests]
    assert times[-1] - times[0] > 0.75  # 1.5 s, less what the first one may be delayed


def test_the_requests_of_calls_without_a_block_keep_their_distance(project: Project) -> None:
    """The cap is the process's, whichever resource object the calls are made on."""
    for number in range(4):
        project.resource(requests_per_minute=120).generate(f"mug {number}", quality="low")
    times = [each.received_at for each in project.sandbox.requests]
    assert times[-1] - times[0] > 1.0  # 1.5 s, less what the first one may be delayed


def test_an_exception_in_the_block_loses_nothing(project: Project) -> None:
    """What was made is published; nothing is materialized."""

    @dg.asset
    def hero(context: dg.AssetExecutionContext, imagegen: ImageGenResource) -> None:
        with imagegen.for_asset(context) as images:
            images.generate("mug", quality="low")
            raise RuntimeError("the user's own")

    result = project.run(hero, fails=True)
    assert project.usage(result).num_rows == len(parts(project)) == 1
    assert open_journals(project) == []


def test_a_block_waits_for_the_calls_of_other_threads(project: Project) -> None:
    """To leave it while a request is in flight does not throw away what is paid for."""
    statuses: list[str] = []
    with Sandbox(latency_seconds=1) as sandbox:
        imagegen = project.resource(base_url=sandbox.base_url)
        with direct(imagegen) as images:
            thread = threading.Thread(
                target=lambda: statuses.append(images.generate("mug", quality="low").status)
            )
            thread.start()
            while not sandbox.requests:
                time.sleep(0.01)
        thread.join()
    assert statuses == ["generated"]
    assert column(imagegen.usage(), "status") == ["succeeded"]
    assert open_journals(project) == []


def test_a_block_that_has_ended_takes_no_calls(project: Project) -> None:
    with direct(project.resource()) as images:
        pass
    with pytest.raises(ConfigurationError, match="has ended"):
        images.generate("mug", quality="low")


def test_blocks_within_blocks_find_what_each_other_has_paid_for(project: Project) -> None:
    """Each is a writer of its own; the outer one goes on when the inner one has ended."""
    imagegen = project.resource()
    with direct(imagegen) as outer:
        assert outer.generate("mug", quality="low").status == "generated"
        with direct(imagegen) as inner:
            assert inner.generate("mug", quality="low").status == "reused"
            assert inner.generate("tent", quality="low").status == "generated"
        assert outer.generate("tent", quality="low").status == "reused"
        assert outer.generate("lamp", quality="low").status == "generated"
    assert project.sent() == 3
    assert imagegen.usage().num_rows == 3


def test_a_block_that_cannot_begin_leaves_no_thread(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says so, takes no calls, and ends its event loop."""

    async def fail(_session: Session) -> None:
        raise StorageError("cannot begin")

    monkeypatch.setattr(Session, "__aenter__", fail)
    with project.resource().open_engine() as engine:
        images = AssetImages(engine, Identity(run_id="1", root_run_id="1"))
        with pytest.raises(StorageError, match="cannot begin"), images.block:
            pass
        assert not any(each.name == "imagegen-block" for each in threading.enumerate())
        with pytest.raises(ConfigurationError, match="has not begun"):
            images.generate("mug", quality="low")


def test_an_interruption_before_there_is_a_plan_stays_one(project: Project) -> None:
    """Dagster knows a terminated step by it."""
    imagegen = project.resource()
    with imagegen.open_engine() as engine:
        prompts = engine.read_prompts(["mug"], params={"quality": "low"})
    with pytest.raises(KeyboardInterrupt), direct(imagegen) as images, images._begin(prompts):
        raise KeyboardInterrupt
    assert project.sent() == 0


# -- partial images --------------------------------------------------------------------------------


@pytest.mark.parametrize("in_a_block", [False, True])
def test_partial_images_come_as_they_arrive(project: Project, *, in_a_block: bool) -> None:
    """On the caller's own thread; the finished image is the one that is stored."""
    seen: list[tuple[int, bytes, int]] = []

    def on_partial(index: int, data: bytes) -> None:
        seen.append((index, data, threading.get_ident()))

    imagegen = project.resource()
    asked: Any = {"stream": True, "partial_images": 2, "on_partial": on_partial}
    if in_a_block:
        with direct(imagegen) as images:
            image = images.generate("mug", **asked)
    else:
        image = imagegen.generate("mug", **asked)
    assert [(index, thread) for index, _, thread in seen] == [
        (0, threading.get_ident()),
        (1, threading.get_ident()),
    ]
    assert all(data.startswith(b"\x89PNG") for _, data, _ in seen)
    assert image.data not in {data for _, data, _ in seen}
    (row,) = imagegen.usage().to_pylist()
    assert (row["status"], row["image_partial"]) == ("succeeded", False)


def test_an_exception_in_on_partial_loses_no_image(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, and the next partial image comes all the same."""
    calls: list[int] = []

    def on_partial(index: int, data: bytes) -> None:
        calls.append(index)
        raise RuntimeError("the user's own")

    with caplog.at_level(logging.ERROR):
        image = project.resource().generate(
            "mug", stream=True, partial_images=2, on_partial=on_partial
        )
    assert image.status == "generated"
    assert calls == [0, 1]
    assert "on_partial failed for partial image 1" in caplog.text
    assert "the user's own" in caplog.text


def test_on_partial_needs_a_stream(project: Project) -> None:
    """Nothing would call it otherwise."""
    with pytest.raises(ConfigurationError, match="set stream=True and partial_images"):
        project.resource().generate("mug", on_partial=print)
    assert project.sent() == 0
