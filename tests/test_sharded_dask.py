"""A sharded asset on Dask: a real scheduler and workers, one of which is killed."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path

import dagster as dg
import pytest

from dagster_imagegen.sandbox import Sandbox
from tests.sharded_runs import CONCURRENCY, REPOSITORY, ShardedRuns, failed_steps

pytestmark = pytest.mark.dask


@contextlib.contextmanager
def process_of_dask(folder: Path, *arguments: str) -> Generator[None]:
    """`dask scheduler` or `dask worker`, which find each other by a file in the folder."""
    command = [sys.executable, "-m", "dask", *arguments, "--scheduler-file", str(folder / "dask")]
    log = (folder / f"{arguments[0]}.log").open("a")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with (
        log,
        subprocess.Popen(
            [*command, "--no-dashboard"], cwd=folder, env=environment, stdout=log, stderr=log
        ) as process,
    ):
        try:
            yield
        finally:
            process.kill()


@pytest.fixture
def runs(tmp_path: Path, sandbox: Sandbox) -> Iterator[ShardedRuns]:
    """On three workers, each a process for one step at a time."""
    home = tmp_path / "dagster"
    home.mkdir()
    with contextlib.ExitStack() as stack:
        stack.enter_context(
            process_of_dask(tmp_path, "scheduler", "--host", "127.0.0.1", "--port", "0")
        )
        for _ in range(3):
            stack.enter_context(
                process_of_dask(tmp_path, "worker", "--nthreads", "1", "--no-nanny")
            )
        file = tmp_path / "dask"
        while not file.is_file():
            time.sleep(0.1)
        address = json.loads(file.read_text())["address"]
        instance = stack.enter_context(dg.DagsterInstance.local_temp(str(home)))
        yield ShardedRuns(
            folder=tmp_path,
            instance=instance,
            sandbox=sandbox,
            job="job_on_dask",
            executor={"cluster": {"existing": {"address": address}}},
            shards=8,
            rows=400,
        )


def test_the_shard_of_a_killed_worker_goes_on_on_another(runs: ShardedRuns) -> None:
    """The run sends all the rest and fails; a new run sends what was in flight, and no more."""
    hanging = runs.prompts(shard=1)[1 : 1 + CONCURRENCY]
    first = runs.run_and_kill(1, hanging)
    said = failed_steps(first)
    assert said.keys() == {"shots.shard_1", "shots.collect"}
    assert (
        f"{CONCURRENCY} of 400 rows have no image: {CONCURRENCY} unknown" in said["shots.collect"]
    )
    assert runs.sent() == Counter(runs.prompts())

    runs.finish(hanging)
