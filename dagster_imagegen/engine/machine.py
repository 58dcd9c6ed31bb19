"""What the machine allows this process: how many open files, and how many threads.

Every request in flight is an open file, and so are a journal, an image that is being written and a
database. A process that may open no more loses what it has paid for, so files are counted before.
"""

import contextlib
import errno
import threading
import weakref
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from dagster_imagegen.engine.errors import ImageGenError

try:
    import resource
except ImportError:  # Windows has neither the limit nor the module.
    resource = None

THREADS = 16
"""Calls of one storage at a time, where the limit of files allows as many."""
OTHER_FILES = 12
"""Open files beside requests and storages: event loops, locks, look-ups of names, databases."""
SCARCE_SECONDS = 1.0
"""Between tries while no more files can be opened."""
OUT_OF_FILES = (
    "this process may open no more files, so the request was not sent; raise `ulimit -n`, or lower "
    "max_concurrency"
)
_FILES_FOR_EACH_THREAD = 16
_USUALLY_OPEN = 32
_STORAGES = 2
_OUT_OF_FILES = (errno.EMFILE, errno.ENFILE)


@dataclass(frozen=True, eq=False)
class Share:
    """What one pass may have of the machine, for as long as the object lives.

    `others` is how many files were open that belong to no pass when it was taken. `warning` says
    why `max_concurrency` is lower than what was wanted, and what to do about it.
    """

    max_concurrency: int
    files: int
    others: int
    warning: str | None = None


_lock = threading.Lock()
_shares: "weakref.WeakSet[Share]" = weakref.WeakSet()


def take_share(max_concurrency: int, *, files_per_request: int = 1) -> Share:
    """As many requests in flight as open files allow, at least one.

    Files are kept back for two storages at work, images and records, and for Dagster's databases.
    The process's own (soft) limit is raised to what is needed, up to what the system (the hard
    limit) allows. Passes at the same time get shares of what is left.
    """
    kept = _STORAGES * storage_threads() + OTHER_FILES
    files = max_concurrency * files_per_request + kept
    with _lock:
        taken = sum(share.files for share in _shares)
        # What passes have opened so far is open, and is a part of their shares as well.
        others = max([_open_files() - taken, *(share.others for share in _shares)])
        used = others + taken
        limit = _raise_limit(used + files)
        possible = max_concurrency if limit is None else (limit - used - kept) // files_per_request
        allowed = max(1, min(max_concurrency, possible))
        warning = None
        if limit is not None and allowed < max_concurrency:
            shared = f", {taken:,} belong to other passes" if taken else ""
            warning = (
                f"max_concurrency lowered from {max_concurrency:,} to {allowed:,}: this process "
                f"may open {limit:,} files, {others:,} are open{shared} and {kept:,} are "
                "kept for images, records and databases; raise `ulimit -n` to "
                f"{used + files:,}"
            )
        share = Share(allowed, allowed * files_per_request + kept, others, warning)
        _shares.add(share)
    return share


def storage_threads() -> int:
    """How many calls of a storage may be under way at a time; each can be an open file."""
    if resource is None:
        return THREADS
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        return THREADS
    return min(THREADS, max(2, hard // _FILES_FOR_EACH_THREAD))


def is_out_of_files(error: BaseException) -> bool:
    """Whether an error comes from opening one file or connection too many.

    Then nothing was sent or written, and it works once others are closed.
    """
    return any(
        isinstance(each, OSError) and each.errno in _OUT_OF_FILES for each in _causes(error, set())
    )


class Threads(ThreadPoolExecutor):
    """Threads that work off calls; fewer of them where the machine allows no more.

    The first is started at once. Raises `ImageGenError` if not even that is possible.
    """

    def __init__(self, count: int, *, name: str) -> None:
        super().__init__(count, thread_name_prefix=name)
        with explaining_threads():
            self.submit(int)

    def _adjust_thread_count(self) -> None:
        """Start another thread if it is worth it; the call is in the queue already."""
        try:
            super()._adjust_thread_count()
        except RuntimeError:
            if not self._threads:
                raise


@contextlib.contextmanager
def explaining_threads() -> Generator[None, None, None]:
    """Raise `ImageGenError`, with the remedy, where a thread cannot be started."""
    try:
        yield
    except RuntimeError as error:
        if "start new thread" not in str(error):
            raise
        raise ImageGenError(
            "this process cannot start another thread, so nothing was sent; raise `ulimit -u`, or "
            "the limits of processes (pids.max) and memory of its container, or run less at a time"
        ) from error


def _raise_limit(wanted: int) -> int | None:
    """Raise the soft limit to `wanted`, if it is lower and as far as allowed; returns it then."""
    if resource is None:
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return None
    target = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if target <= soft:
        return soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
    except (ValueError, OSError):  # macOS has a limit of its own below the hard one.
        return soft
    return target


def _open_files() -> int:
    """How many files are open; where nobody can tell, as many as usual."""
    try:
        return len(list(Path("/dev/fd").iterdir())) - 1  # without the one that lists them
    except OSError:
        return _USUALLY_OPEN


def _causes(error: BaseException | None, seen: set[int]) -> Iterator[BaseException]:
    if error is None or id(error) in seen:
        return
    seen.add(id(error))
    yield error
    grouped: tuple[BaseException, ...] = getattr(error, "exceptions", ())
    for cause in (error.__cause__, error.__context__, *grouped):
        yield from _causes(cause, seen)
