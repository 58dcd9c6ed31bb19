"""An event loop whose clock jumps: hours of waiting pass in milliseconds, the same way every time.

    assert run_virtual(asyncio.sleep(3600, "woke")) == "woke"

`loop.time()` stands still while anything can run, and jumps to the next timer when nothing can.
`asyncio.sleep`, timeouts, queues, locks and tasks are the real ones. Threads started through the
loop (`asyncio.to_thread`), or by a storage, are waited for without any time passing. Sockets and
pipes are refused: their time is the wall clock's.

`looptime` cannot replace this: on its loop time passes while a thread works, so that what a test
sees depends on the machine (`wait_for(to_thread(sleep, 0.05), 0.001)` times out). With steps of 0
it stands still, but then takes a thread at work for a deadlock, or never finds one.
"""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from contextvars import Context
from typing import Any, TypeVar

from typing_extensions import TypeVarTuple, Unpack

from dagster_imagegen.engine.deadlines import give_up

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

THREAD_PATIENCE_SECONDS = 300.0


class DeadlockError(RuntimeError):
    """Nothing can run, no timer is set and no thread works, so nothing will ever happen again."""


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop that jumps to its next timer when it is idle. Starts at time 0 unless told."""

    def __init__(self, *, start: float = 0.0) -> None:
        # Before super().__init__, which already asks for the time and registers the wake-up pipe.
        self._now = start
        self._threads_at_work = 0
        super().__init__(_JumpingSelector(self._pass_time))

    def time(self) -> float:
        """Virtual seconds."""
        return self._now

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Ts]], T], *args: Unpack[Ts]
    ) -> "asyncio.Future[T]":
        """As ever, but the clock stands still until the thread is done."""
        future = super().run_in_executor(executor, func, *args)
        self._threads_at_work += 1
        future.add_done_callback(self._thread_is_done)
        return future

    def call_later(
        self,
        delay: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: Unpack[Ts],
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """As ever, but the clock stands still while a call of a storage, which this ends, works."""
        if callback is give_up:
            answer: Any = args[0]
            self._threads_at_work += 1
            answer.add_done_callback(self._thread_is_done)
        return super().call_later(delay, callback, *args, context=context)

    def wait_for_a_thread(self) -> None:
        """From now on, idle means that a thread works."""
        self._threads_at_work += 1

    def _thread_is_done(self, _: "asyncio.Future[Any]") -> None:
        self._threads_at_work -= 1

    def _pass_time(self, selector: "_JumpingSelector", timeout: float | None) -> bool:
        """Called when idle. Moves the clock to the next timer, or says True: wait for a thread."""
        if self._threads_at_work:
            return True
        if len(selector.get_map()) > 1:
            raise RuntimeError("a socket or pipe is open on a virtual clock; use a real loop")
        if timeout is None:
            raise DeadlockError("nothing can run, no timer is set and no thread works")
        self._now += timeout
        return False


class _JumpingSelector(selectors.DefaultSelector):
    """Where asyncio would sleep, this asks `idle` what to do instead."""

    def __init__(self, idle: "Callable[[_JumpingSelector, float | None], bool]") -> None:
        super().__init__()
        self._idle = idle

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if events or (timeout is not None and timeout <= 0):
            return events
        if not self._idle(self, timeout):
            return []
        events = super().select(THREAD_PATIENCE_SECONDS)
        if not events:
            raise DeadlockError(f"a thread has worked for more than {THREAD_PATIENCE_SECONDS:g} s")
        return events


def run_virtual(main: Coroutine[Any, Any, T], *, start: float = 0.0) -> T:
    """`asyncio.run` on a `VirtualTimeLoop`: what is left running is cancelled and awaited."""
    loop = VirtualTimeLoop(start=start)
    try:
        return loop.run_until_complete(main)
    finally:
        try:
            _cancel_all(loop)
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.wait_for_a_thread()  # The one that shutting down the executor starts.
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            loop.close()


def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(_settled(tasks))


async def _settled(tasks: "set[asyncio.Task[Any]]") -> None:
    await asyncio.gather(*tasks, return_exceptions=True)
