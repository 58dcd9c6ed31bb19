"""One writer at a time, on real storage and among real processes. The schedules are elsewhere."""

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import duckdb
import polars
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pytest

from dagster_imagegen.engine.attempt import (
    NO_IDENTITY,
    UNKNOWN_COST,
    Attempt,
    Cost,
    Identity,
    ImageFile,
    RequestRecord,
    Result,
    Status,
    TokenUsage,
)
from dagster_imagegen.engine.errors import Fenced, StorageError, StoreInconsistent
from dagster_imagegen.engine.patience import Patience
from dagster_imagegen.engine.record import (
    AlreadyThere,
    Contended,
    Granted,
    Limits,
    Record,
    RecordWriter,
    read_record,
)
from dagster_imagegen.engine.record.journal import (
    intent_line,
    new_journal_id,
    object_path,
    seal_path,
)
from dagster_imagegen.engine.record.parts import decode_part, part_path
from dagster_imagegen.engine.record.schema import Row, row_of
from dagster_imagegen.engine.storage import Storage, StoredObject, WriterLock
from tests.virtual_time import run_virtual

NOW = datetime.now(timezone.utc)
"""As the stores have it: a part that is published days later is announced by a seal."""
LIMITS = Limits(lease=20.0, poll=0.1, patience=Patience(attempts=2, backoff_seconds=0.01))
ROLLING = replace(LIMITS, roll_attempts=1)
FOREIGN = new_journal_id(NOW - timedelta(minutes=1), token="foreign")

tokens = itertools.count()


class Images:
    """Images as `images/<fingerprint>.<attempt>`."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    async def find(self, fingerprint: str) -> Mapping[str, str]:
        listed = await self.storage.list("images", prefix=f"{fingerprint}.")
        return {path.rpartition(".")[2]: path for path in listed}

    async def recover(self, attempt: Attempt, path: str) -> Result:
        size = len(await self.storage.get(path))
        return Result(status="succeeded", image=ImageFile(path=path, size_bytes=size))

    def lost(self, attempt: Attempt) -> Result:
        return Result(status="unknown", billing="unknown")


@pytest.fixture(params=["local", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    uri = str(tmp_path) if request.param == "local" else f"memory://{tmp_path}"
    return Storage(uri)


def new_writer(storage: Storage, *, limits: Limits = LIMITS) -> RecordWriter:
    return RecordWriter(
        store=storage,
        images=Images(storage),
        identity=Identity(run_id="run-1", root_run_id="run-1"),
        now=lambda: NOW,
        token=lambda: f"{next(tokens):06d}",
        limits=limits,
    )


async def opened_writer(storage: Storage, *, limits: Limits = LIMITS) -> RecordWriter:
    writer = new_writer(storage, limits=limits)
    await writer.start()
    await writer.open()
    return writer


def wanted(fingerprint: str, *, worst_case: Cost = UNKNOWN_COST) -> Attempt:
    """An attempt as it is put on record."""
    request = RequestRecord(fingerprint=fingerprint, parameters={"model": "m"})
    return Attempt(attempt_id="", identity=NO_IDENTITY, request=request, worst_case=worst_case)


def ended(status: Status) -> Result:
    """A result of which only the status matters."""
    return Result(status=status)


async def granted(writer: RecordWriter, fingerprint: str = "aa") -> str:
    decision = await writer.intend(wanted(fingerprint))
    assert isinstance(decision, Granted)
    return decision.attempt_id


def everything(storage: Storage) -> list[str]:
    return sorted(path for folder in ("_journal", "usage") for path in storage.list_now(folder))


def rows(storage: Storage) -> dict[str, Row]:
    parts = [decode_part(storage.get_now(path)) for path in storage.list_now("usage")]
    found = {attempt.attempt_id: row_of(attempt) for part in parts for attempt in part}
    assert len(found) == sum(map(len, parts)), "an attempt has two rows"
    return found


def test_an_attempt_ends_as_one_row(storage: Storage):
    """Intent and outcome become a row of a part, and the journal is gone."""

    async def main() -> str:
        writer = await opened_writer(storage)
        attempt_id = await granted(writer)
        await writer.settle(
            attempt_id, Result(status="succeeded", tokens=TokenUsage(input_tokens=3))
        )
        await writer.close()
        return attempt_id

    attempt_id = run_virtual(main())
    (row,) = rows(storage).values()
    assert (row["attempt_id"], row["fingerprint"], row["model"]) == (attempt_id, "aa", "m")
    assert (row["status"], row["input_tokens"], row["started_at"]) == ("succeeded", 3, NOW)
    jid = attempt_id.rpartition("-")[0]
    assert everything(storage) == [f"usage/date={NOW.date().isoformat()}/{jid}.parquet"]


def test_nothing_sent_leaves_nothing(storage: Storage):
    """Reading the record, or opening and asking for nothing, leaves no object behind."""

    async def main() -> None:
        await new_writer(storage).start()
        assert everything(storage) == []
        writer = await opened_writer(storage)
        assert await writer.reserve(Decimal(1), remaining=lambda _: Decimal(1)) == 1
        await writer.close()

    run_virtual(main())
    assert everything(storage) == []


class Unsure(Storage):
    """Parts are put, and nobody is told."""

    is_unsure = True

    async def put(self, path: str, data: bytes) -> None:
        await super().put(path, data)
        if self.is_unsure and path.startswith("usage/"):
            raise StorageError(f"put {path}")


def test_a_writer_goes_on_whose_published_journal_another_one_deletes(tmp_path: Path):
    """Its part is in place, though it does not know, so that any start deletes the journal."""
    storage = Unsure(f"memory://{tmp_path}")

    async def main() -> None:
        writer = await opened_writer(storage, limits=ROLLING)
        await writer.settle(await granted(writer, "aa"), ended("refused"))
        attempt_id = await granted(writer, "bb")
        await asyncio.sleep(1.0)
        assert len(storage.list_now("usage")) == 1
        storage.is_unsure = False
        await new_writer(Storage(f"memory://{tmp_path}")).start()
        await writer.settle(attempt_id, ended("refused"))
        await writer.close()

    run_virtual(main())
    assert [row["status"] for row in rows(storage).values()] == ["refused"] * 2


class Undeletable(Storage):
    """Nothing is deleted, now at least; it counts how often somebody tried."""

    tries = 0

    async def delete(self, paths: Iterable[str]) -> None:
        self.tries += 1
        raise StorageError("delete")


@pytest.mark.parametrize(("sealed", "tries"), [(False, 1), (True, 3)])
def test_nobody_waits_for_a_deletion_of_what_others_left(tmp_path: Path, sealed: bool, tries: int):
    """A start tries once for each journal that it folds, and once for all that are published."""
    storage = Undeletable(f"memory://{tmp_path}")

    async def main() -> None:
        writer = await opened_writer(storage, limits=ROLLING)
        for fingerprint in ("aa", "bb"):
            await writer.settle(await granted(writer, fingerprint), ended("refused"))
        await writer.close()
        for jid in writer.journal_ids if sealed else ():
            await storage.put(seal_path(jid), b"")
        storage.tries = 0
        await new_writer(storage).start()

    run_virtual(main())
    assert storage.tries == tries
    assert len(rows(storage)) == 2


@pytest.mark.parametrize("dead", [False, True], ids=["closed", "folded"])
def test_what_was_taken_back_does_not_come_back(storage: Storage, dead: bool):
    """A part without rows stands for a journal in which all was withdrawn, whatever of it a store
    brings back later: a write that was given up and done, the header's and an intent's."""

    async def main() -> tuple[str, Record]:
        writer = await opened_writer(storage)
        attempt_id = await granted(writer)
        late = {path: storage.get_now(path) for path in storage.list_now("_journal")}
        await writer.withdraw(attempt_id)
        if dead:
            await asyncio.sleep(LIMITS.lease / 4)  # By then it is on record.
            storage.put_now(seal_path(writer.journal_ids[0]), b"")
            await new_writer(storage).start()
            with pytest.raises(Fenced):
                await writer.close()
        else:
            await writer.close()
        for path, data in late.items():
            storage.put_now(path, data)
        assert (await read_record(storage)).open_attempts == ()
        return attempt_id, await new_writer(storage).start()

    attempt_id, record = run_virtual(main())
    assert record.open_attempts == ()
    assert rows(storage) == {}
    assert record.parts == (part_path(attempt_id.rpartition("-")[0]),)


def test_a_part_without_rows_is_read_like_any_other(tmp_path: Path):
    """pyarrow.dataset, DuckDB and polars read it beside others, and alone."""

    async def main() -> None:
        for fingerprint, sends in (("aa", False), ("bb", True)):
            writer = await opened_writer(Storage(str(tmp_path)))
            attempt_id = await granted(writer, fingerprint)
            if sends:
                await writer.settle(attempt_id, ended("refused"))
            else:
                await writer.withdraw(attempt_id)
            await writer.close()
            read.append((counts(tmp_path / "usage"), sends))

    read: list[tuple[tuple[int, int, int], bool]] = []
    run_virtual(main())
    assert read == [((0, 0, 0), False), ((1, 1, 1), True)]


def counts(folder: Path) -> tuple[int, int, int]:
    """Rows with a status, as others count them."""
    table = ds.dataset(folder, partitioning="hive").to_table()
    query = f"select count(status) from read_parquet('{folder}/**/*.parquet')"
    found = duckdb.execute(query).fetchall()[0][0]
    return pc.count(table["status"]).as_py(), found, polars.read_parquet(folder)["status"].count()


def test_the_intent_is_on_record_before_it_is_granted(storage: Storage):
    """At the moment of the grant a reader finds the attempt, without an outcome."""

    async def main() -> tuple[str, Record]:
        writer = await opened_writer(storage)
        attempt_id = await granted(writer)
        record = await read_record(storage)
        await writer.settle(attempt_id, ended("failed"))
        await writer.close()
        return attempt_id, record

    attempt_id, record = run_virtual(main())
    assert record.parts == ()
    assert [(each.attempt_id, each.status) for each in record.open_attempts] == [(attempt_id, None)]


class Unhurried(Storage):
    """A store that takes 10 ms for each object."""

    async def put(self, path: str, data: bytes) -> None:
        await asyncio.sleep(0.01)
        await super().put(path, data)


def test_a_busy_writer_pauses_between_commits_and_an_idle_one_does_not(tmp_path: Path):
    """Of many requests more share an object; one alone waits for nothing but its own."""

    async def intend(writer: RecordWriter, number: int) -> float:
        clock = asyncio.get_running_loop().time
        await asyncio.sleep(number / 1_000)
        asked_at = clock()
        await granted(writer, f"{number:04d}")
        return clock() - asked_at

    async def main() -> tuple[float, float, int]:
        storage = Unhurried(str(tmp_path))
        writer = await opened_writer(storage)
        alone = await intend(writer, 0)
        waited = await asyncio.gather(*(intend(writer, number) for number in range(100, 300)))
        objects = len(everything(storage)) - 2
        await writer.close()
        return alone, max(waited), objects

    alone, longest, objects = run_virtual(main())
    assert alone == pytest.approx(0.01)
    # Without the pause, 200 ms of intents are in 20 objects, and none waits for longer than 20 ms.
    assert 10 <= objects <= 12
    assert longest <= 0.031


def test_what_is_pending_at_the_end_is_unknown(storage: Storage):
    """Closing gives an attempt without an outcome a row all the same."""

    async def main() -> None:
        writer = await opened_writer(storage)
        await granted(writer)
        await writer.close()

    run_virtual(main())
    assert [row["status"] for row in rows(storage).values()] == ["unknown"]


def test_an_image_that_is_there_is_not_asked_for(storage: Storage):
    """The decision names the image; the attempt leaves no row."""

    async def main() -> None:
        writer = await opened_writer(storage)
        storage.put_now("images/aa.some-attempt", b"picture")
        decision = await writer.intend(wanted("aa"))
        assert decision == AlreadyThere(attempt_id="some-attempt", path="images/aa.some-attempt")
        await writer.close()

    run_virtual(main())
    assert rows(storage) == {}


def test_a_second_writer_waits_for_the_first_one_s_outcome(storage: Storage):
    """What one asks for, the other waits for, and learns what became of it."""

    async def main() -> Attempt | None:
        first, second = await opened_writer(storage), await opened_writer(storage)
        attempt_id = await granted(first)
        decision = await second.intend(wanted("aa"))
        assert decision == Contended(rival=attempt_id)
        waiting = asyncio.create_task(second.outcome_of(attempt_id, "aa"))
        await asyncio.sleep(5)
        assert not waiting.done()
        await first.settle(attempt_id, Result(status="refused", error_code="no"))
        await first.close()
        row = await waiting
        await second.close()
        return row

    row = run_virtual(main())
    assert row is not None
    assert row.result is not None
    assert (row.status, row.result.error_code) == ("refused", "no")
    assert len(rows(storage)) == 1


def test_a_journal_is_rolled_and_published_on_the_way(storage: Storage):
    """With a journal full, the next attempt goes to a new one, and the old one becomes a part."""

    async def main() -> RecordWriter:
        writer = await opened_writer(storage, limits=Limits(roll_attempts=2))
        for number in range(5):
            attempt_id = await granted(writer, f"f{number}")
            await writer.settle(attempt_id, ended("succeeded"))
        assert len(storage.list_now("usage")) >= 1
        await writer.close()
        return writer

    writer = run_virtual(main())
    assert len(writer.journal_ids) == 3
    assert len(rows(storage)) == 5
    assert len(everything(storage)) == 3


def test_a_writer_that_was_closed_by_another_stops(storage: Storage):
    """With its seal in place it settles nothing, grants nothing and publishes nothing."""

    async def main() -> str:
        writer = await opened_writer(storage)
        attempt_id = await granted(writer)
        storage.put_now(seal_path(writer.journal_ids[0]), b"")
        with pytest.raises(Fenced, match="presumed this one dead"):
            await writer.settle(attempt_id, ended("succeeded"))
        with pytest.raises(Fenced):
            await granted(writer, "bb")
        with pytest.raises(Fenced):
            await writer.close()
        return attempt_id

    attempt_id = run_virtual(main())
    assert rows(storage) == {}

    async def recover() -> None:
        await new_writer(storage).start()

    run_virtual(recover())
    assert [(key, row["status"]) for key, row in rows(storage).items()] == [
        (attempt_id, "succeeded")
    ], "its result was on record by then"


class Forgetful(Storage):
    """A store whose listings lag behind for ever."""

    async def list(self, folder: str, *, prefix: str = "") -> dict[str, StoredObject]:
        return {}


def test_a_store_that_does_not_list_what_was_written_is_refused(tmp_path: Path):
    """Without consistent listings nothing is sent."""

    async def main() -> None:
        with pytest.raises(StoreInconsistent, match="listings lag behind"):
            await opened_writer(Forgetful(str(tmp_path)))

    run_virtual(main())


class Blinking(Storage):
    """A store whose next listing misses what lies under `blinds`."""

    blinds: str | None = None

    async def list(self, folder: str, *, prefix: str = "") -> dict[str, StoredObject]:
        listed = await super().list(folder, prefix=prefix)
        blinds, self.blinds = self.blinds, None
        if blinds is None:
            return listed
        return {path: entry for path, entry in listed.items() if not path.startswith(blinds)}


def test_a_listing_that_was_overtaken_is_taken_again(tmp_path: Path):
    """Folders are listed one after the other: one look without one's own journal says nothing."""
    storage = Blinking(str(tmp_path))

    async def main() -> None:
        writer = await opened_writer(storage)
        storage.blinds = f"_journal/{writer.journal_ids[0]}"
        await writer.settle(await granted(writer), ended("failed"))
        assert storage.blinds is None
        await writer.close()

    run_virtual(main())
    assert [row["status"] for row in rows(storage).values()] == ["failed"]


def test_a_seal_that_the_first_listing_missed_is_a_seal(tmp_path: Path):
    """Closed by another while it looks, its journal deleted: it is fenced, and blames no store."""
    storage = Blinking(str(tmp_path))

    async def main() -> None:
        writer = await opened_writer(storage)
        attempt_id = await granted(writer)
        storage.put_now(seal_path(writer.journal_ids[0]), b"")
        await new_writer(storage).start()
        storage.blinds = "_journal"
        with pytest.raises(Fenced, match="presumed this one dead"):
            await writer.settle(attempt_id, ended("succeeded"))

    run_virtual(main())


class Slow(Storage):
    """A store that writes a header a second after it is told to, and says so a second later."""

    async def put_locked(self, path: str, data: bytes) -> WriterLock | None:
        await asyncio.sleep(1)
        lock = await super().put_locked(path, data)
        await asyncio.sleep(1)
        return lock


@pytest.mark.parametrize("first", [True, False], ids=["opening", "rolling"])
@pytest.mark.parametrize("at", [0.5, 1.5], ids=["before", "after"])
@pytest.mark.parametrize("scheme", ["local", "memory"])
def test_a_journal_whose_beginning_is_cancelled_is_deleted_at_the_end(
    scheme: str, tmp_path: Path, at: float, first: bool
):
    """Nobody waits for its header any more; neither it nor what it reserves may stay."""
    storage = Slow(str(tmp_path) if scheme == "local" else f"memory://{tmp_path}-slow")

    async def main() -> None:
        writer = new_writer(storage, limits=Limits(roll_attempts=1))
        await writer.start()
        if first:
            beginning = asyncio.create_task(writer.open())
        else:
            await writer.open()
            await writer.reserve(Decimal(2), remaining=lambda _: Decimal(2))
            await writer.settle(await granted(writer), ended("failed"))
            beginning = asyncio.ensure_future(writer.intend(wanted("bb")))
        await asyncio.sleep(at)
        beginning.cancel()
        await writer.close()
        with pytest.raises(asyncio.CancelledError):
            await beginning
        assert (await read_record(storage)).reservations == ()

    run_virtual(main())
    assert storage.list_now("_journal") == {}
    assert len(rows(storage)) == (0 if first else 1)


class Overtaken(Storage):
    """A store on which something happens between a listing and what is read by it."""

    happens: Callable[[], Awaitable[object]] | None = None

    async def list(self, folder: str, *, prefix: str = "") -> dict[str, StoredObject]:
        listed = await super().list(folder, prefix=prefix)
        happens, self.happens = self.happens, None
        if happens is not None:
            await happens()
        return listed


def test_what_is_reserved_is_seen_when_it_moves_to_a_new_journal(tmp_path: Path):
    """A writer rolls while the record is read: what it reserves is found in the old or the new."""
    storage = Overtaken(str(tmp_path))

    async def main() -> Decimal:
        writer = await opened_writer(storage, limits=Limits(roll_attempts=1))
        await writer.reserve(Decimal(2), remaining=lambda _: Decimal(2))
        await writer.settle(await granted(writer), ended("failed"))

        async def roll() -> None:
            await writer.withdraw(await granted(writer, "bb"))
            await asyncio.sleep(LIMITS.lease)

        storage.happens = roll
        record = await read_record(storage)
        await writer.close()
        return reserved_in(record)

    assert run_virtual(main()) == 2


class SlowParts(Slow):
    """One that is as slow with parts."""

    async def put(self, path: str, data: bytes) -> None:
        is_part = path.startswith("usage")
        await asyncio.sleep(2 * is_part)
        await super().put(path, data)
        await asyncio.sleep(is_part)


def test_a_pass_counts_all_that_it_may_spend_whenever_it_is_read(tmp_path: Path):
    """Its attempts and what is left of its reservation are never less, in journals that roll and
    are published; and no more, but for a moment after a part is in place."""
    storage = SlowParts(str(tmp_path))

    async def main() -> list[Decimal]:
        writer = await opened_writer(storage, limits=ROLLING)
        await writer.reserve(Decimal(9), remaining=lambda _: Decimal(9))

        async def produce(fingerprint: str, seconds: float, usd: str) -> None:
            attempt_id = await asking(writer, fingerprint)
            await asyncio.sleep(seconds)
            cost = Cost(usd=Decimal(usd), basis="estimated")
            await writer.settle(attempt_id, Result(status="failed", cost=cost))

        at_work = [
            asyncio.create_task(produce("aa", 3.0, "0.5")),
            asyncio.create_task(produce("bb", 6.0, "0")),
            asyncio.create_task(produce("cc", 2.0, "1")),
            asyncio.create_task(produce("dd", 9.0, "0.25")),
        ]
        counted: list[Decimal] = []
        while not all(task.done() for task in at_work):
            counted.append(counted_in(await read_record(storage), storage))
            await asyncio.sleep(0.1)
        await asyncio.sleep(LIMITS.lease)
        counted.append(counted_in(await read_record(storage), storage))
        await writer.close()
        return counted

    counted = run_virtual(main())
    assert min(counted) == counted[0] == counted[-1] == 9


def test_what_is_reserved_while_a_journal_begins_stays_reserved(tmp_path: Path):
    """The new header is on its way already, and says less; the larger reservation outlives it."""
    storage = Slow(str(tmp_path))

    async def main() -> Decimal:
        writer = await opened_writer(storage, limits=Limits(roll_attempts=1))
        await writer.reserve(Decimal(1), remaining=lambda _: Decimal(9))
        await writer.settle(await granted(writer), ended("failed"))
        rolling = asyncio.create_task(granted(writer, "bb"))
        await asyncio.sleep(0.5)
        await writer.reserve(Decimal(5), remaining=lambda _: Decimal(9))
        await rolling
        await asyncio.sleep(LIMITS.lease)
        record = await read_record(storage)
        await writer.close()
        return reserved_in(record)

    assert run_virtual(main()) == 5


def test_passes_that_have_rolled_do_not_starve_each_other(storage: Storage):
    """Which pass is older is settled by their first journals, so that one of them gives way."""

    async def main() -> list[Decimal]:
        passes = [await opened_writer(storage, limits=ROLLING) for _ in range(2)]
        for writer in passes:
            # The first pass's second journal is younger than the second pass's first.
            for fingerprint in ("aa", "bb"):
                await writer.settle(await granted(writer, fingerprint), ended("failed"))

        def remaining(record: Record) -> Decimal:
            return Decimal(2) - reserved_in(record)

        reserved = await asyncio.gather(
            *(writer.reserve(Decimal(2), remaining=remaining) for writer in passes)
        )
        for writer in passes:
            await writer.close()
        return reserved

    # Journals of the same moment are in the order of their random parts.
    assert sorted(run_virtual(main())) == [0, 2]


class SlowAndLate(Slow):
    """One on which something happens before a listing."""

    happens: Callable[[], Awaitable[object]] | None = None

    async def list(self, folder: str, *, prefix: str = "") -> dict[str, StoredObject]:
        happens, self.happens = self.happens, None
        if happens is not None:
            await happens()
        return await super().list(folder, prefix=prefix)


def test_a_pass_is_no_rival_of_its_own_budget(tmp_path: Path):
    """While it asks for more, a header of its own is in place already, and not yet answered."""
    storage = SlowAndLate(str(tmp_path))

    async def main() -> Decimal:
        limits = replace(ROLLING, rival_grace=0.0)
        writer = await opened_writer(storage, limits=limits)
        await writer.reserve(Decimal(1), remaining=lambda _: Decimal(9))
        await writer.settle(await granted(writer), ended("failed"))
        rolling: list[asyncio.Task[str]] = []

        async def refreshed() -> None:
            storage.happens = roll

        async def roll() -> None:
            rolling.append(asyncio.create_task(granted(writer, "bb")))
            await asyncio.sleep(1.5)

        storage.happens = refreshed
        allowed = await writer.reserve(
            Decimal(5), remaining=lambda record: Decimal(9) - reserved_in(record)
        )
        await asyncio.gather(*rolling)
        assert len(rolling) == 1
        await writer.close()
        return allowed

    assert run_virtual(main()) == 5


async def asking(writer: RecordWriter, fingerprint: str) -> str:
    """An attempt under way that may cost a dollar."""
    decision = await writer.intend(
        wanted(fingerprint, worst_case=Cost(usd=Decimal(1), basis="estimated"))
    )
    assert isinstance(decision, Granted)
    return decision.attempt_id


def reserved_in(record: Record) -> Decimal:
    return sum((each.usd for each in record.reservations), Decimal(0))


def counted_in(record: Record, storage: Storage) -> Decimal:
    """What it counts against a budget."""
    published = [each for path in record.parts for each in decode_part(storage.get_now(path))]
    attempts = (*record.open_attempts, *published)
    return reserved_in(record) + sum((each.bound_usd for each in attempts), Decimal(0))


class Keeping(Storage):
    """A store on which nothing may be deleted."""

    async def delete(self, paths: Iterable[str]) -> None:
        raise StorageError("cannot delete: denied")


@pytest.mark.parametrize("scheme", ["local", "memory"])
def test_without_the_right_to_delete_all_is_said_once(scheme: str, tmp_path: Path):
    """Journals that cannot be deleted count for nothing once their part is there."""
    storage = Keeping(str(tmp_path) if scheme == "local" else f"memory://{tmp_path}-keeping")

    async def main() -> Record:
        dead = await opened_writer(storage)
        await dead.settle(await granted(dead, "bb"), ended("failed"))
        lost = await granted(dead)
        storage.put_now(seal_path(dead.journal_ids[0]), b"")
        writer = await opened_writer(storage)
        closed = await writer.outcome_of(lost, "aa")
        assert closed is not None
        assert closed.status == "unknown"
        for fingerprint in ("aa", "bb"):
            await writer.settle(await granted(writer, fingerprint), ended("succeeded"))
        await writer.close()
        return await read_record(storage)

    record = run_virtual(main())
    assert (len(record.parts), record.open_attempts) == (2, ())
    assert sorted(row["status"] for row in rows(storage).values()) == [
        "failed",
        "succeeded",
        "succeeded",
        "unknown",
    ]


def test_after_the_end_nothing_is_granted_and_nobody_hangs(storage: Storage):
    """Calls that come too late are errors."""

    async def main() -> None:
        writer = await opened_writer(storage)
        attempt_id = await granted(writer)
        await writer.close()
        with pytest.raises(StorageError, match="closed"):
            await granted(writer, "bb")
        with pytest.raises(StorageError):
            await writer.settle(attempt_id, ended("succeeded"))
        with pytest.raises(StorageError, match="closed"):
            await writer.outcome_of("20261122T120000000000Z-x-0", "aa")

    run_virtual(main())
    assert [row["status"] for row in rows(storage).values()] == ["unknown"]


def test_a_journal_of_a_newer_version_is_left_alone(storage: Storage):
    """Neither writers nor readers touch what they cannot understand."""
    identity = {"run_id": "r", "root_run_id": "r", "moon_phase": "full"}
    header = {"record": "header", "journal_id": FOREIGN, "schema": 99, "identity": identity}
    newer = json.dumps(header) + "\n"
    storage.put_now(object_path(FOREIGN, 0), newer.encode())
    storage.put_now(object_path(FOREIGN, 1), b"\x00\x01 a binary encoding of the year 2031")

    async def main() -> Record:
        writer = await opened_writer(storage)
        await writer.settle(await granted(writer), ended("succeeded"))
        await writer.close()
        return await read_record(storage)

    record = run_virtual(main())
    assert (len(record.parts), record.open_attempts) == (1, ())
    assert [path for path in everything(storage) if "_journal" in path] == [
        object_path(FOREIGN, 0),
        object_path(FOREIGN, 1),
    ]


def test_what_is_left_of_a_deleted_journal_is_no_row(storage: Storage):
    """Without its header a journal was published, or had no rows; its rest is only removed."""
    record = intent_line(replace(wanted("aa"), attempt_id=f"{FOREIGN}-0"))
    storage.put_now(object_path(FOREIGN, 1), record.encode())

    async def main() -> Record:
        before = await read_record(storage)
        assert before.open_attempts == ()
        return await new_writer(storage).start()

    assert run_virtual(main()) == Record(parts=(), open_attempts=())
    assert everything(storage) == []


class Vanishing(Storage):
    """A store on which a journal is being deleted while it is read: its listing came before."""

    async def get(self, path: str) -> bytes:
        if path.endswith("000002.jsonl"):
            raise FileNotFoundError(path)
        return await super().get(path)


def test_a_journal_that_is_deleted_while_it_is_read_is_no_row(tmp_path: Path):
    """Its part stands for it, or it had no rows; the half that could be read stands for nothing."""
    storage = Vanishing(str(tmp_path))

    async def main() -> Record:
        writer = await opened_writer(storage)
        await writer.withdraw(await granted(writer))
        await writer.intend(wanted("bb"))
        assert object_path(writer.journal_ids[0], 2) in storage.list_now("_journal")
        return await read_record(storage)

    assert run_virtual(main()).open_attempts == ()


@pytest.mark.parametrize("left", range(16))
def test_once_its_part_exists_a_journal_counts_for_nothing(storage: Storage, left: int):
    """Whatever subset of its objects is still there: readers and the next writer see the part."""

    async def main() -> Record:
        writer = await opened_writer(storage)
        kept: dict[str, bytes] = {}
        for fingerprint, result in (("aa", ended("succeeded")), ("bb", ended("failed"))):
            await writer.settle(await granted(writer, fingerprint), result)
            kept |= {path: storage.get_now(path) for path in storage.list_now("_journal")}
        await writer.close()
        for number, path in enumerate(sorted(kept)[:4]):
            if left >> number & 1:
                storage.put_now(path, kept[path])
        storage.put_now(seal_path(writer.journal_ids[0]), b"")
        assert (await read_record(storage)).open_attempts == ()
        return await new_writer(storage).start()

    record = run_virtual(main())
    assert (len(record.parts), record.open_attempts) == (1, ())
    assert {row["fingerprint"]: row["status"] for row in rows(storage).values()} == {
        "aa": "succeeded",
        "bb": "failed",
    }
    assert not [path for path in everything(storage) if path.endswith(".jsonl")]


def test_odd_texts_survive_the_journal_and_the_fold(storage: Storage):
    """Line separators, tabs, NUL and lone surrogates neither break records nor keep parts back."""
    odd = 'tab\t nl\n ls\u2028 nel\x85 nul\0 quote" 🦊 \ud800'

    async def main() -> None:
        writer = await opened_writer(storage)
        attempt_id = await granted(writer)
        await writer.settle(attempt_id, Result(status="failed", error_message=odd))
        storage.put_now(seal_path(writer.journal_ids[0]), b"")
        with pytest.raises(Fenced):
            await writer.close()
        await new_writer(storage).start()

    run_virtual(main())
    (row,) = rows(storage).values()
    assert row["error_message"] == odd.replace("\ud800", "\\ud800")


# -- real processes -------------------------------------------------------------------------------

CHILD = """
import asyncio, sys
from dagster_imagegen.engine.errors import Fenced
from dagster_imagegen.engine.storage import Storage
from tests.engine.record.test_writer import granted, new_writer
from dagster_imagegen.engine.attempt import Result
from dagster_imagegen.engine.record import Limits

async def main():
    storage = Storage(sys.argv[1])
    limits = Limits(lease=float(sys.argv[2]))
    writer = new_writer(storage, limits=limits)
    await writer.start()
    await writer.open()
    done = await granted(writer, "done")
    await writer.settle(done, Result(status="refused"))
    saved = await granted(writer, "saved")
    storage.put_now(f"images/saved.{saved}", b"picture")
    await granted(writer, "asked")
    print("asked", flush=True)
    try:
        while True:
            await asyncio.sleep(0.1)
            await writer.withdraw(await granted(writer, "more"))
    except Fenced:
        print("fenced", flush=True)

asyncio.run(main())
"""


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Callable[[float], "subprocess.Popen[bytes]"]]:
    """A writer in a process of its own, stopped in mid-attempt; argument: its lease."""
    started: list[subprocess.Popen[bytes]] = []

    def start(lease: float) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path), str(lease)],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[3],
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"asked\n"
        return process

    yield start
    for process in started:
        with process:
            process.kill()


@pytest.mark.skipif(sys.platform == "win32", reason="no flock there")
def test_a_killed_process_is_closed_by_the_next_writer(
    tmp_path: Path, child: Callable[[float], "subprocess.Popen[bytes]"]
):
    """At once, its lock being free: settled, saved and asked attempts each end as one row."""
    process = child(600.0)
    storage = Storage(str(tmp_path))
    assert len(asyncio.run(new_writer(storage).start()).open_attempts) >= 3, "it lives: left alone"
    process.send_signal(signal.SIGKILL)
    process.wait()
    record = asyncio.run(new_writer(storage).start())
    assert record.open_attempts == ()
    found = {row["fingerprint"]: row["status"] for row in rows(storage).values()}
    found.pop("more", None)  # It may have been caught between its record and its withdrawal.
    assert found == {"done": "refused", "saved": "succeeded", "asked": "unknown"}
    assert not storage.list_now("_journal").keys() - {
        seal_path(Path(path).stem) for path in record.parts
    }


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGSTOP there")
def test_a_process_that_was_paused_past_its_lease_stops(
    tmp_path: Path, child: Callable[[float], "subprocess.Popen[bytes]"]
):
    """Another writer closes its journal; coming back, it notices and sends nothing more."""
    process = child(1.0)
    storage = Storage(str(tmp_path))
    os.kill(process.pid, signal.SIGSTOP)

    async def close_it() -> Attempt | None:
        writer = await opened_writer(storage, limits=Limits(lease=1.0, poll=0.05))
        decision = await writer.intend(wanted("asked"))
        assert isinstance(decision, Contended)
        row = await writer.outcome_of(decision.rival, "asked")
        await writer.close()
        return row

    row = asyncio.run(close_it())
    assert row is not None
    assert row.status == "unknown"
    os.kill(process.pid, signal.SIGCONT)
    assert process.stdout is not None
    assert process.stdout.readline() == b"fenced\n"
    before = rows(storage)
    asyncio.run(new_writer(storage).start())
    assert rows(storage) == before
