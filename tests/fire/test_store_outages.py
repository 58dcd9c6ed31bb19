"""A store that is stopped or stalls in the middle of a run, or whose calls never return."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from dagster_imagegen.engine import images
from dagster_imagegen.engine.errors import StorageError
from dagster_imagegen.engine.record import Limits
from dagster_imagegen.engine.run.thread import Generation
from dagster_imagegen.sandbox import Sandbox
from tests.fire.conftest import OpenPasses, Passes, until
from tests.fire.proxy import StoppableProxy
from tests.fire.record_checks import (
    assert_every_request_has_its_row,
    assert_images_are_whole,
    billed_by_prompt,
    rows_in,
)
from tests.fire.shaky import Bucket, Trouble, Verb


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(paint=False, latency_seconds=(0.2, 0.4), seed=1) as sandbox:
        yield sandbox


def prompts(count: int) -> list[str]:
    return [f"a mug, number {number}" for number in range(count)]


def finish(generation: Generation) -> None:
    for _ in generation:
        pass


def assert_each_was_made_and_paid_once(
    generation: Generation, sandbox: Sandbox, count: int
) -> None:
    statuses = Counter(each.status for each in generation.outcomes.values())
    assert statuses == {"generated": count}
    assert billed_by_prompt(sandbox.requests) == dict.fromkeys(prompts(count), 1)


def outage(
    passes: Passes, sandbox: Sandbox, *, how: str, images: int, seconds: float, **options: Any
) -> None:
    """Stop or stall the store when a fifth of the images is made; nothing new is sent meanwhile."""
    place = passes.defaults["storage_options"]
    with StoppableProxy(place["endpoint_url"]) as proxy:
        settings: dict[str, Any] = {
            "storage_options": {**place, "endpoint_url": proxy.url},
            "patience_seconds": 600.0,
            "max_concurrency": 16,
            **options,
        }
        with passes.begin(sandbox, prompts(images), **settings) as generation:
            until(lambda: generation.totals.succeeded >= images // 5)
            proxy.stop() if how == "stopped" else proxy.stall()
            until(lambda: proxy.held_up > 0)
            requests = generation.totals.requests
            time.sleep(seconds)  # the outage itself; that it is noticed does not depend on it
            assert generation.totals.requests <= requests + 16
            proxy.go_on()
            finish(generation)
    assert_each_was_made_and_paid_once(generation, sandbox, images)
    assert [path for path in (passes.folder / "aside").rglob("*") if path.is_file()] == []
    rows = rows_in(passes.place)
    assert_every_request_has_its_row(rows, sandbox.requests)
    assert_images_are_whole(passes.place, rows)


@pytest.mark.parametrize("how", ["stopped", "stalled"])
def test_a_store_that_is_away_is_waited_for(
    passes_on_s3: OpenPasses, sandbox: Sandbox, how: str
) -> None:
    """Nothing new is sent, and all images are made in this run, each paid once."""
    limits = Limits(lease=60.0, call_seconds=1.0)
    outage(passes_on_s3(how), sandbox, how=how, images=60, seconds=3.0, limits=limits)


@pytest.mark.full
@pytest.mark.parametrize("how", ["stopped", "stalled"])
def test_a_store_that_is_away_for_a_minute(
    passes_on_s3: OpenPasses, sandbox: Sandbox, how: str
) -> None:
    """With the settings that users have."""
    outage(passes_on_s3(how), sandbox, how=how, images=300, seconds=60.0, limits=Limits())


@pytest.mark.full
def test_a_store_that_is_away_for_longer_than_the_lease(
    passes_on_s3: OpenPasses, sandbox: Sandbox
) -> None:
    """Nobody else was there to take the writer for dead, so it goes on."""
    limits = Limits(lease=10.0)
    outage(passes_on_s3("away"), sandbox, how="stopped", images=60, seconds=30.0, limits=limits)


class NeverReturns:
    """The nth call of a kind is done, or not, and never returns."""

    def __init__(self, verb: Verb, folder: str, nth: int) -> None:
        self._verb, self._folder, self._left = verb, f"/{folder}/", nth
        self.has_hung = False
        self.released = threading.Event()

    def __call__(self, verb: Verb, path: str) -> Trouble | None:
        if verb == self._verb and self._folder in f"{path}/":
            self._left -= 1
            if self._left == 0:
                self.has_hung = True
                self.released.wait()
        return None


@pytest.mark.parametrize(
    ("verb", "folder", "nth"),
    [("put", "images", 3), ("put", "_journal", 4), ("list", "_journal", 5), ("put", "usage", 1)],
)
def test_a_call_that_never_returns_is_repeated(
    passes: Passes, sandbox: Sandbox, verb: Verb, folder: str, nth: int
) -> None:
    """One call of the store hangs for good; the run does not."""
    hangs = NeverReturns(verb, folder, nth)
    bucket = Bucket(weather=hangs, one_at_a_time=False)
    limits = Limits(lease=60.0, call_seconds=0.5)
    run = passes.run(sandbox, prompts(20), limits=limits, **bucket.options)
    assert hangs.has_hung
    assert_each_was_made_and_paid_once(run, sandbox, 20)
    hangs.released.set()


def test_images_beyond_the_bound_wait_on_disk(
    passes: Passes, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that do not fit into memory are spilled, and stored from there; none stays."""
    monkeypatch.setattr(images, "HELD_BYTES_MAX", 0)
    spilled = passes.folder / "aside"

    def until_one_is_spilled(verb: Verb, path: str) -> Trouble | None:
        away = verb == "put" and "/images/" in path
        if away and sum(each.is_file() for each in spilled.rglob("*.png")) < 1:
            return "unavailable"
        return None

    bucket = Bucket(weather=until_one_is_spilled)
    options: dict[str, Any] = {"patience_seconds": 30.0, "max_concurrency": 8, **bucket.options}
    run = passes.run(sandbox, prompts(20), **options)
    assert_each_was_made_and_paid_once(run, sandbox, 20)
    assert len(bucket.below("images")) == 20
    assert [path for path in spilled.rglob("*") if path.is_file()] == []


def test_a_run_that_is_terminated_does_not_wait_for_the_store(
    passes: Passes, sandbox: Sandbox
) -> None:
    """A store that stays away: what is in flight is spilled, whatever the patience."""
    away = threading.Event()

    def nothing(verb: Verb, path: str) -> Trouble | None:
        return "unavailable" if away.is_set() else None

    bucket = Bucket(weather=nothing)
    options: dict[str, Any] = {"patience_seconds": 3600.0, "drain_seconds": 0.2, **bucket.options}
    with passes.begin(sandbox, prompts(40), max_concurrency=8, **options) as generation:
        until(lambda: generation.totals.succeeded >= 4)
        away.set()
        until(lambda: "waiting for the storage for" in str(generation.progress))
        generation.drain()
        with pytest.raises(StorageError):
            finish(generation)


def test_a_terminated_run_does_not_wait_for_the_images_alone(
    passes: Passes, sandbox: Sandbox
) -> None:
    """The record can be written and closed; what is in flight is spilled, and the run ends."""
    away = threading.Event()

    def no_images(verb: Verb, path: str) -> Trouble | None:
        return "unavailable" if away.is_set() and "/images" in path else None

    bucket = Bucket(weather=no_images)
    options: dict[str, Any] = {"patience_seconds": 3600.0, "drain_seconds": 0.2, **bucket.options}
    with passes.begin(sandbox, prompts(40), max_concurrency=8, **options) as generation:
        until(lambda: generation.totals.succeeded >= 4)
        away.set()
        until(lambda: "waiting for the storage for" in str(generation.progress))
        generation.drain()
        finish(generation)
    assert bucket.below("_journal") == {}


@pytest.mark.parametrize("away", ["get usage", "put _tmp", "put _journal", "put usage"])
def test_a_terminated_run_waits_for_the_store_at_no_step(
    passes: Passes, sandbox: Sandbox, away: str
) -> None:
    """Nor while it reads the record, tries the storage, opens its journal, or publishes."""
    verb_away, folder = away.split()
    is_away, met = threading.Event(), threading.Event()

    def weather(verb: Verb, path: str) -> Trouble | None:
        if not (is_away.is_set() and verb == verb_away and f"/{folder}/" in path):
            return None
        met.set()
        return "unavailable"

    bucket = Bucket(weather=weather)
    options: dict[str, Any] = {"patience_seconds": 3600.0, **bucket.options}
    passes.run(sandbox, prompts(1), **options)
    is_away.set()
    with passes.begin(sandbox, prompts(3), **options) as generation:
        until(met.is_set)
        generation.drain()
    assert len(sandbox.requests) == (3 if away == "put usage" else 1)
    is_away.clear()
    passes.run(sandbox, prompts(3), **options)
    assert billed_by_prompt(sandbox.requests) == dict.fromkeys(prompts(3), 1)


def test_a_bucket_that_is_not_there_is_no_outage(
    passes_on_s3: OpenPasses, sandbox: Sandbox
) -> None:
    """Waiting makes no bucket, so the run does not wait: it ends, and names the bucket."""
    passes = passes_on_s3("missing")
    missing = f"s3://missing-{uuid4().hex}/shop"
    began_at = time.monotonic()
    with pytest.raises(StorageError, match=f"cannot write {missing}/.*bucket does not exist"):
        passes.run(sandbox, prompts(3), storage_uri=missing, patience_seconds=600.0)
    assert time.monotonic() - began_at < 60.0  # a tenth of the patience; the attempts take 2 s
    assert not sandbox.requests
