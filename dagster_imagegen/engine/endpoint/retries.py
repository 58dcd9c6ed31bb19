"""Whether to send again what failed, and after how long."""

import random as random_module
from collections.abc import Mapping
from dataclasses import dataclass

from dagster_imagegen.engine.endpoint.failures import PERHAPS_BILLED, Failure, FailureKind

NOT_ACCEPTED = (FailureKind.RATE_LIMITED, FailureKind.UNREACHABLE, FailureKind.UNAVAILABLE)
PERHAPS_BILLED_ATTEMPTS = 3
BACKOFF_SECONDS = 0.5
BACKOFF_MAX_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """When to send again what failed, and after how long.

    What was not accepted is sent up to `max_attempts` times in all. What failed and may have been
    billed is counted apart, up to `PERHAPS_BILLED_ATTEMPTS`: that it was not accepted a few times
    is no reason to give up a request at its first server error. Of that, what nobody can tell
    about is not sent again unless `resend_unknown`: it may be paid for twice.
    """

    max_attempts: int = 5
    max_wait_seconds: float = 300.0
    resend_unknown: bool = False

    def wait_before_next(
        self,
        failure: Failure,
        *,
        failed: Mapping[FailureKind, int],
        random: random_module.Random,
        resends: int = 0,
    ) -> float | None:
        """Seconds to wait before this image is asked for again; None: leave it for this run.

        failed: how often it has failed in this run, by kind, this failure included.
        resends: how often it is sent again though nobody can tell what came of it, whatever the
            policy says: an earlier run left it in doubt, and this one is to settle it.
        """
        attempt = self._attempt(failure, failed)
        if attempt is None or (
            failure.kind is FailureKind.AMBIGUOUS
            and not self.resend_unknown
            and failed[failure.kind] > resends
        ):
            return None
        asked = failure.wait_seconds
        if asked is None:
            most = min(self.max_wait_seconds, BACKOFF_MAX_SECONDS, BACKOFF_SECONDS * 2**attempt)
            return random.uniform(0, most)
        if asked > self.max_wait_seconds:
            return None
        # A little more than asked, so that all who were told the same do not come back at once.
        return asked + random.uniform(0, min(1.0, asked / 10))

    def too_long(self, asked: float | None) -> str | None:
        """The sentence that names a wait that is asked for and too long to sit out, if it is."""
        if asked is None or asked <= self.max_wait_seconds:
            return None
        return (
            f"the endpoint asks to wait {asked:,.0f} s, which is longer than the most "
            f"to wait for ({self.max_wait_seconds:,.0f} s)"
        )

    def _attempt(self, failure: Failure, failed: Mapping[FailureKind, int]) -> int | None:
        """Which attempt of its sort this was, from 1; None: it was the last."""
        if not failure.retryable:
            return None
        if failure.kind in NOT_ACCEPTED:
            kinds, most = NOT_ACCEPTED, self.max_attempts
        elif failure.kind in PERHAPS_BILLED:
            kinds, most = PERHAPS_BILLED, min(self.max_attempts, PERHAPS_BILLED_ATTEMPTS)
        else:
            return None
        attempt = sum(failed.get(kind, 0) for kind in kinds)
        return attempt if attempt < most else None
