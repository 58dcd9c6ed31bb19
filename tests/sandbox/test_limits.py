"""Rate, concurrency and credit: who is refused, and what the headers say."""

import asyncio
from decimal import Decimal

import httpx
import pytest

from dagster_imagegen.sandbox import Sandbox
from dagster_imagegen.sandbox.errors import ApiError
from dagster_imagegen.sandbox.limits import Gate, duration
from tests.sandbox.asking import MUG, post


class Clock:
    """A time that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def test_never_more_than_the_limit_in_any_minute() -> None:
    """The window slides: a place is free again a minute after it was taken."""
    clock = Clock()
    gate = Gate(requests_per_minute=2, max_concurrency=None, window_seconds=60, clock=clock)
    gate.enter()
    clock.now += 40
    gate.enter()
    with pytest.raises(ApiError) as refused:
        gate.enter()
    assert refused.value.headers == {"retry-after": "20"}
    assert "try again in 20.000s" in refused.value.message
    clock.now += 20
    gate.enter()
    with pytest.raises(ApiError):
        gate.enter()


def test_rate_headers_of_openai() -> None:
    """Every answer says what remains, and how long until all of it is back."""
    clock = Clock()
    with Sandbox(requests_per_minute=2, paint=False, clock=clock) as sandbox:
        first, second, third = (post(sandbox) for _ in range(3))
        assert [r.status_code for r in (first, second, third)] == [200, 200, 429]
        assert first.headers["x-ratelimit-limit-requests"] == "2"
        assert first.headers["x-ratelimit-remaining-requests"] == "1"
        assert first.headers["x-ratelimit-reset-requests"] == "1m0s"
        assert third.headers["x-ratelimit-remaining-requests"] == "0"
        assert third.headers["retry-after"] == "60"
        assert third.json()["error"]["code"] == "rate_limit_exceeded"
        assert int(first.headers["openai-processing-ms"]) >= 0
        clock.now += 60
        assert post(sandbox).status_code == 200


def test_rate_headers_of_digitalocean() -> None:
    """Their reset is a Unix time."""
    clock = Clock()
    with Sandbox(
        requests_per_minute=1, error_dialect="digitalocean", paint=False, clock=clock
    ) as sandbox:
        post(sandbox)
        refused = post(sandbox)
        assert refused.status_code == 429
        assert refused.json()["id"] == "too_many_requests"
        assert refused.headers["ratelimit-limit"] == "1"
        assert refused.headers["ratelimit-remaining"] == "0"
        assert refused.headers["ratelimit-reset"] == "1700000060"


def test_concurrency_is_limited_and_the_log_knows_the_most() -> None:
    """Of more requests at once than are admitted, the others are refused without a wait named."""

    async def ten_at_once(url: str) -> list[httpx.Response]:
        async with httpx.AsyncClient(verify=False, timeout=60) as client:
            return await asyncio.gather(*(client.post(url, json=MUG) for _ in range(10)))

    with Sandbox(max_concurrency=4, latency_seconds=3.0, paint=False) as sandbox:
        answers = asyncio.run(ten_at_once(f"{sandbox.base_url}/images/generations"))
        refused = [answer for answer in answers if answer.status_code == 429]
        assert len(refused) == 6
        assert "retry-after" not in refused[0].headers
        assert refused[0].json()["error"]["type"] == "concurrent_requests"
        assert sandbox.totals.max_in_flight > 4
        assert sandbox.totals.billed == 4


def test_who_keeps_within_the_concurrency_is_never_refused() -> None:
    """A client that sends its next request the moment it has its answer finds its place free."""

    async def one_after_another(client: httpx.AsyncClient, url: str) -> list[int]:
        return [(await client.post(url, json=MUG)).status_code for _ in range(20)]

    async def in_four_lanes(url: str) -> list[list[int]]:
        async with httpx.AsyncClient(verify=False, timeout=60) as client:
            return await asyncio.gather(*(one_after_another(client, url) for _ in range(4)))

    with Sandbox(max_concurrency=4, paint=False) as sandbox:
        statuses = asyncio.run(in_four_lanes(f"{sandbox.base_url}/images/generations"))
        assert statuses == [[200] * 20] * 4


def test_credit_runs_out() -> None:
    """Once the account has spent its credit, every request is answered insufficient_quota."""
    with Sandbox(credit_usd=0.02, paint=False) as sandbox:
        codes = [post(sandbox).status_code for _ in range(4)]
        assert codes == [200, 200, 429, 429]
        assert post(sandbox).json()["error"]["code"] == "insufficient_quota"
        assert sandbox.totals.cost_usd == Decimal("0.02179")
        sandbox.clear()
        assert post(sandbox).status_code == 429


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0ms"),
        (-1, "0ms"),
        (0.02, "20ms"),
        (1, "1s"),
        (1.5, "1.5s"),
        (360, "6m0s"),
        (61, "1m1s"),
    ],
)
def test_durations_are_written_as_openai_does(seconds: float, text: str) -> None:
    """Milliseconds, seconds, minutes and seconds."""
    assert duration(seconds) == text
