"""A pass on a thread of its own, and the caller's view of it.

Its caller may have an event loop already (an async op), and may be interrupted at any moment (a
terminated run).
"""

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from typing_extensions import Self

from dagster_imagegen.engine.attempt import Outcome
from dagster_imagegen.engine.endpoint.response import OnPartial
from dagster_imagegen.engine.machine import Threads, explaining_threads
from dagster_imagegen.engine.run.outcomes import Outcomes, PaidImages
from dagster_imagegen.engine.run.plan import Plan
from dagster_imagegen.engine.run.progress import PassTotals, Progress, Totals, cost_text
from dagster_imagegen.engine.run.workers import Pass

WAIT_SECONDS = 3_600.0
LOOK_UPS = 8
"""Names that are looked up at a time."""

T = TypeVar("T")
Run: TypeAlias = "Callable[[Generation], Coroutine[Any, Any, None]]"
"""What a generation runs in its loop."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Partial:
    """A partial image that has come."""

    index: int
    data: bytes


_Arrived: TypeAlias = Outcome | PaidImages | _Partial | None
"""What a pass hands over; None at its end."""


class LoopThread:
    """An event loop on a thread of its own, for several passes one after the other."""

    def __init__(self) -> None:
        self._running: Future[asyncio.AbstractEventLoop] = Future()
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="imagegen-block", daemon=True)
        with explaining_threads():
            self._thread.start()

    def _run(self) -> None:
        async def main() -> None:
            loop = asyncio.get_running_loop()
            loop.set_default_executor(_name_threads())
            self._running.set_result(loop)
            await self._ended.wait()

        try:
            asyncio.run(main())
        except BaseException as error:  # noqa: BLE001  # handed to whoever submits work
            if not self._running.done():
                self._running.set_exception(error)

    def submit(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        """Run a coroutine in the loop."""
        return asyncio.run_coroutine_threadsafe(work, self._running.result())

    def close(self) -> None:
        """End the loop, and the thread with it."""
        self._running.result().call_soon_threadsafe(self._ended.set)
        self._thread.join()


class Generation:
    """A pass under way. Iterate over it for the outcomes as they come, one for each distinct image.

    Iteration ends when every wanted image has an outcome, and raises `EndpointError`,
    `BudgetExhausted` or `StorageError` when the pass ended early; everything reported or paid for
    is durable by then. An interruption (KeyboardInterrupt, a terminated run) can surface in the
    loop: call `drain`, and handle what it returns. Leaving the `with` block drains as well.

    With `on`, the pass runs in that loop. `on_partial` is called by whoever iterates.
    """

    def __init__(
        self,
        run: "Run",
        *,
        on: LoopThread | None = None,
        on_partial: OnPartial | None = None,
    ) -> None:
        self.pass_totals = PassTotals()
        self.on_partial = on_partial
        self.outcomes = Outcomes()
        self.warning: str | None = None
        """What the pass does otherwise than its settings say, once `plan` is there."""
        self._plan: Future[Plan] = Future()
        self._arrived: queue.SimpleQueue[_Arrived] = queue.SimpleQueue()
        self._hands_over = True
        """Whether somebody may iterate over the outcomes: it wakes their thread for each."""
        self._paid: Iterator[Outcome] = iter(())
        """Of those that were paid for before, the outcomes that are yet to be iterated over."""
        self._error: BaseException | None = None
        self._pass: Pass | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._main: asyncio.Task[Any] | None = None
        self._stop_asked = False
        self._has_ended = False
        self._started_at = time.monotonic()
        self._known = 0
        if on is not None:
            ended = on.submit(self._run_in_loop(run))
            self._wait: Callable[[], object] = lambda: wait([ended])
            return
        thread = threading.Thread(
            target=self._run_on_thread, args=(run,), name="imagegen-pass", daemon=True
        )
        with explaining_threads():
            thread.start()
        self._wait = thread.join

    # -- the caller's side ---------------------------------------------------------------------

    @property
    def plan(self) -> Plan:
        """What the pass will do; waits until the record is read.

        Raises what failed there, and `asyncio.CancelledError` if it was drained before.
        """
        return self._plan.result()

    @property
    def has_plan(self) -> bool:
        """Whether `plan` is there: nothing failed or stopped the pass before."""
        return self._pass is not None

    @property
    def totals(self) -> Totals:
        """What the pass has caused so far."""
        return self.pass_totals.whole

    @property
    def progress(self) -> Progress:
        """Where the pass stands now."""
        plan, totals = self.plan, self.totals
        done, total = len(self.outcomes), plan.distinct
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
        while (outcome := next(self._paid, None)) is None:
            if (arrived := self._next(self._arrived.get())) is not None:
                return arrived
        return outcome

    def beats(self, every_seconds: float) -> Iterator[None]:
        """Iterate without the outcomes: a None every `every_seconds`.

        They are in `outcomes`; from here on neither iteration nor `drain` returns them.
        """
        self._hands_over = False
        due = time.monotonic() + every_seconds
        while True:
            try:
                self._next(self._arrived.get(timeout=max(due - time.monotonic(), 0.0)))
            except queue.Empty:
                pass
            except StopIteration:
                return
            if time.monotonic() >= due:
                yield None
                due = time.monotonic() + every_seconds

    def wait(self) -> None:
        """Wait for the end as iteration does, without its outcomes."""
        for _ in self.beats(WAIT_SECONDS):
            pass

    def _next(self, arrived: _Arrived) -> Outcome | None:
        if isinstance(arrived, _Partial):
            return self._show(arrived)
        if isinstance(arrived, PaidImages):
            self._paid = iter(arrived)
            return None
        if arrived is not None:
            return arrived
        self._arrived.put(None)  # For whoever asks again.
        self._wait()
        if self._error is not None:
            raise self._error
        raise StopIteration

    def _show(self, partial: _Partial) -> None:
        try:
            if self.on_partial is not None:
                self.on_partial(partial.index, partial.data)
        except Exception:  # noqa: BLE001  # the image is paid for, whatever it is
            _log.exception("on_partial failed for partial image %d", partial.index)

    def drain(self) -> list[Outcome]:
        """Send nothing more, wait a bounded time for what is in flight, and publish.

        Returns the outcomes that were not yet iterated over, without those of images that were
        paid for before. Raises nothing of the pass's own.
        """
        self._stop_asked = True
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # The loop has ended by itself.
                self._loop.call_soon_threadsafe(self._stop)
        self._wait()
        rest: list[Outcome] = []
        while (arrived := self._arrived.get()) is not None:
            if isinstance(arrived, Outcome):
                rest.append(arrived)
        self._arrived.put(None)
        return rest

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.drain()

    # -- the thread's side ---------------------------------------------------------------------

    def begin(self, work: Pass, plan: Plan) -> None:
        """Set the plan and the pass; from here on it can be stopped."""
        self.outcomes = Outcomes(paid=plan.paid)
        self._arrived.put(plan.paid)
        self._known = plan.distinct - plan.to_send
        self._started_at = time.monotonic()
        self._pass = work
        self._plan.set_result(plan)
        if self._stop_asked:
            work.stop()

    def _stop(self) -> None:
        """Stop the pass; before there is one, stop reading the record, for nothing was sent yet."""
        if self._has_ended:
            return  # The loop may run other passes by now.
        if self._pass is not None:
            self._pass.stop()
        elif self._main is not None:
            self._main.cancel()

    def report(self, outcome: Outcome) -> None:
        """Hand over an outcome that is durable."""
        self.outcomes.add(outcome)
        if self._hands_over:
            self._arrived.put(outcome)

    def show(self, index: int, data: bytes) -> None:
        """Hand over a partial image."""
        if self.on_partial is not None:
            self._arrived.put(_Partial(index=index, data=data))

    async def _run(self, run: "Run") -> None:
        self._main = asyncio.current_task()
        self._loop = asyncio.get_running_loop()
        if self._stop_asked:
            self._stop()
        try:
            await run(self)
            if self._pass is not None:
                self._error = self._pass.error
        except BaseException as error:  # noqa: BLE001  # handed to the caller's thread
            self._error = error

    async def _run_in_loop(self, run: "Run") -> None:
        await self._run(run)
        self._end()

    def _run_on_thread(self, run: "Run") -> None:
        ended = False

        async def main() -> None:
            nonlocal ended
            try:
                asyncio.get_running_loop().set_default_executor(_name_threads())
                await self._run(run)
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
            self._end()

    def _end(self) -> None:
        self._has_ended = True
        if self._error is not None and not self._plan.done():
            self._plan.set_exception(self._error)
        self._arrived.put(None)


def _name_threads() -> Threads:
    return Threads(LOOK_UPS, name="imagegen-names")
