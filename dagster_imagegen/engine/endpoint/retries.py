"""Whether to send again what failed, and after how long."""

import random as random_module
from dataclasses import dataclass

from dagster_imagegen.engine.endpoint.failures import Failure, FailureKind

SERVER_ERROR_ATTEMPTS = 3
BACKOFF_SECONDS = 0.5
BACKOFF_MAX_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """When to send again what failed, and after how long.

    What was not accepted is sent up to `max_attempts` times in all; server errors, which may have
    been billed, at most `SERVER_ERROR_ATTEMPTS` times. What nobody can tell about is not sent
    again unless `resend_unknown`: it may be paid for twice.
    """

    max_attempts: int = 5
    max_wait_seconds: float = 300.0
    resend_unknown: bool = False

    def wait_before_next(
        self, failure: Failure, *, attempt: int, random: random_module.Random
    ) -> float | None:
        """Seconds to wait after the `attempt`th try (from 1), or None: leave it for this run."""
        if not failure.retryable or attempt >= self._attempts(failure.kind):
            return None
        asked = failure.wait_seconds
        if asked is None:
            most = min(self.max_wait_seconds, BACKOFF_MAX_SECONDS, BACKOFF_SECONDS * 2**attempt)
            return random.uniform(0, most)
        if asked > self.max_wait_seconds:
            return None
        # A little more than asked, so that all who were told the same do not come back at once.
        return asked + random.uniform(0, min(1.0, asked / 10))

    def too_long(self, failure: Failure) -> str | None:
        """The sentence that names a wait that is asked for and too long to sit out, if it is."""
        asked = failure.wait_seconds
        if asked is None or asked <= self.max_wait_seconds:
            return None
        return (
            f"the endpoint asks to wait {asked:,.0f} s, which is longer than the most "
            f"to wait for ({self.max_wait_seconds:,.0f} s)"
        )

    def _attempts(self, kind: FailureKind) -> int:
        if kind in (FailureKind.RATE_LIMITED, FailureKind.UNREACHABLE, FailureKind.UNAVAILABLE):
            return self.max_attempts
        perhaps_billed = kind is FailureKind.SERVER_ERROR or (
            kind is FailureKind.AMBIGUOUS and self.resend_unknown
        )
        return min(self.max_attempts, SERVER_ERROR_ATTEMPTS) if perhaps_billed else 1
