"""What the pacer learns from servers that announce nothing, on a virtual clock."""

import asyncio
import math
import random

import pytest

from dagster_imagegen.engine.pacing.rate import TRIAL, Rate
from tests.engine.pacing.silent_servers import Counting, SilentServer, Work
from tests.virtual_time import run_virtual


def run(server: SilentServer, *, prompts: int, workers: int = 64, until: float = 1e9) -> Work:
    """One run on a server, up to its end."""
    work = Work(server=server, prompts=prompts, workers=workers, until=until)
    run_virtual(work.run())
    return work


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("lanes", "timeout"), [(1, 3.0), (2, 3.0)])
def test_a_queue_is_not_flooded(lanes: int, timeout: float, seed: int) -> None:
    """Images of 0.4 s, one after the other: no request waits until it times out."""
    server = SilentServer(
        lanes=lanes, mean_seconds=0.4, timeout=timeout, chance=random.Random(seed)
    )
    run(server, prompts=40)
    assert len(server.made) == 40


def test_a_slow_queue_is_not_flooded() -> None:
    """Images of half a minute and the usual timeout: few are sent before the first answer."""
    server = SilentServer(lanes=1, mean_seconds=30.0, timeout=600.0)
    run(server, prompts=60)
    assert server.timed_out == 0


@pytest.mark.parametrize(
    ("prompts", "mean_seconds", "workers", "all_open", "most"),
    [(2000, 0.5, 256, 1.6, 5.7), (400, 0.5, 64, 1.2, 4.4), (1500, 0.1, 128, 1.2, 2.35)],
)
def test_it_is_soon_at_its_height(
    prompts: int, mean_seconds: float, workers: int, all_open: float, most: float
) -> None:
    """No limit: with all open from the start, they would take 4.2 s, 3.6 s and 1.4 s."""
    server = SilentServer(mean_seconds=mean_seconds)
    work = run(server, prompts=prompts, workers=workers)
    assert work.all_open_at <= all_open
    assert max(server.made) <= most


def test_images_that_take_long_lose_one_round() -> None:
    """Half a minute each: all are open after the first answers."""
    server = SilentServer(mean_seconds=30.0, timeout=600.0)
    work = run(server, prompts=300)
    assert work.all_open_at <= 31.0


@pytest.mark.parametrize("mean_seconds", [0.4, 2.0, 10.0, 30.0])
@pytest.mark.parametrize(("lanes", "most"), [(1, 15), (4, 32), (8, 64), (16, 216)])
def test_a_long_timeout_floods_no_queue_for_long(
    lanes: int, most: int, mean_seconds: float
) -> None:
    """Answers slow down, and the height falls to a few times what the server makes at once."""
    server = SilentServer(lanes=lanes, mean_seconds=mean_seconds, timeout=600.0)
    work = run(server, prompts=40 * lanes, workers=256)
    assert work.pacer is not None
    assert server.timed_out == 0
    assert server.most_open <= most
    assert work.pacer.limit <= max(6, 3.5 * lanes)


@pytest.mark.parametrize("lanes", [1, 2, 4, 16])
@pytest.mark.parametrize("mean_seconds", [0.4, 2.0, 10.0, 30.0])
def test_a_queue_is_not_flooded_whatever_its_images_take(lanes: int, mean_seconds: float) -> None:
    """A timeout of eight images: none of them waits in the queue for so long."""
    server = SilentServer(lanes=lanes, mean_seconds=mean_seconds, timeout=8 * mean_seconds)
    run(server, prompts=40 * lanes, workers=256)
    assert server.timed_out == 0


def test_a_queue_that_fills_the_highest_is_left_again() -> None:
    """All 64 are open before the first of them shows that it had to wait; then half of them."""
    server = SilentServer(lanes=16, mean_seconds=2.0, timeout=600.0)
    work = run(server, prompts=640)
    assert work.pacer is not None
    assert server.most_open == 64
    assert work.pacer.limit <= 32


@pytest.mark.parametrize("seed", range(5))
def test_images_that_differ_widely_are_not_taken_for_a_queue(seed: int) -> None:
    """2 s to 60 s in one table: it ends with all open, within 1.4 times the time from 64 on."""
    server = SilentServer(mean_seconds=31.0, spread=0.935, chance=random.Random(seed))
    work = run(server, prompts=500)
    assert work.pacer is not None
    assert work.pacer.limit == 64
    assert max(server.made) <= 1.4 * 277


def admit(
    counting: Counting,
    limit: int,
    *,
    offsets: list[float],
    minutes: int,
    **options: float,
) -> SilentServer:
    """Processes that begin at these times, on a machine that has been up for days."""
    server, up = SilentServer(a_minute=limit, counting=counting, asks_to_wait=1.0, **options), 1e6  # pyright: ignore[reportArgumentType]  # numbers
    ends = up + 60.0 * minutes
    works = [Work(server=server, prompts=10**6, until=ends, starts=offset) for offset in offsets]

    async def main() -> None:
        await asyncio.gather(*(work.run() for work in works))

    run_virtual(main(), start=up)
    return server


@pytest.mark.parametrize("counting", ["fixed", "sliding", "bucket"])
@pytest.mark.parametrize("limit", [60, 240])
@pytest.mark.parametrize("offsets", [[0.0], [0.0, 0.35]])
def test_a_rate_that_only_refusals_reveal(
    counting: Counting, limit: int, offsets: list[float]
) -> None:
    """Five minutes with `Retry-After: 1`: 95% is used, and 6% are refused at most."""
    server = admit(counting, limit, offsets=offsets, minutes=5)
    assert server.received - server.refused >= 0.95 * limit * 5
    assert server.refused <= 0.06 * server.received


@pytest.mark.parametrize("counting", ["fixed", "sliding", "bucket"])
@pytest.mark.parametrize("limit", [60, 240])
@pytest.mark.parametrize("mean_seconds", [0.5, 5.0])
@pytest.mark.parametrize("round_trip", [0.2, 0.5, 1.0])
def test_refusals_may_take_long_to_come_back(
    counting: Counting, limit: int, mean_seconds: float, round_trip: float
) -> None:
    """Several more are sent meanwhile. Ten minutes: 95% is used, and 15% are refused at most."""
    server = admit(
        counting, limit, offsets=[0.0], minutes=10, mean_seconds=mean_seconds, round_trip=round_trip
    )
    assert server.received - server.refused >= 0.95 * limit * 10
    assert server.refused <= 0.15 * server.received


@pytest.mark.parametrize("counting", ["fixed", "sliding", "bucket"])
@pytest.mark.parametrize("offsets", [[0.0, 1.0], [0.0, 0.35, 1.0]])
def test_a_rate_is_used_for_long(counting: Counting, offsets: list[float]) -> None:
    """Twenty minutes: 91% is used, and 6% are refused at most."""
    server = admit(counting, 60, offsets=offsets, minutes=20)
    assert server.received - server.refused >= 0.91 * 60 * 20
    assert server.refused <= 0.06 * server.received


@pytest.mark.parametrize("counting", ["fixed", "sliding", "bucket"])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_late_process_is_no_storm(counting: Counting, seed: int) -> None:
    """Whenever a second one begins within half a minute: 88% is used, and 6% are refused."""
    offsets = [0.0, random.Random(seed).uniform(0, 30)]
    server = admit(counting, 60, offsets=offsets, minutes=20)
    assert server.received - server.refused >= 0.88 * 60 * 20
    assert server.refused <= 0.06 * server.received


@pytest.mark.parametrize("asks_to_wait", [None, 1.0])
def test_three_at_once(asks_to_wait: float | None) -> None:
    """40 rows, three admitted at a time: a handful is refused, and all are made."""
    server = SilentServer(at_once=3, asks_to_wait=asks_to_wait)
    run(server, prompts=40)
    assert len(server.made) == 40
    assert server.refused <= 5


@pytest.mark.parametrize("asks_to_wait", [None, 1.0])
@pytest.mark.parametrize("mean_seconds", [0.5, 5.0])
@pytest.mark.parametrize("at_once", [1, 5, 10, 16, 24, 32, 40, 64, 100])
def test_whatever_is_admitted_at_once(
    at_once: int, mean_seconds: float, asks_to_wait: float | None
) -> None:
    """Refusals are back after 0.1 s: 1.45 times the best at most, and 6% are refused.

    The first refusal shows how many the server held. If the height fell to that step by step, the
    refusals on the way down would look as if they had nothing to do with it.
    """
    server = SilentServer(
        at_once=at_once, mean_seconds=mean_seconds, asks_to_wait=asks_to_wait, round_trip=0.1
    )
    run(server, prompts=800, workers=256)
    assert len(server.made) == 800
    assert max(server.made) <= 1.45 * 800 * (mean_seconds + 0.1) / at_once
    assert server.refused <= 0.06 * 800


@pytest.mark.parametrize("number", [1, 30])
def test_one_absurd_wait_defers_one_request(number: int) -> None:
    """A day, asked for once among good answers: the others go on."""
    server = SilentServer(absurd=frozenset({number}))
    assert run(server, prompts=400).deferred == 1
    assert len(server.made) == 399


def test_one_that_hangs_does_not_slow_the_others() -> None:
    """One in twenty hangs until it times out; later ones overtake it, so it waited for nobody."""
    server = SilentServer(mean_seconds=5.0, hangs=0.05, timeout=60.0)
    work = run(server, prompts=600)
    assert work.pacer is not None
    assert work.pacer.limit >= 32


@pytest.mark.parametrize("seed", range(6))
def test_refusals_at_random_are_not_taken_for_a_rate(seed: int) -> None:
    """Each twentieth is refused, and asks to wait for a second: little more than those pauses."""
    server = SilentServer(at_random=0.05, asks_to_wait=1.0, chance=random.Random(seed))
    run(server, prompts=600)
    assert len(server.made) == 600
    assert max(server.made) <= 90


@pytest.mark.parametrize(
    ("part", "seed"),
    [(0.05, seed) for seed in (14, 29, 31, 33)] + [(0.1, s) for s in (0, 7, 8, 12)],
)
def test_bad_luck_is_not_taken_for_a_rate(part: float, seed: int) -> None:
    """Seeds by which refusals at random come close together: 600 images within a minute."""
    server = SilentServer(at_random=part, asks_to_wait=1.0, chance=random.Random(seed))
    run(server, prompts=600)
    assert max(server.made) <= 60


@pytest.mark.full
@pytest.mark.parametrize("asks_to_wait", [1.0, None])
@pytest.mark.parametrize("part", [0.02, 0.05, 0.1])
def test_whatever_the_seed_no_rate_is_learnt_from_chance(
    part: float, asks_to_wait: float | None
) -> None:
    """Sixteen seeds: 600 images within a minute each, most of which are the pauses asked for."""
    for seed in range(16):
        server = SilentServer(at_random=part, asks_to_wait=asks_to_wait, chance=random.Random(seed))
        run(server, prompts=600)
        assert max(server.made) <= 60, f"seed {seed}"


def in_trial() -> tuple[Rate, int, float]:
    """A rate of about one a second, at the end of a trial that has not failed; the last request
    before that; and the time."""
    rate = Rate()
    now, number = 1e6, 0
    while rate.next_at(-math.inf) > -math.inf or number == 0:
        for _ in range(6):
            number += 1
            now += 1.0
            rate.sent(now)
        rate.not_taken(number)
        rate.refused(number, newest=number, wait_seconds=1.0, often=True, now=now)
        now = max(now, rate.next_at(-math.inf))
    for _ in range(TRIAL):
        now += 0.1
        rate.sent(now)
    assert not rate.is_known
    return rate, number, now


def test_refusals_of_earlier_requests_end_no_trial() -> None:
    """They tell of the rate that was then; those of requests that were sent without one do end it,
    though no cycle is closed then, and no rate can be measured."""
    rate, number, now = in_trial()
    for _ in range(2 * TRIAL):
        rate.not_taken(number)
        rate.refused(number, newest=10**6, wait_seconds=1.0, often=False, now=now)
    assert not rate.is_known
    for later in range(number + 1, number + 1 + TRIAL):
        rate.not_taken(later)
        rate.refused(later, newest=10**6, wait_seconds=1.0, often=False, now=now)
    assert rate.is_known


def test_a_rate_rises_again_after_a_trial_that_failed() -> None:
    """Also if what failed it were refusals for other reasons, and none comes any more."""
    rate, _, now = in_trial()
    for _ in range(TRIAL):
        rate.not_taken(10**6)
    before = rate.next_at(0.0)
    for second in range(120):
        rate.sent(now + second)
    assert rate.is_known
    assert rate.next_at(0.0) < before / 2
