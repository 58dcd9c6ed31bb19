"""Whether refusals still come at random, or because a rate is used up.

At random, each request is refused with the same chance, whatever was sent before it; the share of
refusals among the latest requests is taken for that chance. A rate that is used up refuses every
second request or more, from one moment on. So each refusal adds to the suspicion of a rate, and
each request that is taken lowers it, to no less than zero (Page's CUSUM test).
"""

import math

SENT = 20  # requests that chance is judged by at first,
REFUSED = 1  # and how many of them were refused
MEMORY = 100  # requests that chance is judged by later
USED_UP = 0.5  # of the requests, at least, is refused once a rate is used up
SURE = 11.0  # the most, as a natural logarithm: how many times likelier a rate is than chance
AT_FIRST = 4.0  # the same, before the first request: others may have used the rate up


class Suspicion:
    """The suspicion that a rate is used up. Requests have numbers, which count up from 1."""

    def __init__(self) -> None:
        self._sent = float(SENT)
        self._refused = float(REFUSED)
        self._last = 0  # the newest request that was refused
        self._chance = REFUSED / SENT  # of a refusal at random, as it was when the suspicion arose
        self._level = AT_FIRST

    @property
    def is_sure(self) -> bool:
        """Whether chance is ruled out."""
        return self._level >= SURE

    def refused(self, number: int) -> None:
        """Request `number` was refused. Those between it and the last refused one were taken."""
        if number > self._last:
            self._suspect(taken=number - self._last - 1)
            self._last = number
        # The refusals of requests sent at once come in any order: a late one says nothing new.
        self._count(1, refused=1)

    def _suspect(self, *, taken: int) -> None:
        """So many requests were taken, then one was refused."""
        self._count(taken, refused=0)
        self._level -= taken * math.log((1 - self._chance) / (1 - USED_UP))
        if self._level <= 0:
            self._level = 0.0
            self._chance = min(USED_UP, self._refused / self._sent)
        self._level = min(SURE, self._level + math.log(USED_UP / self._chance))

    def _count(self, sent: int, *, refused: int) -> None:
        self._sent += sent
        self._refused += refused
        kept = min(1.0, (SENT + MEMORY) / self._sent)
        self._sent *= kept
        self._refused = max(REFUSED, kept * self._refused)
