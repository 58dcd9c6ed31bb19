"""What a writer knows of the journals in the store: its own, seen there, and other writers'."""

import asyncio
from collections.abc import Mapping, Sequence

from dagster_imagegen.engine.attempt import Attempt
from dagster_imagegen.engine.errors import Fenced, StorageError, StoreInconsistent
from dagster_imagegen.engine.record.journal import (
    JOURNAL_FOLDER,
    JournalListing,
    OwnJournal,
    journal_id_of,
    object_path,
    parse_listing,
)
from dagster_imagegen.engine.record.limits import Limits
from dagster_imagegen.engine.record.rivals import Rivals
from dagster_imagegen.engine.storage import ObjectStore


class Watcher:
    """Lists the journals again and again, and finds other writers' attempts at an image.

    Args:
        store: where the journals are.
        own: this writer's journals that are not yet published; the writer changes it.
        limits: how long a silent writer counts as alive.
    """

    def __init__(
        self,
        store: ObjectStore,
        *,
        own: Mapping[str, OwnJournal],
        limits: Limits,
    ) -> None:
        self._store = store
        self._own = own
        self._limits = limits
        self._rivals = Rivals(store)
        self._closed: set[str] = set()
        self.listing: Mapping[str, JournalListing] = {}
        self.refreshed_at = float("-inf")
        """When the listing was requested, by the clock of the event loop."""
        self._sees_since = float("-inf")
        """Since when refreshes have followed one another without a long gap."""

    async def refresh(self) -> None:
        """List the journals, and find the own ones among them. Nothing is read but objects of
        other writers without a label, each once.

        Raises `Fenced` where an own journal is sealed, `StoreInconsistent` where the store does
        not list one, and `StorageError` where one that was there is gone. Call it one at a time.
        """
        asked_at = asyncio.get_running_loop().time()
        expected = set(self._own)
        listing = await self._list()
        if not expected & set(self._own) <= listing.keys():
            # A listing of folders is not of one moment: an own journal may have been sealed after
            # its parent was listed, and deleted before it was. A second listing shows the seal.
            listing = await self._list()
        for jid in expected & set(self._own):
            self._check_own(jid, listing.get(jid))
        # A store that was away kept the others silent too: their lease begins anew.
        if float("inf") > asked_at - self.refreshed_at > self._limits.lease / 2:
            self._sees_since = asked_at
        await self._rivals.learn(self._of_others(listing))
        self.listing = listing
        self.refreshed_at = asked_at

    def _of_others(self, listing: Mapping[str, JournalListing]) -> Mapping[str, JournalListing]:
        return {jid: each for jid, each in listing.items() if jid not in self._closed}

    async def _list(self) -> dict[str, JournalListing]:
        return parse_listing((await self._store.list(JOURNAL_FOLDER)).values())

    def _check_own(self, jid: str, found: JournalListing | None) -> None:
        if found is not None and found.sealed:
            raise Fenced(
                f"another writer presumed this one dead and closed its journal {jid}, because it "
                f"was silent for longer than {self._limits.lease:.0f} s; run it again"
            )
        # One that is being published may have a part already: then any writer may delete it.
        if self._own[jid].state == "publishing":
            return
        was_listed = jid in self.listing
        has_header = found is not None and 0 in found.objects
        if was_listed and not has_header:
            raise StorageError(
                f"{JOURNAL_FOLDER}/{jid}, which this run has written, is gone: somebody deleted "
                "the usage table or emptied its folder during the run. Restore it if you can, and "
                "run again: images that are in storage are not requested again",
                can_pass=False,
            )
        if found is None or not found.objects:
            raise StoreInconsistent(
                f"the store does not list journal {jid}, which was just written; its listings "
                "lag behind its writes, so requests cannot be kept on record there"
            )

    @property
    def has_company(self) -> bool:
        """Whether other writers were there at the last refresh."""
        return any(0 in each.objects for each in self._of_others(self.listing).values())

    def close(self, jid: str) -> None:
        """Ignore a journal from now on: it is this writer's own, or folded."""
        self._closed.add(jid)

    async def rivals(self, fingerprint: str) -> Sequence[str]:
        """Other writers' attempts at an image that were pending at the last refresh."""
        contents = await self._rivals.read(fingerprint, self._of_others(self.listing))
        return [attempt_id for each in contents for attempt_id in each.rivals(fingerprint)]

    async def attempt(self, attempt_id: str, fingerprint: str) -> Attempt | None:
        """Another writer's attempt at an image, as it was at the last refresh."""
        jid = journal_id_of(attempt_id)
        if jid not in self.listing or jid in self._closed:
            return None
        contents = await self._rivals.read(fingerprint, {jid: self.listing[jid]})
        return next((each.attempts.get(attempt_id) for each in contents), None)

    async def is_dead(self, jid: str, found: JournalListing | None = None) -> bool:
        """Whether a journal's writer is presumed dead: it is sealed, its lock is free, or it was
        silent for a lease by the store's clock, in which this writer could see the store.

        A journal without a header is being deleted, or its deletion was interrupted; folding it
        finishes that.
        """
        found = found or self.listing.get(jid)
        if found is None or not (found.objects or found.labels):
            return False
        if found.sealed or 0 not in found.objects:
            return True
        # Before anything is awaited: a later refresh would move the clock on, but not `found`.
        store_now = self.store_time()
        newest = found.newest
        silent_for = store_now - newest if store_now is not None and newest is not None else 0.0
        silent_for = min(silent_for, self.refreshed_at - self._sees_since)
        if silent_for > self._limits.lease:
            return True
        return await self._store.is_locked(object_path(jid, 0)) is False

    def store_time(self) -> float | None:
        """The store's clock at the last refresh, or a little earlier.

        That is the store's time of our newest object, plus what passed here from then to the
        refresh. Not to now: if we were paused since then, the others would seem silent.
        """
        times = [
            found.newest + self.refreshed_at - own.last_put_at
            for jid, own in self._own.items()
            if (found := self.listing.get(jid)) is not None and found.newest is not None
        ]
        return max(times, default=None)
