"""A writer's own journals: committed in groups, rolled when full, published when drained."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from decimal import Decimal

from dagster_imagegen.engine.attempt import Identity
from dagster_imagegen.engine.errors import StorageError
from dagster_imagegen.engine.record.folding import delete_journal
from dagster_imagegen.engine.record.index import is_late
from dagster_imagegen.engine.record.journal import (
    JOURNAL_VERSION,
    Header,
    JournalContent,
    JournalObject,
    OwnJournal,
    heartbeat_line,
    new_journal_id,
    object_path,
    reserve_line,
    seal_path,
)
from dagster_imagegen.engine.record.limits import Limits
from dagster_imagegen.engine.record.own_parts import OwnParts
from dagster_imagegen.engine.record.parts import day_of
from dagster_imagegen.engine.record.watcher import Watcher
from dagster_imagegen.engine.storage import ObjectStore

PAUSE_SECONDS_MAX = 0.02
"""The longest pause between two commits; an image takes seconds."""


class OwnJournals:
    """The journals that one writer has open, by id, and the task that writes to them.

    Args:
        store: where journals go.
        journals: those not yet published; shared with the watcher, which looks for them.
    """

    def __init__(
        self,
        store: ObjectStore,
        *,
        journals: dict[str, OwnJournal],
        parts: OwnParts,
        watcher: Watcher,
        identity: Identity,
        now: Callable[[], datetime],
        token: Callable[[], str],
        limits: Limits,
    ) -> None:
        self._store = store
        self._parts = parts
        self._watcher = watcher
        self._identity = identity
        self._now = now
        self._token = token
        self._limits = limits
        self._journals = journals
        self._waiters: list[asyncio.Future[None]] = []
        self._wake = asyncio.Event()
        self._committing: asyncio.Task[None] | None = None
        self._beginning: asyncio.Task[None] | None = None
        self._publishing: set[asyncio.Task[None]] = set()
        self._at_store = asyncio.Lock()
        """Held while own journals are written, refreshed, or published: one at a time."""
        self._closing = False
        self._allowed_usd = Decimal(0)
        self._published_usd = Decimal(0)
        self.broken: StorageError | None = None
        """Why nothing more is committed."""
        self.ids: list[str] = []
        """Every journal that this writer opened, oldest first."""

    # -- beginning and rolling -----------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether commits are written."""
        return self._committing is not None

    async def begin(self) -> None:
        """Put a new journal on record, for the intents from now on; the one before it drains.

        Its caller may be cancelled, and its header is in place all the same: `close` waits for
        it, so that neither the header nor what it reserves is left behind.
        """
        if self._beginning is None or self._beginning.done():
            self._beginning = asyncio.create_task(self._begin())
        await asyncio.shield(self._beginning)

    async def _begin(self) -> None:
        before = self._open_journal()
        jid = new_journal_id(self._now(), token=self._token())
        first = self.ids[0] if self.ids else None
        header = Header(
            journal_id=jid, schema=JOURNAL_VERSION, identity=self._identity, first_journal_id=first
        )
        reserved = self._reserved_usd
        data = f"{header.line()}\n{reserve_line(reserved)}\n".encode()
        # Before the answer, which may be late: this pass is no rival of its own budget.
        self.ids.append(jid)
        lock = await self._store.put_locked(object_path(jid, 0), data)
        self._watcher.close(jid)
        self._journals[jid] = OwnJournal(
            journal_id=jid,
            content=JournalContent(header=header, reserved_usd=reserved),
            lock=lock,
            opened_at=_clock(),
            last_put_at=_clock(),
        )
        # What was published meanwhile is in no header.
        self._journals[jid].reserve(self._reserved_usd)
        if before is not None:
            # Only once the successor's header is in place, so that nothing is ever unreserved.
            before.pending.append(reserve_line(Decimal(0)))
            before.state = "draining"
            self.publish_if_drained(before)

    def _open_journal(self) -> OwnJournal | None:
        return next((each for each in self._journals.values() if each.state == "open"), None)

    async def for_an_intent(self) -> OwnJournal:
        """The journal that the next intent belongs to; a full one is rolled first."""
        while True:
            self.raise_if_broken()
            current = self._open_journal()
            if current is not None and not self._is_full(current):
                return current
            await self.begin()

    def _is_full(self, journal: OwnJournal) -> bool:
        limits = self._limits
        return (
            journal.next_attempt >= limits.roll_attempts
            or journal.next_seq >= limits.roll_objects
            or _clock() - journal.opened_at >= limits.roll_seconds
            or day_of(journal.journal_id) != self._now().date().isoformat()
        )

    # -- committing ----------------------------------------------------------------------------

    def start_committing(self) -> None:
        """Write what is added, from now until `close`."""
        self._committing = asyncio.create_task(self._commit_forever())

    @property
    def _reserved_usd(self) -> Decimal:
        """What the newest journal says is reserved: all that is allowed, less what parts count.

        A reader subtracts what it finds in the pass's journals; it cannot tell whose a part is.
        """
        return max(self._allowed_usd - self._published_usd, Decimal(0))

    async def commit_reservation(self, allowed_usd: Decimal) -> None:
        """Put on record, in the newest journal, what this pass may spend in all."""
        self._allowed_usd = allowed_usd
        if self._beginning is not None:
            # The header that is on its way may hold an older reservation.
            await asyncio.wait([self._beginning])
        journal = self._open_journal()
        if journal is not None:
            journal.reserve(self._reserved_usd)
        await self.commit()

    async def commit(self) -> None:
        """Write what is waiting, then refresh.

        Raises the `StorageError` that broke this writer.
        """
        # Not before: what is known when the part is written is on record before it.
        self.raise_if_broken()
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._wake.set()
        await waiter

    def commit_later(self) -> None:
        """`commit`, without waiting for it."""
        self._wake.set()

    async def _commit_forever(self) -> None:
        loop = asyncio.get_running_loop()
        next_at = loop.time()
        while not self._closing:
            alarm = loop.call_later(self._limits.lease / 8, self._wake.set)
            await self._wake.wait()
            alarm.cancel()
            await asyncio.sleep(next_at - loop.time())
            self._wake.clear()
            began_at = loop.time()
            waiters, self._waiters = self._waiters, []
            try:
                async with self._at_store:
                    for journal in list(self._journals.values()):
                        await self._put_pending(journal)
                    await self._watcher.refresh()
            except Exception as error:  # noqa: BLE001  # whoever waits must learn of it
                broken = error if isinstance(error, StorageError) else StorageError(f"{error!r}")
                self.broken = broken
                self._fail([*waiters, *self._waiters], broken)
                return
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)
            # A slow commit is followed by a longer pause, so that one object serves more requests.
            next_at = loop.time() + min(loop.time() - began_at, PAUSE_SECONDS_MAX)

    async def _put_pending(self, journal: OwnJournal) -> None:
        if not journal.pending and journal.unwritten is None:
            if _clock() - journal.last_put_at < self._limits.lease / 4:
                return
            journal.pending.append(heartbeat_line())
        # One that could not be written comes first, and the rest after it.
        for _ in range(1 if journal.unwritten is None else 2):
            begun = journal.begin_object(labelled=self._watcher.has_company)
            if begun is not None:
                await self._put(begun)
                journal.end_object(at=_clock())

    async def _put(self, begun: JournalObject) -> None:
        # Both are over before anything else is written or deleted.
        writes = (self._put_label(begun.label), self._store.put(begun.path, begun.data))
        for failed in await asyncio.gather(*writes, return_exceptions=True):
            if failed is not None:
                raise failed

    async def _put_label(self, path: str | None) -> None:
        if path is not None:
            # Without it, others read the object.
            with contextlib.suppress(StorageError):
                await self._store.put(path, b"\n")

    def raise_if_broken(self) -> None:
        """Raise the `StorageError` that broke this writer, if any did."""
        if self.broken is not None:
            raise self.broken

    def _fail(self, waiters: Sequence["asyncio.Future[None]"], error: StorageError) -> None:
        self._waiters = []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(error)

    # -- publishing and closing ----------------------------------------------------------------

    def publish_if_drained(self, journal: OwnJournal) -> None:
        """Publish a journal that takes no more intents once none of its attempts is pending."""
        if journal.state == "draining" and not journal.content.pending:
            journal.state = "publishing"
            self._publishing.add(asyncio.create_task(self.publish(journal)))

    async def publish(self, journal: OwnJournal) -> None:
        """Write the journal's part, then delete its objects. Raises `Fenced` before either."""
        async with self._at_store:
            if journal.journal_id not in self._journals:
                return  # Closing has published it in the meantime.
            # All of it is on record before the refresh: if another writer presumes us dead only
            # after it, its part and ours hold the same, whichever is written last.
            await self._put_pending(journal)
            await self._watcher.refresh()
            if journal.content.had_intents:
                await self._parts.put(journal)
                await self._announce_if_late(journal)
            del self._journals[journal.journal_id]
            self._reserve_less(journal.content.bound_usd)
        # Nothing is written to it any more, and others need not wait for hundreds of deletions.
        await delete_journal(self._store, journal.journal_id, journal.next_seq, journal.labels)
        if journal.lock is not None:
            journal.lock.release()

    async def _announce_if_late(self, journal: OwnJournal) -> None:
        """Seal a published journal of a day of which all parts are thought to be known.

        By the clock that is ahead, the store's or ours, once the part is in place.
        """
        times = [self._now()]
        if (store_time := self._watcher.store_time()) is not None:
            store_time += _clock() - self._watcher.refreshed_at
            times.append(datetime.fromtimestamp(store_time, timezone.utc))
        if is_late(journal.journal_id, max(times)):
            seal = f"{max(times).isoformat()} published late\n".encode()
            await self._store.put(seal_path(journal.journal_id), seal)

    def _reserve_less(self, published_usd: Decimal) -> None:
        """Let the newest journal reserve less by what a part counts, now that others see that."""
        self._published_usd += published_usd
        newest = self._open_journal()
        if newest is not None:
            newest.reserve(self._reserved_usd)
            self._wake.set()

    async def stop_committing(self) -> None:
        """Commit nothing more, and wait for what is being written."""
        self._closing = True
        self.broken = self.broken or StorageError("this writer is closed")
        self._wake.set()
        if self._committing is not None:
            # Not cancelled: a write in progress would land after the journal is deleted.
            await self._committing
        self._fail(self._waiters, self.broken)
        if self._beginning is not None:
            await asyncio.wait([self._beginning])
        # A publication that failed left its journal in `_journals`; `close` tries it again.
        await asyncio.gather(*self._publishing, return_exceptions=True)

    def release_locks(self) -> None:
        """Let other writers see that this one has ended."""
        for journal in self._journals.values():
            if journal.lock is not None:
                journal.lock.release()


def _clock() -> float:
    return asyncio.get_running_loop().time()
