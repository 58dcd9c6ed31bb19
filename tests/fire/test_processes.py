"""Processes that are interrupted, paused past their lease, or at work on the same storage."""

import signal
from collections import Counter
from typing import Any

import pytest

from dagster_imagegen.engine.patience import Patience
from dagster_imagegen.engine.record import Limits
from dagster_imagegen.sandbox import Sandbox
from tests.fire.conftest import OpenPasses, Passes, until
from tests.fire.record_checks import (
    assert_every_request_has_its_row,
    assert_images_are_whole,
    assert_nothing_is_left_over,
    billed_by_prompt,
    by_status,
    rows_in,
)
from tests.fire.writer import EXIT_DRAINED, EXIT_FAILED

PROMPTS = [f"a mug, number {number}" for number in range(60)]


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT], ids=lambda sent: sent.name)
def test_an_interrupted_process_drains(passes: Passes, sent: signal.Signals) -> None:
    """Nothing more is sent, what is in flight comes back, and a rerun does only the rest."""
    # Slow answers, four at a time: the signal comes long before the last of them.
    with Sandbox(paint=False, latency_seconds=(0.5, 1.0), seed=2) as sandbox:
        writer = passes.start(sandbox, PROMPTS, max_concurrency=4)
        until(lambda: len(writer.reported) >= 5)
        writer.send(sent)
        assert writer.wait() == EXIT_DRAINED
        rows, requests = rows_in(passes.storage), sandbox.requests
        assert 5 <= len(requests) < len(PROMPTS)
        assert by_status(rows) == {"succeeded": len(requests)}
        assert_every_request_has_its_row(rows, requests)
        assert_images_are_whole(passes.storage, rows)
        assert_nothing_is_left_over(passes.storage)
        # One may have been handed over and not noted down yet when the signal came.
        assert len(requests) - 1 <= len(writer.reported) <= len(requests)
        again = passes.run(sandbox, PROMPTS)
        assert again.totals.requests == len(PROMPTS) - len(requests)
        assert billed_by_prompt(sandbox.requests) == dict.fromkeys(PROMPTS, 1)


def test_draining_is_bounded(passes: Passes) -> None:
    """An endpoint that never answers holds nobody up, and each request is a row all the same."""
    with Sandbox(paint=False, latency_seconds=3600.0) as sandbox:
        writer = passes.start(sandbox, PROMPTS, max_concurrency=4, drain_seconds=0.5)
        until(lambda: sandbox.totals.requests == 4)
        writer.send(signal.SIGTERM)
        assert writer.wait() == EXIT_DRAINED  # Far sooner than any answer.
        rows = rows_in(passes.storage)
        assert by_status(rows) == {"unknown": 4}
        assert_every_request_has_its_row(rows, sandbox.requests)
        assert all(row["cost_usd"] == row["worst_case_usd"] for row in rows)
        assert_nothing_is_left_over(passes.storage)


def paused_and_replaced(passes: Passes, sandbox: Sandbox, prompts: list[str]) -> None:
    """A writer is stopped, another takes it for dead and does its work; then it is woken up."""
    options: dict[str, Any] = {"max_concurrency": 8}
    if "limits" not in passes.defaults:
        options["limits"] = Limits(lease=3.0, poll=0.05, patience=Patience(backoff_seconds=0.01))
    paused = passes.start(sandbox, prompts, signals_itself=(5, signal.SIGSTOP), **options)
    until(lambda: len(paused.reported) >= 5)
    before = paused.reported
    successor = passes.start(sandbox, prompts, **options)
    try:
        assert successor.wait() == 0
    finally:
        paused.send(signal.SIGCONT)
    assert paused.wait() == EXIT_FAILED
    assert "Fenced" in paused.log[-1]

    rows, requests = rows_in(passes.place), sandbox.requests
    assert_every_request_has_its_row(rows, requests, dead={paused.work.run_id})
    bought = billed_by_prompt(requests)
    by_run = Counter(row["run_id"] for row in rows)
    assert set(by_run) == {paused.work.run_id, successor.work.run_id}
    for fingerprint in before:
        assert successor.reported[fingerprint] == "reused"
    # What it had in flight when it was stopped may have been bought for nothing, and says so.
    unknown = {row["prompt"] for row in rows if row["status"] == "unknown"}
    assert {prompt for prompt, times in bought.items() if times > 1} <= unknown
    last = passes.run(sandbox, prompts)
    assert {outcome.status for outcome in last.outcomes.values()} <= {"reused", "generated"}
    assert max(billed_by_prompt(sandbox.requests).values()) <= 2
    rows = rows_in(passes.place)
    assert_every_request_has_its_row(rows, sandbox.requests, dead={paused.work.run_id})
    assert_nothing_is_left_over(passes.place)


def test_a_writer_paused_past_its_lease_is_fenced(passes_anywhere: Passes) -> None:
    """When it comes back it sends nothing more and says why; no row is lost or doubled."""
    with Sandbox(paint=False, latency_seconds=(0.1, 0.4), seed=3) as sandbox:
        paused_and_replaced(passes_anywhere, sandbox, PROMPTS[:24])


@pytest.mark.full
@pytest.mark.parametrize("seed", range(4))
def test_a_writer_paused_past_its_lease_is_fenced_in_full(
    passes_anywhere: Passes, seed: int
) -> None:
    """The same with more of it, and answers in another order."""
    with Sandbox(paint=False, latency_seconds=(0.1, 0.4), seed=seed) as sandbox:
        paused_and_replaced(passes_anywhere, sandbox, PROMPTS)


def writers_at_once(passes: Passes, prompts: list[str], *, count: int) -> None:
    """Several processes run the same prompts, and each image is bought once."""
    with Sandbox(paint=False, latency_seconds=(0.05, 0.2), seed=4) as sandbox:
        writers = [passes.start(sandbox, prompts, max_concurrency=16) for _ in range(count)]
        assert [writer.wait() for writer in writers] == [0] * count
        rows, requests = rows_in(passes.place), sandbox.requests
        assert billed_by_prompt(requests) == dict.fromkeys(prompts, 1)
        assert_every_request_has_its_row(rows, requests)
        assert_images_are_whole(passes.place, rows)
        assert_nothing_is_left_over(passes.place)
        reported = Counter(status for writer in writers for status in writer.reported.values())
        assert reported == {"generated": len(prompts), "reused": (count - 1) * len(prompts)}


@pytest.mark.parametrize("count", [2, 4])
def test_writers_at_once_buy_each_image_once(passes: Passes, count: int) -> None:
    """What another live process asks for is waited for, and every row is there once."""
    writers_at_once(passes, PROMPTS, count=count)


def test_writers_at_once_on_s3(passes_on_s3: OpenPasses) -> None:
    """The same where no lock tells who is there."""
    writers_at_once(at_ease(passes_on_s3("s3")), PROMPTS[:16], count=2)


@pytest.mark.full
@pytest.mark.parametrize("count", [2, 3, 4])
def test_writers_at_once_on_s3_in_full(passes_on_s3: OpenPasses, count: int) -> None:
    """The same with more of them, and more of it."""
    writers_at_once(at_ease(passes_on_s3("s3")), PROMPTS, count=count)


def at_ease(passes: Passes) -> Passes:
    """With a lease that nobody loses who only waits for a slow store."""
    passes.defaults["limits"] = Limits(
        lease=60.0, poll=0.5, patience=Patience(backoff_seconds=0.05)
    )
    return passes


def test_what_a_dying_writer_asks_for_is_taken_over(passes: Passes) -> None:
    """Of two at once one is killed: the other waits no longer, and the rest is as ever."""
    with Sandbox(paint=False, latency_seconds=(0.1, 0.4), seed=5) as sandbox:
        first, second = (passes.start(sandbox, PROMPTS, max_concurrency=8) for _ in range(2))
        until(lambda: len(first.reported) >= 5)
        first.send(signal.SIGKILL)
        first.wait()
        assert second.wait() == 0
        # Whatever the second did not come across is closed by the next.
        last = passes.run(sandbox, PROMPTS)
        assert {outcome.status for outcome in last.outcomes.values()} <= {"generated", "reused"}
        rows = rows_in(passes.storage)
        assert_every_request_has_its_row(rows, sandbox.requests, dead={first.work.run_id})
        assert_images_are_whole(passes.storage, rows)
        assert_nothing_is_left_over(passes.storage)
        unknown = {row["prompt"] for row in rows if row["status"] == "unknown"}
        bought = billed_by_prompt(sandbox.requests)
        assert {prompt for prompt, times in bought.items() if times > 1} <= unknown
