"""The journals in a store as one reader knows them: each object is read once, many at a time."""

import asyncio
from collections.abc import Collection, Mapping

from dagster_imagegen.engine.errors import DamagedJournal
from dagster_imagegen.engine.record.journal import (
    JournalContent,
    JournalListing,
    apply_object,
    object_path,
)
from dagster_imagegen.engine.storage import ObjectStore

READS_AT_ONCE = 64


class OpenJournals:
    """What was read of the journals in `store`, and is read on with each new listing.

    `lean` leaves out the prompts, which nobody needs who only asks what others do.
    """

    def __init__(self, store: ObjectStore, *, lean: bool = False) -> None:
        self._store = store
        self._lean = lean
        self._content: dict[str, JournalContent] = {}
        self._next_seq: dict[str, int] = {}
        self._reading = asyncio.Lock()
        """One at a time, so that no record is read twice."""
        self._turns = asyncio.Semaphore(READS_AT_ONCE)

    async def read(self, listing: Mapping[str, JournalListing]) -> dict[str, JournalContent]:
        """Read what is new in the journals of a listing; without those that are gone.

        A journal is deleted, header first, once its part is in place or when it never had an
        intent. Raises only after all reads have ended, so that none overlaps with a later one.
        """
        async with self._reading:
            reads = (self._read_news(jid, found) for jid, found in listing.items())
            failed = await asyncio.gather(*reads, return_exceptions=True)
        for error in failed:
            if error is not None:
                raise error
        return {jid: self._content[jid] for jid in listing if jid in self._content}

    def keep(self, journals: Collection[str]) -> None:
        """Forget all other journals, unless any are being read: what is read must not be missed."""
        if not self._reading.locked():
            for jid in self._content.keys() - journals:
                self._forget(jid)

    def _forget(self, jid: str) -> None:
        self._content.pop(jid, None)
        self._next_seq.pop(jid, None)

    async def _read_news(self, jid: str, found: JournalListing) -> None:
        content = self._content.get(jid) or JournalContent(lean=self._lean)
        seqs = range(self._next_seq.get(jid, 0), max(found.objects, default=-1) + 1)
        if 0 not in found.objects:
            self._forget(jid)
            return
        if content.is_of_newer_schema or not seqs:
            return
        gets = (self._get(jid, seq) for seq in seqs)
        objects = await asyncio.gather(*gets, return_exceptions=True)
        self._content[jid] = content
        for seq, data in zip(seqs, objects, strict=True):
            if isinstance(data, BaseException):
                raise data
            if data is None and seq in found.objects:
                self._forget(jid)  # It was published in the meantime.
                return
            if data is not None and not content.is_of_newer_schema:
                _apply(content, object_path(jid, seq), data, alone=found.objects.keys() <= {0})
            self._next_seq[jid] = seq + 1

    async def _get(self, jid: str, seq: int) -> bytes | None:
        """One object, also one that a listing missed; None: it is not there."""
        async with self._turns:
            try:
                return await self._store.get(object_path(jid, seq))
            except FileNotFoundError:
                return None


def _apply(content: JournalContent, path: str, data: bytes, *, alone: bool) -> None:
    try:
        apply_object(content, path, data)
    except DamagedJournal:
        if not alone:
            raise
        # There never was an intent in it.
