"""Runs prompt tables for Dagster: `Execution` for any step, `materialize` for that of an asset."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, TypeAlias, cast

import dagster as dg
import pyarrow as pa

from dagster_imagegen.engine.attempt import Identity
from dagster_imagegen.engine.engine import Engine
from dagster_imagegen.engine.errors import (
    BudgetExhausted,
    ConfigurationError,
    EndpointError,
    ImageGenError,
    abbreviate,
)
from dagster_imagegen.engine.prompts.table import PromptTable
from dagster_imagegen.engine.request import ImageParams
from dagster_imagegen.engine.run.progress import cost_text
from dagster_imagegen.engine.run.thread import Generation
from dagster_imagegen.engine.run.verdict import Redo
from dagster_imagegen.io_manager_check import check_io_manager
from dagster_imagegen.metadata import (
    FinishedPass,
    count_values,
    data_version,
    image_metadata,
    partial_images,
    spending_metadata,
)
from dagster_imagegen.resource import ImageGenResource, read_table
from dagster_imagegen.run_config import ImageRunConfig

PROMPT_TABLE = "prompt_table"
"""The input of an asset without a function."""

PROGRESS_SECONDS = 10.0
PROBLEMS_SHOWN = 5
# A retry of the step would meet the same answer.
_NO_RETRY_HELPS = (BudgetExhausted, ConfigurationError)
_PROBLEM = ["prompt_id", "image_status", "image_error_code", "image_error_message"]

Partition: TypeAlias = str | None
StepEvents: TypeAlias = Iterator[Any]
"""What Dagster takes from a step: `dg.MaterializeResult`, `dg.AssetObservation`, check results."""


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """How the rows of a prompt table become requests."""

    params: ImageParams
    template: str | None = None
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Runs a prompt table on behalf of `identity`, which every usage row of it names.

    It knows no Dagster context, so an asset's step, an op and a shard can all use it.
    """

    engine: Engine
    log: logging.Logger
    identity: Identity
    redo: Sequence[Redo] = ()
    max_usd: Decimal | None = None
    warned: set[str] = field(default_factory=set[str])
    """The warnings that were logged, so that several partitions of one run log each once."""

    @property
    def name(self) -> str:
        """What log lines begin with: the asset, and the partition if there is one."""
        parts = (self.identity.asset_key or self.identity.step_key, self.identity.partition_key)
        return " ".join(part for part in parts if part)

    def for_partition(self, partition: Partition) -> "Execution":
        """The same on behalf of one partition."""
        return replace(self, identity=replace(self.identity, partition_key=partition))

    def read(self, source: object, options: TableOptions) -> PromptTable:
        """The requests of a prompt table. Raises `ConfigurationError` for one that cannot work."""
        return read_table(
            self.engine,
            source,
            params=options.params,
            template=options.template,
            overrides=options.overrides,
        )

    def begin(self, prompts: PromptTable) -> Generation:
        """Start the pass, for a `with` block that calls `finish`."""
        return self.engine.generate(
            prompts, identity=self.identity, redo=self.redo, max_usd=self.max_usd
        )

    def finish(self, generation: Generation) -> FinishedPass:
        """Wait for the end of the pass; log the plan first and the progress now and then.

        On any exception, KeyboardInterrupt and a terminated run included, it stops sending, waits
        for the requests in flight, and raises the exception again. Every request is recorded then.
        """
        self.log.info(f"{self.name}: {generation.plan.describe()}")
        for warning in generation.plan.warnings:
            if warning not in self.warned:
                self.warned.add(warning)
                self.log.warning(f"{self.name}: {warning}")
        if generation.warning is not None:
            self.log.warning(f"{self.name}: {generation.warning}")
        due = time.monotonic() + PROGRESS_SECONDS
        try:
            # Also while no image arrives: the first one, or a pause, can take minutes.
            for _ in generation.beats(PROGRESS_SECONDS):
                if time.monotonic() >= due:
                    self.log.info(f"{self.name}: {generation.progress}")
                    due = time.monotonic() + PROGRESS_SECONDS
        except BaseException:
            generation.drain()
            at = generation.progress
            self.log.info(
                f"{self.name}: stopped after {at.done:,} of {at.total:,} images, {at.cost}; the "
                "images are stored and will not be requested again"
            )
            raise
        return FinishedPass(
            plan=generation.plan,
            images=self.engine.image_table(generation.plan, generation.outcomes),
            totals=generation.totals,
            retry_can_help=any(each.retry_can_help for each in generation.outcomes.values()),
        )


# -- the step of an asset --------------------------------------------------------------------------


def materialize(
    context: dg.AssetExecutionContext,
    imagegen: ImageGenResource,
    prompts: Callable[[], object],
    config: ImageRunConfig,
    *,
    options: TableOptions,
    fail_on: Sequence[str],
    prompt_columns: Sequence[str] | None = None,
    value_is_known: bool = True,
) -> StepEvents:
    """The step of an image asset. Keys, partitions and run ids are taken from the context.

    A pass that reached its end yields the materialization, then fails if a status of `fail_on`
    occurred. One that stopped early (terminated, out of credit, misconfigured) yields an
    observation of what was spent and no materialization, so that a part of an image table never
    replaces a whole one. `prompts` is called once the settings are known to work. The input
    `PROMPT_TABLE` has `prompt_columns`, unless a function makes the prompt table. The value of the
    step is the image table if `value_is_known`.

    Raises `dg.Failure` for every `ImageGenError`, and for the image statuses of `fail_on`.
    """
    name = context.asset_key.to_user_string()
    try:
        with imagegen.open_engine() as engine:
            execution = Execution(
                engine=engine,
                log=context.log,
                identity=Identity(
                    run_id=context.run.run_id,
                    root_run_id=context.run.root_run_id or context.run.run_id,
                    asset_key=name,
                    step_key=str(context.op_execution_context.op_handle),
                ),
                redo=[each.value for each in config.redo],
                max_usd=config.limit_usd(),
            )
            step = _AssetStep(context, execution, prompt_columns)
            check_io_manager(context, step.partitions, value_is_known=value_is_known)
            yield from step.run(prompts, options)
        step.fail_on(fail_on)
    except ImageGenError as error:
        raise _failure(name, error, config) from error


def _failure(name: str, error: ImageGenError, config: ImageRunConfig) -> dg.Failure:
    text = f"{name}: {error}"
    if isinstance(error, BudgetExhausted) and config.max_usd is not None:
        text += (
            f". This run's config has max_usd: {config.max_usd}, which the run shares with its "
            "retries and re-executions; if the resource has a budget too, the smaller applies"
        )
    hopeless = isinstance(error, _NO_RETRY_HELPS) or (
        isinstance(error, EndpointError) and not error.retry_can_help
    )
    return dg.Failure(text, allow_retries=False if hopeless else None)


class _AssetStep:
    """One run of an asset over its partitions; an asset without any has the partition None."""

    def __init__(
        self,
        context: dg.AssetExecutionContext,
        execution: Execution,
        prompt_columns: Sequence[str] | None,
    ) -> None:
        self._context = context
        self._execution = execution
        self._engine = execution.engine
        self._prompt_columns = prompt_columns
        partitioned = context.assets_def.partitions_def is not None
        self._partitions: Sequence[Partition] = (
            [str(key) for key in context.partition_keys] if partitioned else [None]
        )
        self._begun: dict[Partition, Generation] = {}
        self._done: dict[Partition, FinishedPass] = {}

    @property
    def partitions(self) -> int:
        """How many passes the run has; an asset without partitions has one."""
        return len(self._partitions)

    def run(self, prompts: Callable[[], object], options: TableOptions) -> StepEvents:
        """Run every partition's pass; yield the materialization, or observations if stopped."""
        # All are read before anything is sent.
        sources = _by_partition(prompts(), self._partitions)
        tables = {key: self._execution.read(each, options) for key, each in sources.items()}
        for warning in dict.fromkeys(text for table in tables.values() for text in table.warnings):
            self._context.log.warning(f"{self._execution.name}: {warning}")
        try:
            for partition, table in tables.items():
                execution = self._execution.for_partition(partition)
                with execution.begin(table) as generation:
                    self._begun[partition] = generation
                    self._done[partition] = execution.finish(generation)
            result = self._result()
        except BaseException:
            # KeyboardInterrupt and Dagster's own as well. A yielded observation is kept when the
            # step fails; a logged one is not.
            yield from self._observations()
            raise
        self._log_summary()
        yield result

    def _result(self) -> "dg.MaterializeResult[object]":
        """The image table, or of several partitions a dict of them, with the metadata."""
        upstream = None
        if self._prompt_columns is not None:
            # An asset can be renamed after it was defined, and so can its upstream.
            upstream = self._context.asset_key_for_input(PROMPT_TABLE)
        metadata = {
            partition: image_metadata(
                done,
                uri=self._engine.storage_uri,
                read_image=self._engine.read_image,
                upstream=upstream,
                prompt_columns=self._prompt_columns or (),
                captions=self._engine.settings.record_prompts,
            )
            for partition, done in self._done.items()
        }
        tables = {partition: done.images for partition, done in self._done.items()}
        version = data_version(list(tables.values()))
        if len(tables) == 1:
            ((value,), (shown,)) = tables.values(), metadata.values()
            return dg.MaterializeResult(value=value, metadata=shown, data_version=version)
        for partition, each in metadata.items():
            self._context.add_asset_metadata(each, partition_key=partition)
        return dg.MaterializeResult(value=tables, data_version=version)

    def _observations(self) -> Iterator[dg.AssetObservation]:
        for partition, generation in self._begun.items():
            if generation.totals.requests:
                yield dg.AssetObservation(
                    asset_key=self._context.asset_key,
                    partition=partition,
                    description="The run stopped early. Its images are stored and its requests "
                    "are in the usage table; the next run requests only the rest.",
                    metadata=spending_metadata(generation.totals, sandbox=generation.plan.sandbox),
                )

    def fail_on(self, statuses: Sequence[str]) -> None:
        """Raise `dg.Failure` if an image has one of the statuses."""
        images = pa.concat_tables([each.images.select(_PROBLEM) for each in self._done.values()])
        problems = [row for row in images.to_pylist() if row["image_status"] in statuses]
        if not problems:
            return
        counts = Counter[str](row["image_status"] for row in problems)
        retryable = any(each.retry_can_help for each in self._done.values())
        lines = [_problem_text(row) for row in problems[:PROBLEMS_SHOWN]]
        if len(problems) > PROBLEMS_SHOWN:
            lines.append(f"and {len(problems) - PROBLEMS_SHOWN:,} more in the image table")
        raise dg.Failure(
            f"{self._execution.name}: {len(problems):,} of {images.num_rows:,} rows of the image "
            f"table have no image: {_counts_text(counts)}. The image table and all images made are "
            "stored; the next run requests only the rest.\n" + "\n".join(lines),
            metadata={f"imagegen/{status}": count for status, count in counts.items()},
            allow_retries=None if retryable else False,
        )

    def _log_summary(self) -> None:
        """Log where everything is stored and what it cost, as the last line."""
        done = self._done.values()
        cost = cost_text(
            *(each.totals for each in done), sandbox=any(each.plan.sandbox for each in done)
        )
        if partial := sum(partial_images(each.images) for each in done):
            self._context.log.warning(
                f"{self._execution.name}: {partial:,} of the images are partial: their streams "
                "broke off before the finished image. `image_partial` in the image table names "
                "them; bump their revision to request them again"
            )
        counts = count_values([each.images["image_status"] for each in done])
        self._context.log.info(
            f"{self._execution.name}: {_counts_text(counts) or 'no rows'}; cost of this run "
            f"{cost}; images in {self._engine.storage_uri}, usage table in {self._engine.usage_uri}"
        )


def _counts_text(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {status}" for status, count in counts.items())


def _problem_text(row: Mapping[str, str | None]) -> str:
    parts = (row["image_status"], row["image_error_code"], row["image_error_message"])
    return f"prompt_id {abbreviate(row['prompt_id'])}: {': '.join(part for part in parts if part)}"


def _by_partition(source: object, partitions: Sequence[Partition]) -> dict[Partition, object]:
    """The prompt table of each partition. That of a single one can be in a dict by its key too."""
    tables = None
    if isinstance(source, Mapping):
        items = cast("Mapping[object, object]", source).items()
        tables = {str(key): table for key, table in items}
    if len(partitions) == 1 and (tables is None or set(tables) != set(partitions)):
        return {partitions[0]: source}
    if tables is None:
        raise ConfigurationError(
            f"this run is over {len(partitions):,} partitions, so the prompt tables must be a dict "
            f"by partition key, got one {type(source).__qualname__}; return a table for each of "
            "context.partition_keys, or set backfill_policy=dg.BackfillPolicy.multi_run()"
        )
    wanted = [str(each) for each in partitions]
    missing, unknown = set(wanted) - set(tables), set(tables) - set(wanted)
    if missing or unknown:
        raise ConfigurationError(
            "the dict of prompt tables must have exactly the partitions of this run; missing: "
            f"{sorted(missing) or 'none'}; not in this run: {sorted(unknown) or 'none'}"
        )
    return {partition: tables[partition] for partition in wanted}
