"""Refusals at random, and those of a rate that is used up, by nothing but their numbers."""

import random
from collections.abc import Callable

import pytest

from dagster_imagegen.engine.pacing.suspicion import Suspicion


def is_sure_of(refused: list[int]) -> bool:
    """Whether a rate is ever taken for sure, as these requests are refused."""
    suspicion = Suspicion()
    for number in refused:
        suspicion.refused(number)
        if suspicion.is_sure:
            return True
    return False


def runs_that_show_a_rate(part: Callable[[int], float], *, at_once: int = 1) -> int:
    """Of 100 runs of 600 requests, each of which is refused with a chance that depends on its
    number. So many are sent at once, and refused in any order."""
    count = 0
    for seed in range(100):
        chance = random.Random(seed)
        refused = [n for n in range(1, 600) if chance.random() < part(n)]
        order = {number: (number // at_once, chance.random()) for number in refused}
        count += is_sure_of(sorted(refused, key=order.__getitem__))
    return count


@pytest.mark.parametrize("at_once", [1, 8, 64])
@pytest.mark.parametrize("part", [0.02, 0.05, 0.1])
def test_chance_is_hardly_ever_taken_for_a_rate(part: float, at_once: int) -> None:
    """In at most five of 100 runs."""
    assert runs_that_show_a_rate(lambda _: part, at_once=at_once) <= 5


@pytest.mark.parametrize("part", [0.05, 0.1])
def test_chance_that_sets_in_late_is_seldom_taken_for_a_rate(part: float) -> None:
    """After 300 requests of which none was refused, a share of them is: it is soon expected."""
    assert runs_that_show_a_rate(lambda number: part if number >= 300 else 0.0) <= 50


@pytest.mark.parametrize("at_once", [1, 8, 64])
@pytest.mark.parametrize("before", [0.0, 0.05])
def test_a_rate_shows_in_whatever_order_refusals_come(before: float, at_once: int) -> None:
    """From one request on, each second one is refused on average."""
    found = runs_that_show_a_rate(lambda number: 0.55 if number >= 300 else before, at_once=at_once)
    assert found >= 99


@pytest.mark.parametrize(("before", "refusals"), [(0, 4), (10, 6), (20, 5), (60, 4), (240, 4)])
def test_a_few_refusals_show_a_rate(before: int, refusals: int) -> None:
    """So many requests are taken, then each second one is refused."""
    numbers = [before + 1 + 2 * number for number in range(refusals)]
    assert not is_sure_of(numbers[:3])
    assert is_sure_of(numbers)


def test_a_rate_shows_also_among_refusals_at_random() -> None:
    """One in twenty is refused, and then each second one: fewer than a dozen of those show it."""
    at_random = list(range(20, 400, 20))
    assert not is_sure_of(at_random)
    assert is_sure_of([*at_random, *range(400, 424, 2)])
