"""The kinds of failure and what each one means: one row for each kind, and no other place says so.

`Failure` (failures.py) reads the status and the billing from it, `RetryPolicy`
(retries.py) the retries, and the circuit breaker of a pass (run/breaker.py) what they prove.
"""

import enum
from dataclasses import dataclass
from typing import Literal

from dagster_imagegen.engine.attempt import Billing, Status
from dagster_imagegen.engine.errors import (
    EndpointError,
    EndpointMisconfigured,
    EndpointUnreachable,
    OutOfCredit,
)


@dataclass(frozen=True, kw_only=True)
class RunEnd:
    """The error that ends a run whose requests all fail alike; its message ends with `advice`.

    `retry_can_help` is whether running the same step again can get another answer, also where none
    has ever been good.
    """

    error: type[EndpointError]
    advice: str
    retry_can_help: bool = False


@dataclass(frozen=True, kw_only=True)
class KindRules:
    """What one kind of failure means.

    Attributes:
        meaning: What happened, in one sentence.
        status: The status of the usage row.
        billing: Whether the request was billed. An answer that counts tokens or names a cost was
            billed, whatever its kind.
        unknown_if: When `billing` is "unknown" instead: the answer's status was 2xx, so work may
            have been done; or moderation blocked the finished image.
        retry: Whether the same run sends it again, and together with which failures its tries are
            counted: those that were "not_accepted" or those that are "perhaps_billed".
        only_if_allowed: Whether sending it again needs the caller's permission, because the image
            may then be paid for twice.
        slows_sending: Whether the endpoint refused to take the request on, so that less is sent.
        is_outage: Whether it shows that the endpoint is away or overwhelmed. If all requests fail
            so, the run waits.
        concerns_all: Whether the endpoint says that it concerns every request.
        if_all_fail: How the run ends if all requests fail so; None: the endpoint works, and it
            concerns this one request.
    """

    meaning: str
    status: Status
    billing: Billing
    unknown_if: Literal["answered_2xx", "blocked_finished_image"] | None = None
    retry: Literal["not_accepted", "perhaps_billed"] | None = None
    only_if_allowed: bool = False
    slows_sending: bool = False
    is_outage: bool = False
    concerns_all: bool = False
    if_all_fail: RunEnd | None = None


_AWAY = RunEnd(
    error=EndpointUnreachable,
    advice="The endpoint is away or overwhelmed; check base_url and the network, or run again "
    "later. What was paid for is saved",
    retry_can_help=True,
)
_UNREADABLE = RunEnd(
    error=EndpointMisconfigured,
    advice="No answer comes in time or can be read as an image, and each may have been billed, so "
    "no more are sent; check base_url, model and timeout_seconds",
)
_CANNOT_SAVE = RunEnd(
    error=EndpointMisconfigured,
    advice="Images are made and paid for and cannot be downloaded, so no more are sent; check that "
    "this machine may reach the address of the links",
)
_TOO_FAST = RunEnd(
    error=EndpointUnreachable,
    advice="The endpoint refuses all requests as too many; run again later, or ask for a higher "
    "limit. What was paid for is saved",
    retry_can_help=True,
)
_NOT_ACCEPTED_AT_ALL = RunEnd(
    error=EndpointMisconfigured,
    advice="Every request would be answered like this, so no more are sent; check base_url, "
    "api_key, model and the parameters",
)
_CANNOT_PAY = RunEnd(
    error=OutOfCredit,
    advice="What was paid for is saved; run again when the account has credit, and the rest is "
    "requested",
)
ALL_REFUSED = RunEnd(
    error=EndpointMisconfigured,
    advice="That is more likely the account than the prompts, so no more are sent; ask the "
    "provider, and request these prompts again with `redo: [refused]`",
)
"""For refusals that only their words tell; see `Failure.told_by_text`."""


@enum.unique
class FailureKind(enum.Enum):
    """What went wrong, by what has to be done about it. The value is the row of the table."""

    # fmt: off
    RATE_LIMITED = KindRules(
        meaning="Too many requests: not accepted.",
        status="rate_limited", billing="not_billed",
        retry="not_accepted", slows_sending=True,
        if_all_fail=_TOO_FAST,
    )
    UNAVAILABLE = KindRules(
        meaning="The server is overloaded and did not take the request on.",
        status="failed", billing="not_billed",
        retry="not_accepted", slows_sending=True,
        is_outage=True, if_all_fail=_AWAY,
    )
    UNREACHABLE = KindRules(
        meaning="The request was not delivered.",
        status="failed", billing="not_billed",
        retry="not_accepted", is_outage=True, if_all_fail=_AWAY,
    )
    SERVER_ERROR = KindRules(
        meaning="The server failed while it worked on the request.",
        status="failed", billing="unknown",
        retry="perhaps_billed", if_all_fail=_AWAY,
    )
    AMBIGUOUS = KindRules(
        meaning="The answer was lost or unreadable; the image may have been made and billed.",
        status="unknown", billing="unknown",
        retry="perhaps_billed", only_if_allowed=True, if_all_fail=_UNREADABLE,
    )
    REFUSED = KindRules(
        meaning="Moderation refused this prompt or its image, and would do so again.",
        status="refused", billing="not_billed", unknown_if="blocked_finished_image",
    )
    REJECTED = KindRules(
        meaning="Something in this one request is not accepted.",
        status="rejected", billing="not_billed", unknown_if="answered_2xx",
        if_all_fail=_NOT_ACCEPTED_AT_ALL,
    )
    MISCONFIGURED = KindRules(
        meaning="Key, address, model or parameter is not accepted: every request would fail.",
        status="rejected", billing="not_billed", unknown_if="answered_2xx",
        concerns_all=True, if_all_fail=_NOT_ACCEPTED_AT_ALL,
    )
    OUT_OF_CREDIT = KindRules(
        meaning="The account cannot pay: every request would fail until it can.",
        status="rejected", billing="not_billed",
        concerns_all=True, if_all_fail=_CANNOT_PAY,
    )
    SAVING_FAILED = KindRules(
        meaning="The image was made and paid for, and could not be downloaded.",
        status="failed", billing="billed", if_all_fail=_CANNOT_SAVE,
    )
    # fmt: on

    @property
    def rules(self) -> KindRules:
        """The row of the table."""
        return self.value

    def __repr__(self) -> str:
        return f"<FailureKind.{self.name}>"
