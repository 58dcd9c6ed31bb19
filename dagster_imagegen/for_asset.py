"""Images on behalf of the asset, op, check or sensor that a Dagster context belongs to."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, TypeAlias

import dagster as dg
import pyarrow as pa
from typing_extensions import Unpack

from dagster_imagegen.calls import StoredImage, generate_one, generate_table, partition_text
from dagster_imagegen.charge_back import charged_to
from dagster_imagegen.engine.attempt import SANDBOX, Identity
from dagster_imagegen.engine.endpoint.response import OnPartial
from dagster_imagegen.engine.engine import Engine
from dagster_imagegen.engine.errors import ConfigurationError
from dagster_imagegen.engine.image_table import OUR_COLUMNS
from dagster_imagegen.engine.prompts.rows import PromptTable
from dagster_imagegen.engine.request import ImageParams
from dagster_imagegen.engine.run.progress import cost_text
from dagster_imagegen.engine.run.thread import Generation
from dagster_imagegen.metadata import count_values, counts_text, result_metadata
from dagster_imagegen.previews import pictures

AnyContext: TypeAlias = (
    dg.AssetExecutionContext
    | dg.OpExecutionContext
    | dg.AssetCheckExecutionContext
    | dg.SensorEvaluationContext
    | dg.ScheduleEvaluationContext
)


class AssetImages:
    """What `ImageGenResource.for_asset` opens: calls on behalf of one asset, which take turns."""

    def __init__(self, engine: Engine, identity: Identity) -> None:
        self.block = engine.block(identity)
        self._engine = engine
        self._identity = identity
        self._generations: list[Generation] = []

    def generate(
        self, prompt: str, *, on_partial: OnPartial | None = None, **params: Unpack[ImageParams]
    ) -> StoredImage:
        """`ImageGenResource.generate` on behalf of the asset."""
        return generate_one(self._engine, self._begin, prompt, params, on_partial=on_partial)

    def generate_many(
        self,
        prompts: object,
        *,
        template: str | None = None,
        overrides: Sequence[str] = (),
        **params: Unpack[ImageParams],
    ) -> pa.Table:
        """`ImageGenResource.generate_many` on behalf of the asset."""
        return generate_table(
            self._engine, self._begin, prompts, params, template=template, overrides=overrides
        )

    def metadata(self) -> dict[str, Any]:
        """Counts, cost, tokens and pictures of all calls so far, e.g. for the result of a check."""
        engine, images = self._engine, self._images()
        return result_metadata(
            images,
            self.block.totals,
            pictures(images, engine.read_image) if engine.settings.previews else [],
            sandbox=self._is_sandbox,
            uri=engine.storage_uri,
            captions=engine.settings.record_prompts,
        )

    def summary(self) -> str:
        """The same in one line for a log."""
        counts = counts_text(count_values([self._images()["image_status"]]))
        cost = cost_text(self.block.totals, sandbox=self._is_sandbox)
        name = self._identity.asset_key or self._identity.step_key or "imagegen"
        return (
            f"{name}: {counts or 'no images'}; cost {cost}; images in {self._engine.storage_uri}, "
            f"usage table in {self._engine.usage_uri}"
        )

    @property
    def _is_sandbox(self) -> bool:
        return self._engine.settings.endpoint_id == SANDBOX

    def _begin(self, prompts: PromptTable, *, on_partial: OnPartial | None = None) -> Generation:
        generation = self.block.generate(prompts, on_partial=on_partial)
        self._generations.append(generation)
        return generation

    def _images(self) -> pa.Table:
        """The image tables of all calls, without carried columns."""
        tables = [OUR_COLUMNS.empty_table()]
        for generation in self._generations:
            # It ended before there was a plan; it was cancelled if the step was interrupted then.
            with suppress(Exception, asyncio.CancelledError):
                prompts = _with_outcomes(generation)
                table = self._engine.image_table(
                    generation.plan, generation.outcomes, prompts=prompts
                )
                tables.append(table.select(OUR_COLUMNS.names))
        return pa.concat_tables(tables)


def _with_outcomes(generation: Generation) -> PromptTable:
    """The rows whose images all have an outcome: fewer than all where a call ended early."""
    plan, outcomes = generation.plan, generation.outcomes
    if len(outcomes) == plan.distinct:
        return plan.prompts
    wanted = plan.jobs.fingerprints.to_pylist()
    return plan.prompts.without([each for each in wanted if each not in outcomes])


class Place:
    """Where a Dagster context belongs, and where it shows metadata.

    Raises `ConfigurationError` if it is not clear which asset or partition is meant.
    """

    def __init__(
        self, context: AnyContext, *, asset_key: str | None, partition_key: str | None
    ) -> None:
        self._context = context
        self._step = _step_of(context)
        self._asset_key = asset_key or self._only_asset()
        self._partition_key = partition_text(partition_key) or self._only_partition()

    def identity(self, run_ids: tuple[str, str], *, tags: Sequence[str] = ()) -> Identity:
        """On whose behalf requests are sent; the run ids are for a context without a run.

        `tags` are the names of those tags of the asset that usage rows have.
        """
        run_id, root_run_id = self._run_ids() or run_ids
        return Identity(
            run_id=run_id,
            root_run_id=root_run_id,
            asset_key=self._asset_key,
            partition_key=self._partition_key,
            step_key=None if self._step is None else step_key_of(self._step),
            **charged_to(self._context, self._step, self._asset_key, tags),
        )

    def add(self, metadata: dict[str, Any]) -> None:
        """Show metadata with the materialization, or the output of an op, if there will be one."""
        context = self._context
        try:
            if isinstance(context, dg.AssetExecutionContext):
                self._add_to_asset(context, metadata)
            elif isinstance(context, dg.OpExecutionContext):
                context.add_output_metadata(metadata)
        except dg.DagsterError as error:  # Of several outputs nobody knows which, or it is out.
            context.log.info(f"the metadata of the images is not shown: {error}")

    def _add_to_asset(self, context: dg.AssetExecutionContext, metadata: dict[str, Any]) -> None:
        key = None if self._asset_key is None else dg.AssetKey.from_user_string(self._asset_key)
        try:
            context.add_asset_metadata(metadata, key, self._partition_key)
        except AttributeError:  # That of a function which is called directly cannot.
            context.add_output_metadata(metadata)

    def _only_asset(self) -> str | None:
        keys = self._asset_keys()
        if len(keys) > 1:
            names = ", ".join(sorted(key.to_user_string() for key in keys))
            raise ConfigurationError(
                f"this step is of several assets ({names}); say which one the images are for: "
                "for_asset(context, asset_key=...)"
            )
        return next((key.to_user_string() for key in keys), None)

    def _asset_keys(self) -> set[dg.AssetKey]:
        if isinstance(self._context, dg.AssetCheckExecutionContext):
            return {each.asset_key for each in self._context.check_specs}
        if self._step is None or not self._step.has_assets_def:
            return set()
        return set(self._step.assets_def.keys)

    def _only_partition(self) -> str | None:
        step = self._step
        if step is None or (self._asset_keys() and not self._is_partitioned(step)):
            return None
        if step.has_partition_key:
            return step.partition_key
        if step.has_partition_key_range:
            raise ConfigurationError(
                "this run is over several partitions; say which one the images are for, in a "
                "block for each: for_asset(context, partition_key=...)"
            )
        return None

    def _is_partitioned(self, step: dg.OpExecutionContext) -> bool:
        # A check may be of an asset that its own step does not make.
        return not step.has_assets_def or step.assets_def.partitions_def is not None

    def _run_ids(self) -> tuple[str, str] | None:
        try:
            run = getattr(self._context, "run", None)
        except dg.DagsterError:  # A function that is called directly is in no run.
            return None
        if not isinstance(run, dg.DagsterRun):
            return None
        return run.run_id, run.root_run_id or run.run_id


def _step_of(context: AnyContext) -> dg.OpExecutionContext | None:
    if isinstance(context, (dg.AssetExecutionContext, dg.AssetCheckExecutionContext)):
        return context.op_execution_context
    return context if isinstance(context, dg.OpExecutionContext) else None


def step_key_of(context: dg.OpExecutionContext) -> str:
    """The key of a step; of an op that is called directly, its name."""
    try:
        return str(context.op_handle)
    except dg.DagsterError:  # It is in no job.
        return context.op_def.name
