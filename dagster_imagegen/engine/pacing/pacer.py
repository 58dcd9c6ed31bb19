"""How fast to send: how many requests at once, how many a minute, and when to pause.

An endpoint refuses requests for one of three reasons, and the refusal shows which:

- *Too many are open at once* (climb.py). Nothing announces this limit. It is found by opening one
  more request at a time, less and less often while that is refused at the same number.
- *Too many a minute* (window.py). The headers announce this limit, or the refusal asks to wait
  more than a moment. The number of open requests has nothing to do with it and is kept.
- *Neither*: refusals at random, at any number. They are ignored.

A wait that the endpoint asks for pauses all requests, whatever its reason.
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
    """What an answer says about how fast to send.

    Attributes:
        outcome: "accepted": the endpoint took the request on, whatever the result; "refused": it
            did not, because of load; "unclear": nobody knows.
        wait_seconds: How long the refusal asks to wait.
        remaining: What is left of the rate limit, from the headers, as are the next two.
        limit: The rate limit.
        reset_seconds: The time until the limit is reset.
        names_concurrency: Whether the refusal says that too many requests are open.
    """

    outcome: Literal["accepted", "refused", "unclear"]
    wait_seconds: float | None = None
    remaining: int | None = None
    limit: int | None = None
    reset_seconds: float | None = None
    names_concurrency: bool = False


@dataclass(frozen=True, kw_only=True)
class Slot:
    """The right to send one request. Numbers count from 1; `sent_at` is by the pacer's clock."""

    number: int
    sent_at: float


class PauseTooLong(Exception):
    """The endpoint asks for a pause of `seconds`, which is longer than allowed."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"{seconds:,.0f} s")
        self.seconds = seconds


class Pacer:
    """Gives each request a slot, first come, first served.

    Every `acquire` must be followed by one `release`.

    Args:
        max_concurrency: The most requests that are ever open at once.
        requests_per_minute: The most requests a minute; None: no such cap.
        max_pause_seconds: The longest pause that the endpoint may ask for.
        clock: Gives seconds.
        sleep: Waits for a number of seconds.
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
        """How many requests may be open at once, at present."""
        return self._climb.height

    @property
    def in_flight(self) -> int:
        """How many requests are open."""
        return len(self._open)

    async def acquire(self) -> Slot:
        """Wait until a request may be sent.

        Raises `PauseTooLong` during a pause that is longer than allowed. If it raises or is
        cancelled, no slot is taken.
        """
        async with self._turn:
            while (delay := self._delay()) > SOON_SECONDS:
                if (pause := self._paused_until - self._clock()) > self._max_pause_seconds:
                    raise PauseTooLong(pause)
                await self._changed_within(delay)
            return self._take()

    def release(self, slot: Slot, signal: Signal) -> None:
        """Give a slot back, with what the answer says about speed."""
        del self._open[slot.number]
        now = self._clock()
        if signal.outcome == "refused":
            self._refused(slot, signal, now)
        elif signal.remaining is not None:
            self._window.update(
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
        if not signal.names_concurrency and Window.explains(signal.remaining, wait):
            self._window.refused(slot.number, wait_seconds=wait, now=now)
        else:
            self._climb.refused(
                slot.number,
                admitted=self.in_flight,
                newest=self._newest.number,
                wait_seconds=wait,
                now=now,
            )

    def _delay(self) -> float:
        """Seconds until the next may be sent; infinite: not before an open one ends."""
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
        """Return after that time, or as soon as a request ends."""
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
