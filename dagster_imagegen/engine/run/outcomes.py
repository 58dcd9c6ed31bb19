"""What became of the images of a plan: most as columns, the latest as objects."""

import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dagster_imagegen.engine.attempt import Attempt, Outcome
from dagster_imagegen.engine.prompts.rows import Column
from dagster_imagegen.engine.record.index import VERDICT_COLUMNS
from dagster_imagegen.engine.record.schema import SCHEMA, attempts_of, row_of, to_table

AS_OBJECTS = 1_000
"""So many images that were made stay objects, of some kilobytes each, until they become rows."""


def _none_paid() -> pa.Table:
    # Made when it is used: pyarrow loads pandas for the first table that it makes.
    return pa.schema([SCHEMA.field(name) for name in VERDICT_COLUMNS]).empty_table()


@dataclass(frozen=True, kw_only=True)
class PaidImages:
    """Images that are paid for and in storage. Each of `rows` is the attempt at one.

    They are `reused`; those that the root run `made_by` has made itself are `generated`.
    """

    rows: pa.Table = field(default_factory=_none_paid)
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

    def and_made(self, attempts: Sequence[Attempt]) -> "PaidImages":
        """These, and those that the attempts have made, all of one root run."""
        made = to_table(map(row_of, attempts), self.rows.schema)
        made_by = attempts[0].identity.root_run_id
        return PaidImages(rows=pa.concat_tables([self.rows, made]), made_by=made_by)


@dataclass(kw_only=True)
class Outcomes(Mapping[str, Outcome]):
    """The outcome of each image by fingerprint: of those `paid` before, and those `found` since.

    Images that a pass makes are first among the found ones, and become rows of `made` by the
    thousand. Of what is in rows, an outcome is made when somebody asks for it, with what
    `VERDICT_COLUMNS` hold.
    """

    paid: PaidImages = field(default_factory=PaidImages)
    made: PaidImages = field(default_factory=PaidImages)
    found: dict[str, Outcome] = field(default_factory=dict[str, Outcome])
    _latest: list[Attempt] = field(default_factory=list[Attempt])
    _known_places: dict[str, tuple[PaidImages, int]] | None = None
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def add(self, outcome: Outcome) -> None:
        """Add an outcome that a pass has found, while other threads may read."""
        with self._lock:
            self.found[outcome.fingerprint] = outcome
            if outcome.status == "generated" and outcome.attempt is not None:
                self._latest.append(outcome.attempt)
            if len(self._latest) < AS_OBJECTS:
                return
            self.made, self._known_places = self.made.and_made(self._latest), None
            for each in self._latest:
                del self.found[each.fingerprint]
            self._latest.clear()

    def __len__(self) -> int:
        with self._lock:
            return len(self.paid) + len(self.made) + len(self.found)

    def __iter__(self) -> Iterator[str]:
        with self._lock:
            yield from [*self._places, *self.found]

    def __contains__(self, fingerprint: object) -> bool:
        with self._lock:
            return fingerprint in self.found or fingerprint in self._places

    def __getitem__(self, fingerprint: str) -> Outcome:
        with self._lock:
            if fingerprint in self.found:
                return self.found[fingerprint]
            images, place = self._places[fingerprint]
        row = images.rows.slice(place, 1)
        return next(iter(PaidImages(rows=row, made_by=images.made_by)))

    @property
    def counts(self) -> Counter[str]:
        """How many images have each status."""
        with self._lock:
            counts = Counter[str](each.status for each in self.found.values())
            columns = (self.paid, self.made)
        for images in columns:
            counted: Any = pc.value_counts(images.statuses)  # Any: the stubs know no such lists.
            for each in counted.to_pylist():
                counts[each["values"]] += each["counts"]
        return counts

    @property
    def _places(self) -> Mapping[str, tuple[PaidImages, int]]:
        """Of each image that is in rows, in which ones and where."""
        if self._known_places is None:
            self._known_places = {
                str(fingerprint): (images, place)
                for images in (self.paid, self.made)
                for place, fingerprint in enumerate(images.fingerprints.to_pylist())
            }
        return self._known_places
