"""One pass over a plan: workers that take one image after the other, in an event loop."""

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import replace
from decimal import Decimal
from typing import Any

from dagster_imagegen.engine.attempt import Outcome
from dagster_imagegen.engine.errors import StorageError
from dagster_imagegen.engine.money.budget import Allowance
from dagster_imagegen.engine.run.attempt_loop import AttemptLoop, Wanted
from dagster_imagegen.engine.run.context import PassContext
from dagster_imagegen.engine.run.gate import Turn
from dagster_imagegen.engine.run.jobs import Jobs
from dagster_imagegen.engine.run.plan import Plan
from dagster_imagegen.engine.run.sender import Sender

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
        self._allowance: Allowance | None = None
        self._is_sending = False

    @property
    def in_flight(self) -> int:
        """Requests that wait for their answer, or whose image is being saved."""
        return len(self._sender.sending)

    @property
    def paused(self) -> str | None:
        """Why nothing but probes is sent at the moment, if so."""
        context = self._context
        return context.gate.describe() or context.record.paused or context.images.paused

    @property
    def error(self) -> Exception | None:
        """Why it ended early, if it did."""
        return self._context.stop.error

    def stop(self) -> None:
        """Send nothing more; wait for what is in flight, but no longer for a storage."""
        self._context.stop.set()
        if not self._is_sending:
            self._context.record.hurry()

    @property
    def spent_usd(self) -> Decimal:
        """What it and earlier passes of the same writer have spent of the budget."""
        spent_usd = self._context.spent_usd
        return spent_usd + (self._allowance.spent_usd if self._allowance else Decimal(0))

    async def run(self, plan: Plan, *, workers: int, closes: bool = True) -> None:
        """Report what is known and not paid, then request the rest. `error`: why it ended early.

        The writer is closed at the end, unless it `closes` nothing.
        """
        context = self._context
        for known in plan.jobs.known:
            self._report(known)
        self._queue = Queue(plan.jobs, context.rng, probes=context.retry.max_attempts)
        try:
            try:
                if self._queue and not context.stop.is_set():
                    await self._request(plan, workers)
            finally:
                if context.stop.is_set():
                    context.record.hurry()
                if closes:
                    await context.record.close()
            # Not of a pass that is to end: a storage that is away would hold it up once more.
            if not context.stop.is_set():
                await self._unless_stopped(self._sender.check_images())
            await context.images.keep_adopted()
        except StorageError as error:
            context.stop.fail(error)

    async def _request(self, plan: Plan, workers: int) -> None:
        context = self._context
        await self._unless_stopped(context.images.check_writable())
        if context.stop.is_set():
            return
        await context.record.open()
        self._allowance = await self._open_allowance(plan)
        self._is_sending = True
        await self._work(AttemptLoop(context, self._sender, allowance=self._allowance), workers)
        self._is_sending = False
        error = context.breaker.error_of_all()
        if error is not None and self._have_all_failed(plan):
            context.stop.fail(error)

    async def _unless_stopped(self, work: Coroutine[Any, Any, None]) -> None:
        """Await what nothing paid for depends on; cancel it when the pass is to stop."""
        task, stop = asyncio.ensure_future(work), self._context.stop
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not task.done():
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    def _have_all_failed(self, plan: Plan) -> bool:
        """Whether what failed can be what all requests meet.

        What is known from earlier runs shows that not all fail; a model that a row has chosen for
        itself can be the fault of that row.
        """
        known = bool(plan.paid) or bool(plan.jobs.known)
        models = set(plan.jobs.models)
        return not (self._context.stop.is_set() or known or models - self._queue.models_sent)

    async def _open_allowance(self, plan: Plan) -> Allowance | None:
        """Reserve what all of it can cost, if that is left in the budget; less of it otherwise."""
        remaining, record = self._context.remaining, self._context.record
        if remaining is None:
            return None
        kinds = plan.jobs.kinds
        want = sum((count * (job.worst_case.usd or 0) for job, count in kinds), Decimal(0))
        # What a writer reserves is for all of its passes, as what others' record leaves is.
        before = self._context.spent_usd

        async def grow(total_usd: Decimal) -> Decimal:
            # A quarter more than needed now: growing for each retry would cost a commit each.
            total_usd = before + total_usd * GROWTH
            return await record.reserve(total_usd, remaining=remaining) - before

        allowed_usd = await record.reserve(before + want, remaining=remaining) - before
        return Allowance(allowed_usd=allowed_usd, grow=grow)

    async def _work(self, loop: AttemptLoop, workers: int) -> None:
        """Run the workers until all is done; once stopping, for `drain_seconds` at most."""
        count = min(workers, len(self._queue))
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
        gate, stop = self._context.gate, self._context.stop
        try:
            while self._queue and not stop.is_set():
                turn = await gate.admit()
                if not self._queue:
                    gate.give_up(turn)
                    return
                wanted, turn = self._queue.take(turn)
                outcome = await loop.produce(wanted, turn)
                self._queue.learn(wanted, outcome)
                if outcome is None:
                    self._queue.put_back(wanted)
                else:
                    self._report(outcome)
                self._give_up_rows(loop)
                if not (self._queue or loop.at_work):
                    gate.resume()  # The other workers have nothing to wait for.
        except Exception as error:  # noqa: BLE001  # whatever it is, it ends the pass and is raised
            stop.fail(error)

    def _give_up_rows(self, loop: AttemptLoop) -> None:
        """Report what has failed all along, where that shows to be the rows' own fault."""
        queue, stop = self._queue, self._context.stop
        if not queue.all_failed or stop.is_set():
            return
        all_probed = queue.all_probed and not loop.at_work
        if self._context.breaker.are_rows_at_fault(all_probed=all_probed):
            for outcome in queue.give_up():
                self._report(outcome)


class Queue:
    """The images that wait to be requested: the untried first, then those that have failed.

    `rng` chooses probes: rows that fail for their own reasons stand together in a table. A row
    need not fail more often than in `probes` of them.
    """

    def __init__(self, jobs: Jobs, rng: random.Random, *, probes: int) -> None:
        self._jobs = jobs
        self._rng = rng
        self._probes = probes
        self._untried = deque(jobs.places_to_send)
        """By their place among the jobs: each is an object from when it is taken."""
        self._begun: dict[int, Wanted] = {}
        """Those of the untried that were taken already, and had to wait."""
        self._failed: list[Wanted] = []
        self.models_sent: set[str] = set()
        """The models to which something has been sent in this pass."""
        self._models_serving: set[str] = set()

    def __len__(self) -> int:
        return len(self._untried) + len(self._failed)

    def put_back(self, wanted: Wanted) -> None:
        """Put an image back that has to wait."""
        if wanted.latest is None:
            self._untried.appendleft(wanted.place)
            self._begun[wanted.place] = wanted
        else:
            self._failed.append(wanted)

    def take(self, turn: Turn) -> tuple[Wanted, Turn]:
        """The next image; and the turn, which says whether all have failed.

        For a probe any, if possible of a model that has not only failed: it may be the model.
        """
        if self._untried:
            if turn.is_probe:
                self._untried.rotate(self._rng.randrange(len(self._untried)))
                failing = self.models_sent - self._models_serving
                models = self._jobs.models
                others = (n for n, at in enumerate(self._untried) if models[at] not in failing)
                self._untried.rotate(-next(others, 0))
            return self._next_untried(), turn
        if not turn.is_probe:
            return self._failed.pop(0), turn
        least = min(map(self._probed, self._failed))
        chosen = self._rng.choice([each for each in self._failed if self._probed(each) == least])
        self._failed.remove(chosen)
        return chosen, replace(turn, all_failed=True)

    def _next_untried(self) -> Wanted:
        place = self._untried.popleft()
        if place in self._begun:
            return self._begun.pop(place)
        job = self._jobs[place]
        return Wanted(place=place, job=job, unresolved=job.unresolved)

    def learn(self, wanted: Wanted, outcome: Outcome | None) -> None:
        """Note what an image came to, for what it says of its model."""
        if wanted.requests:
            self.models_sent.add(wanted.job.request.model)
        if outcome is not None and outcome.image is not None:
            self._models_serving.add(wanted.job.request.model)

    def _probed(self, wanted: Wanted) -> tuple[bool, bool, int]:
        """The least of these is probed next: what may have been paid for last, if others can be."""
        enough = wanted.failed_probes >= self._probes
        return enough, wanted.unresolved.count > 0, wanted.failed_probes

    @property
    def all_failed(self) -> bool:
        """Whether images are left, and each has failed."""
        return bool(self._failed) and not self._untried

    @property
    def all_probed(self) -> bool:
        """Whether each image that is left has failed as a probe as often as it may."""
        return self.all_failed and all(each.failed_probes >= self._probes for each in self._failed)

    def give_up(self) -> list[Outcome]:
        """What the failed images come to; they are no longer in the queue."""
        failed, self._failed = self._failed, []
        return [each.latest for each in failed if each.latest is not None]
