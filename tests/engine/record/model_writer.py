"""A writer: what a pass does with the record, and nothing more."""

import asyncio
import contextlib
from dataclasses import dataclass, field
from decimal import Decimal
from types import ModuleType
from typing import TypeVar

from typing_extensions import TypeIs

from dagster_imagegen.engine.attempt import (
    Attempt,
    Cost,
    Identity,
    ImageFile,
    RequestRecord,
    Result,
)
from dagster_imagegen.engine.errors import StorageError
from dagster_imagegen.engine.money.budget import Allowance
from dagster_imagegen.engine.record import AlreadyThere, Contended, Decision, RecordWriter
from tests.engine.record.model_world import WORST_CASE_USD, Handle, Images, Post, image_of

T = TypeVar("T")


class Done:
    """Nothing more is to be sent for a fingerprint."""


DONE = Done()


@dataclass(kw_only=True)
class Writer:
    """One pass over what it wants, with some workers."""

    handle: Handle
    wanted: list[str]
    workers: int
    stops_after: float | None = None
    """When it is terminated: what is in flight is waited for, the rest is cancelled."""
    stopping: bool = False
    asking: set[asyncio.Task[None] | None] = field(default_factory=set[asyncio.Task[None] | None])
    allowance: Allowance | None = None

    async def run(self) -> None:
        handle, world = self.handle, self.handle.world
        serial = iter(range(1000))
        handle.writer = record = world.code.RecordWriter(
            store=handle,
            images=Images(handle),
            identity=Identity(run_id=handle.name, root_run_id=handle.name),
            now=world.now,
            token=lambda: f"{next(serial):03d}-{handle.name}",
            limits=world.limits,
        )
        try:
            await self._generate(record)
        except StorageError as error:
            handle.error = error
        handle.ended = True
        handle.locked.clear()

    async def _generate(self, record: RecordWriter) -> None:
        handle = self.handle
        found = await record.start()
        rows = handle.world.rows_on_record(found)
        known = {row.fingerprint: row.status for row in rows}
        todo = [each for each in self.wanted if known.get(each) not in ("succeeded", "refused")]
        if not todo and not handle.calm:
            return
        try:
            await record.open()
            if handle.world.budget_usd is not None:
                self.allowance = await self._open_allowance(
                    record, want_usd=len(todo) * WORST_CASE_USD
                )
            await self._work(record, todo)
        finally:
            await record.close()

    async def _open_allowance(self, record: RecordWriter, *, want_usd: Decimal) -> Allowance:
        world = self.handle.world

        async def reserve(usd: Decimal) -> Decimal:
            allowed_usd = await record.reserve(usd, remaining=world.remaining)
            world.granted(self.handle, allowed_usd)
            return allowed_usd

        allowed_usd = await reserve(want_usd)
        return Allowance(
            allowed_usd=allowed_usd, grow=lambda total: reserve(total * Decimal("1.25"))
        )

    async def _work(self, record: RecordWriter, todo: list[str]) -> None:
        tasks = [asyncio.create_task(self._worker(record, todo)) for _ in range(self.workers)]
        if not tasks:
            return
        _, unfinished = await asyncio.wait(tasks, timeout=self.stops_after)
        if unfinished:
            self.stopping = True
        for task in tasks:
            if task in unfinished - self.asking:
                task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result

    async def _worker(self, record: RecordWriter, todo: list[str]) -> None:
        try:
            while todo and not self.stopping:
                await self._produce(record, todo.pop())
        except StorageError:
            self.stopping = True
            raise

    async def _produce(self, record: RecordWriter, fingerprint: str) -> None:
        for attempt in range(40):
            if self.stopping:
                return
            if self.allowance is not None and not await self.allowance.reserve(WORST_CASE_USD):
                return
            cost_usd: Decimal | None = Decimal(0)
            try:
                intended_at = self.handle.world.clock()
                claimed = await self._claim(record, fingerprint, attempt)
                if claimed is None:
                    continue
                if not isinstance(claimed, str):
                    return
                cost_usd = None
                post = await self._ask(record, claimed, fingerprint, intended_at)
                cost_usd = _known_cost(post)
            finally:
                if self.allowance is not None:
                    self.allowance.settle(WORST_CASE_USD, cost_usd)
            if post.outcome != "failed":
                return
        self.handle.world.break_rule("hang", f"{self.handle.name} tries {fingerprint} for ever")

    async def _claim(
        self, record: RecordWriter, fingerprint: str, attempt: int
    ) -> str | Done | None:
        """The attempt to send; `DONE` when there is nothing to send; None: try again."""
        handle, code = self.handle, self.handle.world.code
        decision: Decision = await record.intend(
            Attempt(
                attempt_id="",
                identity=Identity(run_id=handle.name, root_run_id=handle.name),
                request=RequestRecord(fingerprint=fingerprint),
                number=attempt,
                worst_case=Cost(usd=WORST_CASE_USD, basis="estimated"),
            )
        )
        if _is(decision, AlreadyThere, code):
            handle.reported.append(decision.path)
            return DONE
        if _is(decision, Contended, code):
            row = await record.outcome_of(decision.rival, fingerprint)
            result = None if row is None else row.result
            if result is not None and result.image is not None:
                handle.reported.append(result.image.path)
            final = result is not None and result.status in ("succeeded", "refused")
            return DONE if final else None
        if self.stopping:
            await record.withdraw(decision.attempt_id)
            return DONE
        return decision.attempt_id

    async def _ask(
        self, record: RecordWriter, attempt_id: str, fingerprint: str, intended_at: float
    ) -> Post:
        """Send it once, and put on record what came of it. It is not cancelled."""
        handle, task = self.handle, asyncio.current_task()
        self.asking.add(task)
        try:
            post = await handle.post(attempt_id, fingerprint, intended_at=intended_at)
            assert post.outcome is not None
            path = f"images/{fingerprint}/{attempt_id}"
            made = post.outcome == "succeeded"
            if made:
                await self._save(record, attempt_id, path)
            result = Result(
                status=post.outcome,
                cost=Cost(usd=_known_cost(post), basis="estimated"),
                image=ImageFile(path=path) if made else None,
            )
            await record.settle(attempt_id, result)
            handle.settled[attempt_id] = post.outcome
            if made:
                handle.reported.append(path)
            return post
        finally:
            self.asking.discard(task)

    async def _save(self, record: RecordWriter, attempt_id: str, path: str) -> None:
        ends_at = self.handle.world.moods.outage[1]
        tries = 0
        while tries < 6:
            with contextlib.suppress(StorageError):
                await self.handle.put(path, image_of(attempt_id))
                return
            await asyncio.sleep(0.5)
            tries += self.handle.world.clock() >= ends_at
        await record.settle(attempt_id, Result(status="failed"))
        raise StorageError(f"cannot save {path}")


def _known_cost(post: Post) -> Decimal | None:
    """What the answer tells of it."""
    return None if post.outcome == "unknown" else post.cost_usd


def _is(decision: object, kind: type[T], code: ModuleType) -> TypeIs[T]:
    """`isinstance`, also where `code` is a copy of the module with types of its own."""
    return isinstance(decision, getattr(code, kind.__name__))
