"""How many requests a second an endpoint takes, learnt from its refusals alone."""

import math
from dataclasses import dataclass, replace

FIRST_WAIT_SECONDS = 1.0  # where a refusal asks for less
LONGER = 4  # times as long is waited if the next one is refused, too
MINUTE_SECONDS = 61.0  # most limits are a minute's: no wait goes past its end, and some way back
LONG_SECONDS = 10.0  # waited: a window, not a bucket. Also the least before the rate is raised
RAISE = 0.02  # of the rate; doubles with each raise
RAISE_MAX = 0.25
FEW = 5  # taken in a cycle: fewer tell so little of the rate that it is raised in larger steps
RAISE_AFTER_FEW = 0.08
SHORT = 20  # taken in a cycle: so few, again and again, and the rate may not be the reason
SHORT_CYCLES = 5  # in a row before a trial without a rate; twice as many after each that fails
TRIAL = 20  # requests: no more than twice as many decide a trial
FAILS = 3  # refusals end a trial, and
FAILS_PART = 0.4  # of those sent: it is a rate. A full bucket refuses each second one


@dataclass
class _Cycle:
    began_at: float = 0.0
    seconds: float = 0.0
    taken: int = 0
    is_first: bool = False  # it began with a full bucket or an empty window


@dataclass(kw_only=True)
class _Before:
    """What was known before a cycle of which `in_doubt` requests may have been taken was closed."""

    in_doubt: int
    closed: _Cycle
    per_second: float
    refused_at: float
    wait_seconds: float
    is_window: bool
    short_cycles: int


@dataclass
class _Trial:
    """Sending without a rate; `per_second` is the one from before."""

    per_second: float
    sent: int = 0
    refused: int = 0
    is_long: bool = False  # it did not fail at once: refusals before it were no rate's

    def fails(self) -> bool:
        """Whether so many are refused that there is a rate after all."""
        if self.sent > 2 * TRIAL:  # What is long ago counts less.
            self.sent, self.refused, self.is_long = self.sent // 2, self.refused // 2, True
        return self.refused >= FAILS + FAILS_PART * self.sent


class Rate:
    """The rate falls to what was taken between two refusals, and rises again step by step.

    A cycle lasts from the first request after one refusal to the first that is let through after
    the next. What is taken in a cycle, divided by its length, is the rate, however the endpoint
    counts: in fixed windows, in sliding ones, or with a bucket. A refusal that follows soon after
    a window's end tells little: its cycle counts with the long one before it. One of which nothing
    was taken in the end is none: some are sent before the first refusal has come back.

    Refusals at random end cycles early, however slowly is sent, and so do others who share the
    limit. A trial tells one from the other: without a rate, a limit refuses about every second
    request at least.
    """

    def __init__(self) -> None:
        self._cycle = _Cycle(is_first=True)
        self._closed = _Cycle()
        self._before: _Before | None = None
        self._per_second = math.inf
        self._resume_at = -math.inf
        self._refused_at = -math.inf  # the first refusal since the last that was taken
        self._wait_seconds = 0.0
        self._is_window = False
        self._fell_after = 0  # requests up to this number were sent before the last refusal
        self._short_cycles = 0  # in a row
        self._trial_after = SHORT_CYCLES
        self._trial: _Trial | None = None
        self._raise = RAISE
        self._raise_at = math.inf

    @property
    def is_known(self) -> bool:
        """Whether refusals have shown a rate."""
        return self._per_second < math.inf

    def next_at(self, newest_sent_at: float) -> float:
        """When one more may be sent."""
        return max(self._resume_at, newest_sent_at + 1 / self._per_second)

    def sent(self, now: float) -> None:
        """Count one more request."""
        if not self._cycle.taken:
            begins_now = self._is_window or self._refused_at == -math.inf
            self._cycle.began_at = now if begins_now else self._refused_at
        self._cycle.taken += 1
        if self._trial is not None:
            self._trial.sent += 1
        while self._raise_at <= now:
            self._per_second *= 1 + self._raise
            self._raise = min(2 * self._raise, RAISE_MAX)
            self._raise_at += max(LONG_SECONDS, self._closed.seconds)

    def not_taken(self, number: int) -> None:
        """Request `number` was refused, for whatever reason."""
        if number <= self._fell_after:
            self._closed.taken -= 1
            if self._before is not None:
                self._before.in_doubt -= 1
            return
        self._cycle.taken -= 1
        # Only of those that were sent in it: earlier ones tell of the rate that was then.
        if self._trial is not None:
            self._trial.refused += 1
            if self._trial.fails():
                self._trial_after = SHORT_CYCLES if self._trial.is_long else 2 * self._trial_after
                self._per_second, self._trial = self._trial.per_second, None
                self._raise = RAISE_AFTER_FEW  # `sent` has kept the time of the next raise ahead

    def refused(
        self, number: int, *, newest: int, wait_seconds: float, often: bool, now: float
    ) -> None:
        """Request `number`, which is `not_taken`, was refused for the rate.

        `often`: many refusals have shown so, and not its own words, which tell of this one alone.
        """
        if self._trial is not None:
            return
        if number > self._fell_after:
            self._fell_after = newest
            if self._cycle.taken > 0 or self._refused_at == -math.inf:
                self._close(now)
                self._wait(now, wait_seconds)
            else:
                self._wait_longer(now, wait_seconds)
        elif self._before is not None and self._before.in_doubt <= 0:
            # All that was sent before the first refusal came back was refused, too.
            self._take_back(self._before)
            if self._closed.seconds > 0:
                self._wait_longer(now, wait_seconds)
        # After a trial no cycle is closed yet: a late refusal from before it tells nothing.
        enough = self.is_known or often or self._closed.taken >= FEW
        if enough and self._closed.seconds > 0:
            measured = self._closed.taken / self._closed.seconds
            self._per_second = max(measured, 1 / MINUTE_SECONDS)  # the least that brings news
        if wait_seconds > FIRST_WAIT_SECONDS:
            self._short_cycles = 0  # nothing at random asks for so long
        if self._short_cycles >= self._trial_after:
            self._begin_trial()

    def _close(self, now: float) -> None:
        """End the cycle, and the wait before it."""
        self._before = None
        if self.is_known:  # What comes first is believed: others may have used the rate up.
            self._before = _Before(
                in_doubt=self._cycle.taken,
                closed=replace(self._closed),
                per_second=self._per_second,
                refused_at=self._refused_at,
                wait_seconds=self._wait_seconds,
                is_window=self._is_window,
                short_cycles=self._short_cycles,
            )
        is_short = self.is_known and self._cycle.taken < SHORT
        self._short_cycles = self._short_cycles + 1 if is_short else 0
        # The first refusal that is put down to a rate follows one that was waited for.
        waited_before = self._refused_at == -math.inf
        if self._is_window and now - self._cycle.began_at < self._closed.seconds / 2:
            self._closed.taken += self._cycle.taken
        else:
            self._closed, self._is_window = self._cycle, False
        self._cycle = _Cycle()
        self._refused_at = now
        self._wait_seconds = FIRST_WAIT_SECONDS * (LONGER if waited_before else 1)

    def _take_back(self, before: _Before) -> None:
        """The cycle was none: what was sent in it belongs to the wait after the one before."""
        self._before = None
        self._closed, self._per_second = before.closed, before.per_second
        self._refused_at, self._wait_seconds = before.refused_at, before.wait_seconds
        self._is_window, self._short_cycles = before.is_window, before.short_cycles

    def _wait_longer(self, now: float, wait_seconds: float) -> None:
        self._wait_seconds = min(LONGER * self._wait_seconds, MINUTE_SECONDS)
        self._wait(now, wait_seconds)

    def _wait(self, now: float, wait_seconds: float) -> None:
        self._resume_at = now + self._wait_seconds
        minute_ends_at = self._closed.began_at + MINUTE_SECONDS
        if now < minute_ends_at < self._resume_at:
            self._resume_at = minute_ends_at
            self._wait_seconds = FIRST_WAIT_SECONDS / LONGER
        self._resume_at = max(self._resume_at, now + wait_seconds)
        self._is_window = self._is_window or self._resume_at - self._refused_at > LONG_SECONDS
        ends_at = self._resume_at if self._is_window or self._closed.is_first else self._refused_at
        self._closed.seconds = ends_at - self._closed.began_at
        self._raise = RAISE if self._closed.taken >= FEW else RAISE_AFTER_FEW
        self._raise_at = self._resume_at + max(LONG_SECONDS, self._closed.seconds)

    def _begin_trial(self) -> None:
        self._trial = _Trial(per_second=self._per_second)
        self._per_second = math.inf
        self._resume_at = self._refused_at = -math.inf
        self._short_cycles = 0
        self._cycle, self._closed, self._is_window = _Cycle(), _Cycle(), False
        self._before = None
