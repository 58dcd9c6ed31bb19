"""Which kind of failure an answer is, what each kind means, and how long to wait."""

import json
import random
import time
from dataclasses import replace
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagster_imagegen.engine.attempt import UNKNOWN_COST, Cost, Result, TokenUsage
from dagster_imagegen.engine.endpoint.body import read_body
from dagster_imagegen.engine.endpoint.error_body import error_of_json
from dagster_imagegen.engine.endpoint.failures import (
    AnswerHead,
    Failure,
    classify,
    failure_of,
    refusal_in,
)
from dagster_imagegen.engine.endpoint.kinds import FailureKind
from dagster_imagegen.engine.endpoint.response import Answer, GeneratedImage
from dagster_imagegen.engine.endpoint.retries import RetryPolicy
from dagster_imagegen.engine.endpoint.waits import read_headroom, seconds_in_message, server_wait
from dagster_imagegen.engine.errors import EndpointMisconfigured
from dagster_imagegen.engine.money.price_list import PriceList
from dagster_imagegen.engine.request import ImageRequest
from dagster_imagegen.engine.run.answers import cost_of_answer, result_of_answer
from tests.engine.endpoint.peer import ask, http, says

K = FailureKind
NOW = 1_700_000_000.0


def classified(status: int, body: object = b"", **headers: str) -> Failure:
    """The failure of an answer; header names are given with underscores."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = httpx.Headers({name.replace("_", "-"): value for name, value in headers.items()})
    return classify(data, AnswerHead(http_status=status, headers=named, now=NOW))


def head(http_status: int) -> AnswerHead:
    return AnswerHead(http_status=http_status, headers={}, now=NOW)


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
        (503, b"", {}),
        (503, openai(None, "server_error"), {}),
        (503, {"error": {"code": 503, "message": "busy", "status": "UNAVAILABLE"}}, {}),
        (529, b"", {}),
        (529, {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}, {}),
    ],
    K.SERVER_ERROR: [
        (500, b"", {}),
        (500, openai(None, "server_error"), {}),
        (502, b"<html>", {}),
        (503, openai("image_generation_failed"), {}),
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
# all fail: the error of a run whose requests all fail so; "step" where a retry can help, "wait"
# where the run waits first, "all" where even a table of one row ends so.
MEANING = """
kind           status        billing     in a 200    tries   sending   all fail
RATE_LIMITED   rate_limited  not_billed  not_billed  50      refused   Unreachable step
UNAVAILABLE    failed        not_billed  not_billed  50      refused   Unreachable step wait
UNREACHABLE    failed        not_billed  not_billed  50      unclear   Unreachable step wait
SERVER_ERROR   failed        unknown     unknown     3       accepted  Unreachable step
AMBIGUOUS      unknown       unknown     unknown     1 (3)   accepted  Misconfigured
REFUSED        refused       not_billed  not_billed  1       accepted  -
REJECTED       rejected      not_billed  unknown     1       accepted  Misconfigured
MISCONFIGURED  rejected      not_billed  unknown     1       accepted  Misconfigured all
OUT_OF_CREDIT  rejected      not_billed  not_billed  1       accepted  OutOfCredit all
SAVING_FAILED  failed        billed      billed      1       accepted  Misconfigured
"""
COLUMNS = [0, 15, 29, 41, 53, 61, 71]
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
    status, billing, billing_in_200, told_tries, sending, all_fail = ROWS[kind.name]
    failed = sample(kind)
    assert (failed.status, failed.billing, failed.admission) == (status, billing, sending)
    assert replace(failed, http_status=200).billing == billing_in_200
    tries, allowed = tries_of(failed), tries_of(failed, may_resend_unknown=True)
    assert told_tries == (str(tries) if allowed == tries else f"{tries} ({allowed})")
    assert all_fail == end_of(failed)


def end_of(failed: Failure) -> str:
    """The end of a run whose requests all fail so, in the words of the table."""
    if failed.kind.rules.if_all_fail is None:
        with pytest.raises(ValueError, match="ends no run"):
            failed.error_that_ends_run("e", "All", has_worked=False)
        return "-"
    error = failed.error_that_ends_run("e", "All", has_worked=False)
    words = {
        "step": error.retry_can_help,
        "wait": failed.is_outage,
        "all": failed.kind.rules.concerns_all,
    }
    name = type(error).__name__.removeprefix("Endpoint")
    return " ".join([name, *(word for word, holds in words.items() if holds)])


@pytest.mark.parametrize("kind", FailureKind)
def test_what_has_worked_may_work_again(kind: K) -> None:
    """Then a retry of the step can help, but for an account that cannot pay."""
    if kind.rules.if_all_fail is None:
        return
    error = sample(kind).error_that_ends_run("e", "All", has_worked=True)
    assert error.retry_can_help == (kind is not K.OUT_OF_CREDIT)


@pytest.mark.parametrize(
    ("status", "code", "outage"),
    [
        *((status, None, True) for status in (502, 503, 504, 524, 529)),
        *((status, None, False) for status in (400, 401, 429, 500, 501)),
        (None, "connection_lost", True),
        (None, "read_timeout", False),
    ],
)
def test_what_shows_an_outage(status: int | None, code: str | None, outage: bool) -> None:
    """A gateway that reaches nobody, and a connection that breaks; not a crash, not a refusal."""
    if status is None:
        failed = failure(K.AMBIGUOUS, http_status=None, code=code)
    else:
        failed = classified(status, b"")
    assert failed.is_outage == outage


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
        for n in range(1, 60)
    ]
    assert sorted(waits, key=lambda wait: wait is None) == waits
    return 1 + sum(wait is not None for wait in waits)


def test_the_error_that_ends_a_run_names_the_place_and_the_remedy() -> None:
    """The endpoint's message is left out where prompts must not be recorded."""
    failed = classified(401, openai("invalid_api_key", message="Bad key for 'a mug'."))
    error = failed.error_that_ends_run("api.example, model 'm'", "All", has_worked=False)
    assert isinstance(error, EndpointMisconfigured)
    assert (error.http_status, error.code) == (401, "invalid_api_key")
    assert str(error).startswith(
        "api.example, model 'm': 401 (invalid_api_key): Bad key for 'a mug'. "
    )
    assert "check base_url, api_key, model" in str(error)
    silent = failed.error_that_ends_run("e", "All", has_worked=False, with_message=False)
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
    (422, [{"loc": ["body", "size"], "msg": "bad", "type": "x"}], None, "body.size: bad"),
    (403, {"id": "a", "name": "b", "errors": ["one", "two"]}, "a", "one; two"),
    (403, {"success": False, "errors": [{"code": 9, "message": "m"}]}, None, "m"),
    (400, {"detail": {"error": {"message": "inner"}}}, None, "inner"),
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


SAFETY = (
    "Your request was rejected as a result of our safety system. Your prompt may contain text that "
    "is not allowed by our safety system."
)
QUOTA = "You exceeded your current quota, please check your plan and billing details. "
NO_KEY = "API key not valid. Please pass a valid API key."


def flattened(message: str, code: str = "400", kind: str | None = None) -> Any:
    """An error whose code a proxy has replaced by the status."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def google(status: str, code: int, message: str, *reasons: str) -> Any:
    info = "type.googleapis.com/google.rpc.ErrorInfo"
    details = [{"@type": info, "reason": reason} for reason in reasons]
    return [{"error": {"code": code, "message": message, "status": status, "details": details}}]


def problem(kind: str, message: str, **facts: Any) -> Any:
    return {"loc": ["body", "prompt"], "msg": message, "type": kind, "input": "a mug", **facts}


# How endpoints and proxies say the same thing: kind, status, body.
TOLD: list[tuple[K, int, Any]] = [
    (K.REFUSED, 400, flattened("Upstream error: your request was rejected by the safety system.")),
    (K.REFUSED, 500, flattened("upstream returned 400: moderation_blocked")),
    (K.REFUSED, 400, flattened("Prompt 'a busy street' violates our content policy")),
    (K.REFUSED, 400, flattened("It couldn't be done: the prompt was deemed inappropriate.")),
    (K.OUT_OF_CREDIT, 400, flattened("Your credit has already expired")),
    # refused, by a type, a reason, a flag, a part of a code
    (K.REFUSED, 400, openai(None, "image_generation_user_error")),
    (K.REFUSED, 400, openai("400", "image_generation_user_error")),
    (K.REFUSED, 422, {"detail": [problem("content_policy_violation", "Flagged.")]}),
    (K.REFUSED, 422, {"detail": [problem("x", "a"), problem("content_policy_violation", "b")]}),
    (K.REFUSED, 422, [problem("content_policy_violation", "The content was flagged.")]),
    (K.REFUSED, 422, {"detail": {"error": {"code": "content_policy_violation"}}}),
    (K.REFUSED, 403, {"error": {"code": 403, "message": "Input requires moderation",
        "metadata": {"reasons": ["violence"], "flagged_input": "a", "provider_name": "p"}}}),
    (K.REFUSED, 403, {"error": {"code": 403, "metadata": {"reasons": ["sexual"]}}}),
    (K.REFUSED, 403, {"error": {"code": "forbidden", "metadata": {"reasons": ["sexual"]}}}),
    (K.REFUSED, 400, {"error": {"code": 400, "message": "Provider returned error",
        "metadata": {"raw": '{"error": {"code": "moderation_blocked", "message": "no"}}'}}}),
    (K.REFUSED, 400, {"code": "imagine:content-moderated", "error": "Rejected by moderation."}),
    (K.REFUSED, 403, {"code": "The caller does not have permission to execute the operation",
        "error": "Content violates usage guidelines. Team: t, API key ID: k, Model: grok-2, "
        "Failed check: SAFETY_CHECK_TYPE_BIO"}),
    (K.REFUSED, 400, {"error": {"code": "400", "innererror": {"code": "x",
        "content_filter_result": {"hate": {"filtered": True, "severity": "high"}}}}}),
    (K.REFUSED, 400, {"error": {"code": "contentFilter", "message": "Your task failed."}}),
    (K.REFUSED, 403, {"id": "1", "name": "content_moderation", "errors": ["Your request was "
        "flagged by our content moderation system, as a result your request was denied."]}),
    (K.REFUSED, 400, google("INVALID_ARGUMENT", 400, "Invalid.", "PUBLIC_ERROR_UNSAFE_GENERATION")),
    (K.REFUSED, 400, google("INVALID_ARGUMENT", 400, "The prompt could not be submitted. This "
        "prompt contains sensitive words that violate Google's Responsible AI practices.")),
    (K.REFUSED, 400, {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}),
    (K.REFUSED, 400, {"error": {"code": "InputTextSensitiveContentDetected", "message": "no"}}),
    (K.REFUSED, 400, {"code": "DataInspectionFailed", "message": "Input data may be unsafe."}),
    (K.REFUSED, 400, {"status": "Request Moderated", "details": {"Moderation Reasons": ["x"]}}),
    # refused, or out of credit, by any part of a code
    (K.REFUSED, 400, openai("DataInspectionFailed.Prompt")),
    (K.REFUSED, 400, openai("InvalidParameter.DataInspectionFailed")),
    (K.REFUSED, 400, openai("SAFETY:sexual")),
    (K.REFUSED, 400, openai("content_filter:high")),
    (K.REFUSED, 400, openai("content_filter/violence/graphic")),
    (K.REFUSED, 400, openai("api:content_filter:high")),
    (K.REFUSED, 400, openai("invalid_request_error.content_filter")),
    (K.REFUSED, 400, openai("https://e.com/errors/content_filter")),
    (K.REFUSED, 400, openai("https://e.com/errors#content_filter:high")),
    (K.REFUSED, 400, openai("InternalError.Algo.DataInspectionFailed")),
    (K.REFUSED, 400, openai("InputTextSensitiveContentDetected.PolicyViolation")),
    (K.REFUSED, 400, openai("InputTextRiskDetection")),
    (K.OUT_OF_CREDIT, 400, openai("PrepaidBillOverdue")),
    (K.OUT_OF_CREDIT, 400, openai("OperationDenied.ServiceOverdue")),
    (K.OUT_OF_CREDIT, 403, openai("AllocationQuota.FreeTierOnly")),
    (K.OUT_OF_CREDIT, 200, {"code": 500, "msg": "账户余额不足"}),
    (K.OUT_OF_CREDIT, 400, flattened("Credit limit exceeded, please navigate to billing.")),
    (K.OUT_OF_CREDIT, 400, flattened("This request requires more credits, or fewer images.")),
    (K.OUT_OF_CREDIT, 400, openai("Arrearage.Overdue")),
    (K.OUT_OF_CREDIT, 400, openai("insufficient_quota:monthly")),
    (K.OUT_OF_CREDIT, 403, openai("AccountOverdueError.User")),
    (K.OUT_OF_CREDIT, 400, openai("insufficient_quota.account")),
    # refused, by nothing but a sentence
    (K.REFUSED, 400, flattened("The prompt goes against content policy")),
    (K.REFUSED, 403, flattened("Your prompt goes against community guidelines.")),
    (K.REFUSED, 400, flattened("Checked against content filters: flagged")),
    (K.REFUSED, 400, flattened("Sorry, I can't help with that request.")),
    (K.REFUSED, 400, flattened("I'm sorry, but I can’t assist with that.")),
    (K.REFUSED, 403, {"error": {"code": 500, "message": "no", "metadata": {"reasons": ["x"]}}}),
    (K.REFUSED, 400, flattened(SAFETY)),
    (K.REFUSED, 400, flattened(SAFETY, "bad_request", "invalid_request_error")),
    (K.REFUSED, 500, flattened(SAFETY, "bad_response_status_code", "upstream_error")),
    (K.REFUSED, 400, {"message": SAFETY}),
    (K.REFUSED, 400, SAFETY.encode()),
    (K.REFUSED, 400, {"code": "400", "error": "Generated image rejected by content moderation."}),
    (K.REFUSED, 400, {"detail": "NSFW content detected"}),
    (K.REFUSED, 400, {"detail": "The prompt contains banned words"}),
    (K.REFUSED, 400, {"message": "Input prompt is potentially NSFW", "type": "BadRequestError"}),
    (K.REFUSED, 400, {"detail": "Content blocked"}),
    (K.REFUSED, 400, flattened("No image data; finishReason=IMAGE_SAFETY")),
    (K.REFUSED, 400, {"detail": "Response was blocked due to safety."}),
    (K.REFUSED, 400, flattened("内容安全审核未通过")),
    (K.REFUSED, 400, flattened("プロンプトがポリシーに違反しています")),
    (K.REFUSED, 400, flattened("Votre demande enfreint notre politique de contenu.")),
    (K.REFUSED, 400, flattened("La solicitud infringe las políticas de contenido.")),
    (K.REFUSED, 400, {"detail": "The image was withheld for safety reasons."}),
    (K.REFUSED, 400, {"message": "The output may be too similar to third-party content."}),
    (K.REFUSED, 422, flattened("The prompt may contain NSFW content. Try another.", "422")),
    (K.REFUSED, 400, flattened("Invalid prompt: your prompt was flagged as potentially violating "
        "our usage policy.", "invalid_prompt", "invalid_request_error")),
    (K.REFUSED, 400, {"message": "This request has been blocked by our content filters. Your "
        "generated image(s) may conflict our AUP or AWS Responsible AI Policy."}),
    (K.REFUSED, 400, flattened('litellm.BadRequestError: AzureException - {"error":{"code":"x",'
        '"inner_error":{"code":"ResponsibleAIPolicyViolation","content_fil')),
    (K.REFUSED, 400, flattened("Error code: 400 - {'error': {'message': 'no', 'code': "
        "'moderation_blocked'}}")),
    (K.REFUSED, 429, flattened("The prompt did not pass the safety check.", "429")),
    (K.REFUSED, 400, flattened("输入文本包含敏感内容,请修改后重试")),
    (K.REFUSED, 400, flattened("Der Prompt verstößt gegen unsere Inhaltsrichtlinien.")),
    (K.REFUSED, 400, {"error": {"code": "PROMPT_MODERATION_FAILED", "message": "no"}}),
    (K.REFUSED, 400, {"code": "NSFW_CONTENT_DETECTED_IN_PROMPT", "message": "no"}),
    (K.REFUSED, 400, {"error": {"code": "safety_check_failed"}}),
    (K.REFUSED, 400, {"error": {"code": "unsafe_prompt", "message": "no"}}),
    (K.REFUSED, 400, flattened("Input blocked by Prompt Shield: jailbreak detected.")),
    (K.REFUSED, 400, {"errors": [{"code": "invalidPositivePrompt", "message": "Your prompt was "
        "deemed inappropriate."}]}),
    (K.REFUSED, 400, flattened("The prompt is not allowed by moderation.")),
    (K.REFUSED, 400, flattened("I'm sorry, but I can't create images of graphic violence.")),
    (K.REFUSED, 400, flattened("Запрос отклонён: содержимое нарушает политику.")),
    # the account cannot pay
    (K.OUT_OF_CREDIT, 400, openai(None, "budget_exceeded")),
    (K.OUT_OF_CREDIT, 429, openai("429", "budget_exceeded")),
    (K.OUT_OF_CREDIT, 400, flattened("litellm.BadRequestError: Budget has been exceeded! Current "
        "cost: 14.2, Max budget: 10")),
    (K.OUT_OF_CREDIT, 400, flattened("ExceededBudget: End User=a over budget. Spend=2, Budget=1")),
    (K.OUT_OF_CREDIT, 429, {"code": "Some resource has been exhausted", "error": "Your team t has "
        "either used all available credits or reached its monthly spending limit. To continue "
        "making API requests, please purchase more credits or raise your spending limit."}),
    (K.OUT_OF_CREDIT, 429, flattened(QUOTA, "429")),
    (K.OUT_OF_CREDIT, 400, flattened("You have no credits left.")),
    (K.OUT_OF_CREDIT, 400, flattened("Payment is required.")),
    (K.OUT_OF_CREDIT, 403, flattened("You have unpaid invoices.", "403")),
    (K.OUT_OF_CREDIT, 403, flattened("Billing is disabled.", "403")),
    (K.OUT_OF_CREDIT, 429, flattened("Your account is not active, please check your billing "
        "details on our website.", "429")),
    (K.OUT_OF_CREDIT, 429, flattened("litellm.RateLimitError: RateLimitError: OpenAIException - "
        + QUOTA, "429", "throttling_error")),
    (K.OUT_OF_CREDIT, 400, flattened("Your credit balance is too low to access the API.")),
    (K.OUT_OF_CREDIT, 403, flattened("This API method requires billing to be enabled.")),
    (K.OUT_OF_CREDIT, 429, flattened("You have exceeded your monthly usage limit.", "429")),
    (K.OUT_OF_CREDIT, 400, flattened("Billing hard limit has been reached")),
    (K.OUT_OF_CREDIT, 400, flattened("Billing hard limit has been reached",
        kind="image_generation_user_error")),
    (K.OUT_OF_CREDIT, 429, google("RESOURCE_EXHAUSTED", 429, "Your prepayment credits are "
        "depleted.")),
    (K.OUT_OF_CREDIT, 403, google("PERMISSION_DENIED", 403, "Enable billing.", "BILLING_DISABLED")),
    (K.OUT_OF_CREDIT, 403, {"error": {"code": "insufficient_user_quota", "message": "no"}}),
    (K.OUT_OF_CREDIT, 403, {"error": "insufficient_credits"}),
    (K.OUT_OF_CREDIT, 400, {"code": "Arrearage", "message": "Access denied."}),
    (K.OUT_OF_CREDIT, 403, {"success": False, "errors": [{"code": 1, "message": "余额不足"}]}),
    (K.OUT_OF_CREDIT, 400, {"error": {"code": "INSUFFICIENT_BALANCE_AMOUNT"}}),
    (K.OUT_OF_CREDIT, 403, {"error": {"code": "SUBSCRIPTION_INACTIVE", "message": "no"}}),
    (K.OUT_OF_CREDIT, 403, {"code": "quota_not_enough", "message": "User quota is not enough."}),
    (K.OUT_OF_CREDIT, 400, flattened("Not enough tokens left on your plan.")),
    (K.OUT_OF_CREDIT, 400, flattened("Your subscription has expired.")),
    (K.OUT_OF_CREDIT, 400, flattened("Wallet balance is below the minimum.")),
    (K.OUT_OF_CREDIT, 403, flattened("Please top up your account to continue.", "403")),
    (K.OUT_OF_CREDIT, 429, flattened("You have reached your plan's monthly image limit.", "429")),
    (K.OUT_OF_CREDIT, 429, flattened("Your free trial credits have expired.", "429")),
    (K.OUT_OF_CREDIT, 429, flattened("Your account is in arrears, please recharge.", "1113")),
    (K.OUT_OF_CREDIT, 400, flattened("Votre solde est insuffisant.")),
    (K.OUT_OF_CREDIT, 400, flattened("Ihr Guthaben reicht nicht aus.")),
    (K.OUT_OF_CREDIT, 400, flattened("Saldo insuficiente.")),
    # the key or the account is not accepted
    (K.MISCONFIGURED, 400, google("INVALID_ARGUMENT", 400, NO_KEY, "API_KEY_INVALID")),
    (K.MISCONFIGURED, 400, flattened(NO_KEY)),
    (K.MISCONFIGURED, 400, {"code": "Client specified an invalid argument", "error": "Incorrect "
        "API key provided: xa***ey. You can obtain an API key from https://console.x.ai."}),
    (K.MISCONFIGURED, 400, flattened("You didn't provide an API key.")),
    (K.MISCONFIGURED, 403, flattened("Your API key was reported as leaked.", "403")),
    (K.MISCONFIGURED, 400, flattened("无效的令牌")),
    (K.MISCONFIGURED, 429, flattened("Incorrect API key provided", "429")),
    (K.MISCONFIGURED, 400, flattened("Authentication Error, Invalid proxy server token passed.")),
    (K.MISCONFIGURED, 400, flattened("no", kind="token_not_found_in_db")),
    (K.MISCONFIGURED, 400, flattened("Your account was suspended for violating our policies.")),
    (K.MISCONFIGURED, 400, {"success": False, "errors": [{"code": 1, "message": "Authentication "
        "error"}]}),
    (K.MISCONFIGURED, 400, flattened("JWT expired")),
    (K.MISCONFIGURED, 400, flattened("invalid x-api-key")),
    (K.MISCONFIGURED, 400, flattened("Bearer token could not be decoded.")),
    (K.MISCONFIGURED, 400, flattened("The API key you provided has been deleted.")),
    (K.MISCONFIGURED, 429, flattened("The API key is not authorized.", "429")),
    (K.MISCONFIGURED, 400, {"error": {"code": "INVALID_CREDENTIALS"}}),
    # the model is not there
    (K.MISCONFIGURED, 400, flattened("No endpoints found for openai/gpt-image-9.")),
    (K.MISCONFIGURED, 400, flattened("gpt-image-1 is no longer available.")),
    (K.MISCONFIGURED, 400, flattened("The engine gpt-image-9 could not be found.")),
    (K.MISCONFIGURED, 400, openai("model_shutdown")),
    (K.MISCONFIGURED, 400, flattened("The model `gpt-image-9` does not exist or you do not have "
        "access to it.")),
    (K.MISCONFIGURED, 400, flattened("Invalid model name passed in model=gpt-image-9.")),
    (K.MISCONFIGURED, 400, flattened("The model gpt-image-1 has been deprecated.")),
    (K.MISCONFIGURED, 403, flattened("Project p does not have access to model m", "403")),
    (K.MISCONFIGURED, 400, flattened("模型 gpt-image-9 不存在")),
    (K.MISCONFIGURED, 429, flattened("Model not found: gpt-image-9", "429")),
    (K.MISCONFIGURED, 400, {"detail": "models/imagen-9 is not found for API version v1beta"}),
    (K.MISCONFIGURED, 400, openai(None, "key_model_access_denied")),
    (K.MISCONFIGURED, 400, {"message": "gpt-image-9 is not a valid model ID"}),
    (K.MISCONFIGURED, 400, flattened("seedream-4.0 is no longer available")),
    (K.MISCONFIGURED, 400, flattened("stable-image-ultra is no longer available")),
    (K.MISCONFIGURED, 400, flattened("Error: `imagen-3.0-generate` is no longer supported, sorry")),
    (K.MISCONFIGURED, 400, flattened("Invalid request: model: flux was not found")),
    (K.MISCONFIGURED, 400, flattened("Model gpt-image-1 is not available in this region.")),
    (K.MISCONFIGURED, 400, flattened("Incorrect API key provided", "500")),
    (K.MISCONFIGURED, 401, flattened("Incorrect API key provided", "x", "server_error")),
    (K.MISCONFIGURED, 404, flattened("The model `x` does not exist", "x", "server_error")),
    (K.MISCONFIGURED, 400, flattened("The model `gpt-image-9` does not exist. Please check the "
        "model name and try again.")),
    (K.MISCONFIGURED, 400, flattened("Invalid model: gpt-9. Please try again")),
    (K.MISCONFIGURED, 400, flattened("The model foobar does not exist or you do not have access "
        "to it.")),
    (K.MISCONFIGURED, 400, flattened("Model imagen-3.0 is no longer available to new users.")),
    (K.MISCONFIGURED, 400, flattened("gpt-image-1 is no longer supported as of 2026-10-23")),
    (K.MISCONFIGURED, 404, openai("ModelNotOpen")),
    (K.MISCONFIGURED, 403, openai("InvalidEndpointOrModel.ModelIDAccessDisabled")),
    (K.MISCONFIGURED, 403, openai("AccessDenied.Unpurchased")),
    # a limit on requests
    (K.RATE_LIMITED, 429, google("RESOURCE_EXHAUSTED", 429, QUOTA + "For more information, see "
        "https://ai.google.dev/gemini-api/docs/rate-limits. Quota exceeded for metric: x.")),
    (K.RATE_LIMITED, 429, google("RESOURCE_EXHAUSTED", 429, "Resource has been exhausted (e.g. "
        "check quota).")),
    (K.RATE_LIMITED, 403, google("PERMISSION_DENIED", 403, "no", "rateLimitExceeded")),
    (K.RATE_LIMITED, 400, flattened("You have exceeded the rate limit.")),
    (K.RATE_LIMITED, 400, flattened("请求过于频繁")),
    (K.RATE_LIMITED, 400, flattened("Rate limit reached for images per minute.")),
    (K.RATE_LIMITED, 429, {"id": "too_many_requests", "message": "API Rate limit exceeded."}),
    (K.RATE_LIMITED, 403, {"error": {"code": "TooManyRequestsException"}}),
    (K.RATE_LIMITED, 400, {"error": {"code": "ThrottlingException.User"}}),
    (K.RATE_LIMITED, 400, flattened("Requests are being throttled, retry after 3 seconds.")),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "http_status", "body"), TOLD)
def test_everything_that_an_error_says_is_read(kind: K, http_status: int, body: Any) -> None:
    """Wherever it stands: a code, a type, a reason, a flag, or nothing but a sentence."""
    assert classified(http_status, body).kind is kind


# Texts that are near to one of the above and mean something else.
NOT_TOLD: list[tuple[K, int, Any]] = [
    (K.SERVER_ERROR, 500, flattened("Request failed content moderation: 502 Bad Gateway")),
    (K.SERVER_ERROR, 500, flattened("Failed the safety check: could not reach classifier")),
    (K.SERVER_ERROR, 500, flattened("Prompt blocked: moderation service error")),
    (K.REJECTED, 400, flattened("Safety check failed, please try again")),
    (K.REJECTED, 400, flattened("Prompt moderation failed: ECONNREFUSED")),
    (K.REJECTED, 400, flattened("Sorry, I cannot generate images at this time.")),
    (K.REJECTED, 400, flattened("image_size is not allowed by content-type policy")),
    (K.REJECTED, 400, flattened("your prompt is too long")),
    (K.REJECTED, 400, flattened("safety_identifier is unknown")),
    (K.REJECTED, 400, flattened("Unknown parameter: 'safety filter' is not allowed.")),
    (K.REJECTED, 400, {"error": "Unknown parameter: safety"}),
    (K.REJECTED, 400, flattened("moderation must be one of low, auto; high is not allowed")),
    (K.REJECTED, 400, flattened("The field content_filter was rejected")),
    (K.REJECTED, 400, flattened("model gpt-image-1: size 17x17 is not supported")),
    (K.REJECTED, 400, flattened("The model gpt-image-1 is not supported with background")),
    (K.REJECTED, 400, flattened("The prompt contains illegal characters")),
    (K.REJECTED, 400, flattened("Prompt violates the constraint max_length 1000")),
    (K.REJECTED, 400, flattened("No image was found in the request body")),
    (K.REJECTED, 400, flattened("frames per second must be at most 30")),
    (K.REJECTED, 400, flattened("Request is prohibited by organization's policy.")),
    (K.REJECTED, 400, flattened("no model weights are loaded")),
    (K.REJECTED, 400, flattened("model 'x' is currently overloaded")),
    (K.REJECTED, 400, flattened("The image size is not supported by this model")),
    (K.REJECTED, 400, flattened("You have insufficient permissions for this operation.")),
    (K.REJECTED, 400, flattened("Blocked by Content Security Policy")),
    (K.REJECTED, 400, openai("invalid_value", "image_generation_user_error")),
    (K.REJECTED, 400, flattened("Invalid value: '17x17'. Supported values are: '1024x1024'.",
        kind="image_generation_user_error")),
    (K.REJECTED, 400, {"error": {"type": "image_generation_user_error", "param": "size",
        "message": "no", "code": None}}),
    (K.REJECTED, 400, {"error": {"param": "n", "message": "no content filter was violated"}}),
    (K.REJECTED, 400, {"error": {"code": "x", "innererror": {
        "content_filter_result": {"hate": {"filtered": False}}}}}),
    (K.REJECTED, 400, {"error": {"code": "x", "metadata": {"reasons": []}}, "flagged": False}),
    (K.MISCONFIGURED, 422, {"detail": [{"loc": ["body", "prompt"], "msg": "too long",
        "type": "string_too_long", "input": SAFETY, "ctx": {"flagged": True}}]}),
    (K.MISCONFIGURED, 403, b"<html><title>Request blocked by content filter policy</title></html>"),
    (K.MISCONFIGURED, 403, b"<html><title>Attention Required! | Cloudflare</title></html>"),
    (K.RATE_LIMITED, 429, flattened("rate limit exceeded: please check your plan", "429")),
    (K.RATE_LIMITED, 429, flattened("quota exceeded for requests per minute", "429")),
    (K.RATE_LIMITED, 429, flattened("Rate limit reached. You can increase your limit by adding "
        "a payment method to your account at https://platform.openai.com/account/billing.", "429")),
    (K.RATE_LIMITED, 429, flattened("Too many requests were blocked by our usage policy", "429")),
    (K.RATE_LIMITED, 429, flattened("Add credits to your account for higher limits", "429")),
    (K.RATE_LIMITED, 429, {"error": {"code": 429, "metadata": {"reasons": ["x"]}}}),
    (K.UNAVAILABLE, 503, flattened("The content moderation service is unavailable", "503")),
    (K.UNAVAILABLE, 503, flattened("Model gpt-image-1 is not available", "503")),
    (K.SERVER_ERROR, 500, flattened("The safety system timed out", "500")),
    (K.SERVER_ERROR, 500, flattened("Incorrect API key provided", "500")),
    (K.SERVER_ERROR, 502, b""),
    (K.AMBIGUOUS, 504, flattened(SAFETY, "504")),
    (K.OUT_OF_CREDIT, 402, flattened("Rate limit exceeded", "402")),
    (K.REJECTED, 400, flattened("I can't create images larger than 4096 pixels.")),
    (K.REJECTED, 400, {"error": {"type": "moderation_error", "message": "no"}}),
    # the moderation that cannot work, and a server that is sorry
    (K.AMBIGUOUS, 504, {"error": {"code": "content_filter.timeout", "message": "no"}}),
    (K.UNAVAILABLE, 503, {"error": {"code": "content_filter:unavailable", "message": "no"}}),
    (K.REJECTED, 400, {"error": {"type": "https://e.com/safety/size", "message": "no"}}),
    (K.REJECTED, 400, {"error": {"type": "/errors/safety/size", "message": "no"}}),
    # a code of which a part speaks against the other
    (K.REJECTED, 400, openai("timeout:content_filter")),
    *((K.SERVER_ERROR, 500, openai(f"content_filter{rest}")) for rest in
      (".down", ".unreachable", ":exception", ".offline", ":503", ".py:112", ":safe")),
    (K.SERVER_ERROR, 500, {"message": "Worker crashed", "title": "safety/worker-3"}),
    (K.SERVER_ERROR, 500, {"error": "nsfw:服务不可用"}),
    (K.UNAVAILABLE, 503, {"error": "NSFW检测服务不可用"}),
    *((K.REJECTED, 400, openai(f"safety.{rest}")) for rest in
      ("tolerance.max", "threshold", "not_configured", "off", "skipped", "passed", "ok", "level")),
    (K.UNAVAILABLE, 503, openai("model_not_found.loading")),
    (K.UNAVAILABLE, 503, openai("insufficient_funds.check_pending")),
    (K.AMBIGUOUS, 500, openai("InternalError.Timeout")),
    (K.AMBIGUOUS, 500, openai("upstream_server.timeout")),
    (K.UNAVAILABLE, 503, openai("timeout.connect")),
    (K.RATE_LIMITED, 429, openai("Timeout.Queue")),
    (K.REJECTED, 400, openai("content_filter.timeout")),
    (K.REJECTED, 400, openai("content_filter.timed_out")),
    (K.REJECTED, 400, openai("content_filter.overloaded")),
    (K.REJECTED, 400, openai("content_filter.internal")),
    (K.REJECTED, 400, openai("content_filter.disabled")),
    (K.REJECTED, 400, openai("safety.invalid_value")),
    (K.REJECTED, 400, openai("safety:unknown_level")),
    (K.REJECTED, 400, openai("safety:missing")),
    (K.REJECTED, 400, {"error": "Wrong value of the option: safety"}),
    (K.REJECTED, 400, openai("content_filter.error")),
    (K.REJECTED, 400, openai("content_filter.check_failed")),
    (K.REJECTED, 400, openai("unavailable:content_filter")),
    (K.REJECTED, 400, openai("server_error:content_filter")),
    (K.REJECTED, 400, openai("moderation_blocked:busy")),
    (K.REJECTED, 400, openai("prompt_blocked:busy")),
    (K.REJECTED, 400, openai("safety.not_supported")),
    (K.REJECTED, 400, openai("safety.unsupported_value")),
    (K.REJECTED, 400, openai("invalid_model:safety")),
    (K.MISCONFIGURED, 403, openai("billing_error.unavailable")),
    (K.RATE_LIMITED, 400, openai("slow_down:safety")),
    (K.RATE_LIMITED, 503, openai("safety:slow_down")),
    (K.RATE_LIMITED, 429, openai("insufficient_quota:rate_limit_exceeded")),
    (K.RATE_LIMITED, 400, openai("ThrottlingException.ServerBusy")),
    (K.SERVER_ERROR, 500, flattened("Sorry, I am unable to generate images right now.", "500")),
    (K.SERVER_ERROR, 500, flattened("Sorry, I cannot generate this image.", "500")),
    (K.REJECTED, 400, flattened("Sorry, we are busy, so I cannot generate this image.")),
    (K.SERVER_ERROR, 500, flattened("Safety check failed: internal error", "500")),
    (K.SERVER_ERROR, 500, {"error": {"code": "SAFETY_CHECK_FAILED", "message": "no"}}),
    (K.REJECTED, 400, flattened("Prompt moderation failed: connection refused")),
    (K.REJECTED, 400, flattened("Prompt moderation failed: upstream returned 502")),
    (K.REJECTED, 400, flattened("Content moderation service: connection refused")),
    (K.REJECTED, 400, flattened("The prompt could not be found harmful.")),
    # one row's value, or a passing state, is not the account or the model
    (K.REJECTED, 400, flattened("The value low-res is no longer supported.")),
    (K.REJECTED, 400, flattened("worker-3.internal is no longer available.")),
    (K.REJECTED, 400, flattened("Deployment is not available.")),
    (K.REJECTED, 400, flattened("Load balance session expired.")),
    (K.REJECTED, 400, flattened("Load balance expired.")),
    (K.REJECTED, 400, flattened("The load-balance pool is exhausted.")),
    (K.REJECTED, 400, flattened("The white balance is too low.")),
    (K.REJECTED, 400, flattened("Color balance is negative, colour balance is too low.")),
    (K.REJECTED, 400, flattened("The model server is no longer available")),
    (K.REJECTED, 400, flattened("The model instance is no longer available")),
    (K.REJECTED, 400, flattened("The model server-2 was not found")),
    (K.REJECTED, 400, flattened("The engine worker does not exist")),
    (K.REJECTED, 400, flattened("The model output could not be found")),
    (K.REJECTED, 400, flattened("The model is not available. Retry in a minute.")),
    (K.REJECTED, 400, flattened("The model server is not available in your region")),
    (K.REJECTED, 400, flattened("The server is not available in this region")),
    (K.REJECTED, 400, flattened("The server of the model gpt-image-1 is not available")),
    (K.REJECTED, 400, flattened("The model gpt-image-1 is not available. Please try again.")),
    (K.REJECTED, 400, flattened("The model is not available. It is temporarily down.")),
    (K.REJECTED, 400, flattened("The image imagen-1.png is no longer available")),
    (K.REJECTED, 400, flattened("imagen-1.png is no longer available")),
    (K.REJECTED, 400, flattened("Size 1024x1024 of gpt-image-1 is no longer supported")),
    (K.REJECTED, 400, flattened("Size 1024x1024 of the model gpt-image-1 is no longer supported")),
    (K.REJECTED, 400, flattened("gpt-image-1 is no longer supported with this size")),
    # what is denied
    (K.REJECTED, 400, flattened("The image was not flagged")),
    (K.REJECTED, 400, flattened("The image was never flagged")),
    (K.REJECTED, 400, flattened("The image hasn’t been flagged")),
    (K.REJECTED, 400, flattened("The image has never been flagged")),
    (K.REJECTED, 400, flattened("No image was flagged")),
    (K.REJECTED, 400, flattened("The prompt was not blocked by the content filter")),
    (K.REJECTED, 400, flattened("It was not flagged by moderation")),
    (K.REJECTED, 400, flattened("Make sure that the prompt does not violate our guidelines")),
    (K.REJECTED, 400, flattened("It does not violate our policies")),
    (K.REJECTED, 400, flattened("It does not contain sensitive content")),
    (K.REJECTED, 400, flattened("It contains no sensitive content")),
    (K.REJECTED, 400, flattened("It has not failed the safety check")),
    (K.REJECTED, 400, flattened("No content filter was triggered")),
    (K.REJECTED, 400, flattened("No NSFW content detected")),
    (K.REJECTED, 400, flattened("No NSFW was found")),
    (K.REJECTED, 400, flattened("No jailbreak detected")),
    (K.REJECTED, 400, flattened("No unsafe prompt was seen")),
    (K.REJECTED, 400, flattened("No content was blocked")),
    # an apology is no refusal unless it says of what
    (K.REJECTED, 400, flattened("Sorry, I can't generate more images, come back tomorrow")),
    (K.REJECTED, 400, flattened("Sorry, I can't make an image of that size")),
    (K.REJECTED, 400, flattened("Sorry, I can't make violent images today")),
    # a body that says that the server failed
    (K.REJECTED, 400, flattened("Safety check failed", "500")),
    (K.SERVER_ERROR, 400, flattened("Safety check failed", "x", "server_error")),
    (K.SERVER_ERROR, 200, flattened("Safety check failed", "500")),
    (K.SERVER_ERROR, 200, flattened("Safety check failed", "x", "server_error")),
    (K.AMBIGUOUS, 200, flattened(SAFETY, "504")),
    (K.AMBIGUOUS, 504, flattened(SAFETY, "500")),
    (K.MISCONFIGURED, 302, flattened(SAFETY, "500")),
    (K.RATE_LIMITED, 429, flattened("What a request takes of your credits is told below.", "429")),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "http_status", "body"), NOT_TOLD)
def test_what_only_looks_like_evidence_is_none(kind: K, http_status: int, body: Any) -> None:
    """A refusal is for good, and an empty account ends the run: no guess may do that."""
    assert classified(http_status, body).kind is kind


@pytest.mark.parametrize(
    ("http_status", "message"),
    [
        (403, "Your account has been flagged for violating our usage policies and was blocked"),
        (503, "The safety checker is overloaded; request rejected, try later"),
        (500, "Content moderation service timed out; image rejected"),
        (400, "moderation system error: request rejected, please retry"),
        (400, "Project blocked: organization must accept usage policies"),
    ],
)
def test_trouble_with_moderation_itself_is_no_refusal(http_status: int, message: str) -> None:
    """Nor is trouble with the account: a refused row would not be requested again."""
    assert classified(http_status, openai(message=message)).kind is not K.REFUSED


REFUSALS_IN_200: list[tuple[Any, str]] = [
    ({"data": [], "flagged": True}, "unknown"),
    ({"data": [], "moderation": {"flagged": True, "categories": {"violence": True}}}, "unknown"),
    ({"data": [], "moderation": "blocked"}, "unknown"),
    ({"data": [], "blocked": True}, "unknown"),
    ({"data": [{"nsfw": True, "url": None}]}, "unknown"),
    ({"images": [], "has_nsfw_concepts": [True]}, "unknown"),
    ({"data": [{"content_filter_results": {"hate": {"filtered": True}}}]}, "unknown"),
    ({"data": [{"finish_reason": "content_filter"}]}, "unknown"),
    ({"artifacts": [{"finishReason": "CONTENT_FILTERED"}]}, "unknown"),
    ({"candidates": [{"finishReason": "IMAGE_SAFETY", "content": {}}]}, "unknown"),
    ({"predictions": [{"raiFilteredReason": "58061214"}]}, "unknown"),
    ({"data": [{"respect_moderation": False, "url": ""}]}, "unknown"),
    ({"choices": [{"message": {"refusal": "I can't help with that."}}]}, "unknown"),
    ({"status": "Content Moderated"}, "unknown"),
    ({"data": [], "message": SAFETY}, "unknown"),
    ({"data": [], "promptFeedback": {"blockReason": "SAFETY"}}, "not_billed"),
    ({"data": [], "prompt_filter_results": [{"content_filter_results": {
        "sexual": {"filtered": True}}}]}, "not_billed"),
    ({"data": [], "flagged": True, "usage": {"cost_in_usd_ticks": 5}}, "billed"),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "billing"), REFUSALS_IN_200)
def test_a_success_without_an_image_can_be_a_refusal(answer: Any, billing: str) -> None:
    """It may have been billed, unless the prompt itself was blocked or the answer names a bill."""
    failed = read_body(json.dumps(answer).encode(), head(200))
    assert isinstance(failed, Failure)
    assert (failed.kind, failed.billing) == (K.REFUSED, billing)
    assert failed.message


@pytest.mark.parametrize(
    "answer",
    [
        {"data": []},
        {"data": [], "moderation": "low"},
        {"data": [], "moderation": {"flagged": False, "categories": {"violence": False}}},
        {"data": [{"nsfw": False, "has_nsfw_concepts": [False], "finish_reason": "stop"}]},
        {"data": [{"content_filter_results": {"hate": {"filtered": False}}}]},
        {"data": [{"respect_moderation": True, "revised_prompt": SAFETY}]},
        {"data": [], "promptFeedback": {"blockReason": "BLOCK_REASON_UNSPECIFIED"}},
        {"data": [], "status": "processing", "message": "queued"},
        {"data": [], "code": "insufficient_balance"},
        {
            "data": [],
            "message": "Sorry, I can't generate more images today, please try tomorrow",
        },
        {"data": [], "message": "Sorry, I can't generate more images, come back tomorrow"},
        {"data": [], "message": "The image was not flagged"},
        {"data": [], "code": 500, "message": "Safety check failed"},
        [],
        None,
        "text",
    ],
)
def test_a_success_without_a_flag_is_no_refusal(answer: Any) -> None:
    """Moderation that found nothing, and a parameter that is repeated, are no flags."""
    assert refusal_in(answer) is None


def test_a_success_can_say_that_the_account_is_empty() -> None:
    """An error of status 200 is read like any other; its outcome is unknown if it says nothing."""
    for body, kind in [
        ({"error": {"code": 402, "message": "Insufficient balance"}}, K.OUT_OF_CREDIT),
        ({"code": 1102, "msg": "余额不足"}, K.OUT_OF_CREDIT),
        ({"error": {"type": "image_generation_user_error", "message": "no"}}, K.REFUSED),
        ({"error": {"message": "no"}}, K.AMBIGUOUS),
    ]:
        error = error_of_json(body)
        assert failure_of(error, head(200), otherwise=K.AMBIGUOUS).kind is kind


def test_a_moderated_image_that_was_billed_is_billed() -> None:
    """xAI bills the image that its moderation keeps back, and says what it cost."""
    body = {
        "code": "imagine:content-moderated",
        "error": "Generated image rejected by content moderation.",
        "usage": {"cost_in_usd_ticks": 200_000_000},
    }
    failed = classified(400, body)
    assert (failed.kind, failed.billing) == (K.REFUSED, "billed")
    assert failed.reported_cost_usd == Decimal("0.02")
    assert failed.code_without_text == "imagine:content-moderated"
    assert classified(400, {**body, "usage": None}).billing == "unknown"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (google("INVALID_ARGUMENT", 400, NO_KEY, "API_KEY_INVALID"), "API_KEY_INVALID"),
        (flattened("Error code: 400 - {'code': 'moderation_blocked'}"), "moderation_blocked"),
        ({"detail": [problem("content_policy_violation", "m")]}, "content_policy_violation"),
        (flattened(SAFETY, "400", "None"), "400"),
        ({"error": "zephyr"}, None),
        ({"name": "zephyr", "reason": "zephyr", "status": "zephyr"}, None),
    ],
)
def test_a_code_is_named_only_where_it_is_one(body: Any, code: str | None) -> None:
    """What stands in the place of a code and is not known could be a word of the prompt."""
    assert classified(400, body).code == code


def test_a_flag_tells_its_categories() -> None:
    """What moderation objects to is the one thing that helps to change the prompt."""
    body = {"error": {"code": 403, "message": "Flagged.", "metadata": {"reasons": ["violence"]}}}
    assert classified(403, body).message == "Flagged. (categories violence)"
    told = {"detail": [problem("content_policy_violation", "Flagged.", categories=["sexual"])]}
    assert classified(422, told).message == "body.prompt: Flagged. (categories sexual)"


def test_a_method_that_is_not_allowed_names_those_that_are() -> None:
    """A wrong base_url is found faster with what the address accepts."""
    failed = classified(405, b"", allow="GET,\tHEAD")
    assert (
        failed.message == "the endpoint answered 405 without a message (allowed methods: GET, HEAD)"
    )
    assert classified(405, {"detail": "Method Not Allowed"}).message == "Method Not Allowed"


def failure_over_the_wire(body: object, status: int, *, allow: str = "POST") -> Failure:
    answer, _ = ask(says(http(json.dumps(body).encode(), status, allow=allow)))
    assert isinstance(answer.result, Failure)
    return answer.result


def test_errors_over_the_wire() -> None:
    """What a real connection brings is read in the same way, headers included."""
    bill = {"cost_in_usd_ticks": 10**9}
    body = {"code": "imagine:content-moderated", "error": "No.", "usage": bill}
    moderated = failure_over_the_wire(body, 400)
    assert (moderated.kind, moderated.billing) == (K.REFUSED, "billed")
    busy = failure_over_the_wire({"message": "busy"}, 503)
    assert (busy.kind, busy.billing, busy.admission) == (K.UNAVAILABLE, "not_billed", "refused")
    not_allowed = failure_over_the_wire({"detail": "No"}, 405, allow="GET")
    assert not_allowed.message == "No (allowed methods: GET)"
    flat = failure_over_the_wire(flattened(SAFETY), 400)
    assert (flat.kind, flat.code) == (K.REFUSED, "400")


@pytest.mark.parametrize("depth", [50, 150, 250, 900, 970, 990, 5_000, 100_000])
@pytest.mark.parametrize(
    ("start", "end"),
    [(b"[", b"]"), (b'{"error":', b"}"), (b'{"detail":[{"msg":', b"}]}"), (b'{"message":', b"}")],
)
def test_an_error_can_be_nested_as_deep_as_it_likes(start: bytes, end: bytes, depth: int) -> None:
    """Nothing is raised, however deep; the status decides."""
    body = start * depth + b'"x"' + end * depth
    assert classified(500, body).kind is K.SERVER_ERROR
    inner = b'{"detail":[{"msg":' + b"[" * depth + b"]" * depth + b',"loc":[[[0]]]}]}'
    assert classified(422, inner).kind is K.MISCONFIGURED


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


@pytest.mark.parametrize(
    "piece", ["a ", "model", "model ", " ", "\t", "\\", "'code' ", "prompt violat ", "exhausted "]
)
def test_no_text_takes_long_to_read(piece: str) -> None:
    """No pattern goes through a long text again and again."""

    def bodies(text: str) -> list[object]:
        return [text, {"message": "model" + text}, {"code": text}]

    for pair in zip(bodies(piece * 500), bodies(piece * 4_000), strict=True):
        short, long = (_seconds_to_read(body) for body in pair)
        # Eight times as long, it takes eight times as long; going through it again and again, 64
        # times. What is added is for a clock that measures such short times badly.
        assert long < 32 * (short + 0.005)


def _seconds_to_read(body: object) -> float:
    """Of this thread, which others on the machine do not lengthen; the least of a few tries."""

    def once() -> float:
        started = time.thread_time()
        classified(400, body)
        return time.thread_time() - started

    return min(once() for _ in range(3))


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


def read(body: bytes, content_type: str = "application/json") -> Failure:
    """The failure that an answer of status 200 is."""
    head = AnswerHead(http_status=200, headers={"content-type": content_type}, now=0)
    failed = read_body(body, head)
    assert isinstance(failed, Failure)
    return failed


def cost_of(prices: PriceList, request: ImageRequest, failed: Failure) -> Cost:
    return cost_of_answer(prices, request, Answer(result=failed), worst_case=UNKNOWN_COST)


def test_an_image_that_was_made_costs_what_an_image_costs() -> None:
    """Also when it could not be fetched and the answer counted the prompt's tokens alone."""
    prices = PriceList.default()
    request = ImageRequest(
        endpoint_id="e", model="gpt-image-1", prompt="a mug", size="1024x1024", quality="high"
    )
    tokens = TokenUsage(input_tokens=12, total_tokens=12, input_text_tokens=12)
    lost = cost_of(prices, request, failure(K.SAVING_FAILED, tokens=tokens))
    assert lost == prices.cost(request.model, size="1024x1024", quality="high")
    assert lost.basis == "estimated"
    refused = cost_of(prices, request, failure(K.REFUSED, tokens=tokens))
    assert (refused.usd, refused.basis) == (Decimal("0.00006"), "metered")


def test_without_its_texts_an_answer_keeps_its_code() -> None:
    """Where prompts are not recorded: a provider's message or revised prompt can repeat one."""
    refused = classified(400, openai("moderation_blocked", message="'a mug' is not allowed"))
    image = GeneratedImage(data=b"", format="png", width=1, height=1, revised_prompt="a red mug")
    kept: list[Result] = [
        result_of_answer(
            Answer(result=said),
            UNKNOWN_COST,
            sandbox=False,
            finished_at=datetime.now(timezone.utc),
            with_texts=False,
        )
        for said in (refused, image)
    ]
    assert [each.error_code for each in kept] == ["moderation_blocked", None]
    assert [each.error_message for each in kept] == [None, None]
    assert [each.reply.revised_prompt for each in kept] == [None, None]
    assert "mug" not in refused.summary_without_message


@pytest.mark.parametrize(
    ("failed", "kept"),
    [
        (classified(301, b"a mug", location="https://new.example/v1/x?p=mug"), "to new.example"),
        (classified(500, b""), "answered 500 without a message"),
        (classified(405, openai("x", message="a mug"), allow="GET"), "allowed methods: GET"),
        (read(b"<html><title>Sign in</title>a mug", content_type="text/html"), "page: Sign in)"),
        (read(b"<html><p>a mug</p></html>", content_type="text/html"), "(HTML page); check"),
        (read(b""), "the answer is empty"),
        (read(b"a mug"), "5 bytes of neither JSON nor an image"),
        (read(b'{"a mug": 1}'), "holds no image"),
        (read(b'{"data": [{"b64_json": "YSBtdWc="}]}'), "bytes are not an image"),
    ],
)
def test_without_its_texts_an_answer_keeps_what_we_say_of_it(failed: Failure, kept: str) -> None:
    """Where prompts are not recorded, only the endpoint's part of a message is dropped."""
    result = result_of_answer(
        Answer(result=failed),
        UNKNOWN_COST,
        sandbox=False,
        finished_at=datetime.now(timezone.utc),
        with_texts=False,
    )
    assert kept in str(result.error_message)
    assert "mug" not in str(result.error_message)
