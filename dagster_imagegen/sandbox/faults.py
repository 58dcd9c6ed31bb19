"""The ways in which an endpoint fails: scripted, or at random with a seed.

Most error statuses are decided before any work and bill nothing. A *lost answer* is one whose work
was done and billed: gateways that give up, connections that break, bodies that cannot be read. An
*odd answer* is a good image in a form that a client must cope with.
"""

import random
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from dagster_imagegen.sandbox.errors import ApiError


def _no_credit(code: str, status: int = 429, error_type: str = "insufficient_quota") -> ApiError:
    message = "You exceeded your current quota, please check your plan and billing details."
    return ApiError(status, code, message, error_type)


def _server(status: int, message: str, *, billed: bool = False) -> ApiError:
    return ApiError(status, None, message, "server_error", billed=billed)


def _refused(code: str, *, status: int = 400, stage: str | None = None) -> ApiError:
    message = "Your request was rejected by the safety system."
    details = {"moderation_stage": stage, "categories": ["violence"]}
    extra = {"moderation_details": details} if stage else {}
    return ApiError(status, code, message, "image_generation_user_error", extra=extra)


def _verbatim(status: int, body: Mapping[str, Any], *, billed: bool = False) -> ApiError:
    return ApiError(status, None, "", body=body, billed=billed)


_BLOCKED = "The request was not completed."
STATUS_FAULTS = {
    # not accepted
    "rate_limited": ApiError(
        429,
        "rate_limit_exceeded",
        "Rate limit reached for images per min. Please try again in 1s.",
        "requests",
        headers={"retry-after": "1"},
    ),
    "too_many_concurrent": ApiError(
        429, "rate_limit_exceeded", "Too many concurrent requests.", "concurrent_requests"
    ),
    "unavailable": replace(
        _server(503, "The server is overloaded. Please try again."), headers={"retry-after": "1"}
    ),
    "unavailable_unannounced": _server(503, "Service unavailable"),
    # server errors
    "server_error": _server(500, "The server had an error while processing your request."),
    "image_generation_failed": ApiError(
        500, "image_generation_failed", "Image generation failed.", "image_generation_server_error"
    ),
    "bad_gateway": _server(502, "Bad gateway"),
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
    # refused prompts, told otherwise than by a code: OpenAI, fal, OpenRouter, proxies, xAI
    "refused_by_type": ApiError(400, None, _BLOCKED, "image_generation_user_error"),
    "refused_by_detail": _verbatim(
        422,
        {
            "detail": [
                {"loc": ["body", "prompt"], "msg": _BLOCKED, "type": "content_policy_violation"}
            ]
        },
    ),
    "refused_by_reasons": _verbatim(
        403, {"error": {"code": 403, "message": _BLOCKED, "metadata": {"reasons": ["violence"]}}}
    ),
    "refused_by_text": ApiError(
        400, None, "Your request was rejected as a result of our safety system."
    ),
    "refused_in_200": _verbatim(200, {"data": [], "flagged": True}, billed=True),
    "refused_with_bill": _verbatim(  # a fee for the refusal, not the price of an image
        400,
        {
            "code": "imagine:content-moderated",
            "error": _BLOCKED,
            "usage": {"cost_in_usd_ticks": 50_000_000},
        },
    ),
    # rejected requests and misconfiguration
    "invalid_value": ApiError(400, "invalid_value", "Invalid value."),
    "unknown_parameter": ApiError(400, "unknown_parameter", "Unknown parameter."),
    "invalid_api_key": ApiError(401, "invalid_api_key", "Incorrect API key provided."),
    "organization_not_verified": ApiError(
        403, None, "Your organization must be verified to use this model."
    ),
    "not_found": ApiError(404, None, "Invalid URL"),
    "model_not_found": ApiError(404, "model_not_found", "The model does not exist."),
    "unprocessable": ApiError(422, None, "Unprocessable entity"),
    "redirect": ApiError(
        307,
        None,
        "Temporary redirect",
        headers={"location": "http://127.0.0.1:9/v1/images/generations"},
    ),
    # out of credit
    "payment_required": _no_credit("payment_required", 402),
    "insufficient_quota": _no_credit("insufficient_quota"),
    "credit_balance_exhausted": _no_credit("credit_balance_exhausted"),
    "organization_spend_limit_exceeded": _no_credit("organization_spend_limit_exceeded"),
    "project_spend_limit_exceeded": _no_credit("project_spend_limit_exceeded"),
    "organization_usage_limit_exceeded": _no_credit("organization_usage_limit_exceeded"),
    "billing_hard_limit_reached": _no_credit(
        "billing_hard_limit_reached", 400, "billing_limit_user_error"
    ),
    "no_credit_by_text": ApiError(400, None, "Your credit balance is too low."),
    "no_credit_as_429": _verbatim(
        429,
        {
            "error": {
                "code": 429,
                "status": "RESOURCE_EXHAUSTED",
                "message": "Your prepayment credits are depleted.",
            }
        },
    ),
}

# The work is done and billed; then the answer is lost.
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
# A good image in an unusual form; even a client that asked for a stream gets a plain answer.
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
# Only for requests that ask for a stream; others are left alone.
STREAM_FAULTS = (
    "stream_cut",  # closes cleanly after the partial images
    "stream_error",  # an error event instead of the picture
    "stream_completed_first",  # the picture comes before the partial images
)
KINDS = (*STATUS_FAULTS, *LOST_ANSWERS, *ODD_ANSWERS, *STREAM_FAULTS)


@dataclass(frozen=True)
class Fault:
    """One way to fail: `Fault("rate_limited", headers={"retry-after-ms": "250"})`.

    Args:
        kind: One of `KINDS`.
        prompt: Only requests whose prompt contains this text, in any order; by default the next
            request received.
        times: How many requests fail; None for all that match.
        headers: Sent instead of the kind's own, where the answer is an error status.
        message: Likewise.
        billed: Instead of the kind's own; an error status that is billed comes after the work.

    Raises:
        ValueError: The kind is unknown.
    """

    kind: str
    prompt: str | None = None
    times: int | None = 1
    headers: Mapping[str, str] | None = None
    message: str | None = None
    billed: bool | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown fault {self.kind!r}; known faults: {', '.join(KINDS)}")

    @property
    def is_billed(self) -> bool:
        """Whether the work is done, and paid for, before it fails."""
        if self.billed is not None:
            return self.billed
        return self.kind not in STATUS_FAULTS or STATUS_FAULTS[self.kind].billed

    def error(self) -> ApiError | None:
        """The error to answer with, if this fault is an error status."""
        if self.kind not in STATUS_FAULTS:
            return None
        error = replace(error_of(self.kind), billed=self.is_billed)
        error.message = error.message if self.message is None else self.message
        error.headers = error.headers if self.headers is None else self.headers
        return error


def error_of(kind: str) -> ApiError:
    """A new error of a kind in `STATUS_FAULTS`, to raise or to change."""
    return replace(STATUS_FAULTS[kind])


class FaultPlan:
    """Decides which fault, if any, the next request meets. Safe to extend from any thread.

    Args:
        script: Used up in the order of the requests; None lets one succeed. An entry with a
            `prompt` waits for a request that matches.
        rates: The probability of each kind, for requests that the script leaves alone.
        seed: The same seed and order of requests give the same faults.

    Raises:
        ValueError: A kind is unknown, or the rates add up to more than 1.
    """

    def __init__(
        self,
        script: Iterable[Fault | str | None] = (),
        *,
        rates: Mapping[str, float] | None = None,
        seed: int = 0,
    ) -> None:
        self._lock = threading.Lock()
        self._script: list[Fault | None] = []
        self._rates = {Fault(kind): rate for kind, rate in (rates or {}).items()}
        if not 0 <= sum(self._rates.values()) <= 1:
            raise ValueError(f"fault rates must add up to between 0 and 1, got {rates}")
        self._random = random.Random(seed)  # noqa: S311  # repeatable faults, not secrets
        self.add(script)

    def add(self, script: Iterable[Fault | str | None]) -> None:
        """Put more at the end of the script."""
        faults = [Fault(entry) if isinstance(entry, str) else entry for entry in script]
        with self._lock:
            self._script += faults
            # Those that wait for a prompt go before those that take any request.
            self._script.sort(key=lambda fault: fault is None or fault.prompt is None)

    def take(self, *, prompt: str, stream: bool) -> Fault | None:
        """The fault for a request that has just arrived."""
        with self._lock:
            draw = self._random.random()  # always one draw a request: scripts shift nothing
            for position, fault in enumerate(self._script):
                if fault is None or _applies(fault, prompt=prompt, stream=stream):
                    self._script[position : position + 1] = _remaining(fault)
                    return fault
            for fault, rate in self._rates.items():
                if draw < rate:
                    return fault if _applies(fault, prompt=prompt, stream=stream) else None
                draw -= rate
            return None


def _remaining(fault: Fault | None) -> list[Fault | None]:
    """What stays in the script once `fault` was taken from it."""
    if fault is None:
        return []
    if fault.times is None:
        return [fault]
    return [replace(fault, times=fault.times - 1)] if fault.times > 1 else []


def _applies(fault: Fault, *, prompt: str, stream: bool) -> bool:
    if fault.kind in STREAM_FAULTS and not stream:
        return False
    return fault.prompt is None or fault.prompt in prompt
