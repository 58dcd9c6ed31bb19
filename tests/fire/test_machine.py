"""Processes that may open few files and start few threads: nothing that is paid for is lost."""

import io
import logging
import os
import re
import resource
import threading
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_imagegen import ImageGenResource, image_asset
from dagster_imagegen.engine.attempt import Identity
from dagster_imagegen.engine.engine import Engine
from dagster_imagegen.engine.errors import ImageGenError
from dagster_imagegen.engine.machine import take_share
from dagster_imagegen.engine.settings import Settings
from dagster_imagegen.sandbox import Sandbox
from dagster_imagegen.sandbox.orders import Shape
from tests.fire.conftest import Passes
from tests.fire.record_checks import (
    assert_images_are_whole,
    assert_nothing_is_left_over,
    billed_by_prompt,
    by_status,
    rows_in,
)
from tests.fire.writer import Fork

PROMPTS = [f"a mug, number {number}" for number in range(100)]
STACK_BYTES = 1 << 30
LOWERED = re.compile(
    r"max_concurrency lowered from 64 to (\d+): this process may open 64 files, \d+ are open and "
    r"\d+ are kept for images, records and databases; raise `ulimit -n` to (\d+)"
)
Told = dict[str, Any]


def told_by(target: Callable[..., None], *args: object) -> Told:
    """What a process says that runs `target` with these arguments and somewhere to say it."""
    ours, theirs = Fork.pipe()
    fork = Fork(target, *args, theirs)
    theirs.close()
    assert fork.wait(300.0) == 0
    return ours.recv()


def may_open(files: int, *, at_most: int | None = None) -> None:
    """As `ulimit -n` does it, for this process."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, at_most or files))


def may_start(threads: int) -> None:
    """No more threads than these fit into what is left of the address space."""
    threading.stack_size(STACK_BYTES)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    size = pages * resource.getpagesize() + STACK_BYTES // 2 + threads * STACK_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (size, size))


def one_pass(
    settings: Mapping[str, Any], told: Told, *, when_it_begins: Callable[[], None] | None = None
) -> None:
    identity = Identity(run_id="run", root_run_id="run", asset_key="hero")
    with Engine(Settings(**settings)) as engine:
        prompts = engine.read_prompts(PROMPTS, params={"quality": "low"})
        with engine.generate(prompts, identity=identity) as generation:
            for number, _ in enumerate(generation):
                if number == 0 and when_it_begins is not None:
                    when_it_begins()
    told["warning"] = generation.warning


def with_files(settings: Mapping[str, Any], limits: tuple[int, int], end: Connection) -> None:
    told: Told = {}
    may_open(limits[0], at_most=limits[1])
    one_pass(settings, told)
    told["limit"] = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    end.send(told)


def with_no_file_for_a_while(settings: Mapping[str, Any], end: Connection) -> None:
    """Something else in the process opens all files there are, and closes them later."""
    hoard: list[int] = []

    def give_back() -> None:
        while hoard:
            os.close(hoard.pop())

    def take_all() -> None:
        while True:
            try:
                hoard.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                break
        told["hoarded"] = len(hoard)
        threading.Timer(2.0, give_back).start()

    told: Told = {}
    may_open(64)
    one_pass(settings, told, when_it_begins=take_all)
    end.send(told)


def with_threads(settings: Mapping[str, Any], threads: int, end: Connection) -> None:
    told: Told = {}
    may_start(threads)
    try:
        one_pass(settings, told)
    except ImageGenError as error:
        told["error"] = str(error)
    told["threads"] = threading.active_count()
    end.send(told)


def assert_all_are_made(passes: Passes, sandbox: Sandbox) -> None:
    """Each image once, and no request that failed."""
    rows = rows_in(passes.storage)
    assert by_status(rows) == {"succeeded": len(PROMPTS)}
    assert billed_by_prompt(sandbox.requests) == dict.fromkeys(PROMPTS, 1)
    assert_images_are_whole(passes.storage, rows)
    assert_nothing_is_left_over(passes.storage)


def test_64_in_flight_with_64_files(passes: Passes) -> None:
    """Fewer are in flight, the warning says how many and why, and every image is made once."""
    # All answers at the same time: then all images and their records are written at once.
    with Sandbox(paint=False, latency_seconds=0.5) as sandbox:
        settings = passes.settings(sandbox, max_concurrency=64)
        told = told_by(with_files, settings, (64, 64))
        lowered = LOWERED.fullmatch(told["warning"])
        assert lowered is not None, told
        assert 8 <= int(lowered[1]) < 64 < int(lowered[2])
        assert_all_are_made(passes, sandbox)


def test_the_soft_limit_is_raised_to_what_is_needed(passes: Passes) -> None:
    """What the process may change itself is no reason to go slower."""
    with Sandbox(paint=False) as sandbox:
        told = told_by(with_files, passes.settings(sandbox, max_concurrency=64), (64, 4096))
        assert told["warning"] is None
        assert 64 + 20 < told["limit"] < 256
        assert_all_are_made(passes, sandbox)


@pytest.mark.parametrize("shape", ["openai", "localai"])  # the latter links to its images
def test_files_that_run_out_are_waited_for(passes: Passes, shape: Shape) -> None:
    """No request fails and no image is lost: nothing was sent, and what was paid for is kept."""
    with Sandbox(paint=False, latency_seconds=(0.1, 0.4), answer_shape=shape) as sandbox:
        told = told_by(with_no_file_for_a_while, passes.settings(sandbox, max_concurrency=24))
        assert told["hoarded"] > 0
        assert_all_are_made(passes, sandbox)


@pytest.mark.parametrize("threads", [6, 9])
def test_few_threads_are_enough(passes: Passes, threads: int) -> None:
    """The pass, and one thread for each of the storages and the names."""
    with Sandbox(paint=False) as sandbox:
        told = told_by(with_threads, passes.settings(sandbox, max_concurrency=64), threads)
        assert "error" not in told
        assert_all_are_made(passes, sandbox)


@pytest.mark.parametrize("threads", [0, 1, 2, 3, 4])
def test_too_few_threads_are_one_clear_error(passes: Passes, threads: int) -> None:
    """It comes before anything is sent, and names the limits."""
    with Sandbox(paint=False) as sandbox:
        told = told_by(with_threads, passes.settings(sandbox), threads)
        assert (
            "cannot start another thread, so nothing was sent; raise `ulimit -u`" in told["error"]
        )
        assert not sandbox.requests


def two_passes_at_once(end: Connection) -> None:
    may_open(128)
    first = take_share(64)
    second = take_share(64)
    told: Told = {"shares": [(each.max_concurrency, each.warning) for each in (first, second)]}
    del first, second
    told["later"] = take_share(64).max_concurrency
    end.send(told)


def test_passes_at_once_share_what_there_is() -> None:
    """The second gets what the first left, one request at least; later ones get it back."""
    told = told_by(two_passes_at_once)
    (first, _), (second, warning) = told["shares"]
    assert first == told["later"]
    assert 1 <= second < 64
    assert re.search(r"may open 128 files, \d+ are open, \d+ belong to other passes", warning)


def a_pass_that_has_opened_its_files(end: Connection) -> None:
    may_open(128)
    first = take_share(16)
    before = take_share(64).max_concurrency
    opened = [os.open("/dev/null", os.O_RDONLY) for _ in range(16)]
    told: Told = {"first": first.max_concurrency, "before": before}
    told["after"] = take_share(64).max_concurrency
    for each in opened:
        os.close(each)
    end.send(told)


def test_files_of_a_pass_are_counted_once() -> None:
    """Whether it has opened them yet or not, the next pass gets the same."""
    told = told_by(a_pass_that_has_opened_its_files)
    assert told["first"] == 16
    assert 1 < told["after"] == told["before"]


def with_the_resource(base_url: str, storage: str, end: Connection) -> None:
    """`generate_many`, and an asset of the same, each with what it logged."""
    logged = io.StringIO()
    logging.getLogger("dagster_imagegen").addHandler(logging.StreamHandler(logged))
    may_open(128)
    imagegen = ImageGenResource(
        base_url=base_url, model="openai-gpt-image-1", storage_uri=storage, max_concurrency=500
    )

    @image_asset(quality="low")
    def hero() -> list[str]:
        return ["a mug"]

    imagegen.generate_many(["a lamp"], quality="low")
    with dg.DagsterInstance.ephemeral() as instance:
        run = dg.materialize([hero], resources={"imagegen": imagegen}, instance=instance)
        entries = [entry.user_message for entry in instance.all_logs(run.run_id)]
    end.send({"python": logged.getvalue().splitlines(), "run": entries})


def test_whoever_started_the_pass_is_told(tmp_path: Path) -> None:
    """By a warning in the log of Python, or of the run."""
    with Sandbox(paint=False) as sandbox:
        told = told_by(with_the_resource, sandbox.base_url, str(tmp_path / "storage"))
    begins = "max_concurrency lowered from 500 to "
    assert [line.startswith(begins) for line in told["python"]] == [True]
    assert sum(line.startswith(f"hero: {begins}") for line in told["run"]) == 1
