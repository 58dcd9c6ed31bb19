"""Many writers on one store: what each reads of the others."""

import asyncio
import gc
import json
import re
import tracemalloc
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

import pytest

from benchmarks.contestants.many_writers import CountingStore, many_writers, new_writer
from dagster_imagegen.engine.attempt import (
    NO_IDENTITY,
    Attempt,
    Identity,
    RequestRecord,
    Result,
)
from dagster_imagegen.engine.errors import StorageError
from dagster_imagegen.engine.record import (
    Contended,
    Granted,
    Record,
    RecordWriter,
    read_record,
)
from dagster_imagegen.engine.record.journal import (
    TAGS_MAX,
    Header,
    heartbeat_line,
    intent_line,
    label_path,
    object_path,
    parse_listing,
    tag_of,
)
from dagster_imagegen.engine.record.rivals import Rivals
from dagster_imagegen.engine.storage import ObjectStore, StoredObject
from tests.virtual_time import run_virtual

OLD_JOURNAL = "20261122T110000000000Z-old"


def wanted(fingerprint: str) -> Attempt:
    """An attempt as it is put on record."""
    return Attempt(
        attempt_id="", identity=NO_IDENTITY, request=RequestRecord(fingerprint=fingerprint)
    )


async def opened(store: CountingStore, name: str) -> RecordWriter:
    """A writer that may send."""
    writer = new_writer(store, name)
    await writer.start()
    await writer.open()
    return writer


async def granted(writer: RecordWriter, fingerprint: str) -> str:
    """An attempt that may be sent."""
    decision = await writer.intend(wanted(fingerprint))
    assert isinstance(decision, Granted)
    return decision.attempt_id


def reads(store: CountingStore) -> int:
    """How many objects of journals were read."""
    return store.calls["get _journal"]


def test_twenty_writers_read_next_to_nothing_of_one_another():
    """Whoever wants other images reads no more than the journals that are there when it begins."""
    counted = run_virtual(many_writers(20, images=10, in_flight=1, seconds_per_call=0.05))
    assert counted["journal_objects_read"] <= 2
    assert counted["journal_objects_written"] <= 2.2
    assert counted["labels_written"] <= 2.2


def test_what_is_read_does_not_grow_with_what_others_write():
    """However much another writer has on record, a request reads none of it."""

    async def main() -> int:
        store = CountingStore()
        other, writer = await opened(store, "other"), await opened(store, "writer")
        await other.settle(await granted(other, "seen"), Result(status="refused"))
        for number in range(50):
            await other.settle(await granted(other, f"o{number}"), Result(status="refused"))
        await granted(writer, "a")
        for number in range(50):
            await other.settle(await granted(other, f"p{number}"), Result(status="refused"))
        before = reads(store)
        await granted(writer, "aa")
        return reads(store) - before

    assert run_virtual(main()) == 0


def test_a_rival_is_seen_among_many_images_of_one_commit():
    """A commit about more images than its name can hold is read once, and then when it matters."""

    async def main() -> tuple[int, int]:
        store = CountingStore(seconds_per_call=0.05)
        other, writer = await opened(store, "other"), await opened(store, "writer")
        names = [f"o{number}" for number in range(TAGS_MAX + 5)]
        ids = await asyncio.gather(*(granted(other, name) for name in names))
        await granted(writer, "aa")
        first = reads(store)
        for number in range(100):
            await granted(writer, f"b{number}")
        later = reads(store) - first
        assert await writer.intend(wanted(names[-1])) == Contended(rival=ids[-1])
        results = (other.settle(each, Result(status="refused")) for each in ids)
        await asyncio.gather(*results)
        outcome = await writer.outcome_of(ids[-1], names[-1])
        assert outcome is not None
        assert outcome.status == "refused"
        return first, later

    first, later = run_virtual(main())
    assert first > 0
    assert later == 0


def old_lines() -> list[str]:
    """A journal of version 1, in which nothing has a tag: a refused attempt and a pending one."""
    identity = Identity(run_id="old", root_run_id="old")
    lines = [Header(journal_id=OLD_JOURNAL, schema=1, identity=identity).line()]
    for number, fingerprint in enumerate(("aa", "bb")):
        attempt = replace(wanted(fingerprint), attempt_id=f"{OLD_JOURNAL}-{number}")
        head, _, values = intent_line(attempt).partition("\t")
        record = {name: value for name, value in json.loads(head).items() if name != "tag"}
        lines.append(f"{json.dumps(record)}\t{values}")
    lines.append(f'{{"record":"result","attempt_id":"{OLD_JOURNAL}-0"}}\t{{"status":"refused"}}')
    return lines


async def put_old_journal(store: ObjectStore) -> None:
    """Write it as version 1 did, one object after the other."""
    for seq, line in enumerate(old_lines()):
        await store.put(object_path(OLD_JOURNAL, seq), f"{line}\n".encode())


def test_a_journal_of_an_earlier_version_is_heeded_and_folded():
    """While its writer lives, its image is not requested; once it is dead, its rows are kept."""

    async def main(store: CountingStore) -> list[str | None]:
        writer = await opened(store, "writer")
        await put_old_journal(store)
        await granted(writer, "aa")
        rival = f"{OLD_JOURNAL}-1"
        assert await writer.intend(wanted("bb")) == Contended(rival=rival)
        outcome = await writer.outcome_of(rival, "bb")
        await writer.close()
        assert outcome is not None
        assert (await read_record(store)).open_attempts == ()
        kept = (await writer.attempt(f"{OLD_JOURNAL}-{number}", "") for number in range(2))
        return [None if each is None else each.status async for each in kept]

    assert run_virtual(main(CountingStore(seconds_per_call=0.05))) == ["refused", "unknown"]


@dataclass(kw_only=True)
class Slow(CountingStore):
    """A store that takes its time for the journal of one writer."""

    slow: str = ""

    async def get(self, path: str) -> bytes:
        """The object's bytes."""
        if self.slow and self.slow in path:
            await asyncio.sleep(5)
        return await super().get(path)


def test_a_request_makes_a_reader_miss_no_reservation():
    """A budget is read while others of the pass send: each forgets what was read before it."""

    async def main() -> list[Decimal]:
        store = Slow()
        writer = await opened(store, "writer")
        others = [await opened(store, name) for name in ("quick", "slow")]
        for other in others:
            await other.reserve(Decimal(2), remaining=lambda _: Decimal(9))
        store.slow = others[1].journal_ids[0]
        found: list[Decimal] = []

        def remaining(record: Record) -> Decimal:
            found.extend(each.usd for each in record.reservations)
            return Decimal(9)

        growing = asyncio.create_task(writer.reserve(Decimal(1), remaining=remaining))
        await asyncio.sleep(1)
        await granted(writer, "aa")
        await growing
        return found

    assert run_virtual(main()) == [Decimal(2), Decimal(2)]


@dataclass(kw_only=True)
class Failing(CountingStore):
    """A store whose answers can get lost: what was written is there."""

    fails: bool = False
    written: list[tuple[str, bytes]] = field(default_factory=list[tuple[str, bytes]])

    async def put(self, path: str, data: bytes) -> None:
        """Write one object."""
        await super().put(path, data)
        if path.startswith("_journal"):
            self.written.append((path, data))
        if self.fails:
            raise StorageError(f"put {path}", can_pass=False)


def test_an_object_that_could_not_be_written_is_written_again_as_it_was():
    """It may be in place all the same, and its label, too: what came meanwhile goes into the object
    after it."""

    async def main() -> list[tuple[str, bytes]]:
        store = Failing()
        await opened(store, "other")
        writer = await opened(store, "writer")
        await granted(writer, "bb")
        attempt_id = await granted(writer, "aa")
        store.fails = True
        with pytest.raises(StorageError):
            await writer.settle(attempt_id, Result(status="refused"))
        store.fails = False
        await writer.close()
        return [each for each in store.written if writer.journal_ids[0] in each[0]]

    written = run_virtual(main())
    objects = [each for each in written if each[0].endswith(".jsonl")]
    assert len(objects) > 5, "nothing was written again"
    assert len(set(objects)) == len({path for path, _ in objects}) == 5
    labels = {path for path, _ in written if path.endswith(".label")}
    assert len(labels) == len({path.partition(".")[0] for path in labels}) == 4


class Copying(CountingStore):
    """A store whose answers are bytes of their own, as those over a network are."""

    async def get(self, path: str) -> bytes:
        """The object's bytes."""
        return bytes(bytearray(await super().get(path)))


def test_what_is_kept_of_others_does_not_grow_with_their_journals():
    """Of 4 MB that tell nobody what they are about, a writer keeps one at most."""

    async def main() -> int:
        store = Copying()
        line = f"{heartbeat_line()}\n".encode()
        for seq in range(1, 41):
            await store.put(object_path(OLD_JOURNAL, seq), line * (100_000 // len(line)))
        listing = parse_listing((await store.list("_journal")).values())
        tracemalloc.start()
        try:
            rivals = Rivals(store)
            await rivals.learn(listing)
            await asyncio.sleep(1)  # Until then the loop holds what was awaited last.
            gc.collect()
            return tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()

    assert run_virtual(main()) < 1_500_000


def labels_in(store: CountingStore) -> list[str]:
    """The labels that are there."""
    return [path for path in store.objects if path.endswith(".label")]


def test_a_writer_labels_its_objects_while_others_are_there():
    """Who is alone has nobody to tell, and writes as little as before."""

    async def main() -> tuple[list[str], list[str], list[str]]:
        store = CountingStore()
        writer = await opened(store, "writer")
        await granted(writer, "aa")
        alone = labels_in(store)
        other = await opened(store, "other")
        await granted(writer, "bb")
        await granted(writer, "cc")
        beside = labels_in(store)
        await other.close()
        await writer.close()
        return alone, beside, labels_in(store)

    alone, beside, after = run_virtual(main())
    assert alone == []
    assert beside
    assert after == []


class WithoutLabels(CountingStore):
    """A store that takes no labels."""

    async def put(self, path: str, data: bytes) -> None:
        """Write one object."""
        if path.endswith(".label"):
            raise StorageError(f"put {path}", can_pass=False)
        await super().put(path, data)


def test_nothing_relies_on_labels():
    """Where none can be written, a rival is seen all the same."""

    async def main() -> None:
        store = WithoutLabels()
        other, writer = await opened(store, "other"), await opened(store, "writer")
        await granted(other, "first")
        attempt_id = await granted(other, "aa")
        await granted(writer, "bb")
        assert await writer.intend(wanted("aa")) == Contended(rival=attempt_id)
        await other.settle(attempt_id, Result(status="refused"))
        outcome = await writer.outcome_of(attempt_id, "aa")
        assert outcome is not None
        assert outcome.status == "refused"

    run_virtual(main())


NAME_OF_AN_OBJECT = re.compile(r"_journal/([^/.]+)/(\d{6})\.jsonl")
"""All that 0.1.0 looks at in a journal, besides seals."""


def test_an_earlier_release_finds_all_in_the_journals_of_this_one():
    """The objects have the names, the schema and the records that it knows."""

    async def main() -> CountingStore:
        store = CountingStore()
        other, writer = await opened(store, "other"), await opened(store, "writer")
        await granted(other, "first")
        await writer.withdraw(await granted(writer, "aa"))
        await writer.settle(await granted(writer, "bb"), Result(status="refused"))
        await granted(writer, "cc")
        return store

    store = run_virtual(main())
    assert labels_in(store)
    lines = [
        line
        for path, (data, _) in sorted(store.objects.items())
        if NAME_OF_AN_OBJECT.fullmatch(path)
        for line in data.decode().splitlines()
    ]
    records = [json.loads(line.partition("\t")[0]) for line in lines]
    assert {each["schema"] for each in records if each["record"] == "header"} == {1}
    kinds = {"header", "reserve", "intent", "withdrawn", "result", "heartbeat"}
    assert {each["record"] for each in records} <= kinds
    intents = [line for line in lines if '"record":"intent"' in line]
    wanted_ones = [json.loads(line.partition("\t")[2])["fingerprint"] for line in intents]
    assert sorted(wanted_ones) == ["aa", "bb", "cc", "first"]


def test_labels_that_an_earlier_release_left_behind_are_deleted():
    """It folds the journals of this one, and knows nothing of labels."""

    async def main() -> list[str]:
        store = CountingStore()
        await store.put(label_path(OLD_JOURNAL, 1, tag_of("aa")), b"\n")
        await new_writer(store, "writer").start()
        return labels_in(store)

    assert run_virtual(main()) == []


@dataclass(kw_only=True)
class Publishing(CountingStore):
    """A store in which a writer publishes its journal as soon as journals or parts were listed."""

    publish: Callable[[], Coroutine[Any, Any, None]] | None = None

    async def list(self, folder: str, *, prefix: str = "") -> dict[str, StoredObject]:
        """Every object below a folder."""
        listed = await super().list(folder, prefix=prefix)
        if (publish := self.publish) is not None and folder in ("_journal", "usage"):
            self.publish = None
            await publish()
        return listed


def test_a_journal_that_is_published_while_the_record_is_read_is_found():
    """Its part is there by the time that parts are listed."""

    async def main() -> tuple[int, int]:
        store = Publishing()
        writer = await opened(store, "writer")
        await writer.settle(await granted(writer, "aa"), Result(status="refused"))
        store.publish = writer.close
        record = await read_record(store)
        return len(record.open_attempts), len(record.all_parts)

    assert run_virtual(main()) == (0, 1)
