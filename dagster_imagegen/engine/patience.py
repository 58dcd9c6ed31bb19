"""Patience with a store: each failing call of it is repeated, for a while."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from dagster_imagegen.engine.errors import StorageError
from dagster_imagegen.engine.storage import ObjectStore, StoredObject, WriterLock

T = TypeVar("T")

NEVER_ANSWERED_SECONDS = 60.0
"""The patience with a store that has never answered: its address is probably wrong."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a failing call of a store is repeated: for so many attempts, and for so long.

    The first wait is `backoff_seconds`; it doubles up to `backoff_max_seconds`. An error that will
    not pass, such as a missing permission, gets the attempts and no further time.
    """

    attempts: int = 6
    seconds: float = 0.0
    backoff_seconds: float = 0.25
    backoff_max_seconds: float = 5.0


class PatientStore:
    """An `ObjectStore` that repeats each failing call of another one.

    Also `put` is repeated: with the same bytes, so that it does not matter whether an earlier try
    took effect.
    """

    def __init__(self, store: ObjectStore, patience: Patience) -> None:
        self._store = store
        self._patience = patience
        self._has_answered = False
        self._hurries = False

    def hurry(self) -> None:
        """Give each failing call from now on its attempts only: somebody waits for the end."""
        self._hurries = True

    async def _call(
        self, call: Callable[[], Awaitable[T]], *, failed: Callable[[], None] | None = None
    ) -> T:
        """Repeat a call that is safe to repeat; raises the last `StorageError`."""
        clock, patience = asyncio.get_running_loop().time, self._patience
        tries, wait, began_at = 0, patience.backoff_seconds, clock()
        while True:
            tries += 1
            try:
                result = await call()
            except FileNotFoundError:
                self._has_answered = True
                raise
            except StorageError as error:
                waited = clock() - began_at
                if tries >= patience.attempts and not self._bears(error, waited):
                    raise
            else:
                self._has_answered = True
                return result
            if failed is not None:
                failed()
            await asyncio.sleep(wait)
            wait = min(2 * wait, max(patience.backoff_max_seconds, patience.backoff_seconds))

    def _bears(self, error: StorageError, waited: float) -> bool:
        """Whether a call is repeated though its attempts are used up."""
        if self._hurries or not error.can_pass:
            return False
        seconds = self._patience.seconds
        return waited < (seconds if self._has_answered else min(seconds, NEVER_ANSWERED_SECONDS))

    async def put(self, path: str, data: bytes) -> None:
        """`ObjectStore.put`, repeated."""
        await self._call(lambda: self._store.put(path, data))

    async def put_however_long(self, path: str, data: bytes, *, failed: Callable[[], None]) -> None:
        """`put`; `failed` is called after each failure that is followed by another try."""
        await self._call(lambda: self._store.put(path, data), failed=failed)

    async def put_locked(self, path: str, data: bytes) -> WriterLock | None:
        """`ObjectStore.put_locked`, repeated."""
        return await self._call(lambda: self._store.put_locked(path, data))

    async def is_locked(self, path: str) -> bool | None:
        """`ObjectStore.is_locked`, repeated."""
        return await self._call(lambda: self._store.is_locked(path))

    async def get(self, path: str) -> bytes:
        """`ObjectStore.get`, repeated."""
        return await self._call(lambda: self._store.get(path))

    async def list(self, folder: str, *, prefix: str = "") -> dict[str, StoredObject]:
        """`ObjectStore.list`, repeated."""
        return await self._call(lambda: self._store.list(folder, prefix=prefix))

    async def delete(self, paths: Iterable[str]) -> None:
        """`ObjectStore.delete`, repeated."""
        doomed = tuple(paths)
        await self._call(lambda: self._store.delete(doomed))
