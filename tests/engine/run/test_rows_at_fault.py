"""Whose fault it is: whole passes against a scripted endpoint, on a virtual clock.

The engine is the real one, with its storage and its record; only the network is replaced.
"""

import asyncio
import base64
import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

import httpx
import pytest

from dagster_imagegen.engine.attempt import Identity, Outcome
from dagster_imagegen.engine.endpoint.retries import RetryPolicy
from dagster_imagegen.engine.engine import Engine
from dagster_imagegen.engine.errors import EndpointError, EndpointMisconfigured, EndpointUnreachable
from dagster_imagegen.engine.money.budget import Budget
from dagster_imagegen.engine.run.breaker import MANY, ROWS_FAIL_SECONDS
from dagster_imagegen.engine.settings import Settings
from tests.engine.endpoint.peer import PNG
from tests.virtual_time import run_virtual

Answer = tuple[int, dict[str, Any]]
Script = Callable[[dict[str, Any], float], Answer | None]
"""The answer to a request's body at a time; None: an image."""

IMAGE = {"data": [{"b64_json": base64.b64encode(PNG).decode()}]}
IDENTITY = Identity(run_id="run", root_run_id="run", asset_key="hero")
BAD_GATEWAY: Answer = (502, {"error": {"message": "Bad gateway"}})
BUSY: Answer = (503, {"error": {"message": "Service unavailable"}})
NOT_FOUND: Answer = (404, {"error": {"message": "no such model", "code": "model_not_found"}})


@dataclass
class Endpoint(httpx.AsyncBaseTransport):
    """Answers by a script, after a second; counts the requests by prompt."""

    script: Script
    requests: Counter[str] = field(default_factory=Counter[str])

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(await request.aread())
        self.requests[body["prompt"]] += 1
        answer = self.script(body, asyncio.get_running_loop().time())
        await asyncio.sleep(1.0 if answer is None else 0.1)
        status, said = answer or (200, IMAGE)
        return httpx.Response(status, json=said)


@dataclass
class Ran:
    """What came of a pass, and how long it took."""

    endpoint: Endpoint
    outcomes: dict[str, Outcome] = field(default_factory=dict[str, Outcome])
    error: Exception | None = None
    seconds: float = 0.0

    @property
    def statuses(self) -> Counter[str]:
        return Counter(each.status for each in self.outcomes.values())


class Send(Protocol):
    """Sends prompts to a script, with these settings."""

    def __call__(
        self,
        script: Script,
        prompts: Sequence[object],
        *,
        overrides: Sequence[str] = (),
        **settings: Any,
    ) -> Ran: ...


@pytest.fixture
def send(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Send:
    """Send prompts to a script; the pass's own loop is on virtual time."""
    took: list[float] = []

    def run(main: Any) -> Any:
        async def timed() -> Any:
            try:
                return await main
            finally:
                took.append(asyncio.get_running_loop().time())

        return run_virtual(timed())

    monkeypatch.setattr(asyncio, "run", run)

    def send(
        script: Script,
        prompts: Sequence[object],
        *,
        overrides: Sequence[str] = (),
        **settings: Any,
    ) -> Ran:
        ran = Ran(Endpoint(script))
        given: dict[str, Any] = {
            "max_concurrency": 8,
            "spill_folder": str(tmp_path / "spill"),
            **settings,
        }
        engine = Engine(
            Settings(
                base_url="https://images.example/v1",
                endpoint_id="https://images.example/v1",
                model="m",
                storage_uri=str(tmp_path / "storage"),
                **given,
            ),
            transport=ran.endpoint,
            rng=random.Random(1),
        )
        read = engine.read_prompts(prompts, params={}, overrides=overrides)
        with engine.generate(read, identity=IDENTITY) as generation:
            try:
                for _ in generation:
                    pass
            except EndpointError as error:
                ran.error = error
            jobs = {job.request.fingerprint: job for job in generation.plan.jobs}
            for fingerprint, outcome in generation.outcomes.items():
                ran.outcomes[jobs[fingerprint].request.prompt] = outcome
        ran.seconds = took[-1]
        return ran

    return send


GOOD = [f"good {number}" for number in range(20)]
BAD = [f"bad {number}" for number in range(4)]


def bad_rows(answer: Answer) -> Script:
    """Rows whose prompts the provider cannot stand."""
    return lambda body, now: answer if "bad" in body["prompt"] else None


# -- rows that always fail like an outage ----------------------------------------------------------


@pytest.mark.parametrize("answer", [BAD_GATEWAY, BUSY])
@pytest.mark.parametrize("concurrency", [1, 2, 16])
@pytest.mark.parametrize("prompts", [BAD + GOOD, GOOD + BAD, GOOD[:10] + BAD + GOOD[10:]])
def test_rows_that_always_fail_are_not_an_outage(
    send: Send, answer: Answer, concurrency: int, prompts: list[str]
) -> None:
    """The others are made, and the pass ends well long before patience is out."""
    ran = send(bad_rows(answer), prompts, max_concurrency=concurrency)
    assert ran.error is None
    assert {prompt for prompt, each in ran.outcomes.items() if each.status == "failed"} == set(BAD)
    assert ran.statuses == {"generated": len(GOOD), "failed": len(BAD)}
    assert ran.seconds < 400
    assert all(each.retry_can_help for each in ran.outcomes.values() if each.status == "failed")


def test_more_rows_that_always_fail_than_patience_has_probes_for(send: Send) -> None:
    """They are failed rows all the same: none is left that has not failed."""
    bad = [f"bad {number}" for number in range(20)]
    ran = send(bad_rows(BAD_GATEWAY), [*GOOD, *bad])
    assert ran.error is None
    assert ran.statuses == {"generated": len(GOOD), "failed": len(bad)}
    assert 600 <= ran.seconds < 700


@pytest.mark.parametrize("answer", [BAD_GATEWAY, BUSY])
def test_an_outage_at_the_end_of_a_run_is_waited_for(send: Send, answer: Answer) -> None:
    """The last four rows meet it; it takes as long as is waited for at least."""
    tail = [f"tail {number}" for number in range(4)]
    began: list[float] = []

    def script(body: dict[str, Any], now: float) -> Answer | None:
        if "tail" not in body["prompt"]:
            return None
        began.append(now)
        return answer if now - began[0] < ROWS_FAIL_SECONDS else None

    ran = send(script, [*GOOD, *tail])
    assert ran.error is None
    assert ran.statuses == {"generated": len(GOOD) + len(tail)}


def test_an_address_that_is_gone_is_no_rows_fault(send: Send) -> None:
    """The last four rows wait for it for longer than rows at fault are given."""
    tail = [f"tail {number}" for number in range(4)]
    began: list[float] = []

    def script(body: dict[str, Any], now: float) -> Answer | None:
        if "tail" not in body["prompt"]:
            return None
        began.append(now)
        if now - began[0] < 5 * ROWS_FAIL_SECONDS:
            raise httpx.ConnectError("nobody there")
        return None

    ran = send(script, [*GOOD, *tail])
    assert ran.error is None
    assert ran.statuses == {"generated": len(GOOD) + len(tail)}


@pytest.mark.parametrize(
    "answer",
    [
        (422, {"detail": [{"loc": ["body", "prompt"], "msg": "too long", "type": "too_long"}]}),
        (400, {"error": {"message": "Invalid value", "code": "invalid_value"}}),
    ],
)
@pytest.mark.parametrize("concurrency", [1, 8])
def test_rows_that_are_rejected_for_good_are_soon_failed(
    send: Send, answer: Answer, concurrency: int
) -> None:
    """A hundred at the end of the table: each is asked once, within some two seconds."""
    bad = [f"bad {number}" for number in range(100)]
    ran = send(bad_rows(answer), [*GOOD, *bad], max_concurrency=concurrency)
    assert ran.error is None
    assert ran.statuses == {"generated": len(GOOD), "failed": len(bad)}
    assert ran.endpoint.requests.total() == len(GOOD) + len(bad)
    assert ran.seconds < 150


@pytest.mark.parametrize("status", [401, 403])
def test_an_account_that_is_locked_out_is_probed_ever_more_seldom(send: Send, status: int) -> None:
    """Rows are not used up while somebody puts it right."""
    locked: Answer = (status, {"error": {"message": "Forbidden", "code": "invalid_api_key"}})
    prompts = [f"a {number}" for number in range(100)]
    ran = send(lambda body, now: locked if 3 < now < 120 else None, prompts)
    assert ran.error is None
    assert ran.statuses["generated"] >= 60


def test_an_outage_with_rows_untried_is_waited_for_until_patience_is_out(send: Send) -> None:
    ran = send(lambda body, now: BUSY if now > 3 else None, [f"a {i}" for i in range(100)])
    assert isinstance(ran.error, EndpointUnreachable)
    assert 600 <= ran.seconds < 660


def test_rows_that_fail_from_the_start_are_an_outage(send: Send) -> None:
    """Nothing has ever succeeded, so nothing shows that it is the rows."""
    ran = send(bad_rows(BUSY), BAD)
    assert isinstance(ran.error, EndpointUnreachable)
    assert 600 <= ran.seconds < 660


# -- what counts as a try --------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 2, 8])
def test_no_row_runs_out_of_tries_in_an_outage(send: Send, concurrency: int) -> None:
    """Nor by what failed before it showed that it was one; two tries are allowed."""
    ran = send(
        lambda body, now: BAD_GATEWAY if 3 < now < 40 else None,
        GOOD,
        max_concurrency=concurrency,
        retry=RetryPolicy(max_attempts=2),
    )
    assert ran.error is None
    assert ran.statuses == {"generated": len(GOOD)}


# -- a model of one row's own ----------------------------------------------------------------------


def rows(**models: str) -> list[dict[str, str]]:
    return [{"prompt": prompt, "model": model} for prompt, model in models.items()]


def gone(*models: str) -> Script:
    return lambda body, now: NOT_FOUND if body["model"] in models else None


def test_a_model_of_one_rows_own_is_that_row(send: Send) -> None:
    """The other is left to a later run: the budget does not cover it."""
    prices = {
        "gone": {"usd_per_image": {"*": {"*": 0.01}}},
        "m": {"usd_per_image": {"*": {"*": 5}}},
    }
    ran = send(
        gone("gone"),
        rows(a="gone", b="m"),
        overrides=["model"],
        prices=prices,
        budget=Budget(max_usd=Decimal(1), when_exhausted="defer"),
    )
    assert ran.error is None
    assert ran.statuses == {"failed": 1, "deferred": 1}


def test_what_is_known_shows_that_not_all_requests_fail(send: Send) -> None:
    """A refused prompt of an earlier run, and a row with a model of its own that is gone."""
    refused: Answer = (400, {"error": {"message": "no", "code": "moderation_blocked"}})
    assert send(lambda body, now: refused, rows(a="m"), overrides=["model"]).error is None
    ran = send(gone("gone"), rows(a="m", b="gone"), overrides=["model"])
    assert ran.error is None
    assert ran.statuses == {"refused": 1, "failed": 1}


def test_a_model_that_is_gone_does_not_end_the_run_for_others(send: Send) -> None:
    """Most rows have it, so most of the first answers and of all rows are like this."""
    prompts = [{"prompt": f"a {i}", "model": "m" if i > 24 else "gone"} for i in range(30)]
    ran = send(gone("gone"), prompts, overrides=["model"])
    assert ran.error is None
    assert ran.statuses["generated"] == 5


@pytest.mark.parametrize("models", [{"a": "m", "b": "m"}, {"a": "m", "b": "gone"}])
def test_if_all_models_are_gone_the_run_ends(send: Send, models: dict[str, str]) -> None:
    ran = send(gone("m", "gone"), rows(**models), overrides=["model"])
    assert isinstance(ran.error, EndpointMisconfigured)


# -- an account that is refused --------------------------------------------------------------------


def refusal(body: dict[str, Any]) -> Answer:
    """By its words alone, with an id as OpenAI has it."""
    text = f"Your request was rejected by our safety system. Request ID req_{len(body['prompt'])}7."
    return 400, {"error": {"message": text}}


def test_refusals_in_the_same_words_end_the_run(send: Send) -> None:
    """Nothing but them has come: it is the account, and not each of the prompts."""
    ran = send(lambda body, now: refusal(body), [f"a {i}" for i in range(100)])
    assert isinstance(ran.error, EndpointMisconfigured)
    assert "were refused in these words" in str(ran.error)
    assert MANY < ran.endpoint.requests.total() <= MANY + 10


def test_refused_prompts_before_the_first_image_do_not_end_the_run(send: Send) -> None:
    """Refusals come first, because images take longer."""
    prompts = [*(f"bad {i}" for i in range(40)), *GOOD]
    ran = send(lambda body, now: refusal(body) if "bad" in body["prompt"] else None, prompts)
    assert ran.error is None
    assert ran.statuses == {"refused": 40, "generated": len(GOOD)}


def test_refusals_with_a_code_do_not_end_the_run(send: Send) -> None:
    said = {"error": {"message": "no", "code": "moderation_blocked"}}
    ran = send(lambda body, now: (400, said), [f"a {i}" for i in range(60)])
    assert ran.error is None
    assert ran.statuses == {"refused": 60}


def test_rejections_each_in_their_own_way_end_the_run(send: Send) -> None:
    """With an id of its own as its code, no answer is like another."""

    def script(body: dict[str, Any], now: float) -> Answer:
        return 400, {"id": f"error-{body['prompt'].replace(' ', '-')}", "message": "not accepted"}

    ran = send(script, [f"a {i}" for i in range(100)])
    assert isinstance(ran.error, EndpointMisconfigured)
    assert MANY < ran.endpoint.requests.total() <= MANY + 10
