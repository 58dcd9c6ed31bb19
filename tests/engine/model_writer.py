"""A writer: what generation does with a ledger, and nothing more."""

import asyncio
import contextlib
from dataclasses import dataclass, field
from decimal import Decimal
from types import ModuleType
from typing import TypeVar

from typing_extensions import TypeIs

from dagster_imagegen.engine.budget import Purse
from dagster_imagegen.engine.errors import StorageError
from dagster_imagegen.engine.journal import Identity
from dagster_imagegen.engine.ledger import AlreadyThere, Contended, Decision, Ledger
from dagster_imagegen.engine.usage import Row
from tests.engine.model_world import (
    WORST_CASE_USD,
    Handle,
    Post,
    image_of,
)

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
    purse: Purse | None = None

    async def run(self) -> None:
        handle, world = self.handle, self.handle.world
        serial = iter(range(1000))
        handle.ledger = ledger = world.code.Ledger(
            store=handle,
            shelf=handle,
            identity=Identity(run_id=handle.name, root_run_id=handle.name),
            now=world.now,
            token=lambda: f"{next(serial):03d}-{handle.name}",
            limits=world.limits,
        )
        try:
            await self._generate(ledger)
        except StorageError as error:
            handle.error = error
        handle.ended = True
        handle.locked.clear()

    async def _generate(self, ledger: Ledger) -> None:
        handle = self.handle
        books = await ledger.start()
        rows = list(books.open_rows)
        for path in books.parts:
            rows += handle.world.rows_of(path)
        known = {row["fingerprint"]: row.get("status") for row in rows}
        todo = [each for each in self.wanted if known.get(each) not in ("succeeded", "refused")]
        if not todo and not handle.calm:
            return
        try:
            await ledger.open()
            if handle.world.budget_usd is not None:
                self.purse = await self._open_purse(ledger, want_usd=len(todo) * WORST_CASE_USD)
            await self._work(ledger, todo)
        finally:
            await ledger.close()

    async def _open_purse(self, ledger: Ledger, *, want_usd: Decimal) -> Purse:
        room = self.handle.world.room

        async def grow(total_usd: Decimal) -> Decimal:
            return await ledger.reserve(total_usd * Decimal("1.25"), room=room)

        return Purse(allowed_usd=await ledger.reserve(want_usd, room=room), grow=grow)

    async def _work(self, ledger: Ledger, todo: list[str]) -> None:
        tasks = [asyncio.create_task(self._worker(ledger, todo)) for _ in range(self.workers)]
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

    async def _worker(self, ledger: Ledger, todo: list[str]) -> None:
        try:
            while todo and not self.stopping:
                await self._produce(ledger, todo.pop())
        except StorageError:
            self.stopping = True
            raise

    async def _produce(self, ledger: Ledger, fingerprint: str) -> None:
        for attempt in range(40):
            if self.stopping:
                return
            if self.purse is not None and not await self.purse.reserve(WORST_CASE_USD):
                return
            cost_usd: Decimal | None = Decimal(0)
            try:
                intended_at = self.handle.world.clock()
                claimed = await self._claim(ledger, fingerprint, attempt)
                if claimed is None:
                    continue
                if not isinstance(claimed, str):
                    return
                cost_usd = None
                post = await self._ask(ledger, claimed, fingerprint, intended_at)
                cost_usd = _known_cost(post)
            finally:
                if self.purse is not None:
                    self.purse.settle(WORST_CASE_USD, cost_usd)
            if post.outcome != "failed":
                return
        self.handle.world.break_rule("hang", f"{self.handle.name} tries {fingerprint} for ever")

    async def _claim(self, ledger: Ledger, fingerprint: str, attempt: int) -> str | Done | None:
        """The attempt to send; `DONE` when there is nothing to send; None: try again."""
        handle, code = self.handle, self.handle.world.code
        decision: Decision = await ledger.intend(
            {
                "fingerprint": fingerprint,
                "run_id": handle.name,
                "attempt": attempt,
                "worst_case_usd": WORST_CASE_USD,
            }
        )
        if _is(decision, AlreadyThere, code):
            handle.reported.append(decision.path)
            return DONE
        if _is(decision, Contended, code):
            row = await ledger.outcome_of(decision.rival)
            if row is not None and row["status"] == "succeeded":
                handle.reported.append(row["image_path"])
            return DONE if row is not None and row["status"] in ("succeeded", "refused") else None
        if self.stopping:
            await ledger.withdraw(decision.attempt_id)
            return DONE
        return decision.attempt_id

    async def _ask(
        self, ledger: Ledger, attempt_id: str, fingerprint: str, intended_at: float
    ) -> Post:
        """Send it once, and put on record what came of it. It is not cancelled."""
        handle, task = self.handle, asyncio.current_task()
        self.asking.add(task)
        try:
            post = await handle.post(attempt_id, fingerprint, intended_at=intended_at)
            assert post.outcome is not None
            columns: Row = {"status": post.outcome, "cost_usd": _known_cost(post)}
            if post.outcome == "succeeded":
                columns["image_path"] = f"images/{fingerprint}/{attempt_id}"
                await self._save(ledger, attempt_id, columns["image_path"])
            await ledger.settle(attempt_id, columns)
            handle.settled[attempt_id] = post.outcome
            if post.outcome == "succeeded":
                handle.reported.append(columns["image_path"])
            return post
        finally:
            self.asking.discard(task)

    async def _save(self, ledger: Ledger, attempt_id: str, path: str) -> None:
        for _ in range(6):
            with contextlib.suppress(StorageError):
                await self.handle.put(path, image_of(attempt_id))
                return
            await asyncio.sleep(0.5)
        await ledger.settle(attempt_id, {"status": "failed"})
        raise StorageError(f"cannot save {path}")


def _known_cost(post: Post) -> Decimal | None:
    """What the answer tells of it."""
    return None if post.outcome == "unknown" else post.cost_usd


def _is(decision: object, kind: type[T], code: ModuleType) -> TypeIs[T]:
    """`isinstance`, also where `code` is a copy of the module with types of its own."""
    return isinstance(decision, getattr(code, kind.__name__))
