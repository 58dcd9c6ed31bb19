"""Which kind of failure an answer is, by all that it says.

The evidence, in this order: a code, type or reason that has one meaning (error_codes.py); where
the status leaves it open, a sentence that leaves no doubt (error_messages.py), or a moderation
flag; a code that repeats a status (error_codes.py); the HTTP status (`_BY_STATUS`).

What each kind means is in one table, kinds.py.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Literal

from dagster_imagegen.engine.attempt import Billing, Status, SvgUsage, TokenUsage
from dagster_imagegen.engine.endpoint.error_body import (
    ErrorBody,
    flags_of_success,
    read_error,
)
from dagster_imagegen.engine.endpoint.error_codes import (
    LIKE_A_STATUS,
    SAYS_NOTHING,
    USER_ERROR,
    contradicts_itself,
    kind_of_code,
    plain,
)
from dagster_imagegen.engine.endpoint.error_messages import (
    is_about_parameter,
    kind_in_message,
)
from dagster_imagegen.engine.endpoint.kinds import ALL_REFUSED, FailureKind
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

    `message` is one printable line. `own_message` is what of it is ours and not the endpoint's,
    which can repeat the prompt; None where nothing is. `http_status` is None where no answer came.
    `code` is the endpoint's (`rate_limit_exceeded`), or ours (`connection_lost`) where it names
    none.
    `wait_seconds` is what the endpoint asks for; `retryable` is False where it says not to try
    again. `told_by_text` is whether nothing but its sentences shows that it is a refusal.
    `moderation_stage` is what was blocked, "input" or "output". `tokens`, `svg`
    and `reported_cost_usd` are what the answer names although it is an error.
    """

    kind: FailureKind
    message: str
    own_message: str | None = None
    http_status: int | None = None
    code: str | None = None
    wait_seconds: float | None = None
    retryable: bool = True
    told_by_text: bool = False
    moderation_stage: str | None = None
    request_id: str | None = None
    tokens: TokenUsage | None = None
    svg: SvgUsage | None = None
    reported_cost_usd: Decimal | None = None

    @property
    def status(self) -> Status:
        """The status of the usage row."""
        return self.kind.rules.status

    @property
    def billing(self) -> Billing:
        """Whether the request was billed, as far as anybody can tell."""
        if any(told is not None for told in (self.tokens, self.svg, self.reported_cost_usd)):
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
    def _own_summary(self) -> str:
        own = f": {self.own_message.rstrip('.')}" if self.own_message else ""
        return f"{self.summary_without_message}{own}"

    @property
    def is_outage(self) -> bool:
        """Whether it shows that the endpoint, or what stands before it, is away or overwhelmed."""
        if self.kind.rules.is_outage or self.http_status in OUTAGE_STATUSES:
            return True
        return self.kind is FailureKind.AMBIGUOUS and self.code == CONNECTION_LOST

    def error_that_ends_run(
        self, place: str, evidence: str, *, has_worked: bool, with_message: bool = True
    ) -> EndpointError:
        """The error to end the run with, where all requests fail like this one.

        Args:
            place: Endpoint and model, with which the message begins.
            evidence: The sentence that says why it concerns all.
            has_worked: Whether other requests of the run have been answered well.
            with_message: Whether the endpoint's message, which can repeat a prompt, is in it. What
                is ours always is.

        Raises `ValueError` for a kind that concerns one request alone.
        """
        end = ALL_REFUSED if self.told_by_text else self.kind.rules.if_all_fail
        if end is None:
            raise ValueError(f"{self.kind} ends no run")
        summary = self.summary if with_message else self._own_summary
        return end.error(
            f"{place}: {summary}. {evidence}. {end.advice}",
            http_status=self.http_status,
            code=self.code if with_message else self.code_without_text,
            # What has worked may work again, but for an account that cannot pay.
            retry_can_help=end.retry_can_help
            or (has_worked and self.kind is not FailureKind.OUT_OF_CREDIT),
        )


# Types of events in a stream, whose status is 200. With another status, the status says more.
_BY_TYPE_IN_STREAM: dict[str, FailureKind] = {
    "invalidrequesterror": FailureKind.REJECTED,
    USER_ERROR: FailureKind.REJECTED,
    "overloadederror": FailureKind.UNAVAILABLE,
}
# What a refusal says of an image that was already made.
_FINISHED_IMAGE = re.compile(
    r"\b(?:generated|output|resulting) (?:image|picture)s?\b[^.\n]{0,40}"
    r"\b(?:reject|block|filter|flag|moderat|may contain|contains)"
    r"|\boutput_?image_?sensitive|\bimage_safety\b",
    re.IGNORECASE,
)
_BY_STATUS: dict[int, FailureKind] = {
    **dict.fromkeys((408, 504, 524), FailureKind.AMBIGUOUS),
    **dict.fromkeys((401, 403, 404, 405, 406, 407, 410, 415, 421, 422), FailureKind.MISCONFIGURED),
    **dict.fromkeys((426, 431, 501, 505, 511), FailureKind.MISCONFIGURED),
    # Not taken on: a conflict, too early, an origin that was not reached, overloaded.
    **dict.fromkeys((409, 425, 503, 521, 523, 525, 526, 529), FailureKind.UNAVAILABLE),
    402: FailureKind.OUT_OF_CREDIT,
    429: FailureKind.RATE_LIMITED,
    451: FailureKind.REFUSED,
}
# The kinds of 408, 504 and 524; 402; and 451. No flag or sentence says more than these statuses.
_LEAVES_NOTHING_OPEN = (FailureKind.AMBIGUOUS, FailureKind.OUT_OF_CREDIT, FailureKind.REFUSED)


def classify(body: bytes | bytearray, head: AnswerHead) -> Failure:
    """The failure that an answer with an error status is."""
    return failure_of(read_error(body), head)


def refusal_in(answer: object) -> ErrorBody | None:
    """The refusal that an answer of status 2xx without an image holds; None if it holds none.

    Empty `data` beside a moderation flag is how some endpoints refuse: `flagged`, `nsfw`,
    `has_nsfw_concepts`, `content_filter_results`, `finish_reason: content_filter`, Google's
    `promptFeedback.blockReason`, xAI's `respect_moderation: false`. `failure_of` makes a failure of
    kind REFUSED of it, which may have been billed unless the prompt itself was blocked.
    """
    error = flags_of_success(answer)
    told = error.flagged or FailureKind.REFUSED in (
        _told_by_code(error, 200)[0],
        _told_by_flag_or_message(error, 200),
    )
    return replace(error, flagged=True) if told else None


def failure_of(
    error: ErrorBody, head: AnswerHead, *, otherwise: FailureKind = FailureKind.SERVER_ERROR
) -> Failure:
    """The failure that an error is; of kind `otherwise` where neither it nor its status tells."""
    kind, code = _kind(error, head.http_status, otherwise)
    names_wait = any(head.headers.get(name) for name in ("retry-after", "retry-after-ms"))
    if kind is FailureKind.SERVER_ERROR and head.http_status == 503 and names_wait:
        kind = FailureKind.UNAVAILABLE
    without_text = _kind(replace(error, text=""), head.http_status, otherwise)
    message, own_message = _messages(error, head, kind)
    stage = error.moderation_stage
    if kind is FailureKind.REFUSED and stage is None:
        said = "\n".join((*error.codes, *error.words, error.text))
        stage = "output" if _FINISHED_IMAGE.search(said) else None
    return Failure(
        kind=kind,
        message=message,
        own_message=own_message,
        http_status=head.http_status,
        code=code,
        wait_seconds=server_wait(head.headers, error.message, now=head.now),
        told_by_text=kind is FailureKind.REFUSED is not without_text[0],
        retryable=head.headers.get("x-should-retry", "").strip().lower() != "false",
        moderation_stage=stage,
        request_id=error.request_id,
        tokens=error.tokens,
        reported_cost_usd=error.reported_cost_usd,
    )


def _messages(error: ErrorBody, head: AnswerHead, kind: FailureKind) -> tuple[str, str | None]:
    """The message, and what of it is ours."""
    if 300 <= head.http_status < 400:
        redirect = _redirect_message(head.headers.get("location"))
        return redirect, redirect
    refused = " and refused" if kind is FailureKind.REFUSED else ""
    said = f"the endpoint answered {head.http_status}{refused} without a message"
    methods = message_of(head.headers.get("allow"), limit=100)
    if head.http_status == 405 and methods:
        allowed = f"allowed methods: {methods}"
        return f"{error.message or said} ({allowed})", allowed
    return error.message or said, None if error.message else said


def _kind(
    error: ErrorBody, http_status: int, otherwise: FailureKind
) -> tuple[FailureKind, str | None]:
    """The kind, and the code that decided it, or the first code."""
    named = (code for code in error.codes if code != str(http_status))
    first_code = next(named, next(iter(error.codes), None))
    kind, code = _told_by_code(error, http_status)
    if kind is not None:
        return kind, code
    kind = _told_by_flag_or_message(error, http_status)
    if kind is not None:
        return kind, first_code
    by_status = _kind_of_status(http_status)
    for code in (*error.codes, *error.words):
        kind = LIKE_A_STATUS.get(plain(code))
        if kind is FailureKind.SERVER_ERROR and (http_status == 408 or http_status >= 500):
            kind = None  # the status says more
        if kind is not None:
            return kind, code
    found = by_status
    for code in error.codes:
        status = int(code) if re.fullmatch("[45][0-9]{2}", code) else 0
        found = found or _BY_TYPE_IN_STREAM.get(plain(code)) or _kind_of_status(status)
    return found or otherwise, first_code


def _told_by_code(error: ErrorBody, http_status: int) -> tuple[FailureKind | None, str | None]:
    """The first code with one meaning, wherever it stands, and its kind."""
    by_status = _kind_of_status(http_status)
    for code in (*error.codes, *error.words):
        kind = kind_of_code(code)
        if kind is FailureKind.SERVER_ERROR and by_status is FailureKind.AMBIGUOUS:
            kind = None  # a timeout that calls itself a server error is still a timeout
        if kind is not None:
            return kind, code
    return None, None


def _told_by_flag_or_message(error: ErrorBody, http_status: int) -> FailureKind | None:
    """The kind by what is neither code nor status.

    An error of the server (5xx, be it only in the body) can only be a refusal: proxies answer 500
    when what is behind them refuses. Where the status leaves nothing open, nothing is concluded.
    """
    statuses = (http_status, http_status := _status_in_all(error, http_status))
    nothing_open = any(_kind_of_status(status) in _LEAVES_NOTHING_OPEN for status in statuses)
    if nothing_open or 300 <= statuses[0] < 400:
        return None
    lines = (line for line in error.text.split("\n") if not contradicts_itself(line))
    codes = (_spelled(code) for code in error.codes if not contradicts_itself(code))
    texts = ("\n".join(lines), "\n".join(codes))
    kinds = (kind_in_message(text, http_status=http_status) for text in texts)
    kind = next((each for each in kinds if each is not None), None)
    if kind is not None and (statuses[0] < 500 or kind is FailureKind.REFUSED):
        return None if kind is FailureKind.REFUSED and error.names_parameter else kind
    if error.flagged and statuses[0] < 500 and http_status != 429:  # 429: nobody has looked at it
        return FailureKind.REFUSED
    return FailureKind.REFUSED if _is_user_error(error) else None


def _status_in_all(error: ErrorBody, http_status: int) -> int:
    """The status, or that of the error if it says that the server failed, as some do in a 200."""
    for code in (*error.codes, *error.words):
        if re.fullmatch("5[0-9]{2}", code):
            return int(code)
        if LIKE_A_STATUS.get(plain(code)) is FailureKind.SERVER_ERROR:
            return max(http_status, 500)
    return http_status


def _is_user_error(error: ErrorBody) -> bool:
    """Whether OpenAI's type of what the user did wrong is all that it says.

    It is the type of refusals. Beside the code or the name of a parameter it is that of other
    mistakes.
    """
    codes = [plain(code) for code in error.codes]
    says_more = any(not code.isdigit() and code not in SAYS_NOTHING for code in codes)
    about_parameter = error.names_parameter or is_about_parameter(error.text)
    return USER_ERROR in codes and not says_more and not about_parameter


def _kind_of_status(http_status: int) -> FailureKind | None:
    """The kind by status alone; None where the status is not an error."""
    if http_status in _BY_STATUS:
        return _BY_STATUS[http_status]
    if 300 <= http_status < 400:
        return FailureKind.MISCONFIGURED
    if 400 <= http_status < 500:
        return FailureKind.REJECTED
    return FailureKind.SERVER_ERROR if 500 <= http_status < 600 else None


def _spelled(code: str) -> str:
    """A code as words: `INSUFFICIENT_BALANCE_AMOUNT` says what a sentence says."""
    return re.sub(r"[_:./#-]|(?<=[a-z])(?=[A-Z])", " ", code)


def _redirect_message(location: str | None) -> str:
    target = re.match(r"(?:https?:)?//(?:[^/?#@]*@)?([^/?#]+)", location or "", re.IGNORECASE)
    where = message_of(target.group(1), limit=100) if target else "another path of the same host"
    return f"the endpoint redirects to {where}; set base_url to the final address"
