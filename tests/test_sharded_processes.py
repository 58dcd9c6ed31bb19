"""A sharded asset on Dagster's multiprocess executor: real processes, and a real kill."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from dagster_imagegen.sandbox import Sandbox
from tests.sharded_runs import CONCURRENCY, ShardedRuns, failed_steps

SHARDS = 3
ONLY_DAGSTER: dict[str, list[str]] = {"preload_modules": []}
"""The steps' processes are forks of one that has imported Dagster: seconds of CPU for each.

It has imported nothing else, for pyarrow and numpy start threads of their own at their import. A
fork of a process with threads inherits their locks, and may wait for ever for one that was held.
"""


@pytest.fixture
def runs(tmp_path: Path, sandbox: Sandbox) -> Iterator[ShardedRuns]:
    """On an instance that other processes find."""
    home = tmp_path / "dagster"
    home.mkdir()
    with dg.DagsterInstance.local_temp(str(home)) as instance:
        yield ShardedRuns(
            folder=tmp_path,
            instance=instance,
            sandbox=sandbox,
            job="job_in_processes",
            executor={"max_concurrent": SHARDS, "start_method": {"forkserver": ONLY_DAGSTER}},
            shards=SHARDS,
            rows=24,
        )


def test_a_killed_shard_is_finished_by_later_runs(runs: ShardedRuns) -> None:
    """The re-execution sends what was never sent, a new run what was in flight; no more than that.

    Requests that are never answered keep the shard alive until it is killed.
    """
    of_shard = runs.prompts(shard=1)
    hanging, never_sent = of_shard[1 : 1 + CONCURRENCY], of_shard[1 + CONCURRENCY :]
    assert never_sent
    first = runs.run_and_kill(1, hanging)
    assert failed_steps(first).keys() == {"shots.shard_1"}
    assert runs.sent() == Counter(set(runs.prompts()) - set(never_sent))

    again = dg.ReexecutionOptions.from_failure(first.run_id, runs.instance)
    assert not runs.run(again=again).success
    assert runs.sent() == Counter(runs.prompts())

    runs.finish(hanging)


def test_a_budget_holds_over_the_processes(runs: ShardedRuns) -> None:
    """Each shard alone wants more than max_usd, which is one limit for all of them."""
    runs.rows, most = 60, 0.2
    assert not runs.run(ops={"shots": {"config": {"max_usd": most}}}).success
    costs = [float(each.cost_usd) for each in runs.sandbox.requests if each.cost_usd]
    alone = min(len(runs.prompts(shard)) for shard in range(SHARDS)) * max(costs)
    assert 0 < sum(costs) <= most < alone
    assert runs.usage().num_rows == len(costs)


def test_shards_that_did_not_run_fail_the_collecting_step(runs: ShardedRuns) -> None:
    """It says what to do, and materializes nothing."""
    first = runs.run(ops={"shots": {"config": {"max_usd": 0}}})
    again = runs.run(
        again=dg.ReexecutionOptions(parent_run_id=first.run_id, step_selection=["shots.collect"])
    )
    (said,) = failed_steps(again).values()
    assert "24 of 24 images have no outcome" in said
    assert "Launch the asset again, with all of its steps" in said
    assert again.get_asset_materialization_events() == []
    assert not runs.sent()
