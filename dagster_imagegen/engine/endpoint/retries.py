"""Whether to send again what failed, and after how long."""

import random as random_module
from collections.abc import Mapping
from dataclasses import dataclass

from dagster_imagegen.engine.endpoint.failures import Failure
from dagster_imagegen.engine.endpoint.kinds import FailureKind

NOT_ACCEPTED_MAX = 50
"""How often one request is sent again that the endpoint does not accept. It costs nothing, and what
all requests have in common is the breaker's business; one that others overtake so often is refused
for itself."""
BACKOFF_SECONDS = 0.5
BACKOFF_MAX_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """When to send again what failed, and after how long.

    Attributes:
        max_attempts: How often a request is sent in all if it ends in server errors, which may
            have been billed. Refusals because of load, and what fails in an outage, do not count.
        max_wait_seconds: The longest wait that the endpoint may ask for.
        resend_unknown: Whether the user accepts that an image with an unknown outcome is paid for
            twice.
    """

    max_attempts: int = 3
    max_wait_seconds: float = 300.0
    resend_unknown: bool = False

    def wait_before_next(
        self,
        failure: Failure,
        *,
        failed: Mapping[FailureKind, int],
        random: random_module.Random,
        may_resend_unknown: bool = False,
    ) -> float | None:
        """Seconds to wait before the request is sent again; None: not in this run.

        Args:
            failure: The latest failure of the request.
            failed: How often it has failed in this run, by kind, `failure` included.
            random: Spreads the waits.
            may_resend_unknown: Whether it may be sent again after an unknown outcome.
        """
        attempt = self._attempt(failure, failed)
        if attempt is None or (failure.kind.rules.only_if_allowed and not may_resend_unknown):
            return None
        asked = failure.wait_seconds
        if asked is None:
            most = min(self.max_wait_seconds, BACKOFF_MAX_SECONDS, BACKOFF_SECONDS * 2**attempt)
            return random.uniform(0, most)
        if asked > self.max_wait_seconds:
            return None
        # A little more, so that requests with the same wait are not all sent at the same time.
        return asked + random.uniform(0, min(1.0, asked / 10))

    def too_long(self, asked: float | None) -> str | None:
        """The sentence about a wait that is longer than `max_wait_seconds`; None if it is not."""
        if asked is None or asked <= self.max_wait_seconds:
            return None
        return (
            f"the endpoint asks to wait {asked:,.0f} s; the longest wait allowed is "
            f"{self.max_wait_seconds:,.0f} s"
        )

    def _attempt(self, failure: Failure, failed: Mapping[FailureKind, int]) -> int | None:
        """How often its group of failures has occurred; None: it was the last attempt."""
        group = failure.kind.rules.retry
        if group is None or not failure.retryable:
            return None
        attempt = sum(count for kind, count in failed.items() if kind.rules.retry == group)
        most = self.max_attempts if group == "perhaps_billed" else NOT_ACCEPTED_MAX
        return attempt if attempt < most else None
