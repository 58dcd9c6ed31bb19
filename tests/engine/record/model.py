"""Random schedules over the real record, on virtual time.

One seed is one schedule. `run_schedule(seed)` lets two or three writers ask for overlapping images
on one store, with deaths, pauses longer than the lease, terminations, store errors before and after
the effect, writes that land again later, outages of the store in which each call fails or hangs,
rolling and midnight, in half of them within a budget that all share; a reader polls meanwhile, and
a last writer recovers. The store is like an object store
(a writer is dead when it is silent for a lease by the store's clock, listings are of one moment) or
like a local disk (also when its lock is free; folders are listed one after the other). What breaks
a promise (`RULES`) is collected in `World.violations`.
"""

import asyncio
import contextlib
from collections.abc import Generator
from decimal import Decimal
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from dagster_imagegen.engine import record
from dagster_imagegen.engine.record import Record
from dagster_imagegen.engine.record.parts import bound_usd
from tests.engine.record.model_judgement import judge
from tests.engine.record.model_loop import ModelLoop
from tests.engine.record.model_world import (
    Handle,
    Moment,
    World,
    decode_either,
    encode_light,
    table_of_either,
)
from tests.engine.record.model_writer import Writer


def run_schedule(seed: int, code: ModuleType = record) -> World:
    """One schedule, the same every time. Look at `violations`."""
    loop = ModelLoop()
    world = World(seed, code, loop)
    with small_index(code, seed), light_parts(code) if seed % 200 else contextlib.nullcontext():
        loop.run(_live(world))
    return world


async def _live(world: World) -> None:
    rng = world.rng
    many = rng.choice((1, 2, 3, 5) if world.budget_usd is None else (2, 3, 5))
    fingerprints = [f"f{n}" for n in range(many)]
    tasks = [
        asyncio.create_task(_begin(world, number, fingerprints))
        for number in range(rng.choice((2, 2, 3)))
    ]
    reader = Handle(world=world, name="reader", calm=True)
    watching = asyncio.create_task(watch(world, reader))
    try:
        await _ended(world, tasks)
        await asyncio.sleep(2 * world.limits.lease + 100)
        assert not world.landing
        last = Handle(world=world, name="last", calm=True)
        world.writers.append(last)
        await Writer(handle=last, wanted=[], workers=0).run()
        watching.cancel()
        calm = Handle(world=world, name="judge", calm=True)
        world.last_record = await world.code.read_record(calm)
        judge(world)
    finally:
        world.over = True
    with contextlib.suppress(asyncio.CancelledError):
        await watching


async def _begin(world: World, number: int, fingerprints: list[str]) -> None:
    rng = world.rng
    fate = rng.random()
    handle = Handle(
        world=world,
        name=f"w{number}",
        dies_at=Moment.draw(rng) if fate < 0.35 else None,
        pauses_at=Moment.draw(rng) if 0.3 < fate < 0.6 else None,
        pause_seconds=world.limits.lease * rng.choice((0.4, 1.3, 3.0)),
    )
    world.writers.append(handle)
    wanted = rng.sample(fingerprints, rng.randint(1, len(fingerprints)))
    writer = Writer(
        handle=handle,
        wanted=wanted,
        workers=rng.randint(1, 3),
        stops_after=rng.choice((0.3, 3.0, 20.0)) if rng.random() < 0.2 else None,
    )
    await asyncio.sleep(rng.choice((0.0, 0.0, 0.05, 1.0, 20.0, 2.0 * world.limits.lease)))
    await writer.run()


async def _ended(world: World, tasks: "list[asyncio.Task[None]]") -> None:
    """Until every writer has ended or died."""
    deadline = world.clock() + 200 * world.limits.lease
    while True:
        waiting = [
            task
            for task, handle in _by_task(world, tasks)
            if not task.done() and (handle is None or handle.killed_at is None)
        ]
        if not waiting:
            break
        if world.clock() > deadline:
            world.break_rule("hang", "a writer does not end")
            break
        await asyncio.wait(waiting, timeout=world.limits.lease)
    for task in tasks:
        if task.done():
            task.result()


def _by_task(
    world: World, tasks: "list[asyncio.Task[None]]"
) -> "list[tuple[asyncio.Task[None], Handle | None]]":
    by_name = {handle.name: handle for handle in world.writers}
    return [(task, by_name.get(f"w{number}")) for number, task in enumerate(tasks)]


async def watch(world: World, reader: Handle) -> None:
    """Read the record again and again; complain when an attempt is missed, doubled or vanishes, and
    when a writer counts less than it may spend."""
    seen: set[str] = set()
    pause = world.rng.choice((0.2, 1.0, 5.0))
    changes = -1
    while True:
        await asyncio.sleep(pause * reader.rng.random())
        pause *= 1.6
        if changes == world.changes:
            continue  # All is as it was.
        changes = world.changes
        sent = {post.attempt_id for post in world.posts}
        allowed = dict(world.allowed)
        found = await world.code.read_record(reader)
        # Whole at any time, so they need no calls of their own.
        rows = world.rows_on_record(found)
        for each in world.writers:
            counted = counted_of(each, found, world)
            if each.is_sending and counted < allowed.get(each.name, Decimal(0)):
                world.break_rule(
                    "budget", f"{each.name} counts {counted}, may {allowed[each.name]}"
                )
        ids = [row.attempt_id for row in rows]
        if len(ids) != len(set(ids)):
            world.break_rule("reader", f"twice: {sorted(i for i in ids if ids.count(i) > 1)}")
        if missing := seen - set(ids):
            world.break_rule("reader", f"vanished: {sorted(missing)}")
        if missing := sent - set(ids):
            world.break_rule("reader", f"sent and not seen: {sorted(missing)}")
        seen |= {row.attempt_id for row in rows if row.status}


def counted_of(writer: Handle, found: Record, world: World) -> Decimal:
    """What the record counts of one writer against a budget."""
    name = writer.name
    published = (row for path in found.parts for row in world.rows_of(path))
    reserved = [each.usd for each in found.reservations if each.identity.run_id == name]
    rows = (*found.open_attempts, *published)
    spent = [row.bound_usd for row in rows if row.identity.run_id == name]
    sums = found.sums()
    # By a mask, for an expression takes a millisecond of its own.
    covered = bound_usd(sums.filter(pc.equal(sums["root_run_id"], pa.scalar(name))))
    return sum((*reserved, *spent, covered), Decimal(0))


@contextlib.contextmanager
def light_parts(code: Any) -> Generator[None]:
    """Have the writers pickle their parts, for schedules by the thousand."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(code.parts, "encode_part", encode_light)
        patch.setattr(code.writer, "decode_part", decode_either)
        patch.setattr(code.index_writer, "table_of_part", table_of_either)
        yield


@contextlib.contextmanager
def small_index(code: Any, seed: int) -> Generator[None]:
    """Have the writers add to the index soon, and have a day settled as soon as it is over. In half
    of the schedules no runs of the index are merged."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(code.index_writer, "REFRESH_AT", 1 + seed % 2)
        patch.setattr(code.index_writer, "GROWTH", 4 * (seed % 2))
        patch.setattr(code.index, "LATE_DAYS", 0)
        patch.setattr(code.index, "SETTLED_DAYS", 0)
        yield
