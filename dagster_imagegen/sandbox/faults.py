"""The ways in which an endpoint fails: scripted, or at random with a seed.

A *refusal* is decided before any work and bills nothing. A *lost answer* is one whose work was done
and billed: gateways that give up, connections that break, bodies that cannot be read. An *odd
answer* is a good image in a form that a client must cope with.
"""

import random
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from dagster_imagegen.sandbox.errors import ApiError


@dataclass(frozen=True, kw_only=True)
class _Status:
    """The answer of a fault that is an error status."""

    status: int
    code: str | None
    message: str
    error_type: str = "invalid_request_error"
    headers: Mapping[str, str] | None = None
    extra: Mapping[str, Any] | None = None
    billed: bool = False


def _no_credit(code: str, *, status: int = 429, error_type: str = "insufficient_quota") -> _Status:
    message = "You exceeded your current quota, please check your plan and billing details."
    return _Status(status=status, code=code, message=message, error_type=error_type)


def _server(status: int, message: str, *, billed: bool = False, **headers: str) -> _Status:
    return _Status(
        status=status,
        code=None,
        message=message,
        error_type="server_error",
        headers={name.replace("_", "-"): value for name, value in headers.items()},
        billed=billed,
    )


def _refused(code: str, *, status: int = 400, stage: str | None = None) -> _Status:
    details = {"moderation_stage": stage, "categories": ["violence"]}
    return _Status(
        status=status,
        code=code,
        message="Your request was rejected by the safety system.",
        error_type="image_generation_user_error",
        extra={"moderation_details": details} if stage else None,
    )


STATUS_FAULTS: dict[str, _Status] = {
    # not accepted
    "rate_limited": _Status(
        status=429,
        code="rate_limit_exceeded",
        message="Rate limit reached for images per min. Please try again in 1s.",
        error_type="requests",
        headers={"retry-after": "1"},
    ),
    "too_many_concurrent": _Status(
        status=429,
        code="rate_limit_exceeded",
        message="Too many concurrent requests.",
        error_type="concurrent_requests",
    ),
    "unavailable": _server(503, "The server is overloaded. Please try again.", retry_after="1"),
    # server errors
    "server_error": _server(500, "The server had an error while processing your request."),
    "image_generation_failed": _Status(
        status=500,
        code="image_generation_failed",
        message="Image generation failed.",
        error_type="image_generation_server_error",
    ),
    "bad_gateway": _server(502, "Bad gateway"),
    "unavailable_unannounced": _server(503, "Service unavailable"),
    # lost answers
    "request_timeout": _server(408, "Request timeout", billed=True),
    "gateway_timeout": _server(504, "Gateway timeout", billed=True),
    "origin_timeout": _server(524, "A timeout occurred", billed=True),
    # refused prompts
    "moderation_blocked": _refused("moderation_blocked", stage="input"),
    "moderation_blocked_output": _refused("moderation_blocked", stage="output"),
    "content_policy_violation": _refused("content_policy_violation"),
    "content_filter": _refused("content_filter"),
    "responsible_ai_policy_violation": _refused("ResponsibleAIPolicyViolation"),
    "legal_reasons": _refused("unavailable_for_legal_reasons", status=451),
    # rejected requests and misconfiguration
    "invalid_value": _Status(status=400, code="invalid_value", message="Invalid value."),
    "unknown_parameter": _Status(
        status=400, code="unknown_parameter", message="Unknown parameter."
    ),
    "invalid_api_key": _Status(
        status=401, code="invalid_api_key", message="Incorrect API key provided."
    ),
    "organization_not_verified": _Status(
        status=403, code=None, message="Your organization must be verified to use this model."
    ),
    "not_found": _Status(status=404, code=None, message="Invalid URL"),
    "model_not_found": _Status(
        status=404, code="model_not_found", message="The model does not exist."
    ),
    "unprocessable": _Status(status=422, code=None, message="Unprocessable entity"),
    "redirect": _Status(
        status=307,
        code=None,
        message="Temporary redirect",
        headers={"location": "http://127.0.0.1:9/v1/images/generations"},
    ),
    # out of credit
    "payment_required": _no_credit("payment_required", status=402),
    "insufficient_quota": _no_credit("insufficient_quota"),
    "credit_balance_exhausted": _no_credit("credit_balance_exhausted"),
    "organization_spend_limit_exceeded": _no_credit("organization_spend_limit_exceeded"),
    "project_spend_limit_exceeded": _no_credit("project_spend_limit_exceeded"),
    "organization_usage_limit_exceeded": _no_credit("organization_usage_limit_exceeded"),
    "billing_hard_limit_reached": _no_credit(
        "billing_hard_limit_reached", status=400, error_type="billing_limit_user_error"
    ),
}

# The work is done and billed; then the answer is spoilt.
LOST_ANSWERS = (
    "closed",  # the connection closes before the answer
    "reset",  # the connection is reset in mid body
    "truncated",  # the connection closes in mid body
    "hang",  # no answer until the client gives up
    "broken_json",
    "broken_base64",
    "no_image",  # an entry without b64_json and url
    "empty_data",
    "html",  # 200 and a page, as captive proxies answer
)
# A good image, in a form of its own. A client that asked for a stream is not given one.
ODD_ANSWERS = (
    "url",
    "url_relative",
    "url_data",
    "url_late",  # 404 for the first download
    "url_gone",  # 404 for every download
    "raw_image",  # the body is the image
    "other_format",  # the bytes are not of the declared format
    "zero_usage",
    "no_usage",
    "nulls",  # every optional field is null
)
# Only for requests that ask for a stream; the others pass them by.
STREAM_FAULTS = (
    "stream_cut",  # closes cleanly after the partial images
    "stream_error",  # an error event instead of the picture
    "stream_completed_first",  # the picture comes before the partial images
)
KINDS = (*STATUS_FAULTS, *LOST_ANSWERS, *ODD_ANSWERS, *STREAM_FAULTS)


@dataclass(frozen=True)
class Fault:
    """One way to fail: `Fault("rate_limited", headers={"retry-after-ms": "250"})`.

    kind: one of `KINDS`.
    prompt: only requests whose prompt contains this, whatever their order; without it, the next
        request in the order received.
    times: how many requests it befalls; None for all that match.
    headers, message: instead of the kind's own, for faults that answer with an error status.
    billed: instead of the kind's own; an error status that is billed was worked for first.
    """

    kind: str
    prompt: str | None = None
    times: int | None = 1
    headers: Mapping[str, str] | None = None
    message: str | None = None
    billed: bool | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"fault {self.kind!r} is not known; there are: {', '.join(KINDS)}")

    @property
    def is_billed(self) -> bool:
        """Whether the work is done, and paid for, before this befalls it."""
        if self.billed is not None:
            return self.billed
        status = STATUS_FAULTS.get(self.kind)
        return True if status is None else status.billed

    def error(self) -> ApiError | None:
        """The error to answer with, if this fault is an error status."""
        if self.kind not in STATUS_FAULTS:
            return None
        error = error_of(self.kind)
        if self.message is not None:
            error.message = self.message
        if self.headers is not None:
            error.headers = dict(self.headers)
        return error


def error_of(kind: str) -> ApiError:
    """The answer of a kind of fault that is an error status."""
    status = STATUS_FAULTS[kind]
    return ApiError(
        status.status,
        status.code,
        status.message,
        error_type=status.error_type,
        headers=status.headers,
        extra=status.extra,
    )


class FaultPlan:
    """Says which fault, if any, befalls the next request. Safe to extend from any thread.

    `script` is used up in the order of the requests, where None lets one pass unharmed; entries
    with a `prompt` wait for theirs. Requests that the script leaves alone meet each kind in `rates`
    with its probability, the same ones for the same `seed` and order of arrival.
    """

    def __init__(
        self,
        script: Iterable[Fault | str | None] = (),
        *,
        rates: Mapping[str, float] | None = None,
        seed: int = 0,
    ) -> None:
        self._lock = threading.Lock()
        self._in_order: list[Fault | None] = []
        self._by_prompt: list[Fault] = []
        self._rates = {Fault(kind): rate for kind, rate in (rates or {}).items()}
        if not 0 <= sum(self._rates.values()) <= 1:
            raise ValueError(f"fault rates {rates} do not add up to between 0 and 1")
        self._random = random.Random(seed)  # noqa: S311  # repeatable faults, not secrets
        self.add(script)

    def add(self, script: Iterable[Fault | str | None]) -> None:
        """Put more at the end of the script."""
        faults = [Fault(entry) if isinstance(entry, str) else entry for entry in script]
        with self._lock:
            self._in_order += [entry for entry in faults if entry is None or entry.prompt is None]
            self._by_prompt += [entry for entry in faults if entry and entry.prompt is not None]

    def take(self, *, prompt: str, stream: bool) -> Fault | None:
        """The fault for a request that has just arrived."""
        with self._lock:
            draw = self._random.random()  # always one draw a request: scripts shift nothing
            for queue in (self._by_prompt, self._in_order):
                scripted, fault = _take_first(queue, prompt=prompt, stream=stream)
                if scripted:
                    return fault
            for fault, rate in self._rates.items():
                if draw < rate:
                    return fault if _applies(fault, prompt=prompt, stream=stream) else None
                draw -= rate
            return None


def _take_first(
    queue: "list[Fault] | list[Fault | None]", *, prompt: str, stream: bool
) -> tuple[bool, Fault | None]:
    for position, fault in enumerate(queue):
        if fault is None:
            del queue[position]
            return True, None
        if _applies(fault, prompt=prompt, stream=stream):
            if fault.times is not None and fault.times <= 1:
                del queue[position]
            elif fault.times is not None:
                queue[position] = replace(fault, times=fault.times - 1)
            return True, fault
    return False, None


def _applies(fault: Fault, *, prompt: str, stream: bool) -> bool:
    if fault.kind in STREAM_FAULTS and not stream:
        return False
    return fault.prompt is None or fault.prompt in prompt
