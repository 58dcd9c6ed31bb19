"""Files on a local disk: written whole or not at all, locked by their writer, listed."""

import contextlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has no flock; there a dead writer is known by its lease alone.
    fcntl = None

HAS_LOCKS = fcntl is not None


@dataclass(frozen=True)
class FileLock:
    """A lock that this process holds until it ends or releases it."""

    descriptor: int

    def release(self) -> None:
        """Free the lock."""
        os.close(self.descriptor)


def write_whole(
    path: str, data: bytes, *, temporaries: str, locked: bool = False, within: Path | None = None
) -> FileLock | None:
    """Temporary, fsync, rename, fsync of the folder: the file is there whole, or not at all.

    Temporaries are in a folder of their own, because some readers take every file of a folder
    for a part. A folder that another writer deletes just now, empty, is made again; not so the
    folder `within`, without which `FileNotFoundError` is raised.
    """
    try:
        return _write_once(path, data, temporaries=temporaries, locked=locked, within=within)
    except FileNotFoundError:
        return _write_once(path, data, temporaries=temporaries, locked=locked, within=within)


def _write_once(
    path: str, data: bytes, *, temporaries: str, locked: bool, within: Path | None
) -> FileLock | None:
    folder, name = os.path.split(path)
    temporary = f"{temporaries}/{name}.{secrets.token_hex(4)}.tmp"
    lock = None
    try:
        # Nearly always the folders are there: to look first would take as long as to write.
        try:
            lock = _write_file(temporary, data, locked=locked)
        except FileNotFoundError:
            _make_folder(Path(temporaries), within=within)
            lock = _write_file(temporary, data, locked=locked)
        try:
            os.replace(temporary, path)
        except FileNotFoundError:
            _make_folder(Path(folder), within=within)
            os.replace(temporary, path)
        _sync_folder(folder)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        if lock is not None:
            lock.release()
        raise
    return lock


def _write_file(path: str, data: bytes, *, locked: bool) -> FileLock | None:
    """Write a new file; without a lock it is closed, because Windows moves no open file."""
    binary = getattr(os, "O_BINARY", 0)  # Windows would write each newline as two bytes.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | binary, 0o666)
    lock = FileLock(descriptor)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
        if locked and fcntl is not None:
            # Before the rename: no other writer may ever see the header without its lock.
            # Some network filesystems have no locks; there the lease alone tells.
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
    except BaseException:
        lock.release()
        raise
    if locked:
        return lock
    lock.release()
    return None


def list_files(root: str, folder: str, prefix: str = "") -> dict[str, os.stat_result]:
    """Times are taken of what matches only: a folder of images can be large."""
    found: dict[str, os.stat_result] = {}
    try:
        entries = [
            entry for entry in os.scandir(f"{root}/{folder}") if entry.name.startswith(prefix)
        ]
    except (FileNotFoundError, NotADirectoryError):
        return found
    for entry in entries:
        path = f"{folder}/{entry.name}"
        try:
            if entry.is_dir():
                found.update(list_files(root, path))
            else:
                found[path] = entry.stat()
        except FileNotFoundError:
            pass  # Deleted while it was listed.
    return found


def list_names(folder: str) -> list[str]:
    """The names in a folder; none where there is no such folder."""
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _make_folder(folder: Path, *, within: Path | None) -> None:
    if folder == within or folder.is_dir():
        return
    _make_folder(folder.parent, within=within)
    # Another writer may make it just now, and delete it again: then the write that follows fails.
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
    _sync_folder(str(folder.parent))


def _sync_folder(folder: str) -> None:
    if os.name == "nt":  # Windows cannot open a folder to sync it.
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_locked(path: str) -> bool | None:
    """Whether a process holds the lock of a file; None: there is no file, or nobody can tell."""
    if fcntl is None:
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return False
