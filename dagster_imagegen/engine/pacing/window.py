"""How many requests may be sent in a stretch of time, as far as the endpoint tells."""

import math
from typing import Literal

DEFAULT_SECONDS = 60.0  # where nobody says how long the stretch is
MAX_SECONDS = 300.0  # a limit for longer than that is not paced, but met
BEYOND = 1.1  # times that is still listened to, once paced: clocks differ, and servers round
WAIT_SECONDS = 2.0  # who asks to wait longer means a rate, and not how many are open
ROUND_SECONDS = 5
USUAL_SECONDS = (1, 2, 3, 5, 10, 15, 20, 30, 60, 120, 180, MAX_SECONDS)  # and not 57
SOON_SECONDS = 1e-4  # is now: a clock cannot be relied on to reach a time to the last bit

RESERVE = 0.03  # of the limit, left for those whose requests are on their way
ALWAYS = 1 / 16  # of the limit's rate, sent beside what is free, so that something is heard
LEAST = 1 / 8  # of the limit's rate, also with nothing left: refused, it is told when to come again
AT_ONCE = 0.5  # of the limit's rate, at most, for what has just become free: bursts come back
GENTLY = 1.5  # times the time to the reset, before it is known how the endpoint counts
CLOSING = 10.0  # times in a window, what has just become free would be used up
LASTING = 5.0  # times as much again, when it has been left for a while
A_WHILE = 1 / 4  # of the window
EAGERNESS = 2.0  # times the own rate, where only refusals tell: never refused, it would be lost


class Window:
    """What is left of a rate limit that is shared with others, and when to use it.

    Servers count in fixed windows, sliding ones or buckets, and by a "reset" they mean when all is
    back, when the first request is, or when the last one will be. So:

    What is left is used at a rate that follows from what is announced, and from nothing else: not
    from what one had before. Everybody sees the same and so takes the same share, whoever began
    first. The longer something is left, the faster; a fixed window is used evenly until its reset.

    With nothing left, one more is sent now and then. It is refused, and told when to come again,
    as everybody is: from then on they keep in step, also with whoever joins them.

    Measured with 240 a minute, four that share it, and starts within seconds: all is used and
    about 3% are refused. Shares are alike (the smallest 0.8 of the largest) while answers take
    seconds; with a quarter of a minute it can be 0.6. Of a small limit (60), or with eight that
    share, up to a tenth is refused; of one for seconds (40 in 10), a sixth.
    """

    def __init__(self) -> None:
        self._length: float | None = None  # at least the longest reset that was announced
        self._limit = 0.0
        self._left: float | None = None  # None: answers do not say
        self._heard_from = 0  # the newest request whose answer told
        self._reset_at = 0.0
        self._first_reset_at: float | None = None
        self._counting: Literal["rolling", "fixed"] | None = None  # None: not yet known
        self._lasting = 0.0  # requests a second, for what has been left for a while
        self._credit = 1.0  # of a request; one is sent for a whole one
        self._at = 0.0
        self._began_at: float | None = None
        self._sent = 0  # and not refused, since then
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
        """The answer to request `number`, which was taken on, says what is left."""
        most = MAX_SECONDS if self._left is None else BEYOND * MAX_SECONDS
        if reset_seconds is None or reset_seconds > most:
            self._left = None  # of a stretch that nobody knows, or nobody would pace
            return
        self._pass(now)
        self._length = max(self._length or 0.0, _usual(reset_seconds))
        if number < self._heard_from:
            return  # what a slow answer says was true when its request came in
        self._heard_from = number
        self._limit = max(self._limit, limit or remaining, 1)
        self._left = float(remaining)
        self._watch_reset(now + reset_seconds)

    def refused(self, number: int, *, wait_seconds: float | None, now: float) -> None:
        """Request `number` was refused: nothing is left."""
        self._pass(now)
        self._heard_from = max(self._heard_from, number)
        self._sent -= 1
        self._resumed_at = now + (wait_seconds or 0.0)
        self._credit = 0.0
        if self._left is not None:
            self._left = 0.0
            return
        if wait_seconds is not None and wait_seconds > MAX_SECONDS:
            return  # of a limit that is met; the wait itself is kept by everybody
        began_at = now if self._began_at is None else self._began_at
        if self._length is None and wait_seconds is not None:
            # Others may have begun before.
            length = self._resumed_at - began_at
            self._length = math.ceil(length / ROUND_SECONDS) * ROUND_SECONDS
        if self._untold_rate == math.inf:
            self._untold_rate = EAGERNESS * max(1, self._sent) / max(self.seconds, now - began_at)

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
            return LEAST * whole
        if self._counting is None and self._reset_at > now:
            over = max(GENTLY * (self._reset_at - now), self.seconds / CLOSING)
            return max(self._left / over, ALWAYS * whole)
        at_once = min(CLOSING * self._spare(now) / self.seconds, AT_ONCE * whole)
        return max(ALWAYS * whole + at_once + self._lasting, LEAST * whole)

    def _spare(self, now: float) -> float:
        """How many more are left than should be, by now."""
        left = self._left or 0.0
        if self._counting == "fixed":
            return left - self._limit * (self._reset_at - now) / self.seconds
        return left - RESERVE * self._limit

    def _pass(self, now: float) -> None:
        """Account for the time since the last call."""
        passed, self._at = now - self._at, now
        if self._left is None:
            if self._untold_rate < math.inf:
                self._credit = self._earned(passed, now)
            quiet_since = self._resumed_at if self._resumed_at is not None else now
            if now - quiet_since > 2 * self.seconds:
                self._untold_rate = math.inf
                self._began_at = None
                self._sent = 0
                self._resumed_at = None
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


def _usual(seconds: float) -> float:
    """The shortest stretch that servers count in and that so many seconds fit into.

    The first answer comes when some of the stretch has passed: slow ones would make it too short.
    """
    return next((usual for usual in USUAL_SECONDS if seconds <= usual), MAX_SECONDS)
