"""Reading the record: what is in parts and in open journals, without changing anything."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc

from dagster_imagegen.engine.attempt import Attempt, Identity
from dagster_imagegen.engine.errors import DamagedJournal, StorageError
from dagster_imagegen.engine.record.index import BY_PART, Index, read_index
from dagster_imagegen.engine.record.journal import (
    JOURNAL_FOLDER,
    Header,
    JournalContent,
    JournalListing,
    apply_object,
    object_path,
    parse_listing,
)
from dagster_imagegen.engine.record.open_journals import OpenJournals
from dagster_imagegen.engine.record.parts import (
    PARTS_FOLDER,
    day_folder,
    day_of,
    has_part,
    list_parts,
    part_path,
    read_rows,
)
from dagster_imagegen.engine.storage import ObjectStore, Storage

OPEN_DAYS_MAX = 8
"""With more days that may have new parts, all parts are listed at once."""


@dataclass(frozen=True, kw_only=True)
class Reservation:
    """What another pass may spend beyond what its attempts count already."""

    first_journal_id: str
    identity: Identity
    usd: Decimal


@dataclass(frozen=True, kw_only=True)
class Record:
    """All that is on record: the parts, and what journals hold that is in no part yet."""

    parts: tuple[str, ...]
    """Those that the index does not cover."""
    open_attempts: tuple[Attempt, ...]
    unpublished: Mapping[str, bool] = field(default_factory=dict[str, bool])
    """The journals that are in no part, and whether they ever had an intent."""
    published: frozenset[str] = frozenset()
    """Those that are still there although they have a part or are in the index: they count no
    more."""
    reservations: tuple[Reservation, ...] = ()
    index: Index = field(default_factory=Index)
    gone: frozenset[str] = frozenset()
    """Journals whose parts the index covers and that somebody has deleted: they do not count."""
    listed_days: Mapping[str, int] = field(default_factory=dict[str, int])
    """The days whose parts were listed, with their number."""
    without_part: frozenset[str] = frozenset()
    """The journals of other days that were seen and have no part."""

    @property
    def all_parts(self) -> tuple[str, ...]:
        """The parts, covered or not."""
        gone = {part_path(jid) for jid in self.gone}
        return (*(path for path in self.index.parts() if path not in gone), *self.parts)

    def parts_of_run(self, root_run_id: str) -> tuple[str, ...]:
        """The parts that can have rows of a run: of those that the index covers, no others."""
        sums = self.sums()
        ids = sums["journal_id"].filter(pc.equal(sums["root_run_id"], pa.scalar(root_run_id)))
        covered = (part_path(str(jid)) for jid in pc.unique(ids).to_pylist())
        return (*covered, *self.parts)

    def sums(self) -> pa.Table:
        """What the parts that the index covers count against budgets, in the columns of these."""
        tables = [run.by_part for run in self.index.runs]
        sums = pa.concat_tables(tables) if tables else BY_PART.empty_table()
        gone = pa.array(sorted(self.gone), pa.string())
        return sums.filter(pc.invert(pc.is_in(sums["journal_id"], gone))) if self.gone else sums


class RecordReader:
    """Reads the record of `store`, changing nothing; what does not change it reads once.

    `journals` is shared with whoever reads them, too. Without an `index` the store's is read.
    """

    def __init__(
        self,
        store: ObjectStore,
        *,
        journals: OpenJournals | None = None,
        index: Index | None = None,
    ) -> None:
        self._store = store
        self._journals = journals or OpenJournals(store)
        self._index = index

    async def read(self, *, without: Collection[str] = (), anew: bool = False) -> Record:
        """Read the journals, then list the parts; `without` leaves out journals.

        The index is read the first time, and `anew` when a new plan is to be made.

        In that order, so that a journal published in between is found as a part instead of being
        missed. Both are listed until no new journals appear after one was found published: what it
        reserved is then in a new one.
        """
        if anew:
            self._index = None
        journals: dict[str, JournalContent] = {}
        seen: set[str] = set()
        published: set[str] = set()
        while True:
            listing = parse_listing((await self._store.list(JOURNAL_FOLDER)).values())
            others = {jid: each for jid, each in listing.items() if jid not in without}
            if new := {jid: each for jid, each in others.items() if jid not in seen}:
                read = await self._journals.read(new)
                # As they are now: those who read on must not change what was read.
                journals |= {jid: content.copy() for jid, content in read.items()}
                seen |= new.keys()
                continue
            found = await self._list_parts({*seen, *listing})
            covered = found.index.covered
            before, published = published, seen & (found.paths.keys() | covered)
            if published <= before:
                break
        self._journals.keep(listing)
        empty = {jid for jid, each in listing.items() if not (each.objects or each.labels)}
        unpublished = {
            jid: content
            for jid, content in journals.items()
            if jid not in found.paths and jid not in covered and not content.is_of_newer_schema
        }
        return Record(
            parts=tuple(
                path
                for jid, path in found.paths.items()
                if jid not in without and jid not in covered
            ),
            open_attempts=tuple(a for each in unpublished.values() for a in each.attempts.values()),
            published=frozenset(
                jid
                for jid, each in journals.items()
                if jid not in unpublished and not each.is_of_newer_schema
            ),
            unpublished={jid: each.had_intents for jid, each in unpublished.items()},
            reservations=tuple(_reservations(unpublished.values())),
            index=found.index,
            gone=found.gone,
            listed_days=found.days,
            without_part=found.without_part & empty,
        )

    def forget(self) -> None:
        """Keep nothing of journals; the next `read` reads them from their beginning."""
        self._journals.keep(())

    async def _list_parts(self, seen: Collection[str]) -> "_Parts":
        """The parts of days to which some may still be added, and late ones of journals `seen`.

        The index is read first: what it covers is there by the time that parts are listed.
        """
        store = self._store
        if self._index is None:
            self._index = await read_index(store)
        index = self._index
        days = await self._days() if index.days else []
        open_days = [day for day in days if day not in index.days]
        # Nobody can tell how many calls the listing of all takes; those of a few days are few.
        whole = not index.days or len(open_days) > OPEN_DAYS_MAX
        paths = await list_parts(store, *([] if whole else open_days)) if whole or open_days else {}
        late = [
            jid
            for jid in seen
            if jid not in paths and jid not in index.covered | index.without_part
            if day_of(jid) in index.days and not whole
        ]
        found = await asyncio.gather(*(has_part(store, jid) for jid in late))
        there = {jid for jid, is_there in zip(late, found, strict=True) if is_there}
        settled = index.days.keys() & days
        return _Parts(
            index=index,
            paths=paths | {jid: part_path(jid) for jid in there},
            gone=frozenset(
                jid
                for jid in index.covered
                if jid not in paths and (whole or day_of(jid) not in settled)
            ),
            days=Counter(map(day_of, paths)),
            without_part=frozenset(late) - there,
        )

    async def _days(self) -> list[str]:
        """The days that have parts."""
        prefix = day_folder("")
        folders = await self._store.folders(PARTS_FOLDER)
        return [name[len(prefix) :] for name in folders if name.startswith(prefix)]


@dataclass(frozen=True, kw_only=True)
class _Parts:
    """What was found of parts."""

    index: Index
    paths: Mapping[str, str]
    gone: frozenset[str]
    days: Mapping[str, int]
    without_part: frozenset[str]


async def read_record(
    store: ObjectStore, *, without: Collection[str] = (), indexed: bool = True
) -> Record:
    """`RecordReader.read`, once; not `indexed`: all parts are listed, as they are now."""
    index = None if indexed else Index()
    return await RecordReader(store, index=index).read(without=without)


def _reservations(journals: Iterable[JournalContent]) -> Iterable[Reservation]:
    """What each pass has reserved beyond what its journals count.

    All its journals are taken together: one that was read a moment before another leaves more of
    the reservation by what it lacks itself. While a pass rolls, two of them say what is reserved.
    """
    passes: dict[str, list[JournalContent]] = {}
    identities: dict[str, Identity] = {}
    for each in journals:
        if each.header is not None:
            first = each.header.first_journal_id or each.header.journal_id
            passes.setdefault(first, []).append(each)
            identities[first] = each.header.identity
    for first, own in passes.items():
        counted = sum((each.bound_usd for each in own), Decimal(0))
        if (left := max(each.reserved_usd for each in own) - counted) > 0:
            yield Reservation(first_journal_id=first, identity=identities[first], usd=left)


async def read_journal(store: ObjectStore, jid: str, found: JournalListing) -> JournalContent:
    """All that a journal holds; nothing if it is gone."""
    return (await OpenJournals(store).read({jid: found})).get(jid) or JournalContent()


async def read_journal_header(store: ObjectStore, jid: str) -> Header | None:
    """The header of a journal; None where it is gone."""
    head = JournalContent()
    with contextlib.suppress(FileNotFoundError, DamagedJournal):
        apply_object(head, object_path(jid, 0), await store.get(object_path(jid, 0)))
    return head.header


def rows_on_record(
    record: Record,
    *,
    storage: Storage,
    columns: Sequence[str],
    where: pc.Expression | None = None,
) -> pa.Table:
    """Columns of the index, of all attempts that pass a filter, the unpublished ones unfiltered.

    `storage` holds the parts. Raises `StorageError` as `read_rows` does.
    """
    files, gone = record.index.files, record.gone
    wanted = [*columns, *(["attempt_id"] if gone and "attempt_id" not in columns else [])]
    if files:
        # Gone since, merged by another writer, or torn: then the parts are read.
        with contextlib.suppress(StorageError):
            rows = read_rows(
                (*files, *record.parts),
                record.open_attempts,
                storage=storage,
                columns=wanted,
                where=where,
                explain=False,
            )
            return _without(rows, gone).select(list(columns))
    return read_rows(
        record.all_parts, record.open_attempts, storage=storage, columns=columns, where=where
    )


def _without(rows: pa.Table, journals: Collection[str]) -> pa.Table:
    if not journals:
        return rows
    of = pc.replace_substring_regex(rows["attempt_id"], "-[^-]*$", "")
    return rows.filter(pc.invert(pc.is_in(of, pa.array(sorted(journals), pa.string()))))
