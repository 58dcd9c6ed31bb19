"""Objects under one URI of fsspec: written whole or not at all, read, listed, deleted."""

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from fsspec.core import url_to_fs  # pyright: ignore[reportUnknownVariableType]  # fsspec has no types
from fsspec.implementations.local import LocalFileSystem

from dagster_imagegen.engine.errors import ConfigurationError, StorageError
from dagster_imagegen.engine.local_disk import HAS_LOCKS, is_locked, list_files, write_whole
from dagster_imagegen.engine.machine import (
    Threads,
    explaining_threads,
    is_out_of_files,
    storage_threads,
)

T = TypeVar("T")

EXTRAS = {
    "s3": "s3",
    "s3a": "s3",
    "gs": "gcs",
    "gcs": "gcs",
    "abfs": "azure",
    "abfss": "azure",
    "az": "azure",
    "adl": "azure",
}
TEMPORARY_FOLDER = "_tmp"


@dataclass(frozen=True, kw_only=True)
class StoredObject:
    """What a listing says of one object; `modified` is the store's own time, in Unix seconds."""

    path: str
    size_bytes: int
    modified: float | None


class FileSystem(Protocol):
    """The part of fsspec's interface that is used here; fsspec itself carries no types."""

    protocol: str | tuple[str, ...]

    def pipe_file(self, path: str, value: bytes) -> None:
        """Write a file."""
        ...

    def cat_file(self, path: str) -> bytes:
        """Read a file."""
        ...

    def find(self, path: str, *, detail: bool, **options: Any) -> dict[str, dict[str, Any]]:
        """List files, recursively."""
        ...

    def rm_file(self, path: str) -> None:
        """Delete a file."""
        ...

    def unstrip_protocol(self, name: str) -> str:
        """A path with its scheme."""
        ...


class WriterLock(Protocol):
    """Held for as long as its process lives; the operating system frees it."""

    def release(self) -> None:
        """Free the lock."""
        ...


class ObjectStore(Protocol):
    """What the write protocol needs of a store: whole objects, and listings that show them.

    Paths are relative, with forward slashes. All methods but `put` are safe to repeat.
    """

    async def put(self, path: str, data: bytes) -> None:
        """Write one object; readers see all of it or what was there before."""
        ...

    async def put_locked(self, path: str, data: bytes) -> WriterLock | None:
        """`put`, holding a lock from the moment the object can be seen; None: no locks here."""
        ...

    async def is_locked(self, path: str) -> bool | None:
        """Whether the writer of a `put_locked` object lives; None: this store cannot tell."""
        ...

    async def get(self, path: str) -> bytes:
        """The object's bytes. Raises `FileNotFoundError`."""
        ...

    async def list(self, folder: str, *, prefix: str = "") -> dict[str, StoredObject]:
        """Every object below `folder`, by path; with a prefix (no slash), if its path under
        `folder` begins with it."""
        ...

    async def delete(self, paths: Iterable[str]) -> None:
        """Delete objects, in the order given; one that is not there is no error."""
        ...


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How often a failing call of a store is repeated, and the first wait, which then doubles.

    Calls that fail because this process has too many files open are repeated for as long as
    `scarce_seconds`: its own requests are what keeps them open, and those end.
    """

    attempts: int = 6
    backoff_seconds: float = 0.25
    scarce_seconds: float = 600.0

    async def call(self, call: Callable[[], Awaitable[T]]) -> T:
        """Repeat a call that is safe to repeat; raises the last `StorageError`."""
        failed, waited, wait = 0, 0.0, self.backoff_seconds
        while True:
            try:
                return await call()
            except StorageError as error:
                if is_out_of_files(error) and waited < self.scarce_seconds:
                    pause = self.backoff_seconds
                    waited += pause
                else:
                    failed += 1
                    if failed >= self.attempts:
                        raise
                    pause, wait = wait, 2 * wait
            await asyncio.sleep(pause)


class PatientStore:
    """An `ObjectStore` that repeats each failing call of another one.

    Also `put` is repeated: with the same bytes, so that it does not matter whether an earlier try
    took effect.
    """

    def __init__(self, store: ObjectStore, patience: Patience) -> None:
        self._store = store
        self._call = patience.call

    async def put(self, path: str, data: bytes) -> None:
        """`ObjectStore.put`, repeated."""
        await self._call(lambda: self._store.put(path, data))

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


class Storage:
    """An `ObjectStore` on any filesystem that fsspec has.

    Calls of the filesystem run on threads, so that waiting for one does not hold up the others.
    Raises `ConfigurationError` at once for a scheme that nothing here can serve.
    """

    def __init__(
        self,
        uri: str,
        storage_options: Mapping[str, Any] | None = None,
        *,
        threads: int | None = None,
    ) -> None:
        with explaining_threads():  # Some filesystems start one.
            self.filesystem, self.root = _open_filesystem(uri, storage_options or {})
        self.is_local = isinstance(self.filesystem, LocalFileSystem)
        if self.is_local:
            self.root = str(Path(self.root).absolute())
        self._pool = Threads(threads or storage_threads(), name="imagegen-storage")

    def close(self) -> None:
        """Release the threads."""
        self._pool.shutdown(wait=False)

    def uri(self, path: str) -> str:
        """The absolute address of an object, ready to open with fsspec; a plain path if local."""
        full = self.full_path(path)
        return full if self.is_local else self.filesystem.unstrip_protocol(full)

    def put_now(self, path: str, data: bytes) -> None:
        """`put`, on the calling thread."""
        if self.is_local:
            write_whole(Path(self.full_path(path)), data, temporaries=self._temporaries)
        else:
            self.filesystem.pipe_file(self.full_path(path), data)

    def get_now(self, path: str) -> bytes:
        """`get`, on the calling thread."""
        return self.filesystem.cat_file(self.full_path(path))

    def list_now(self, folder: str, *, prefix: str = "") -> dict[str, StoredObject]:
        """`list`, on the calling thread."""
        if self.is_local:
            return {
                path: StoredObject(path=path, size_bytes=facts.st_size, modified=facts.st_mtime)
                for path, facts in list_files(Path(self.root), folder, prefix).items()
            }
        base = self.full_path(folder)
        narrowed = {"prefix": prefix} if prefix and _narrows(self.filesystem) else {}
        try:
            found = self.filesystem.find(base, detail=True, **narrowed)
        except FileNotFoundError:
            return {}
        start = len(self.full_path("")) + 1
        listed = {
            path[start:]: StoredObject(
                path=path[start:], size_bytes=int(info.get("size") or 0), modified=_modified(info)
            )
            for path, info in found.items()
        }
        wanted = f"{folder}/{prefix}"
        return {path: entry for path, entry in listed.items() if path.startswith(wanted)}

    def delete_now(self, paths: Iterable[str]) -> None:
        """`delete`, on the calling thread."""
        doomed = tuple(paths)
        for path in doomed:
            with contextlib.suppress(FileNotFoundError):
                self.filesystem.rm_file(self.full_path(path))
        if self.is_local:
            for folder in {Path(self.full_path(path)).parent for path in doomed}:
                with contextlib.suppress(OSError):  # Not empty, or gone already.
                    folder.rmdir()

    async def put(self, path: str, data: bytes) -> None:
        """Write one object whole."""
        await self._run("write", path, lambda: self.put_now(path, data))

    async def put_locked(self, path: str, data: bytes) -> WriterLock | None:
        """`put`; on a local disk with a lock that the process holds."""
        if not self.is_local or not HAS_LOCKS:
            await self.put(path, data)
            return None
        full = Path(self.full_path(path))
        return await self._run(
            "write",
            path,
            lambda: write_whole(full, data, temporaries=self._temporaries, locked=True),
        )

    async def is_locked(self, path: str) -> bool | None:
        """Whether the writer of a locked object lives; None where nobody can tell."""
        if not self.is_local or not HAS_LOCKS:
            return None
        full = self.full_path(path)
        return await self._run("read", path, lambda: is_locked(full))

    async def get(self, path: str) -> bytes:
        """The bytes of an object. Raises `FileNotFoundError`."""
        return await self._run("read", path, lambda: self.get_now(path))

    async def list(self, folder: str, *, prefix: str = "") -> dict[str, StoredObject]:
        """Every object below `folder` whose path begins with `prefix`."""
        return await self._run("list", folder, lambda: self.list_now(folder, prefix=prefix))

    async def delete(self, paths: Iterable[str]) -> None:
        """Delete objects; one that is not there is no error."""
        doomed = tuple(paths)
        await self._run("delete", doomed[0] if doomed else "", lambda: self.delete_now(doomed))

    @property
    def _temporaries(self) -> Path:
        return Path(self.root) / TEMPORARY_FOLDER

    def full_path(self, path: str) -> str:
        """The path that the filesystem itself knows."""
        if any(part in ("..", ".") for part in path.split("/")):
            raise StorageError(f"{path!r} is not a path below {self.root}")
        return f"{self.root.rstrip('/')}/{path}".rstrip("/")

    async def _run(self, verb: str, path: str, call: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._pool, call)
        except StorageError:
            raise
        except Exception as error:
            if isinstance(error, FileNotFoundError) and verb == "read":
                raise
            # fsspec passes on whatever its hundred backends raise.
            raise StorageError(
                f"cannot {verb} {self.uri(path)}: {type(error).__name__}: {error}"
            ) from error


def _open_filesystem(uri: str, options: Mapping[str, Any]) -> tuple[FileSystem, str]:
    scheme = uri.split("://", 1)[0] if "://" in uri else "file"
    try:
        if scheme in ("s3", "s3a"):
            options = _checksums_when_required(options)
        # A cached listing would hide what another writer wrote.
        opened: Any = url_to_fs(uri, **{"use_listings_cache": False, **options})
        return cast("tuple[FileSystem, str]", opened)
    except ImportError as error:
        extra = EXTRAS.get(scheme)
        install = (
            f"pip install 'dagster-imagegen[{extra}]'"
            if extra
            else f"install the fsspec implementation of {scheme}://"
        )
        raise ConfigurationError(f"storage {uri!r} needs a package: {install} ({error})") from error
    except ValueError as error:
        raise ConfigurationError(
            f"storage {uri!r}: no filesystem serves {scheme}://; use a folder, s3://, gs://, "
            f"abfs:// or another scheme of fsspec ({error})"
        ) from error


def _checksums_when_required(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """For a store with an address of its own: no checksums but those that S3's protocol requires.

    botocore sends CRCs with every upload since 1.36, which stores other than AWS's, DigitalOcean
    Spaces among them, did not all understand. What the user sets takes precedence.
    """
    client: Mapping[str, Any] = options.get("client_kwargs") or {}
    named = (os.environ.get(name) for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"))
    if not any((options.get("endpoint_url"), client.get("endpoint_url"), *named)):
        return options
    from botocore.config import Config  # noqa: PLC0415  # comes with s3fs, which is an extra

    names = ("request_checksum_calculation", "response_checksum_validation")
    known = {name: "when_required" for name in names if name in Config.OPTION_DEFAULTS}
    return {**options, "config_kwargs": {**known, **(options.get("config_kwargs") or {})}}


def _narrows(filesystem: FileSystem) -> bool:
    """Whether `find` can leave the rest of a folder out of its listing, as s3fs and gcsfs do."""
    protocols = filesystem.protocol
    names = (protocols,) if isinstance(protocols, str) else protocols
    return not {"s3", "gs", "gcs"}.isdisjoint(names)


def _modified(info: Mapping[str, Any]) -> float | None:
    for key in ("mtime", "LastModified", "last_modified", "updated", "created"):
        value = info.get(key)
        if isinstance(value, datetime):
            return (value if value.tzinfo else value.replace(tzinfo=timezone.utc)).timestamp()
        if isinstance(value, (int, float)):
            return float(value)
        if isinstance(value, str):
            with contextlib.suppress(ValueError):
                return datetime.fromisoformat(value.replace("Z", "+00:00")).timestamp()
    return None
