"""Whether refusals still come at random, or because a rate is used up.

At random, each request is refused with the same chance, whatever was sent before it; the share of
refusals among the latest requests is taken for that chance. A rate that is used up refuses every
second request or more, from one moment on. So each refusal adds to the suspicion of a rate, and
each request that is taken lowers it, to no less than zero (Page's CUSUM test).
"""

import bisect
import math
from dataclasses import dataclass, replace

SENT = 20  # requests that chance is judged by at first,
REFUSED = 1  # and how many of them were refused
MEMORY = 100  # requests that chance is judged by later
USED_UP = 0.5  # of the requests, at least, is refused once a rate is used up
SURE = 11.0  # the most, as a natural logarithm: how many times likelier a rate is than chance
AT_FIRST = 4.0  # the same, before the first request: others may have used the rate up
LATE = 64  # refusals that are put in order: those of requests sent at once come in any


class Suspicion:
    """The suspicion that a rate is used up. Requests have numbers, which count up from 1."""

    def __init__(self) -> None:
        self._latest: list[int] = []  # the refused requests with the highest numbers, in order
        self._before = self._now = _Level()  # the suspicion before them, and after them

    @property
    def is_sure(self) -> bool:
        """Whether chance is ruled out."""
        return self._now.value >= SURE

    def refused(self, number: int) -> None:
        """Request `number` was refused. Those that are not reported as refused count as taken."""
        bisect.insort(self._latest, number)
        if len(self._latest) > LATE:
            self._before.refused(self._latest.pop(0))
        self._now = replace(self._before)
        for each in self._latest:
            self._now.refused(each)


@dataclass
class _Level:
    """The suspicion after some refusals, the last of which was that of request `last`."""

    last: int = 0
    value: float = AT_FIRST
    chance: float = REFUSED / SENT  # of a refusal at random, as it was when the suspicion arose
    sent: float = SENT
    refusals: float = REFUSED

    def refused(self, number: int) -> None:
        """After request `last`, the next that was refused is `number`, if it is not too late."""
        if number <= self.last:
            return
        taken = number - self.last - 1
        self.last = number
        self._count(taken, refused=0)
        self.value -= taken * math.log((1 - self.chance) / (1 - USED_UP))
        if self.value <= 0:
            self.value = 0.0
            self.chance = min(USED_UP, self.refusals / self.sent)
        self.value = min(SURE, self.value + math.log(USED_UP / self.chance))
        self._count(1, refused=1)

    def _count(self, sent: int, *, refused: int) -> None:
        self.sent += sent
        self.refusals += refused
        kept = min(1.0, (SENT + MEMORY) / self.sent)
        self.sent *= kept
        self.refusals = max(REFUSED, kept * self.refusals)
