"""The upkeep of a storage: verified, repaired, and added to from elsewhere. Nothing is sent."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from itertools import islice
from typing import Any, TypeAlias

from dagster_imagegen.engine.apart import run_apart
from dagster_imagegen.engine.repair import Repair
from dagster_imagegen.engine.settings import Settings
from dagster_imagegen.engine.verification import Verification, Verified
from dagster_imagegen.engine.wiring import Wiring

BROUGHT_AT_ONCE = 16
"""Images from elsewhere that are stored at a time."""

OnRead: TypeAlias = Callable[[int, int], None]
"""Gets the numbers of images that were read and of all, on another thread."""


def _ignore(_done: int, _total: int) -> None:
    pass


class Upkeep:
    """What can be done to a storage beside generating images."""

    def __init__(self, wiring: Wiring, settings: Settings) -> None:
        self._wiring = wiring
        self._lease_seconds = settings.limits.lease

    def verify(
        self, *, reads_images: bool = True, copies: bool = False, on_read: OnRead = _ignore
    ) -> Verified:
        """Compare the storage with its record; without `reads_images` of images only the sizes.

        With `copies` the published copies of images too. Changes nothing. Raises
        `ConfigurationError` for a usage table of a newer version.
        """
        return run_apart(lambda: self._verify(reads_images, on_read, copies=copies, sound=set()))

    def repair(
        self, *, reads_images: bool = True, on_read: OnRead = _ignore
    ) -> tuple[Verified, Verified]:
        """Repair what `verify` finds, as far as that needs no request.

        Returns what it found before and after.
        """
        repair = Repair(self._wiring)
        sound: set[str] = set()

        def verify() -> Coroutine[Any, Any, Verified]:
            return self._verify(reads_images, on_read, copies=False, sound=sound)

        async def run() -> tuple[Verified, Verified]:
            before = await verify()
            await repair.record(before.findings)
            # Without a damaged part, its images are orphans.
            between = await verify()
            await repair.images(between.findings)
            return before, await verify()

        return run_apart(run)

    async def _verify(
        self, reads_images: bool, on_read: OnRead, *, copies: bool, sound: set[str]
    ) -> Verified:
        verification = Verification(
            storage=self._wiring.storage,
            usage=self._wiring.usage,
            images=self._wiring.images,
            now=self._wiring.now().timestamp(),
            lease_seconds=self._lease_seconds,
            sound=sound,
            on_read=on_read,
            copies=self._wiring.published_copies if copies else None,
        )
        return await verification.run(reads_images=reads_images)

    def adopt(self, images: Iterable[tuple[str, Callable[[], bytes]]]) -> int:
        """Store images from elsewhere under the fingerprints that they answer, as adopted.

        Each is a fingerprint and what reads the bytes. Returns how many there were; fingerprints
        that have an image already are left out. Raises `StorageError` for what is no image.
        """
        stored = self._wiring.images

        async def adopt() -> int:
            there = await stored.note_brought()
            new = (each for each in images if each[0] not in there)
            count = 0
            try:
                while some := list(islice(new, BROUGHT_AT_ONCE)):
                    await asyncio.gather(*(stored.bring(name, read()) for name, read in some))
                    count += len(some)
            finally:
                await stored.keep_adopted()
            return count

        return run_apart(adopt)
