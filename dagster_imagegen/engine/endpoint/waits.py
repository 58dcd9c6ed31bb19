"""How long an endpoint asks to wait, and how much of its rate limit it says is left."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

UNIX_TIMES = 1e9  # a larger reset is a point in time (2001 or later), a smaller one a duration
UNIX_MILLISECONDS = 1e11
UNIT_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
DURATION_PART = (
    r"\d+(?:\.\d+)?\s*(?:ms|milliseconds?|s|secs?|seconds?"
    r"|m|mins?|minutes?|h|hrs?|hours?|d|days?)"
)
DURATION = re.compile(rf"(?:{DURATION_PART}\s*)+", re.IGNORECASE)
IN_MESSAGE = re.compile(
    rf"\b(?:try(?: your request)? again|retry|wait)\b[^.\d]{{0,40}}?\b(?:in|after|for)\s+"
    rf"((?:{DURATION_PART}(?![a-z])[\s,]*)+)",
    re.IGNORECASE,
)
RESET_PREFIXES = ("x-ratelimit-reset", "ratelimit-reset")
# The limits that one more request counts against for certain. Those on tokens are left out.
REQUEST_LIMITS = ("-requests", "-images", "")


@dataclass(frozen=True, kw_only=True)
class RateHeadroom:
    """What was left of a rate limit, in requests or images, when the endpoint answered.

    `reset_seconds` is from then until the endpoint's `reset`: depending on the server, the moment
    when the whole limit is available again, or the first request of it.
    """

    remaining: int
    limit: int | None
    reset_seconds: float | None


def server_wait(headers: Mapping[str, str], message: str | None, *, now: float) -> float | None:
    """How many seconds an endpoint that did not accept a request asks to wait, if it does.

    The first source with more than 0 counts: 0 and a time in the past cannot be meant, because the
    endpoint has just shown that now is too early. `now` is Unix time; `headers` are looked up in
    lower case.
    """
    now = first_positive(_date(headers.get("date"))) or now
    milliseconds = first_positive(_number(headers.get("retry-after-ms")))
    retry_after = headers.get("retry-after")
    return first_positive(
        None if milliseconds is None else milliseconds / 1000,
        _number(retry_after),
        _until(_date(retry_after), now),
        _reset_of_what_is_used_up(headers, now=now),
        seconds_in_message(message or ""),
    )


def read_headroom(headers: Mapping[str, str], *, now: float) -> RateHeadroom | None:
    """The limit on requests or images with the least left, if the headers announce one."""
    now = first_positive(_date(headers.get("date"))) or now
    found: list[RateHeadroom] = []
    for suffix in REQUEST_LIMITS:
        for prefix in ("x-ratelimit", "ratelimit"):
            remaining = _number(headers.get(f"{prefix}-remaining{suffix}"))
            if remaining is None:
                continue
            limit = _number(headers.get(f"{prefix}-limit{suffix}"))
            found.append(
                RateHeadroom(
                    remaining=max(0, int(remaining)),
                    limit=None if limit is None else max(0, int(limit)),
                    reset_seconds=reset_seconds(headers.get(f"{prefix}-reset{suffix}"), now=now),
                )
            )
    return min(found, key=lambda headroom: headroom.remaining, default=None)


def reset_seconds(text: str | None, *, now: float) -> float | None:
    """Seconds until a reset, which is Unix time, seconds, a duration (`6m0s`) or a date."""
    number = _number(text)
    if number is not None:
        if number > UNIX_MILLISECONDS:
            number /= 1000
        return max(0.0, number - now if number > UNIX_TIMES else number)
    if text is None:
        return None
    if DURATION.fullmatch(text.strip()):
        return _duration(text)
    until = _until(_date(text), now)
    return None if until is None else max(0.0, until)


def seconds_in_message(message: str) -> float | None:
    """`Please try again in 1m12.5s` → 72.5."""
    found = IN_MESSAGE.search(message)
    return _duration(found.group(1)) if found else None


def first_positive(*seconds: float | None) -> float | None:
    """The first value that is more than 0."""
    return next((value for value in seconds if value is not None and value > 0), None)


def _reset_of_what_is_used_up(headers: Mapping[str, str], *, now: float) -> float | None:
    used_up: list[float] = []
    others: list[float] = []
    for name, value in headers.items():
        if not name.lower().startswith(RESET_PREFIXES):
            continue
        seconds = first_positive(reset_seconds(value, now=now))
        if seconds is None:
            continue
        left = _number(headers.get(name.lower().replace("-reset", "-remaining", 1)))
        (others if left is None or left > 0 else used_up).append(seconds)
    # Of several limits that are used up, the last to reset counts. If none is known to be, the
    # first to reset is the best guess: it may be a limit a minute and not the one a day.
    return max(used_up) if used_up else min(others, default=None)


def _number(text: str | None) -> float | None:
    try:
        number = float(text) if text is not None and "_" not in text else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _duration(text: str) -> float:
    total = 0.0
    for amount, unit in re.findall(r"(\d+(?:\.\d+)?)\s*([a-z]+)", text.lower()):
        milliseconds = unit.startswith(("ms", "milli"))
        total += float(amount) * (0.001 if milliseconds else UNIT_SECONDS[unit[0]])
    return total


def _date(text: str | None) -> float | None:
    """Unix time of an HTTP date or an ISO 8601 one."""
    if not text:
        return None
    for read in (parsedate_to_datetime, _iso_date):
        try:
            date = read(text.strip())
            return (date if date.tzinfo else date.replace(tzinfo=timezone.utc)).timestamp()
        except (ValueError, TypeError, OverflowError, IndexError):
            continue
    return None


def _iso_date(text: str) -> datetime:
    return datetime.fromisoformat(text.upper().replace("Z", "+00:00"))


def _until(moment: float | None, now: float) -> float | None:
    return None if moment is None else moment - now
