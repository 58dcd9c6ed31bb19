"""What a failure is: one of a few kinds, decided by its code, then its type, then its status.

The kind says what to do next: whether it may be sent again, whether it can have been billed, and
whether the rest of the run would meet the same.
"""

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from dagster_imagegen.engine.endpoint.waits import server_wait
from dagster_imagegen.engine.endpoint.wire import (
    cost_of,
    decode,
    first,
    list_of,
    load_json,
    mapping_of,
    message_of,
    tokens_of,
)
from dagster_imagegen.engine.tokens import TokenUsage

CODE_CHARACTERS = 100
ERROR_BODY_BYTES = 262_144  # of an error, no more than this is looked at

FailureStatus = Literal["refused", "rejected", "rate_limited", "failed", "unknown"]
Billing = Literal["billed", "not_billed", "unknown"]


class FailureKind(enum.Enum):
    """What went wrong, by what has to be done about it."""

    RATE_LIMITED = "rate_limited"
    """Too many requests: not accepted; again later, and slower."""
    UNREACHABLE = "unreachable"
    """The request was never delivered."""
    UNAVAILABLE = "unavailable"
    """The server said that it did not take the request on, and to come back."""
    SERVER_ERROR = "server_error"
    """The server failed at it; perhaps it was billed."""
    AMBIGUOUS = "ambiguous"
    """The server may have done and billed the work, and nobody can tell."""
    REFUSED = "refused"
    """This prompt will never be done."""
    REJECTED = "rejected"
    """Something in this one request is not accepted."""
    MISCONFIGURED = "misconfigured"
    """Key, address, model or parameter: every request would fail the same way."""
    OUT_OF_CREDIT = "out_of_credit"
    """The account cannot pay: every request would fail the same way, until it can."""
    SAVING_FAILED = "saving_failed"
    """The image was made and is paid for, and could not be fetched."""


_STATUS: dict[FailureKind, FailureStatus] = {
    FailureKind.RATE_LIMITED: "rate_limited",
    FailureKind.UNREACHABLE: "failed",
    FailureKind.UNAVAILABLE: "failed",
    FailureKind.SERVER_ERROR: "failed",
    FailureKind.AMBIGUOUS: "unknown",
    FailureKind.REFUSED: "refused",
    FailureKind.REJECTED: "rejected",
    FailureKind.MISCONFIGURED: "rejected",
    FailureKind.OUT_OF_CREDIT: "rejected",
    FailureKind.SAVING_FAILED: "failed",
}
PERHAPS_BILLED = (FailureKind.SERVER_ERROR, FailureKind.AMBIGUOUS)


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One request that brought no image.

    `code` is the endpoint's (`rate_limit_exceeded`), or ours where it said none
    (`connection_lost`). `message` is one printable line. `wait_seconds` is what the endpoint asked
    for; `retryable` is False where it said not to try again. `tokens` and `reported_cost_usd` are
    there when the answer told them all the same.
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
    def status(self) -> FailureStatus:
        """The status of the usage row."""
        return _STATUS[self.kind]

    @property
    def billing(self) -> Billing:
        """Whether it was paid for, as far as anybody can tell."""
        counted = self.tokens is not None or self.reported_cost_usd is not None
        if counted or self.kind is FailureKind.SAVING_FAILED:
            return "billed"
        # Refused for what the image showed: it had been made. And a success is no refusal to work,
        # even if a web page came.
        made = self.kind is FailureKind.REFUSED and self.moderation_stage == "output"
        worked = self.http_status is not None and 200 <= self.http_status < 300
        said_so = self.kind in (FailureKind.MISCONFIGURED, FailureKind.REJECTED)
        perhaps = made or (worked and said_so) or self.kind in PERHAPS_BILLED
        return "unknown" if perhaps else "not_billed"

    @property
    def names_concurrency(self) -> bool:
        """The endpoint objects to how many requests are open at once, not to how many a minute."""
        return "concurren" in f"{self.code} {self.message}".lower()

    @property
    def summary(self) -> str:
        """`401 (invalid_api_key): Incorrect API key provided`, without a full stop at its end."""
        code = f" ({self.code})" if self.code else ""
        status = "no answer" if self.http_status is None else str(self.http_status)
        return f"{status}{code}: {self.message.rstrip('.')}"


# Codes and types are compared in lower case and without punctuation: contentFilter, content_filter.
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
# Said by events in a stream, whose status is 200; with any other status, the status says more.
_BY_TYPE_IN_STREAM: dict[str, FailureKind] = {
    "invalidrequesterror": FailureKind.REJECTED,
    "imagegenerationusererror": FailureKind.REJECTED,
    "overloadederror": FailureKind.UNAVAILABLE,
}
_BY_STATUS: dict[int, FailureKind] = {
    **dict.fromkeys((408, 504, 524), FailureKind.AMBIGUOUS),
    **dict.fromkeys((401, 403, 404, 405, 406, 407, 410, 415, 421, 422), FailureKind.MISCONFIGURED),
    **dict.fromkeys((426, 431, 501, 505, 511), FailureKind.MISCONFIGURED),
    # Turned away at the door: a conflict, too early, an origin that was not reached, overloaded.
    **dict.fromkeys((409, 425, 521, 523, 525, 526, 529), FailureKind.UNAVAILABLE),
    402: FailureKind.OUT_OF_CREDIT,
    429: FailureKind.RATE_LIMITED,
    451: FailureKind.REFUSED,
}


@dataclass(frozen=True, kw_only=True)
class ErrorBody:
    """What the body of an error says, whatever its shape. `codes` go from the most telling on."""

    message: str | None
    codes: tuple[str, ...] = ()
    request_id: str | None = None
    moderation_stage: str | None = None
    tokens: TokenUsage | None = None
    reported_cost_usd: Decimal | None = None


def classify(
    *, http_status: int, headers: Mapping[str, str], body: bytes | bytearray, now: float
) -> Failure:
    """The failure that an answer with an error status is. `now` is Unix time."""
    error = read_error(body)
    return failure_of(error, http_status=http_status, headers=headers, now=now)


def failure_of(
    error: ErrorBody,
    *,
    http_status: int,
    headers: Mapping[str, str],
    now: float,
    otherwise: FailureKind = FailureKind.SERVER_ERROR,
) -> Failure:
    """The failure that an error is; `otherwise` where neither it nor its status says a kind."""
    kind, code = _kind(error, http_status, otherwise)
    wait = server_wait(headers, error.message, now=now)
    if kind is FailureKind.SERVER_ERROR and http_status == 503 and _comes_back(headers):
        kind = FailureKind.UNAVAILABLE
    if 300 <= http_status < 400:
        error = ErrorBody(message=_redirect_message(headers.get("location")))
    return Failure(
        kind=kind,
        message=error.message or f"the endpoint answered {http_status} and no message",
        http_status=http_status,
        code=code,
        wait_seconds=wait,
        retryable=headers.get("x-should-retry", "").strip().lower() != "false",
        moderation_stage=error.moderation_stage,
        request_id=error.request_id,
        tokens=error.tokens,
        reported_cost_usd=error.reported_cost_usd,
    )


def _comes_back(headers: Mapping[str, str]) -> bool:
    return any(headers.get(name) for name in ("retry-after", "retry-after-ms"))


def _kind(
    error: ErrorBody, http_status: int, otherwise: FailureKind
) -> tuple[FailureKind, str | None]:
    by_status = _kind_of_status(http_status)
    for code in error.codes:
        kind = _BY_CODE.get(_plain(code))
        if kind is FailureKind.SERVER_ERROR and by_status is FailureKind.AMBIGUOUS:
            kind = None  # a timeout that calls itself a server error is still a timeout
        if kind is not None:
            return kind, code
    named = error.codes[0] if error.codes else None
    if by_status is not None:
        return by_status, named
    for code in error.codes:
        kind = _BY_TYPE_IN_STREAM.get(_plain(code))
        status = int(code) if re.fullmatch("[45][0-9]{2}", code) else 0
        kind = kind or _kind_of_status(status)
        if kind is not None:
            return kind, named
    return otherwise, named


def _kind_of_status(http_status: int) -> FailureKind | None:
    """None for a status that is no error."""
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
    return f"the endpoint redirects to {where}; set base_url to the address that answers itself"


def read_error(body: bytes | bytearray) -> ErrorBody:
    """An error in any of the shapes seen: OpenAI, DigitalOcean, xAI, FastAPI, Azure, HTML, none."""
    start = bytes(body[:ERROR_BODY_BYTES])
    try:
        return error_of_json(load_json(_data_of_event(start)))
    except ValueError:
        return ErrorBody(message=_message_of_page(decode(start)))


def error_of_json(value: object) -> ErrorBody:
    """The same for an error that is parsed already."""
    top = mapping_of(next(iter(list_of(value)), value))
    inner = top.get("error")
    error = mapping_of(inner)
    azure = mapping_of(first(error.get("inner_error"), error.get("innererror")))
    details = mapping_of(first(error.get("moderation_details"), top.get("moderation_details")))
    stage = message_of(details.get("moderation_stage"), limit=CODE_CHARACTERS)
    codes = (
        *(error.get("code"), azure.get("code"), error.get("type"), top.get("code"), top.get("id")),
        None if top.get("type") == "error" else top.get("type"),
    )
    return ErrorBody(
        message=_with_moderation(
            first(
                message_of(error.get("message")),
                message_of(inner),
                message_of(top.get("message")),
                _message_of_detail(top.get("detail")),
                message_of(value),
            ),
            stage,
            details.get("categories"),
        ),
        codes=tuple(code for code in (message_of(c, limit=CODE_CHARACTERS) for c in codes) if code),
        request_id=message_of(first(top.get("request_id"), error.get("request_id")), limit=200),
        moderation_stage=stage,
        tokens=tokens_of(top.get("usage")),
        reported_cost_usd=cost_of(top.get("usage")),
    )


def _with_moderation(message: str | None, stage: str | None, categories: object) -> str | None:
    names = [name for name in (message_of(c, limit=60) for c in _names(categories)) if name]
    found = ", ".join(names[:10])
    facts = "; ".join(
        fact for fact in (stage and f"stage {stage}", found and f"categories {found}") if fact
    )
    return f"{message or 'refused'} ({facts})" if facts else message


def _names(categories: object) -> list[Any]:
    """Of a list its items, of `{"violence": true, …}` the names that are true."""
    return list_of(categories) or [name for name, on in mapping_of(categories).items() if on]


def _message_of_detail(detail: object) -> str | None:
    """FastAPI's: a text, or a list of what did not validate and where."""
    lines: list[str] = []
    for problem in map(mapping_of, list_of(detail)[:5]):
        place = ".".join(str(step) for step in list_of(problem.get("loc")))
        lines.append(f"{place}: {problem.get('msg')}" if place else str(problem.get("msg")))
    return first(
        message_of("; ".join(lines)),
        message_of(detail),
        message_of(mapping_of(detail).get("message")),
    )


def _message_of_page(text: str) -> str | None:
    """The title of an HTML page, or the text of whatever else it is."""
    if not re.match(r"\ufeff?\s*<", text):
        return message_of(text)
    title = re.search(r"<title[^>]{0,200}>(.{0,500}?)</title>", text, re.IGNORECASE | re.DOTALL)
    words = title.group(1) if title else re.sub(r"<[^>]{0,2000}>", " ", text[:20_000])
    return message_of(f"HTML page: {words}")


def _data_of_event(body: bytes) -> bytes:
    """The data of an `error` event that came with an error status; any other body as it is."""
    if not body.startswith((b"event:", b"data:")):
        return body
    return b"".join(re.findall(rb"^data: ?(.*)$", body, re.MULTILINE))
