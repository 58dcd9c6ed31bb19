"""The largest events, measured in the event logs that keep them: less than 64 KB each.

PostgreSQL's column has no limit; MySQL's has. What is measured is what Dagster stores.
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest

from dagster_imagegen import (
    build_image_asset,
    build_image_checks,
    image_asset,
)
from dagster_imagegen.engine.record.schema import SCHEMA
from dagster_imagegen.sandbox import Sandbox
from dagster_imagegen.usage_asset import ROWS_MAX, measured, usage_metadata
from tests.conftest import Project, Store
from tests.postgresql import postgresql

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")

EVENT_BYTES_MAX = 65_535
"""Of a TEXT column of MySQL."""

LONG = "😀" * 150
"""In an event a letter of it takes twelve bytes."""

Measure = Callable[[], int]


@dataclass(frozen=True, kw_only=True)
class Log:
    """An instance with an event log that is kept, and the length of the largest event in it."""

    instance: dg.DagsterInstance
    largest: Measure


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Log]:
    """An event log of each kind."""
    folder = tmp_path / "history"
    folder.mkdir()
    if request.param == "sqlite":
        with dg.DagsterInstance.local_temp(str(folder)) as instance:
            yield Log(instance=instance, largest=lambda: _largest_in_sqlite(folder))
        return
    with postgresql() as url:
        # SQLAlchemy would take another driver than the one that dagster-postgres brings.
        address = url.replace("postgresql:", "postgresql+psycopg2:")
        storage = {"storage": {"postgres": {"postgres_url": address}}}
        with dg.DagsterInstance.local_temp(str(folder), overrides=storage) as instance:
            yield Log(instance=instance, largest=lambda: _largest_in_postgresql(url))


def _largest_in_sqlite(folder: Path) -> int:
    sizes: list[int] = []
    for path in folder.rglob("*.db"):
        with closing(sqlite3.connect(path)) as database:
            tables = database.execute("SELECT name FROM sqlite_master WHERE name = 'event_logs'")
            if tables.fetchall():
                query = "SELECT max(length(CAST(event AS BLOB))) FROM event_logs"
                sizes += [row[0] or 0 for row in database.execute(query)]
    return max(sizes)


def _largest_in_postgresql(url: str) -> int:
    import psycopg2  # of the group of dependencies that only these tests need

    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT max(octet_length(event)) FROM event_logs")
        (size,) = cursor.fetchone() or (0,)
        return size


@pytest.fixture
def project(log: Log, tmp_path: Path) -> Iterator[Project]:
    """The usual one, with the event log and a sandbox whose pictures are as large as real ones."""
    with Sandbox(refuse=["forbidden"]) as sandbox:
        yield Project(folder=tmp_path, instance=log.instance, sandbox=sandbox)


def wide_rows(count: int, *, refused: bool = False) -> list[dict[str, Any]]:
    """Rows of many columns, with names and prompts that are as long as they can be."""
    carried = {f"{number} {LONG}": LONG for number in range(150)}
    word = "forbidden" if refused else "good"
    return [
        {
            "prompt_id": f"{word} {number} {LONG}",
            "prompt": f"{number} {word} {LONG * 10}",
            **carried,
        }
        for number in range(count)
    ]


def test_a_materialization_and_its_checks(project: Project, log: Log) -> None:
    """With pictures, a schema, a lineage, failed checks, and what the function adds."""

    @dg.asset
    def wide() -> pa.Table:
        return pa.Table.from_pylist(wide_rows(14))

    hero = build_image_asset("hero", prompt_table="wide", quality="low", size="1536x1024")
    checks = build_image_checks("hero", min_width=3000, near_duplicates=48, max_usd=0)
    project.run(wide, hero, *checks)
    event = log.instance.get_latest_materialization_event(dg.AssetKey("hero"))
    assert event is not None
    assert event.asset_materialization is not None
    shown = event.asset_materialization.metadata
    assert {"dagster/column_schema", "dagster/column_lineage", "imagegen/preview"} <= set(shown)
    assert 40_000 < log.largest() <= EVENT_BYTES_MAX


def test_what_a_function_adds_takes_room_from_the_pictures(project: Project, log: Log) -> None:
    """Its own metadata is kept whole."""

    @image_asset(quality="low")
    def hero() -> dg.MaterializeResult[Any]:
        return dg.MaterializeResult(value=wide_rows(12), metadata={"notes": "x" * 30_000})

    project.run(hero)
    assert 40_000 < log.largest() <= EVENT_BYTES_MAX


def test_a_run_whose_rows_failed(project: Project, log: Log) -> None:
    """An observation and a failure, both of which name rows."""

    @image_asset(quality="low", fail_on=["refused"])
    def hero() -> list[dict[str, Any]]:
        return [*wide_rows(12), *wide_rows(30, refused=True)]

    project.run(hero, fails=True)
    assert 10_000 < log.largest() <= EVENT_BYTES_MAX


def test_a_run_over_many_partitions(project: Project, log: Log) -> None:
    """Each partition has an event of its own."""
    days = dg.StaticPartitionsDefinition([f"{number} {'day' * 30}" for number in range(12)])

    @image_asset(quality="low", partitions_def=days, backfill_policy=dg.BackfillPolicy.single_run())
    def hero(context: dg.AssetExecutionContext) -> dict[str, Any]:
        return {key: wide_rows(3) for key in context.partition_keys}

    keys = days.get_partition_keys()
    tags = {
        "dagster/asset_partition_range_start": keys[0],
        "dagster/asset_partition_range_end": keys[-1],
    }
    resources = {"imagegen": project.resource(), "io_manager": Store()}
    result = project.run(hero, resources=resources, tags=tags)
    assert len(result.asset_materializations_for_node("hero")) == len(keys)
    assert 10_000 < log.largest() <= EVENT_BYTES_MAX


def test_the_usage_asset(project: Project, log: Log) -> None:
    """As many assets, models and days as it shows, and more."""
    now = datetime.now(timezone.utc)
    rows = [
        {
            "asset_key": f"{number}{'x' * 500}",
            **{f"asset_{each}": f"{number}{LONG}" for each in ("owners", "group", "tags")},
            "model": f"{number}{LONG}",
            "root_run_id": "run",
            "status": "succeeded",
            "started_at": now - timedelta(days=number),
            "cost_usd": Decimal("12345.6789012345"),
            "cost_basis": "metered",
        }
        for number in range(2 * ROWS_MAX)
    ]

    @dg.asset
    def usage() -> dg.MaterializeResult[None]:
        of_these = measured(pa.Table.from_pylist(rows, schema=SCHEMA))
        metadata = usage_metadata(of_these, run="run", uri="here")
        return dg.MaterializeResult(value=None, metadata=metadata)

    project.run(usage)
    assert 20_000 < log.largest() <= EVENT_BYTES_MAX
