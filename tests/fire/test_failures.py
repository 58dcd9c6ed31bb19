"""Each way an endpoint fails, and each shape it answers in: the outcome, the requests, the row.

What is expected stands in the tables, one line a case, and every kind of fault that the sandbox
knows has its line.
"""

from collections import Counter
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Literal, get_args

import pytest

from dagster_imagegen.engine.attempt import OutcomeStatus
from dagster_imagegen.engine.endpoint import download
from dagster_imagegen.engine.endpoint.retries import RetryPolicy
from dagster_imagegen.engine.errors import (
    EndpointError,
    EndpointMisconfigured,
    OutOfCredit,
)
from dagster_imagegen.engine.request import ImageParams
from dagster_imagegen.engine.run.breaker import AGREE
from dagster_imagegen.sandbox import Fault, Sandbox
from dagster_imagegen.sandbox.errors import Dialect
from dagster_imagegen.sandbox.faults import KINDS, STATUS_FAULTS, STREAM_FAULTS
from dagster_imagegen.sandbox.orders import Shape
from tests.fire.conftest import Passes, until
from tests.fire.record_checks import (
    assert_every_request_has_its_row,
    assert_images_are_whole,
    rows_in,
)

# Three tries, and none of the waits that were not asked for.
PATIENT = RetryPolicy(max_attempts=3, max_wait_seconds=0.05)
AT_ONCE = {"retry-after-ms": "10"}


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a fault that does not end comes to, for the one image that is wanted.

    requests: how often it is asked for in one run. made_at_last: one more brings the image.
    """

    outcome: OutcomeStatus
    requests: int = 1
    status: str
    billing: str
    basis: str = "estimated"
    cost: Literal["nothing", "perhaps nothing", "the price", "the worst case"]
    error: type[EndpointError] | None = None
    made_at_last: bool = False


NOT_ACCEPTED = Expected(
    outcome="generated",
    requests=3,
    status="failed",
    billing="not_billed",
    cost="nothing",
    made_at_last=True,
)
RATE_LIMITED = replace(NOT_ACCEPTED, status="rate_limited")
SERVER_ERROR = Expected(
    outcome="failed", requests=3, status="failed", billing="unknown", cost="perhaps nothing"
)
STREAM_ERROR = replace(SERVER_ERROR, cost="the worst case")
AMBIGUOUS = Expected(outcome="unknown", status="unknown", billing="unknown", cost="the worst case")
BILLED_AND_LOST = Expected(
    outcome="unknown", status="unknown", billing="billed", basis="metered", cost="the price"
)
REFUSED = Expected(outcome="refused", status="refused", billing="not_billed", cost="nothing")
REFUSED_WHEN_MADE = Expected(
    outcome="refused", status="refused", billing="unknown", cost="perhaps nothing"
)
REJECTED = Expected(outcome="failed", status="rejected", billing="not_billed", cost="nothing")
MISCONFIGURED = Expected(
    outcome="failed",
    status="rejected",
    billing="not_billed",
    cost="nothing",
    error=EndpointMisconfigured,
)
NO_CREDIT = Expected(
    outcome="failed", status="rejected", billing="not_billed", cost="nothing", error=OutOfCredit
)
MADE = Expected(
    outcome="generated", status="succeeded", billing="billed", basis="metered", cost="the price"
)
MADE_AND_NOT_COUNTED = Expected(
    outcome="generated", status="succeeded", billing="billed", cost="the price"
)
NOT_FETCHED = Expected(
    outcome="failed", status="failed", billing="billed", basis="metered", cost="the price"
)
REFUSED_WITH_BILL = Expected(
    outcome="refused", status="refused", billing="billed", basis="reported", cost="the price"
)

FAULTS: dict[str, Expected] = {
    "rate_limited": RATE_LIMITED,
    "too_many_concurrent": RATE_LIMITED,
    "unavailable": NOT_ACCEPTED,
    "server_error": SERVER_ERROR,
    "image_generation_failed": SERVER_ERROR,
    "bad_gateway": SERVER_ERROR,
    "unavailable_unannounced": NOT_ACCEPTED,
    "request_timeout": AMBIGUOUS,
    "gateway_timeout": AMBIGUOUS,
    "origin_timeout": AMBIGUOUS,
    "moderation_blocked": REFUSED,
    "moderation_blocked_output": REFUSED_WHEN_MADE,
    "content_policy_violation": REFUSED,
    "content_filter": REFUSED,
    "responsible_ai_policy_violation": REFUSED,
    "legal_reasons": REFUSED,
    "refused_by_type": REFUSED,
    "refused_by_detail": REFUSED,
    "refused_by_reasons": REFUSED,
    "refused_by_text": REFUSED,
    "refused_in_200": REFUSED_WHEN_MADE,
    "refused_with_bill": REFUSED_WITH_BILL,
    "invalid_value": REJECTED,
    "unknown_parameter": MISCONFIGURED,
    "invalid_api_key": MISCONFIGURED,
    "organization_not_verified": MISCONFIGURED,
    "not_found": MISCONFIGURED,
    "model_not_found": MISCONFIGURED,
    "unprocessable": MISCONFIGURED,
    "redirect": MISCONFIGURED,
    "payment_required": NO_CREDIT,
    "insufficient_quota": NO_CREDIT,
    "credit_balance_exhausted": NO_CREDIT,
    "organization_spend_limit_exceeded": NO_CREDIT,
    "project_spend_limit_exceeded": NO_CREDIT,
    "organization_usage_limit_exceeded": NO_CREDIT,
    "billing_hard_limit_reached": NO_CREDIT,
    "no_credit_by_text": NO_CREDIT,
    "no_credit_as_429": NO_CREDIT,
    "closed": AMBIGUOUS,
    "reset": AMBIGUOUS,
    "truncated": AMBIGUOUS,
    "hang": AMBIGUOUS,
    "broken_json": AMBIGUOUS,
    "broken_base64": BILLED_AND_LOST,
    "no_image": BILLED_AND_LOST,
    "empty_data": BILLED_AND_LOST,
    "url": MADE,
    "url_relative": MADE,
    "url_data": MADE,
    "url_late": MADE,
    "url_gone": NOT_FETCHED,
    "raw_image": MADE_AND_NOT_COUNTED,
    "other_format": MADE,
    "zero_usage": MADE_AND_NOT_COUNTED,
    "no_usage": MADE_AND_NOT_COUNTED,
    "nulls": MADE_AND_NOT_COUNTED,
    "stream_cut": AMBIGUOUS,
    "stream_error": STREAM_ERROR,
    "stream_completed_first": MADE,
}
# A stream brings a partial image before it breaks off, which stands in for the image.
IN_STREAM = {
    **FAULTS,
    **dict.fromkeys(("reset", "truncated", "broken_json", "stream_cut"), MADE_AND_NOT_COUNTED),
    **dict.fromkeys(("broken_base64", "no_image"), MADE),
}
SHAPES: dict[Shape, Expected] = {
    "openai": MADE,
    "together": MADE_AND_NOT_COUNTED,
    "xai": Expected(
        outcome="generated",
        status="succeeded",
        billing="billed",
        basis="reported",
        cost="the price",
    ),
    "sglang": MADE,
    "vllm": MADE_AND_NOT_COUNTED,
    "localai": MADE_AND_NOT_COUNTED,
    "litellm": MADE_AND_NOT_COUNTED,
    "bare": MADE_AND_NOT_COUNTED,
    "raw": MADE_AND_NOT_COUNTED,
}


def test_every_fault_has_its_line() -> None:
    """Nothing that the sandbox can do wrong is left untried, nor any of its shapes."""
    assert set(FAULTS) | {"html"} == set(KINDS)
    assert set(SHAPES) == set(get_args(Shape))


def ask(
    passes: Passes,
    sandbox: Sandbox,
    expected: Expected,
    params: ImageParams,
    *,
    timeout_seconds: float = 60.0,
) -> None:
    """Ask for one image and hold everything against what is expected; then run again."""
    options: dict[str, Any] = {"params": params, "retry": PATIENT}
    changes: dict[str, Any] = {**options, "timeout_seconds": timeout_seconds}
    with passes.begin(sandbox, ["a red mug"], **changes) as generation:
        if expected.error is None:
            for _ in generation:
                pass
        else:
            with pytest.raises(expected.error):
                list(generation)
    (outcome,) = generation.outcomes.values()
    sent = expected.requests + expected.made_at_last
    until(lambda: len(sandbox.requests) >= sent)  # it can be behind who gave up on it
    rows, requests = rows_in(passes.storage), sandbox.requests
    assert outcome.status == expected.outcome
    assert len(requests) == len(rows) == generation.totals.requests == sent
    assert_every_request_has_its_row(rows, requests)
    assert_images_are_whole(passes.storage, rows)
    assert not expected.made_at_last or rows[-1]["status"] == "succeeded"
    for row in rows[: expected.requests]:
        assert (row["status"], row["billing"]) == (expected.status, expected.billing)
        assert row["cost_basis"] == expected.basis
        if expected.cost == "nothing":
            assert row["cost_usd"] == row["cost_usd_max"] == 0
        elif expected.cost == "perhaps nothing":
            assert row["cost_usd"] == 0
            assert row["cost_usd_max"] == row["worst_case_usd"] > 0
        elif expected.cost == "the worst case":
            assert row["cost_usd"] == row["worst_case_usd"] > 0
        else:
            assert 0 < row["cost_usd"] <= row["worst_case_usd"]
        assert (row["error_message"] is None) == (expected.status == "succeeded")
        assert row["error_code"] is None or expected.status != "succeeded"
    assert generation.totals.cost_usd == sum((row["cost_usd"] for row in rows), Decimal(0))
    assert_asked_again_only_where_it_may_be(passes, sandbox, expected, options)


def assert_asked_again_only_where_it_may_be(
    passes: Passes, sandbox: Sandbox, expected: Expected, options: dict[str, Any]
) -> None:
    """A later run on an endpoint in good health: nothing where there is an image or a refusal."""
    sandbox.clear()
    again = passes.run(sandbox, ["a red mug"], **options)
    (outcome,) = again.outcomes.values()
    final = {"generated": "reused", "refused": "refused"}
    assert outcome.status == final.get(expected.outcome, "generated")
    assert len(sandbox.requests) == (expected.outcome not in final)


@pytest.fixture(autouse=True)
def downloads_are_tried_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As often as ever, without the seconds in between."""
    monkeypatch.setattr(download, "WAITS_SECONDS", (0.01,) * len(download.WAITS_SECONDS))


@pytest.mark.parametrize(
    ("kind", "streamed"),
    [
        *((kind, False) for kind in FAULTS if kind not in STREAM_FAULTS),
        *((kind, True) for kind in FAULTS if kind not in STATUS_FAULTS),
    ],
)
def test_faults(passes: Passes, kind: str, streamed: bool) -> None:
    """Each fault, for as long as it is asked: the outcome, the requests, the row and its money."""
    expected = (IN_STREAM if streamed else FAULTS)[kind]
    headers = AT_ONCE if kind in ("rate_limited", "unavailable") else None
    faults = [Fault(kind, headers=headers)] * expected.requests
    params: ImageParams = {"quality": "low", "size": "1024x1024"}
    if streamed:
        params |= {"stream": True, "partial_images": 1}
    with Sandbox(paint=False, faults=faults) as sandbox:
        # A short timeout only where there never is an answer: no other request can reach it.
        timeout_seconds = 0.3 if kind == "hang" else 60.0
        ask(passes, sandbox, expected, params, timeout_seconds=timeout_seconds)
    if kind == "refused_in_200":  # a flag and no code
        return
    for row in rows_in(passes.storage):  # In some dialects an error has no code; here each has one.
        assert (row["error_code"] is None) == (row["status"] == "succeeded")


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(passes: Passes, shape: Shape) -> None:
    """Each shape of an answer is one request, one image, and a row that says how it was billed."""
    params: ImageParams = {"quality": "low", "size": None if shape == "xai" else "1024x1024"}
    with Sandbox(paint=False, answer_shape=shape) as sandbox:
        ask(passes, sandbox, SHAPES[shape], params)


@pytest.mark.parametrize("dialect", get_args(Dialect))
@pytest.mark.parametrize(
    "kind", ["unavailable", "server_error", "gateway_timeout", "legal_reasons", "invalid_api_key"]
)
def test_dialects(passes: Passes, kind: str, dialect: Dialect) -> None:
    """What a status tells is understood in whatever words it comes, and in none."""
    expected = FAULTS[kind]
    headers = AT_ONCE if kind == "unavailable" else None
    faults = [Fault(kind, headers=headers)] * expected.requests
    with Sandbox(paint=False, error_dialect=dialect, faults=faults) as sandbox:
        ask(passes, sandbox, expected, {"quality": "low", "size": "1024x1024"})


def test_a_web_page_ends_the_run(passes: Passes) -> None:
    """A 200 that is a page comes from whoever lives at a wrong address: a few requests, no more."""
    with Sandbox(paint=False, latency_seconds=0.01, faults=["html"] * 300) as sandbox:
        prompts = [f"a mug, number {number}" for number in range(300)]
        with pytest.raises(EndpointMisconfigured, match="base_url"):
            passes.run(sandbox, prompts, max_concurrency=2)
        assert len(sandbox.requests) <= 8
    assert {row["error_code"] for row in rows_in(passes.storage)} == {"html_answer"}


def test_a_wait_too_long_ends_the_image(passes: Passes) -> None:
    """One request, and a row that names the wait; nobody sits it out."""
    faults = [Fault("rate_limited", headers={"retry-after": "3600"})]
    with Sandbox(paint=False, faults=faults) as sandbox:
        generation = passes.run(
            sandbox, ["a mug"], retry=RetryPolicy(max_attempts=5, max_wait_seconds=60)
        )
        assert len(sandbox.requests) == 1
    (row,) = rows_in(passes.storage)
    assert row["status"] == "rate_limited"
    assert "3,600 s" in row["error_message"]
    assert [outcome.status for outcome in generation.outcomes.values()] == ["failed"]


@pytest.mark.parametrize(
    ("fault", "error"),
    [("invalid_api_key", EndpointMisconfigured), ("insufficient_quota", OutOfCredit)],
)
def test_what_ends_a_run_ends_it_with_64_in_flight(
    passes: Passes, fault: str, error: type[EndpointError]
) -> None:
    """One error, after those in flight nothing but probes, and all that was paid for is kept."""
    prompts = [f"a mug, number {number}" for number in range(300)]
    healthy = 100
    faults: list[Any] = [*[None] * healthy, *[fault] * 300]
    with Sandbox(paint=False, latency_seconds=0.05, faults=faults) as sandbox:
        with pytest.raises(error):
            passes.run(sandbox, prompts, max_concurrency=64)
        rows = rows_in(passes.storage)
        assert_every_request_has_its_row(rows, sandbox.requests)
        assert_images_are_whole(passes.storage, rows)
        assert Counter(row["status"] for row in rows)["succeeded"] == healthy
        assert len(sandbox.requests) <= healthy + 64 + AGREE + 10
        sandbox.clear()
    with Sandbox(paint=False) as sandbox:
        passes.run(sandbox, prompts, max_concurrency=64)
        assert len(sandbox.requests) == len(prompts) - healthy
