"""What a writer knows of the journals in the store: its own, seen there, and other writers'."""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence

from dagster_imagegen.engine.attempt import Attempt
from dagster_imagegen.engine.errors import DamagedJournal, Fenced, StoreInconsistent
from dagster_imagegen.engine.record.journal import (
    JOURNAL_FOLDER,
    JournalContent,
    JournalListing,
    OwnJournal,
    apply_object,
    journal_id_of,
    object_path,
    parse_listing,
)
from dagster_imagegen.engine.record.limits import Limits
from dagster_imagegen.engine.storage import ObjectStore


class Watcher:
    """Lists the journals again and again, and reads what is new in other writers' journals.

    Args:
        store: where the journals are.
        own: this writer's journals that are not yet published; the writer changes it.
        limits: how long a silent writer counts as alive.
    """

    def __init__(
        self, store: ObjectStore, *, own: Mapping[str, OwnJournal], limits: Limits
    ) -> None:
        self._store = store
        self._own = own
        self._limits = limits
        self._content: dict[str, JournalContent] = {}
        self._next_seq: dict[str, int] = {}
        self._closed: set[str] = set()
        self.listing: Mapping[str, JournalListing] = {}
        self.refreshed_at = float("-inf")
        """When the listing was requested, by the clock of the event loop."""
        self._sees_since = float("-inf")
        """Since when refreshes have followed one another without a long gap."""

    async def refresh(self) -> None:
        """List the journals, find the own ones among them, and read what is new in the others.

        Raises `Fenced` where an own journal is sealed, `StoreInconsistent` where the store does
        not list one. Call it one at a time, so that no record is read twice.
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
        news = [
            self._read_news(jid, found)
            for jid, found in listing.items()
            if jid not in self._closed and self._next_seq.get(jid, 0) in found.objects
        ]
        # Wait for all of them before raising, so that a later refresh does not overlap with this.
        for failed in await asyncio.gather(*news, return_exceptions=True):
            if failed is not None:
                raise failed
        for jid in self._content.keys() - {jid for jid, each in listing.items() if each.objects}:
            self._forget(jid)
        # A store that was away kept the others silent too: their lease begins anew.
        if float("inf") > asked_at - self.refreshed_at > self._limits.lease / 2:
            self._sees_since = asked_at
        self.listing = listing
        self.refreshed_at = asked_at

    async def _list(self) -> dict[str, JournalListing]:
        return parse_listing((await self._store.list(JOURNAL_FOLDER)).values())

    def _check_own(self, jid: str, found: JournalListing | None) -> None:
        if found is not None and found.sealed:
            raise Fenced(
                f"another writer presumed this one dead and closed its journal {jid}, because it "
                f"was silent for longer than {self._limits.lease:.0f} s; run it again"
            )
        if found is None or not found.objects:
            raise StoreInconsistent(
                f"the store does not list journal {jid}, which was just written; its listings "
                "lag behind its writes, so requests cannot be kept on record there"
            )

    async def _read_news(self, jid: str, found: JournalListing) -> None:
        content = self._content.setdefault(jid, JournalContent())
        self._next_seq.setdefault(jid, 0)
        # Not found: it was published in the meantime; the next listing no longer has it.
        with contextlib.suppress(FileNotFoundError):
            while (seq := self._next_seq[jid]) in found.objects:
                if content.is_of_newer_schema:
                    break
                path = object_path(jid, seq)
                try:
                    apply_object(content, path, await self._store.get(path))
                except DamagedJournal:
                    if found.objects.keys() > {0}:
                        raise
                self._next_seq[jid] = seq + 1

    def close(self, jid: str) -> None:
        """Ignore a journal from now on: it is this writer's own, or folded."""
        self._closed.add(jid)
        self._forget(jid)

    def _forget(self, jid: str) -> None:
        self._content.pop(jid, None)
        self._next_seq.pop(jid, None)

    def rivals(self, fingerprint: str) -> Sequence[str]:
        """Other writers' pending attempts at an image."""
        return [
            attempt_id
            for content in self._content.values()
            for attempt_id in content.rivals(fingerprint)
        ]

    def attempt(self, attempt_id: str) -> Attempt | None:
        """Another writer's attempt, as far as it was read."""
        content = self._content.get(journal_id_of(attempt_id))
        return None if content is None else content.attempts.get(attempt_id)

    async def is_dead(self, jid: str, found: JournalListing | None = None) -> bool:
        """Whether a journal's writer is presumed dead: it is sealed, its lock is free, or it was
        silent for a lease by the store's clock, in which this writer could see the store.

        A journal without a header is being deleted, or its deletion was interrupted; folding it
        finishes that.
        """
        found = found or self.listing.get(jid)
        if found is None or not found.objects:
            return False
        if found.sealed or 0 not in found.objects:
            return True
        # Before anything is awaited: a later refresh would move the clock on, but not `found`.
        store_now = self._store_time()
        newest = found.newest
        silent_for = store_now - newest if store_now is not None and newest is not None else 0.0
        silent_for = min(silent_for, self.refreshed_at - self._sees_since)
        if silent_for > self._limits.lease:
            return True
        return await self._store.is_locked(object_path(jid, 0)) is False

    def _store_time(self) -> float | None:
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
