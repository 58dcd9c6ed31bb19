"""Calls with a deadline."""

import asyncio
import contextlib
import threading
from typing import Any

import pytest

from dagster_imagegen.engine import deadlines
from dagster_imagegen.engine.deadlines import Deadlines, Late


def test_calls_that_are_waited_for_are_not_abandoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many event loops at work on one store are no sign that it hangs."""
    monkeypatch.setattr(deadlines, "ABANDONED_MAX", 1)
    calls, goes_on = Deadlines(60.0), threading.Event()
    begun = threading.Semaphore(0)

    def wait() -> bool:
        begun.release()
        return goes_on.wait(60)

    async def many() -> list[bool]:
        names = [str(number) for number in range(calls.at_once)]
        return await asyncio.gather(*(calls.run("read", name, wait) for name in names))

    results: list[list[bool]] = []
    loops = [threading.Thread(target=lambda: results.append(asyncio.run(many()))) for _ in range(2)]
    for loop in loops:
        loop.start()
    for _ in range(2 * calls.at_once):
        assert begun.acquire(timeout=60)
    assert calls.run_now("read", "another", lambda: "read") == "read"
    goes_on.set()
    for loop in loops:
        loop.join()
    assert [all(result) for result in results] == [True, True]


def test_calls_that_have_answered_are_not_abandoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even while their thread is still on its way out."""
    monkeypatch.setattr(deadlines, "ABANDONED_MAX", 1)
    calls, goes_on = Deadlines(60.0), threading.Event()

    class Loop(asyncio.SelectorEventLoop):
        def call_soon_threadsafe(self, callback: Any, *args: Any, context: Any = None) -> Any:
            handle = super().call_soon_threadsafe(callback, *args, context=context)
            if threading.current_thread().name == "imagegen-storage":
                goes_on.wait(60)
            return handle

    async def two() -> list[str]:
        return [await calls.run("read", name, name.upper) for name in ("a", "b")]

    with contextlib.closing(Loop()) as loop:
        try:
            assert loop.run_until_complete(two()) == ["A", "B"]
        finally:
            goes_on.set()


def test_calls_that_never_end_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond so many, calls fail at once; when one ends, they are made again."""
    monkeypatch.setattr(deadlines, "ABANDONED_MAX", 1)
    calls, goes_on = Deadlines(0.05), threading.Event()
    with pytest.raises(Late, match="no answer"):
        asyncio.run(calls.run("read", "hangs", goes_on.wait))
    with pytest.raises(Late, match="1 earlier calls"):
        calls.run_now("read", "another", lambda: "read", times=1000)
    goes_on.set()
    while calls.abandoned:
        threading.Event().wait(0.01)
    assert calls.run_now("read", "another", lambda: "read", times=1000) == "read"
