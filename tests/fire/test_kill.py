"""`kill -9` anywhere in a run, then a rerun: nothing lost, half, or unaccounted for."""

import logging
import random
import signal
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import cast

import pytest
from upath import UPath

from dagster_imagegen.sandbox import ReceivedRequest
from tests.fire.conftest import S3_LIMITS, OpenPasses, Passes
from tests.fire.provider import Provider
from tests.fire.proxy import StrikingProxy
from tests.fire.record_checks import (
    assert_every_request_has_its_row,
    assert_images_are_whole,
    assert_nothing_is_left_over,
    billed_by_prompt,
    rows_in,
)
from tests.fire.writer import Writer

_log = logging.getLogger(__name__)

AT_ONCE = 64
Runs = dict[int, "Future[Aftermath]"]


@dataclass(frozen=True, kw_only=True)
class Aftermath:
    """What there is once a run was killed and run again.

    saved: the fingerprints whose image was in storage at the kill.
    outcomes: what became of each fingerprint when it was run again.
    """

    point: str
    prompts: list[str]
    storage: UPath
    killed: Writer
    saved: set[str]
    outcomes: dict[str, str]
    requests: list[ReceivedRequest]
    requests_again: list[ReceivedRequest]


Point = int | tuple[str, int]
"""Where a run is killed: some moments after so many requests, or at that change below a folder."""


def point_of(seed: int, *, count: int, at_once: int) -> Point:
    """Two of three while `at_once` are in flight, the others anywhere, from first to last."""
    rng = random.Random(seed)
    at_full_height = rng.random() < 2 / 3
    if seed % 2 == 0:
        return (
            rng.randint(at_once, count - at_once // 4) if at_full_height else rng.randint(1, count)
        )
    folder = rng.choice(["images", "images", "_journal", "_journal", "usage", "removal"])
    nth = {
        "images": rng.randint(1, count - at_once if at_full_height else count),
        # One for each that is sent while their number climbs; later they share them.
        "_journal": rng.randint(at_once // 2 if at_full_height else 1, at_once),
        "usage": rng.randint(1, 3),
        "removal": rng.randint(1, 8),
    }
    return folder, nth[folder]


def kill_at(point: int, writer: Writer, provider: Provider, *, seed: int) -> None:
    """Kill a run some moments after the provider received so many requests."""
    provider.wait_until(received=point, by=writer)
    time.sleep(random.Random(seed).uniform(0, 0.05))
    writer.send(signal.SIGKILL)


def run_again(
    passes: Passes,
    provider: Provider,
    killed: Writer,
    prompts: list[str],
    *,
    point: Point,
    lease: float | None = None,
) -> Aftermath:
    """Run again what was killed; where a lease tells the dead, then once more when it is over.

    One rerun makes every image; the last one only closes what the dead one left.
    """
    # At a request, who kills may be so late on a busy machine that nothing is left to kill; what
    # is asserted holds then as well. At a change, it kills itself, or the proxy does it in time.
    ends = (-signal.SIGKILL, 0) if isinstance(point, int) else (-signal.SIGKILL,)
    assert killed.wait() in ends
    saved = {path.name.split(".")[0] for path in passes.place.glob("images/*/*")}
    again = passes.start(provider.quick_url, prompts, max_concurrency=AT_ONCE)
    assert again.wait() == 0
    outcomes = again.reported
    assert set(outcomes.values()) <= {"generated", "reused"}
    if lease is not None:
        time.sleep(lease + 1)
        last = passes.start(provider.quick_url, prompts, max_concurrency=AT_ONCE)
        assert last.wait() == 0
        outcomes |= last.reported
    return Aftermath(
        point=f"{passes.folder.name} at {point}",
        prompts=prompts,
        storage=passes.place,
        killed=killed,
        saved=saved,
        outcomes=outcomes,
        requests=provider.requests_at(provider.base_url),
        requests_again=provider.requests_at(provider.quick_url),
    )


def killed_and_run_again(
    passes: Passes, *, count: int, seed: int, latency_seconds: tuple[float, float]
) -> Aftermath:
    """Kill a run on local disk at the point that `seed` names, and run it again."""
    prompts = [f"a mug, number {number}" for number in range(count)]
    point = point_of(seed, count=count, at_once=AT_ONCE)
    with Provider(latency_seconds=latency_seconds, seed=seed) as provider:
        killed = passes.start(
            provider.base_url,
            prompts,
            max_concurrency=AT_ONCE,
            dies_before=point if isinstance(point, tuple) else None,
        )
        if isinstance(point, int):
            kill_at(point, killed, provider, seed=seed)
        return run_again(passes, provider, killed, prompts, point=point)


def killed_and_run_again_on_s3(passes: Passes, *, count: int, seed: int) -> Aftermath:
    """The same on S3; there before a change, or when it is made and nobody was told."""
    prompts = [f"a mug, number {number}" for number in range(count)]
    point = point_of(seed, count=count, at_once=6)  # so many objects there are in any case
    options = passes.defaults["storage_options"]
    victim: Future[Writer] = Future()
    with ExitStack() as stack:
        provider = stack.enter_context(Provider(latency_seconds=(0.3, 0.9), seed=seed))
        if isinstance(point, tuple):
            proxy = StrikingProxy(
                options["endpoint_url"],
                folder=point[0],
                nth=point[1] if point[0] != "usage" else 1,
                after=seed % 4 == 1,
                strike=lambda: victim.result().kill(),
            )
            options = {**options, "endpoint_url": stack.enter_context(proxy).url}
        killed = passes.start(
            provider.base_url, prompts, max_concurrency=count // 2, storage_options=options
        )
        victim.set_result(killed)
        if isinstance(point, int):
            kill_at(point, killed, provider, seed=seed)
        return run_again(passes, provider, killed, prompts, point=point, lease=S3_LIMITS.lease)


def assert_nothing_is_amiss(after: Aftermath) -> None:
    """Compare requests and record; `--log-file` notes how many rows are not as without a kill."""
    rows = rows_in(after.storage)
    requests = after.requests + after.requests_again
    assert_images_are_whole(after.storage, rows)
    assert_nothing_is_left_over(after.storage)
    dead = after.killed.work.run_id
    never_sent = assert_every_request_has_its_row(rows, requests, dead={dead})

    # Every image is there, and what was reported before the kill is what is there.
    assert set(after.outcomes.values()) <= {"generated", "reused"}
    assert len(after.outcomes) == len(after.prompts)
    for fingerprint in after.killed.reported:
        assert after.outcomes[fingerprint] == "reused"

    # Of the killed run, nothing is bought again but what was open, each with its `unknown` row.
    first = [row for row in rows if row["run_id"] == dead]
    unknown = [row for row in first if row["status"] == "unknown"]
    assert {row["fingerprint"] for row in unknown}.isdisjoint(after.saved), "it was to be recovered"
    bought = billed_by_prompt(requests)
    bought_twice = {prompt for prompt, times in bought.items() if times > 1}
    assert set(bought) == set(after.prompts)
    assert max(bought.values()) <= 2
    assert bought_twice <= {row["prompt"] for row in unknown}
    assert len(bought_twice) == len(unknown) - never_sent
    # Open are those in flight, and those whose answer is just being saved.
    assert len(unknown) <= 2 * AT_ONCE
    assert never_sent <= AT_ONCE
    succeeded = [row for row in first if row["status"] == "succeeded"]
    assert len(after.requests_again) == len(after.prompts) - len(succeeded)
    _log.info(
        "%s: %d requests, killed, %d more; rows unknown %d, bought twice %d, never sent %d",
        after.point,
        len(after.requests),
        len(after.requests_again),
        len(unknown),
        len(bought_twice),
        never_sent,
    )


@contextmanager
def each_seed(
    request: pytest.FixtureRequest, run: Callable[[int], Aftermath], *, at_a_time: int
) -> Generator[Runs, None, None]:
    """What becomes of the seeds of the tests that use this fixture, some of them at a time."""
    seeds = [
        cast("int", item.callspec.params["seed"])
        for item in request.session.items
        if isinstance(item, pytest.Function) and request.fixturename in item.fixturenames
    ]
    with ThreadPoolExecutor(at_a_time) as pool:
        try:
            yield {seed: pool.submit(run, seed) for seed in seeds}
        finally:
            pool.shutdown(cancel_futures=True)


@pytest.fixture(scope="module")
def short_runs(request: pytest.FixtureRequest, passes_in: OpenPasses) -> Iterator[Runs]:
    """Runs that are mostly waited for: 64 are in flight when nearly as many have been sent."""
    if any("runs_on_s3" in getattr(item, "fixturenames", ()) for item in request.session.items):
        request.getfixturevalue("runs_on_s3")  # their leases end meanwhile

    def run(seed: int) -> Aftermath:
        passes = passes_in(f"seed-{seed}")
        return killed_and_run_again(passes, count=100, seed=seed, latency_seconds=(3.0, 5.0))

    with each_seed(request, run, at_a_time=10) as runs:
        yield runs


@pytest.fixture(scope="module")
def full_runs(request: pytest.FixtureRequest, passes_in: OpenPasses) -> Iterator[Runs]:
    """Runs that keep two cores busy. More at a time keep each other from them, until connections
    wear out between two requests, and what became of the second nobody can tell."""

    def run(seed: int) -> Aftermath:
        passes = passes_in(f"seed-{seed}")
        return killed_and_run_again(passes, count=300, seed=seed, latency_seconds=(0.5, 1.5))

    with each_seed(request, run, at_a_time=6) as runs:
        yield runs


@pytest.fixture(scope="module")
def runs_on_s3(request: pytest.FixtureRequest, passes_on_s3: OpenPasses) -> Iterator[Runs]:
    """Runs on an object store, whose leases have to end."""

    def run(seed: int) -> Aftermath:
        return killed_and_run_again_on_s3(passes_on_s3(f"s3-seed-{seed}"), count=20, seed=seed)

    with each_seed(request, run, at_a_time=6) as runs:
        yield runs


@pytest.mark.parametrize("seed", range(20))
def test_killed_and_run_again(short_runs: Runs, seed: int) -> None:
    """Every image is there and whole, and what was bought twice was in flight, and says so."""
    assert_nothing_is_amiss(short_runs[seed].result())


@pytest.mark.full
@pytest.mark.parametrize("seed", range(1000, 1200))
def test_killed_and_run_again_in_full(full_runs: Runs, seed: int) -> None:
    """The same at 200 points of runs of 300 prompts with 64 in flight."""
    assert_nothing_is_amiss(full_runs[seed].result())


@pytest.mark.parametrize("seed", range(2))
def test_killed_and_run_again_on_s3(runs_on_s3: Runs, seed: int) -> None:
    """The same on an object store, where only the lease tells that a writer is dead."""
    assert_nothing_is_amiss(runs_on_s3[seed].result())


@pytest.mark.full
@pytest.mark.parametrize("seed", range(1000, 1016))
def test_killed_and_run_again_on_s3_in_full(runs_on_s3: Runs, seed: int) -> None:
    """The same at 16 points."""
    assert_nothing_is_amiss(runs_on_s3[seed].result())
