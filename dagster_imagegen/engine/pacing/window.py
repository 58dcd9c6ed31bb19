"""How many requests may be sent in a stretch of time, as far as the endpoint tells."""

import math

DEFAULT_SECONDS = 60.0  # where nobody says how long the stretch is
MAX_SECONDS = 3600.0  # a limit for longer than that is not paced, but met
WAIT_SECONDS = 2.0  # who asks to wait longer means a rate, and not how many are open
ROUND_SECONDS = 5
SOON_SECONDS = 1e-4  # is now: a clock cannot be relied on to reach a time to the last bit

RESERVE = 0.03  # of the limit, left for those whose requests are on their way
ALWAYS = 1 / 16  # of the limit's rate goes in any case, so that something is heard
ALWAYS_FULL = 1 / 8  # the same, while nothing is left: refused, it is told when something will be
AT_ONCE = 0.5  # of the limit's rate, at most, for what has just become free: bursts come back
GENTLY = 1.5  # times the time to the reset, before it is known how the endpoint counts
CLOSING = 10.0  # times in a window, what has just become free would be used up
LASTING = 5.0  # times as much again, when it has been left for a while
A_WHILE = 1 / 4  # of the window
EAGERNESS = 2.0  # times the own rate, where nothing is told but refusals


class Window:
    """What is left of a rate limit that is shared with others, and when to use it.

    Servers count in fixed windows, sliding ones or buckets, and by a "reset" they mean when all is
    back, when the first request is, or when the last one will be. So:

    What is left is used at a rate that follows from what is announced, and from nothing else: not
    from what one had before. Everybody sees the same and so takes the same share, whoever began
    first. The longer something is left, the faster; a fixed window is used evenly until its reset.

    With nothing left, one more is sent now and then. It is refused, and told when to come again,
    as everybody is: from then on they keep in step, also with whoever joins them.
    """

    def __init__(self) -> None:
        self._length: float | None = None  # the longest reset that was announced
        self._limit = 0.0
        self._left: float | None = None  # None: nothing was announced
        self._heard_from = 0  # the newest request whose answer told
        self._reset_at = 0.0
        self._first_reset_at: float | None = None
        self._counting: str | None = None  # "rolling", "fixed"; None: not yet known
        self._lasting = 0.0  # requests a second, for what has been left for a while
        self._credit = 1.0  # of a request; one is sent for a whole one
        self._at = 0.0
        self._began_at: float | None = None
        self._sent = 0  # and not refused, since it began
        self._resumed_at: float | None = None  # after the wait that the last refusal asked for
        self._untold_rate = math.inf

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
        self._pass(now)
        if reset_seconds is not None:
            self._length = max(self._length or 0.0, math.ceil(reset_seconds))
        if number < self._heard_from:
            return  # what a slow answer says was true when its request came in
        self._heard_from = number
        self._limit = max(self._limit, limit or remaining, 1)
        self._left = float(remaining)
        if reset_seconds is not None:
            self._watch_reset(now + reset_seconds)

    def refused(self, number: int, *, told: bool, wait_seconds: float | None, now: float) -> None:
        """Request `number` was refused: nothing is left. `told`: the headers say how long."""
        self._pass(now)
        self._heard_from = max(self._heard_from, number)
        self._sent -= 1
        self._resumed_at = now + (wait_seconds or 0.0)
        self._credit = 0.0
        if self._left is not None or told:
            self._left = 0.0
            return
        began_at = now if self._began_at is None else self._began_at
        if self._length is None and wait_seconds is not None:
            # Others may have begun before; and nobody counts in stretches of 57 seconds.
            length = self._resumed_at - began_at
            self._length = math.ceil(length / ROUND_SECONDS) * ROUND_SECONDS
        if self._untold_rate == math.inf:
            self._untold_rate = EAGERNESS * max(1, self._sent) / self.seconds

    def next_at(self, now: float) -> float:
        """When one more may be sent."""
        self._pass(now)
        if self._left is None and self._untold_rate == math.inf:
            return -math.inf
        return now + (1 - self._credit) / self._rate(now)

    def sent(self, now: float) -> None:
        """One more was sent."""
        self._pass(now)
        if self._began_at is None:
            self._began_at = now
        self._sent += 1
        self._credit = 0.0
        if self._left is not None:
            self._left = max(0.0, self._left - 1)

    def _watch_reset(self, reset_at: float) -> None:
        self._reset_at = reset_at
        if self._first_reset_at is None:
            self._first_reset_at = reset_at
        # That of a fixed window stands still, and then jumps by a whole window, and all is back.
        moved = (reset_at - self._first_reset_at) / self.seconds
        if 0.1 < moved % 1 < 0.9:
            self._counting = "rolling"
        elif moved >= 0.9 and self._counting is None and (self._left or 0.0) > self._limit / 2:
            self._counting = "fixed"

    def _rate(self, now: float) -> float:
        """Requests a second, more than 0."""
        if self._left is None:
            return self._untold_rate
        whole = self._limit / self.seconds
        if self._left < 1:
            return ALWAYS_FULL * whole
        if self._counting is None and self._reset_at > now:
            over = max(GENTLY * (self._reset_at - now), self.seconds / CLOSING)
            return max(self._left / over, ALWAYS * whole)
        at_once = min(CLOSING * self._spare(now) / self.seconds, AT_ONCE * whole)
        return max(ALWAYS * whole + at_once + self._lasting, ALWAYS_FULL * whole)

    def _spare(self, now: float) -> float:
        """How many more are left than should be, by now."""
        left = self._left or 0.0
        if self._counting == "fixed":
            return left - self._limit * (self._reset_at - now) / self.seconds
        return left - max(1.0, RESERVE * self._limit)

    def _pass(self, now: float) -> None:
        """Account for the time since the last call."""
        passed, self._at = now - self._at, now
        if self._left is None:
            if self._untold_rate < math.inf:
                self._credit = self._earned(passed, now)
            quiet_since = self._resumed_at if self._resumed_at is not None else now
            if now - quiet_since > 2 * self.seconds:
                self._untold_rate = math.inf
            return
        if self._counting == "fixed":
            while self._reset_at <= now:
                self._reset_at += self.seconds
                self._left = self._limit
        self._credit = self._earned(passed, now)
        if self._counting is not None:
            lasting = LASTING * CLOSING * self._spare(now) / self.seconds
            lasting = min(max(0.0, lasting), self._limit / self.seconds)
            part = 1 - math.exp(-passed / (A_WHILE * self.seconds))
            self._lasting += part * (lasting - self._lasting)

    def _earned(self, seconds: float, now: float) -> float:
        return min(1.0, self._credit + self._rate(now) * seconds)
