"""An object store whose requests fail as a test says, as a filesystem of fsspec's."""

import contextlib
import errno
import io
import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.spec import AbstractFileSystem

Verb = Literal["put", "get", "list", "delete"]
Trouble = Literal["unavailable", "timeout", "lost answer"]
"""The first two before anything is done; the third when it is."""

Weather = Callable[[Verb, str], Trouble | None]
"""What befalls a request for a path, if anything."""


def fair(verb: Verb, path: str) -> Trouble | None:
    """Nothing befalls anything."""
    return None


class Storm:
    """Each request fails with a probability, in one of the ways, the same for the same seed."""

    def __init__(self, *, rate: float, seed: int) -> None:
        self._rate = rate
        self._random = random.Random(seed)
        self.count = 0

    def __call__(self, verb: Verb, path: str) -> Trouble | None:
        if self._random.random() >= self._rate:
            return None
        self.count += 1
        return self._random.choice(["unavailable", "timeout", "lost answer"])


class Outage:
    """From the nth request on, every one fails; of the nth itself the answer is lost."""

    def __init__(self, *, begins_at: int) -> None:
        self._begins_at = begins_at
        self._count = 0

    @property
    def has_begun(self) -> bool:
        return self._count >= self._begins_at

    def __call__(self, verb: Verb, path: str) -> Trouble | None:
        self._count += 1
        if not self.has_begun:
            return None
        return "lost answer" if self._count == self._begins_at else "unavailable"


def _befallen(weather: Weather, verb: Verb, path: str, effect: Callable[[], Any]) -> Any:
    trouble = weather(verb, path)
    if trouble == "unavailable":
        raise OSError(f"503 SlowDown: {verb} {path}")
    if trouble == "timeout":
        raise TimeoutError(f"{verb} {path}")
    result = effect()
    if trouble == "lost answer":
        raise ConnectionResetError(f"{verb} {path}: done, and nobody was told")
    return result


def shake_memory(patch: pytest.MonkeyPatch, weather: Weather) -> None:
    """Put weather in front of fsspec's own `memory://`."""
    verbs: dict[str, Verb] = {
        "pipe_file": "put",
        "cat_file": "get",
        "find": "list",
        "rm_file": "delete",
    }
    for name, verb in verbs.items():
        real = getattr(MemoryFileSystem, name)

        def call(
            fs: MemoryFileSystem,
            path: str,
            *args: Any,
            real: Callable[..., Any] = real,
            verb: Verb = verb,
            **options: Any,
        ) -> Any:
            return _befallen(weather, verb, path, lambda: real(fs, path, *args, **options))

        patch.setattr(MemoryFileSystem, name, call)


def shake_disk(patch: pytest.MonkeyPatch, weather: Weather) -> None:
    """Let the disk fail those who write to a storage: a write is torn, a rename is not made, or it
    is made and the sync of its folder fails, a listing fails."""

    def failing(real: Callable[..., Any], *, torn: bool = False) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            ours = threading.current_thread().name.startswith("imagegen-storage")
            if ours and weather("put", str(args[0])) is not None:
                if torn:
                    real(args[0], args[1][: len(args[1]) // 2])
                raise OSError(errno.EIO, "Input/output error")
            return real(*args)

        return call

    patch.setattr(os, "write", failing(os.write, torn=True))
    patch.setattr(os, "fsync", failing(os.fsync))
    patch.setattr(os, "scandir", failing(os.scandir))
    patch.setattr(os, "replace", failing(os.replace))


@dataclass(kw_only=True)
class Bucket:
    """Whole objects, and listings that show them at once. `weather` can be changed at any time."""

    weather: Weather = fair
    objects: dict[str, tuple[bytes, float]] = field(default_factory=dict[str, tuple[bytes, float]])
    lock: threading.Lock = field(default_factory=threading.Lock)
    one_at_a_time: bool = True
    """Whether requests wait for one another, so that a test can count on their order."""

    @property
    def options(self) -> dict[str, Any]:
        """Settings for a pass whose storage this is."""
        return {"storage_uri": "shaky://bucket/shop", "storage_options": {"bucket": self}}

    def below(self, folder: str) -> dict[str, bytes]:
        """What lies below a folder of the storage, by its path there."""
        root = "bucket/shop/"
        with self.lock:
            return {
                path.removeprefix(root): data
                for path, (data, _) in self.objects.items()
                if path.startswith(f"{root}{folder}/")
            }


class ShakyFileSystem(AbstractFileSystem):
    """A `Bucket` behind the interface that every storage has."""

    protocol = "shaky"
    cachable = False

    def __init__(self, *, bucket: Bucket, **options: Any) -> None:
        super().__init__(**options)
        self._bucket = bucket

    def _request(self, verb: Verb, path: str, effect: Callable[[], Any]) -> Any:
        bucket = self._bucket

        def done() -> Any:
            with contextlib.nullcontext() if bucket.one_at_a_time else bucket.lock:
                return effect()

        with bucket.lock if bucket.one_at_a_time else contextlib.nullcontext():
            return _befallen(bucket.weather, verb, path, done)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        objects = self._bucket.objects
        entry = (bytes(value), time.time())
        self._request("put", path, lambda: objects.__setitem__(path, entry))

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **options: Any
    ) -> bytes:
        return self._request("get", path, lambda: self._entry(path)[0][start:end])

    def find(
        self,
        path: str,
        maxdepth: int | None = None,
        withdirs: bool = False,
        detail: bool = False,
        **options: Any,
    ) -> dict[str, dict[str, Any]]:
        return self._request(
            "list",
            path,
            lambda: {
                name: self._info(name)
                for name in sorted(self._bucket.objects)
                if name.startswith(f"{path}/")
            },
        )

    def rm_file(self, path: str) -> None:
        objects = self._bucket.objects
        self._request("delete", path, lambda: objects.pop(path, None))

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        return self._request("get", path, lambda: self._info(path))

    def open(self, path: str, mode: str = "rb", *args: Any, **options: Any) -> Any:
        return io.BytesIO(self.cat_file(path))

    def _entry(self, path: str) -> tuple[bytes, float]:
        if path not in self._bucket.objects:
            raise FileNotFoundError(path)
        return self._bucket.objects[path]

    def _info(self, path: str) -> dict[str, Any]:
        data, modified = self._entry(path)
        return {"name": path, "type": "file", "size": len(data), "mtime": modified}


fsspec.register_implementation("shaky", ShakyFileSystem, clobber=True)
