"""Image assets in Dagster's concurrency pools."""

import threading
import time
from collections.abc import Callable, Iterator

import dagster as dg
import pyarrow as pa
import pytest

from dagster_imagegen import build_sharded_image_asset
from tests.conftest import Project, of_rows, table_asset

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")

POOL = "images"


@pytest.fixture
def pooled(project: Project) -> Iterator[Project]:
    """A project on an instance of its own, whose pool has a limit of 0."""
    home = project.folder / "home"
    home.mkdir()
    with dg.DagsterInstance.local_temp(str(home)) as instance:
        instance.event_log_storage.set_concurrency_slots(POOL, 0)
        project.instance = instance
        yield project


def blocked(instance: dg.DagsterInstance) -> list[str]:
    """What Dagster says of steps that wait for a pool."""
    return [
        event.message or ""
        for run in instance.get_runs()
        for event in (each.dagster_event for each in instance.all_logs(run.run_id))
        if event is not None and "pool" in (event.message or "")
    ]


def sharded() -> list[dg.AssetsDefinition]:
    """One whose shards are in the pool, and its prompt table."""
    shots = build_sharded_image_asset("shots", prompt_table="products", shards=1, pool=POOL)
    return [table_asset(pa.table({"prompt": ["mug"]})), shots]


@pytest.mark.parametrize("assets", [lambda: [of_rows(["mug"], pool=POOL)], sharded])
def test_a_pool_without_slots_holds_a_run_up_until_it_has_one(
    pooled: Project, assets: Callable[[], list[dg.AssetsDefinition]]
) -> None:
    """Nothing is requested meanwhile, and Dagster's event names the pool."""
    thread = threading.Thread(target=lambda: pooled.run(*assets()))
    thread.start()
    while not (said := blocked(pooled.instance)) and thread.is_alive():
        time.sleep(0.05)
    sent_before = pooled.sent()
    pooled.instance.event_log_storage.set_concurrency_slots(POOL, 1)
    thread.join()
    assert POOL in said[0]
    assert (sent_before, pooled.sent()) == (0, 1)
    (run,) = pooled.instance.get_runs()
    assert run.status == dg.DagsterRunStatus.SUCCESS
