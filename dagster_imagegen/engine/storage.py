"""Objects under one URI of fsspec: written whole or not at all, read, listed, deleted."""

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol, TypeVar

from fsspec.implementations.local import LocalFileSystem

from dagster_imagegen.engine.deadlines import Deadlines, Late
from dagster_imagegen.engine.errors import StorageError
from dagster_imagegen.engine.filesystems import (
    EXTRAS,
    NARROWS,
    open_filesystem,
    protocols_of,
)
from dagster_imagegen.engine.local_disk import HAS_LOCKS, is_locked, list_files, write_whole
from dagster_imagegen.engine.machine import explaining_threads

T = TypeVar("T")

TEMPORARY_FOLDER = "_tmp"
DEADLINE_SECONDS = 30.0
LASTING = (
    PermissionError,
    FileNotFoundError,
    NotADirectoryError,
    IsADirectoryError,
    NotImplementedError,
    TypeError,
)
"""Errors of a store that waiting does not help against."""


@dataclass(frozen=True, kw_only=True)
class StoredObject:
    """What a listing says of one object; `modified` is the store's own time, in Unix seconds."""

    path: str
    size_bytes: int
    modified: float | None


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


class Storage:
    """An `ObjectStore` on any filesystem that fsspec has.

    Calls of the filesystem run on threads, so that waiting for one does not hold up the others.
    A call that has not ended after `deadline_seconds` fails as late; what it does may still take
    effect. Raises `ConfigurationError` at once for a scheme that nothing here can serve.

    Args:
        uri: A folder, or an address that fsspec knows.
        storage_options: What fsspec's filesystem is opened with.
        deadline_seconds: How long a call may take. For a call that was late it doubles each time
            that the call is repeated, so that a slow line gets there as well.
        apart: Open connections of its own, which no other `Storage` can use up.
    """

    def __init__(
        self,
        uri: str,
        storage_options: Mapping[str, Any] | None = None,
        *,
        deadline_seconds: float = DEADLINE_SECONDS,
        apart: bool = False,
    ) -> None:
        with explaining_threads():  # Some filesystems start one.
            self.filesystem, self.root = open_filesystem(uri, storage_options or {}, apart=apart)
        self.is_local = isinstance(self.filesystem, LocalFileSystem)
        if self.is_local:
            self.root = str(Path(self.root).absolute())
        self._deadlines = Deadlines(deadline_seconds)

    def uri(self, path: str) -> str:
        """The absolute address of an object, ready to open with fsspec; a plain path if local."""
        full = self.full_path(path)
        return full if self.is_local else self.filesystem.unstrip_protocol(full)

    def put_now(self, path: str, data: bytes) -> None:
        """`put`, on the calling thread."""
        if self.is_local:
            write_whole(Path(self.full_path(path)), data, temporaries=self._temporaries)
        else:
            self.filesystem.pipe_file(self.full_path(path), data, **self._timeout("write", path))

    def get_now(self, path: str) -> bytes:
        """`get`, on the calling thread."""
        return self.filesystem.cat_file(self.full_path(path), **self._timeout("read", path))

    def list_now(self, folder: str, *, prefix: str = "") -> dict[str, StoredObject]:
        """`list`, on the calling thread."""
        if self.is_local:
            return {
                path: StoredObject(path=path, size_bytes=facts.st_size, modified=facts.st_mtime)
                for path, facts in list_files(Path(self.root), folder, prefix).items()
            }
        base = self.full_path(folder)
        options: dict[str, Any] = self._timeout("list", folder)
        if prefix and not NARROWS.isdisjoint(protocols_of(self.filesystem)):
            options["prefix"] = prefix
        try:
            found = self.filesystem.find(base, detail=True, **options)
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
                self.filesystem.rm_file(self.full_path(path), **self._timeout("delete", path))
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

    def _timeout(self, verb: str, path: str) -> dict[str, float]:
        """For a filesystem that can take back what it waits for: a late call frees its connection.

        All of fsspec's asynchronous filesystems understand it.
        """
        if EXTRAS.keys().isdisjoint(protocols_of(self.filesystem)):
            return {}
        return {"timeout": self._deadlines.seconds(verb, path)}

    async def _run(self, verb: str, path: str, call: Callable[[], T]) -> T:
        try:
            return await self._deadlines.run(verb, path, call)
        except StorageError:
            raise
        except Exception as error:
            if isinstance(error, FileNotFoundError) and verb == "read":
                raise
            # fsspec passes on whatever its hundred backends raise.
            said = str(error) if isinstance(error, Late) else f"{type(error).__name__}: {error}"
            raise StorageError(
                f"cannot {verb} {self.uri(path)}: {said}", can_pass=not isinstance(error, LASTING)
            ) from error


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
