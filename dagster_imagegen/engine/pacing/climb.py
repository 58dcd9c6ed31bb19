"""How many requests may be open at once, found by opening more until that brings no more."""

import math

from dagster_imagegen.engine.pacing.slowing import Slowing

START = 4  # requests at once, before anything is known
BLIND = 15  # the most before the first answers; fewer if the timeout is short
BLIND_IMAGE_SECONDS = 40.0  # of an image then: made one by one, all of them come in time
TIMES = 4  # as many as were answered unslowed may be open in any case
TIMES_MOST = 8  # as many may be open if a server that queues would still answer all in time,
IN_TIME = 0.5  # which is within this part of the timeout
UNSURE_TIMES = 1.5  # while it is not clear that they were not slowed
SPREAD_SECONDS = 0.3  # over the height is between steps up; refusals, back within 0.1 s, stop them
LATE_SECONDS = 0.02  # at most is made up for by the steps that follow
HICCUP_SECONDS = 0.5  # answers are slowed for longer than that before the height falls
QUIET_SECONDS = 2.0  # without a step after a fall; doubles with each fall from the same height
QUIET_MAX_SECONDS = 120.0
WAITS_OF_QUIET = 8  # times the wait that a refusal asks for: the dearer it is, the fewer are risked
FALL = 0.75  # refusals below this part of the height have another reason
FORGET_REFUSAL_SECONDS = 60.0
IN_A_ROW = 5  # refusals of consecutive requests after a fall: the fall did not help


class Climb:
    """The height, a number of open requests, rises while more open requests bring more answers.

    It multiplies with each round of answers, by less if the timeout is short: a server that queues
    must still answer all in time. When a request is refused, the height falls to what the server
    held. When one times out behind others, it falls to half. When answers slow down for more than a
    hiccup, it falls to half, or to twice what was answered unslowed if that is less. From then on
    it rises in steps of one, two, four, each after the one before it was answered.

    If refusals go on however far it falls, they have nothing to do with how many are open, and the
    climb goes on.

    Measured: without a limit, 256 are open after 1.5 s with images of 0.5 s. The third answer, the
    first that tells anything, is there after 0.65 s; the steps up take the rest. One GPU with
    images of 0.4 s and a timeout of 3 s makes 40 of 40. With a timeout of 600 s at most 15 requests
    are open at one GPU, 32 at four, 56 at eight.

    Requests are identified by their numbers, which count up as they are sent.

    Args:
        highest: The most that may ever be open.
        timeout_seconds: How long a request may wait for its answer.
    """

    def __init__(self, *, highest: int, timeout_seconds: float) -> None:
        self.height = min(START, highest)
        self._highest = highest
        self._timeout_seconds = timeout_seconds
        self._slowing = Slowing()
        # The most that may be open before further answers.
        self._most: float = max(START, min(timeout_seconds / BLIND_IMAGE_SECONDS, BLIND))
        self._step = 1  # above what was answered, after a fall
        self._answered = 0  # the most open ones of which one was answered
        self._unslowed = 0  # the same, as long as answers were not slowed
        self._next_at = -math.inf
        self._slowed_since = math.inf
        self._quiet_seconds = QUIET_SECONDS
        self._fell_to = -1
        self._ceiling: int | None = None
        self._fell_after = 0  # requests up to this number were sent before the last fall
        self._random = False  # whether refusals have nothing to do with the height
        self._refused_at = -math.inf
        self._last_newest = 0  # the newest request when the last fall or refusal came
        self.in_a_row = 0

    def next_at(self, *, open_now: int) -> float:
        """When one more may be sent; infinite: not before an open one ends."""
        if open_now < self.height:
            return -math.inf
        return self._next_at if self.height < min(self._highest, self._most) else math.inf

    def sent(self, *, open_now: int, now: float) -> None:
        """Count one more request, which makes `open_now` open ones."""
        if open_now > self.height:
            self.height = open_now
            # From when it was due: a busy process is late for each step.
            due = max(self._next_at, now - LATE_SECONDS)
            self._next_at = min(due, now) + SPREAD_SECONDS / open_now

    def answered(
        self, number: int, *, open_then: int, seconds: float, newest: int, now: float
    ) -> None:
        """Request `number`, sent with `open_then` open, was answered after `seconds`."""
        if number > self._fell_after:
            self._answered = max(self._answered, open_then)
        if min(self.height, self._answered) >= self._highest:
            return  # there is nothing to decide
        self._slowing.add(open_then, seconds, height=self.height)
        slowed = self._slowing.at(self.height)
        if number <= self._fell_after:
            return
        if slowed == "silent":
            return
        if self._ceiling is None:
            if slowed == "sure":
                self._slowed(newest=newest, now=now)
                return
            self._slowed_since = math.inf
            times = UNSURE_TIMES
            if slowed == "none":
                self._unslowed = max(self._unslowed, open_then)
                times = self._times()
            next_at = now + SPREAD_SECONDS / self.height
            had_to_wait = self.height >= self._most
            self._next_at = next_at if had_to_wait else min(self._next_at, next_at)
            self._most = max(self._most, times * open_then)
        elif open_then > self._ceiling:
            if slowed == "sure":
                self._fall(self._ceiling, newest=newest, quiet=QUIET_SECONDS, now=now)
            elif open_then >= self._most:
                self._ceiling = open_then
                self._step *= 2
                self._most = open_then + self._step

    def _slowed(self, *, newest: int, now: float) -> None:
        """Answers have slowed down: open nothing more, and fall if it is no hiccup."""
        self._slowed_since = min(self._slowed_since, now)
        if now - self._slowed_since < HICCUP_SECONDS:
            self._most = min(self._most, self.height)
            return
        height = min((self.height + 1) // 2, max(START, TIMES // 2 * self._unslowed))
        self._fall(height, newest=newest, quiet=QUIET_SECONDS, now=now)

    def _times(self) -> float:
        """How many times what was answered unslowed may be open.

        A server that makes no more images at once than those takes as many times as long for them.
        """
        seconds = max(self._slowing.mean_seconds, 1e-3)
        return max(TIMES, min(IN_TIME * self._timeout_seconds / seconds, TIMES_MOST))

    def timed_out(self, number: int, *, open_then: int, newest: int, now: float) -> None:
        """Request `number`, sent with `open_then` open, waited behind others until it timed out."""
        if number > self._fell_after:
            height = max(1, min(self.height, open_then) // 2)
            self._fall(height, newest=newest, quiet=QUIET_SECONDS, now=now)

    def refused(
        self,
        number: int,
        *,
        open_then: int,
        still_open: int,
        seconds: float,
        newest: int,
        wait_seconds: float | None,
        now: float,
    ) -> bool:
        """Request `number`, sent with `open_then` open, was refused after `seconds`.

        Of those sent before it, `still_open` have not been answered by now. `newest` is the last
        request sent. Returns whether it had nothing to do with how many were open.
        """
        self._random = self._random and now - self._refused_at < FORGET_REFUSAL_SECONDS
        self._refused_at = now
        if seconds < self._slowing.mean_seconds / 4:
            # Those that were answered meanwhile had left the server before it refused this one. Not
            # so if requests spend much of their time on the way.
            open_then = min(open_then, still_open + 1)
        height = max(1, min(self.height, open_then - 1))
        if number <= self._fell_after:
            # Sent before the fall: it does not cause a second one, but measures the first better.
            if not self._random:
                self.height = self._ceiling = self._fell_to = height
                self._most = height + 1
            return False
        if number > self._last_newest:
            self.in_a_row = self.in_a_row + 1 if number == self._last_newest + 1 else 1
            self._last_newest = newest
        alone = open_then == 1
        if self.in_a_row >= IN_A_ROW or alone or self._random or height < FALL * self._answered:
            self._random = True
            self._take_back_the_fall()
        else:
            quiet = max(QUIET_SECONDS, WAITS_OF_QUIET * (wait_seconds or 0.0))
            self._fall(height, newest=newest, quiet=quiet, now=now)
        return self._random

    def _take_back_the_fall(self) -> None:
        self.height = max(self.height, self._answered)
        self._ceiling = None
        self._most = TIMES * self.height

    def _fall(self, height: int, *, newest: int, quiet: float, now: float) -> None:
        again = self._fell_to <= height <= self._fell_to + 1
        self._quiet_seconds = min(2 * self._quiet_seconds, QUIET_MAX_SECONDS) if again else quiet
        self.height = self._ceiling = self._fell_to = height
        self._fell_after = newest
        self._slowed_since = math.inf
        self._step = 1
        self._most = height + 1
        self._next_at = now + self._quiet_seconds
