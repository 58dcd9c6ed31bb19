"""A writer of attempts: it puts each on record before it is sent, and publishes what became of it.

The order of its steps keeps the promises; docs/write-protocol.md explains why each is there.
Everything runs in one event loop, whose clock and sleep it uses.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from itertools import chain

from dagster_imagegen.engine.attempt import Attempt, Identity, Result
from dagster_imagegen.engine.errors import Fenced, StorageError
from dagster_imagegen.engine.patience import PatientStore
from dagster_imagegen.engine.record.folding import Folding, ImageStore, delete_journal
from dagster_imagegen.engine.record.index_writer import IndexWriter
from dagster_imagegen.engine.record.journal import (
    JOURNAL_FOLDER,
    JournalListing,
    OwnJournal,
    intent_line,
    journal_id_of,
    parse_listing,
    result_line,
    withdrawn_line,
)
from dagster_imagegen.engine.record.limits import Limits
from dagster_imagegen.engine.record.open_journals import OpenJournals
from dagster_imagegen.engine.record.own_journals import OwnJournals
from dagster_imagegen.engine.record.own_parts import OwnParts
from dagster_imagegen.engine.record.parts import decode_part, has_part, part_path
from dagster_imagegen.engine.record.reader import Record, RecordReader
from dagster_imagegen.engine.record.reservations import Reservations
from dagster_imagegen.engine.record.watcher import Watcher
from dagster_imagegen.engine.storage import ObjectStore


@dataclass(frozen=True, kw_only=True)
class Granted:
    """The attempt is on record, and nobody else requests this image: send it, once, now."""

    attempt_id: str


@dataclass(frozen=True, kw_only=True)
class AlreadyThere:
    """An image of this fingerprint is in storage: use it instead of requesting one."""

    attempt_id: str
    path: str


@dataclass(frozen=True, kw_only=True)
class Contended:
    """Another live writer requests this image: wait for its outcome with `outcome_of`."""

    rival: str


Decision = Granted | AlreadyThere | Contended


class RecordWriter:
    """One pass's access to the record, or that of several, one after the other.

    Call `start`, then `open` if anything is to be sent; then any number of `intend` and `settle`
    at once; then `close`. All raise `Fenced`, `StoreInconsistent` or `StorageError`; after any of
    them nothing more is granted.

    Args:
        store: where journals and parts are; its failing calls are repeated.
        images: where the images are.
        identity: on whose behalf attempts are made.
        now: the time of day, for ids and rows.
        token: something random, for ids.
    """

    def __init__(
        self,
        *,
        store: ObjectStore,
        images: ImageStore,
        identity: Identity,
        now: Callable[[], datetime],
        token: Callable[[], str],
        limits: Limits | None = None,
    ) -> None:
        self._limits = limits = limits or Limits()
        self._index = IndexWriter(store, now=now, token=token)
        self._store = store = PatientStore(store, limits.patience)
        journals = OpenJournals(store, lean=True)
        self._reader = RecordReader(store, journals=journals)
        self._images = images
        self._now = now
        self._own: dict[str, OwnJournal] = {}
        self._watcher = Watcher(store, own=self._own, limits=limits)
        self._folding = Folding(
            store, images=images, watcher=self._watcher, now=now, run_id=identity.run_id
        )
        self._parts = OwnParts(store)
        self._journals = OwnJournals(
            store,
            journals=self._own,
            parts=self._parts,
            watcher=self._watcher,
            identity=identity,
            now=now,
            token=token,
            limits=limits,
        )
        self._reservations = Reservations(
            self._reader,
            journal_ids=self._journals.ids,
            commit=self._journals.commit_reservation,
            limits=limits,
        )
        self._published: dict[str, dict[str, Attempt]] = {}
        self.deletes = True
        """False once the store has refused to delete what is published."""
        self._indexing: asyncio.Task[None] | None = None

    @property
    def journal_ids(self) -> list[str]:
        """Every journal that this writer opened, oldest first."""
        return self._journals.ids

    async def start(self) -> Record:
        """Close what dead writers left open, and read what is on record."""
        listed = parse_listing((await self._store.list(JOURNAL_FOLDER)).values())
        for jid, found in listed.items():
            if await self._watcher.is_dead(jid, found):
                await self._folding.fold(jid)
        read_at = self._now()
        record = await self._reader.read()
        await self._sweep({jid: listed[jid] for jid in record.published & listed.keys()})
        self._indexing = asyncio.create_task(self._index.refresh(record, read_at=read_at))
        return record

    async def _sweep(self, published: Mapping[str, JournalListing]) -> None:
        """Delete what writers have published and could not delete: every run would read it."""
        for jid, found in published.items():
            # The index may cover a part that somebody has deleted since.
            if self.deletes and await has_part(self._store, jid):
                count = max(found.objects, default=-1) + 1
                # Once: where nothing may be deleted, no run waits for it.
                once = self._store.once
                self.deletes = await delete_journal(once, jid, count, found.label_paths)

    async def read_again(self) -> Record:
        """What others have on record now."""
        return await self._reader.read(without=self.journal_ids)

    @property
    def is_open(self) -> bool:
        """Whether a journal of its own is on record, so that it may send."""
        return self._journals.is_open

    @property
    def broken(self) -> StorageError | None:
        """Why it grants nothing more, if so."""
        return self._journals.broken

    async def read(self) -> Record:
        """All that is on record; of its own open journals, which only it writes, from memory."""
        own = {jid: [*each.content.attempts.values()] for jid, each in self._own.items()}
        record = await self._reader.read(without=own, anew=True)
        return replace(record, open_attempts=(*record.open_attempts, *chain(*own.values())))

    async def open(self) -> None:
        """Put the first journal's header on record, before anything is sent.

        Only then is the store's clock known, which shows who is dead where locks do not. Further
        calls do nothing.
        """
        if self._journals.is_open:
            return
        await self._journals.begin()
        await self._watcher.refresh()
        for jid in self._watcher.listing:
            if jid not in self._own and await self._watcher.is_dead(jid):
                await self._folding.fold(jid)
        self._journals.start_committing()

    async def reserve(
        self, want_usd: Decimal, *, remaining: Callable[[Record], Decimal]
    ) -> Decimal:
        """Put on record what this pass may spend in all: `Reservations.reserve`."""
        return await self._reservations.reserve(want_usd, remaining=remaining)

    async def release(self, usd: Decimal) -> None:
        """Put on record that it reserves no more than `usd` in all: `Reservations.release`."""
        await self._reservations.release(usd)

    # -- sending -------------------------------------------------------------------------------

    async def intend(self, attempt: Attempt) -> Decision:
        """Put one attempt on record, and decide whether it may be sent.

        `attempt_id` and `started_at` are set here, whatever they are. Call it when a slot is free
        and send at once: an attempt that is on record and unsent when the process dies counts as
        perhaps billed.
        """
        fingerprint = attempt.fingerprint
        # What others have on record was for planning and reserving: from here on, rivals count.
        self._reader.forget()
        if rivals := await self._watcher.rivals(fingerprint):
            return Contended(rival=rivals[0])
        journal = await self._journals.for_an_intent()
        attempt_id = f"{journal.journal_id}-{journal.next_attempt}"
        journal.next_attempt += 1
        attempt = replace(attempt, attempt_id=attempt_id, started_at=self._now())
        journal.content.intend(attempt)
        try:
            journal.add(intent_line(attempt), attempt)
            await self._journals.commit()
            decision = await self._decide(journal, attempt_id, fingerprint)
        except BaseException:
            # Not sent: whatever the store holds of it, this process knows that it was not.
            await self._withdraw(journal, attempt, wait=False)
            raise
        if not isinstance(decision, Granted):
            await self._withdraw(journal, attempt, wait=True)
        return decision

    async def _decide(self, journal: OwnJournal, attempt_id: str, fingerprint: str) -> Decision:
        """Grant it once a refresh, begun after the intent was in place, shows no other live one.

        Of two writers, the one whose intent is in place second sees the first one's. The younger
        journal gives way at once; the older waits a little for the younger to give way, because
        the younger may have refreshed before our intent was there, and be sending already.
        """
        clock = asyncio.get_running_loop().time
        patience_ends = clock() + self._limits.rival_grace
        while True:
            while rivals := await self._watcher.rivals(fingerprint):
                older = [rival for rival in rivals if rival < journal.journal_id]
                if older or clock() > patience_ends:
                    return Contended(rival=(older or list(rivals))[0])
                await asyncio.sleep(self._limits.poll / 4)
                await self._journals.commit()
            # After the refresh: a rival that resolved before it had stored its image before that.
            if images := await self._images.find(fingerprint):
                return AlreadyThere(attempt_id=min(images), path=images[min(images)])
            if clock() - self._watcher.refreshed_at <= self._limits.lease / 3:
                self._journals.raise_if_broken()
                return Granted(attempt_id=attempt_id)
            await self._journals.commit()

    async def withdraw(self, attempt_id: str) -> None:
        """Take back an attempt that was granted and not sent; it leaves no row."""
        journal = self._own.get(journal_id_of(attempt_id))
        if journal is not None and attempt_id in journal.content.attempts:
            await self._withdraw(journal, journal.content.attempts[attempt_id], wait=False)

    async def _withdraw(self, journal: OwnJournal, attempt: Attempt, *, wait: bool) -> None:
        journal.content.withdraw(attempt.attempt_id)
        journal.add(withdrawn_line(attempt), attempt)
        if wait:
            await self._journals.commit()
        else:
            self._journals.commit_later()
        self._journals.publish_if_drained(journal)

    # -- others' attempts ----------------------------------------------------------------------

    async def attempt(self, attempt_id: str, fingerprint: str) -> Attempt | None:
        """What is on record of another writer's attempt at an image, or of a published one."""
        found = await self._watcher.attempt(attempt_id, fingerprint)
        return found or await self._published_attempt(attempt_id)

    async def outcome_of(self, rival: str, fingerprint: str) -> Attempt | None:
        """Wait until another writer's attempt at an image has a result. None: it was withdrawn.

        The journal of a rival whose writer died is folded.
        """
        jid = journal_id_of(rival)
        while True:
            await self._journals.commit()
            attempt = await self._watcher.attempt(rival, fingerprint)
            if attempt is None:
                return await self._published_attempt(rival)
            if attempt.result is not None:
                return attempt
            if await self._watcher.is_dead(jid):
                await self._folding.fold(jid)
                continue
            await asyncio.sleep(self._limits.poll)

    async def _published_attempt(self, attempt_id: str) -> Attempt | None:
        path = part_path(journal_id_of(attempt_id))
        if path not in self._published:
            try:
                data = await self._store.get(path)
            except FileNotFoundError:
                return None
            attempts = await asyncio.to_thread(decode_part, data)
            # One part is enough: a pass that is overtaken asks for its rows one by one.
            self._published = {path: {each.attempt_id: each for each in attempts}}
        return self._published[path].get(attempt_id)

    # -- results -------------------------------------------------------------------------------

    async def settle(self, attempt_id: str, result: Result) -> Attempt:
        """Put an attempt's result on record; on return it is durable, and may be reported."""
        journal = self._own.get(journal_id_of(attempt_id))
        if journal is None:
            raise StorageError(f"attempt {attempt_id} is not in an open journal of this writer")
        journal.content.resolve(attempt_id, result)
        attempt = journal.content.attempts[attempt_id]
        journal.add(result_line(attempt, result), attempt)
        await self._journals.commit()
        self._journals.publish_if_drained(journal)
        return attempt

    @property
    def paused(self) -> str | None:
        """`waiting for the storage for 45 s`, while the record cannot be written."""
        return self._store.describe()

    def hurry(self) -> None:
        """Give up sooner on a store that fails: the pass is to end."""
        self._store.hurry()
        if self._indexing is not None:
            self._indexing.cancel()

    async def close(self) -> None:
        """Publish everything. Attempts that are still pending become `unknown`.

        Raises `StorageError` if a part of this writer's is gone by then.
        """
        fenced = self._journals.broken
        await self._journals.stop_committing()
        try:
            if isinstance(fenced, Fenced):
                raise fenced
            for journal in list(self._own.values()):
                for attempt_id in list(journal.content.pending):
                    attempt = journal.content.attempts[attempt_id]
                    lost = self._images.lost(attempt)
                    journal.content.resolve(attempt_id, lost)
                    journal.add(result_line(attempt, lost), attempt)
                await self._journals.publish(journal)
            await self._parts.check()
            if self._indexing is not None:
                await asyncio.wait([self._indexing])
        finally:
            self._journals.release_locks()
