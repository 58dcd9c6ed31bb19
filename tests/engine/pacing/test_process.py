"""Limits that all passes of a process share."""

import asyncio
import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from dagster_imagegen.engine.pacing.pacer import Pacer, Signal
from dagster_imagegen.engine.pacing.process import Pace, Paces
from tests.virtual_time import run_virtual


async def send(pace: Pace, *, a_minute: float | None = 6) -> float:
    """One request of a pass of its own; the time at which it was sent."""
    clock = asyncio.get_running_loop().time
    pacer = Pacer(max_concurrency=8, requests_per_minute=a_minute, pace=pace, clock=clock)
    slot = await pacer.acquire()
    pacer.release(slot, Signal(outcome="accepted"))
    return slot.sent_at


def test_passes_one_after_the_other_share_a_minute() -> None:
    """Four passes of one request each, six a minute: each is ten seconds after the last."""

    async def main() -> list[float]:
        pace = Pace()
        return [await send(pace) for _ in range(4)]

    assert [round(at) for at in run_virtual(main())] == [0, 10, 20, 30]


def test_passes_at_the_same_time_share_a_minute() -> None:
    """Four passes that begin together send as many as one would."""

    async def main() -> list[float]:
        pace = Pace()
        return await asyncio.gather(*(send(pace) for _ in range(4)))

    assert sorted(round(at) for at in run_virtual(main())) == [0, 10, 20, 30]


def test_a_pass_without_a_cap_does_not_wait() -> None:
    """It counts for those that have one."""

    async def main() -> list[float]:
        pace = Pace()
        return [await send(pace, a_minute=None), await send(pace, a_minute=None), await send(pace)]

    assert [round(at) for at in run_virtual(main())] == [0, 0, 10]


@pytest.mark.parametrize("of_the_other", [60, None])
def test_a_pass_with_a_lower_cap_gets_its_turns(of_the_other: float | None) -> None:
    """Another pass of the account sends each second, for two minutes."""

    async def main() -> list[float]:
        pace = Pace()

        async def often() -> None:
            for _ in range(120):
                await send(pace, a_minute=of_the_other)
                await asyncio.sleep(1)

        other = asyncio.create_task(often())
        sent = [await send(pace) for _ in range(4)]
        assert not other.done()
        await other
        return sent

    sent = run_virtual(main())
    assert all(later - earlier >= 10 for earlier, later in itertools.pairwise(sent))
    assert sent[-1] < 90


def test_one_of_many_threads_sends() -> None:
    """Threads whose turn comes at the same time: one takes it."""
    pace, together = Pace(), threading.Barrier(8)

    def take(_: int) -> int:
        together.wait()
        return sum(pace.take(1.0, float(now), early_seconds=0.0) for now in range(500))

    with ThreadPoolExecutor(8) as threads:
        taken = sum(threads.map(take, range(8)))
    assert taken <= 500
    assert pace.next_at(1.0) == 500.0


def test_endpoint_and_key_decide_whose_limit_it_is() -> None:
    """Another key or another endpoint has its own; the key itself is not kept."""
    paces = Paces()
    pace = paces.of("https://example.com/v1", "sk-secret")
    assert paces.of("https://example.com/v1", "sk-secret") is pace
    assert paces.of("https://example.com/v1", "sk-other") is not pace
    assert paces.of("https://example.org/v1", "sk-secret") is not pace
    assert "sk-secret" not in repr(vars(paces))
