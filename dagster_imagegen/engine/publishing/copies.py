"""Whether published copies are there, are what was published, and carry the marks of origin."""

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Literal, TypeAlias

from dagster_imagegen.engine.errors import ConfigurationError, StorageError
from dagster_imagegen.engine.provenance import marks_of
from dagster_imagegen.engine.publishing.manifests import FileFacts, Manifests
from dagster_imagegen.engine.storage import Storage

AT_ONCE = 16
"""Copies that are read at a time."""

CopyKind: TypeAlias = Literal["missing_copy", "changed_copy", "unmarked_copy", "unreadable_copy"]


@dataclass(frozen=True, kw_only=True)
class CopyProblem:
    """What is wrong with the published copy at an address."""

    kind: CopyKind
    address: str
    detail: str


class PublishedCopies:
    """The copies that the manifests of a storage name, of all assets; stale ones are left out.

    Args:
        manifests: What has been published.
        target: Opens a folder that copies are in.
        read_image: Gives the stored image with a sha256; None if there is none any more.
    """

    def __init__(
        self,
        manifests: Manifests,
        *,
        target: Callable[[str], Storage],
        read_image: Callable[[str], Awaitable[bytes | None]],
    ) -> None:
        self._manifests = manifests
        self._target = target
        self._read_image = read_image
        self.count = 0
        """How many there are, as far as they were compared."""

    async def problems(self, *, reads: bool) -> AsyncIterator[CopyProblem]:
        """Compare all copies, folder by folder; without `reads` only their sizes.

        A folder that cannot be opened or listed is one problem. Changes nothing.
        """
        folders: defaultdict[str, dict[str, FileFacts]] = defaultdict(dict)
        for manifest in await self._manifests.all():
            for address, facts in manifest.published.items():
                folder, _, name = address.rpartition("/")
                folders[folder][name] = facts
        for folder, files in sorted(folders.items()):
            self.count += len(files)
            try:
                async for problem in self._in_folder(folder, files, reads=reads):
                    yield problem
            except (ConfigurationError, StorageError) as error:
                # That of another account needs options of its own; the others are compared.
                yield CopyProblem(kind="unreadable_copy", address=folder, detail=str(error))

    async def _in_folder(
        self, folder: str, files: Mapping[str, FileFacts], *, reads: bool
    ) -> AsyncIterator[CopyProblem]:
        target = self._target(folder)
        sizes = await target.sizes("")
        entries = iter(files.items())
        while some := list(islice(entries, AT_ONCE)):
            found = await asyncio.gather(
                *(
                    self._problem(target, name, facts, sizes.get(name), reads=reads)
                    for name, facts in some
                )
            )
            for (name, _), problem in zip(some, found, strict=True):
                if problem is not None:
                    kind, detail = problem
                    yield CopyProblem(kind=kind, address=f"{folder}/{name}", detail=detail)

    async def _problem(
        self, target: Storage, name: str, facts: FileFacts, size: int | None, *, reads: bool
    ) -> tuple[CopyKind, str] | None:
        if size is None:
            return "missing_copy", "was published, and is not there"
        if not reads:
            if facts.size_bytes in (None, size):
                return None
            return "changed_copy", f"has {size:,} bytes instead of {facts.size_bytes:,}"
        try:
            data = await target.get(name)
        except FileNotFoundError:
            return "missing_copy", "was published, and is not there"
        except StorageError as error:  # It alone: the others of its folder are compared.
            return "unreadable_copy", str(error)
        if facts.sha256 in (None, digest := hashlib.sha256(data).hexdigest()):
            return None
        image = await self._read_image(str(facts.sha256))
        lost = marks_of(image) - marks_of(data) if image is not None else set[str]()
        if lost:
            return "unmarked_copy", f"lacks {', '.join(sorted(lost))}, which its image carries"
        return "changed_copy", f"has sha256 {digest[:12]}… instead of {str(facts.sha256)[:12]}…"
