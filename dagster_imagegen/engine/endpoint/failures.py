"""Which kind of failure an answer is: its code decides, then its type, then its HTTP status.

What each kind means is in one table, kinds.py. A new error code goes into `_BY_CODE` here.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from dagster_imagegen.engine.attempt import Billing, Status, TokenUsage
from dagster_imagegen.engine.endpoint.error_body import ErrorBody, read_error
from dagster_imagegen.engine.endpoint.kinds import FailureKind
from dagster_imagegen.engine.endpoint.waits import server_wait
from dagster_imagegen.engine.endpoint.wire import message_of
from dagster_imagegen.engine.errors import EndpointError

CONNECTION_LOST = "connection_lost"
"""Our code for a connection that broke after the request was sent."""
OUTAGE_STATUSES = frozenset({502, 503, 504, 520, 521, 522, 523, 524, 525, 526, 527, 529, 530})
"""Of gateways that do not reach the server behind them, and of servers that are overwhelmed."""
_CODE = re.compile(r"[A-Za-z0-9_.:-]{1,64}")


@dataclass(frozen=True, kw_only=True)
class AnswerHead:
    """What an answer says before its body. `headers` are looked up in lower case.

    `now` is the Unix time at which it came.
    """

    http_status: int
    headers: Mapping[str, str]
    now: float

    @property
    def is_success(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.http_status < 300


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One request that brought no image; `kind.rules` says what that means.

    `message` is one printable line. `http_status` is None where no answer came. `code` is the
    endpoint's (`rate_limit_exceeded`), or ours (`connection_lost`) where it names none.
    `wait_seconds` is what the endpoint asks for; `retryable` is False where it says not to try
    again. `moderation_stage` is what was blocked, "input" or "output". `tokens` and
    `reported_cost_usd` are what the answer names although it is an error.
    """

    kind: FailureKind
    message: str
    http_status: int | None = None
    code: str | None = None
    wait_seconds: float | None = None
    retryable: bool = True
    moderation_stage: str | None = None
    request_id: str | None = None
    tokens: TokenUsage | None = None
    reported_cost_usd: Decimal | None = None

    @property
    def status(self) -> Status:
        """The status of the usage row."""
        return self.kind.rules.status

    @property
    def billing(self) -> Billing:
        """Whether the request was billed, as far as anybody can tell."""
        if self.tokens is not None or self.reported_cost_usd is not None:
            return "billed"
        match self.kind.rules.unknown_if:
            case "answered_2xx" if 200 <= (self.http_status or 0) < 300:
                return "unknown"
            case "blocked_finished_image" if self.moderation_stage == "output":
                return "unknown"
            case _:
                return self.kind.rules.billing

    @property
    def admission(self) -> Literal["accepted", "refused", "unclear"]:
        """Whether the endpoint took the request on: what the pacer has to know."""
        if self.kind.rules.slows_sending:
            return "refused"
        return "unclear" if self.http_status is None else "accepted"

    @property
    def names_concurrency(self) -> bool:
        """Whether it objects to how many requests are open at once, not to how many a minute."""
        return "concurren" in f"{self.code} {self.message}".lower()

    @property
    def code_without_text(self) -> str | None:
        """The code, unless it is text: some servers repeat the prompt there."""
        return self.code if self.code and _CODE.fullmatch(self.code) else None

    @property
    def summary(self) -> str:
        """`401 (invalid_api_key): Incorrect API key provided`, without a full stop at its end."""
        code = f" ({self.code})" if self.code else ""
        status = "no answer" if self.http_status is None else str(self.http_status)
        return f"{status}{code}: {self.message.rstrip('.')}"

    @property
    def summary_without_message(self) -> str:
        """`401 (invalid_api_key)`, for records that must not repeat what a prompt says."""
        status = "no answer" if self.http_status is None else str(self.http_status)
        code = self.code_without_text
        return f"{status} ({code})" if code else status

    @property
    def is_outage(self) -> bool:
        """Whether it shows that the endpoint, or what stands before it, is away or overwhelmed."""
        if self.kind.rules.is_outage or self.http_status in OUTAGE_STATUSES:
            return True
        return self.kind is FailureKind.AMBIGUOUS and self.code == CONNECTION_LOST

    def error_that_ends_run(
        self, place: str, evidence: str, *, retry_can_help: bool, with_message: bool = True
    ) -> EndpointError:
        """The error to end the run with, where all requests fail like this one.

        Args:
            place: Endpoint and model, with which the message begins.
            evidence: The sentence that says why it concerns all.
            retry_can_help: Whether running the same step again can bring another answer.
            with_message: Whether the endpoint's message, which can repeat a prompt, is in it.

        Raises `ValueError` for a kind that concerns one request alone.
        """
        end = self.kind.rules.if_all_fail
        if end is None:
            raise ValueError(f"{self.kind} ends no run")
        summary = self.summary if with_message else self.summary_without_message
        return end.error(
            f"{place}: {summary}. {evidence}. {end.advice}",
            http_status=self.http_status,
            code=self.code if with_message else self.code_without_text,
            retry_can_help=retry_can_help,
        )


# Compared in lower case without punctuation: contentFilter is content_filter.
_BY_CODE: dict[str, FailureKind] = {
    code.replace("_", ""): kind
    for kind, codes in {
        FailureKind.REFUSED: (
            "moderation_blocked content_policy_violation content_filter "
            "responsible_ai_policy_violation"
        ),
        FailureKind.OUT_OF_CREDIT: (
            "insufficient_quota credit_balance_exhausted organization_spend_limit_exceeded "
            "project_spend_limit_exceeded organization_usage_limit_exceeded "
            "billing_hard_limit_reached billing_not_active insufficient_credits "
            "insufficient_balance payment_required"
        ),
        FailureKind.MISCONFIGURED: (
            "invalid_api_key incorrect_api_key authentication_error unauthorized forbidden "
            "permission_denied permission_error account_deactivated model_not_found invalid_model "
            "deployment_not_found unknown_parameter unsupported_parameter unknown_url"
        ),
        FailureKind.RATE_LIMITED: (
            "rate_limit_exceeded rate_limit_error too_many_requests concurrent_requests "
            "requests_limit_exceeded slow_down"
        ),
        FailureKind.SERVER_ERROR: (
            "image_generation_server_error image_generation_failed server_error "
            "internal_error internal_server_error"
        ),
        FailureKind.AMBIGUOUS: "request_timeout gateway_timeout timeout",
    }.items()
    for code in codes.split()
}
# Types of events in a stream, whose status is 200. With another status, the status says more.
_BY_TYPE_IN_STREAM: dict[str, FailureKind] = {
    "invalidrequesterror": FailureKind.REJECTED,
    "imagegenerationusererror": FailureKind.REJECTED,
    "overloadederror": FailureKind.UNAVAILABLE,
}
_BY_STATUS: dict[int, FailureKind] = {
    **dict.fromkeys((408, 504, 524), FailureKind.AMBIGUOUS),
    **dict.fromkeys((401, 403, 404, 405, 406, 407, 410, 415, 421, 422), FailureKind.MISCONFIGURED),
    **dict.fromkeys((426, 431, 501, 505, 511), FailureKind.MISCONFIGURED),
    # Not taken on: a conflict, too early, an origin that was not reached, overloaded.
    **dict.fromkeys((409, 425, 521, 523, 525, 526, 529), FailureKind.UNAVAILABLE),
    402: FailureKind.OUT_OF_CREDIT,
    429: FailureKind.RATE_LIMITED,
    451: FailureKind.REFUSED,
}


def classify(body: bytes | bytearray, head: AnswerHead) -> Failure:
    """The failure that an answer with an error status is."""
    return failure_of(read_error(body), head)


def failure_of(
    error: ErrorBody, head: AnswerHead, *, otherwise: FailureKind = FailureKind.SERVER_ERROR
) -> Failure:
    """The failure that an error is; of kind `otherwise` where neither it nor its status tells."""
    kind, code = _kind(error, head.http_status, otherwise)
    names_wait = any(head.headers.get(name) for name in ("retry-after", "retry-after-ms"))
    if kind is FailureKind.SERVER_ERROR and head.http_status == 503 and names_wait:
        kind = FailureKind.UNAVAILABLE
    wait = server_wait(head.headers, error.message, now=head.now)
    if 300 <= head.http_status < 400:
        error = ErrorBody(message=_redirect_message(head.headers.get("location")))
    return Failure(
        kind=kind,
        message=error.message or f"the endpoint answered {head.http_status} without a message",
        http_status=head.http_status,
        code=code,
        wait_seconds=wait,
        retryable=head.headers.get("x-should-retry", "").strip().lower() != "false",
        moderation_stage=error.moderation_stage,
        request_id=error.request_id,
        tokens=error.tokens,
        reported_cost_usd=error.reported_cost_usd,
    )


def _kind(
    error: ErrorBody, http_status: int, otherwise: FailureKind
) -> tuple[FailureKind, str | None]:
    """The kind, and the code that decided it, or the first code."""
    by_status = _kind_of_status(http_status)
    for code in error.codes:
        kind = _BY_CODE.get(_plain(code))
        if kind is FailureKind.SERVER_ERROR and by_status is FailureKind.AMBIGUOUS:
            kind = None  # a timeout that calls itself a server error is still a timeout
        if kind is not None:
            return kind, code
    found = by_status
    for code in error.codes:
        status = int(code) if re.fullmatch("[45][0-9]{2}", code) else 0
        found = found or _BY_TYPE_IN_STREAM.get(_plain(code)) or _kind_of_status(status)
    return found or otherwise, next(iter(error.codes), None)


def _kind_of_status(http_status: int) -> FailureKind | None:
    """The kind by status alone; None where the status is not an error."""
    if http_status in _BY_STATUS:
        return _BY_STATUS[http_status]
    if 300 <= http_status < 400:
        return FailureKind.MISCONFIGURED
    if 400 <= http_status < 500:
        return FailureKind.REJECTED
    return FailureKind.SERVER_ERROR if 500 <= http_status < 600 else None


def _plain(code: str) -> str:
    return re.sub("[^a-z0-9]", "", code.lower())


def _redirect_message(location: str | None) -> str:
    target = re.match(r"(?:https?:)?//(?:[^/?#@]*@)?([^/?#]+)", location or "", re.IGNORECASE)
    where = message_of(target.group(1), limit=100) if target else "another path of the same host"
    return f"the endpoint redirects to {where}; set base_url to the final address"
