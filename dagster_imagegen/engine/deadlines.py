"""Calls with a deadline, on threads of which one is abandoned if its call never ends."""

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, finalize

from dagster_imagegen.engine.machine import explaining_threads, storage_threads

T = TypeVar("T")

ABANDONED_MAX = 64
"""Calls that were late and have still not ended. Beyond it, calls fail at once."""
DOUBLINGS_MAX = 4


class Late(Exception):
    """A call has not ended in time; what it does may still take effect."""


class Deadlines:
    """Runs blocking calls for event loops, and waits for none of them longer than its deadline.

    A thread cannot be ended from outside. One whose call is late is left to itself, and does not
    keep the process from ending. At most `ABANDONED_MAX` such threads pile up; then every call
    fails until one of theirs ends. Raises `ImageGenError` if no thread can be started at all.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._at_once = storage_threads()
        self._threads = _Threads()
        self._late: dict[tuple[str, str], int] = {}
        self._turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = (
            WeakKeyDictionary()
        )

    def seconds(self, verb: str, path: str) -> float:
        """The deadline of a call; it doubles each time that this very call was late in a row."""
        return self._seconds * 2 ** min(self._late.get((verb, path), 0), DOUBLINGS_MAX)

    async def run(self, verb: str, path: str, call: Callable[[], T]) -> T:
        """The call's result, or its error. Raises `Late`."""
        loop, key = asyncio.get_running_loop(), (verb, path)
        turns = self._turns.setdefault(loop, asyncio.Semaphore(self._at_once))
        async with turns:  # Waiting for a turn does not count: it is not the store that is slow.
            if self._threads.at_work >= self._at_once + ABANDONED_MAX:
                raise Late(f"{self._threads.at_work} earlier calls of it have not ended")
            seconds = self.seconds(verb, path)
            future = loop.run_in_executor(self._threads, call)
            try:
                done, _ = await asyncio.wait({future}, timeout=seconds)
            finally:
                future.cancel()  # Nobody waits for it any more; without effect once it has begun.
            if not done:
                self._late[key] = self._late.get(key, 0) + 1
                raise Late(f"no answer in {seconds:g} s")
            self._late.pop(key, None)
            return future.result()


_Work = tuple["Future[Any]", Callable[[], Any]]


class _Threads(Executor):
    """As many threads as there are calls, or as the machine allows; the others wait for one.

    Unlike a pool's, they are not waited for when Python ends. They end with this object.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._count = 0
        self.at_work = 0
        """Calls that have not ended."""
        finalize(self, self._waiting.put, None)
        with explaining_threads():
            self._start()

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> "Future[T]":
        future: Future[T] = Future()
        with self._lock:
            self.at_work += 1
            if self.at_work > self._count:
                with contextlib.suppress(RuntimeError):  # No more: it waits for one of the others.
                    self._start()
        future.add_done_callback(self._ended)
        self._waiting.put((future, lambda: fn(*args, **kwargs)))
        return future

    def _start(self) -> None:
        threading.Thread(
            target=_work_off, args=(self._waiting,), name="imagegen-storage", daemon=True
        ).start()
        self._count += 1

    def _ended(self, _future: "Future[Any]") -> None:
        with self._lock:
            self.at_work -= 1


def _work_off(waiting: "queue.SimpleQueue[_Work | None]") -> None:
    """Until None comes, which is handed on to the next thread. Keeps no reference to its owner."""
    while (work := waiting.get()) is not None:
        future, call = work
        if future.set_running_or_notify_cancel():
            try:
                result = call()
            except BaseException as error:  # noqa: BLE001  # handed to whoever waits
                future.set_exception(error)
            else:
                future.set_result(result)
                del result
        del work, future, call
    waiting.put(None)
