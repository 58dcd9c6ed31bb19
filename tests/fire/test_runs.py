"""Runs of hundreds of prompts against endpoints that refuse, limit and break."""

import random
from collections import Counter
from decimal import Decimal
from typing import Any

import pytest

from dagster_imagegen.engine.endpoint.retries import RetryPolicy
from dagster_imagegen.engine.money.budget import Budget
from dagster_imagegen.sandbox import Sandbox
from tests.fire.conftest import Passes
from tests.fire.record_checks import (
    assert_every_request_has_its_row,
    assert_images_are_whole,
    assert_nothing_is_left_over,
    billed_by_prompt,
    by_status,
    rows_in,
)

COUNT = 300


def test_three_refused_of_300(passes: Passes) -> None:
    """297 images, 3 rows that say why not, 300 requests; and none at all on the rerun."""
    prompts = [f"a mug, number {number}" for number in range(COUNT)]
    for number in (7, 150, 299):
        prompts[number] = f"something gory, number {number}"
    with Sandbox(paint=False, refuse=["gory"]) as sandbox:
        first = passes.run(sandbox, prompts)
        rows = rows_in(passes.storage)
        assert len(sandbox.requests) == COUNT
        assert by_status(rows) == {"succeeded": COUNT - 3, "refused": 3}
        assert len(list(passes.storage.glob("images/*/*"))) == COUNT - 3
        refused = [row for row in rows if row["status"] == "refused"]
        assert {row["prompt"] for row in refused} == {p for p in prompts if "gory" in p}
        assert {row["error_code"] for row in refused} == {"moderation_blocked"}
        assert {row["billing"] for row in refused} == {"not_billed"}
        assert first.totals.cost_usd == sandbox.totals.cost_usd
        assert_every_request_has_its_row(rows, sandbox.requests)
        assert_images_are_whole(passes.storage, rows)
        sandbox.clear()
        again = passes.run(sandbox, prompts)
        assert sandbox.requests == []
        assert Counter(outcome.status for outcome in again.outcomes.values()) == {
            "reused": COUNT - 3,
            "refused": 3,
        }


def bad_day(seed: int, *, requests: int) -> list[str | None]:
    """20% rate limits, 10% server errors, 3% lost answers, at random but for the lost ones.

    Those are far apart: four lost in a row are an outage, and then the same run asks for their
    images again.
    """
    chance = random.Random(seed)
    day: list[str | None] = []
    while len(day) < requests:
        others = [*["too_many_concurrent"] * 7, *["server_error"] * 3, *[None] * 22]
        chance.shuffle(others)
        day += [chance.choice(["reset", "closed"]), *others]
    return day


def limited_failing_and_dropping(passes: Passes, *, seed: int, count: int) -> None:
    """A run on a very bad day, and one rerun on the same day.

    With fewer requests in flight than lie between two lost answers, and more tries than there can
    be server errors in a row for one image.
    """
    prompts = [f"a mug, number {number}" for number in range(count)]
    options: dict[str, Any] = {"max_concurrency": 16, "retry": RetryPolicy(max_attempts=12)}
    day = bad_day(seed, requests=2 * count)
    with Sandbox(paint=False, latency_seconds=(0.0, 0.05), faults=day, seed=seed) as sandbox:
        first = passes.run(sandbox, prompts, **options)
        left = {
            outcome.fingerprint
            for outcome in first.outcomes.values()
            if outcome.status != "generated"
        }
        assert {first.outcomes[name].status for name in left} == {"unknown"}
        bought_by_first = billed_by_prompt(sandbox.requests)
        assert set(bought_by_first.values()) == {1}, "without an outage, nothing twice in one run"
        again = passes.run(sandbox, prompts, **options)
        requests, rows = sandbox.requests, rows_in(passes.storage)

    assert {outcome.status for outcome in again.outcomes.values()} <= {"generated", "reused"}
    assert again.plan.retried == len(left)
    assert f"{len(left)} of them retried" in again.plan.describe()
    asked_again = {row["prompt"] for row in rows if row["run_id"] == "pass-2"}
    assert len(asked_again) == len(left)
    bought_twice = {prompt for prompt, times in billed_by_prompt(requests).items() if times > 1}
    assert bought_twice <= asked_again
    assert set(billed_by_prompt(requests)) == set(prompts)
    assert_every_request_has_its_row(rows, requests)
    assert_images_are_whole(passes.storage, rows)
    assert_nothing_is_left_over(passes.storage)


def test_limits_errors_and_dropped_connections(passes: Passes) -> None:
    """300 images after one rerun; none is bought twice but one whose answer was lost."""
    limited_failing_and_dropping(passes, seed=1, count=COUNT)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(2, 12))
def test_limits_errors_and_dropped_connections_in_full(passes: Passes, seed: int) -> None:
    """The same with ten more seeds."""
    limited_failing_and_dropping(passes, seed=seed, count=COUNT)


def test_ten_prompts_ten_times(passes: Passes) -> None:
    """One request for each, in one table and over ten runs."""
    prompts = [f"a mug, number {number}" for number in range(10)]
    with Sandbox(paint=False) as sandbox:
        passes.run(sandbox, prompts * 10)
        for _ in range(9):
            passes.run(sandbox, prompts * 10)
        assert billed_by_prompt(sandbox.requests) == dict.fromkeys(prompts, 1)
        assert len(sandbox.requests) == 10
        rows = rows_in(passes.storage)
        assert_every_request_has_its_row(rows, sandbox.requests)
        assert_images_are_whole(passes.storage, rows)


@pytest.mark.parametrize("rates", [{}, {"server_error": 0.1, "closed": 0.05, "reset": 0.05}])
def test_four_processes_share_a_budget(passes: Passes, rates: dict[str, float]) -> None:
    """More than 64 in flight, on a good day and on a bad one: together never over the budget."""
    budget = Budget(max_usd=Decimal("0.50"), per="day", scope="storage", when_exhausted="defer")
    # So slow that all processes have begun, and sent what the budget lets them, by the time that
    # the first answers come.
    with Sandbox(paint=False, latency_seconds=(2.5, 3.5), fault_rates=rates) as sandbox:
        writers = [
            passes.start(
                sandbox,
                [f"process {number}, mug {mug}" for mug in range(100)],
                max_concurrency=64,
                budget=budget,
                model="gpt-image-1-mini",
                params={"quality": "low", "size": "1024x1024"},
            )
            for number in range(4)
        ]
        assert [writer.wait() for writer in writers] == [0] * 4
        assert sandbox.totals.max_in_flight > 64
        assert Decimal("0.30") < sandbox.totals.cost_usd <= Decimal("0.50")
        rows = rows_in(passes.storage)
        assert_every_request_has_its_row(rows, sandbox.requests)
        assert sum(row["cost_usd"] for row in rows) <= Decimal("0.50")
    reported = Counter(status for writer in writers for status in writer.reported.values())
    assert reported["generated"] == by_status(rows)["succeeded"]
    assert reported["deferred"] > 100
