"""Publishes the images of an asset: copies to readable names, and only of what has changed."""

import asyncio
import contextlib
import hashlib
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import pyarrow as pa

from dagster_imagegen.engine.errors import StorageError
from dagster_imagegen.engine.patience import Patience, PatientStore
from dagster_imagegen.engine.publishing.claims import Claims
from dagster_imagegen.engine.publishing.manifests import (
    FileFacts,
    Files,
    Manifest,
    Manifests,
    without_extension,
)
from dagster_imagegen.engine.publishing.names import (
    ImageName,
    Names,
    Partition,
    Publication,
    key_of,
)
from dagster_imagegen.engine.storage import TEMPORARY_FOLDER, Storage

T = TypeVar("T")

AT_ONCE = 16
"""Files copied or removed at a time; the bytes of each can be in memory."""
EXTENSIONS = {"jpeg": "jpg"}
"""Of formats that have another name."""
MEDIA_TYPES = {"svg": "image/svg+xml"}
WITH_IMAGE = ("generated", "reused")
LEFT_ALONE = ("failed", "unknown", "deferred")
"""Rows that may get their image later: until then what is published for them stays."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """What became of one image table: the address of each row's published file, or None.

    `stale` are the addresses that no row wants any more, and that are still there.
    """

    addresses: tuple[str | None, ...]
    copied: int
    removed: tuple[str, ...]
    stale: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """A stored image, and what its published file must hold."""

    path: str
    media_type: str
    facts: FileFacts


@dataclass(frozen=True, kw_only=True)
class _Work:
    """What there is to do for one image table. `addresses` are those of its rows."""

    old: Manifest
    addresses: tuple[str | None, ...]
    wanted: Mapping[str, _Wanted]
    kept: Collection[str]
    stale: Files
    copies: tuple[str, ...] = ()


class Publisher:
    """Publishes the images of one asset below the folder of `target`.

    Args:
        publication: The names, and what becomes of stale ones.
        asset: Whose images they are.
        target: The publication's folder.
        images: The storage that the images are in.
        records: The storage of the record, for the manifests.
        patience: With failing calls of a store.
    """

    def __init__(
        self,
        publication: Publication,
        *,
        asset: str,
        target: Storage,
        images: Storage,
        records: Storage,
        patience: Patience,
    ) -> None:
        self._publication = publication
        self._folder = target
        self._target = PatientStore(target, patience)
        self._images = images
        self._manifests = Manifests(PatientStore(records, patience), asset)
        self.claims = Claims(self._manifests, target=target, storages=(images, records))

    async def publish(
        self, names: Names, tables: Mapping[Partition, pa.Table]
    ) -> dict[Partition, Published]:
        """Copy what is new or has changed, and remove what is stale if that is wanted.

        `tables` are the image tables of the same partitions, in each a row for each name. Raises
        `StorageError`; the next call goes on from there.
        """
        own = await self._manifests.own(names)
        works = [self._work(old, names[key], tables[key]) for key, old in own.items()]
        # Stale files alone may have become those of others.
        others = await self._manifests.others(names) if any(each.stale for each in works) else []
        works = await self._compared(works, _of_others(works, others))
        await self._manifests.save(_begun(each) for each in works if each.copies)
        await _for_each(
            [(address, each.wanted[address]) for each in works for address in each.copies],
            lambda item: self._copy(*item),
        )
        removed = await self._remove(works)
        await self._clear_temporaries()
        done = [_ended(each, removed) for each in works]
        await self._manifests.save(
            each for each, work in zip(done, works, strict=True) if each != _begun(work)
        )
        return {
            work.old.partition: Published(
                addresses=work.addresses,
                copied=len(work.copies),
                removed=tuple(sorted(each for each in work.stale if removed.get(each))),
                stale=tuple(sorted(each.stale)),
            )
            for each, work in zip(done, works, strict=True)
        }

    # -- what there is to do -------------------------------------------------------------------

    def _work(self, old: Manifest, names: Sequence[ImageName], table: pa.Table) -> _Work:
        columns = ["status", "path", "sha256", "size_bytes", "format"]
        rows = table.select([f"image_{each}" for each in columns]).to_pylist()
        addresses: list[str | None] = []
        wanted: dict[str, _Wanted] = {}
        left_alone: set[str] = set()
        for name, row in zip(names, rows, strict=True):
            address = None
            if row["image_status"] in WITH_IMAGE:
                image = _wanted(row)
                address = f"{self._folder.uri(name.text)}.{_extension(row)}"
                wanted[address] = image
            elif row["image_status"] in LEFT_ALONE:
                left_alone.add(key_of(self._folder.uri(name.text)))
            addresses.append(address)
        kept = {
            address
            for address in old.files
            if address not in wanted and key_of(without_extension(address)) in left_alone
        }
        known = {**old.stale, **old.published, **old.pending}
        stale = {
            address: facts
            for address, facts in known.items()
            if address not in wanted and address not in kept
        }
        return _Work(old=old, addresses=tuple(addresses), wanted=wanted, kept=kept, stale=stale)

    async def _compared(
        self, works: Collection[_Work], taken: Mapping[Partition, Collection[str]]
    ) -> list[_Work]:
        """The same with what is to be copied, and without stale names that are not ours or gone."""
        addresses = {each for work in works for each in (*work.wanted, *work.stale)}
        sizes = await self._sizes(addresses)
        return [
            replace(
                work,
                copies=tuple(
                    address
                    for address, image in work.wanted.items()
                    if _differs(image.facts, _known(work.old, address), sizes.get(address))
                ),
                stale={
                    address: facts
                    for address, facts in work.stale.items()
                    if key_of(address) not in taken[work.old.partition]
                    and (address in sizes or self._path(address) is None)
                },
            )
            for work in works
        ]

    async def _sizes(self, addresses: Iterable[str]) -> dict[str, int]:
        """The published files that are there; one listing for each folder."""
        paths = filter(None, map(self._path, addresses))
        folders = {path.rpartition("/")[0] for path in paths}
        sizes: dict[str, int] = {}

        async def list_one(folder: str) -> None:
            listed = await self._target.repeat(lambda: self._folder.sizes(folder))
            sizes.update({self._folder.uri(path): size for path, size in listed.items()})

        await _for_each(sorted(folders), list_one)
        return sizes

    def _path(self, address: str) -> str | None:
        """Its path below the template's folder; None for what an earlier template published
        elsewhere, which is never touched."""
        root = f"{self._folder.uri('')}/"
        path = address.removeprefix(root)
        return None if path == address or ".." in path.split("/") else path

    # -- doing it ------------------------------------------------------------------------------

    async def _copy(self, address: str, image: _Wanted) -> None:
        path = address.removeprefix(f"{self._folder.uri('')}/")
        try:
            await self._target.repeat(
                lambda: self._folder.copy(
                    self._images, image.path, path, media_type=image.media_type
                )
            )
        except FileNotFoundError as error:
            raise StorageError(
                f"{self._images.uri(image.path)} was deleted before it was published",
                can_pass=False,
            ) from error

    async def _remove(self, works: Collection[_Work]) -> dict[str, bool]:
        """Remove stale files, if that is wanted. Returns the addresses that are ours no more, and
        whether a file was removed there."""
        if self._publication.stale != "remove":
            return {}
        # On a disk that ignores case, "Mug.png" can be the "mug.png" that was just published.
        live = {key_of(address) for each in works for address in (*each.wanted, *each.kept)}
        removed: dict[str, bool] = {}

        async def remove(item: tuple[str, Manifest]) -> None:
            address, manifest = item
            path = self._path(address)
            if path is None or key_of(address) in live:
                return
            ours = await self._is_ours(path, manifest.sha256s(address))
            if ours:
                await self._target.delete([path])
            removed[address] = ours

        await _for_each([(each, work.old) for work in works for each in work.stale], remove)
        return removed

    async def _is_ours(self, path: str, sha256s: Collection[str | None]) -> bool:
        """Whether a file still holds what was published; somebody may have put another there."""
        try:
            data = await self._target.get(path)
        except FileNotFoundError:
            return False
        return hashlib.sha256(data).hexdigest() in sha256s

    async def _clear_temporaries(self) -> None:
        """Leave no empty folder of temporary files among what is public."""
        if self._folder.is_local:
            with contextlib.suppress(StorageError):
                await self._folder.delete([f"{TEMPORARY_FOLDER}/none"])


# -- of one file -----------------------------------------------------------------------------------


def _of_others(works: Collection[_Work], others: Iterable[Manifest]) -> dict[Partition, set[str]]:
    """For each partition, the addresses that another one or another asset has, without case."""
    taken = {key_of(address) for each in others for address in each.files}
    wanted = {
        each.old.partition: {key_of(address) for address in (*each.wanted, *each.kept)}
        for each in works
    }
    return {
        partition: taken.union(*(each for key, each in wanted.items() if key != partition))
        for partition in wanted
    }


def _wanted(row: Mapping[str, Any]) -> _Wanted:
    kind = row["image_format"] or ""
    return _Wanted(
        path=row["image_path"],
        media_type=MEDIA_TYPES.get(kind, f"image/{kind}"),
        facts=FileFacts(sha256=row["image_sha256"], size_bytes=row["image_size_bytes"]),
    )


def _extension(row: Mapping[str, Any]) -> str:
    found = row["image_format"] or str(row["image_path"]).rpartition(".")[2]
    return EXTENSIONS.get(found, found)


def _known(old: Manifest, address: str) -> FileFacts | None:
    """What a file holds; None if that is not certain: a process may have been copying it when it
    died, or another asset had its name while it was stale here."""
    return None if address in old.pending else old.published.get(address)


def _differs(wanted: FileFacts, known: FileFacts | None, size: int | None) -> bool:
    """Whether a file has to be copied: it is new, has changed, or somebody deleted or cut it."""
    return known != wanted or size is None or wanted.size_bytes not in (None, size)


def _begun(work: _Work) -> Manifest:
    """The manifest while files are copied: none of them is unknown if it ends there."""
    pending = {address: work.wanted[address].facts for address in work.copies}
    return replace(work.old, pending={**work.old.pending, **pending})


def _ended(work: _Work, removed: Collection[str]) -> Manifest:
    published = {address: image.facts for address, image in work.wanted.items()}
    stale = {address: facts for address, facts in work.stale.items() if address not in removed}
    kept = {each: facts for each, facts in work.old.published.items() if each in work.kept}
    pending = {each: facts for each, facts in work.old.pending.items() if each in work.kept}
    done = set(map(without_extension, published))
    return replace(
        work.old,
        claimed=tuple(each for each in work.old.claimed if each not in done),
        published={**kept, **published},
        pending=pending,
        stale=stale,
    )


async def _for_each(items: Iterable[T], call: Callable[[T], Coroutine[Any, Any, None]]) -> None:
    """Call for all items, a few at a time; at the first error no more are begun."""
    left = iter(list(items))

    async def work() -> None:
        for item in left:
            await call(item)

    tasks = [asyncio.ensure_future(work()) for _ in range(AT_ONCE)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
