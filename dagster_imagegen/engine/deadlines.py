"""Calls with a deadline, on threads of which one is abandoned if its call never ends."""

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from functools import partial
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
    """Runs blocking calls, and has event loops and threads wait for none beyond its deadline.

    A thread cannot be ended from outside. One whose call is late is left to itself, and does not
    keep the process from ending. At most `ABANDONED_MAX` such threads pile up; then every call
    fails until one of theirs ends. Raises `ImageGenError` if no thread can be started at all.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.at_once = storage_threads()
        """Calls that one event loop makes at a time."""
        self._threads = _Threads()
        self._late: dict[tuple[str, str], int] = {}
        self._turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = (
            WeakKeyDictionary()
        )

    @property
    def abandoned(self) -> int:
        """Calls that nobody waits for any more, and that have not ended."""
        return self._threads.abandoned

    def seconds(self, verb: str, path: str) -> float:
        """The deadline of a call; it doubles each time that this very call was late in a row."""
        return self._seconds * 2 ** min(self._late.get((verb, path), 0), DOUBLINGS_MAX)

    async def run(self, verb: str, path: str, call: Callable[[], T]) -> T:
        """The call's result, or its error. Raises `Late`."""
        loop, key = asyncio.get_running_loop(), (verb, path)
        turns = self._turns.get(loop)
        if turns is None:
            turns = self._turns[loop] = asyncio.Semaphore(self.at_once)
        async with turns:  # Waiting for a turn does not count: it is not the store that is slow.
            self._check_abandoned()
            seconds = self.seconds(verb, path)
            answer: asyncio.Future[T] = loop.create_future()
            at_work = self._threads.answer(answer, call)
            timer = loop.call_later(seconds, give_up, answer)
            try:
                result = await answer
            except _GivenUp:
                self._threads.abandon(at_work)
                raise self._is_late(key, seconds) from None
            except asyncio.CancelledError:
                self._threads.abandon(at_work)
                raise
            finally:
                timer.cancel()
            self._late.pop(key, None)
            return result

    def run_now(self, verb: str, path: str, call: Callable[[], T], *, times: float = 1) -> T:
        """`run`, for a thread that waits; the deadline is `times` that of a single call."""
        key = (verb, path)
        self._check_abandoned()
        seconds = self.seconds(verb, path) * times
        future, at_work = self._threads.submit(call)
        done, _ = wait([future], timeout=seconds)
        if not done:
            future.cancel()  # Without effect once it has begun.
            self._threads.abandon(at_work)
            raise self._is_late(key, seconds)
        self._late.pop(key, None)
        return future.result()

    def _check_abandoned(self) -> None:
        if self.abandoned >= ABANDONED_MAX:
            raise Late(f"{self.abandoned} earlier calls of it have not ended")

    def _is_late(self, key: tuple[str, str], seconds: float) -> Late:
        self._late[key] = self._late.get(key, 0) + 1
        return Late(f"no answer in {seconds:g} s")


class _GivenUp(Exception):
    """A call is not waited for any more."""


def give_up(answer: "asyncio.Future[Any]") -> None:
    """End the wait for an answer of a thread."""
    if not answer.done():
        answer.set_exception(_GivenUp())


class _Call:
    """How far a call is, as its threads know."""

    has_begun = has_ended = is_abandoned = False


class _Threads:
    """As many threads as there are calls, or as the machine allows; the others wait for one.

    Unlike a pool's, they are not waited for when Python ends. They end with this object.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._count = 0
        self.at_work = 0
        """Calls that have not ended."""
        self.abandoned = 0
        """Those of them that nobody waits for any more."""
        finalize(self, self._waiting.put, None)
        with explaining_threads():
            self._start()

    def submit(self, call: Callable[[], T]) -> "tuple[Future[T], _Call]":
        """Run a call, for a thread that waits."""
        future: Future[T] = Future()

        def work() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(call())
            except BaseException as error:  # noqa: BLE001  # handed to whoever waits
                future.set_exception(error)

        return future, self._put(work)

    def answer(self, answer: "asyncio.Future[T]", call: Callable[[], T]) -> _Call:
        """Run a call, for an event loop; not if nobody waits for its answer any more.

        A future of threads, and one of asyncio that follows it, would take several times as long.
        """
        loop = answer.get_loop()

        def work() -> None:
            if answer.done():  # Given up, or cancelled; without effect once it has begun.
                return
            try:
                hand_over = partial(_set_result, answer, call())
            except BaseException as error:  # noqa: BLE001  # handed to whoever waits
                hand_over = partial(_set_exception, answer, error)
            with contextlib.suppress(RuntimeError):  # The loop has ended.
                loop.call_soon_threadsafe(hand_over)

        return self._put(work)

    def abandon(self, call: _Call) -> None:
        """Count a call that nobody waits for any more, until it ends; one yet to begin never is."""
        with self._lock:
            if call.has_begun and not call.has_ended:
                call.is_abandoned = True
                self.abandoned += 1

    def _put(self, work: Callable[[], None]) -> _Call:
        call = _Call()

        def counted() -> None:
            with self._lock:
                call.has_begun = True
            try:
                work()
            finally:
                with self._lock:
                    call.has_ended = True
                    self.at_work -= 1
                    self.abandoned -= call.is_abandoned

        with self._lock:
            self.at_work += 1
            if self.at_work > self._count:
                with contextlib.suppress(RuntimeError):  # No more: it waits for one of the others.
                    self._start()
        self._waiting.put(counted)
        return call

    def _start(self) -> None:
        threading.Thread(
            target=_work_off, args=(self._waiting,), name="imagegen-storage", daemon=True
        ).start()
        self._count += 1


def _set_result(answer: "asyncio.Future[T]", result: T) -> None:
    if not answer.done():
        answer.set_result(result)


def _set_exception(answer: "asyncio.Future[Any]", error: BaseException) -> None:
    if not answer.done():
        answer.set_exception(error)


def _work_off(waiting: "queue.SimpleQueue[Callable[[], None] | None]") -> None:
    """Until None comes, which is handed on to the next thread. Keeps no reference to its owner."""
    while (work := waiting.get()) is not None:
        work()
        del work
    waiting.put(None)
