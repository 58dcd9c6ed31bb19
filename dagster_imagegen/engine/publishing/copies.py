"""Whether published copies are there, are what was published, and carry the marks of origin."""

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import Literal, TypeAlias

from dagster_imagegen.engine.errors import ConfigurationError, StorageError
from dagster_imagegen.engine.provenance import marks_of
from dagster_imagegen.engine.publishing.manifests import FileFacts, Manifests
from dagster_imagegen.engine.storage import Storage

AT_ONCE = 16
"""Copies that are read at a time."""
GIVE_UP_AFTER = 32
"""After so many copies of an asset in a row that cannot be read, the rest are not tried: once the
credentials have lapsed, each would take its time and be a finding."""

CopyKind: TypeAlias = Literal["missing_copy", "changed_copy", "unmarked_copy", "unreadable_copy"]


@dataclass(frozen=True, kw_only=True)
class CopyProblem:
    """What is wrong with the published copy at an address."""

    kind: CopyKind
    address: str
    detail: str


_Folders: TypeAlias = Mapping[str, Mapping[str, FileFacts]]
"""By folder and by name in it."""


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
        """Compare all copies, asset by asset; without `reads` only their sizes.

        A folder that cannot be opened or listed is one problem. So are all copies of an asset
        together if none can be read, or if `GIVE_UP_AFTER` in a row cannot. Changes nothing.
        """
        for folders in (await self._folders()).values():
            async for problem in self._of_asset(folders, reads=reads):
                yield problem

    async def _folders(self) -> Mapping[str, _Folders]:
        """By asset: what it has published is mostly in one place, with one permission."""
        assets: defaultdict[str, defaultdict[str, dict[str, FileFacts]]]
        assets = defaultdict(lambda: defaultdict(dict))
        for manifest in await self._manifests.all():
            for address, facts in manifest.published.items():
                folder, _, name = address.rpartition("/")
                assets[manifest.asset][folder][name] = facts
        return dict(sorted(assets.items()))

    async def _of_asset(self, folders: _Folders, *, reads: bool) -> AsyncIterator[CopyProblem]:
        left = sum(map(len, folders.values()))
        unreadable: list[CopyProblem] = []
        none_was_read = True
        async for copies, problem in self._compared(folders, reads=reads):
            self.count += copies
            left -= copies
            if problem is not None and problem.kind == "unreadable_copy":
                unreadable.append(problem)
                if len(unreadable) == GIVE_UP_AFTER:
                    break
                continue
            none_was_read = False
            for each in (*unreadable, problem):
                if each is not None:
                    yield each
            unreadable.clear()
        if len(unreadable) == GIVE_UP_AFTER or (none_was_read and len(unreadable) > 1):
            yield _one_of(unreadable, left=left)
            return
        for each in unreadable:
            yield each

    async def _compared(
        self, folders: _Folders, *, reads: bool
    ) -> AsyncIterator[tuple[int, CopyProblem | None]]:
        """For each copy, or each folder that cannot be listed: how many they are, the problem."""
        for folder, files in sorted(folders.items()):
            try:
                target = self._target(folder)
                sizes = await target.sizes("")
            except (ConfigurationError, StorageError) as error:
                # That of another account needs options of its own; the others are compared.
                problem = CopyProblem(kind="unreadable_copy", address=folder, detail=str(error))
                yield len(files), problem
                continue
            async for each in self._in_folder(target, folder, files, sizes, reads=reads):
                yield 1, each

    async def _in_folder(
        self,
        target: Storage,
        folder: str,
        files: Mapping[str, FileFacts],
        sizes: Mapping[str, int],
        *,
        reads: bool,
    ) -> AsyncIterator[CopyProblem | None]:
        entries = iter(files.items())
        while some := list(islice(entries, AT_ONCE)):
            found = await asyncio.gather(
                *(
                    self._problem(target, name, facts, sizes.get(name), reads=reads)
                    for name, facts in some
                )
            )
            for (name, _), problem in zip(some, found, strict=True):
                if problem is None:
                    yield None
                else:
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
        except StorageError as error:
            return "unreadable_copy", str(error)
        if facts.sha256 in (None, digest := hashlib.sha256(data).hexdigest()):
            return None
        image = await self._read_image(str(facts.sha256))
        lost = marks_of(image) - marks_of(data) if image is not None else set[str]()
        if lost:
            return "unmarked_copy", f"lacks {', '.join(sorted(lost))}, which its image carries"
        return "changed_copy", f"has sha256 {digest[:12]}… instead of {str(facts.sha256)[:12]}…"


def _one_of(unreadable: Sequence[CopyProblem], *, left: int) -> CopyProblem:
    """One problem in the place of many; its address is the folder that they share."""
    parts = [each.address.split("/") for each in unreadable]
    shared = takewhile(lambda same: len(set(same)) == 1, zip(*parts, strict=False))
    untried = f", and the other {left:,} were not tried" if left else ""
    return CopyProblem(
        kind="unreadable_copy",
        address="/".join(each[0] for each in shared),
        detail=f"{len(unreadable)} in a row could not be read{untried}; the last: "
        f"{unreadable[-1].detail}",
    )
