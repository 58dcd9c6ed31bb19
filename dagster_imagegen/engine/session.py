"""Passes that share one writer: the calls of a block, or a pass alone."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from decimal import Decimal
from typing import TypeAlias

from typing_extensions import Self

from dagster_imagegen.engine.attempt import SANDBOX, Identity
from dagster_imagegen.engine.endpoint.response import OnPartial
from dagster_imagegen.engine.errors import ConfigurationError, Fenced, StorageError
from dagster_imagegen.engine.machine import take_share
from dagster_imagegen.engine.money.budget import Budget
from dagster_imagegen.engine.prompts.rows import PromptTable
from dagster_imagegen.engine.record import Record
from dagster_imagegen.engine.run.context import PassContext
from dagster_imagegen.engine.run.plan import Plan, plan_as_writer
from dagster_imagegen.engine.run.progress import PassTotals, Totals
from dagster_imagegen.engine.run.thread import Generation, LoopThread
from dagster_imagegen.engine.run.workers import Pass
from dagster_imagegen.engine.settings import Settings
from dagster_imagegen.engine.wiring import Wiring

PlanOf: TypeAlias = Callable[[Record], Awaitable[Plan]]
"""Makes a plan of all that is on record."""


class Session:
    """What the passes of one writer share in one event loop: its journals, its connections, and
    how fast it sends. They take turns, so that each one plans with the results of those before.

    A pass that ends early closes the writer. The next one has another, as if it were alone.
    """

    def __init__(
        self,
        wiring: Wiring,
        settings: Settings,
        identity: Identity,
        *,
        budgets: Sequence[Budget],
        totals: PassTotals,
    ) -> None:
        self._wiring = wiring
        self._identity = identity
        self._budgets = budgets
        self.totals = totals
        self._share = take_share(
            settings.max_concurrency,
            # The sandbox is in this process, which has both ends of each connection.
            files_per_request=2 if settings.endpoint_id == SANDBOX else 1,
        )
        self._turn = asyncio.Lock()
        self._stack = AsyncExitStack()
        self._context: PassContext | None = None
        self._has_writer = False

    async def __aenter__(self) -> Self:
        """Call it inside the event loop."""
        self._stack.enter_context(self._wiring.storage.during_a_pass())
        self._stack.enter_context(self._wiring.usage.during_a_pass())
        return self

    async def __aexit__(self, *_exception: object) -> None:
        """Publish what is not published yet, and close the connections.

        Waits for the passes of other threads: their requests are paid for.
        """
        async with self._turn, self._stack:
            if self._context is not None and self._has_writer:
                await self._close_idle(self._context)

    async def run(
        self,
        generation: Generation,
        plan_of: PlanOf,
        *,
        last: bool = False,
    ) -> None:
        """Run a pass to its end. After the `last` one all is published."""
        async with self._turn:
            generation.warning = self._share.warning
            context = replace(await self._next_context(), on_partial=generation.show)
            try:
                await self._run(generation, context, plan_of, last=last)
            except BaseException:
                if not last:
                    await self._close(context)
                raise
            finally:
                self._has_writer = self._has_writer and not last

    async def _run(
        self,
        generation: Generation,
        context: PassContext,
        plan_of: PlanOf,
        *,
        last: bool,
    ) -> None:
        wiring = self._wiring
        await wiring.images.restore_spilled()
        plan = await plan_as_writer(context.record, plan_of, priced=bool(self._budgets))
        work = Pass(context, report=generation.report)
        generation.begin(work, plan)
        # Twice as many as may be in flight: saving and waiting hold no slot.
        await work.run(plan, workers=2 * self._share.max_concurrency, closes=last)
        if last:
            return
        if not context.stop.is_set():
            await context.record.release(work.spent_usd)
            self._context = replace(context, spent_usd=work.spent_usd)
        if context.stop.is_set():
            # What is still in flight is on record as unknown then, and no later pass repeats it.
            await self._close_after(context)

    # -- the writer ------------------------------------------------------------------------------

    async def _next_context(self) -> PassContext:
        wiring, context = self._wiring, self._context
        if context is None:
            context = wiring.context(
                self._budgets, self._identity, totals=self.totals, share=self._share
            )
            self._stack.push_async_callback(context.endpoint.aclose)
        elif self._has_writer and context.record.broken is None:
            context = replace(context, **wiring.watch(context.pacer))
        else:
            if self._has_writer:
                await self._close_idle(context)
            context = replace(
                context,
                record=wiring.record_writer(self._identity),
                spent_usd=Decimal(0),
                **wiring.watch(context.pacer),
            )
        self._context, self._has_writer = context, True
        return context

    async def _close(self, context: PassContext) -> None:
        self._has_writer = False
        await context.record.close()

    async def _close_after(self, context: PassContext) -> None:
        """Close the writer of a pass that ended early; its own error, if it has one, is told."""
        try:
            await self._close(context)
        except StorageError as error:
            context.stop.fail(error)

    async def _close_idle(self, context: PassContext) -> None:
        """Close a writer between passes. One that was presumed dead then has lost nothing."""
        with suppress(Fenced):
            await self._close(context)


class Block:
    """Passes of one session that run one after the other, for a `with` block.

    What they send is published when the block ends, and earlier if a journal is full or old.
    """

    def __init__(self, session: Session, *, planner: Callable[[PromptTable], PlanOf]) -> None:
        self._session = session
        self._planner = planner
        self._thread: LoopThread | None = None

    @property
    def totals(self) -> Totals:
        """What all passes have caused so far."""
        return self._session.totals.whole

    def __enter__(self) -> Self:
        thread = LoopThread()
        try:
            thread.submit(self._session.__aenter__()).result()
        except BaseException:
            # No one else ends it: `__exit__` is not called for a block that has not begun.
            thread.close()
            raise
        self._thread = thread
        return self

    def generate(self, prompts: PromptTable, *, on_partial: OnPartial | None = None) -> Generation:
        """Begin a pass, which runs when those before it have ended.

        Raises `ConfigurationError` before the block has begun and once it has ended.
        """
        thread = self._thread
        if thread is None:
            raise ConfigurationError(
                "this block of calls has not begun or has ended; call inside the `with` block, or "
                "open another one"
            )
        plan_of = self._planner(prompts)

        async def run(generation: Generation) -> None:
            await self._session.run(generation, plan_of)

        return Generation(run, on=thread, on_partial=on_partial)

    def __exit__(self, *_exception: object) -> None:
        """Publish the rest. Raises `StorageError` if that fails; the next writer does it then."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        try:
            thread.submit(self._session.__aexit__(None, None, None)).result()
        finally:
            thread.close()
