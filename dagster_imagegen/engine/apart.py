"""Coroutines on a thread of their own, for callers that may be inside an event loop."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from dagster_imagegen.engine.machine import Threads

T = TypeVar("T")


def run_apart(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine to its end on a thread of its own: the caller may be inside a loop.

    If the caller is interrupted, it is cancelled.
    """
    begun: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[T]]] = Future()

    async def main() -> T:
        task = asyncio.ensure_future(work())
        begun.set_result((asyncio.get_running_loop(), task))
        return await task

    with Threads(1, name="imagegen-apart") as pool:
        result = pool.submit(lambda: asyncio.run(main()))
        try:
            return result.result()
        except BaseException:
            if begun.done():
                loop, task = begun.result()
                with contextlib.suppress(RuntimeError):  # The loop has ended by itself.
                    loop.call_soon_threadsafe(task.cancel)
            raise
