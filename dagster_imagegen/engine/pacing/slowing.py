"""Whether answers slow down the more requests are open, so that more of them bring nothing."""

import math
from typing import Literal

FEWEST = 3  # answers that say anything: two always lie on a line
ROUNDS = 2  # that are remembered, a round being as many answers as may be open
SURE = 2.0  # standard errors of the slope
SLOWED = 2.0  # times the part of a time that does not depend on load: a third is gained at most


class Slowing:
    """The line through the recent answers: seconds, by how many were open when each was sent.

    A server that works on all requests at once answers as fast with many open: the line is flat.
    One that queues takes as many times as long as there are requests before it: the line goes
    through the origin. Images that take 2 s and 60 s scatter around the line without tilting it,
    and make it uncertain, which the standard error of its slope shows.
    """

    def __init__(self) -> None:
        self._answers = 0
        self._weight = self._open = self._seconds = 0.0
        self._open_open = self._open_seconds = self._seconds_seconds = 0.0

    @property
    def mean_seconds(self) -> float:
        """What the recent answers took on average; 0 before the first."""
        return self._seconds / self._weight if self._weight else 0.0

    def add(self, open_then: int, seconds: float, *, height: int) -> None:
        """Remember an answer after `seconds` to a request sent with `open_then` open."""
        kept = 1 - 1 / (ROUNDS * max(FEWEST, height))
        self._answers += 1
        self._weight = kept * self._weight + 1
        self._open = kept * self._open + open_then
        self._seconds = kept * self._seconds + seconds
        self._open_open = kept * self._open_open + open_then**2
        self._open_seconds = kept * self._open_seconds + open_then * seconds
        self._seconds_seconds = kept * self._seconds_seconds + seconds**2

    def at(self, height: int) -> Literal["silent", "none", "perhaps", "sure"]:
        """Whether answers are slowed by load with `height` open; "silent": too few answers yet."""
        if self._answers < FEWEST:
            return "silent"
        spread = self._open_open - self._open**2 / self._weight
        together = self._open_seconds - self._open * self._seconds / self._weight
        if spread <= 1e-6 * self._open_open:
            return "perhaps"  # all were sent with as many open: nothing to compare
        slope = together / spread
        unloaded = max(0.0, (self._seconds - slope * self._open) / self._weight)
        if slope * height <= SLOWED * unloaded:
            return "none"
        total = self._seconds_seconds - self._seconds**2 / self._weight
        scatter = max(0.0, total - slope * together) / max(1.0, self._weight - 2)
        return "sure" if slope >= SURE * math.sqrt(scatter / spread) else "perhaps"
