"""How fast to send: how many requests at once, how many a minute, and when to pause.

An endpoint refuses requests for one of three reasons, and the refusal shows which:

- *Too many are open at once* (climb.py). Nothing announces this limit. It is found by opening
  more, as long as nothing is refused and answers do not slow down (slowing.py).
- *Too many a minute*. The headers announce this limit (window.py), or only refusals reveal it
  (rate.py): they ask to wait more than a moment, or go on however few are open. The number of open
  requests has nothing to do with it and is kept.
- *Neither*: refusals at random, at any number. They are ignored, unless they come so close together
  that chance would hardly do it (suspicion.py).

A wait that the endpoint asks for pauses all requests, whatever its reason. One that is too long is
believed only when the endpoint keeps asking.
"""

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Literal

from dagster_imagegen.engine.pacing.climb import IN_A_ROW, Climb
from dagster_imagegen.engine.pacing.process import Pace
from dagster_imagegen.engine.pacing.rate import Rate
from dagster_imagegen.engine.pacing.suspicion import Suspicion
from dagster_imagegen.engine.pacing.window import MAX_SECONDS, SOON_SECONDS, Window

RAMP_SECONDS = 0.1  # after the first request of all or of a pause; a refusal is back by then
RAMP_TIMES = 1.1  # as long as the last refusal took, if that is more
RAMP_MAX_SECONDS = 2.0
BELIEVED_AFTER = 3  # waits that are too long, with no good answer between
WAIT_SECONDS = 2.0  # a refusal that asks for a longer wait is about a rate


@dataclass(frozen=True, kw_only=True)
class Signal:
    """What an answer says about how fast to send.

    Attributes:
        outcome: "accepted": the endpoint took the request on, whatever the result; "refused": it
            did not, because of load; "timed_out": no answer came in time; "unclear": nobody knows.
        wait_seconds: How long the refusal asks to wait.
        remaining: What is left of the rate limit, from the headers, as are the next two.
        limit: The rate limit.
        reset_seconds: The time until the limit is reset.
        names_concurrency: Whether the refusal says that too many requests are open.
    """

    outcome: Literal["accepted", "refused", "timed_out", "unclear"]
    wait_seconds: float | None = None
    remaining: int | None = None
    limit: int | None = None
    reset_seconds: float | None = None
    names_concurrency: bool = False


@dataclass(frozen=True, kw_only=True)
class Slot:
    """The right to send one request.

    Attributes:
        number: Counts from 1.
        sent_at: By the pacer's clock.
        worked: How long this process had been at work itself by then.
        open_then: How many requests were open, with this one.
    """

    number: int
    sent_at: float
    worked: float = 0.0
    open_then: int = 0


class PauseTooLong(Exception):
    """The endpoint asks for a pause of `seconds`, which is longer than allowed."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"{seconds:,.0f} s")
        self.seconds = seconds


class NotWanted(Exception):
    """Whoever waited for a slot has no use for it any more."""


class Pacer:
    """Gives each request a slot, first come, first served.

    Every `acquire` must be followed by one `release`.

    Args:
        max_concurrency: The most requests that are ever open at once.
        requests_per_minute: The most requests a minute; None: no such cap.
        pace: Counts them together with those of other pacers that have the same one.
        max_pause_seconds: The longest pause that the endpoint may ask for.
        timeout_seconds: How long a request may wait for its answer. With a short one, fewer are
            open at the beginning, because a server that queues would not answer them in time.
        clock: Gives seconds.
        sleep: Waits for a number of seconds.
        worked: For how many seconds this process has been at work itself. An answer that waits for
            it is not slow.
    """

    def __init__(
        self,
        *,
        max_concurrency: int,
        requests_per_minute: float | None = None,
        pace: Pace | None = None,
        max_pause_seconds: float = math.inf,
        timeout_seconds: float = math.inf,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        worked: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._gap_seconds = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._pace = pace or Pace()
        self._max_pause_seconds = max_pause_seconds
        self._clock = clock
        self._sleep = sleep
        self._worked = worked
        self._turn = asyncio.Lock()
        self._changed = asyncio.Event()
        self._open: dict[int, Slot] = {}
        self._newest = Slot(number=0, sent_at=-math.inf)
        self._paused_until = -math.inf
        self._climb = Climb(highest=max_concurrency, timeout_seconds=timeout_seconds)
        self._window = Window()
        self._rate = Rate()
        self._answered: deque[int] = deque(maxlen=max_concurrency)
        self._too_long_in_a_row = 0
        self._since_refusal = 0
        self._refused_within = 0.0
        self._suspicion = Suspicion()

    @property
    def limit(self) -> int:
        """How many requests may be open at once, at present."""
        return self._climb.height

    @property
    def in_flight(self) -> int:
        """How many requests are open."""
        return len(self._open)

    async def acquire(self, *, wanted: Callable[[], bool] = lambda: True) -> Slot:
        """Wait until a request may be sent.

        Raises `PauseTooLong` during a pause that is longer than allowed, and `NotWanted` as soon as
        it is its turn and `wanted` returns False. If it raises or is cancelled, no slot is taken.
        """
        async with self._turn:
            while wanted():
                if (delay := self._delay()) <= SOON_SECONDS:
                    if self._pace.take(
                        self._gap_seconds, self._clock(), early_seconds=SOON_SECONDS
                    ):
                        return self._take()
                    continue  # another pacer was faster
                if (pause := self._paused_until - self._clock()) > self._max_pause_seconds:
                    raise PauseTooLong(pause)
                await self._changed_within(delay)
            raise NotWanted

    def sending(self, slot: Slot) -> None:
        """The request is sent only now: what it took to put it on record is no part of its time."""
        self._open[slot.number] = replace(slot, sent_at=self._clock(), worked=self._worked())

    def release(self, slot: Slot, signal: Signal) -> None:
        """Give a slot back, with what the answer says about speed."""
        slot = self._open.pop(slot.number)
        now = self._clock()
        if signal.outcome == "accepted":
            self._accepted(slot, now)
        elif signal.outcome == "timed_out":
            self._timed_out(slot, now)
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

    def _accepted(self, slot: Slot, now: float) -> None:
        self._too_long_in_a_row = 0
        if self._paused_until - now > self._max_pause_seconds:
            self._paused_until = now
        self._answered.append(slot.number)
        self._climb.answered(
            slot.number,
            open_then=slot.open_then,
            seconds=max(0.0, now - slot.sent_at - (self._worked() - slot.worked)),
            newest=self._newest.number,
            now=now,
        )

    def _timed_out(self, slot: Slot, now: float) -> None:
        # One that many later ones have overtaken was slow itself, and did not wait behind others.
        overtaken_by = sum(number > slot.number for number in self._answered)
        if overtaken_by <= slot.open_then / 2:
            self._climb.timed_out(
                slot.number, open_then=slot.open_then, newest=self._newest.number, now=now
            )

    def _refused(self, slot: Slot, signal: Signal, now: float) -> None:
        wait = signal.wait_seconds or 0.0
        self._refused_within = now - slot.sent_at
        self._rate.not_taken(slot.number)
        self._suspicion.refused(slot.number)
        if wait > self._max_pause_seconds:
            self._too_long_in_a_row += 1
            if self._too_long_in_a_row < BELIEVED_AFTER:
                return
        self._paused_until = max(self._paused_until, now + wait)
        if wait > MAX_SECONDS:
            return
        if wait:
            self._since_refusal = 0
        if self._about_rate(signal):
            self._refused_for_rate(slot, wait, often=False, now=now)
            return
        unexplained = self._climb.refused(
            slot.number,
            open_then=slot.open_then,
            still_open=sum(number < slot.number for number in self._open),
            seconds=now - slot.sent_at,
            newest=self._newest.number,
            wait_seconds=wait,
            now=now,
        )
        if unexplained and (self._climb.in_a_row >= IN_A_ROW or self._refuses_often(wait)):
            self._refused_for_rate(slot, wait, often=True, now=now)

    def _about_rate(self, signal: Signal) -> bool:
        if signal.names_concurrency or signal.remaining:
            return False
        if signal.remaining == 0 or (signal.wait_seconds or 0.0) > WAIT_SECONDS:
            return True
        return self._rate.is_known

    def _refuses_often(self, wait: float) -> bool:
        """Whether so many are refused that a wait was meant for all: one refusal can be chance."""
        return wait > 0 and self._suspicion.is_sure

    def _refused_for_rate(self, slot: Slot, wait: float, *, often: bool, now: float) -> None:
        if self._window.is_announced:
            self._window.refused(slot.number, now=now)
            return
        self._since_refusal = 0
        self._rate.refused(
            slot.number, newest=self._newest.number, wait_seconds=wait, often=often, now=now
        )

    def _delay(self) -> float:
        """Seconds until the next may be sent; infinite: not before an open one ends."""
        now = self._clock()
        next_at = max(
            self._paused_until,
            self._pace.next_at(self._gap_seconds),
            self._newest.sent_at + self._ramp_seconds(),
            self._window.next_at(now),
            self._rate.next_at(self._newest.sent_at),
            self._climb.next_at(open_now=self.in_flight),
        )
        return next_at - now

    def _ramp_seconds(self) -> float:
        """Between the requests after a pause, so that another refusal stops them in time."""
        sent = self._since_refusal
        if not 0 < sent < self._climb.height:
            return 0.0
        ramp = max(RAMP_SECONDS, min(RAMP_TIMES * self._refused_within, RAMP_MAX_SECONDS))
        return ramp / sent**2

    def _take(self) -> Slot:
        now = self._clock()
        open_then = self.in_flight + 1
        slot = Slot(
            number=self._newest.number + 1,
            sent_at=now,
            worked=self._worked(),
            open_then=open_then,
        )
        self._newest = self._open[slot.number] = slot
        self._climb.sent(open_now=self.in_flight, now=now)
        self._window.sent(now)
        self._rate.sent(now)
        self._since_refusal += 1
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
