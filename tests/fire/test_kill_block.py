"""`kill -9` anywhere in a block of calls, then a rerun: as after that of a single pass."""

import pytest

from tests.fire.conftest import Passes
from tests.fire.provider import Provider
from tests.fire.record_checks import rows_in
from tests.fire.test_kill import AT_ONCE, Point, assert_nothing_is_amiss, kill_at, run_again

CALLS = 12
POINTS: list[Point] = [
    *(("_journal", nth) for nth in (1, 2, 3, 8, 15, 24)),
    *(("images", nth) for nth in (1, 6, 12)),
    ("usage", 1),
    *(("removal", nth) for nth in (1, 10)),
    3,
    9,
]


@pytest.mark.parametrize("point", POINTS)
def test_a_block_that_is_killed_is_completed_by_a_rerun(passes: Passes, point: Point) -> None:
    """Every request has its row, and only what was open is bought again."""
    prompts = [f"a mug, number {number}" for number in range(CALLS)]
    with Provider(latency_seconds=(0.01, 0.05), seed=1) as provider:
        killed = passes.start(
            provider.base_url,
            prompts,
            in_a_block=True,
            dies_before=point if isinstance(point, tuple) else None,
        )
        if isinstance(point, int):
            kill_at(point, killed, provider, seed=point)
        after = run_again(passes, provider, killed, prompts, point=point)
    assert_nothing_is_amiss(after)
    dead = [row for row in rows_in(after.storage) if row["run_id"] == killed.work.run_id]
    assert sum(row["status"] == "unknown" for row in dead) <= 1, "calls take turns"


def test_a_block_leaves_one_part_and_no_journal(passes: Passes) -> None:
    """What its calls have sent is in it, each request once."""
    prompts = [f"a mug, number {number}" for number in range(CALLS)]
    with Provider(latency_seconds=(0.0, 0.01), seed=1) as provider:
        writer = passes.start(
            provider.base_url, [*prompts, *prompts], in_a_block=True, max_concurrency=AT_ONCE
        )
        assert writer.wait() == 0
        assert len(provider.requests_at(provider.base_url)) == CALLS
    assert len(rows_in(passes.storage)) == CALLS
    assert len(list(passes.storage.glob("usage/*/*.parquet"))) == 1
    assert not list(passes.storage.glob("_journal/*/*"))
