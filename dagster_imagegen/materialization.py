"""One step of an image asset: prompt tables in, both assets out, in whatever way the pass ends."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TypeAlias, cast

import dagster as dg
import pyarrow as pa

from dagster_imagegen.engine.attempt import Identity
from dagster_imagegen.engine.engine import Engine
from dagster_imagegen.engine.errors import (
    BudgetExhausted,
    ConfigurationError,
    EndpointMisconfigured,
    ImageGenError,
    OutOfCredit,
    abbreviate,
)
from dagster_imagegen.engine.prompts.table import PromptTable
from dagster_imagegen.engine.request import ImageParams
from dagster_imagegen.engine.run.progress import cost_text
from dagster_imagegen.engine.run.thread import Generation
from dagster_imagegen.metadata import (
    FinishedPass,
    Lineage,
    Metadata,
    check_carried,
    count_values,
    data_version,
    image_metadata,
    usage_metadata,
    usage_version,
)
from dagster_imagegen.resource import ImageGenResource
from dagster_imagegen.run_config import ImageRunConfig

PROGRESS_SECONDS = 10.0
_HOPELESS = (BudgetExhausted, ConfigurationError, EndpointMisconfigured, OutOfCredit)
PROBLEMS_SHOWN = 5

Partition: TypeAlias = str | None
Results: TypeAlias = Iterator["dg.MaterializeResult[object]"]


@dataclass(frozen=True, kw_only=True)
class ImageAssetSpec:
    """What an image asset is, however it was written down."""

    key: dg.AssetKey
    params: ImageParams
    template: str | None
    overrides: tuple[str, ...]
    fail_on: tuple[str, ...]
    resource_key: str
    io_manager_key: str
    lineage: Lineage | None

    @property
    def name(self) -> str:
        return self.key.to_user_string()

    @property
    def usage_key(self) -> dg.AssetKey:
        *folder, last = self.key.path
        return dg.AssetKey([*folder, f"{last}_usage"])


class ProgressLog:
    """Passes a line on to the log at most every `every_seconds`."""

    def __init__(
        self,
        log: Callable[[str], None],
        *,
        every_seconds: float = PROGRESS_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._every_seconds = every_seconds
        self._clock = clock
        self._last = clock()

    def tick(self, line: Callable[[], object]) -> None:
        """Log the line if it is time; it is asked for only then."""
        now = self._clock()
        if now - self._last >= self._every_seconds:
            self._last = now
            self._log(str(line()))


def materialize_images(
    context: dg.AssetExecutionContext,
    spec: ImageAssetSpec,
    resource: ImageGenResource,
    run_config: ImageRunConfig,
    read_source: Callable[[], object],
) -> Results:
    """Both assets, or the one that is selected; `read_source` gives the prompt table.

    A pass that gave every image a final status yields both, then fails if `fail_on` names a
    status that occurred. A pass that was stopped (terminated, out of credit, misconfigured)
    yields the usage alone, so that a part of an image table never replaces a whole one. With the
    usage alone selected nothing is asked for and nothing is sent.
    """
    try:
        with resource.open_engine() as engine:
            step = _Step(context, spec, engine, run_config)
            if spec.key in context.selected_asset_keys:
                yield from step.generate(read_source)
            else:
                yield step.usage_result(step.latest_usage())
    except ImageGenError as error:
        # Where every further try meets the same answer, a retry policy has nothing to try.
        hopeless = isinstance(error, _HOPELESS)
        told = f"{spec.name}: {error}"
        if isinstance(error, BudgetExhausted) and run_config.max_usd is not None:
            told += (
                f". The config of this run has max_usd: {run_config.max_usd}, which it shares with "
                "its retries and re-executions; the smaller of that and the budget of the "
                "resource, if it has one, holds"
            )
        raise dg.Failure(told, allow_retries=False if hopeless else None) from error


class _Step:
    def __init__(
        self,
        context: dg.AssetExecutionContext,
        spec: ImageAssetSpec,
        engine: Engine,
        run_config: ImageRunConfig,
    ) -> None:
        self._context = context
        self._spec = spec
        self._engine = engine
        self._run_config = run_config
        self._partitions = _partitions(context)
        self._begun: dict[Partition, Generation] = {}
        if len(self._partitions) > 1:
            self._check_io_manager()

    # -- images --------------------------------------------------------------------------------

    def generate(self, read_source: Callable[[], object]) -> Results:
        self._run_config.limit_usd()  # Raises, before the function does its work for nothing.
        tables = self._read_prompts(read_source())
        try:
            done = {partition: self._run(table, partition) for partition, table in tables.items()}
            results = [self._image_result(done)]
            if self._usage_is_wanted:
                results.append(self.usage_result({key: one.usage for key, one in done.items()}))
        except BaseException:
            # Also KeyboardInterrupt and Dagster's own: the passes are drained by now, and what they
            # caused is on record.
            if self._usage_is_wanted and (usage := self._usage_so_far()) is not None:
                yield self.usage_result(usage)
            raise
        self._log_summary(done)
        yield from results
        self._fail_on(done)

    def _read_prompts(self, source: object) -> dict[Partition, PromptTable]:
        """The prompt table of each partition of this run, all of them before anything is sent."""
        if len(self._partitions) > 1 or _is_by_partition(source, self._partitions):
            sources = _by_partition(source, cast("Sequence[str]", self._partitions))
        else:
            sources = dict.fromkeys(self._partitions, source)
        spec = self._spec
        tables = {
            partition: self._engine.read_prompts(
                each, params=spec.params, template=spec.template, overrides=spec.overrides
            )
            for partition, each in sources.items()
        }
        for table in tables.values():
            check_carried(table.carried)
        for warning in dict.fromkeys(text for table in tables.values() for text in table.warnings):
            self._context.log.warning(f"{spec.name}: {warning}")
        return tables

    def _run(self, prompts: PromptTable, partition: Partition) -> FinishedPass:
        """One pass to its end. On any way out of it, what was sent is on record."""
        name = self._spec.name if partition is None else f"{self._spec.name} {partition}"
        log = self._context.log
        progress = ProgressLog(lambda line: log.info(f"{name}: {line}"))
        asked = self._engine.generate(
            prompts,
            identity=self._identity(partition),
            redo=[each.value for each in self._run_config.redo],
            max_usd=self._run_config.limit_usd(),
        )
        with asked as generation:
            self._begun[partition] = generation
            log.info(f"{name}: {generation.plan.describe()}")
            try:
                # Also while nothing comes: minutes can pass until the first image, or in a pause.
                for _ in generation.beats(PROGRESS_SECONDS):
                    progress.tick(lambda: generation.progress)
            except BaseException:
                generation.drain()
                at = generation.progress
                log.info(
                    f"{name}: stopped after {at.done:,} of {at.total:,} images, {at.cost}; what "
                    "was made is stored and will not be asked for again"
                )
                raise
        return FinishedPass(
            plan=generation.plan,
            images=self._engine.image_table(generation.plan, generation.outcomes),
            usage=self._engine.usage_of(generation.journal_ids),
            totals=generation.totals,
        )

    def _identity(self, partition: Partition) -> Identity:
        run = self._context.run
        return Identity(
            run_id=run.run_id,
            root_run_id=run.root_run_id or run.run_id,
            asset_key=self._spec.name,
            partition_key=partition,
            step_key=str(self._context.op_execution_context.op_handle),
        )

    def _image_result(
        self, done: Mapping[Partition, FinishedPass]
    ) -> "dg.MaterializeResult[object]":
        metadata = {
            partition: image_metadata(
                one,
                uri=self._engine.storage_uri,
                read_image=self._engine.read_image,
                lineage=self._spec.lineage,
                captions=self._engine.settings.record_prompts,
            )
            for partition, one in done.items()
        }
        return dg.MaterializeResult(
            asset_key=self._spec.key,
            value=self._value({partition: one.images for partition, one in done.items()}),
            metadata=self._metadata(self._spec.key, metadata),
            data_version=data_version([one.images for one in done.values()]),
        )

    def _fail_on(self, done: Mapping[Partition, FinishedPass]) -> None:
        """Raise `dg.Failure` if a status occurred that is to fail the step."""
        images = pa.concat_tables([one.images.select(_PROBLEM) for one in done.values()])
        problems = [row for row in images.to_pylist() if row["image_status"] in self._spec.fail_on]
        if not problems:
            return
        counts = Counter[str](row["image_status"] for row in problems)
        told = ", ".join(f"{count:,} {status}" for status, count in counts.items())
        # Refusals stand, an unknown one is left alone by the same run, and a deleted image is not
        # asked for again.
        retryable = any(
            row["image_status"] == "failed" and row["image_error_code"] != "image_missing"
            for row in problems
        )
        lines = [_told(row) for row in problems[:PROBLEMS_SHOWN]]
        if len(problems) > PROBLEMS_SHOWN:
            lines.append(f"and {len(problems) - PROBLEMS_SHOWN:,} more in the image table")
        raise dg.Failure(
            f"{self._spec.name}: {len(problems):,} of {images.num_rows:,} images are not there: "
            f"{told}. Both tables and every image that was made are stored; a later run asks for "
            "what is left.\n" + "\n".join(lines),
            metadata={f"imagegen/{status}": count for status, count in counts.items()},
            allow_retries=None if retryable else False,
        )

    def _log_summary(self, done: Mapping[Partition, FinishedPass]) -> None:
        """Where everything lies and what it cost, as the last line."""
        passes = done.values()
        counts = count_values([one.images["image_status"] for one in passes])
        cost = cost_text(
            sum((one.totals.cost_usd for one in passes), start=Decimal(0)),
            sum((one.totals.list_price_usd for one in passes), start=Decimal(0)),
            sandbox=any(one.plan.sandbox for one in passes),
            unpriced=sum(one.totals.unpriced for one in passes),
        )
        told = ", ".join(f"{count:,} {status}" for status, count in counts.items()) or "no rows"
        self._context.log.info(
            f"{self._spec.name}: {told}; cost of this run {cost}; "
            f"images in {self._engine.storage_uri}, usage table in {self._engine.usage_uri}"
        )

    # -- usage ---------------------------------------------------------------------------------

    def latest_usage(self) -> dict[Partition, pa.Table]:
        """What the newest run that sent anything caused, for each partition of this run."""
        return {
            partition: self._engine.latest_usage(asset_key=self._spec.name, partition_key=partition)
            for partition in self._partitions
        }

    def usage_result(self, usage: Mapping[Partition, pa.Table]) -> "dg.MaterializeResult[object]":
        metadata = {
            partition: usage_metadata(table, uri=self._engine.usage_uri, image_asset=self._spec.key)
            for partition, table in usage.items()
        }
        return dg.MaterializeResult(
            asset_key=self._spec.usage_key,
            value=self._value(usage),
            metadata=self._metadata(self._spec.usage_key, metadata),
            data_version=usage_version(usage.values()),
        )

    @property
    def _usage_is_wanted(self) -> bool:
        return self._spec.usage_key in self._context.selected_asset_keys

    def _usage_so_far(self) -> dict[Partition, pa.Table] | None:
        """What a pass that was stopped has caused; None where there is nothing to hand over.

        Partitions that were never begun keep what their newest run caused.
        """
        try:
            caused = {
                partition: self._engine.usage_of(generation.journal_ids)
                for partition, generation in self._begun.items()
            }
            if not any(table.num_rows for table in caused.values()):
                return None
            return {
                partition: caused[partition]
                if partition in caused
                else self._engine.latest_usage(asset_key=self._spec.name, partition_key=partition)
                for partition in self._partitions
            }
        except Exception as error:  # noqa: BLE001  # what stopped the pass is what has to be told
            self._context.log.warning(f"{self._spec.name}: usage cannot be read: {error}")
            return None

    # -- partitions ----------------------------------------------------------------------------

    def _value(self, tables: Mapping[Partition, pa.Table]) -> object:
        """What the IO manager gets: the table; of several partitions, a table by partition."""
        return dict(tables) if len(self._partitions) > 1 else next(iter(tables.values()))

    def _metadata(
        self, key: dg.AssetKey, metadata: Mapping[Partition, Metadata]
    ) -> Metadata | None:
        if len(self._partitions) == 1:
            return next(iter(metadata.values()))
        for partition, each in metadata.items():
            self._context.add_asset_metadata(each, asset_key=key, partition_key=partition)
        return None

    def _check_io_manager(self) -> None:
        """Raise where this run's IO manager cannot write several partitions, before it costs."""
        manager = getattr(self._context.resources, self._spec.io_manager_key, None)
        inherits = isinstance(manager, dg.UPathIOManager) and (
            type(manager).handle_output is dg.UPathIOManager.handle_output
        )
        if inherits:
            raise ConfigurationError(
                f"this run is over {len(self._partitions):,} partitions, and its IO manager "
                f'("{self._spec.io_manager_key}", {type(manager).__name__}) writes one at a time. '
                "Set backfill_policy=dg.BackfillPolicy.multi_run(), or an IO manager that takes a "
                "dict of a table by partition. Nothing was sent"
            )


_PROBLEM = ["prompt_id", "image_status", "image_error_code", "image_error_message"]


def _told(row: Mapping[str, str | None]) -> str:
    parts = (row["image_status"], row["image_error_code"], row["image_error_message"])
    return f"prompt_id {abbreviate(row['prompt_id'])}: {': '.join(part for part in parts if part)}"


def _partitions(context: dg.AssetExecutionContext) -> tuple[Partition, ...]:
    """The partitions of this run; (None,) for an asset without."""
    if context.assets_def.partitions_def is None:
        return (None,)
    return tuple(str(key) for key in context.partition_keys)


def _is_by_partition(source: object, partitions: Sequence[Partition]) -> bool:
    """Whether a table of columns by name is rather a dict by the only partition of this run."""
    if not isinstance(source, Mapping):
        return False
    return {str(key) for key in cast("Mapping[object, object]", source)} == set(partitions)


def _by_partition(source: object, partitions: Sequence[str]) -> dict[Partition, object]:
    if not isinstance(source, Mapping):
        raise ConfigurationError(
            f"this run is over {len(partitions):,} partitions, so the prompt tables are a dict by "
            f"partition key, not one {type(source).__qualname__}; return one for each of "
            "context.partition_keys, or set backfill_policy=dg.BackfillPolicy.multi_run()"
        )
    tables = {str(key): table for key, table in cast("Mapping[object, object]", source).items()}
    if set(tables) != set(partitions):
        missing, strange = (
            sorted(set(partitions) - set(tables)),
            sorted(set(tables) - set(partitions)),
        )
        raise ConfigurationError(
            "the dict of prompt tables has to name each partition of this run; missing: "
            f"{missing or 'none'}; not in this run: {strange or 'none'}"
        )
    return {partition: tables[partition] for partition in partitions}
