"""How fast to send: how many at once, how many a minute, and when nobody should send at all.

Three limits look alike from outside, and are told apart by what comes with the refusal:

- *How many at once.* The endpoint's number is found by climbing: one more at a time, quickly until
  the first refusal, which shows how many were admitted; after that one more now and then, less and
  less often while it is refused at the same height.
- *How many a minute.* Announced by headers, or by a refusal that asks to wait. Concurrency has
  nothing to do with it and stays. What is announced as left is approached ever more slowly, in
  proportion; with nothing left, a request goes when an own one leaves the window. Processes that
  share a key see the same number, and so come to equal shares without talking.
- *None*: a refusal at random. It costs no more than one step of the climb.
"""

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

START = 4  # at once, before anything is known
CLIMB_SECONDS = 0.05  # from one step to the next until the first refusal; it comes back faster
LATER_CLIMB_SECONDS = 0.2
QUIET_SECONDS = 2.0  # after a cut; doubles with each at the same height
QUIET_MAX_SECONDS = 120.0
WINDOW_SECONDS = 60.0  # where nobody says
WINDOW_MAX_SECONDS = 3600.0  # a limit for longer than that is not paced, but met
EAGERNESS = 16.0  # times the even rate at which what is left is used
WINDOW_WAIT_SECONDS = 2.0  # who asks to wait longer means a rate, not how many are open
RATE_GROWTH = 1.1  # per QUIET window of a learned rate


@dataclass(frozen=True, kw_only=True)
class Signal:
    """What an answer says about speed.

    `accepted` tells that the endpoint took the request on, whatever came of it; `refused` that it
    did not, as too many; `unclear` neither. `remaining`, `limit` and `reset_seconds` are the
    headers'; `names_concurrency` that the refusal is about how many are open.
    """

    outcome: Literal["accepted", "refused", "unclear"]
    wait_seconds: float | None = None
    remaining: int | None = None
    limit: int | None = None
    reset_seconds: float | None = None
    names_concurrency: bool = False


@dataclass(frozen=True, kw_only=True)
class Slot:
    """The right to send one request: `number` counts them, `sent_at` is the pacer's clock."""

    number: int
    sent_at: float


class Pacer:
    """Lets requests go, first come, first served. One for each process, endpoint and key.

    Every `acquire` is answered by one `release`. `clock` gives seconds, `sleep` waits for them.
    """

    def __init__(
        self,
        *,
        max_concurrency: int,
        requests_per_minute: float | None = None,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._max = max_concurrency
        self._gap_seconds = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._clock = clock
        self._sleep = sleep
        self._turn = asyncio.Lock()  # first come, first served
        self._changed = asyncio.Event()
        self._in_flight: dict[int, Slot] = {}
        self._sent = 0
        self._last_sent_at = -math.inf
        self._paused_until = -math.inf
        self._climb = _Climb(limit=min(START, max_concurrency), max_limit=max_concurrency)
        self._window = _Window()

    @property
    def limit(self) -> int:
        """How many may be open at once, for now."""
        return self._climb.limit

    @property
    def in_flight(self) -> int:
        """How many are open."""
        return len(self._in_flight)

    async def acquire(self) -> Slot:
        """Wait until a request may be sent. Cancelled, it leaves no trace."""
        async with self._turn:
            while (delay := self._delay()) > 0:
                await self._changed_within(delay)
            return self._take()

    def release(self, slot: Slot, signal: Signal) -> None:
        """Say how the request of a slot ended."""
        del self._in_flight[slot.number]
        now = self._clock()
        if signal.outcome == "refused":
            if signal.wait_seconds is not None:
                self._paused_until = max(self._paused_until, now + signal.wait_seconds)
            if self._window.is_meant_by(signal):
                self._window.refused(slot, signal, now)
            else:
                self._climb.refused(slot, admitted=self.in_flight, sent=self._sent, now=now)
        self._window.hear(slot, signal, now)
        self._changed.set()

    def _delay(self) -> float:
        """Seconds until the next request may go, as things stand; infinite until one ends."""
        now = self._clock()
        at = max(
            self._paused_until,
            self._last_sent_at + self._gap_seconds,
            self._window.next_at(self._last_sent_at),
            self._climb.next_at(self.in_flight),
        )
        return at - now

    def _take(self) -> Slot:
        now = self._clock()
        self._climb.take(self.in_flight, now)
        self._window.take(now)
        self._sent += 1
        self._last_sent_at = now
        slot = Slot(number=self._sent, sent_at=now)
        self._in_flight[slot.number] = slot
        return slot

    async def _changed_within(self, seconds: float) -> None:
        self._changed.clear()
        waits = [asyncio.ensure_future(self._changed.wait())]
        if seconds < math.inf:
            waits.append(asyncio.ensure_future(_waited(self._sleep, seconds)))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(*waits, return_exceptions=True)


async def _waited(sleep: Callable[[float], Awaitable[object]], seconds: float) -> bool:
    await sleep(seconds)
    return True


class _Climb:
    """How many may be open at once."""

    def __init__(self, *, limit: int, max_limit: int) -> None:
        self.limit = limit
        self._max = max_limit
        self._next_at = -math.inf
        self._step_seconds = CLIMB_SECONDS
        self._quiet_seconds = QUIET_SECONDS
        self._cut_after = 0  # requests up to this number were sent before the last cut
        self._ceiling: int | None = None

    def next_at(self, in_flight: int) -> float:
        if in_flight < self.limit:
            return -math.inf
        return self._next_at if self.limit < self._max else math.inf

    def take(self, in_flight: int, now: float) -> None:
        if in_flight >= self.limit:
            self.limit = in_flight + 1
            self._next_at = now + self._step_seconds

    def refused(self, slot: Slot, *, admitted: int, sent: int, now: float) -> None:
        height = max(1, min(self.limit, admitted))
        if slot.number <= self._cut_after:
            # The same episode: no second cut, but the first one measured better.
            self.limit = height
            return
        same = self._ceiling is not None and height <= self._ceiling + 1
        self._quiet_seconds = (
            min(2 * self._quiet_seconds, QUIET_MAX_SECONDS) if same else QUIET_SECONDS
        )
        self.limit = self._ceiling = height
        self._cut_after = sent
        self._step_seconds = LATER_CLIMB_SECONDS
        self._next_at = now + self._quiet_seconds


class _Window:
    """How many may be sent in a stretch of time, as far as the endpoint tells."""

    def __init__(self) -> None:
        self._seconds = 0.0  # the longest reset seen
        self._remaining: int | None = None
        self._heard_from = 0  # the request whose answer said so
        self._sent_at: deque[float] = deque()
        self._rate: float | None = None
        self._rate_since = math.inf

    def is_meant_by(self, signal: Signal) -> bool:
        """Whether a refusal is about a rate."""
        if signal.names_concurrency:
            return False
        if signal.remaining is not None:
            return signal.remaining == 0
        return signal.wait_seconds is not None and signal.wait_seconds > WINDOW_WAIT_SECONDS

    def hear(self, slot: Slot, signal: Signal, now: float) -> None:
        reset = signal.reset_seconds
        if signal.remaining is None or (reset or 0) > WINDOW_MAX_SECONDS:
            return
        if reset is not None:
            self._seconds = max(self._seconds, reset)
        if slot.number >= self._heard_from:
            self._heard_from = slot.number
            self._remaining = signal.remaining

    def refused(self, slot: Slot, signal: Signal, now: float) -> None:
        with contextlib.suppress(ValueError):
            self._sent_at.remove(slot.sent_at)

    def next_at(self, last_sent_at: float) -> float:
        if self._remaining is None:
            return -math.inf
        window = self._seconds or WINDOW_SECONDS
        if self._remaining >= 1:
            return last_sent_at + window / (EAGERNESS * self._remaining)
        return self._sent_at[0] + window if self._sent_at else last_sent_at + window / EAGERNESS

    def take(self, now: float) -> None:
        if self._remaining is not None:
            self._remaining = max(0, self._remaining - 1)
        window = self._seconds or WINDOW_SECONDS
        while self._sent_at and self._sent_at[0] <= now - window:
            self._sent_at.popleft()
        self._sent_at.append(now)
