"""The index of parts: it changes what is read, and never what is known."""

import asyncio
import itertools
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dagster_imagegen.engine.attempt import Attempt, Cost, Identity, RequestRecord, Result
from dagster_imagegen.engine.money.budget import Budget
from dagster_imagegen.engine.money.price_list import PriceList
from dagster_imagegen.engine.record import Record, read_record, rows_on_record
from dagster_imagegen.engine.record.index import INDEX_FOLDER, PARTS, ROWS, VERDICT_COLUMNS
from dagster_imagegen.engine.record.index_writer import REFRESH_AT, IndexWriter
from dagster_imagegen.engine.record.journal import (
    Header,
    intent_line,
    new_journal_id,
    object_path,
    seal_path,
)
from dagster_imagegen.engine.record.parts import PARTS_FOLDER, part_path, put_part
from dagster_imagegen.engine.run.recorded import run_totals
from dagster_imagegen.engine.run.spending import Spending
from dagster_imagegen.engine.storage import Storage, StoredObject
from tests.engine.record.test_writer import new_writer

NOW = datetime.now(timezone.utc)
ME = Identity(run_id="r", root_run_id="r", asset_key="hero")

serial = itertools.count()


class Watched(Storage):
    """A storage that tells which folders were listed and which objects were read."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.asked: list[str] = []

    async def list(self, folder: str, *, prefix: str = "") -> dict[str, StoredObject]:
        self.asked.append(folder)
        return await super().list(folder, prefix=prefix)

    async def get(self, path: str) -> bytes:
        self.asked.append(path)
        return await super().get(path)


@pytest.fixture
def storage(tmp_path: Path) -> Watched:
    return Watched(str(tmp_path))


def attempt_of(jid: str, *, began: datetime = NOW, usd: str = "0.5") -> Attempt:
    """The one attempt of a journal."""
    return Attempt(
        attempt_id=f"{jid}-0",
        identity=ME,
        request=RequestRecord(fingerprint=f"of {jid}", endpoint_id="https://a.example/v1?v=1"),
        started_at=began,
        result=Result(status="refused", cost=Cost(usd=Decimal(usd), basis="metered")),
    )


def publish(storage: Storage, *, days_ago: int = 0, usd: str = "0.5") -> str:
    """A part of one row; returns its journal."""
    began = NOW - timedelta(days=days_ago)
    jid = new_journal_id(began, token=f"{next(serial):04d}")
    asyncio.run(put_part(storage, jid, [attempt_of(jid, began=began, usd=usd)]))
    return jid


def leave_undeleted(storage: Storage, jid: str) -> None:
    """Put a journal back that its writer has published."""
    header = Header(journal_id=jid, schema=1, identity=ME).line()
    data = f"{header}\n{intent_line(attempt_of(jid))}\n"
    storage.put_now(object_path(jid, 0), data.encode())


def refresh(storage: Storage, *, at: datetime = NOW) -> None:
    """Do as a pass does when it has read the record."""

    async def main() -> None:
        writer = IndexWriter(storage, now=lambda: at, token=lambda: f"{next(serial):04d}")
        await writer.refresh(await read_record(storage), read_at=at)

    asyncio.run(main())


def read(storage: Storage) -> Record:
    return asyncio.run(read_record(storage))


def known(storage: Storage) -> list[str]:
    """The journals of which there are rows, by way of the index."""
    rows = rows_on_record(read(storage), storage=storage, columns=VERDICT_COLUMNS)
    assert set(rows["status"].to_pylist()) <= {"refused"}
    return sorted(str(each).rpartition("-")[0] for each in rows["attempt_id"].to_pylist())


def spent(storage: Storage, per: str = "all") -> Decimal:
    budget = Budget(max_usd=Decimal(1000), per=per)  # pyright: ignore[reportArgumentType]  # a parameter
    return 1000 - Spending(storage).remaining_usd([budget], read(storage), ME, now=NOW)


def objects(storage: Storage, ending: str) -> list[str]:
    return sorted(path for path in storage.list_now(INDEX_FOLDER) if path.endswith(ending))


def indexed(storage: Storage, days: Sequence[int]) -> list[str]:
    """Parts of these days ago, and an index of them; returns their journals."""
    jids = sorted(publish(storage, days_ago=each) for each in days)
    refresh(storage)
    return jids


def test_a_few_parts_need_no_index(storage: Watched):
    """It is written once there are enough of them."""
    for _ in range(REFRESH_AT - 1):
        publish(storage)
    refresh(storage)
    assert storage.list_now(INDEX_FOLDER) == {}


def test_the_index_knows_what_the_parts_do(storage: Watched):
    """Rows, sums by day, and endpoints with a query; with it, without it, and with newer parts."""
    jids = [*indexed(storage, [40, 30, 20, 9, 3, 1, 0, 0]), publish(storage)]
    found = read(storage)
    assert (len(found.index.covered), found.parts) == (8, (part_path(jids[-1]),))
    assert found.index.queried == {"https://a.example/v1?v=1"}
    before = known(storage), spent(storage), spent(storage, "day"), spent(storage, "month")
    assert before[:3] == (sorted(jids), Decimal("4.5"), Decimal("1.5"))
    assert not [path for path in storage.list_now(PARTS_FOLDER) if "index" in path]
    asyncio.run(storage.delete(storage.list_now(INDEX_FOLDER)))
    assert read(storage).index.covered == frozenset()
    after = known(storage), spent(storage), spent(storage, "day"), spent(storage, "month")
    assert after == before


def test_what_is_past_is_neither_listed_nor_read(storage: Watched):
    """Of a year of parts the days are listed to which parts may still be added."""
    indexed(storage, range(0, 360, 9))
    storage.asked.clear()
    found = read(storage)
    today = f"{PARTS_FOLDER}/date={NOW.date().isoformat()}"
    assert [each for each in storage.asked if each.startswith(PARTS_FOLDER)] == [today]
    assert (len(found.index.covered), found.parts) == (40, ())
    assert len(found.index.files) == 1


def test_many_refreshes_leave_a_few_objects(storage: Watched):
    """Small runs of the index are merged into larger ones."""
    jids: list[str] = []
    for _ in range(24):
        jids += indexed(storage, [0] * REFRESH_AT)
    assert len(objects(storage, ROWS)) == len(objects(storage, PARTS)) <= 3
    assert known(storage) == sorted(jids)


def test_a_late_part_is_found_by_its_seal(storage: Watched):
    """A journal of long ago, folded now, is in a folder that nobody lists any more."""
    jids = indexed(storage, [50, 40, 30, 20, 9, 3, 1, 0])
    jids.append(publish(storage, days_ago=30))
    assert known(storage) == sorted(jids[:-1]), "it is not looked for"
    storage.put_now(seal_path(jids[-1]), b"")
    assert known(storage) == sorted(jids)
    more = indexed(storage, [0] * REFRESH_AT)
    assert len(read(storage).index.covered) == 17
    assert known(storage) == sorted([*jids, *more])


def test_a_clock_that_is_ahead_hides_nothing(storage: Watched):
    """A machine whose clock is days ahead writes the index: today is still listed."""
    jids = [publish(storage) for _ in range(REFRESH_AT)]
    refresh(storage, at=NOW + timedelta(days=5))
    assert len(read(storage).index.covered) == REFRESH_AT
    jids.append(publish(storage))
    assert known(storage) == sorted(jids)
    assert spent(storage) == Decimal("4.5")


def test_an_old_journal_that_is_still_open_gets_its_part(storage: Watched):
    """What was no part when the index was written is looked for again."""
    began = NOW - timedelta(days=30)
    jid = new_journal_id(began, token="open")
    header = Header(journal_id=jid, schema=1, identity=ME).line()
    storage.put_now(object_path(jid, 0), f"{header}\n".encode())
    jids = indexed(storage, [50, 40, 30, 20, 9, 3, 1, 0])
    jids += indexed(storage, [0] * REFRESH_AT)
    assert object_path(jid, 0) in storage.list_now("_journal")
    storage.put_now(seal_path(jid), b"")
    attempt = Attempt(
        attempt_id=f"{jid}-0",
        identity=ME,
        request=RequestRecord(fingerprint="late"),
        started_at=began,
        result=Result(status="refused"),
    )
    asyncio.run(put_part(storage, jid, [attempt]))
    asyncio.run(storage.delete([object_path(jid, 0)]))
    assert known(storage) == sorted([*jids, jid])


def test_a_journal_that_could_not_be_deleted_counts_once(storage: Watched):
    """Its part is covered, and in a folder that nobody lists any more."""
    jids = indexed(storage, [50, 40, 30, 20, 9, 3, 1, 0])
    leave_undeleted(storage, jids[2])
    found = read(storage)
    assert (found.open_attempts, found.published) == ((), frozenset({jids[2]}))
    assert known(storage) == jids
    assert spent(storage) == Decimal(4)


@pytest.mark.parametrize("days", [[0] * 9, [50, 40, 40, 20, 9, 3, 1, 0]], ids=["today", "past"])
def test_a_journal_is_kept_whose_part_somebody_has_deleted(days: list[int]):
    """It is all that is left of its requests, though the index covers them."""
    storage = Watched(f"memory://index-{uuid4().hex}")
    jids = indexed(storage, days)
    leave_undeleted(storage, jids[1])
    leave_undeleted(storage, jids[2])
    storage.delete_now([part_path(jids[1])])
    asyncio.run(new_writer(storage).start())
    assert list(storage.list_now("_journal")) == [object_path(jids[1], 0)]


def test_the_loss_of_a_run_loses_no_part(storage: Watched):
    """The runs that are left say how many parts a day has: where some are not covered, it is
    listed."""
    jids = [*indexed(storage, [50, 40, 30, 30, 9, 8, 7, 6] * 8), *indexed(storage, [0] * 8)]
    assert len(objects(storage, PARTS)) == 2
    (larger,) = (path for path in objects(storage, PARTS) if len(read_one(storage, path)) == 64)
    asyncio.run(storage.delete([larger]))
    assert len(read(storage).index.covered) == 8
    assert known(storage) == sorted(jids)


def read_one(storage: Storage, path: str) -> pa.Table:
    return pq.read_table(pa.BufferReader(storage.get_now(path)))


@pytest.mark.parametrize("ending", [ROWS, PARTS])
@pytest.mark.parametrize("damage", ["torn", "gone", "foreign"])
def test_what_is_not_whole_does_not_count(storage: Watched, ending: str, damage: str):
    """A half-written, deleted or foreign object of a run: its parts are read, and indexed anew."""
    jids = indexed(storage, [40, 30, 20, 9, 3, 1, 0, 0])
    (path,) = objects(storage, ending)
    data = storage.get_now(path)
    if damage == "gone":
        asyncio.run(storage.delete([path]))
    else:
        storage.put_now(path, data[:-7] if damage == "torn" else b"of another version")
    assert (len(read(storage).index.covered), known(storage)) == (0, jids)
    refresh(storage)
    assert (len(read(storage).index.covered), known(storage)) == (8, jids)
    assert len(storage.list_now(INDEX_FOLDER)) == 2, "what does not count is deleted"


def test_what_is_garbled_does_not_count(storage: Watched):
    """Parquet with nonsense where its footer should be."""
    jids = indexed(storage, [40, 30, 20, 9, 3, 1, 0, 0])
    (path,) = objects(storage, PARTS)
    data = storage.get_now(path)
    storage.put_now(path, data[:-40] + b"\xff" * 32 + data[-8:])
    assert (len(read(storage).index.covered), known(storage)) == (0, jids)
    refresh(storage)
    assert (len(read(storage).index.covered), known(storage)) == (8, jids)


def test_a_newer_version_has_an_index_of_its_own(storage: Watched):
    """It is neither read nor deleted."""
    newer = INDEX_FOLDER.replace("1", "2") + "/x.parts.parquet"
    storage.put_now(newer, b"whatever that is")
    jids = indexed(storage, [40, 30, 20, 9, 3, 1, 0, 0])
    assert known(storage) == jids
    assert storage.get_now(newer) == b"whatever that is"


def test_rows_that_go_while_they_are_to_be_read_are_read_from_the_parts(storage: Watched):
    """Another writer merges runs while this one plans."""
    jids = indexed(storage, [40, 30, 20, 9, 3, 1, 0, 0])
    found = read(storage)
    asyncio.run(storage.delete(storage.list_now(INDEX_FOLDER)))
    rows = rows_on_record(found, storage=storage, columns=["attempt_id"])
    assert sorted(str(each)[:-2] for each in rows["attempt_id"].to_pylist()) == jids


def test_a_plan_finds_what_a_refresh_beside_it_has_merged(storage: Watched):
    """A pass adds to the index while it plans; for a large table that takes longer."""
    jids = indexed(storage, [40, 30, 20, 9, 3, 1, 0, 0])
    found = read(storage)
    jids += indexed(storage, [0] * REFRESH_AT)
    assert len(read(storage).index.runs) == 1
    assert set(found.index.files) <= storage.list_now(INDEX_FOLDER).keys()
    jids += indexed(storage, [0] * REFRESH_AT)
    assert len(objects(storage, ROWS)) <= 2, "it is deleted by the next refresh"
    assert known(storage) == sorted(jids)


def test_two_that_are_written_at_once_count_once(storage: Watched):
    """Of runs that cover the same part the larger one counts; the other one is deleted later."""

    async def main() -> None:
        for each in (first, second):
            writer = IndexWriter(storage, now=lambda: NOW, token=lambda: f"{next(serial):04d}")
            await writer.refresh(each, read_at=NOW)

    jids = [publish(storage, days_ago=each) for each in (40, 30, 20, 9, 3, 1, 0, 0)]
    first = read(storage)
    jids.append(publish(storage))
    second = read(storage)
    asyncio.run(main())
    assert len(objects(storage, PARTS)) == 2
    assert (known(storage), spent(storage)) == (sorted(jids), Decimal("4.5"))
    jids += indexed(storage, [0] * REFRESH_AT)
    assert len(read(storage).index.runs) == 1
    assert (known(storage), spent(storage)) == (sorted(jids), Decimal("8.5"))


@pytest.mark.parametrize("days_ago", [0, 30])
def test_a_part_that_somebody_has_deleted_does_not_count(storage: Watched, days_ago: int):
    """Seen at once for the days that are listed, and where a whole day is gone."""
    jids = indexed(storage, [50, 40, 30, 20, 9, 3, 1, 0])
    gone = jids[-1] if days_ago == 0 else jids[2]
    asyncio.run(storage.delete([part_path(gone)]))
    left = sorted(set(jids) - {gone})
    assert (known(storage), spent(storage)) == (left, Decimal("3.5"))


def test_a_part_under_another_name_stays_known(storage: Watched):
    """Somebody's tool has merged or renamed parts of a day that is over and has others."""
    jids = sorted(publish(storage, days_ago=each) for each in (50, 40, 30, 30, 9, 3, 1, 0, 0))
    path = part_path(jids[2])
    storage.put_now(f"{path.rpartition('/')[0]}/compacted-0.parquet", storage.get_now(path))
    asyncio.run(storage.delete([path]))
    refresh(storage)
    assert len(read(storage).index.covered) == 8
    assert (known(storage), spent(storage)) == (jids, Decimal("4.5"))
    jids += indexed(storage, [0] * REFRESH_AT)
    assert (known(storage), spent(storage)) == (sorted(jids), Decimal("8.5"))


def test_what_the_index_has_come_to_cover_counts_once(storage: Watched):
    """A block of passes has read parts, which another writer adds to the index between two."""
    journals = [publish(storage) for _ in range(REFRESH_AT)]
    spending, budget = Spending(storage), Budget(max_usd=Decimal(1000), per="all")
    before = spending.remaining_usd([budget], read(storage), ME, now=NOW)
    refresh(storage)
    assert read(storage).index.covered == set(journals)
    assert spending.remaining_usd([budget], read(storage), ME, now=NOW) == before


def test_the_totals_of_a_run_include_what_the_index_covers(storage: Watched):
    """The index has sums alone, so the parts of the run are read."""
    indexed(storage, [0] * REFRESH_AT)
    publish(storage)
    totals = run_totals(read(storage), ME, storage=storage, prices=PriceList.default())
    assert totals.requests == REFRESH_AT + 1
    other = Identity(run_id="s", root_run_id="s", asset_key="hero")
    assert read(storage).parts_of_run(other.root_run_id) == read(storage).parts
