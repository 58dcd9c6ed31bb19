"""Folding: closing the journal that a dead writer left, and publishing it."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Protocol

from dagster_imagegen.engine.attempt import Attempt, Result
from dagster_imagegen.engine.errors import StorageError
from dagster_imagegen.engine.patience import PatientStore
from dagster_imagegen.engine.record.journal import (
    JOURNAL_FOLDER,
    JOURNAL_VERSION,
    object_path,
    parse_listing,
    seal_path,
)
from dagster_imagegen.engine.record.parts import has_part, put_part
from dagster_imagegen.engine.record.reader import read_journal, read_journal_header
from dagster_imagegen.engine.record.watcher import Watcher
from dagster_imagegen.engine.storage import ObjectStore


class ImageStore(Protocol):
    """Where the images are, as far as the record needs to know."""

    async def find(self, fingerprint: str) -> Mapping[str, str]:
        """The images of a fingerprint: their paths, by the attempt that each came from."""
        ...

    async def recover(self, attempt: Attempt, path: str) -> Result:
        """The result of an attempt whose image is stored and whose own result was lost."""
        ...

    def lost(self, attempt: Attempt) -> Result:
        """The result of an attempt about which nothing more is known."""
        ...


class Folding:
    """Closes dead writers' journals, each once."""

    def __init__(
        self,
        store: PatientStore,
        *,
        images: ImageStore,
        watcher: Watcher,
        now: Callable[[], datetime],
        run_id: str,
    ) -> None:
        self._store = store
        self._images = images
        self._watcher = watcher
        self._now = now
        self._run_id = run_id
        self._under_way: dict[str, asyncio.Task[None]] = {}
        self._done: set[str] = set()

    async def fold(self, jid: str) -> None:
        """Seal a journal, give each of its attempts a row, publish its part, and delete it."""
        if jid in self._done:
            return
        task = self._under_way.get(jid)
        if task is None:
            task = self._under_way[jid] = asyncio.create_task(self._fold(jid))
            task.add_done_callback(lambda _: self._under_way.pop(jid))
        await asyncio.shield(task)
        # From here on, whatever of it appears late, or cannot be deleted, is ignored.
        self._done.add(jid)
        self._watcher.close(jid)

    async def _fold(self, jid: str) -> None:
        """A journal without a header was published, or had no intents: what is left is deleted."""
        header = await read_journal_header(self._store, jid)
        if header is not None:
            if header.schema > JOURNAL_VERSION:
                return
            seal = f"{self._now().isoformat()} {self._run_id}\n".encode()
            await self._store.put(seal_path(jid), seal)
        listed = await self._store.list(f"{JOURNAL_FOLDER}/{jid}")
        found = parse_listing(listed.values()).get(jid)
        if found is None:
            return
        content = await read_journal(self._store, jid, found)
        if not await has_part(self._store, jid):
            for attempt_id in list(content.pending):
                content.resolve(attempt_id, await self._result_of(content.attempts[attempt_id]))
            if content.had_intents:
                await put_part(self._store, jid, content.attempts.values())
        count = max(found.objects, default=-1) + 1
        # Once: the next writer tries again, and where nothing may be deleted none waits for it.
        await delete_journal(self._store.once, jid, count, found.label_paths)

    async def _result_of(self, attempt: Attempt) -> Result:
        images = await self._images.find(attempt.fingerprint)
        path = images.get(attempt.attempt_id)
        if path is None:
            return self._images.lost(attempt)
        return await self._images.recover(attempt, path)


async def delete_journal(store: ObjectStore, jid: str, count: int, labels: Iterable[str]) -> bool:
    """Delete a journal's objects and labels, the header first: without it, nobody reads the rest.

    Returns whether all are gone. A failure is no error: the objects no longer count, and the next
    writer tries again.
    """
    try:
        await store.delete([object_path(jid, 0)])
        await store.delete([*(object_path(jid, seq) for seq in range(1, count)), *labels])
    except StorageError:
        return False
    return True
