"""What became of the images of a plan: as columns what was paid for before, the rest as objects."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dagster_imagegen.engine.attempt import Outcome
from dagster_imagegen.engine.prompts.rows import Column
from dagster_imagegen.engine.record.index import VERDICT_COLUMNS
from dagster_imagegen.engine.record.schema import SCHEMA, attempts_of

NONE_PAID: pa.Table = pa.schema([SCHEMA.field(name) for name in VERDICT_COLUMNS]).empty_table()


@dataclass(frozen=True, kw_only=True)
class PaidImages:
    """Images that were paid for before and are in storage. Each of `rows` is the attempt at one.

    They are `reused`; those that the root run `made_by` has made itself are `generated`.
    """

    rows: pa.Table = field(default_factory=lambda: NONE_PAID)
    """In the columns of a verdict."""
    made_by: str | None = None

    def __len__(self) -> int:
        return self.rows.num_rows

    def __iter__(self) -> Iterator[Outcome]:
        """The outcomes as objects, made one after the other."""
        for attempt in attempts_of(self.rows):
            yield Outcome.of(attempt, reused=attempt.identity.root_run_id != self.made_by)

    @property
    def fingerprints(self) -> Column:
        """The fingerprint of each."""
        return self.rows["fingerprint"]

    @property
    def statuses(self) -> Column:
        """The status of each outcome."""
        mine = pc.equal(self.rows["root_run_id"], pa.scalar(self.made_by, pa.string()))
        return pc.if_else(pc.coalesce(mine, pa.scalar(False)), "generated", "reused")

    def among(self, fingerprints: Column) -> "PaidImages":
        """Those with one of the fingerprints."""
        chosen = self.rows.filter(pc.is_in(self.fingerprints, fingerprints))
        return PaidImages(rows=chosen, made_by=self.made_by)


@dataclass(kw_only=True)
class Outcomes(Mapping[str, Outcome]):
    """The outcome of each image by fingerprint: of those `paid` before, and those `found` since.

    An outcome of the former is made when somebody asks for it.
    """

    paid: PaidImages = field(default_factory=PaidImages)
    found: dict[str, Outcome] = field(default_factory=dict[str, Outcome])

    def __len__(self) -> int:
        return len(self.paid) + len(self.found)

    def __iter__(self) -> Iterator[str]:
        yield from self._places
        yield from self.found

    def __contains__(self, fingerprint: object) -> bool:
        return fingerprint in self.found or fingerprint in self._places

    def __getitem__(self, fingerprint: str) -> Outcome:
        if fingerprint in self.found:
            return self.found[fingerprint]
        row = self.paid.rows.slice(self._places[fingerprint], 1)
        return next(iter(PaidImages(rows=row, made_by=self.paid.made_by)))

    @property
    def counts(self) -> Counter[str]:
        """How many images have each status."""
        counts = Counter[str](each.status for each in self.found.values())
        counted: Any = pc.value_counts(self.paid.statuses)  # Any: the stubs know no such lists.
        for each in counted.to_pylist():
            counts[each["values"]] += each["counts"]
        return counts

    @cached_property
    def _places(self) -> Mapping[str, int]:
        """The index of each image that was paid for before."""
        return {str(each): at for at, each in enumerate(self.paid.fingerprints.to_pylist())}
