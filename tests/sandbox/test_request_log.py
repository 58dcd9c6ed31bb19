"""The request log: every request is logged, billed by the table, and the key is not kept."""

import hashlib
from decimal import Decimal

import httpx
import pytest

from dagster_imagegen.sandbox import Sandbox, metering
from tests.sandbox.asking import MUG, get, post

pytestmark = pytest.mark.imagegen_sandbox(paint=False)


@pytest.mark.parametrize(
    ("model", "size", "quality", "tokens", "usd"),
    [
        ("openai-gpt-image-1", "1024x1024", "high", 4160, "0.166415"),
        ("gpt-image-1", "1536x1024", "low", 400, "0.016015"),
        ("gpt-image-1-mini", "1024x1536", "medium", 1584, "0.012678"),
        ("gpt-image-1.5", "1024x1024", "low", 272, "0.008719"),
        ("gpt-image-2", "3840x2160", "medium", 3336, "0.100095"),
        ("gpt-image-2", "1200x1008", "low", 158, "0.004755"),
        ("gpt-image-2.5-flare", "1024x1536", "max", 5488, "0.164655"),
        ("gpt-image-2.5-2026", "1024x1024", "xhigh", 3122, "0.093675"),
    ],
)
def test_the_bill_is_the_published_table_times_the_price_list(
    imagegen_sandbox: Sandbox, *, model: str, size: str, quality: str, tokens: int, usd: str
) -> None:
    """Three input tokens for nine characters, and the table's output tokens."""
    post(imagegen_sandbox, model=model, size=size, quality=quality)
    row = imagegen_sandbox.requests[0]
    assert (row.input_tokens, row.output_tokens) == (3, tokens)
    assert row.cost_usd == Decimal(usd)


def test_other_sizes_cost_in_proportion_to_their_area() -> None:
    """Half the square's pixels, half its tokens, rounded up; an unknown quality is the dearest."""
    half = metering.output_tokens("gpt-image-1", width=1024, height=512, quality="low", partials=0)
    assert half == 136
    dearest = metering.output_tokens("flux", width=1024, height=1024, quality="hd", partials=2)
    assert dearest == 4160 + 200


def test_the_key_is_logged_as_a_digest_only(imagegen_sandbox: Sandbox) -> None:
    """Tests can tell which key was sent, and nobody can read it."""
    url = f"{imagegen_sandbox.base_url}/images/generations"
    headers = {"authorization": "Bearer sk-secret", "x-mine": "1"}
    httpx.post(url, json=MUG, headers=headers, verify=False, timeout=60)
    post(imagegen_sandbox)
    with_key, without = imagegen_sandbox.requests
    assert with_key.key_sent
    assert with_key.key_sha256 == hashlib.sha256(b"sk-secret").hexdigest()
    assert with_key.headers["x-mine"] == "1"
    assert not without.key_sent
    assert "sk-secret" not in get(f"{imagegen_sandbox.root_url}/sandbox/requests").text
    assert "sk-secret" not in repr(imagegen_sandbox.requests)


def test_every_request_is_listed_over_http_too(imagegen_sandbox: Sandbox) -> None:
    """`GET /sandbox/requests` has what the attributes have, with totals; DELETE clears both."""
    imagegen_sandbox.script(None, "rate_limited", "closed")
    first = post(imagegen_sandbox)
    post(imagegen_sandbox)
    with pytest.raises(httpx.RemoteProtocolError):
        post(imagegen_sandbox)
    get(f"{imagegen_sandbox.base_url}/models")
    assert get(f"{imagegen_sandbox.base_url}/nowhere").status_code == 404
    log = get(f"{imagegen_sandbox.root_url}/sandbox/requests").json()
    assert [(r["sequence"], r["status"], r["fault"], r["billed"]) for r in log["requests"]] == [
        (1, 200, None, True),
        (2, 429, "rate_limited", False),
        (3, None, "closed", True),
    ]
    assert log["requests"][0]["body"] == MUG
    assert log["requests"][0]["request_id"] == first.headers["x-request-id"]
    assert [(r["path"], r["status"]) for r in log["other_requests"]] == [
        ("/v1/models", 200),
        ("/v1/nowhere", 404),
    ]
    assert log["totals"] == {
        "requests": 3,
        "billed": 2,
        "input_tokens": 6,
        "output_tokens": 544,
        "cost_usd": "0.021790",
        "max_in_flight": 1,
    }
    assert imagegen_sandbox.totals.cost_usd == Decimal("0.02179")
    cleared = httpx.delete(
        f"{imagegen_sandbox.root_url}/sandbox/requests", verify=False, timeout=60
    )
    assert cleared.status_code == 204
    assert imagegen_sandbox.requests == []
    assert imagegen_sandbox.other_requests == []
