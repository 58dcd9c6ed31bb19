"""Rate and concurrency limits, and the headers that announce them."""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from dagster_imagegen.sandbox.errors import ApiError, Dialect


@dataclass(kw_only=True)
class Gate:
    """Admits requests up to a rate and a concurrency; refuses the others with 429.

    The rate is a sliding window: never more than `requests_per_minute` admitted in any
    `window_seconds` (60, unless a test shortens the minute). Refused requests do not count.
    Used from the server's loop only.
    """

    requests_per_minute: int | None
    max_concurrency: int | None
    window_seconds: float
    clock: Callable[[], float]
    _admitted: deque[float] = field(default_factory=deque[float], init=False)
    _in_flight: int = field(default=0, init=False)

    def enter(self) -> None:
        """Admit one request, which must `leave` later, or raise a 429."""
        self._forget_old()
        if self.max_concurrency is not None and self._in_flight >= self.max_concurrency:
            message = (
                "Too many concurrent requests: "
                f"limit {self.max_concurrency}, in flight {self._in_flight}."
            )
            raise ApiError(429, "rate_limit_exceeded", message, error_type="concurrent_requests")
        if self.requests_per_minute is not None and len(self._admitted) >= self.requests_per_minute:
            wait = self._admitted[0] + self.window_seconds - self.clock()
            raise ApiError(
                429,
                "rate_limit_exceeded",
                f"Rate limit reached for images per min: limit {self.requests_per_minute}, used "
                f"{len(self._admitted)}, requested 1. Please try again in {wait:.3f}s.",
                error_type="requests",
                headers={"retry-after": str(max(1, math.ceil(wait)))},
            )
        self._in_flight += 1
        if self.requests_per_minute is not None:
            self._admitted.append(self.clock())

    def leave(self) -> None:
        """One admitted request fewer is in flight."""
        self._in_flight -= 1

    def headers(self, dialect: Dialect) -> dict[str, str]:
        """What remains of the rate.

        The reset is the duration until all of it is back, as with OpenAI, or in the DigitalOcean
        dialect the Unix time at which the oldest request expires.
        """
        if self.requests_per_minute is None:
            return {}
        self._forget_old()
        now = self.clock()
        remaining = str(self.requests_per_minute - len(self._admitted))
        if dialect == "digitalocean":
            oldest = self._admitted[0] if self._admitted else now
            return {
                "ratelimit-limit": str(self.requests_per_minute),
                "ratelimit-remaining": remaining,
                "ratelimit-reset": str(math.ceil(oldest + self.window_seconds)),
            }
        newest = self._admitted[-1] if self._admitted else now - self.window_seconds
        return {
            "x-ratelimit-limit-requests": str(self.requests_per_minute),
            "x-ratelimit-remaining-requests": remaining,
            "x-ratelimit-reset-requests": duration(newest + self.window_seconds - now),
        }

    def _forget_old(self) -> None:
        horizon = self.clock() - self.window_seconds
        while self._admitted and self._admitted[0] <= horizon:
            self._admitted.popleft()


def duration(seconds: float) -> str:
    """`6m0s`, `1.5s`, `20ms`: how OpenAI writes the time until a limit resets."""
    milliseconds = max(0, round(seconds * 1000))
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    return (f"{minutes}m" if minutes else "") + f"{rest / 1000:g}s"
