"""The small pictures of a gallery, one file for each image, made once."""

import io
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from dagster_imagegen.decoding import FORMATS, IMAGE_BYTES_MAX, small_image, without_warnings
from dagster_imagegen.engine.storage import Storage
from dagster_imagegen.gallery.entries import Row

FOLDER = "thumbs"
SIDE = 320
QUALITY = 78
READERS = 16
"""How many images are on their way from a store at once."""
DECODERS = max(2, min(4, os.cpu_count() or 2))
"""How many are decoded at once. Each takes eight bytes per pixel, and decoding uses no lock."""


class Thumbnails:
    """The thumbnails in one folder of a storage. `made` and `kept` count what `ensure` did."""

    def __init__(self, storage: Storage, folder: str) -> None:
        self._storage = storage
        self._folder = f"{folder}/{FOLDER}"
        self._decoding = threading.Semaphore(DECODERS)
        start = len(self._folder) + 1
        self._there = {path[start:] for path in storage.list_now(self._folder)}
        self.made = 0
        self.kept = 0

    def ensure(
        self, rows: Sequence[Row], *, on_progress: Callable[[int, int], None]
    ) -> Iterator[str | None]:
        """The path of each row's thumbnail below the folder, in order; None where there is none.

        Those that are there are kept. An image that is missing, damaged, very large or an SVG has
        none. Raises `StorageError` if the storage cannot be written.
        """
        with without_warnings(), ThreadPoolExecutor(READERS, "imagegen-gallery") as pool:
            try:
                for done, (path, made) in enumerate(pool.map(self._ensure, rows), start=1):
                    self.made += made
                    self.kept += path is not None and not made
                    on_progress(done, len(rows))
                    yield path
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def _ensure(self, row: Row) -> tuple[str | None, bool]:
        """The thumbnail's path, and whether it was made just now."""
        image_path = row["image_path"]
        if image_path is None or row["image_format"] not in FORMATS:
            return None, False
        path = thumbnail_path(image_path)
        if path in self._there:
            return path, False
        if (row["image_size_bytes"] or 0) > IMAGE_BYTES_MAX:
            return None, False
        data = self._make(image_path)
        if data is None:
            return None, False
        self._storage.put_now(f"{self._folder}/{path}", data, media_type="image/jpeg")
        return path, True

    def _make(self, image_path: str) -> bytes | None:
        try:
            data = self._storage.get_now(image_path)
        except FileNotFoundError:
            return None
        with self._decoding:
            try:
                small = small_image(data, SIDE)
            except Exception:  # noqa: BLE001  # decoders raise whatever they like
                return None
            if small is None:
                return None
            # JPEG: it is written eight times as fast as WebP.
            buffer = io.BytesIO()
            small.save(buffer, "JPEG", quality=QUALITY)
            return buffer.getvalue()


def thumbnail_path(image_path: str) -> str:
    """`images/ab/<stem>.png` -> `ab/<stem>.jpg`. An image's path names its attempt, so that its
    bytes, and its thumbnail, never change."""
    folder, _, name = image_path.rpartition("/")
    return f"{folder.rpartition('/')[2]}/{name.rpartition('.')[0]}.jpg"
