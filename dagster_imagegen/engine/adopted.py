"""What was read of images that are in storage though no attempt on record brought them.

A lost record, or a save that ended after its pass, leaves such an image. No row of the usage table
can say so: one row is one request, it is never edited, and nobody knows what that request cost. So
what the image table needs of the image is kept apart, in objects that are added and never edited.
They may be deleted at any time: then the images are read again.
"""

import contextlib
import json
import secrets
from collections.abc import Collection
from dataclasses import asdict

from dagster_imagegen.engine.attempt import ImageFile
from dagster_imagegen.engine.errors import StorageError
from dagster_imagegen.engine.patience import PatientStore

FOLDER = "_adopted"


class AdoptedImages:
    """The adopted images of one storage, by path."""

    def __init__(self, store: PatientStore) -> None:
        self._store = store
        self._read: set[str] = set()
        self._files: dict[str, ImageFile] = {}
        self._unsaved: dict[str, ImageFile] = {}

    async def load(self) -> Collection[str]:
        """Read what passes have kept; returns the paths of all images that are known."""
        for name in (await self._store.list(FOLDER)).keys() - self._read:
            # Deleted, torn or of a newer version: the images themselves are read again.
            with contextlib.suppress(FileNotFoundError, ValueError, TypeError):
                for line in (await self._store.get(name)).decode().splitlines():
                    file = ImageFile(**json.loads(line))
                    self._files[file.path] = file
            self._read.add(name)
        return set(self._files)  # A copy: another pass of this engine may add to it.

    def get(self, path: str) -> ImageFile | None:
        """What is known of an image."""
        return self._files.get(path)

    def add(self, file: ImageFile) -> None:
        """Note what was read of an image, for `save`."""
        self._files[file.path] = self._unsaved[file.path] = file

    async def save(self) -> None:
        """Keep what was added, in one object, if the storage takes it at the first try.

        A failure is no error: the images are read again then.
        """
        files, self._unsaved = self._unsaved, {}
        if files:
            lines = "".join(f"{json.dumps(asdict(file))}\n" for file in files.values())
            with contextlib.suppress(StorageError):
                # Once: no run waits for a storage that is away only to save reading.
                await self._store.once.put(f"{FOLDER}/{secrets.token_hex(8)}.jsonl", lines.encode())
