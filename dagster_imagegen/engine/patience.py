"""Patience with a store: each failing call of it is repeated, for a while."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from dagster_imagegen.engine.errors import StorageError
from dagster_imagegen.engine.machine import is_out_of_files
from dagster_imagegen.engine.storage import ObjectStore, StoredObject, WriterLock

T = TypeVar("T")

NEVER_ANSWERED_SECONDS = 60.0
"""The patience with a store that has never answered: its address is probably wrong."""
LASTING_ATTEMPTS = 3
"""For a bucket that is not there or a missing permission: keys that are renewed fail a moment."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a failing call of a store is repeated: for so many attempts, and for so long.

    The first wait is `backoff_seconds`; it doubles up to `backoff_max_seconds`. An error that will
    not pass, such as a missing permission, gets `LASTING_ATTEMPTS` and no further time.

    Calls that fail because this process has too many files open are repeated for as long as
    `scarce_seconds`, and count as neither attempts nor time: its own requests are what keeps the
    files open, and those end.
    """

    attempts: int = 6
    seconds: float = 0.0
    backoff_seconds: float = 0.25
    backoff_max_seconds: float = 5.0
    scarce_seconds: float = 600.0


@dataclass(kw_only=True)
class _Tries:
    """What became of one call so far. `scarce` are the seconds that count for nothing."""

    began_at: float
    wait: float
    asked_at: float = 0.0
    failed: int = 0
    scarce: float = 0.0

    @property
    def waited(self) -> float:
        """From the first try to the last.

        Not to now: a process that was suspended in the last one tries again when it goes on.
        """
        return self.asked_at - self.began_at - self.scarce


class PatientStore:
    """An `ObjectStore` that repeats each failing call of another one.

    Also `put` is repeated: with the same bytes, so that it does not matter whether an earlier try
    took effect.
    """

    def __init__(self, store: ObjectStore, patience: Patience) -> None:
        self.once = store
        """The store itself, whose calls are not repeated."""
        self._patience = patience
        self._has_answered = False
        self._failing: Callable[[], float] | None = None
        self._hurries = False

    def describe(self) -> str | None:
        """`waiting for the storage for 45 s`; None while it answers."""
        failing_for = self._failing  # Asked from another thread, it may end at any moment.
        return failing_for and f"waiting for the storage for {failing_for():,.0f} s"

    def hurry(self) -> None:
        """Give each failing call from now on its attempts only: somebody waits for the end."""
        self._hurries = True

    async def repeat(
        self, call: Callable[[], Awaitable[T]], *, failed: Callable[[], None] = lambda: None
    ) -> T:
        """Repeat a call that is safe to repeat; raises the last `StorageError`.

        `failed` is called after each failure that is followed by another try.
        """
        clock = asyncio.get_running_loop().time
        tries = _Tries(began_at=clock(), wait=self._patience.backoff_seconds)
        while True:
            tries.asked_at = clock()
            try:
                result = await call()
            except FileNotFoundError:
                self._answers()
                raise
            except StorageError as error:
                pause = self._pause_after(error, tries)
                if tries.failed:
                    self._failing = self._failing or (lambda: clock() - tries.began_at)
                if pause is None:
                    raise
            else:
                self._answers()
                return result
            failed()
            await asyncio.sleep(pause)

    def _pause_after(self, error: StorageError, tries: "_Tries") -> float | None:
        """How long to wait before the next try; None: there is none."""
        patience = self._patience
        if is_out_of_files(error) and tries.scarce < patience.scarce_seconds:
            tries.scarce += patience.backoff_seconds
            return patience.backoff_seconds
        tries.failed += 1
        most = patience.attempts if error.can_pass else min(LASTING_ATTEMPTS, patience.attempts)
        if tries.failed >= most and not self._bears(error, tries.waited):
            return None
        pause, tries.wait = tries.wait, min(2 * tries.wait, self._wait_max)
        return pause

    @property
    def _wait_max(self) -> float:
        return max(self._patience.backoff_max_seconds, self._patience.backoff_seconds)

    def _answers(self) -> None:
        self._has_answered, self._failing = True, None

    def _bears(self, error: StorageError, waited: float) -> bool:
        """Whether a call is repeated though its attempts are used up."""
        if self._hurries or not error.can_pass:
            return False
        seconds = self._patience.seconds
        return waited < (seconds if self._has_answered else min(seconds, NEVER_ANSWERED_SECONDS))

    async def put(self, path: str, data: bytes) -> None:
        """`ObjectStore.put`, repeated."""
        await self.repeat(lambda: self.once.put(path, data))

    async def put_locked(self, path: str, data: bytes) -> WriterLock | None:
        """`ObjectStore.put_locked`, repeated."""
        return await self.repeat(lambda: self.once.put_locked(path, data))

    async def is_locked(self, path: str) -> bool | None:
        """`ObjectStore.is_locked`, repeated."""
        return await self.repeat(lambda: self.once.is_locked(path))

    async def get(self, path: str) -> bytes:
        """`ObjectStore.get`, repeated."""
        return await self.repeat(lambda: self.once.get(path))

    async def list(self, folder: str, *, prefix: str = "") -> dict[str, StoredObject]:
        """`ObjectStore.list`, repeated."""
        return await self.repeat(lambda: self.once.list(folder, prefix=prefix))

    async def folders(self, folder: str) -> Sequence[str]:
        """`ObjectStore.folders`, repeated."""
        return await self.repeat(lambda: self.once.folders(folder))

    async def delete(self, paths: Iterable[str]) -> None:
        """`ObjectStore.delete`, repeated."""
        doomed = tuple(paths)
        await self.repeat(lambda: self.once.delete(doomed))
