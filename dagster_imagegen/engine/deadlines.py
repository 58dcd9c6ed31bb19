"""Calls with a deadline, each on a thread of its own, which is abandoned if the call never ends."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

T = TypeVar("T")

CALLS_AT_ONCE = 16
ABANDONED_MAX = 64
"""Threads whose call was late and has still not ended. Beyond it, calls fail at once."""
DOUBLINGS_MAX = 4


class Late(Exception):
    """A call has not ended in time; what it does may still take effect."""


class Deadlines:
    """Runs blocking calls for event loops, and waits for none of them longer than its deadline.

    A thread cannot be ended from outside. One whose call is late is left to itself, and does not
    keep the process from ending. At most `ABANDONED_MAX` such threads pile up; then every call
    fails until one of theirs ends.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
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
        turns = self._turns.setdefault(loop, asyncio.Semaphore(CALLS_AT_ONCE))
        async with turns:  # Waiting for a turn does not count: it is not the store that is slow.
            if self._threads.at_work >= CALLS_AT_ONCE + ABANDONED_MAX:
                raise Late(f"{self._threads.at_work} earlier calls of it have not ended")
            seconds = self.seconds(verb, path)
            future = loop.run_in_executor(self._threads, call)
            try:
                done, _ = await asyncio.wait({future}, timeout=seconds)
            finally:
                future.cancel()  # Nobody waits for it any more; without effect if it has ended.
            if not done:
                self._late[key] = self._late.get(key, 0) + 1
                raise Late(f"no answer in {seconds:g} s")
            self._late.pop(key, None)
            return future.result()


class _Threads(Executor):
    """A new thread for each call; unlike a pool's, it is not waited for when Python ends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.at_work = 0

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> "Future[T]":
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()

        def work() -> None:
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001  # handed to whoever waits
                self._ended()
                future.set_exception(error)
            else:
                self._ended()
                future.set_result(result)

        with self._lock:
            self.at_work += 1
        threading.Thread(target=work, name="imagegen-storage", daemon=True).start()
        return future

    def _ended(self) -> None:
        with self._lock:
            self.at_work -= 1
