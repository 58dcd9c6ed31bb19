"""A step that runs a prompt table: what those of image assets and of ops have in common."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import dagster as dg

from dagster_imagegen.charge_back import charged_to
from dagster_imagegen.engine.attempt import Identity
from dagster_imagegen.engine.errors import (
    BudgetExhausted,
    ConfigurationError,
    EndpointError,
    ImageGenError,
)
from dagster_imagegen.engine.prompts.rows import PromptTable
from dagster_imagegen.engine.publishing.names import Publication
from dagster_imagegen.engine.run.plan import Plan
from dagster_imagegen.engine.run.progress import cost_text
from dagster_imagegen.engine.run.thread import Generation
from dagster_imagegen.execution import (
    Execution,
    TableOptions,
    first_rows,
    joined,
)
from dagster_imagegen.for_asset import step_key_of
from dagster_imagegen.incomplete import problems_of
from dagster_imagegen.io_manager_check import check_io_manager
from dagster_imagegen.metadata import (
    FinishedPass,
    count_values,
    counts_text,
    partial_images,
    result_metadata,
)
from dagster_imagegen.partition_tables import Partition, by_partition
from dagster_imagegen.previews import Picture, pictures
from dagster_imagegen.publishing import Publishing
from dagster_imagegen.resource import ImageGenResource
from dagster_imagegen.returned import Returned
from dagster_imagegen.run_config import ImageRunConfig
from dagster_imagegen.table_types import TableType

PROMPT_TABLE = "prompt_table"
"""The input of an op, and of an asset without a function."""

# A retry of the step would meet the same answer.
_NO_RETRY_HELPS = (BudgetExhausted, ConfigurationError)

OnIncomplete: TypeAlias = Literal["fail", "materialize"]
StepEvents: TypeAlias = Iterator[Any]
"""What Dagster takes from a step: `dg.MaterializeResult`, `dg.Output`, `dg.AssetObservation`, …"""


@dataclass(frozen=True, kw_only=True)
class StepOptions:
    """What a definition says of its step.

    A table is incomplete if a row of it has a status of `fail_on`. The input `PROMPT_TABLE` has
    `prompt_columns`, unless a function makes the prompt table. The value of the step is the image
    table if `value_is_known`. `io_manager_key` is that of another step, if that one returns it.
    """

    table: TableOptions
    fail_on: tuple[str, ...]
    on_incomplete: OnIncomplete = "fail"
    table_type: TableType = "arrow"
    publication: Publication | None = None
    prompt_columns: Sequence[str] | None = None
    value_is_known: bool = True
    io_manager_key: str | None = None


@contextmanager
def executing(
    context: dg.OpExecutionContext,
    imagegen: ImageGenResource,
    config: ImageRunConfig,
    *,
    asset_key: str | None = None,
) -> Generator[Execution]:
    """What runs prompt tables on behalf of a step, for as long as the block lasts.

    Raises `dg.Failure` for every `ImageGenError` in the block.
    """
    step_key = step_key_of(context)
    try:
        with imagegen.open_engine() as engine:
            run_id, root_run_id = imagegen.run_ids
            yield Execution(
                engine=engine,
                log=context.log,
                identity=Identity(
                    run_id=run_id,
                    root_run_id=root_run_id,
                    asset_key=asset_key,
                    step_key=step_key,
                    **charged_to(context, context, asset_key, engine.settings.usage_tags),
                ),
                redo=[each.value for each in config.redo],
                max_usd=config.limit_usd(),
            )
    except ImageGenError as error:
        raise _failure(asset_key or step_key, error, config) from error


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


class Step(ABC):
    """One run over partitions; where there are none, over the partition None."""

    def __init__(
        self,
        context: dg.OpExecutionContext,
        execution: Execution,
        options: StepOptions,
        partitions: Sequence[Partition] = (None,),
    ) -> None:
        self._step_context = context
        self._engine = execution.engine
        self._options = options
        self._partitions = partitions
        self._partition = partitions[0] if len(partitions) == 1 else None
        """That of a run over one."""
        self._execution = execution.for_partition(self._partition)
        self._name = self._execution.name
        self._generation: Generation | None = None

    def run(self, prompts: Callable[[], object], config: ImageRunConfig) -> StepEvents:
        """Plan or run the rows of all partitions; yield what Dagster is to know of it."""
        returned, tables = self._prepare(prompts, config)
        publishing = Publishing.claim(
            self._execution, self._options.publication, tables, keep=not config.plan_only
        )
        tables, left_out = limited(tables, config)
        all_rows = joined(tables)
        if config.plan_only:
            yield from self._planned(self._execution.plan(all_rows), returned, left_out=left_out)
            return
        try:
            with self._execution.begin(all_rows) as self._generation:
                done = self._execution.finish_partitions(self._generation, tables)
            if publishing is not None and not left_out and not self._fails(done):
                done = publishing.publish(done)
            events = self._events(done, returned, left_out=left_out)
        except BaseException:
            # KeyboardInterrupt and Dagster's own as well.
            yield from self._spending()
            raise
        self._log_summary(done)
        yield from events

    def _prepare(
        self, prompts: Callable[[], object], config: ImageRunConfig
    ) -> tuple[Returned, dict[Partition, PromptTable]]:
        """What the function returned, and the rows of each partition."""
        check_io_manager(
            self._step_context,
            len(self._partitions),
            io_manager_key=self._options.io_manager_key,
            table_type=self._options.table_type,
            value_is_known=self._options.value_is_known,
        )
        config.row_limit()  # Raises before anything is read.
        returned = Returned.of(prompts())
        return returned, self._read(returned.prompts)

    def _read(self, source: object) -> dict[Partition, PromptTable]:
        """The prompt table of each partition. All are read before anything is sent."""
        sources = by_partition(source, self._partitions, what="the prompt table")
        tables = {
            key: self._execution.read(each, self._options.table) for key, each in sources.items()
        }
        for warning in dict.fromkeys(text for table in tables.values() for text in table.warnings):
            self._step_context.log.warning(f"{self._name}: {warning}")
        return tables

    def _fails(self, done: Mapping[Partition, FinishedPass]) -> bool:
        """Whether rows without an image keep it from being materialized."""
        fails = self._options.on_incomplete == "fail"
        return fails and bool(problems_of(done, self._options.fail_on))

    # -- what Dagster is to know -----------------------------------------------------------------

    @abstractmethod
    def _events(
        self, done: Mapping[Partition, FinishedPass], returned: Returned, *, left_out: int
    ) -> StepEvents:
        """Those of a pass that reached its end; pictures and versions are computed here."""

    @abstractmethod
    def _planned(self, plan: Plan, returned: Returned, *, left_out: int) -> StepEvents:
        """Those of a run of the plan alone."""

    def _spending(self) -> StepEvents:
        """Those of a pass that stopped early: what it has spent so far."""
        return iter(())

    def _pictures(self, done: FinishedPass) -> list[Picture]:
        """None if previews are switched off."""
        if not self._engine.settings.previews:
            return []
        return pictures(done.images, self._engine.read_image)

    def _result_metadata(
        self,
        done: FinishedPass,
        small: Sequence[Picture],
        *,
        first: Mapping[str, Any] | None = None,
        beside: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        return result_metadata(
            done.images,
            done.totals,
            small,
            sandbox=done.sandbox,
            uri=self._engine.storage_uri,
            captions=self._engine.settings.record_prompts,
            first=first,
            beside=beside,
        )

    def _log_plan(self, plan: Plan) -> None:
        self._step_context.log.info(f"{self._name}: {plan.describe()}; nothing is sent: plan_only")

    def _log_summary(self, done: Mapping[Partition, FinishedPass]) -> None:
        """Log where everything is stored and what it cost, as the last line."""
        passes = done.values()
        if partial := sum(partial_images(each.images) for each in passes):
            self._step_context.log.warning(
                f"{self._name}: {partial:,} of the images are partial: their streams "
                "broke off before the finished image. `image_partial` in the image table names "
                "them; bump their revision to request them again"
            )
        cost = cost_text(
            *(each.totals for each in passes), sandbox=any(each.sandbox for each in passes)
        )
        counts = count_values([each.images["image_status"] for each in passes])
        self._step_context.log.info(
            f"{self._name}: {counts_text(counts) or 'no rows'}; cost of this run "
            f"{cost}; images in {self._engine.storage_uri}, usage table in {self._engine.usage_uri}"
        )


def limited(
    tables: dict[Partition, PromptTable], config: ImageRunConfig
) -> tuple[dict[Partition, PromptTable], int]:
    """The rows to run, and how many the run config leaves out."""
    limit = config.row_limit()
    if limit is None:
        return tables, 0
    first = first_rows(tables, limit)
    rows, kept = (sum(each.num_rows for each in some.values()) for some in (tables, first))
    return first, rows - kept


def failing(events: Sequence[object], failure: dg.Failure) -> StepEvents:
    """Yield events, then fail."""
    yield from events
    raise failure
