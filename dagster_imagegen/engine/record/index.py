"""The index: a few objects that say of many parts what a plan and a budget need.

    _index/1/<name>.rows.parquet    the columns of a verdict, of all rows of some parts
    _index/1/<name>.parts.parquet   these parts by name, and what each counts against a budget

Together they are a run of the index; it counts only with both. Everything in it is derived from
parts, and it may be deleted, in whole or in part, at any time: parts that no run covers are read
themselves. The 1 is the version: another one has a folder of its own.

A run also says how many parts each day has that nothing is added to any more. Such a day needs no
listing, as long as the runs that are there cover as many. docs/write-protocol.md says why a part
that comes later than that is found all the same.
"""

import asyncio
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dagster_imagegen.engine.attempt import ImageFile
from dagster_imagegen.engine.record.parts import BOUND_COLUMNS, day_of, part_path
from dagster_imagegen.engine.record.schema import SCHEMA
from dagster_imagegen.engine.storage import ObjectStore, StoredObject

INDEX_FOLDER = "_index/1"
ROWS, PARTS = ".rows.parquet", ".parts.parquet"
LATE_DAYS = 1
"""A part that is published when its day is longer past than this is announced by a seal."""
SETTLED_DAYS = 2
"""A day that is longer past than this has all its parts, but for those that a seal announces. The
day in between is for clocks that differ."""

VERDICT_COLUMNS = [
    *("attempt_id", "root_run_id", "fingerprint", "moderation", "status", "billing"),
    *("error_code", "error_message", "finished_at", "revised_prompt"),
    *("cost_usd", "cost_usd_max", "cost_basis"),
    *(f"image_{name}" for name in ImageFile.__dataclass_fields__),
]
"""What a verdict and the image table need of the attempts on record; the rest is not read."""
BUDGET_COLUMNS = ["asset_key", "root_run_id", "started_at", *BOUND_COLUMNS]
"""What a budget needs of them."""

BY_PART: pa.Schema = pa.schema(
    [pa.field("journal_id", pa.string()), *(SCHEMA.field(name) for name in BUDGET_COLUMNS)]
)
"""A row of it is the sum of a part's rows of one day, asset and root run, as if it were one."""

_METADATA = b"dagster_imagegen.index"


@dataclass(frozen=True, kw_only=True)
class IndexRun:
    """What some parts hold. `by_part` has at least one row for each of them.

    `days` are the days to which nothing is added any more, with the number of their parts,
    `without_part` the sealed journals of such days that have none. `queried` are the endpoints
    with a query in their name.
    """

    name: str
    rows: int
    rows_bytes: int
    by_part: pa.Table
    days: Mapping[str, int] = field(default_factory=dict[str, int])
    without_part: frozenset[str] = frozenset()
    queried: frozenset[str] = frozenset()

    @cached_property
    def journals(self) -> frozenset[str]:
        """The journals whose parts it covers."""
        return frozenset(map(str, self.by_part["journal_id"].to_pylist()))

    @property
    def paths(self) -> tuple[str, str]:
        """Its objects, that with the rows first."""
        return f"{INDEX_FOLDER}/{self.name}{ROWS}", f"{INDEX_FOLDER}/{self.name}{PARTS}"

    def encode(self) -> bytes:
        """The object that names the parts."""
        said = {
            "rows": self.rows,
            "rows_bytes": self.rows_bytes,
            "days": dict(self.days),
            "without_part": sorted(self.without_part),
            "queried": sorted(self.queried),
        }
        table = self.by_part.replace_schema_metadata({_METADATA: json.dumps(said).encode()})
        return encode_table(table)

    @classmethod
    def decode(cls, name: str, data: bytes) -> "IndexRun":
        """The inverse of `encode`. Raises `ValueError` and the like for anything else."""
        table = pq.ParquetFile(io.BytesIO(data)).read(use_threads=False)
        said: dict[str, Any] = json.loads((table.schema.metadata or {})[_METADATA])
        return cls(
            name=name,
            rows=said["rows"],
            rows_bytes=said["rows_bytes"],
            by_part=table.replace_schema_metadata(None).cast(BY_PART),
            days=said["days"],
            without_part=frozenset(said["without_part"]),
            queried=frozenset(said["queried"]),
        )


@dataclass(frozen=True, kw_only=True)
class Index:
    """The runs of an index that are used, no two of which cover the same part."""

    runs: tuple[IndexRun, ...] = ()
    unused: tuple[str, ...] = ()
    """Objects of runs that are not whole, or that cover what others do."""
    covered: frozenset[str] = frozenset()
    """The journals whose parts they cover."""
    days: Mapping[str, int] = field(default_factory=dict[str, int])
    """The days that need no listing, with the number of their parts."""

    @property
    def files(self) -> tuple[str, ...]:
        """The Parquet files of the rows."""
        return tuple(run.paths[0] for run in self.runs if run.rows)

    @property
    def without_part(self) -> frozenset[str]:
        """The sealed journals of those days that have no part."""
        return frozenset[str]().union(*(run.without_part for run in self.runs))

    @property
    def queried(self) -> frozenset[str]:
        """The endpoints on record whose name has a query."""
        return frozenset[str]().union(*(run.queried for run in self.runs))

    def parts(self) -> Iterable[str]:
        """The paths of the parts that are covered."""
        return map(part_path, self.covered)


async def read_index(store: ObjectStore) -> Index:
    """The index as far as it can be used; what cannot be read is left out."""
    listed = await store.list(INDEX_FOLDER)
    names = [path[len(INDEX_FOLDER) + 1 : -len(PARTS)] for path in listed if path.endswith(PARTS)]
    read = await asyncio.gather(*(_read_run(store, name, listed) for name in names))
    runs: list[IndexRun] = []
    covered: set[str] = set()
    found = [run for run in read if run is not None]
    # Two that were written at once can cover the same parts: the larger one counts.
    for run in sorted(found, key=lambda run: (-len(run.journals), run.name)):
        if covered.isdisjoint(run.journals):
            runs.append(run)
            covered |= run.journals
    used = {path for run in runs for path in run.paths}
    return Index(
        runs=tuple(runs),
        unused=tuple(path for path in listed if path not in used),
        covered=frozenset(covered),
        days=_complete(found, covered),
    )


async def _read_run(
    store: ObjectStore, name: str, listed: Mapping[str, StoredObject]
) -> IndexRun | None:
    rows = listed.get(f"{INDEX_FOLDER}/{name}{ROWS}")
    if rows is None:
        return None
    try:
        run = IndexRun.decode(name, await store.get(f"{INDEX_FOLDER}/{name}{PARTS}"))
    except (OSError, pa.ArrowException, ValueError, LookupError, TypeError):
        return None  # Deleted by whoever merged it, torn, garbled, or of another version.
    return run if run.rows_bytes == rows.size_bytes else None


def _complete(runs: Iterable[IndexRun], covered: Iterable[str]) -> dict[str, int]:
    """The days of which as many parts are covered as any run knows of."""
    known: dict[str, int] = {}
    for run in runs:
        for day, count in run.days.items():
            known[day] = max(count, known.get(day, 0))
    have = Counter(day_of(jid) for jid in covered)
    return {day: count for day, count in known.items() if have[day] >= count}


def is_late(journal_id: str, at: datetime) -> bool:
    """Whether a part that is published `at` this time has to be announced by a seal."""
    return day_of(journal_id) < (at - timedelta(days=LATE_DAYS)).date().isoformat()


def is_settled(day: str, at: datetime) -> bool:
    """Whether a day had all its parts `at` this time, but for those that a seal announces."""
    return day < (at - timedelta(days=SETTLED_DAYS)).date().isoformat()


def encode_table(table: pa.Table) -> bytes:
    """A Parquet file in which a few rows can be found without reading all."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", row_group_size=16_384)
    return buffer.getvalue()
