"""The clock that the other tests are timed by."""

import asyncio
import time

import pytest

from tests.virtual_time import DeadlockError, VirtualTimeLoop, run_virtual


def test_hours_pass_at_once_and_in_order():
    """Sleeps end in the order of their times, and the clock reads exactly those."""

    async def main() -> list[tuple[str, float]]:
        loop = asyncio.get_running_loop()
        seen: list[tuple[str, float]] = []

        async def sleeper(name: str, seconds: float) -> None:
            await asyncio.sleep(seconds)
            seen.append((name, loop.time()))

        await asyncio.gather(sleeper("late", 7200), sleeper("early", 0.25), sleeper("mid", 100_000))
        return seen

    seen = run_virtual(main())
    assert [name for name, _ in seen] == ["early", "late", "mid"]
    assert [round(at, 6) for _, at in seen] == [0.25, 7200, 100_000]


def test_the_clock_stands_still_while_there_is_work():
    """Yielding to other tasks a thousand times takes no time."""

    async def main() -> float:
        for _ in range(1000):
            await asyncio.sleep(0)
        return asyncio.get_running_loop().time()

    assert run_virtual(main(), start=5.0) == 5.0


def test_timeouts_work():
    """`wait_for` gives up at its time, and not before."""

    async def main() -> float:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 90)
        return asyncio.get_running_loop().time()

    assert round(run_virtual(main()), 6) == 90


def test_a_thread_is_waited_for_without_time_passing():
    """A timer does not fire while a thread works, however long the thread takes."""

    async def main() -> float:
        loop = asyncio.get_running_loop()
        timer = asyncio.create_task(asyncio.sleep(0.001))
        await asyncio.wait_for(asyncio.to_thread(time.sleep, 0.05), 0.001)
        at = loop.time()
        await timer
        return at

    assert run_virtual(main()) == 0.0


def test_a_deadlock_is_an_error():
    """Waiting for what cannot come raises instead of hanging, and leaves nothing running."""
    cancelled: list[bool] = []

    async def main() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(True)

    with pytest.raises(DeadlockError):
        run_virtual(main())
    assert cancelled == [True]


def test_sockets_are_refused():
    """A real connection would be timed by another clock, so the loop says so."""

    async def main() -> None:
        server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
        async with server:
            await asyncio.sleep(1)

    with pytest.raises(RuntimeError, match="socket"):
        run_virtual(main())


def test_an_error_of_the_main_coroutine_comes_out():
    """What the coroutine raises is raised, and other tasks are cancelled."""
    left: list[asyncio.Task[None]] = []

    async def main() -> None:
        left.append(asyncio.create_task(asyncio.sleep(1000)))
        await asyncio.sleep(1)
        raise LookupError

    with pytest.raises(LookupError):
        run_virtual(main())
    assert left[0].cancelled()


def test_the_loop_is_an_ordinary_one():
    """It can be made and closed without the helper."""
    loop = VirtualTimeLoop()
    loop.run_until_complete(asyncio.sleep(3))
    assert round(loop.time(), 6) == 3
    loop.close()
