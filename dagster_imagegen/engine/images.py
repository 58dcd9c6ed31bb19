"""Images in storage, named by what was asked for and by the attempt that they came from."""

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeVar

from dagster_imagegen.engine.endpoint.response import GeneratedImage
from dagster_imagegen.engine.errors import StorageError
from dagster_imagegen.engine.image_header import read_header
from dagster_imagegen.engine.ledger import Limits, persist
from dagster_imagegen.engine.money.price_list import PriceList
from dagster_imagegen.engine.rows import (
    OUTCOME_LOST,
    SANDBOX,
    cost_columns,
    image_columns,
    lost_columns,
    stored_image_columns,
)
from dagster_imagegen.engine.storage import TEMPORARY_FOLDER, Storage
from dagster_imagegen.engine.usage import Row

T = TypeVar("T")

FOLDER = "images"


class Images:
    """The images of one storage; the `ImageShelf` of a ledger.

    `aside` is on this machine's disk: there an image waits that is paid for and that the storage
    would not take.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        aside: Storage,
        prices: PriceList,
        now: Callable[[], datetime],
        limits: Limits | None = None,
    ) -> None:
        self._storage = storage
        self._aside = aside
        self._prices = prices
        self._now = now
        self._limits = limits or Limits()

    async def save(self, image: GeneratedImage, *, fingerprint: str, attempt_id: str) -> Row:
        """Store the exact bytes, trying for a while; the image's columns. Raises `StorageError`."""
        path = _path(fingerprint, attempt_id, image.format)
        await self._persist(lambda: self._storage.put(path, image.data))
        return image_columns(image, path=path)

    async def set_aside(self, image: GeneratedImage, *, fingerprint: str, attempt_id: str) -> str:
        """Keep an image that the storage does not take; where it is now, on this machine."""
        path = _path(fingerprint, attempt_id, image.format)
        await self._aside.put(path, image.data)
        return self._aside.uri(path)

    async def bring_back(self) -> int:
        """Store what an earlier pass on this machine set aside; how many there were."""
        waiting = await self._aside.list(FOLDER)
        for path in waiting:
            # Gone meanwhile: another pass on this machine is at the same, and has stored it.
            with contextlib.suppress(FileNotFoundError):
                await self._bring_back(path, await self._aside.get(path))
        return len(waiting)

    async def _bring_back(self, path: str, data: bytes) -> None:
        await self._persist(lambda: self._storage.put(path, data))
        await self._aside.delete([path])

    async def check_writable(self) -> None:
        """Raise `StorageError` if nothing can be written here: before money is spent on it."""
        probe = f"{TEMPORARY_FOLDER}/{secrets.token_hex(8)}.tmp"
        await self._persist(lambda: self._storage.put(probe, b""))
        await self._persist(lambda: self._storage.delete([probe]))

    async def arrived(self, fingerprint: str) -> Mapping[str, str]:
        """`find`, trying for a while."""
        return await self._persist(lambda: self.find(fingerprint))

    async def find(self, fingerprint: str) -> Mapping[str, str]:
        """The paths of a fingerprint's images, by attempt. The ledger repeats it itself."""
        listed = await self._storage.list(_folder(fingerprint), prefix=f"{fingerprint}.")
        return {_attempt_of(path): path for path in listed}

    async def missing(self, paths: Collection[str]) -> set[str]:
        """Those of the paths where nothing lies any more; one listing for each folder."""
        folders = sorted({path.rpartition("/")[0] for path in paths})
        listed = await asyncio.gather(*(self._listed(folder) for folder in folders))
        there = {path for listing in listed for path in listing}
        return {path for path in paths if path not in there}

    async def _listed(self, folder: str) -> Collection[str]:
        return await self._persist(lambda: self._storage.list(folder))

    async def adopt(self, attempt_id: str, path: str, *, row: Row | None) -> Row:
        """The row of an image that is there, whatever its attempt's row says of it so far.

        A save that ended after its process was given up, or one that was set aside and brought
        back. Raises `StorageError` if there is no image to read.
        """
        try:
            data = await self._persist(lambda: self._storage.get(path))
        except FileNotFoundError as error:
            raise StorageError(f"{path} was deleted while it was looked at") from error
        return {
            "cost_usd": None,
            "cost_basis": "unknown",
            **(row or {}),
            "attempt_id": attempt_id,
            "fingerprint": path.rpartition("/")[2].split(".")[0],
            "status": "succeeded",
            "error_code": None,
            "error_message": None,
            **stored_image_columns(data, path=path),
        }

    async def recover(self, intent: Row, path: str) -> Row:
        """The outcome of an attempt whose image is there and whose answer is lost.

        Its cost is estimated from what was asked for. What lies there and is no image tells
        nothing: then the attempt is `lost`.
        """
        data = await self._storage.get(path)
        if read_header(data) is None:
            return self.lost(intent)
        estimate = self._prices.cost(
            intent["model"],
            tokens=None,
            reported_usd=None,
            size=intent.get("size"),
            quality=intent.get("quality"),
            partial_images=intent.get("partial_images") or 0,
        )
        sandbox = intent.get("endpoint_id") == SANDBOX
        columns = cost_columns(estimate, sandbox=sandbox)
        if columns["cost_usd"] is None and isinstance(intent.get("worst_case_usd"), Decimal):
            columns = {"cost_usd": intent["worst_case_usd"], "cost_basis": "estimated"}
        return {
            "status": "succeeded",
            "billing": "not_billed" if sandbox else "billed",
            "finished_at": self._now(),
            **columns,
            **stored_image_columns(data, path=path),
        }

    def lost(self, intent: Row) -> Row:
        """The outcome of an attempt whose process ended before its outcome was on record."""
        return lost_columns(
            intent,
            finished_at=self._now(),
            code=OUTCOME_LOST,
            message="the process ended before the outcome of this request was on record",
        )

    def _persist(self, call: Callable[[], Awaitable[T]]) -> Coroutine[Any, Any, T]:
        return persist(call, limits=self._limits)


def _path(fingerprint: str, attempt_id: str, image_format: str) -> str:
    return f"{_folder(fingerprint)}/{fingerprint}.{attempt_id}.{image_format}"


def _folder(fingerprint: str) -> str:
    return f"{FOLDER}/{fingerprint[:2]}"


def _attempt_of(path: str) -> str:
    return path.rpartition("/")[2].split(".")[1]
