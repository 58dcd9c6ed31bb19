"""The three kinds of step of a sharded asset: plan, shard and collect."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timezone

import dagster as dg

from dagster_imagegen.asset_step import AssetStep, executing_asset
from dagster_imagegen.engine.errors import ConfigurationError
from dagster_imagegen.engine.run.jobs import Job
from dagster_imagegen.engine.run.recorded import outcomes_on_record
from dagster_imagegen.execution import Execution, joined
from dagster_imagegen.incomplete import incomplete_failure, problems_of
from dagster_imagegen.metadata import FinishedPass
from dagster_imagegen.resource import ImageGenResource
from dagster_imagegen.returned import Returned
from dagster_imagegen.run_config import ImageRunConfig
from dagster_imagegen.shard_files import ShardedPlan, ShardFiles, shard_of
from dagster_imagegen.step import StepEvents, StepOptions, failing, limited

PLANNED_OUTPUT = "planned"


def plan_shards(
    context: dg.AssetExecutionContext,
    imagegen: ImageGenResource,
    prompts: Callable[[], object],
    config: ImageRunConfig,
    *,
    shards: int,
    options: StepOptions,
) -> StepEvents:
    """The plan step: check every row, write the shards' rows, start the shards that have to send.

    It yields an output for each of those; Dagster skips the steps of the others.
    """
    # The result of the check is the collecting step's to give.
    options = replace(options, on_incomplete="fail")
    with executing_asset(context, imagegen, config) as execution:
        yield from _PlanStep(context, execution, options).plan(prompts, config, shards)


def run_shard(
    context: dg.AssetExecutionContext, imagegen: ImageGenResource, *, options: StepOptions
) -> StepEvents:
    """The step of one shard: make its images. It fails as the step of an image asset does."""
    number = int(context.op_execution_context.op_handle.name.rpartition("_")[2])
    sharded = _planned(context, imagegen)
    if sharded.plan_only:  # Dask skips no step.
        return
    with executing_asset(context, imagegen, sharded.config()) as execution:
        yield from _ShardStep(context, execution, options).run_shard(number)


def collect_shards(
    context: dg.AssetExecutionContext, imagegen: ImageGenResource, *, options: StepOptions
) -> StepEvents:
    """The last step: the image table of all shards, from the record. It sends nothing.

    Raises `dg.Failure` if any row has no outcome, because a shard did not run to its end.
    """
    with executing_asset(context, imagegen, _planned(context, imagegen).config()) as execution:
        yield from _CollectStep(context, execution, options).collect()


def shard_name(number: int) -> str:
    """The name of the step of a shard, and of the output that starts it."""
    return f"shard_{number}"


def _planned(context: dg.AssetExecutionContext, imagegen: ImageGenResource) -> ShardedPlan:
    with executing_asset(context, imagegen, ImageRunConfig()) as execution:
        return _files(execution).plan()


def _files(execution: Execution) -> ShardFiles:
    return ShardFiles(execution.engine.usage_storage, execution.identity)


class _PlanStep(AssetStep):
    def plan(
        self, prompts: Callable[[], object], config: ImageRunConfig, shards: int
    ) -> StepEvents:
        if len(self._partitions) > 1:
            raise ConfigurationError(
                f"this run is over {len(self._partitions):,} partitions, and a sharded asset runs "
                "one at a time; set backfill_policy=dg.BackfillPolicy.multi_run(). Nothing was sent"
            )
        returned, tables = self._prepare(prompts, config)
        tables, left_out = limited(tables, config)
        table = joined(tables)
        plan = self._execution.plan(table)
        files = _files(self._execution)
        files.remove_old(datetime.now(timezone.utc))
        upstream = self._upstream()
        sharded = ShardedPlan(
            shards=shards,
            plan_only=config.plan_only,
            left_out=left_out,
            max_usd=config.max_usd,
            redo=[each.value for each in config.redo],
            upstream=None if upstream is None else upstream.path,
        )
        files.write(sharded, table)
        if config.plan_only:
            yield from self._planned(plan, returned, left_out=left_out)
        else:
            self._context.log.info(f"{self._name}: {plan.describe()}")
            # A shard whose images are all there needs no process.
            for number in sorted({_shard(job, shards) for job in plan.jobs if _has_work(job)}):
                yield dg.Output(None, shard_name(number))
        yield dg.Output(None, PLANNED_OUTPUT)


class _ShardStep(AssetStep):
    def run_shard(self, number: int) -> StepEvents:
        files = _files(self._execution)
        prompts = files.shard(number, partition=self._partition)
        try:
            with self._execution.begin(prompts) as self._generation:
                done = {self._partition: self._execution.finish(self._generation)}
        except BaseException:
            # As in `AssetStep.run`.
            yield from self._spending()
            raise
        self._log_summary(done)
        problems = problems_of(done, self._options.fail_on)
        if problems and self._options.on_incomplete == "fail":
            why = f"Rows of shard {number} without an image: {len(problems):,}."
            observed = self._observed(done, why, problems)
            yield from failing(observed, incomplete_failure(self._name, problems, done))
        files.finish(number, self._generation.outcomes.found.values())


class _CollectStep(AssetStep):
    def collect(self) -> StepEvents:
        files = _files(self._execution)
        sharded = files.plan()
        if sharded.plan_only:
            files.remove()
            return
        prompts = files.prompts(sharded)
        identity = self._execution.identity
        plan, totals = self._engine.review(prompts, identity=identity, redo=self._execution.redo)
        finished = files.finished(sharded)
        deferred = {key: outcome for each in finished.values() for key, outcome in each.items()}
        outcomes = outcomes_on_record(plan, identity.root_run_id, deferred)
        lost = [
            job
            for job in plan.jobs
            if job.request.fingerprint not in outcomes
            or (job.known is None and _shard(job, sharded.shards) not in finished)
        ]
        if lost:
            raise self._lost_failure(lost, plan.images, sharded.shards)
        images = self._engine.image_table(plan, outcomes)
        done = {
            self._partition: FinishedPass(
                prompts=prompts, images=images, totals=totals, sandbox=plan.sandbox
            )
        }
        self._upstream_path = sharded.upstream
        events = self._events(done, Returned(prompts=None), left_out=sharded.left_out)
        self._log_summary(done)
        yield from events
        # Once the IO manager has the table: a retry of this step needs them.
        files.remove()

    _upstream_path: Sequence[str] | None = None

    def _upstream(self) -> dg.AssetKey | None:
        """The plan step's: the prompt table is an input of that one."""
        return None if self._upstream_path is None else dg.AssetKey(self._upstream_path)

    def _lost_failure(self, lost: Sequence[Job], images: int, shards: int) -> dg.Failure:
        numbers = sorted({_shard(job, shards) for job in lost})
        return dg.Failure(
            f"{self._name}: {len(lost):,} of {images:,} images have no outcome, because the "
            "steps of these shards did not run to their end in this run: "
            f"{', '.join(map(str, numbers))}. Nothing was materialized. All images "
            "made are stored. Launch the asset again, with all of its steps: it requests only the "
            "rest",
            allow_retries=False,
        )


def _shard(job: Job, shards: int) -> int:
    return shard_of(job.request.fingerprint, shards)


def _has_work(job: Job) -> bool:
    """Whether its shard has to run. What is unknown by now, a writer may find out more about."""
    return job.known is None or job.known.status == "unknown"
