"""A writer of attempts: it puts each on record before it is sent, and publishes what became of it.

The order of its steps is what keeps the promises; docs/write-protocol.md tells why each is there.
Everything runs in one event loop, whose clock and sleep it uses.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal, Protocol, TypeVar

from dagster_imagegen.engine.errors import Fenced, StorageError, StoreInconsistent
from dagster_imagegen.engine.journal import (
    JOURNAL_FOLDER,
    SCHEMA_VERSION,
    Attempts,
    Header,
    Identity,
    JournalListing,
    Kind,
    new_journal_id,
    object_path,
    parse_listing,
    record_line,
    seal_path,
)
from dagster_imagegen.engine.storage import ObjectStore, WriterLock
from dagster_imagegen.engine.usage import (
    PARTS_FOLDER,
    Row,
    decode_part,
    encode_part,
    journal_of,
    part_path,
    worth,
)

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """When things are due. Seconds, unless the name says otherwise."""

    lease: float = 90.0
    """A writer that is silent for longer is taken for dead."""
    roll_seconds: float = 300.0
    roll_attempts: int = 5_000
    roll_objects: int = 256
    rival_grace: float = 5.0
    """How long a request waits, with its slot, for a rival that should give way."""
    poll: float = 1.0
    store_attempts: int = 6
    store_backoff: float = 0.25
    """The first wait after a failing store; it doubles with each."""


class ImageShelf(Protocol):
    """Where the images are, as far as a ledger asks."""

    async def find(self, fingerprint: str) -> Mapping[str, str]:
        """The images of a fingerprint: their paths, by the attempt that each came from."""
        ...

    async def recover(self, intent: Row, path: str) -> Row:
        """The outcome of an attempt whose image is in place and whose result was lost."""
        ...

    def lost(self, intent: Row) -> Row:
        """The outcome of an attempt of which nothing more is known."""
        ...


@dataclass(frozen=True, kw_only=True)
class Granted:
    """On record, and nobody else asks for this image: send it, once, now."""

    attempt_id: str


@dataclass(frozen=True, kw_only=True)
class AlreadyThere:
    """Somebody's image of this fingerprint is in storage: take it instead of asking."""

    attempt_id: str
    path: str


@dataclass(frozen=True, kw_only=True)
class Contended:
    """Another live writer asks for this image: wait for its outcome with `outcome_of`."""

    rival: str


Decision = Granted | AlreadyThere | Contended


@dataclass(kw_only=True)
class _OwnJournal:
    journal_id: str
    attempts: Attempts
    lock: WriterLock | None
    opened_at: float
    last_put_at: float
    next_seq: int = 1
    next_attempt: int = 0
    state: Literal["open", "draining", "publishing"] = "open"
    pending: list[str] = field(default_factory=list[str])


@dataclass(frozen=True, kw_only=True)
class Reservation:
    """What a pass under way may spend beyond what its journal's rows are worth already."""

    journal_id: str
    identity: Identity
    usd: Decimal


@dataclass(frozen=True, kw_only=True)
class Books:
    """All that is on record: the parts, and what the journals hold that is in no part yet."""

    parts: tuple[str, ...]
    open_rows: tuple[Row, ...]
    journals: tuple[str, ...] = ()
    """Those that are in no part yet, also where nothing is in them."""
    reservations: tuple[Reservation, ...] = ()


async def read_books(store: ObjectStore, *, without: Collection[str] = ()) -> Books:
    """Read the journals, then list the parts, changing nothing; some journals may be left out.

    In that order: a journal published in between is then found as a part, never in neither. And
    until no more journals come up: what is reserved may move to a new one in between.
    """
    journals: dict[str, Attempts] = {}
    while True:
        listing = parse_listing((await store.list(JOURNAL_FOLDER)).values())
        new = [jid for jid in listing if jid not in journals and jid not in without]
        if not new:
            break
        for jid in new:
            journals[jid] = await _read_journal(store, jid, listing[jid])
    parts = await _list_parts(store)
    unpublished = {
        jid: attempts
        for jid, attempts in journals.items()
        if jid not in parts and not attempts.is_of_newer_schema
    }
    return Books(
        parts=tuple(path for jid, path in parts.items() if jid not in without),
        open_rows=tuple(row for each in unpublished.values() for row in each.rows.values()),
        journals=tuple(unpublished),
        reservations=tuple(
            Reservation(journal_id=jid, identity=each.header.identity, usd=left)
            for jid, each in unpublished.items()
            if each.header is not None and (left := each.reserved_usd - each.worth_usd) > 0
        ),
    )


class Ledger:
    """One writer: its own journals, and what it knows of the others'.

    `start`, then `open` if anything is to be sent; then any number of `intend` and `settle` at
    once; then `close`. Raises `Fenced`, `StoreInconsistent` or `StorageError`; after any of them
    nothing more is granted.
    """

    def __init__(
        self,
        *,
        store: ObjectStore,
        shelf: ImageShelf,
        identity: Identity,
        now: Callable[[], datetime],
        token: Callable[[], str],
        limits: Limits | None = None,
    ) -> None:
        self._store = store
        self._shelf = shelf
        self._identity = identity
        self._now = now
        self._token = token
        self._limits = limits or Limits()
        self._own: dict[str, _OwnJournal] = {}
        self._foreign: dict[str, Attempts] = {}
        self._foreign_next: dict[str, int] = {}
        self._listing: Mapping[str, JournalListing] = {}
        self._looked_at = float("-inf")
        self._waiters: list[asyncio.Future[None]] = []
        self._wake = asyncio.Event()
        self._broken: StorageError | None = None
        self._committer: asyncio.Task[None] | None = None
        self._publishing: set[asyncio.Task[None]] = set()
        self._folding: dict[str, asyncio.Task[None]] = {}
        self._folded: set[str] = set()
        self._beginning: asyncio.Task[None] | None = None
        self._at_store = asyncio.Lock()
        """Held while own journals are written, looked after, or published: one at a time."""
        self._closing = False
        self._read_part: dict[str, dict[str, Row]] = {}
        self._allowance_usd = Decimal(0)
        self._settled_usd: dict[str, Decimal] = {}
        self.journal_ids: list[str] = []
        """Every journal that this writer opened, oldest first."""

    # -- START --------------------------------------------------------------------------------

    async def start(self) -> Books:
        """Close what dead writers left open, and read what is on record."""
        listed = await self._persist(lambda: self._store.list(JOURNAL_FOLDER))
        for jid, found in parse_listing(listed.values()).items():
            if await self._is_dead(jid, found):
                await self._fold_once(jid)
        return await self._persist(lambda: read_books(self._store))

    async def open(self) -> None:
        """Put the first journal's header on record, before anything is sent.

        Only now is the store's clock known, by which writers are told dead where no lock tells.
        Once it is open, there is nothing more to do.
        """
        if self._committer is not None:
            return
        await self._begin_journal()
        await self._persist(self._look)
        for jid, found in self._listing.items():
            if jid not in self._own and await self._is_dead(jid, found):
                await self._fold_once(jid)
        self._committer = asyncio.create_task(self._commit_forever())

    async def _begin_journal(self) -> None:
        """Put a new journal on record, for the intents from now on; the one before it drains.

        Who waits for it may be cancelled, and its header is in place all the same: `close` waits
        for it, so that nothing is left of it, nor of what it reserves.
        """
        if self._beginning is None or self._beginning.done():
            self._beginning = asyncio.create_task(self._begin_another())
        await asyncio.shield(self._beginning)

    async def _begin_another(self) -> None:
        before = self._open_journal()
        jid = new_journal_id(self._now(), token=self._token())
        header = Header(journal_id=jid, schema=SCHEMA_VERSION, identity=self._identity)
        data = f"{header.line()}\n{self._reservation_of(jid)}\n".encode()
        lock = await self._persist(lambda: self._store.put_locked(object_path(jid, 0), data))
        self.journal_ids.append(jid)
        self._own[jid] = _OwnJournal(
            journal_id=jid,
            attempts=Attempts(header=header),
            lock=lock,
            opened_at=self._clock(),
            last_put_at=self._clock(),
        )
        if before is not None:
            # Only now that the successor's is in place: what is left is never unreserved.
            nothing = {"worst_case_usd": Decimal(0)}
            before.pending.append(record_line("reserve", values=nothing))
            before.state = "draining"
            self._publish_if_drained(before)

    def _open_journal(self) -> _OwnJournal | None:
        return next((each for each in self._own.values() if each.state == "open"), None)

    # -- RESERVE ------------------------------------------------------------------------------

    async def reserve(self, want_usd: Decimal, *, room: Callable[[Books], Decimal]) -> Decimal:
        """Put on record what this pass may spend in all, and return how much of it fits.

        `room` says how much of the budget is left by what is on record of others. As with
        intents, of two writers the second one to reserve sees the first; the younger gives way at
        once, the older waits a little for it. What was granted once stays granted.
        """
        granted = self._allowance_usd
        patience_ends = self._clock() + self._limits.rival_grace
        target = want_usd
        while target > granted:
            self._allowance_usd = target
            await self._commit_reservation()
            others = await self._persist(lambda: read_books(self._store, without=self.journal_ids))
            free = await asyncio.to_thread(room, others)
            if target <= free:
                return target
            older = [r for r in others.reservations if r.journal_id < self.journal_ids[0]]
            unrivalled = await asyncio.to_thread(room, replace(others, reservations=tuple(older)))
            if target <= unrivalled and self._clock() < patience_ends:
                await asyncio.sleep(self._limits.poll / 4)
            else:
                target = free
        self._allowance_usd = granted
        await self._commit_reservation()
        return granted

    async def _commit_reservation(self) -> None:
        if self._beginning is not None:
            # Its header, on the way, may say what was reserved before, and comes to stand for all.
            await asyncio.wait([self._beginning])
        journal = self._open_journal()
        if journal is not None:
            journal.pending.append(self._reservation_of(journal.journal_id))
        await self._commit()

    def _reservation_of(self, journal_id: str) -> str:
        """What the newest journal may spend: all that the pass may, but for what older ones did.

        An older one's unsettled attempts are not taken off, because they may settle for less.
        """
        older = sum((v for k, v in self._settled_usd.items() if k != journal_id), Decimal(0))
        left = max(self._allowance_usd - older, Decimal(0))
        return record_line("reserve", values={"worst_case_usd": left})

    # -- SEND ---------------------------------------------------------------------------------

    async def intend(self, values: Row) -> Decision:
        """Put one attempt on record, and say whether it may be sent.

        `values` are the identity and request columns. Call it when a slot is free and send at
        once: what is on record and not sent when the process dies counts as perhaps billed.
        """
        fingerprint = str(values["fingerprint"])
        if rivals := self._rivals(fingerprint):
            return Contended(rival=rivals[0])
        journal = await self._journal_for_an_intent()
        attempt_id = f"{journal.journal_id}-{journal.next_attempt}"
        journal.next_attempt += 1
        row = {**values, "started_at": self._now()}
        journal.attempts.intend(attempt_id, row)
        try:
            await self._commit(journal, "intent", attempt_id, row)
            decision = await self._decide(journal, attempt_id, fingerprint)
        except BaseException:
            # Not sent: whatever the store holds of it, this process knows that it was not.
            await self._withdraw(journal, attempt_id, wait=False)
            raise
        if not isinstance(decision, Granted):
            await self._withdraw(journal, attempt_id, wait=True)
        return decision

    async def _decide(self, journal: _OwnJournal, attempt_id: str, fingerprint: str) -> Decision:
        """Grant it once a look, begun after the intent was in place, shows no other live intent.

        Of two writers, the one whose intent is in place second sees the first one's. The younger
        journal gives way at once; the older waits a little for the younger to give way, because
        the younger may have looked before our intent was there, and be sending already.
        """
        patience_ends = self._clock() + self._limits.rival_grace
        while True:
            while rivals := self._rivals(fingerprint):
                older = [rival for rival in rivals if rival < journal.journal_id]
                if older or self._clock() > patience_ends:
                    return Contended(rival=(older or list(rivals))[0])
                await asyncio.sleep(self._limits.poll / 4)
                await self._commit()
            # After the look: who resolved before it put the image in place before that.
            if images := await self._persist(lambda: self._shelf.find(fingerprint)):
                return AlreadyThere(attempt_id=min(images), path=images[min(images)])
            if self._clock() - self._looked_at <= self._limits.lease / 3:
                self._raise_if_broken()
                return Granted(attempt_id=attempt_id)
            await self._commit()

    async def withdraw(self, attempt_id: str) -> None:
        """Take back an attempt that was granted and not sent; it leaves no row."""
        journal = self._journal_of(attempt_id)
        if journal is not None:
            await self._withdraw(journal, attempt_id, wait=False)

    async def _withdraw(self, journal: _OwnJournal, attempt_id: str, *, wait: bool) -> None:
        journal.attempts.withdraw(attempt_id)
        if wait:
            await self._commit(journal, "withdrawn", attempt_id)
        else:
            journal.pending.append(record_line("withdrawn", attempt_id))
            self._wake.set()
        self._publish_if_drained(journal)

    async def row_of(self, attempt_id: str) -> Row | None:
        """What is on record of another writer's attempt, or of one that was published."""
        attempts = self._foreign.get(_journal_id_of(attempt_id))
        if attempts is not None and attempt_id in attempts.rows:
            return attempts.rows[attempt_id]
        return await self._published_row(attempt_id)

    async def outcome_of(self, rival: str) -> Row | None:
        """Wait until another writer's attempt has an outcome: its row, or None if it withdrew.

        A rival whose writer died is closed for it.
        """
        jid = _journal_id_of(rival)
        while True:
            await self._commit()
            attempts = self._foreign.get(jid)
            if attempts is None or rival not in attempts.rows:
                return await self._published_row(rival)
            if rival not in attempts.unresolved:
                return attempts.rows[rival]
            if await self._is_dead(jid, self._listing.get(jid)):
                await self._fold_once(jid)
                continue
            await asyncio.sleep(self._limits.poll)

    # -- RESULT -------------------------------------------------------------------------------

    async def settle(self, attempt_id: str, outcome: Row) -> None:
        """Put an attempt's outcome on record; on return it is durable, and may be reported."""
        journal = self._journal_of(attempt_id)
        if journal is None:
            raise StorageError(f"attempt {attempt_id} is not in a journal of this writer")
        journal.attempts.resolve(attempt_id, outcome)
        settled = self._settled_usd.get(journal.journal_id, Decimal(0))
        row_worth = worth(journal.attempts.rows[attempt_id])
        self._settled_usd[journal.journal_id] = settled + row_worth
        await self._commit(journal, "result", attempt_id, outcome)
        self._publish_if_drained(journal)

    # -- CLOSE --------------------------------------------------------------------------------

    async def close(self) -> None:
        """Publish everything. Attempts that are still unresolved become `unknown`."""
        self._closing = True
        fenced = self._broken if isinstance(self._broken, Fenced) else None
        # From here on nothing is granted, and nobody waits for a commit that will not come.
        self._broken = self._broken or StorageError("the ledger is closed")
        self._wake.set()
        if self._committer is not None:
            # Not cancelled: a write that a thread is at would land after the journal is deleted.
            await self._committer
        self._fail_waiters(self._broken)
        if self._beginning is not None:
            await asyncio.wait([self._beginning])
        # One that failed is still in `_own`, and is tried once more.
        await asyncio.gather(*self._publishing, return_exceptions=True)
        try:
            if fenced is not None:
                raise fenced
            for journal in list(self._own.values()):
                for attempt_id in list(journal.attempts.unresolved):
                    lost = self._shelf.lost(journal.attempts.rows[attempt_id])
                    journal.attempts.resolve(attempt_id, lost)
                    journal.pending.append(record_line("result", attempt_id, lost))
                await self._publish(journal)
        finally:
            for journal in self._own.values():
                if journal.lock is not None:
                    journal.lock.release()

    # -- COMMIT and LOOK ----------------------------------------------------------------------

    async def _commit(
        self,
        journal: _OwnJournal | None = None,
        kind: Kind | None = None,
        attempt_id: str | None = None,
        values: Row | None = None,
    ) -> None:
        """Have a record written with the next object, and a look taken after it.

        Without a record: only the look.
        """
        if journal is not None and kind is not None:
            journal.pending.append(record_line(kind, attempt_id, values))
        # Not before: what is known when the part is written is on record before it.
        self._raise_if_broken()
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._wake.set()
        await waiter

    async def _commit_forever(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._closing:
            alarm = loop.call_later(self._limits.lease / 8, self._wake.set)
            await self._wake.wait()
            alarm.cancel()
            self._wake.clear()
            waiters, self._waiters = self._waiters, []
            try:
                async with self._at_store:
                    for journal in list(self._own.values()):
                        await self._put_pending(journal)
                    await self._persist(self._look)
            except Exception as error:  # noqa: BLE001  # whatever it is, those who wait must know
                self._broken = (
                    error if isinstance(error, StorageError) else StorageError(f"{error!r}")
                )
                self._fail(waiters, self._broken)
                self._fail_waiters(self._broken)
                return
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    async def _put_pending(self, journal: _OwnJournal) -> None:
        if not journal.pending:
            if self._clock() - journal.last_put_at < self._limits.lease / 4:
                return
            journal.pending.append(record_line("heartbeat"))
        lines = list(journal.pending)
        path = object_path(journal.journal_id, journal.next_seq)
        data = "".join(f"{line}\n" for line in lines).encode()
        # The same bytes again after an error: whether the first try took effect does not matter.
        await self._persist(lambda: self._store.put(path, data))
        del journal.pending[: len(lines)]
        journal.next_seq += 1
        journal.last_put_at = self._clock()

    async def _look(self) -> None:
        """List the journals; see one's own, and read what is new in the others'.

        One at a time, so that no record is taken in twice.
        """
        asked_at = self._clock()
        expected = set(self._own)
        listing = parse_listing((await self._store.list(JOURNAL_FOLDER)).values())
        if not expected & set(self._own) <= listing.keys():
            # A listing of folders is not of one moment: ours may have been sealed after its
            # parent was listed, and deleted before it was. A second one shows the seal.
            listing = parse_listing((await self._store.list(JOURNAL_FOLDER)).values())
        for jid in expected & set(self._own):
            own = listing.get(jid)
            if own is not None and own.sealed:
                raise Fenced(
                    f"another writer took this one for dead and closed its journal {jid}; it was "
                    f"silent for longer than {self._limits.lease:.0f} s. Run it again"
                )
            if own is None or not own.objects:
                raise StoreInconsistent(
                    f"the store does not list journal {jid}, which was just written; its listings "
                    "lag behind its writes, so requests cannot be kept on record there"
                )
        closed = self._folded.union(self.journal_ids)
        foreign = {jid: found for jid, found in listing.items() if jid not in closed}
        news = [
            self._read_news(jid, found)
            for jid, found in foreign.items()
            if self._foreign_next.get(jid, 0) in found.objects
        ]
        # All of them, before any error comes out: a look is repeated, and must not meet itself.
        for failed in await asyncio.gather(*news, return_exceptions=True):
            if failed is not None:
                raise failed
        for jid in self._foreign.keys() - {jid for jid, found in listing.items() if found.objects}:
            del self._foreign[jid], self._foreign_next[jid]
        self._listing = listing
        self._looked_at = asked_at

    async def _read_news(self, jid: str, found: JournalListing) -> None:
        attempts = self._foreign.setdefault(jid, Attempts())
        self._foreign_next.setdefault(jid, 0)
        # Not found: published meanwhile; the next listing no longer has it.
        with contextlib.suppress(FileNotFoundError):
            while (seq := self._foreign_next[jid]) in found.objects:
                if attempts.is_of_newer_schema:
                    break
                attempts.apply(await self._store.get(object_path(jid, seq)))
                self._foreign_next[jid] = seq + 1

    # -- ROLL and PUBLISH ---------------------------------------------------------------------

    async def _journal_for_an_intent(self) -> _OwnJournal:
        while True:
            self._raise_if_broken()
            current = self._open_journal()
            if current is not None and not self._is_full(current):
                return current
            await self._begin_journal()

    def _is_full(self, journal: _OwnJournal) -> bool:
        limits = self._limits
        return (
            journal.next_attempt >= limits.roll_attempts
            or journal.next_seq >= limits.roll_objects
            or self._clock() - journal.opened_at >= limits.roll_seconds
            or not journal.journal_id.startswith(f"{self._now():%Y%m%d}")
        )

    def _publish_if_drained(self, journal: _OwnJournal) -> None:
        if journal.state == "draining" and not journal.attempts.unresolved:
            journal.state = "publishing"
            self._publishing.add(asyncio.create_task(self._publish(journal)))

    async def _publish(self, journal: _OwnJournal) -> None:
        """Write the journal's part, then delete its objects. Fenced: nothing, and raise."""
        async with self._at_store:
            if journal.journal_id not in self._own:
                return  # Closing has done it meanwhile.
            # All of it on record before the look: should another writer take us for dead only
            # after it, then its part and ours say the same, whichever is written last.
            await self._put_pending(journal)
            await self._persist(self._look)
            if journal.attempts.intended:
                await self._put_part(journal.journal_id, journal.attempts)
            del self._own[journal.journal_id]
        # Nothing is written to it any more, and others need not wait for hundreds of deletions.
        await self._delete(journal.journal_id, journal.next_seq)
        if journal.lock is not None:
            journal.lock.release()

    # -- FOLD ---------------------------------------------------------------------------------

    async def _is_dead(self, jid: str, found: JournalListing | None) -> bool:
        """Sealed; or its lock is free; or silent for a lease by the store's clock.

        One without a header is being deleted, or its deletion was interrupted: fold finishes it.
        """
        if found is None or not found.objects:
            return False
        if found.sealed or 0 not in found.objects:
            return True
        # Before anything is awaited: a later look would set the clock on, and not what was found.
        store_now = self._store_time()
        newest = found.newest
        silent_for = store_now - newest if store_now is not None and newest is not None else 0.0
        if silent_for > self._limits.lease:
            return True
        return await self._persist(lambda: self._store.is_locked(object_path(jid, 0))) is False

    def _store_time(self) -> float | None:
        """The store's clock at the last look, or a little before: its time of our newest object,
        and what passed here from then to the look.

        Not to now: were we paused since the look, the others would seem to have been silent.
        """
        times = [
            found.newest + self._looked_at - own.last_put_at
            for jid, own in self._own.items()
            if (found := self._listing.get(jid)) is not None and found.newest is not None
        ]
        return max(times, default=None)

    async def _fold_once(self, jid: str) -> None:
        if jid in self._folded:
            return
        task = self._folding.get(jid)
        if task is None:
            task = self._folding[jid] = asyncio.create_task(self._fold(jid))
            task.add_done_callback(lambda _: self._folding.pop(jid))
        await asyncio.shield(task)
        # Whatever of it comes late, or cannot be deleted: nothing of it will be sent any more.
        self._folded.add(jid)
        self._foreign.pop(jid, None)
        self._foreign_next.pop(jid, None)

    async def _fold(self, jid: str) -> None:
        """Close a dead writer's journal: seal it, give every attempt its row, publish, delete.

        Without a header it was published before, or had no intents; what is left is only deleted.
        """
        header = await self._header_of(jid)
        if header is not None:
            if header.schema > SCHEMA_VERSION:
                return
            seal = f"{self._now().isoformat()} {self._identity.run_id}\n".encode()
            await self._persist(lambda: self._store.put(seal_path(jid), seal))
        listed = await self._persist(lambda: self._store.list(f"{JOURNAL_FOLDER}/{jid}"))
        found = parse_listing(listed.values()).get(jid)
        if found is None:
            return
        attempts = await self._persist(lambda: _read_journal(self._store, jid, found))
        if not await self._has_part(jid):
            for attempt_id, fingerprint in list(attempts.unresolved.items()):
                outcome = await self._outcome_of_a_dead(attempts.rows[attempt_id], fingerprint)
                attempts.resolve(attempt_id, outcome)
            if attempts.intended:
                await self._put_part(jid, attempts)
        await self._delete(jid, max(found.objects) + 1)

    async def _outcome_of_a_dead(self, intent: Row, fingerprint: str) -> Row:
        images = await self._persist(lambda: self._shelf.find(fingerprint))
        path = images.get(intent["attempt_id"])
        if path is None:
            return self._shelf.lost(intent)
        return await self._persist(lambda: self._shelf.recover(intent, path))

    async def _header_of(self, jid: str) -> Header | None:
        head = Attempts()
        with contextlib.suppress(FileNotFoundError):
            head.apply(await self._persist(lambda: self._store.get(object_path(jid, 0))))
        return head.header

    # -- The store ----------------------------------------------------------------------------

    async def _published_row(self, attempt_id: str) -> Row | None:
        path = part_path(_journal_id_of(attempt_id))
        if path not in self._read_part:
            try:
                data = await self._persist(lambda: self._store.get(path))
            except FileNotFoundError:
                return None
            rows = await asyncio.to_thread(decode_part, data)
            # One is enough: who is overtaken by another pass asks for its rows one by one.
            self._read_part = {path: {row["attempt_id"]: row for row in rows}}
        return self._read_part[path].get(attempt_id)

    async def _put_part(self, jid: str, attempts: Attempts) -> None:
        """Also one without rows, where all was withdrawn: should a write that was given up long
        ago bring intents back, the part says that they count for nothing."""
        data = encode_part(attempts.rows.values())
        await self._persist(lambda: self._store.put(part_path(jid), data))

    async def _has_part(self, jid: str) -> bool:
        folder, _, name = part_path(jid).rpartition("/")
        return bool(await self._persist(lambda: self._store.list(folder, prefix=name)))

    async def _delete(self, jid: str, count: int) -> None:
        """Delete a journal's objects, the header first: without it, nobody reads the rest.

        Not being able to is no error: they stand for nothing any more, and the next writer tries.
        """
        paths = [object_path(jid, seq) for seq in range(count)]
        with contextlib.suppress(StorageError):
            await self._persist(lambda: self._store.delete(paths))

    def _persist(self, call: Callable[[], Awaitable[T]]) -> Coroutine[Any, Any, T]:
        return persist(call, limits=self._limits)

    def _rivals(self, fingerprint: str) -> Sequence[str]:
        return [
            attempt_id
            for attempts in self._foreign.values()
            for attempt_id in attempts.rivals(fingerprint)
        ]

    def _journal_of(self, attempt_id: str) -> _OwnJournal | None:
        return self._own.get(_journal_id_of(attempt_id))

    def _raise_if_broken(self) -> None:
        if self._broken is not None:
            raise self._broken

    def _fail_waiters(self, error: StorageError) -> None:
        waiters, self._waiters = self._waiters, []
        self._fail(waiters, error)

    @staticmethod
    def _fail(waiters: Sequence["asyncio.Future[None]"], error: StorageError) -> None:
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(error)

    @staticmethod
    def _clock() -> float:
        return asyncio.get_running_loop().time()


async def persist(call: Callable[[], Awaitable[T]], *, limits: Limits) -> T:
    """Repeat a call of the store, which is safe to repeat, until it works or patience ends."""
    wait = limits.store_backoff
    for _ in range(limits.store_attempts - 1):
        try:
            return await call()
        except (Fenced, StoreInconsistent):
            raise
        except StorageError:
            await asyncio.sleep(wait)
            wait *= 2
    return await call()


def _journal_id_of(attempt_id: str) -> str:
    return attempt_id.rpartition("-")[0]


async def _read_journal(store: ObjectStore, jid: str, found: JournalListing) -> Attempts:
    """What the journal holds, and nothing if an object is gone: a journal is deleted, the header
    first, once its part is in place, or when it never had an intent."""
    attempts = Attempts()
    for seq in sorted({0, *found.objects}):
        try:
            attempts.apply(await store.get(object_path(jid, seq)))
        except FileNotFoundError:
            return Attempts()
        if attempts.is_of_newer_schema:
            break
    return attempts


async def _list_parts(store: ObjectStore) -> dict[str, str]:
    """The parts' paths, by journal."""
    return {
        jid: path
        for path in await store.list(PARTS_FOLDER)
        if (jid := journal_of(path)) is not None
    }
