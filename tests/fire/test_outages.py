"""An endpoint that goes away in the middle of a run, or fails every request for a while."""

import time
from collections import Counter
from decimal import Decimal
from typing import Any

import pytest

from dagster_imagegen.engine.money.budget import Budget
from dagster_imagegen.engine.run.breaker import AGREE
from dagster_imagegen.engine.run.thread import Generation
from dagster_imagegen.engine.run.verdict import RESENDS_MAX
from dagster_imagegen.sandbox import Fault, Sandbox
from tests.fire.conftest import Passes, until
from tests.fire.record_checks import assert_images_are_whole, rows_in

PATIENT: dict[str, Any] = {"patience_seconds": 600.0, "max_concurrency": 32}


def prompts(count: int) -> list[str]:
    return [f"a mug, number {number}" for number in range(count)]


def assert_each_was_made_and_paid(passes: Passes, generation: Generation, sandbox: Sandbox) -> None:
    """Every image in this run; the provider billed one request for each."""
    assert Counter(each.status for each in generation.outcomes.values()) == {
        "generated": len(generation.plan.jobs)
    }
    billed = Counter(each.body["prompt"] for each in sandbox.requests if each.billed)
    assert set(billed.values()) == {1}
    assert len(billed) == len(generation.plan.jobs)
    assert_images_are_whole(passes.storage, rows_in(passes.storage))


def run_with_an_outage(passes: Passes, *, images: int, seconds: float) -> None:
    with (
        Sandbox(paint=False, latency_seconds=(0.4, 0.6)) as sandbox,
        passes.begin(sandbox, prompts(images), **PATIENT) as generation,
    ):
        until(lambda: generation.totals.succeeded >= images // 5)
        sandbox.stop()
        until(lambda: "waiting for the endpoint for" in str(generation.progress))
        time.sleep(seconds)  # the outage itself; that it is noticed does not depend on it
        sandbox.start()
        for _ in generation:
            pass
        assert_each_was_made_and_paid(passes, generation, sandbox)


def test_an_endpoint_that_goes_away_is_waited_for(passes: Passes) -> None:
    """With requests in flight, whose answers are lost: all are made in this run, each paid once."""
    run_with_an_outage(passes, images=100, seconds=1.0)


@pytest.mark.full
def test_an_endpoint_that_is_away_for_two_minutes(passes: Passes) -> None:
    run_with_an_outage(passes, images=300, seconds=120.0)


def run_while_all_fails(passes: Passes, sandbox: Sandbox) -> Generation:
    settings: dict[str, Any] = {**PATIENT, "max_concurrency": 8}
    with passes.begin(sandbox, prompts(60), **settings) as generation:
        for _ in generation:
            pass
    return generation


@pytest.mark.parametrize("kind", ["bad_gateway", "unavailable_unannounced"])
def test_an_endpoint_that_fails_every_request_for_a_while(passes: Passes, kind: str) -> None:
    """Failures in a row: sending pauses, probes go out, and no image is given up."""
    faults = [*[None] * 20, *[Fault(kind)] * 7]
    with Sandbox(paint=False, latency_seconds=0.01, faults=faults) as sandbox:
        generation = run_while_all_fails(passes, sandbox)
        assert_each_was_made_and_paid(passes, generation, sandbox)


def test_a_gateway_that_times_out_for_a_while(passes: Passes) -> None:
    """It does not stop the work behind it, which is billed: no image is bought a fourth time."""
    faults = [*[None] * 20, *[Fault("gateway_timeout")] * 7]
    with Sandbox(paint=False, latency_seconds=0.01, faults=faults) as sandbox:
        generation = run_while_all_fails(passes, sandbox)
        billed = Counter(each.body["prompt"] for each in sandbox.requests if each.billed)
    assert max(billed.values()) <= 1 + RESENDS_MAX
    statuses = Counter(each.status for each in generation.outcomes.values())
    assert set(statuses) <= {"generated", "unknown"}
    # An answer that was on its way before can end a row of them: too few in a row are no outage.
    alone = AGREE - 1
    assert statuses["unknown"] <= alone + (7 - alone) // (1 + RESENDS_MAX)


@pytest.mark.parametrize("kind", ["invalid_api_key", "payment_required", "not_found", "redirect"])
def test_one_bad_answer_among_many_is_one_row(passes: Passes, kind: str) -> None:
    faults = [*[None] * 50, kind]
    with Sandbox(paint=False, faults=faults) as sandbox:
        generation = passes.run(sandbox, prompts(200), **PATIENT)
        assert len(sandbox.requests) == 200
    statuses = Counter(each.status for each in generation.outcomes.values())
    assert statuses == {"generated": 199, "failed": 1}


def test_a_prompt_that_is_never_accepted_is_one_row(passes: Passes) -> None:
    """The first of 300, answered with 422 each time."""
    with Sandbox(paint=False, faults=["unprocessable"]) as sandbox:
        generation = passes.run(sandbox, prompts(300), **PATIENT)
    statuses = Counter(each.status for each in generation.outcomes.values())
    assert statuses == {"generated": 299, "failed": 1}


@pytest.mark.parametrize("kind", ["invalid_value", "payment_required", "invalid_api_key"])
def test_what_every_row_meets_is_found_out_by_a_few(passes: Passes, kind: str) -> None:
    with Sandbox(paint=False, latency_seconds=0.01, faults=[kind] * 150) as sandbox:
        with pytest.raises(Exception, match="answers were like this"):
            passes.run(sandbox, prompts(150), **PATIENT)
        assert len(sandbox.requests) <= 12


def test_server_errors_take_nothing_of_a_budget(passes: Passes) -> None:
    """A tenth of the requests ends in 500, which costs nothing as far as anyone can tell: a budget
    that is little more than the price of the work is enough for all of it.

    It is settled which images fail: at random, one of them may fail at each of its three tries.
    """
    names = [f"a mug, number {number:03}" for number in range(200)]
    faults = [
        Fault("server_error", prompt=name, times=1 + number % 2)
        for number, name in enumerate(names[::13])
    ]
    failing = sum(fault.times or 0 for fault in faults)
    budget = Budget(max_usd=Decimal("0.01125") * len(names))
    with Sandbox(paint=False, faults=faults) as sandbox:
        generation = passes.run(
            sandbox,
            names,
            budget=budget,
            params={"quality": "low", "size": "1024x1024"},
            **PATIENT,
        )
        assert len(sandbox.requests) == len(names) + failing
    statuses = Counter(each.status for each in generation.outcomes.values())
    assert statuses == {"generated": len(names)}
    rows = rows_in(passes.storage)
    failed = [row for row in rows if row["status"] == "failed"]
    assert len(failed) == failing > len(names) // 10
    assert {(row["cost_usd"], row["cost_basis"], row["billing"]) for row in failed} == {
        (0, "estimated", "unknown")
    }
    assert all(row["cost_usd_max"] == row["worst_case_usd"] > 0 for row in failed)
    assert generation.totals.cost_usd < generation.totals.cost_usd_max
