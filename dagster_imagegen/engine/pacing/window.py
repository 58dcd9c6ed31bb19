"""How many requests may be sent in a stretch of time, as far as the endpoint tells."""

import contextlib
import math
from collections import deque

DEFAULT_SECONDS = 60.0  # where nobody says how long the stretch is
MAX_SECONDS = 3600.0  # a limit for longer than that is not paced, but met
WAIT_SECONDS = 2.0  # who asks to wait longer means a rate, and not how many are open
EAGERNESS = 2.0  # times the rate that would just use up what is left until the reset
LAST_PART = 1 / 8  # of the stretch, within which what is left is used where the reset does not tell
RESERVE = 0.02  # of the limit, left for those whose requests are on their way
STALE_PART = 0.02  # of the stretch, after which an own place has been taken by somebody else
ROUND_SECONDS = 5
GIVEN_UP = 6  # one own place in so many is left to whoever wants it
SOON_SECONDS = 1e-4  # is now: a clock cannot be relied on to reach a time to the last bit


class Window:
    """What is left of a rate limit that is shared with others, and when to use it.

    Servers count in fixed windows, sliding ones or buckets, and by a "reset" they mean when all is
    back, when the first request is, or when the last one will be. So:

    While something is left, it is used at a rate in proportion to it: ever more slowly. Everybody
    sees the same number and so takes the same share. With nothing left, a request goes when an own
    one leaves the window, which is right in all of them; and now and then one more, to find out.
    """

    def __init__(self) -> None:
        self._length: float | None = None  # the longest reset that was announced
        self._left: float | None = None  # None: nothing is known, and nothing held back
        self._heard_from = 0  # the newest request whose answer told
        self._reset_at = 0.0
        self._first_reset_at: float | None = None
        self._rolling = False  # the reset moves along: no fixed window
        self._sent_at: deque[float] = deque()  # within the window, and not refused
        self._places_used = 0
        self._credit = 1.0  # of a request; one is sent for a whole one
        self._credit_at = 0.0
        self._probe_at = math.inf
        self._probe_seconds = 0.0

    @property
    def seconds(self) -> float:
        """How long the stretch of time is taken to be."""
        return self._length or DEFAULT_SECONDS

    @staticmethod
    def is_meant(*, remaining: int | None, wait_seconds: float | None) -> bool:
        """Whether a refusal that says this is about a rate."""
        if remaining is not None:
            return remaining == 0
        return wait_seconds is not None and wait_seconds > WAIT_SECONDS

    def hear(
        self,
        number: int,
        *,
        remaining: int,
        limit: int | None,
        reset_seconds: float | None,
        now: float,
    ) -> None:
        """The answer to request `number` says what is left."""
        if reset_seconds is not None and reset_seconds > MAX_SECONDS:
            return
        self._earn(now)
        if reset_seconds is not None:
            self._length = max(self._length or 0.0, math.ceil(reset_seconds))
        if number < self._heard_from:
            return  # what a slow answer says was true when its request came in
        self._heard_from = number
        self._left = max(0.0, remaining - int(RESERVE * (limit or 0)))
        if reset_seconds is not None:
            self._watch_reset(now + reset_seconds)

    def refused(
        self, number: int, *, sent_at: float, told: bool, wait_seconds: float | None, now: float
    ) -> None:
        """Request `number` was refused: nothing is left. `told`: the headers say how long."""
        self._earn(now)
        with contextlib.suppress(ValueError):
            self._sent_at.remove(sent_at)
        if self._length is None and not told and wait_seconds is not None:
            since = self._sent_at[0] if self._sent_at else sent_at
            # Others may have begun before; and nobody counts in stretches of 57 seconds.
            self._length = math.ceil((now + wait_seconds - since) / ROUND_SECONDS) * ROUND_SECONDS
        self._left = self._credit = 0.0
        self._heard_from = max(self._heard_from, number)
        self._probe_seconds = max(2 * self._probe_seconds, self.seconds / 4)
        self._probe_seconds = min(self._probe_seconds, 4 * self.seconds)
        self._probe_at = now + self._probe_seconds

    def next_at(self, now: float) -> float:
        """When one more may be sent."""
        if self._left is None:
            return -math.inf
        self._earn(now)
        if self._left > 0:
            return now + (1 - self._credit) / self._rate(now)
        while self._sent_at and self._sent_at[0] + self.seconds * (1 + STALE_PART) < now:
            self._sent_at.popleft()
        own = self._sent_at[0] + self.seconds if self._sent_at else math.inf
        return min(own, self._probe_at)

    def sent(self, now: float) -> None:
        """One more was sent."""
        if self._left is not None:
            self._earn(now)
            if not self._left and not self._own_is_due(now):
                self._probe_at = now + self._probe_seconds
            self._left = max(0.0, self._left - 1)
        self._credit = 0.0
        while self._own_is_due(now):
            self._sent_at.popleft()
            self._places_used += 1
            # Told what is left, everybody can take up what one gives up: so shares become equal.
            if self._rolling and self._sent_at and self._places_used % GIVEN_UP == 0:
                self._sent_at.popleft()
        self._sent_at.append(now)

    def _own_is_due(self, now: float) -> bool:
        return bool(self._sent_at) and self._sent_at[0] + self.seconds <= now + SOON_SECONDS

    def _watch_reset(self, reset_at: float) -> None:
        self._reset_at = reset_at
        if self._first_reset_at is None:
            self._first_reset_at = reset_at
        # That of a fixed window stands still, and then jumps by a whole window.
        moved = (reset_at - self._first_reset_at) / self.seconds % 1
        self._rolling = self._rolling or 0.1 < moved < 0.9

    def _rate(self, now: float) -> float:
        horizon = self.seconds * LAST_PART
        if not self._rolling:
            horizon = max(horizon, (self._reset_at - now) / EAGERNESS)
        return (self._left or 0.0) / horizon

    def _earn(self, now: float) -> None:
        if self._left is not None:
            earned = self._rate(now) * (now - self._credit_at)
            self._credit = min(1.0, self._credit + earned)
        self._credit_at = now
