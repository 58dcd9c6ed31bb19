"""A pass on a thread of its own, and the caller's view of it.

Its caller may have an event loop already (an async op), and may be interrupted at any moment (a
terminated run).
"""

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from typing import Any

from typing_extensions import Self

from dagster_imagegen.engine.attempt import Outcome
from dagster_imagegen.engine.machine import Threads, explaining_threads
from dagster_imagegen.engine.run.plan import Plan
from dagster_imagegen.engine.run.progress import Progress, Totals, cost_text
from dagster_imagegen.engine.run.workers import Pass

LOOK_UPS = 8
"""Names that are looked up at a time."""


class Generation:
    """A pass under way. Iterate over it for the outcomes as they come, one for each distinct image.

    Iteration ends when every wanted image has an outcome, and raises `EndpointError`,
    `BudgetExhausted` or `StorageError` when the pass ended early; everything reported or paid for
    is durable by then. An interruption (KeyboardInterrupt, a terminated run) can surface in the
    loop: call `drain`, and handle what it returns. Leaving the `with` block drains as well.
    """

    def __init__(self, run: "Callable[[Generation], Coroutine[Any, Any, None]]") -> None:
        self.totals = Totals()
        self.outcomes: dict[str, Outcome] = {}
        self.warning: str | None = None
        """What the pass does otherwise than its settings say, once `plan` is there."""
        self._plan: Future[Plan] = Future()
        self._arrived: queue.SimpleQueue[Outcome | None] = queue.SimpleQueue()
        self._error: BaseException | None = None
        self._pass: Pass | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop_asked = False
        self._started_at = time.monotonic()
        self._known = 0
        self._thread = threading.Thread(
            target=self._run_loop, args=(run,), name="imagegen-pass", daemon=True
        )
        with explaining_threads():
            self._thread.start()

    # -- the caller's side ---------------------------------------------------------------------

    @property
    def plan(self) -> Plan:
        """What the pass will do; waits until the record is read. Raises what failed there."""
        return self._plan.result()

    @property
    def progress(self) -> Progress:
        """Where the pass stands now."""
        plan, totals = self.plan, self.totals
        done, total = len(self.outcomes), len(plan.jobs)
        made = done - self._known
        minutes = (time.monotonic() - self._started_at) / 60
        rate = made / minutes if made and minutes else None
        return Progress(
            done=done,
            total=total,
            in_flight=self._pass.in_flight if self._pass else 0,
            images_per_minute=rate,
            cost=cost_text(totals, sandbox=plan.sandbox),
            seconds_left=(total - done) / rate * 60 if rate else None,
            paused=self._pass.paused if self._pass else None,
        )

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Outcome:
        return self._next(self._arrived.get())

    def beats(self, every_seconds: float) -> Iterator[Outcome | None]:
        """Iterate, with a None whenever nothing has come for `every_seconds`."""
        while True:
            try:
                arrived = self._arrived.get(timeout=every_seconds)
            except queue.Empty:
                yield None
                continue
            try:
                outcome = self._next(arrived)
            except StopIteration:
                return
            yield outcome

    def _next(self, outcome: Outcome | None) -> Outcome:
        if outcome is not None:
            return outcome
        self._arrived.put(None)  # For whoever asks again.
        self._thread.join()
        if self._error is not None:
            raise self._error
        raise StopIteration

    def drain(self) -> list[Outcome]:
        """Send nothing more, wait a bounded time for what is in flight, and publish.

        Returns the outcomes that were not yet iterated over. Raises nothing of the pass's own.
        """
        self._stop_asked = True
        if self._loop is not None and self._pass is not None:
            with contextlib.suppress(RuntimeError):  # The loop has ended by itself.
                self._loop.call_soon_threadsafe(self._pass.stop)
        self._thread.join()
        rest: list[Outcome] = []
        while (outcome := self._arrived.get()) is not None:
            rest.append(outcome)
        self._arrived.put(None)
        return rest

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.drain()

    # -- the thread's side ---------------------------------------------------------------------

    def begin(self, work: Pass, plan: Plan) -> None:
        """Set the plan and the pass; from here on it can be stopped."""
        self._known = sum(job.known is not None for job in plan.jobs)
        self._started_at = time.monotonic()
        self._pass = work
        self._plan.set_result(plan)
        if self._stop_asked:
            work.stop()

    def report(self, outcome: Outcome) -> None:
        """Hand over an outcome that is durable."""
        self.outcomes[outcome.fingerprint] = outcome
        self._arrived.put(outcome)

    def _run_loop(self, run: "Callable[[Generation], Coroutine[Any, Any, None]]") -> None:
        ended = False

        async def main() -> None:
            nonlocal ended
            self._loop = asyncio.get_running_loop()
            try:
                self._loop.set_default_executor(Threads(LOOK_UPS, name="imagegen-names"))
                await run(self)
                if self._pass is not None:
                    self._error = self._pass.error
            except BaseException as error:  # noqa: BLE001  # handed to the caller's thread
                self._error = error
            ended = True

        try:
            asyncio.run(main())
        except BaseException as error:  # noqa: BLE001  # likewise
            # To close the loop takes another thread; without one nothing of the pass is lost.
            if not ended:
                self._error = error
        finally:
            if self._error is not None and not self._plan.done():
                self._plan.set_exception(self._error)
            self._arrived.put(None)
