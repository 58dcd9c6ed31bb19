"""Keeping the index: a pass that has read many parts writes down what they hold."""

import asyncio
import contextlib
import io
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dagster_imagegen.engine.errors import StorageError
from dagster_imagegen.engine.record.index import (
    BUDGET_COLUMNS,
    BY_PART,
    VERDICT_COLUMNS,
    Index,
    IndexRun,
    encode_table,
    is_settled,
)
from dagster_imagegen.engine.record.journal import new_journal_id
from dagster_imagegen.engine.record.parts import (
    BOUND_COLUMNS,
    day_of,
    is_in_place,
    journal_of,
    listed_day,
    table_of_part,
)
from dagster_imagegen.engine.record.reader import Record
from dagster_imagegen.engine.record.schema import MONEY, SCHEMA
from dagster_imagegen.engine.storage import ObjectStore

REFRESH_AT = 8
"""How many parts that it does not cover make a pass add to the index."""
GROWTH = 4
"""A run is merged with those of up to so many times its rows: few are left, of all sizes."""
ROWS_MAX = 500_000
"""Of one run, which is held in memory while it is made."""
READS_AT_ONCE = 32
_COLUMNS = list(dict.fromkeys([*VERDICT_COLUMNS, *BUDGET_COLUMNS, "endpoint_id"]))


class IndexWriter:
    """Adds what a record's parts hold to the index in `store`.

    Whatever goes wrong is no error: then the next pass reads the parts once more.
    """

    def __init__(
        self, store: ObjectStore, *, now: Callable[[], datetime], token: Callable[[], str]
    ) -> None:
        self._store = store
        self._now = now
        self._token = token
        self._turns = asyncio.Semaphore(READS_AT_ONCE)

    async def refresh(self, record: Record, *, read_at: datetime) -> None:
        """Write a run for the parts that the index does not cover, if they are many.

        It takes the place of smaller runs, which the next refresh deletes, as this one does with
        what was no longer used when the record was read. `read_at` is that time, or an earlier one.
        """
        # Others are listed and read each time: nobody could tell that they are still there.
        rest = sorted(filter(is_in_place, record.parts))
        if len(rest) < REFRESH_AT:
            return
        with contextlib.suppress(StorageError, OSError, pa.ArrowException):
            index = record.index
            while rest:
                rest, index = await self._add(record, index, rest, read_at=read_at)

    async def _add(
        self, record: Record, index: Index, parts: Sequence[str], *, read_at: datetime
    ) -> tuple[list[str], Index]:
        """Add one run; returns the parts that found no place in it, and the index then."""
        tables, rows = dict[str, pa.Table](), 0
        for at in range(0, len(parts), READS_AT_ONCE):
            some = parts[at : at + READS_AT_ONCE]
            read = await asyncio.gather(*map(self._read_part, some))
            tables |= zip(some, read, strict=True)
            rows += sum(table.num_rows for table in read)
            if rows >= ROWS_MAX // 2:
                break
        merged = _to_merge(index.runs, rows)
        older = await asyncio.gather(*map(self._read_rows, merged))
        name = new_journal_id(self._now(), token=self._token())
        run, data = await asyncio.to_thread(
            _run_of, name, tables, merged, older, record=record, index=index
        )
        of_rows, of_parts = run.paths
        await self._store.put(of_rows, data)
        days_at = await self._earlier(read_at, of_rows)
        run = replace(run, days=_days(record, index, tables, read_at=days_at))
        await self._store.put(of_parts, run.encode())
        # Not those that were merged just now, which this pass and others may be about to read: they
        # count no more, and the next refresh deletes them.
        await self._store.delete(index.unused)
        runs = (*(each for each in index.runs if each not in merged), run)
        covered = index.covered | run.journals
        left = [path for path in parts if path not in tables]
        return left, Index(runs=runs, covered=covered, days=index.days)

    async def _earlier(self, at: datetime, path: str) -> datetime:
        """That time, or the store's at which an object was just written: where our clock is ahead,
        a day that is not over would be thought to be."""
        folder, _, name = path.rpartition("/")
        found = (await self._store.list(folder, prefix=name)).get(path)
        if found is None or found.modified is None:
            return at
        return min(at, datetime.fromtimestamp(found.modified, timezone.utc))

    async def _read_part(self, path: str) -> pa.Table:
        async with self._turns:
            data = await self._store.get(path)
            return await asyncio.to_thread(table_of_part, data, _COLUMNS)

    async def _read_rows(self, run: IndexRun) -> pa.Table:
        if not run.rows:
            return SCHEMA.empty_table().select(VERDICT_COLUMNS)
        data = await self._store.get(run.paths[0])
        return await asyncio.to_thread(lambda: pq.read_table(io.BytesIO(data)))


def _to_merge(runs: Iterable[IndexRun], rows: int) -> list[IndexRun]:
    """The smaller runs of an index that one with so many new rows takes the place of."""
    merged: list[IndexRun] = []
    for run in sorted(runs, key=lambda run: run.rows):
        if run.rows > GROWTH * max(rows, 1) or rows + run.rows > ROWS_MAX:
            break
        merged.append(run)
        rows += run.rows
    return merged


def _run_of(
    name: str,
    tables: dict[str, pa.Table],
    merged: Sequence[IndexRun],
    older: Sequence[pa.Table],
    *,
    record: Record,
    index: Index,
) -> tuple[IndexRun, bytes]:
    """A run without its days, and the object with its rows."""
    rows = pa.concat_tables([*older, *(each.select(VERDICT_COLUMNS) for each in tables.values())])
    data = encode_table(rows.sort_by("fingerprint"))
    new = [_by_part(path, table) for path, table in tables.items()]
    endpoints = {str(e) for t in tables.values() for e in pc.unique(t["endpoint_id"]).to_pylist()}
    run = IndexRun(
        name=name,
        rows=rows.num_rows,
        rows_bytes=len(data),
        by_part=pa.concat_tables([*(each.by_part for each in merged), *new]),
        without_part=record.without_part | index.without_part,
        queried=frozenset(each for each in endpoints if "?" in each).union(
            *(each.queried for each in merged)
        ),
    )
    return run, data


def _days(record: Record, index: Index, new: Iterable[str], *, read_at: datetime) -> dict[str, int]:
    """The days that need no listing from now on, with the number of their parts."""
    foreign = {listed_day(path) for path in record.parts if not is_in_place(path)}
    settled = {
        day: n
        for day, n in record.listed_days.items()
        if is_settled(day, read_at) and day not in foreign
    }
    added = (jid for path in new if (jid := journal_of(path)) is not None)
    have = Counter(map(day_of, {*index.covered, *added}))
    return {**{day: have[day] for day in index.days}, **settled}


def _by_part(path: str, table: pa.Table) -> pa.Table:
    """What a part counts, as rows of `BY_PART`; one of nothing for a part without rows."""
    zero = pa.scalar(Decimal(0), MONEY)
    bound = [table[name] for name in BOUND_COLUMNS]
    usd: Any = pc.coalesce(*bound, zero)
    most: Any = pc.coalesce(table["cost_usd_max"], *bound, zero)
    day = pc.floor_temporal(table["started_at"], unit="day")
    keys = ["asset_key", "root_run_id", "started_at"]
    grouped = (
        pa.table(
            [table["asset_key"], table["root_run_id"], day, usd, most],
            names=[*keys, "cost_usd", "cost_usd_max"],
        )
        .group_by(keys, use_threads=False)
        .aggregate([("cost_usd", "sum"), ("cost_usd_max", "sum")])
        .rename_columns({"cost_usd_sum": "cost_usd", "cost_usd_max_sum": "cost_usd_max"})
    )
    count = max(grouped.num_rows, 1)
    arrays = [
        pa.array([journal_of(path)] * count, field.type)
        if field.name == "journal_id"
        else pc.cast(grouped[field.name].combine_chunks(), field.type)
        if field.name in grouped.column_names and grouped.num_rows
        else pa.nulls(count, field.type)
        for field in BY_PART
    ]
    return pa.table(arrays, schema=BY_PART)
