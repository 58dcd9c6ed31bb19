"""What other writers have on record of one image: their other records are not read."""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence

from dagster_imagegen.engine.record.journal import (
    JournalContent,
    JournalListing,
    apply_object,
    tag_of,
    tags_in,
)
from dagster_imagegen.engine.storage import ObjectStore

KEPT_MAX = 64
"""Objects that are kept, for those who wait for another writer and ask again and again."""


class Rivals:
    """Finds the records of an image in journals, by the names of their objects.

    What it keeps does not grow with what others write.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._tags: dict[str, str] = {}
        """Of objects that were read and whose names do not tell."""

    async def read(
        self, fingerprint: str, listing: Mapping[str, JournalListing]
    ) -> Sequence[JournalContent]:
        """What these journals hold of an image, each as its listing has it."""
        tag = tag_of(fingerprint)
        found = await asyncio.gather(
            *(self._of_journal(each, tag) for each in listing.values()), return_exceptions=True
        )
        contents: list[JournalContent] = []
        for each in found:
            if isinstance(each, BaseException):
                raise each
            if each is not None and not each.is_of_newer_schema:
                contents.append(each)
        return contents

    def keep(self, listing: Mapping[str, JournalListing]) -> None:
        """Forget what was learned of objects that are not listed any more."""
        if self._tags:
            paths = {path for each in listing.values() for path in each.paths}
            self._tags = {path: tags for path, tags in self._tags.items() if path in paths}

    async def _of_journal(self, found: JournalListing, tag: str) -> JournalContent | None:
        """None: it has nothing of the image. A journal without its header is published."""
        if 0 not in found.objects:
            return None
        content = JournalContent(lean=True)
        # The header's object has no attempts: it is read only with another.
        paths = [
            found.objects[seq].path
            for seq in sorted(found.objects)
            if seq == 0 or self._is_about(tag, found, seq)
        ]
        if len(paths) == 1:
            return None
        for path in paths:
            try:
                data = await self._get(path)
            except FileNotFoundError:
                return None  # It was published in the meantime.
            apply_object(content, path, data)
            if content.is_of_newer_schema:
                break
            self._learn(path, data)
        return content

    def _is_about(self, tag: str, found: JournalListing, seq: int) -> bool:
        named = found.tags.get(seq) or self._tags.get(found.objects[seq].path)
        return named is None or tag in named

    def _learn(self, path: str, data: bytes) -> None:
        if (tags := tags_in(data)) is not None:
            self._tags[path] = tags

    async def _get(self, path: str) -> bytes:
        data = self._kept.pop(path, None)
        if data is None:
            data = await self._store.get(path)
        self._kept[path] = data
        if len(self._kept) > KEPT_MAX:
            self._kept.popitem(last=False)
        return data
