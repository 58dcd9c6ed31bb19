"""An event loop of callbacks and timers alone, for schedules by the thousand.

It does what tests/virtual_time.py does, for code that has no sockets: the clock jumps to the next
timer when nothing can run. What would go to a thread runs at once. Without threads, handles and the
kernel's poll at every turn a schedule takes less than half the time.
"""

import asyncio
import heapq
import itertools
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from typing import Any, TypeVar

from tests.virtual_time import DeadlockError

T = TypeVar("T")


class ModelLoop(asyncio.AbstractEventLoop):
    """Starts at time 0. The first error that nobody caught is kept, and raised at the end."""

    def __init__(self) -> None:
        self.now = 0.0
        self._ready: deque[tuple[Callable[..., object], tuple[Any, ...], Context]] = deque()
        self._timers: list[tuple[float, int, asyncio.TimerHandle | asyncio.Future[None]]] = []
        self._serial = itertools.count()
        self._uncaught: dict[str, Any] | None = None

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """`asyncio.run`: what is left running is cancelled and awaited."""
        asyncio._set_running_loop(self)  # pyright: ignore[reportPrivateUsage]  # for loops
        try:
            try:
                result = self._run_until_done(asyncio.Task(main, loop=self))
            finally:
                while left := asyncio.all_tasks(self):  # They may start others as they end.
                    for task in left:
                        task.cancel()
                    self._run_until_done(asyncio.gather(*left, return_exceptions=True))
        finally:
            asyncio._set_running_loop(None)  # pyright: ignore[reportPrivateUsage]
        if self._uncaught is not None:
            raise RuntimeError(self._uncaught["message"]) from self._uncaught.get("exception")
        return result

    def _run_until_done(self, future: "asyncio.Future[T]") -> T:
        ready, timers, pop = self._ready, self._timers, heapq.heappop
        while not future.done():
            while not ready:
                if not timers:
                    raise DeadlockError("nothing can run, and no timer is set")
                when, _, timer = pop(timers)
                if timer.cancelled():
                    continue
                self.now = when
                if isinstance(timer, asyncio.TimerHandle):
                    timer._run()
                else:
                    timer.set_result(None)
            callback, args, context = ready.popleft()
            context.run(callback, *args)
        return future.result()

    def pause(self, seconds: float) -> "asyncio.Future[None]":
        """`asyncio.sleep` with less ado."""
        future: asyncio.Future[None] = asyncio.Future(loop=self)
        heapq.heappush(self._timers, (self.now + seconds, next(self._serial), future))
        return future

    # -- what asyncio asks of a loop ------------------------------------------------------------

    def time(self) -> float:
        return self.now

    def call_soon(
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Any:
        # Without a handle: nobody here takes back what runs at once.
        self._ready.append((callback, args, context or copy_context()))

    def call_later(
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self.now + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._serial), timer))
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It is skipped when its time has come."""

    def create_future(self) -> "asyncio.Future[Any]":
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, **options: Any) -> "asyncio.Task[Any]":
        return asyncio.Task(coro, loop=self, **options)

    def run_in_executor(
        self, executor: object, func: Callable[..., Any], *args: Any
    ) -> "asyncio.Future[Any]":
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001  # as an executor does
            future.set_exception(error)
        return future

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self._uncaught = self._uncaught or context

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False
