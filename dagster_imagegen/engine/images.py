"""Images in storage, named by what was requested and by the attempt that they came from."""

import asyncio
import contextlib
import hashlib
import re
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import TypeAlias
from weakref import WeakKeyDictionary

import pyarrow as pa
import pyarrow.compute as pc

from dagster_imagegen.engine.adopted import AdoptedImages
from dagster_imagegen.engine.attempt import (
    NO_IDENTITY,
    OUTCOME_LOST,
    SANDBOX,
    SANDBOX_COST,
    Attempt,
    ImageFile,
    RequestRecord,
    Result,
)
from dagster_imagegen.engine.endpoint.response import GeneratedImage
from dagster_imagegen.engine.errors import StorageError
from dagster_imagegen.engine.image_header import ImageHeader, read_header
from dagster_imagegen.engine.money.price_list import PriceList
from dagster_imagegen.engine.patience import Patience, PatientStore
from dagster_imagegen.engine.prompts.rows import Column
from dagster_imagegen.engine.provenance import provenance
from dagster_imagegen.engine.storage import TEMPORARY_FOLDER, Storage, StoredObject

FOLDER = "images"
BROUGHT = "adopted-"
"""What the names of images from elsewhere have in the place of an attempt."""
FOLDERS_AT_ONCE = 32
"""How many folders are listed at a time."""
HELD_BYTES_MAX = 256 * 1024 * 1024
"""How much waits in memory for a storage that is away."""

_IMAGE = re.compile(rf"{FOLDER}/([0-9a-f]{{2}})/\1[0-9a-f]{{62}}\.[^./]+\.[a-z]+")


@dataclass(eq=False, kw_only=True)
class UnsavedImage:
    """An image that is paid for and not yet stored. `data` is None once it is spilled."""

    file: ImageFile
    path: str
    data: bytes | None
    held_bytes: int = 0


class Images:
    """The images of one storage.

    Args:
        storage: where the images are; its failing calls are repeated.
        spill: a folder on this machine's disk, for images that are paid for and that the storage
            does not take.
        prices: for the cost of images whose answer was lost.
        now: the time of day.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        spill: Storage,
        prices: PriceList,
        now: Callable[[], datetime],
        patience: Patience,
    ) -> None:
        self._storage = PatientStore(storage, patience)
        self._store = storage
        self._finding = _Finding(storage, self._storage)
        self._adopted = AdoptedImages(self._storage)
        self._spill = spill
        self._aside = PatientStore(spill, replace(patience, attempts=1, seconds=0.0))
        self._prices = prices
        self._now = now
        self._held_bytes = 0
        """Of images that wait in memory because the storage failed to take them."""

    @property
    def paused(self) -> str | None:
        """`waiting for the storage for 45 s`, while it takes no image."""
        return self._storage.describe()

    def uri(self, path: str) -> str:
        """The absolute address of an image."""
        return self._store.uri(path)

    def unsaved(
        self, image: GeneratedImage, *, fingerprint: str, attempt_id: str
    ) -> "UnsavedImage":
        """An image that arrived, for `save`. Keep no other reference to its bytes."""
        path = _path(fingerprint, attempt_id, image.format)
        return UnsavedImage(file=_image_file(path, image.data, image), path=path, data=image.data)

    async def save(
        self, image: "UnsavedImage", *, failed: Callable[[], None] = lambda: None
    ) -> ImageFile:
        """Store the exact bytes. Raises `StorageError` when patience with the storage ends.

        `failed` is called after each failure that is followed by another try. Until the storage
        takes them, images wait in memory, and beyond `HELD_BYTES_MAX` on this machine's disk.
        """
        try:
            await self._storage.repeat(lambda: self._try_to_save(image), failed=failed)
        finally:
            self._held_bytes -= image.held_bytes
            image.held_bytes = 0
        if image.data is None:
            await self._aside.delete([image.path])
        return image.file

    async def _try_to_save(self, image: "UnsavedImage") -> None:
        if self._held_bytes > HELD_BYTES_MAX and image.held_bytes:
            await self.spill(image)
        data = image.data
        try:
            if data is None:
                data = await self._aside.get(image.path)
            await self._storage.once.put(image.path, data)
        except FileNotFoundError:
            return  # Another pass on this machine has stored what was spilled.
        except StorageError:
            if image.data is not None and not image.held_bytes:
                image.held_bytes = len(image.data)
                self._held_bytes += image.held_bytes
            raise

    async def spill(self, image: "UnsavedImage") -> str:
        """Keep an image that the storage does not take on this machine; returns where."""
        if image.data is not None:
            # Out of files, it waits: there is no third place.
            await self._aside.put(image.path, image.data)
            image.data = None
            self._held_bytes -= image.held_bytes
            image.held_bytes = 0
        return self._spill.uri(image.path)

    async def restore_spilled(self) -> int:
        """Store what earlier passes on this machine spilled; returns how many images that were."""
        waiting = await self._aside.list(FOLDER)
        for path in waiting:
            # Not found: another pass on this machine has stored it in the meantime.
            with contextlib.suppress(FileNotFoundError):
                await self._storage.put(path, await self._aside.get(path))
                await self._aside.delete([path])
        return len(waiting)

    async def check_writable(self) -> None:
        """Raise `StorageError` if nothing can be written here, before money is spent."""
        probe = f"{TEMPORARY_FOLDER}/{secrets.token_hex(8)}.tmp"
        await self._storage.put(probe, b"")
        await self._storage.delete([probe])

    async def find(self, fingerprint: str) -> Mapping[str, str]:
        """The paths of a fingerprint's images, by the attempt that each came from."""
        return await self._finding.find(fingerprint)

    async def missing(self, wanted: Collection[str] | Column) -> set[str]:
        """Those of the paths where there is no image any more; one listing for each folder."""
        is_column = isinstance(wanted, pa.ChunkedArray)
        paths = wanted if is_column else pa.chunked_array([[*wanted]], pa.string())
        by_folder = pc.replace_substring_regex(paths, "/[^/]*$", "").combine_chunks()
        by_folder = by_folder.dictionary_encode()

        def gone_of(number: int, folder: str, names: Sequence[str]) -> list[str]:
            there = pa.array([f"{folder}/{name}" for name in names], pa.string())
            mine: Column = paths.filter(pc.equal(by_folder.indices, pa.scalar(number)))
            gone = mine.filter(pc.invert(pc.is_in(mine, there)))
            found = [str(path) for path in gone.to_pylist()]
            del there, mine, gone
            # Otherwise each thread keeps what it needed: with large tables it is hundreds of MB.
            pa.default_memory_pool().release_unused()
            return found

        async def gone(number: int, folder: str) -> list[str]:
            async with at_once:
                names = await self._storage.repeat(lambda: self._store.names(folder))
                return await asyncio.to_thread(gone_of, number, folder, names)

        # The names in all folders are never in memory together.
        at_once = asyncio.Semaphore(FOLDERS_AT_ONCE)
        folders = by_folder.dictionary.to_pylist()
        found = await asyncio.gather(*(gone(*each) for each in enumerate(map(str, folders))))
        return {path for each in found for path in each}

    async def adopted(self) -> set[str]:
        """The fingerprints of the images that were adopted so far."""
        return {_fingerprint_of(path) for path in await self._adopted.load()}

    async def adopted_files(self) -> Mapping[str, ImageFile]:
        """What was read of the images that were adopted so far, by path."""
        paths = await self._adopted.load()
        return {path: file for path in paths if (file := self._adopted.get(path)) is not None}

    async def spilled(self) -> Collection[str]:
        """The paths of images that earlier passes on this machine spilled."""
        return (await self._aside.list(FOLDER)).keys()

    async def note_brought(self) -> set[str]:
        """The fingerprints of all images that are stored.

        Of what `bring` stored, what an interruption kept from being noted is noted, for
        `keep_adopted`. What cannot be read is left to a verification.
        """
        paths = await self._storage.list(FOLDER)
        known = await self._adopted.load()
        for path in paths:
            if f".{BROUGHT}" in path and path not in known:
                with contextlib.suppress(StorageError):
                    await self._read_to_adopt(path)
        return {_fingerprint_of(path) for path in paths}

    async def bring(self, fingerprint: str, data: bytes) -> None:
        """Store and adopt an image from elsewhere; call `keep_adopted` after the last one.

        Raises `StorageError` for bytes that are no image.
        """
        header = read_header(data)
        if header is None:
            raise StorageError("it is not an image of a known format", can_pass=False)
        # The same image has the same name again, so that a repetition changes nothing.
        name = f"{BROUGHT}{hashlib.sha256(data).hexdigest()[:16]}"
        path = _path(fingerprint, name, header.format)
        await self._storage.put(path, data)
        self._adopted.add(_image_file(path, data, header))

    async def keep_adopted(self) -> None:
        """Keep what was read of adopted images, so that no later pass reads them."""
        await self._adopted.save()

    async def adopt(self, attempt_id: str, path: str, attempt: Attempt | None) -> Attempt:
        """The attempt of an image that is stored, as succeeded, whatever is on record of it.

        Its save ended after its process was given up, or it was spilled and restored. Raises
        `StorageError` if there is no image to read.
        """
        image = self._adopted.get(path) or await self._read_to_adopt(path)
        if attempt is None:
            request = RequestRecord(fingerprint=_fingerprint_of(path))
            attempt = Attempt(attempt_id=attempt_id, identity=NO_IDENTITY, request=request)
        result = attempt.result or Result(status="succeeded")
        made = replace(result, status="succeeded", error_code=None, error_message=None, image=image)
        return replace(attempt, result=made)

    async def _read_to_adopt(self, path: str) -> ImageFile:
        try:
            image = _read_image_file(path, await self._storage.get(path))
        except FileNotFoundError as error:
            raise StorageError(f"{path} was deleted while it was read") from error
        if image is None:
            raise StorageError(f"{path} is not an image of a known format")
        self._adopted.add(image)
        return image

    async def recover(self, attempt: Attempt, path: str) -> Result:
        """The result of an attempt whose image is stored and whose answer was lost.

        Its cost is estimated from the request. A file that is no image proves nothing: then the
        attempt is `lost`.
        """
        image = _read_image_file(path, await self._storage.get(path))
        if image is None:
            return self.lost(attempt)
        asked = attempt.request.parameters
        sandbox = attempt.request.endpoint_id == SANDBOX
        cost = self._prices.cost(
            asked.get("model", ""),
            size=asked.get("size"),
            quality=asked.get("quality"),
            partial_images=asked.get("partial_images") or 0,
        ).at_most(attempt.worst_case)
        if cost.usd is None:
            cost = attempt.worst_case
        return Result(
            status="succeeded",
            billing="not_billed" if sandbox else "billed",
            finished_at=self._now(),
            cost=SANDBOX_COST if sandbox else cost,
            image=image,
        )

    def lost(self, attempt: Attempt) -> Result:
        """The result of an attempt whose process ended before its outcome was on record."""
        sandbox = attempt.request.endpoint_id == SANDBOX
        return Result(
            status="unknown",
            billing="not_billed" if sandbox else "unknown",
            finished_at=self._now(),
            error_code=OUTCOME_LOST,
            error_message="the process ended before the outcome of this request was on record",
            cost=SANDBOX_COST if sandbox else attempt.worst_case,
        )


_Asked: TypeAlias = list[tuple[str, "asyncio.Future[Mapping[str, str]]"]]
"""The fingerprints that are asked for, and who waits for the answers."""


class _Finding:
    """Looks for the images of several fingerprints at once: all that are asked for at a time.

    After a commit each of its intents asks, and a call of its own for each takes a thread.
    """

    def __init__(self, storage: Storage, patient: PatientStore) -> None:
        self._storage = storage
        self._patient = patient
        self._waiting: WeakKeyDictionary[asyncio.AbstractEventLoop, _Asked] = WeakKeyDictionary()
        """By event loop: passes on other threads have their own, and a future is of one loop."""
        self._tasks: set[asyncio.Task[None]] = set()

    async def find(self, fingerprint: str) -> Mapping[str, str]:
        """The paths of a fingerprint's images, by attempt."""
        loop = asyncio.get_running_loop()
        asked = self._waiting.get(loop)
        if asked is None:
            asked = self._waiting[loop] = []
            task = asyncio.create_task(self._find_all())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        found: asyncio.Future[Mapping[str, str]] = loop.create_future()
        asked.append((fingerprint, found))
        return await found

    async def _find_all(self) -> None:
        waiting = self._waiting.pop(asyncio.get_running_loop())
        wanted = [(_folder(each), f"{each}.") for each, _ in waiting]
        try:
            listings = await self._listings(wanted)
        except asyncio.CancelledError:
            for _, found in waiting:
                found.cancel()
            raise
        except Exception as error:  # noqa: BLE001  # handed to whoever waits
            for _, found in waiting:
                if not found.done():  # Cancelled.
                    found.set_exception(error)
            return
        for (_, found), listing in zip(waiting, listings, strict=True):
            if not found.done():
                found.set_result({_attempt_of(path): path for path in listing})

    async def _listings(
        self, wanted: Sequence[tuple[str, str]]
    ) -> Sequence[Mapping[str, StoredObject]]:
        """What each folder holds with its prefix; on a local disk in one call for all.

        Elsewhere a listing that fails is repeated alone: of many, one may fail each time.
        """
        storage, repeat = self._storage, self._patient.repeat
        if storage.is_local:
            return await repeat(lambda: storage.list_each(wanted))
        calls = (partial(storage.list, folder, prefix=prefix) for folder, prefix in wanted)
        return await asyncio.gather(*map(repeat, calls))


def is_image_path(path: str) -> bool:
    """Whether an image can be there. Another path in a row may lead anywhere: it is not opened."""
    return _IMAGE.fullmatch(path) is not None


def _read_image_file(path: str, data: bytes) -> ImageFile | None:
    header = read_header(data)
    return None if header is None else _image_file(path, data, header)


def _image_file(path: str, data: bytes, header: ImageHeader | GeneratedImage) -> ImageFile:
    return ImageFile(
        path=path,
        sha256=hashlib.sha256(data).hexdigest(),
        size_bytes=len(data),
        format=header.format,
        width=header.width,
        height=header.height,
        partial=header.partial if isinstance(header, GeneratedImage) else None,
        provenance=provenance(data),
    )


def _path(fingerprint: str, attempt_id: str, image_format: str) -> str:
    return f"{_folder(fingerprint)}/{fingerprint}.{attempt_id}.{image_format}"


def _folder(fingerprint: str) -> str:
    return f"{FOLDER}/{fingerprint[:2]}"


def _fingerprint_of(path: str) -> str:
    return path.rpartition("/")[2].split(".")[0]


def _attempt_of(path: str) -> str:
    return path.rpartition("/")[2].split(".")[1]
