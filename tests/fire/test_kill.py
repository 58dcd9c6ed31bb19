"""`kill -9` anywhere in a run, then a rerun: nothing lost, half, or unaccounted for."""

import random
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dagster_imagegen.sandbox import Sandbox
from tests.fire.books import (
    assert_every_request_has_its_row,
    assert_images_are_whole,
    assert_nothing_is_left_over,
    billed_by_prompt,
    rows_in,
)
from tests.fire.conftest import Passes
from tests.fire.writer import Writer

AT_ONCE = 64


def killed_run(passes: Passes, sandbox: Sandbox, prompts: list[str], *, seed: int) -> Writer:
    """A run that is killed at the point that `seed` names.

    Even: some moments after a number of requests. Odd: before a certain change of a file.
    """
    rng = random.Random(seed)
    if seed % 2:
        reached = {
            "images": len(prompts),
            "_journal": len(prompts) // 10,
            "usage": 3,
            "removal": 8,
        }
        folder = rng.choice(["images", "images", "_journal", "_journal", "usage", "removal"])
        point = (folder, rng.randint(1, reached[folder]))
        writer = passes.start(sandbox, prompts, max_concurrency=AT_ONCE, dies_before=point)
    else:
        received, delay = rng.randint(1, len(prompts)), rng.uniform(0, 0.05)
        writer = passes.start(sandbox, prompts, max_concurrency=AT_ONCE)
        while sandbox.totals.requests < received and writer.is_alive:
            time.sleep(0.001)
        time.sleep(delay)
        writer.send(signal.SIGKILL)
    assert writer.wait() in (-signal.SIGKILL, 0)
    return writer


def killed_and_run_again(
    passes: Passes, *, count: int, seed: int, latency_seconds: tuple[float, float]
) -> None:
    """Kill a run at the point that `seed` names, run it again, and hold the books together."""
    prompts = [f"a mug, number {number}" for number in range(count)]
    with Sandbox(paint=False, latency_seconds=latency_seconds, seed=seed) as sandbox:
        killed = killed_run(passes, sandbox, prompts, seed=seed)
        saved = {path.name.split(".")[0] for path in passes.storage.glob("images/*/*")}
        again = passes.run(sandbox, prompts, max_concurrency=AT_ONCE)
        requests = sandbox.requests

    rows = rows_in(passes.storage)
    assert_images_are_whole(passes.storage, rows)
    assert_nothing_is_left_over(passes.storage)
    never_sent = assert_every_request_has_its_row(rows, requests, died=True)

    # Every image is there, and what was reported before the kill is what is there.
    assert [
        o.status for o in again.outcomes.values() if o.status not in ("generated", "reused")
    ] == []
    assert len(again.outcomes) == count
    for fingerprint in killed.reported:
        assert again.outcomes[fingerprint].status == "reused"

    # Of the killed run, nothing is bought again but what was open, each with its `unknown` row.
    first = [row for row in rows if row["run_id"] == killed.work.run_id]
    unknown = [row for row in first if row["status"] == "unknown"]
    assert {row["fingerprint"] for row in unknown}.isdisjoint(saved), "it was there to recover"
    bought_twice = {prompt for prompt, times in billed_by_prompt(requests).items() if times > 1}
    assert max(billed_by_prompt(requests).values()) <= 2
    assert bought_twice <= {row["prompt"] for row in unknown}
    assert len(bought_twice) <= len(unknown) - never_sent
    # Open are those in flight, and those whose answer is just being saved.
    assert len(unknown) <= 2 * AT_ONCE
    succeeded = [row for row in first if row["status"] == "succeeded"]
    assert again.totals.requests == count - len(succeeded)


@pytest.mark.parametrize("seed", range(20))
def test_killed_and_run_again(passes: Passes, seed: int) -> None:
    """Every image is there and whole, and what was bought twice was in flight, and says so."""
    killed_and_run_again(passes, count=100, seed=seed, latency_seconds=(0.005, 0.05))


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize("batch", range(25))
def test_killed_and_run_again_in_full(
    passes_in: Callable[[Path], Passes], tmp_path: Path, batch: int
) -> None:
    """The same at 200 points of runs of 300 prompts with 64 in flight, eight runs at a time."""

    def one(seed: int) -> None:
        passes = passes_in(tmp_path / str(seed))
        killed_and_run_again(passes, count=300, seed=seed, latency_seconds=(0.5, 1.5))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(8 * batch, 8 * batch + 8)))
