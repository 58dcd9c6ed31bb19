"""Repairing a storage: the record is closed and images are adopted; nothing is bought or lost.

What cannot be used is moved to `_damaged/`, under the path that it had.
"""

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from dagster_imagegen.engine.attempt import Attempt, Identity, Result
from dagster_imagegen.engine.errors import StorageError
from dagster_imagegen.engine.record.folding import delete_journal
from dagster_imagegen.engine.record.index import INDEX_FOLDER
from dagster_imagegen.engine.record.journal import (
    JOURNAL_FOLDER,
    JournalContent,
    object_path,
    parse_listing,
    seal_path,
)
from dagster_imagegen.engine.record.parts import decode_part, has_part, put_part
from dagster_imagegen.engine.storage import Storage
from dagster_imagegen.engine.verification import Finding, home_of
from dagster_imagegen.engine.wiring import Wiring

FOLDER = "_damaged"
ALIVE = "its writer is alive"
_REPAIRER = Identity(run_id="repair", root_run_id="repair")


class Repair:
    """Repairs what a verification found, in two rounds: the record, then the images."""

    def __init__(self, wiring: Wiring) -> None:
        self._wiring = wiring
        self._usage, self._storage = wiring.usage, wiring.storage
        self._images = wiring.images

    async def record(self, findings: Sequence[Finding]) -> None:
        """Close what dead writers left. What is in no part then is an orphan, for `images`."""
        if any(each.kind == "spilled_image" for each in findings):
            # First, as every pass does: a request that has an image is not `unknown`.
            await self._images.restore_spilled()
        for each in findings:
            match each.kind:
                case "damaged_part":
                    await _set_aside(self._usage, each.path)
                case "misplaced_part":
                    await self._move_part(each.path)
                case "torn_journal" if ALIVE not in each.detail:
                    await self._salvage(each.path.rpartition("/")[2])
                case _:
                    pass
        if any(each.kind in ("damaged_part", "misplaced_part") for each in findings):
            # It does not notice changed parts of days that are over, and is made again.
            await self._usage.delete(await self._usage.list(INDEX_FOLDER))
        if any(each.kind == "abandoned_journal" for each in findings):
            await self._fold()

    async def images(self, findings: Sequence[Finding]) -> None:
        """Set damaged images aside, adopt the orphans, delete stale temporaries."""
        for each in findings:
            if each.kind == "damaged_image":
                await _set_aside(self._storage, each.path)
            elif each.kind == "stale_temporary":
                await self._delete_temporary(each.path)
        await self._adopt([each.path for each in findings if each.kind == "orphaned_image"])

    async def _adopt(self, paths: Iterable[str]) -> None:
        for path in paths:
            attempt_id = PurePosixPath(path).name.split(".")[1]
            await self._images.adopt(attempt_id, path, None)
        await self._images.keep_adopted()

    async def _fold(self) -> None:
        """As every writer does when it begins. Without locks only an open one knows who is dead."""
        writer = self._wiring.record_writer(_REPAIRER)
        try:
            await writer.start()
            await writer.open()
        finally:
            await writer.close()

    async def _salvage(self, jid: str) -> None:
        """Publish what can be read of a torn journal, and keep its objects aside."""
        # Before the listing: a writer that lives after all finds it, and writes nothing more.
        await self._usage.put(seal_path(jid), b"repair\n")
        listed = parse_listing((await self._usage.list(f"{JOURNAL_FOLDER}/{jid}")).values())
        if jid not in listed:
            return  # Somebody else has closed it.
        seqs = sorted(listed[jid].objects)
        content = JournalContent()
        for seq in seqs:
            data = await self._usage.get(object_path(jid, seq))
            _apply_readable(content, data)
            await self._usage.put(f"{FOLDER}/{object_path(jid, seq)}", data)
        if not await has_part(self._usage, jid):
            for attempt_id in list(content.pending):
                attempt = content.attempts[attempt_id]
                content.resolve(attempt_id, await self._result_of(attempt))
            await put_part(self._usage, jid, content.attempts.values())
        await delete_journal(self._usage, jid, max(seqs, default=-1) + 1, listed[jid].label_paths)

    async def _result_of(self, attempt: Attempt) -> Result:
        path = (await self._images.find(attempt.fingerprint)).get(attempt.attempt_id)
        if path is None:
            return self._images.lost(attempt)
        return await self._images.recover(attempt, path)

    async def _move_part(self, path: str) -> None:
        """To where it belongs, unless there is one already."""
        data = await self._usage.get(path)
        home = home_of([{"attempt_id": each.attempt_id} for each in decode_part(data)])
        if home is None or home in await self._usage.list(home.rpartition("/")[0]):
            await _set_aside(self._usage, path)
            return
        await self._usage.put(home, data)
        await self._usage.delete([path])

    async def _delete_temporary(self, path: str) -> None:
        for store in (self._storage, self._usage):
            with contextlib.suppress(StorageError):
                await store.delete([path])


def _apply_readable(content: JournalContent, data: bytes) -> None:
    for line in data.split(b"\n"):
        with contextlib.suppress(
            ValueError, LookupError, TypeError, AttributeError, ArithmeticError
        ):
            content.apply(line)


async def _set_aside(store: Storage, path: str) -> None:
    with contextlib.suppress(FileNotFoundError):  # Somebody else has moved it.
        await store.put(f"{FOLDER}/{path}", await store.get(path))
        await store.delete([path])
