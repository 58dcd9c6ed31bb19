"""How fast to send: how many at once, how many a minute, and when nobody should send at all.

Three limits look alike from outside, and are told apart by what comes with a refusal:

- *How many are open at once* (climb.py). Nothing is announced. The number is found by trying one
  more at a time, less and less often while that is refused at the same height.
- *How many a minute* (window.py). The headers announce it, or the refusal asks to wait for more
  than a moment. How many are open has nothing to do with it, and stays.
- *None*: a refusal at random, at any height. It is passed over.

A wait that is asked for holds for everybody, whatever it is about.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from dagster_imagegen.engine.pacing.climb import Climb
from dagster_imagegen.engine.pacing.window import SOON_SECONDS, Window


@dataclass(frozen=True, kw_only=True)
class Signal:
    """What an answer says about speed.

    `accepted`: the endpoint took the request on, whatever came of it; `refused`: it did not, as
    too many; `unclear`: neither is known. `remaining`, `limit` and `reset_seconds` are the
    headers'; `names_concurrency`: the refusal says that too many are open.
    """

    outcome: Literal["accepted", "refused", "unclear"]
    wait_seconds: float | None = None
    remaining: int | None = None
    limit: int | None = None
    reset_seconds: float | None = None
    names_concurrency: bool = False


@dataclass(frozen=True, kw_only=True)
class Slot:
    """The right to send one request. Numbers count up from 1; `sent_at` is the pacer's clock."""

    number: int
    sent_at: float


class PauseTooLong(Exception):
    """The endpoint asks everybody to wait for so many `seconds`, which is too long to sit out."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"{seconds:,.0f} s")
        self.seconds = seconds


class Pacer:
    """Lets requests go, first come, first served. One for each pass.

    Every `acquire` has to be answered by one `release`. `max_concurrency` and
    `requests_per_minute` are never exceeded. `clock` gives seconds, `sleep` waits for them.
    A pause that is asked for and longer than `max_pause_seconds` is not sat out.
    """

    def __init__(
        self,
        *,
        max_concurrency: int,
        requests_per_minute: float | None = None,
        max_pause_seconds: float = math.inf,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._gap_seconds = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._max_pause_seconds = max_pause_seconds
        self._clock = clock
        self._sleep = sleep
        self._turn = asyncio.Lock()
        self._changed = asyncio.Event()
        self._open: dict[int, Slot] = {}
        self._newest = Slot(number=0, sent_at=-math.inf)
        self._paused_until = -math.inf
        self._climb = Climb(highest=max_concurrency)
        self._window = Window()

    @property
    def limit(self) -> int:
        """How many may be open at once, for now."""
        return self._climb.height

    @property
    def in_flight(self) -> int:
        """How many are open."""
        return len(self._open)

    async def acquire(self) -> Slot:
        """Wait until a request may be sent. If cancelled, it was as if never called.

        Raises `PauseTooLong`, as if never called, while nobody is to send for so long.
        """
        async with self._turn:  # first come, first served
            while (delay := self._delay()) > SOON_SECONDS:
                if (pause := self._paused_until - self._clock()) > self._max_pause_seconds:
                    raise PauseTooLong(pause)
                await self._changed_within(delay)
            return self._take()

    def release(self, slot: Slot, signal: Signal) -> None:
        """Say what came of the request of a slot."""
        del self._open[slot.number]
        now = self._clock()
        if signal.outcome == "refused":
            self._refused(slot, signal, now)
        elif signal.remaining is not None:
            self._window.hear(
                slot.number,
                remaining=signal.remaining,
                limit=signal.limit,
                reset_seconds=signal.reset_seconds,
                now=now,
            )
        self._changed.set()

    def _refused(self, slot: Slot, signal: Signal, now: float) -> None:
        wait = signal.wait_seconds
        self._paused_until = max(self._paused_until, now + (wait or 0.0))
        about_a_rate = not signal.names_concurrency and self._window.is_meant(
            remaining=signal.remaining, wait_seconds=wait
        )
        if about_a_rate:
            self._window.refused(
                slot.number,
                wait_seconds=wait,
                now=now,
            )
        else:
            self._climb.refused(
                slot.number,
                admitted=self.in_flight,
                newest=self._newest.number,
                wait_seconds=wait,
                now=now,
            )

    def _delay(self) -> float:
        """Seconds until the next may go, as things stand; infinite: not before one ends."""
        now = self._clock()
        next_at = max(
            self._paused_until,
            self._newest.sent_at + self._gap_seconds,
            self._window.next_at(now),
            self._climb.next_at(open_now=self.in_flight),
        )
        return next_at - now

    def _take(self) -> Slot:
        now = self._clock()
        slot = Slot(number=self._newest.number + 1, sent_at=now)
        self._newest = self._open[slot.number] = slot
        self._climb.sent(open_now=self.in_flight, now=now)
        self._window.sent(now)
        return slot

    async def _changed_within(self, seconds: float) -> None:
        """Return after so long, or as soon as a request ends."""
        self._changed.clear()
        if seconds == math.inf:
            await self._changed.wait()
            return
        waits = (
            asyncio.ensure_future(self._changed.wait()),
            asyncio.ensure_future(self._sleep(seconds)),
        )
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
