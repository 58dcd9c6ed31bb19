"""Objects under one URI of fsspec: written whole or not at all, read, listed, deleted."""

import asyncio
import contextlib
import os
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from fsspec.implementations.local import LocalFileSystem

from dagster_imagegen.engine.deadlines import Deadlines, Late
from dagster_imagegen.engine.errors import StorageError
from dagster_imagegen.engine.filesystems import (
    EXTRAS,
    NARROWS,
    FileSystem,
    open_filesystem,
    protocols_of,
)
from dagster_imagegen.engine.local_disk import (
    HAS_LOCKS,
    is_locked,
    list_files,
    list_names,
    write_whole,
)
from dagster_imagegen.engine.machine import explaining_threads

T = TypeVar("T")

TEMPORARY_FOLDER = "_tmp"
DEADLINE_SECONDS = 30.0
DELETES_AT_ONCE = 8
"""Few, so that a journal's heartbeat does not wait behind hundreds of deletions."""
LASTING = (
    FileExistsError,
    PermissionError,
    FileNotFoundError,
    NotADirectoryError,
    IsADirectoryError,
    NotImplementedError,
    TypeError,
)
"""Errors of a store that waiting does not help against."""


class StoredObject(NamedTuple):
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

    async def folders(self, folder: str) -> Sequence[str]:
        """The names of the folders in `folder`, without looking into them."""
        ...

    async def delete(self, paths: Iterable[str]) -> None:
        """Delete objects, in any order; one that is not there is no error."""
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
        self._passes = 0
        self._had_root = False
        """Whether a pass has written something here."""

    def uri(self, path: str) -> str:
        """The absolute address of an object, ready to open with fsspec; a plain path if local."""
        full = self.full_path(path)
        return full if self.is_local else self.filesystem.unstrip_protocol(full)

    @contextlib.contextmanager
    def during_a_pass(self) -> Generator[None]:
        """Until it ends, a local folder that was written to and is gone is not made again.

        It would look like a new one, without what the pass has stored there.
        """
        if not self._passes:
            self._had_root = False
        self._passes += 1
        try:
            yield
        finally:
            self._passes -= 1

    def put_now(self, path: str, data: bytes, *, media_type: str | None = None) -> None:
        """`put`, for a thread that waits; with the media type that S3 and GCS then serve it as."""
        options = _put_options(self.filesystem, media_type)
        self.run_now("write", path, lambda: self._put(path, data, **options))

    def get_now(self, path: str) -> bytes:
        """`get`, for a thread that waits."""
        return self.run_now("read", path, lambda: self._get(path))

    def list_now(self, folder: str, *, prefix: str = "") -> dict[str, StoredObject]:
        """`list`, for a thread that waits."""
        return self.run_now("list", folder, lambda: self._list(folder, prefix=prefix))

    def delete_now(self, paths: Iterable[str]) -> None:
        """`delete`, for a thread that waits."""
        for path in paths:
            self.run_now("delete", path, partial(self._delete, [path]))

    def run_now(self, verb: str, path: str, call: Callable[[], T], *, times: float = 1) -> T:
        """Wait for what reads or writes this storage, for `times` the deadline of one call.

        Raises `StorageError`, naming the path, and `FileNotFoundError` where it was to be read.
        """
        with self._explaining(verb, path):
            return self._deadlines.run_now(verb, path, call, times=times)

    def _put(self, path: str, data: bytes, **options: Any) -> None:
        if self.is_local:
            self._write_whole(path, data)
        else:
            options |= self._timeout("write", path)
            self.filesystem.pipe_file(self.full_path(path), data, **options)

    def _get(self, path: str) -> bytes:
        return self.filesystem.cat_file(self.full_path(path), **self._timeout("read", path))

    def _list(self, folder: str, *, prefix: str = "") -> dict[str, StoredObject]:
        base = self.full_path(folder)
        if self.is_local:
            self._check_root()
            return {
                path: StoredObject(path, facts.st_size, facts.st_mtime)
                for path, facts in list_files(self.root, folder, prefix).items()
            }
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

    def _names(self, folder: str) -> Sequence[str]:
        if not self.is_local:
            return [path[len(folder) + 1 :] for path in self._list(folder)]
        self._check_root()
        return list_names(self.full_path(folder))

    def _folders(self, folder: str) -> Sequence[str]:
        full = self.full_path(folder)
        if self.is_local:
            self._check_root()
        try:
            found = self.filesystem.ls(full, detail=True, **self._timeout("list", folder))
        except FileNotFoundError:
            return []
        return [
            str(each["name"]).rstrip("/").rpartition("/")[2]
            for each in found
            if each["type"] == "directory"
        ]

    def _sizes(self, folder: str) -> dict[str, int]:
        options: dict[str, Any] = self._timeout("list", folder)
        try:
            found = self.filesystem.ls(self.full_path(folder), detail=True, **options)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        start = len(self.full_path("")) + 1
        files = (info for info in found if info.get("type") == "file")
        return {info["name"][start:]: int(info.get("size") or 0) for info in files}

    def _delete(self, paths: Iterable[str]) -> None:
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
        await self._run("write", path, lambda: self._put(path, data))

    async def put_locked(self, path: str, data: bytes) -> WriterLock | None:
        """`put`; on a local disk with a lock that the process holds."""
        if not self.is_local or not HAS_LOCKS:
            await self.put(path, data)
            return None
        return await self._run("write", path, lambda: self._write_whole(path, data, locked=True))

    async def is_locked(self, path: str) -> bool | None:
        """Whether the writer of a locked object lives; None where nobody can tell."""
        if not self.is_local or not HAS_LOCKS:
            return None
        full = self.full_path(path)
        return await self._run("read", path, lambda: is_locked(full))

    async def get(self, path: str) -> bytes:
        """The bytes of an object. Raises `FileNotFoundError`."""
        return await self._run("read", path, lambda: self._get(path))

    async def list(self, folder: str, *, prefix: str = "") -> dict[str, StoredObject]:
        """Every object below `folder` whose path begins with `prefix`."""
        return await self._run("list", folder, lambda: self._list(folder, prefix=prefix))

    async def names(self, folder: str) -> Sequence[str]:
        """The names of the objects in `folder`; on a local disk those of its folders as well."""
        return await self._run("list", folder, lambda: self._names(folder))

    async def folders(self, folder: str) -> Sequence[str]:
        """The names of the folders in `folder`."""
        return await self._run("list", folder, lambda: self._folders(folder))

    async def list_each(self, wanted: Sequence[tuple[str, str]]) -> "list[dict[str, StoredObject]]":
        """`list` for each folder and prefix in one call, for a local disk: there they are short."""
        return await self._run(
            "list",
            wanted[0][0],
            lambda: [self._list(each, prefix=start) for each, start in wanted],
        )

    async def sizes(self, folder: str) -> dict[str, int]:
        """The files in a folder itself, with their sizes; none if there is no such folder."""
        return await self._run("list", folder, lambda: self._sizes(folder))

    async def copy(
        self, source: "Storage", source_path: str, path: str, *, media_type: str
    ) -> None:
        """`put` with the bytes of an object of `source`; S3 keeps their media type.

        Between places of one object store it is the store that copies. Raises `FileNotFoundError`
        if there is no such object.
        """
        options = _media_options(self.filesystem, media_type)
        if source.filesystem is self.filesystem and self._is_object_store:
            replaces = {"MetadataDirective": "REPLACE"} if options else {}
            full, target = source.full_path(source_path), self.full_path(path)
            options |= replaces | self._timeout("write", path)
            await self._run("write", path, lambda: self.filesystem.cp_file(full, target, **options))
            return
        data = await source.get(source_path)
        await self._run("write", path, lambda: self._put(path, data, **options))

    async def delete(self, paths: Iterable[str]) -> None:
        """Delete objects, in any order; one that is not there is no error.

        Raises only after all deletions have ended, so that none takes effect later.
        """
        doomed = tuple(paths)
        # On a local disk a thread takes longer to begin than a file to go.
        shares = min(1 if self.is_local else DELETES_AT_ONCE, len(doomed))
        calls = (self._delete_share(doomed[at::shares]) for at in range(shares))
        for failed in await asyncio.gather(*calls, return_exceptions=True):
            if failed is not None:
                raise failed

    async def _delete_share(self, paths: Sequence[str]) -> None:
        await self._run("delete", paths[0], lambda: self._delete(paths))

    def _write_whole(self, path: str, data: bytes, *, locked: bool = False) -> WriterLock | None:
        try:
            lock = write_whole(
                self.full_path(path),
                data,
                temporaries=self.full_path(TEMPORARY_FOLDER),
                locked=locked,
                within=Path(self.root) if self._keeps_root else None,
            )
        except FileNotFoundError:
            self._check_root()
            raise
        self._had_root = True
        return lock

    @property
    def _keeps_root(self) -> bool:
        return self._passes > 0 and self._had_root

    def _check_root(self) -> None:
        if self._keeps_root and not os.path.isdir(self.root):  # noqa: PTH112  # for each image
            raise StorageError(
                f"the folder {self.root} is gone while a run uses it: it was deleted, with what "
                "the run had stored there, or its volume was unmounted. Restore or mount it if you "
                "can, and run again: only what is not there is requested",
                can_pass=False,
            )

    def full_path(self, path: str) -> str:
        """The path that the filesystem itself knows."""
        if any(part in ("..", ".") for part in path.split("/")):
            raise StorageError(f"{path!r} is not a path below {self.root}")
        return f"{self.root.rstrip('/')}/{path}".rstrip("/")

    def _timeout(self, verb: str, path: str) -> dict[str, float]:
        """For a filesystem that can take back what it waits for: a late call frees its connection.

        All of fsspec's asynchronous filesystems understand it.
        """
        if not self._is_object_store:
            return {}
        return {"timeout": self._deadlines.seconds(verb, path)}

    @property
    def _is_object_store(self) -> bool:
        return not EXTRAS.keys().isdisjoint(protocols_of(self.filesystem))

    async def _run(self, verb: str, path: str, call: Callable[[], T]) -> T:
        with self._explaining(verb, path):
            return await self._deadlines.run(verb, path, call)

    @contextlib.contextmanager
    def _explaining(self, verb: str, path: str) -> Generator[None]:
        try:
            yield
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


def _put_options(filesystem: FileSystem, media_type: str | None) -> dict[str, Any]:
    if media_type is None:
        return {}
    if not {"gs", "gcs"}.isdisjoint(protocols_of(filesystem)):
        return {"content_type": media_type}
    return _media_options(filesystem, media_type)


def _media_options(filesystem: FileSystem, media_type: str) -> dict[str, Any]:
    return {"ContentType": media_type} if "s3" in protocols_of(filesystem) else {}


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
