"""Runs a prompt table for Dagster, in any step."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from dagster_imagegen.calls import read_table
from dagster_imagegen.engine.attempt import Identity
from dagster_imagegen.engine.engine import Engine
from dagster_imagegen.engine.prompts.rows import PromptTable, join_partitions
from dagster_imagegen.engine.request import ImageParams
from dagster_imagegen.engine.run.plan import Plan
from dagster_imagegen.engine.run.progress import Totals
from dagster_imagegen.engine.run.thread import Generation
from dagster_imagegen.engine.run.verdict import Redo
from dagster_imagegen.metadata import FinishedPass
from dagster_imagegen.partition_tables import Partition

PROGRESS_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """How the rows of a prompt table become requests."""

    params: ImageParams
    template: str | None = None
    overrides: tuple[str, ...] = ()
    carry_prefix: str | None = None


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
            carry_prefix=options.carry_prefix,
        )

    def plan(self, prompts: PromptTable) -> Plan:
        """What a pass would do. Sends and writes nothing."""
        return self.engine.plan(prompts, identity=self.identity, redo=self.redo)

    def begin(self, prompts: PromptTable) -> Generation:
        """Start the pass, for a `with` block that calls `finish`."""
        return self.engine.generate(
            prompts, identity=self.identity, redo=self.redo, max_usd=self.max_usd
        )

    def finish(self, generation: Generation) -> FinishedPass:
        """Wait for the end of the pass; log the plan first and the progress now and then.

        On any exception it does as `finish_partitions`.
        """
        (done,) = self.finish_partitions(generation, {None: generation.plan.prompts}).values()
        return done

    def finish_partitions(
        self, generation: Generation, tables: Mapping[Partition, PromptTable]
    ) -> dict[Partition, FinishedPass]:
        """The same for a pass over the joined rows of several tables: what became of each.

        On any exception, KeyboardInterrupt and a terminated run included, it stops sending, waits
        for the requests in flight, and raises the exception again. Every request is recorded then.
        """
        self.log.info(f"{self.name}: {generation.plan.describe()}")
        for warning in generation.plan.warnings:
            self.log.warning(f"{self.name}: {warning}")
        if generation.warning is not None:
            self.log.warning(f"{self.name}: {generation.warning}")
        try:
            # Also while no image arrives: the first one, or a pause, can take minutes.
            for _ in generation.beats(PROGRESS_SECONDS):
                self.log.info(f"{self.name}: {generation.progress}")
        except BaseException:
            generation.drain()
            at = generation.progress
            self.log.info(
                f"{self.name}: stopped after {at.done:,} of {at.total:,} images, {at.cost}; the "
                "images are stored and will not be requested again"
            )
            raise
        return {
            key: self._finished(generation, key, table, alone=len(tables) == 1)
            for key, table in tables.items()
        }

    def _finished(
        self, generation: Generation, partition: Partition, prompts: PromptTable, *, alone: bool
    ) -> FinishedPass:
        found = generation.outcomes.found.items()
        helpful = [fingerprint for fingerprint, outcome in found if outcome.retry_can_help]
        parts = generation.pass_totals.by_partition
        return FinishedPass(
            prompts=prompts,
            images=self.engine.image_table(generation.plan, generation.outcomes, prompts=prompts),
            totals=generation.totals if alone else parts.get(partition, Totals()),
            sandbox=generation.plan.sandbox,
            retry_can_help=prompts.wants_any(helpful),
        )


# -- the tables of a run over several partitions ---------------------------------------------------


def first_rows(tables: Mapping[Partition, PromptTable], limit: int) -> dict[Partition, PromptTable]:
    """The first rows of all partitions together, in their order."""
    first: dict[Partition, PromptTable] = {}
    for partition, table in tables.items():
        first[partition] = table.first(limit)
        limit -= first[partition].num_rows
    return first


def joined(tables: Mapping[Partition, PromptTable]) -> PromptTable:
    """One prompt table for one pass over all of them."""
    if len(tables) == 1:
        return next(iter(tables.values()))
    return join_partitions({str(key): table for key, table in tables.items()})
