"""What other writers have on record of one image: their other records are not read."""

import asyncio
from collections import OrderedDict
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from dagster_imagegen.engine.record.journal import (
    JournalContent,
    JournalListing,
    apply_object,
    journal_id_of,
    tag_of,
    tags_in,
)
from dagster_imagegen.engine.record.open_journals import READS_AT_ONCE
from dagster_imagegen.engine.storage import ObjectStore

T = TypeVar("T")

KEPT_BYTES_MAX = 1_000_000
"""Of objects that are kept, for those who wait for another writer and ask again and again."""


class Rivals:
    """Finds the records of an image in journals, by the labels of their objects.

    What it keeps does not grow with what others write, unless they are of an earlier release.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._turns = asyncio.Semaphore(READS_AT_ONCE)
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._kept_bytes = 0
        self._tags: dict[str, str | None] = {}
        """Of the objects that have no label, by path; None: they may be about any image."""
        self._of_attempts: dict[str, str] = {}
        """The tags of attempts of earlier releases."""

    async def learn(self, listing: Mapping[str, JournalListing]) -> None:
        """Read the objects without a label, each once, to know which images they are about.

        Call it one at a time. It forgets what it learned of journals that are not listed any
        more.
        """
        unlabelled = [
            entry.path
            for found in listing.values()
            for seq, entry in sorted(found.objects.items())
            if seq and seq not in found.labels
        ]
        self._tags = {path: self._tags[path] for path in unlabelled if path in self._tags}
        if self._of_attempts:
            known = self._of_attempts.items()
            self._of_attempts = {each: tag for each, tag in known if journal_id_of(each) in listing}
        new = [path for path in unlabelled if path not in self._tags]
        for begin in range(0, len(new), READS_AT_ONCE):
            some = new[begin : begin + READS_AT_ONCE]
            for path, data in zip(some, await self._get_all(some), strict=True):
                if data is not None:
                    self._tags[path] = self._tags_in(data)

    def _tags_in(self, data: bytes) -> str | None:
        try:
            return tags_in(data, self._of_attempts)
        except (ValueError, LookupError, TypeError, AttributeError):
            return None  # It is damaged; the reader of its records raises an error that says how.

    async def read(
        self, fingerprint: str, listing: Mapping[str, JournalListing]
    ) -> Sequence[JournalContent]:
        """What these journals hold of an image, each as its listing has it. Call `learn` before."""
        if not listing:
            return []  # As a rule; to gather nothing takes a turn of the event loop.
        tag = tag_of(fingerprint)
        found = await _all(self._of_journal(each, tag) for each in listing.values())
        return [each for each in found if each is not None and not each.is_of_newer_schema]

    async def _of_journal(self, found: JournalListing, tag: str) -> JournalContent | None:
        """None: it has nothing of the image. A journal without its header is published."""
        about = [seq for seq in sorted(found.objects) if seq and self._is_about(tag, found, seq)]
        if 0 not in found.objects or not about:
            return None  # A header alone is about no image.
        content = JournalContent(lean=True)
        paths = [found.objects[seq].path for seq in (0, *about)]
        for path, data in zip(paths, await self._get_all(paths), strict=True):
            if data is None:
                return None  # It was published in the meantime.
            if not content.is_of_newer_schema:
                apply_object(content, path, data)
        return content

    def _is_about(self, tag: str, found: JournalListing, seq: int) -> bool:
        label = found.labels.get(seq)
        tags = self._tags.get(found.objects[seq].path) if label is None else label.tags
        return tags is None or tag in tags

    async def _get_all(self, paths: Sequence[str]) -> Sequence[bytes | None]:
        return await _all(self._get(path) for path in paths)

    async def _get(self, path: str) -> bytes | None:
        """One object; None: it is not there any more."""
        if path in self._kept:
            self._kept.move_to_end(path)
            return self._kept[path]
        async with self._turns:
            try:
                data = await self._store.get(path)
            except FileNotFoundError:
                return None
        self._keep(path, data)
        return data

    def _keep(self, path: str, data: bytes) -> None:
        self._kept_bytes += len(data) - len(self._kept.get(path, b""))
        self._kept[path] = data
        while self._kept_bytes > KEPT_BYTES_MAX:
            _, oldest = self._kept.popitem(last=False)
            self._kept_bytes -= len(oldest)


async def _all(calls: Iterable[Coroutine[Any, Any, T]]) -> Sequence[T]:
    """`asyncio.gather`, which raises only after all have ended."""
    results: list[T] = []
    for each in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(each, BaseException):
            raise each
        results.append(each)
    return results
