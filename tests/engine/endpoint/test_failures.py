"""Which kind of failure an answer is, what each kind means, and how long to wait."""

import json
import random
from dataclasses import replace
from decimal import Decimal
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagster_imagegen.engine.attempt import TokenUsage, charge, redact_prompt
from dagster_imagegen.engine.endpoint.failures import AnswerHead, Failure, classify
from dagster_imagegen.engine.endpoint.kinds import FailureKind
from dagster_imagegen.engine.endpoint.retries import RetryPolicy
from dagster_imagegen.engine.endpoint.waits import read_headroom, seconds_in_message, server_wait
from dagster_imagegen.engine.errors import EndpointMisconfigured
from dagster_imagegen.engine.money.price_list import PriceList
from dagster_imagegen.engine.request import ImageRequest

K = FailureKind
NOW = 1_700_000_000.0


def classified(status: int, body: object = b"", **headers: str) -> Failure:
    """The failure of an answer; header names are given with underscores."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = httpx.Headers({name.replace("_", "-"): value for name, value in headers.items()})
    return classify(data, AnswerHead(http_status=status, headers=named, now=NOW))


def openai(code: str | None = None, kind: str | None = None, message: str = "no") -> Any:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


# The answers of each kind that an answer can be. The other two kinds are the client's.
ANSWERS: dict[K, list[tuple[int, object, dict[str, str]]]] = {
    K.RATE_LIMITED: [
        (429, openai("rate_limit_exceeded", "requests"), {}),
        (429, openai("rate_limit_exceeded", "concurrent_requests"), {}),
        (429, openai("rate_limit_exceeded", "insufficient_quota"), {}),
        (429, b"", {}),
        (503, openai("slow_down"), {}),
    ],
    K.UNAVAILABLE: [
        (503, b"", {"retry_after": "3"}),
        (503, b"", {"retry_after_ms": "300"}),
        (503, openai(None, "server_error"), {"retry_after": "3"}),
        (529, b"", {}),
    ],
    K.SERVER_ERROR: [
        (500, b"", {}),
        (500, openai(None, "server_error"), {}),
        (502, b"<html>", {}),
        (503, b"", {}),
        (400, openai("image_generation_failed", "image_generation_server_error"), {}),
        (599, b"", {}),
    ],
    K.AMBIGUOUS: [
        (408, b"", {}),
        (504, b"", {}),
        (504, openai(None, "server_error"), {}),
        (524, b"<html><title>A timeout occurred</title>", {}),
    ],
    K.REFUSED: [
        (400, openai("moderation_blocked"), {}),
        (400, openai("content_policy_violation"), {}),
        (400, openai("content_filter"), {}),
        (400, openai("contentFilter"), {}),
        (400, {"error": {"inner_error": {"code": "ResponsibleAIPolicyViolation"}}}, {}),
        (400, {"error": {"code": "x", "innererror": {"code": "content_filter"}}}, {}),
        (451, b"", {}),
    ],
    K.MISCONFIGURED: [
        (401, openai("invalid_api_key"), {}),
        (401, {"id": "unauthorized", "message": "no"}, {}),
        (403, openai(message="Your organization must be verified"), {}),
        (404, b"", {}),
        (400, openai("model_not_found"), {}),
        (400, openai("unknown_parameter"), {}),
        (422, {"detail": "no"}, {}),
        (307, b"", {"location": "https://elsewhere.example/v1"}),
    ],
    K.OUT_OF_CREDIT: [
        (402, b"", {}),
        (429, openai("insufficient_quota"), {}),
        (429, openai(None, "insufficient_quota"), {}),
        (429, openai("credit_balance_exhausted"), {}),
        (429, openai("organization_spend_limit_exceeded"), {}),
        (429, openai("project_spend_limit_exceeded"), {}),
        (429, openai("organization_usage_limit_exceeded"), {}),
        (400, openai("billing_hard_limit_reached"), {}),
    ],
    K.REJECTED: [(400, openai("invalid_value"), {}), (400, b"", {}), (413, b"", {})],
}


@pytest.mark.parametrize(
    ("kind", "answer"), [(kind, answer) for kind, answers in ANSWERS.items() for answer in answers]
)
def test_every_answer_has_its_kind(kind: K, answer: tuple[int, object, dict[str, str]]) -> None:
    """The code takes precedence over the type, and the type over the status."""
    http_status, body, headers = answer
    failed = classified(http_status, body, **headers)
    assert failed.kind is kind
    assert failed.billing == kind.rules.billing
    assert failed.http_status == http_status
    assert failed.message


# tries: how often a request is sent in all while it fails in this way, and in brackets if the
# caller allows to send an unknown outcome again. In a 200: what the kind means with that status.
MEANING = """
kind           status        billing     in a 200    tries   sending   ends the run           step
RATE_LIMITED   rate_limited  not_billed  not_billed  5       refused   -                      retry
UNAVAILABLE    failed        not_billed  not_billed  5       refused   -                      retry
UNREACHABLE    failed        not_billed  not_billed  5       unclear   last try: Unreachable  retry
SERVER_ERROR   failed        unknown     unknown     3       accepted  -                      retry
AMBIGUOUS      unknown       unknown     unknown     1 (3)   accepted  -                      -
REFUSED        refused       not_billed  not_billed  1       accepted  -                      -
REJECTED       rejected      not_billed  unknown     1       accepted  -                      retry
MISCONFIGURED  rejected      not_billed  unknown     1       accepted  at once: Misconfigured -
OUT_OF_CREDIT  rejected      not_billed  not_billed  1       accepted  at once: OutOfCredit   -
SAVING_FAILED  failed        billed      billed      1       accepted  -                      retry
"""
COLUMNS = [0, 15, 29, 41, 53, 61, 71, 94]
ROWS = {
    row.split()[0]: [
        row[start:end].strip() for start, end in zip(COLUMNS, [*COLUMNS[1:], None], strict=True)
    ][1:]
    for row in MEANING.strip().splitlines()[1:]
}


def sample(kind: K) -> Failure:
    """An answer of a kind; of the two kinds that come from the client, a failure of it."""
    if kind in ANSWERS:
        http_status, body, headers = ANSWERS[kind][0]
        return replace(classified(http_status, body, **headers), wait_seconds=None)
    return failure(kind, http_status=None if kind is K.UNREACHABLE else 200)


@pytest.mark.parametrize("kind", FailureKind)
def test_what_each_kind_means(kind: K) -> None:
    """Each row of the table, as status, billing, retries, pacing and the end of a run see it."""
    status, billing, billing_in_200, told_tries, sending, told_end, step = ROWS[kind.name]
    failed = sample(kind)
    assert (failed.status, failed.billing, failed.admission) == (status, billing, sending)
    assert replace(failed, http_status=200).billing == billing_in_200
    tries, allowed = tries_of(failed), tries_of(failed, may_resend_unknown=True)
    assert told_tries == (str(tries) if allowed == tries else f"{tries} ({allowed})")
    at_once = failed.error_that_ends_run("e", out_of_tries=False)
    at_last = failed.error_that_ends_run("e", out_of_tries=True)
    end = f"{'at once' if at_once else 'last try'}: {type(at_last).__name__}" if at_last else "-"
    assert end.replace(": Endpoint", ": ") == told_end
    assert kind.rules.retry_can_help == (step == "retry")
    assert at_last is None or at_last.retry_can_help == (step == "retry")


def test_the_table_is_complete() -> None:
    """A new kind has to say what it means, and its row has to be checked here."""
    assert list(ROWS) == [kind.name for kind in FailureKind]
    assert all(kind.rules.meaning.endswith(".") for kind in FailureKind)


def tries_of(failed: Failure, *, may_resend_unknown: bool = False) -> int:
    """How often a request is sent in all that always fails in this way."""
    policy, rng = RetryPolicy(), random.Random(1)
    waits = [
        policy.wait_before_next(
            failed, failed={failed.kind: n}, random=rng, may_resend_unknown=may_resend_unknown
        )
        for n in range(1, 9)
    ]
    assert sorted(waits, key=lambda wait: wait is None) == waits
    return 1 + sum(wait is not None for wait in waits)


def test_the_error_that_ends_a_run_names_the_place_and_the_remedy() -> None:
    """The endpoint's message is left out where prompts must not be recorded."""
    failed = classified(401, openai("invalid_api_key", message="Bad key for 'a mug'."))
    error = failed.error_that_ends_run("api.example, model 'm'", out_of_tries=True)
    assert isinstance(error, EndpointMisconfigured)
    assert (error.http_status, error.code) == (401, "invalid_api_key")
    assert str(error).startswith(
        "api.example, model 'm': 401 (invalid_api_key): Bad key for 'a mug'. "
    )
    assert "check base_url, api_key, model" in str(error)
    silent = failed.error_that_ends_run("e", out_of_tries=True, with_message=False)
    assert str(silent).startswith("e: 401 (invalid_api_key). ")


BODIES: list[tuple[int, object, str | None, str]] = [
    (
        429,
        openai("rate_limit_exceeded", message="Slow  down\nplease"),
        "rate_limit_exceeded",
        "Slow down please",
    ),
    (
        429,
        {"id": "too_many_requests", "message": "API Rate limit"},
        "too_many_requests",
        "API Rate limit",
    ),
    (
        400,
        {"code": "400", "error": "Argument not supported: size"},
        "400",
        "Argument not supported: size",
    ),
    (422, {"detail": "size is odd"}, None, "size is odd"),
    (
        422,
        {"detail": [{"loc": ["body", "size"], "msg": "bad", "type": "x"}]},
        None,
        "body.size: bad",
    ),
    (500, [{"error": {"message": "in a list", "code": 13}}], "13", "in a list"),
    (
        500,
        {"object": "error", "message": "m", "type": "InternalServerError", "code": 500},
        "InternalServerError",
        "m",
    ),
    (
        502,
        b"<html><head><title>502 Bad\nGateway</title></head><body>x</body>",
        None,
        "HTML page: 502 Bad Gateway",
    ),
    (502, b"<p>nginx <b>says</b> no</p>", None, "HTML page: nginx says no"),
    (500, b"", None, "the endpoint answered 500 without a message"),
    (500, b"null", None, "the endpoint answered 500 without a message"),
    (500, b"\xff\xfen\x00o\x00", None, "no"),
    (500, b"caf\xe9", None, "caf\ufffd"),
    (500, b'{"error": {"message": "a\\ud800b"}}', None, "a b"),
    (500, b'event: error\ndata: {"type":"error","error":{"code":"x","message":"m"}}\n\n', "x", "m"),
    (
        307,
        b"",
        None,
        "the endpoint redirects to another path of the same host; set base_url to the"
        " final address",
    ),
]


@pytest.mark.parametrize(("status", "body", "code", "message"), BODIES)
def test_every_shape_of_error_body(
    status: int, body: object, code: str | None, message: str
) -> None:
    """Code and message are found wherever a server puts them."""
    failure = classified(status, body)
    assert (failure.code, failure.message) == (code, message)


def test_a_redirect_names_where_to_without_its_secrets() -> None:
    """Of the Location, the host alone is told: the rest can hold a user or a signature."""
    failure = classified(302, location="https://user:pw@moved.example:8443/v1?sig=abc")
    assert "moved.example:8443;" in failure.message
    assert "pw" not in failure.message
    assert "abc" not in failure.message


def test_a_refusal_of_the_finished_image_may_have_been_billed() -> None:
    """The stage and the categories are told; what was made may be on the bill."""
    body = openai("moderation_blocked", message="Blocked.")
    body["error"]["moderation_details"] = {"moderation_stage": "output", "categories": ["violence"]}
    failure = classified(400, body)
    assert failure.billing == "unknown"
    assert failure.message == "Blocked. (stage output; categories violence)"


def test_an_error_that_counts_tokens_was_billed() -> None:
    """What the answer counts is kept, failure or not."""
    body = {
        **openai("moderation_blocked"),
        "usage": {"total_tokens": 5, "cost_in_usd_ticks": 10**9},
    }
    failure = classified(400, body)
    assert failure.tokens is not None
    assert failure.tokens.total_tokens == 5
    assert failure.reported_cost_usd == Decimal("0.1")
    assert failure.billing == "billed"


@given(st.binary(max_size=300), st.integers(300, 599))
def test_no_body_breaks_the_classification(body: bytes, status: int) -> None:
    """Whatever comes, there is a kind and one printable line."""
    failure = classified(status, body)
    assert failure.message.isprintable()
    assert 0 < len(failure.message) <= 600


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "error",
                    "message",
                    "code",
                    "type",
                    "detail",
                    "id",
                    "usage",
                    "loc",
                    "msg",
                    "inner_error",
                    "moderation_details",
                    "categories",
                    "input_tokens",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(json_values, st.sampled_from([200, 400, 429, 500]))
def test_no_json_breaks_the_classification(value: object, status: int) -> None:
    """Known keys with unknown values under them are read as if they were not there."""
    failure = classified(status, json.dumps(value).encode())
    assert failure.message.isprintable()
    assert failure.code is None or failure.code.isprintable()


WAITS: list[tuple[dict[str, str], str, float | None]] = [
    ({"retry-after-ms": "350", "retry-after": "9"}, "", 0.35),
    ({"retry-after": "12"}, "", 12.0),
    ({"retry-after": "1.5"}, "", 1.5),
    ({"retry-after": "Tue, 14 Nov 2023 22:13:50 GMT"}, "", 30.0),
    (
        {"retry-after": "Tue, 14 Nov 2023 22:13:50 GMT", "date": "Tue, 14 Nov 2023 22:13:40 GMT"},
        "",
        10.0,
    ),
    ({"retry-after": "4", "x-ratelimit-reset-requests": "1s"}, "", 4.0),
    ({"x-ratelimit-reset-requests": "6m0s"}, "", 360.0),
    ({"x-ratelimit-reset-requests": "350ms"}, "", 0.35),
    ({"x-ratelimit-reset": "1700000040"}, "", 40.0),
    ({"ratelimit-reset": "1700000040"}, "", 40.0),
    ({"ratelimit-reset": "40"}, "", 40.0),
    (
        {
            "x-ratelimit-reset-requests": "1s",
            "x-ratelimit-remaining-requests": "5",
            "x-ratelimit-reset-tokens": "20s",
            "x-ratelimit-remaining-tokens": "0",
        },
        "",
        20.0,
    ),
    ({"x-ratelimit-reset-requests": "3s", "x-ratelimit-reset-tokens-per-day": "6h"}, "", 3.0),
    ({}, "Please try again in 12s.", 12.0),
    ({}, "Rate limit reached. Please try again in 1m30.5s. Visit x", 90.5),
    ({}, "Please retry after 26 seconds.", 26.0),
    ({"retry-after": "3"}, "try again in 12s", 3.0),
    ({"retry-after": "0"}, "", None),
    ({"retry-after": "-3"}, "", None),
    ({"retry-after": "nan"}, "", None),
    ({"retry-after": "soon"}, "", None),
    ({"retry-after": "Tue, 14 Nov 2023 22:00:00 GMT"}, "", None),
    ({"x-ratelimit-reset": "1600000000"}, "", None),
    ({"x-ratelimit-reset-requests": "0s"}, "", None),
    ({"retry-after": "0", "x-ratelimit-reset-requests": "0"}, "try again in 2s", 2.0),
    ({}, "try again later", None),
]


@pytest.mark.parametrize(("headers", "message", "seconds"), WAITS)
def test_every_source_of_a_wait_in_its_order(
    headers: dict[str, str], message: str, seconds: float | None
) -> None:
    """The first source that says more than 0 counts; a time in the past says nothing."""
    wait = server_wait(httpx.Headers(headers), message, now=NOW)
    assert wait is None if seconds is None else wait is not None and abs(wait - seconds) < 1e-6


@given(st.text(max_size=200))
def test_waits_are_positive_whatever_a_message_says(message: str) -> None:
    """No text makes a negative or an endless wait."""
    assert (seconds_in_message(message) or 0.0) >= 0.0


@given(st.dictionaries(
    st.sampled_from(["retry-after", "retry-after-ms", "x-ratelimit-reset", "date",
                     "x-ratelimit-remaining", "x-ratelimit-limit-requests"]),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30),
))  # fmt: skip
def test_no_header_breaks_the_waits(headers: dict[str, str]) -> None:
    """Whatever stands in the headers, a wait is None or more than 0."""
    wait = server_wait(httpx.Headers(headers), None, now=NOW)
    assert wait is None or wait > 0
    read_headroom(httpx.Headers(headers), now=NOW)


def test_headroom_is_the_tightest_limit_on_requests() -> None:
    """Requests and images count alike; tokens are another currency."""
    headers = httpx.Headers(
        {
            "x-ratelimit-remaining-requests": "40",
            "x-ratelimit-limit-requests": "50",
            "x-ratelimit-reset-requests": "12s",
            "x-ratelimit-remaining-images": "7",
            "x-ratelimit-limit-images": "10",
            "x-ratelimit-reset-images": "1700000030",
            "x-ratelimit-remaining-tokens": "0",
        }
    )
    headroom = read_headroom(headers, now=NOW)
    assert headroom is not None
    assert (headroom.remaining, headroom.limit, headroom.reset_seconds) == (7, 10, 30.0)
    assert read_headroom(httpx.Headers(), now=NOW) is None


def failure(kind: FailureKind, **facts: Any) -> Failure:
    return Failure(kind=kind, message="m", **facts)


@pytest.mark.parametrize(
    ("failed", "again"),
    [
        ({K.RATE_LIMITED: 4, K.SERVER_ERROR: 1}, True),
        ({K.RATE_LIMITED: 2, K.UNREACHABLE: 3, K.SERVER_ERROR: 1}, True),
        ({K.SERVER_ERROR: 2, K.AMBIGUOUS: 1}, False),
    ],
)
def test_what_may_be_billed_is_counted_apart(failed: dict[FailureKind, int], again: bool) -> None:
    """Not being accepted is no reason to give up; and all that may be billed counts as one."""
    policy = RetryPolicy()
    wait = policy.wait_before_next(failure(K.SERVER_ERROR), failed=failed, random=random.Random(1))
    assert (wait is not None) == again


ONCE_LIMITED = {K.RATE_LIMITED: 1}


def test_an_asked_wait_is_honoured_and_spread() -> None:
    """Nobody comes back early, and not all at once."""
    policy, rng = RetryPolicy(), random.Random(1)
    limited = failure(K.RATE_LIMITED, wait_seconds=20.0)
    waits = [
        policy.wait_before_next(limited, failed=ONCE_LIMITED, random=rng) or 0 for _ in range(50)
    ]
    assert all(20.0 <= wait <= 21.0 for wait in waits)
    assert len(set(waits)) > 40


def test_a_wait_that_is_too_long_ends_the_attempt_with_its_time() -> None:
    """Longer than configured: not sent again, and the sentence names both times."""
    policy = RetryPolicy(max_wait_seconds=300)
    limited = failure(K.RATE_LIMITED, wait_seconds=3600.0)
    assert policy.wait_before_next(limited, failed=ONCE_LIMITED, random=random.Random(1)) is None
    sentence = policy.too_long(3600.0)
    assert sentence is not None
    assert "3,600 s" in sentence
    assert "300 s" in sentence
    assert policy.too_long(300.0) is None


def test_backoff_grows_with_full_jitter() -> None:
    """Without a word from the server, the range of the wait doubles with each try."""
    policy, rng = RetryPolicy(max_attempts=20), random.Random(1)
    longest = [
        max(
            policy.wait_before_next(failure(K.RATE_LIMITED), failed={K.RATE_LIMITED: n}, random=rng)
            or 0
            for _ in range(200)
        )
        for n in range(1, 12)
    ]
    assert all(most <= min(60, 0.5 * 2**n) for n, most in enumerate(longest, start=1))
    assert longest[3] > 4 * longest[0]


def test_a_server_that_says_not_to_retry_is_obeyed() -> None:
    """`x-should-retry: false` goes before everything else."""
    limited = classified(429, b"", x_should_retry="false", retry_after="1")
    assert (
        RetryPolicy().wait_before_next(limited, failed=ONCE_LIMITED, random=random.Random(1))
        is None
    )
    limited = classified(429, b"", x_should_retry="true", retry_after="1")
    assert RetryPolicy().wait_before_next(limited, failed=ONCE_LIMITED, random=random.Random(1))


def test_a_limit_on_open_requests_is_known_by_its_words() -> None:
    """The pacer treats it differently from a limit a minute."""
    assert classified(429, openai("x", message="Too many concurrent requests")).names_concurrency
    assert not classified(429, openai("x", message="Rate limit reached")).names_concurrency


@pytest.mark.parametrize("message", ["Incorrect API key provided.", "Incorrect API key provided"])
def test_a_summary_goes_on_in_a_sentence(message: str) -> None:
    """It ends without a full stop, for whoever puts it into a sentence puts one."""
    failed = classified(401, openai("invalid_api_key", message=message))
    assert failed.summary == "401 (invalid_api_key): Incorrect API key provided"
    assert failed.summary_without_message == "401 (invalid_api_key)"
    assert failed.message == message


def test_an_image_that_was_made_costs_what_an_image_costs() -> None:
    """Also when it could not be fetched and the answer counted the prompt's tokens alone."""
    prices = PriceList.default()
    request = ImageRequest(
        endpoint_id="e", model="gpt-image-1", prompt="a mug", size="1024x1024", quality="high"
    )
    tokens = TokenUsage(input_tokens=12, total_tokens=12, input_text_tokens=12)
    lost = charge(prices, request, failure(K.SAVING_FAILED, tokens=tokens))
    assert lost == prices.cost(request.model, size="1024x1024", quality="high")
    assert lost.basis == "estimated"
    refused = charge(prices, request, failure(K.REFUSED, tokens=tokens))
    assert (refused.usd, refused.basis) == (Decimal("0.00006"), "metered")


SECRET = "a secret\n  product,\u200b no. 9, on a table of oak beside a window " + "and so on " * 90


@pytest.mark.parametrize("prompt", [SECRET, "mug", "prompt", "p", "\n prompt ", "a\tmug"])
def test_a_prompt_is_in_no_message_that_repeats_it(prompt: str) -> None:
    """Neither as it was sent nor as a message spells it, wherever that was cut."""
    sent = redact_prompt(f"<{prompt}> <{prompt}>", prompt)
    assert "".join(sent.split()) == "<[prompt]><[prompt]>"
    message = classified(400, openai(message=f"<{prompt}> is no good")).message
    told = redact_prompt(message, prompt)
    assert "".join(told.split()) == (
        "<[prompt]…" if message.endswith("…") else "<[prompt]>isnogood"
    )


@pytest.mark.parametrize("padding", range(0, 460, 90))
def test_the_beginning_of_a_prompt_goes_as_well(padding: int) -> None:
    """40 characters of it are the prompt; where it is cut does not matter."""
    message = classified(400, openai(message="x" * padding + SECRET)).message
    assert message.endswith("…")
    assert redact_prompt(message, SECRET) == "x" * padding + "[prompt]…"
    quoted = f"'{SECRET[:300]}...' is refused; {SECRET[:50]} too"
    assert redact_prompt(quoted, SECRET) == "'[prompt]...' is refused; [prompt] too"


@pytest.mark.parametrize("prompt", ["\u200b", " ", "\x00\n"])
def test_a_prompt_of_nothing_printable_marks_nothing(prompt: str) -> None:
    """On one line nothing is left of it, which is in every text everywhere."""
    assert redact_prompt("refused", prompt) == "refused"
