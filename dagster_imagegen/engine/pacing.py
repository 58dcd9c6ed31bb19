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
EAGERNESS = 8.0  # times the even rate at which what is left is used
WINDOW_WAIT_SECONDS = 2.0  # who asks to wait longer means a rate, not how many are open
SOON_SECONDS = 1e-4  # is now; a clock cannot be relied on to reach a time to the last bit


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
            while (delay := self._delay()) > SOON_SECONDS:
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
                self._climb.refused(
                    slot,
                    admitted=self.in_flight,
                    sent=self._sent,
                    quiet=max(QUIET_SECONDS, 8 * (signal.wait_seconds or 0)),
                    now=now,
                )
        self._window.hear(slot, signal, now)
        self._changed.set()

    def _delay(self) -> float:
        """Seconds until the next request may go, as things stand; infinite until one ends."""
        now = self._clock()
        at = max(
            self._paused_until,
            self._last_sent_at + self._gap_seconds,
            self._window.next_at(now),
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
    """How many may be open at once: climbs until a refusal, and falls back to what was admitted.

    Refusals that go on however far it falls have nothing to do with how many are open. They are
    then passed over, one at a time, and the climb goes on.
    """

    def __init__(self, *, limit: int, max_limit: int) -> None:
        self.limit = limit
        self._max = max_limit
        self._next_at = -math.inf
        self._step_seconds = CLIMB_SECONDS
        self._quiet_seconds = QUIET_SECONDS
        self._top = limit  # where the climb ended last
        self._ceiling: int | None = None
        self._cut_after = 0  # requests up to this number were sent before the last cut
        self._random = False
        self._refused_at = -math.inf
        self._in_a_row = 0
        self._last_refused = 0

    def next_at(self, in_flight: int) -> float:
        """When the next request may go, with so many open; never, until one ends."""
        if in_flight < self.limit:
            return -math.inf
        return self._next_at if self.limit < self._max else math.inf

    def take(self, in_flight: int, now: float) -> None:
        """One more is open."""
        if in_flight >= self.limit:
            self.limit = self._top = in_flight + 1
            self._next_at = now + self._step_seconds

    def refused(
        self, slot: Slot, *, admitted: int, sent: int, quiet: float, now: float
    ) -> None:
        """One was refused while `admitted` others were open; `sent` is the newest's number."""
        self._random = self._random and now - self._refused_at < RANDOM_SECONDS
        self._refused_at = now
        self._in_a_row = self._in_a_row + 1 if slot.number == self._last_refused + 1 else 1
        self._last_refused = slot.number
        height = max(1, min(self.limit, admitted))
        if self._random:
            if self._in_a_row >= IN_A_ROW:
                self._random = False
                self._cut_after = sent
                self._top = max(1, int(FALL * self.limit))
                self._cut_to(self._top, quiet, now)
        elif slot.number <= self._cut_after:
            # The same episode: no second cut, but the first one measured better.
            self.limit = self._ceiling = height
            if height < FALL * self._top:
                self._top = height
        elif height < FALL * self._top:
            self._random = True
            self.limit = self._top
            self._next_at = now + QUIET_SECONDS
        else:
            self._cut_after = sent
            self._cut_to(height, quiet, now)

    def _cut_to(self, height: int, quiet: float, now: float) -> None:
        same = self._ceiling is not None and self._ceiling <= height <= self._ceiling + 1
        self._quiet_seconds = (
            min(2 * self._quiet_seconds, QUIET_MAX_SECONDS) if same else quiet
        )
        self.limit = self._ceiling = height
        self._step_seconds = LATER_CLIMB_SECONDS
        self._next_at = now + self._quiet_seconds


RANDOM_SECONDS = 60.0
FALL = 0.75
IN_A_ROW = 4


class _Window:
    """How many may be sent in a stretch of time, as far as the endpoint tells.

    While something is left, it is used at `EAGERNESS` times the rate that would just use it up in
    one window: ever more slowly, so that all who share it see each other coming. With nothing
    left, a request goes as an own one leaves the window, which holds for every kind of window; and
    now and then one more, to find out.
    """

    def __init__(self) -> None:
        self._seconds: float | None = None  # the longest reset announced, in whole seconds
        self._left: float | None = None
        self._used = 0
        self._seconds_heard = False
        self._heard_from = 0  # the request whose answer told
        self._sent_at: deque[float] = deque()  # within the window, and not refused
        self._credit = 1.0  # of a request, earned while something was left
        self._credit_at = -math.inf
        self._probe_at = math.inf
        self._probe_seconds = 0.0

    @property
    def _length(self) -> float:
        return self._seconds or WINDOW_SECONDS

    def is_meant_by(self, signal: Signal) -> bool:
        """Whether a refusal is about a rate."""
        if signal.names_concurrency:
            return False
        if signal.remaining is not None:
            return signal.remaining == 0
        return signal.wait_seconds is not None and signal.wait_seconds > WINDOW_WAIT_SECONDS

    def hear(self, slot: Slot, signal: Signal, now: float) -> None:
        """Take in what an answer says is left."""
        if signal.remaining is None or (signal.reset_seconds or 0) > WINDOW_MAX_SECONDS:
            return
        self._earn(now)
        if signal.reset_seconds is not None:
            self._seconds_heard = True
            self._seconds = max(self._seconds or 0, math.ceil(signal.reset_seconds))
        if slot.number < self._heard_from:
            return
        if self._left is None:
            self._credit_at = now
        self._heard_from = slot.number
        reserve = min(RESERVE_MAX, RESERVE_SHARE * (signal.limit or 0))
        self._left = max(0.0, signal.remaining - int(reserve))
        if self._left and signal.outcome == "accepted":
            self._probe_seconds = self._length / 4

    def refused(self, slot: Slot, signal: Signal, now: float) -> None:
        """A refusal about a rate: nothing is left, whoever used it."""
        with contextlib.suppress(ValueError):
            self._sent_at.remove(slot.sent_at)
        self._earn(now)
        self._left = 0.0
        self._credit = 0.0
        self._heard_from = max(self._heard_from, slot.number)
        if self._seconds is None and signal.wait_seconds is not None and signal.remaining is None:
            since = self._sent_at[0] if self._sent_at else slot.sent_at
            self._seconds = now + signal.wait_seconds - since
        self._probe_seconds = min(max(2 * self._probe_seconds, self._length / 4), 4 * self._length)
        self._probe_at = now + self._probe_seconds

    def next_at(self, now: float) -> float:
        """When the next request may go."""
        if self._left is None:
            return -math.inf
        self._earn(now)
        if self._left > 0:
            return now + (1 - self._credit) * self._length / (EAGERNESS * self._left)
        # What could have been used long ago, somebody else has taken.
        while self._sent_at and self._sent_at[0] <= now - self._length * (1 + SLACK):
            self._sent_at.popleft()
        own = self._sent_at[0] + self._length if self._sent_at else math.inf
        return min(own, self._probe_at)

    def take(self, now: float) -> None:
        """A request goes."""
        if self._left is not None:
            self._earn(now)
            own = bool(self._sent_at) and self._sent_at[0] + self._length <= now + SOON_SECONDS
            if not own and not self._left:
                self._probe_at = now + self._probe_seconds
            self._left = max(0.0, self._left - 1)
        self._credit = 0.0
        while self._sent_at and self._sent_at[0] + self._length <= now + SOON_SECONDS:
            self._sent_at.popleft()
            self._used += 1
            if self._used % GIVE == 0 and self._sent_at and self._left is not None and self._seconds_heard:
                self._sent_at.popleft()
        self._sent_at.append(now)

    def _earn(self, now: float) -> None:
        if self._left is not None:
            rate = EAGERNESS * self._left / self._length
            self._credit = min(1.0, self._credit + rate * (now - self._credit_at))
            self._credit_at = now


SLACK = 0.02
GIVE = 10
RESERVE_SHARE = 0.02
RESERVE_MAX = 3
