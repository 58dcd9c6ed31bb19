"""How many requests may be open at once, found by opening more until one is refused."""

import math

START = 4  # requests at once, before anything is known
STEP_SECONDS = 0.05  # between steps up, until the first refusal; refusals come back fast
LATER_STEP_SECONDS = 0.2
QUIET_SECONDS = 2.0  # without a step after a fall; doubles with each fall from the same height
QUIET_MAX_SECONDS = 120.0
WAITS_OF_QUIET = 8  # times the wait that a refusal asks for: the dearer it is, the fewer are risked
FALL = 0.75  # refusals below this part of the height have another reason
IN_A_ROW = 4  # this many refusals of consecutive requests are no coincidence
FORGET_SECONDS = 60.0


class Climb:
    """The height, a number of open requests, rises until a refusal and falls to what was open then.

    If refusals go on however far it falls, they have nothing to do with how many are open. They
    are then ignored, unless many come in a row, and the climb goes on. Requests are identified by
    their numbers, which count up as they are sent.
    """

    def __init__(self, *, highest: int) -> None:
        self.height = min(START, highest)
        self._highest = highest
        self._top = self.height  # where the climb ended last
        self._next_at = -math.inf
        self._step_seconds = STEP_SECONDS
        self._quiet_seconds = QUIET_SECONDS
        self._ceiling: int | None = None
        self._fell_after = 0  # requests up to this number were sent before the last fall
        self._random = False  # whether refusals have nothing to do with the height
        self._refused_at = -math.inf
        self._last_refused = 0
        self._in_a_row = 0

    def next_at(self, *, open_now: int) -> float:
        """When one more may be sent; infinite: not before an open one ends."""
        if open_now < self.height:
            return -math.inf
        return self._next_at if self.height < self._highest else math.inf

    def sent(self, *, open_now: int, now: float) -> None:
        """Count one more request, which makes `open_now` open ones."""
        if open_now > self.height:
            self.height = self._top = open_now
            self._next_at = now + self._step_seconds

    def refused(
        self, number: int, *, admitted: int, newest: int, wait_seconds: float | None, now: float
    ) -> None:
        """Request `number` was refused with `admitted` others open; `newest` was sent last."""
        self._count(number, now)
        height = max(1, min(self.height, admitted))
        quiet = max(QUIET_SECONDS, WAITS_OF_QUIET * (wait_seconds or 0.0))
        if self._random:
            if self._in_a_row >= IN_A_ROW:
                self._random = False
                self._top = max(1, int(FALL * self.height))
                self._fall(self._top, newest=newest, quiet=quiet, now=now)
        elif number <= self._fell_after:
            # Sent before the fall: it does not cause a second one, but measures the first better.
            self.height = self._ceiling = height
            if height < FALL * self._top:
                self._top = height
        elif height < FALL * self._top:
            self._random = True
            self.height = self._top
            self._next_at = now + QUIET_SECONDS
        else:
            self._fall(height, newest=newest, quiet=quiet, now=now)

    def _count(self, number: int, now: float) -> None:
        self._random = self._random and now - self._refused_at < FORGET_SECONDS
        self._refused_at = now
        self._in_a_row = self._in_a_row + 1 if number == self._last_refused + 1 else 1
        self._last_refused = number

    def _fall(self, height: int, *, newest: int, quiet: float, now: float) -> None:
        again = self._ceiling is not None and self._ceiling <= height <= self._ceiling + 1
        self._quiet_seconds = min(2 * self._quiet_seconds, QUIET_MAX_SECONDS) if again else quiet
        self.height = self._ceiling = height
        self._fell_after = newest
        self._step_seconds = LATER_STEP_SECONDS
        self._next_at = now + self._quiet_seconds
