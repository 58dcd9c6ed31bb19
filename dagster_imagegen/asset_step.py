"""The step of an image asset: `materialize`."""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import dagster as dg

from dagster_imagegen.engine.run.plan import Plan
from dagster_imagegen.execution import Execution
from dagster_imagegen.incomplete import (
    Problem,
    incomplete_failure,
    problem_metadata,
    problems_of,
)
from dagster_imagegen.metadata import (
    FinishedPass,
    data_version,
    plan_metadata,
    spending_metadata,
    table_metadata,
)
from dagster_imagegen.partition_tables import Partition
from dagster_imagegen.resource import ImageGenResource
from dagster_imagegen.returned import Returned
from dagster_imagegen.run_config import ImageRunConfig
from dagster_imagegen.step import PROMPT_TABLE, Step, StepEvents, StepOptions, executing, failing
from dagster_imagegen.table_types import convert_table

PICTURES_IN = "imagegen/pictures_in"
"""Of a materialization whose images are those of the one before: the run that shows them."""

DATA_VERSION_TAG = "dagster/data_version"

COMPLETE = "complete"
"""The check of an asset that materializes tables with rows that have no image."""


def materialize(
    context: dg.AssetExecutionContext,
    imagegen: ImageGenResource,
    prompts: Callable[[], object],
    config: ImageRunConfig,
    *,
    options: StepOptions,
) -> StepEvents:
    """The step of an image asset. Keys and partitions are taken from the context.

    A whole image table is yielded as the materialization. Where rows of it have no image, or the
    run stopped early (terminated, out of credit, misconfigured), it yields an observation of what
    was made and spent instead, so that a part of an image table never replaces a whole one, and
    fails. A run of a part of the prompt table, or of the plan alone, yields an observation and
    succeeds. `prompts` is called once the settings are known to work.

    Raises `dg.Failure` for every `ImageGenError`, and for an incomplete image table unless it is
    to be materialized.
    """
    with executing_asset(context, imagegen, config) as execution:
        yield from AssetStep(context, execution, options).run(prompts, config)


@contextmanager
def executing_asset(
    context: dg.AssetExecutionContext, imagegen: ImageGenResource, config: ImageRunConfig
) -> Generator[Execution]:
    """What runs prompt tables for this step. Raises `dg.Failure` for every `ImageGenError`."""
    name = context.asset_key.to_user_string()
    with executing(context.op_execution_context, imagegen, config, asset_key=name) as execution:
        yield execution


class AssetStep(Step):
    """One run of an asset over its partitions."""

    def __init__(
        self, context: dg.AssetExecutionContext, execution: Execution, options: StepOptions
    ) -> None:
        partitioned = context.assets_def.partitions_def is not None
        partitions: Sequence[Partition] = (
            [str(key) for key in context.partition_keys] if partitioned else [None]
        )
        super().__init__(context.op_execution_context, execution, options, partitions)
        self._context = context

    def _events(
        self, done: Mapping[Partition, FinishedPass], returned: Returned, *, left_out: int
    ) -> StepEvents:
        """Those of a pass that reached its end; pictures and versions are computed here."""
        problems = problems_of(done, self._options.fail_on)
        fails = self._fails(done)
        if not fails and not left_out:
            return iter([self._result(done, returned)])
        why = (
            f"The run was limited; rows not run: {left_out:,}."
            if left_out
            else f"Rows without an image: {len(problems):,}."
        )
        observed = self._observed(done, why, problems)
        if fails:
            return failing(observed, incomplete_failure(self._name, problems, done))
        return iter([*observed, *self._checks(done, returned, left_out=left_out)])

    def _observed(
        self, done: Mapping[Partition, FinishedPass], why: str, problems: Sequence[Problem]
    ) -> list[dg.AssetObservation]:
        """What was made of each partition, where nothing is materialized."""
        return [
            self._observation(
                partition,
                f"{why} Nothing was materialized. The images made are stored; the next run "
                "requests only the rest.",
                self._result_metadata(
                    each,
                    self._pictures(each),
                    first=problem_metadata(problems, of_partition=partition),
                ),
            )
            for partition, each in done.items()
        ]

    def _result(
        self, done: Mapping[Partition, FinishedPass], returned: Returned
    ) -> "dg.MaterializeResult[object]":
        """The image table, or of several partitions a dict of them, with the metadata."""
        # Of several partitions, each has its own metadata and Dagster adds the function's to all.
        beside = returned.metadata if len(done) == 1 else {}
        version = returned.data_version or data_version([each.images for each in done.values()])
        # A version of the function's own need not change with the images.
        ours = version if returned.data_version is None else None
        metadata = {
            key: self._stored_metadata(each, beside, pictures_in=self._pictures_in(key, ours))
            for key, each in done.items()
        }
        tables = {
            key: convert_table(each.images, self._options.table_type) for key, each in done.items()
        }
        value: object = tables
        shown: Mapping[str, Any] = {}
        if len(tables) == 1:
            ((value,), (shown,)) = tables.values(), metadata.values()
        else:
            shown = returned.metadata
            # That of a function which is called directly cannot, and has no materialization.
            with suppress(AttributeError):
                for partition, each in metadata.items():
                    self._context.add_asset_metadata(each, partition_key=partition)
        return dg.MaterializeResult(
            value=value,
            metadata=shown,
            tags=returned.tags,
            data_version=version,
            check_results=self._checks(done, returned),
        )

    def _planned(self, plan: Plan, returned: Returned, *, left_out: int) -> StepEvents:
        self._log_plan(plan)
        yield self._observation(
            self._partition,
            "A plan only: nothing was sent, and nothing was materialized.",
            {**plan_metadata(plan), **({"imagegen/rows_left_out": left_out} if left_out else {})},
        )
        missing = plan.to_send + plan.unknown + plan.missing
        if "refused" in self._options.fail_on:
            missing += plan.refused
        yield from self._check_results(
            returned,
            passed=not missing and not left_out,
            description=f"Planned only: {missing:,} of {plan.images:,} images are not in storage.",
        )

    def _spending(self) -> Iterator[dg.AssetObservation]:
        """By partition. A yielded observation is kept when the step fails; a logged one is not."""
        generation = self._generation
        if generation is None:
            return
        for partition, totals in generation.pass_totals.by_partition.items():
            yield self._observation(
                partition,
                "The run stopped early. Its images are stored and its requests are in the usage "
                "table; the next run requests only the rest.",
                spending_metadata(totals, sandbox=generation.plan.sandbox),
            )

    def _observation(
        self, partition: Partition, description: str, metadata: Mapping[str, Any]
    ) -> dg.AssetObservation:
        return dg.AssetObservation(
            asset_key=self._context.asset_key,
            partition=partition,
            description=description,
            metadata=metadata,
        )

    def _checks(
        self, done: Mapping[Partition, FinishedPass], returned: Returned, *, left_out: int = 0
    ) -> Sequence[dg.AssetCheckResult]:
        # A later run requests those that the budget has deferred, so they are not complete either.
        statuses = list(dict.fromkeys([*self._options.fail_on, "deferred"]))
        problems = problems_of(done, statuses)
        rows = sum(each.images.num_rows for each in done.values())
        # Not "have no image": a refused row has none either.
        texts = [f"{len(problems):,} of {rows:,} rows are {' or '.join(statuses)}."]
        texts += [f"Rows not run: {left_out:,}."] if left_out else []
        return self._check_results(
            returned,
            passed=not problems and not left_out,
            description=" ".join(texts),
            metadata=problem_metadata(problems),
        )

    def _check_results(
        self,
        returned: Returned,
        *,
        passed: bool,
        description: str,
        metadata: Mapping[str, Any] | None = None,
    ) -> Sequence[dg.AssetCheckResult]:
        """Those of the function, and ours if the asset has our check."""
        if self._options.on_incomplete == "fail":
            return returned.check_results
        ours = dg.AssetCheckResult(
            check_name=COMPLETE,
            passed=passed,
            severity=dg.AssetCheckSeverity.WARN,
            description=description,
            metadata=metadata,
        )
        return [*returned.check_results, ours]

    def _pictures_in(self, partition: Partition, version: dg.DataVersion | None) -> str | None:
        """The run whose materialization shows the same images, if the latest is of this version."""
        if version is None or not self._engine.settings.previews:
            return None
        which = dg.AssetRecordsFilter(
            self._context.asset_key, asset_partitions=None if partition is None else [partition]
        )
        records = self._context.instance.fetch_materializations(which, limit=1).records
        latest = records[0].asset_materialization if records else None
        if latest is None or (latest.tags or {}).get(DATA_VERSION_TAG) != version.value:
            return None
        if "imagegen/preview" in latest.metadata:
            return records[0].run_id
        before = latest.metadata.get(PICTURES_IN)
        return before.value if isinstance(before, dg.DagsterRunMetadataValue) else None

    def _stored_metadata(
        self, done: FinishedPass, beside: Mapping[str, Any], *, pictures_in: str | None
    ) -> dict[str, Any]:
        """Of a table that is stored. Pictures that `pictures_in` shows are not repeated."""
        small = [] if pictures_in else self._pictures(done)
        if pictures_in:
            beside = {PICTURES_IN: dg.MetadataValue.dagster_run(pictures_in), **beside}
        table = table_metadata(
            done,
            small,
            upstream=self._upstream(),
            prompt_columns=self._options.prompt_columns or (),
            carry_prefix=self._options.table.carry_prefix,
        )
        return self._result_metadata(done, small, beside={**table, **done.publishing, **beside})

    def _upstream(self) -> dg.AssetKey | None:
        """The asset that is the prompt table. It can be renamed after the definition."""
        if self._options.prompt_columns is None:
            return None
        try:
            return self._context.asset_key_for_input(PROMPT_TABLE)
        except dg.DagsterError:  # A function that is called directly is in no graph of assets.
            return None
