"""One pass over a plan: workers that take one image after the other, in an event loop."""

import asyncio
from collections import deque
from collections.abc import Callable
from decimal import Decimal

from dagster_imagegen.engine.attempt import Outcome
from dagster_imagegen.engine.errors import StorageError
from dagster_imagegen.engine.money.budget import Allowance
from dagster_imagegen.engine.run.attempt_loop import AttemptLoop
from dagster_imagegen.engine.run.breaker import Turn
from dagster_imagegen.engine.run.context import PassContext
from dagster_imagegen.engine.run.plan import Job, Plan
from dagster_imagegen.engine.run.sender import Sender, SendingPaused

GROWTH = Decimal("1.25")


class Pass:
    """The side of a pass that lives in the event loop.

    Args:
        context: its parts and settings.
        report: receives each outcome once it is durable.
    """

    def __init__(self, context: PassContext, *, report: Callable[[Outcome], None]) -> None:
        self._context = context
        self._report = report
        self._sender = Sender(context)
        self._todo: deque[Job] = deque()

    @property
    def in_flight(self) -> int:
        """Requests that wait for their answer, or whose image is being saved."""
        return len(self._sender.sending)

    @property
    def paused(self) -> str | None:
        """Why nothing but probes is sent at the moment, if so."""
        context = self._context
        return context.breaker.describe() or context.record.paused or context.images.paused

    @property
    def error(self) -> Exception | None:
        """Why it ended early, if it did."""
        return self._context.stop.error

    def stop(self) -> None:
        """Send nothing more; wait for what is in flight."""
        self._context.stop.set()

    async def run(self, plan: Plan, *, workers: int) -> None:
        """Report what is known, then request the rest. `error` says why it ended early."""
        context = self._context
        for job in plan.jobs:
            if job.known is not None:
                self._report(job.known)
        self._todo.extend(job for job in plan.jobs if job.known is None)
        try:
            try:
                if self._todo and not context.stop.is_set():
                    await context.images.check_writable()
                    await context.record.open()
                    allowance = await self._open_allowance()
                    await self._work(
                        AttemptLoop(context, self._sender, allowance=allowance), workers
                    )
                    error = context.breaker.error_of_all()
                    # Images of earlier runs show that not all requests fail.
                    if error is not None and not (context.stop.is_set() or plan.reused):
                        context.stop.fail(error)
            finally:
                if context.stop.is_set():
                    context.record.hurry()
                await context.record.close()
        except StorageError as error:
            context.stop.fail(error)

    async def _open_allowance(self) -> Allowance | None:
        """Reserve what all of it can cost, if that is left in the budget; less of it otherwise."""
        remaining, record = self._context.remaining, self._context.record
        if remaining is None:
            return None
        want = sum((job.worst_case.usd or Decimal(0) for job in self._todo), Decimal(0))

        async def grow(total_usd: Decimal) -> Decimal:
            # A quarter more than needed now: growing for each retry would cost a commit each.
            return await record.reserve(total_usd * GROWTH, remaining=remaining)

        allowed_usd = await record.reserve(want, remaining=remaining)
        return Allowance(allowed_usd=allowed_usd, grow=grow)

    async def _work(self, loop: AttemptLoop, workers: int) -> None:
        """Run the workers until all is done; once stopping, for `drain_seconds` at most."""
        count = min(workers, len(self._todo))
        tasks = {asyncio.create_task(self._worker(loop)) for _ in range(count)}
        finished = asyncio.ensure_future(asyncio.wait(tasks))
        stopping = asyncio.ensure_future(self._context.stop.wait())
        await asyncio.wait({finished, stopping}, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks - self._sender.sending:
            task.cancel()  # It waits for a slot, a rival or its next try: nothing is lost.
        _, late = await asyncio.wait(tasks, timeout=self._context.drain_seconds)
        for task in late:
            task.cancel()  # The writer, on closing, records its attempt as unknown.
        await asyncio.gather(*tasks, return_exceptions=True)
        await finished
        stopping.cancel()

    async def _worker(self, loop: AttemptLoop) -> None:
        breaker, stop = self._context.breaker, self._context.stop
        try:
            while self._todo and not stop.is_set():
                turn = await breaker.admit()
                if not self._todo:
                    breaker.give_up(turn)
                    return
                job = self._take(turn)
                try:
                    outcome = await loop.produce(job, turn)
                except SendingPaused:
                    self._todo.appendleft(job)
                    continue
                if outcome is not None:
                    self._report(outcome)
        except Exception as error:  # noqa: BLE001  # whatever it is, it ends the pass and is raised
            stop.fail(error)

    def _take(self, turn: Turn) -> Job:
        """The next job; for a probe any: rows that fail for their own reasons stand together."""
        if turn.is_probe:
            self._todo.rotate(self._context.rng.randrange(len(self._todo)))
        return self._todo.popleft()
