"""Models that end: the warning before a run, the error after the end, and the endpoint's list."""

from collections.abc import Callable
from contextlib import nullcontext
from datetime import date, datetime, timezone
from decimal import Decimal
from typing import Any

import httpx
import pytest

from dagster_imagegen.engine.attempt import Identity
from dagster_imagegen.engine.endpoint.models import models_url, read_models
from dagster_imagegen.engine.engine import Engine
from dagster_imagegen.engine.errors import (
    ConfigurationError,
    EndpointMisconfigured,
    EndpointUnreachable,
)
from dagster_imagegen.engine.money.budget import Budget
from dagster_imagegen.engine.settings import Settings
from dagster_imagegen.sandbox import Fault, Sandbox
from tests.engine.conftest import Run, statuses

pytestmark = pytest.mark.imagegen_sandbox(paint=False)
IDENTITY = Identity(run_id="run", root_run_id="run", asset_key="hero")


def engine_on(sandbox: Sandbox, folder: Any, day: str, **changes: Any) -> Engine:
    """An engine that takes `day` for today."""
    settings: dict[str, Any] = {
        "base_url": sandbox.base_url,
        "endpoint_id": "https://images.example/v1",
        "model": "gpt-image-1-mini",
        "storage_uri": str(folder),
        **changes,
    }
    now = datetime.fromisoformat(day).replace(tzinfo=timezone.utc)
    return Engine(Settings(**settings), now=lambda: now)


def test_a_plan_names_each_model_that_ends_once(imagegen_sandbox: Sandbox, tmp_path: Any):
    """Of those that are to be asked, whatever the number of their rows."""
    rows = [
        {"prompt": f"{model} {number}", "model": model}
        for model in ("gpt-image-1-mini", "gpt-image-2.5-flare", "gpt-image-1.5")
        for number in range(2)
    ]

    def warnings(day: str, **changes: Any) -> tuple[str, ...]:
        with engine_on(imagegen_sandbox, tmp_path / day, day, **changes) as engine:
            prompts = engine.read_prompts(rows, params={}, overrides=["model"])
            with engine.generate(prompts, identity=IDENTITY) as generation:
                return generation.plan.warnings

    one, other = warnings("2026-11-25")
    assert one.startswith("model 'gpt-image-1-mini': OpenAI shuts it down on 2026-12-01")
    assert other.startswith("model 'gpt-image-1.5': OpenAI shuts it down on 2026-12-01")
    one, _ = warnings("2026-12-01")
    assert "OpenAI shut it down on 2026-12-01" in one
    assert warnings("2026-11-25", endpoint_id="sandbox") == ()


def test_a_pass_that_asks_for_nothing_warns_of_nothing(run: Run):
    """What is in storage does not need its model any more."""
    assert len(run(["a mug"], model="gpt-image-1").plan.warnings) == 1
    again = run(["a mug"], model="gpt-image-1")
    assert (statuses(again), again.plan.warnings) == (["reused"], ())


@pytest.mark.parametrize(
    ("model", "fault", "said"),
    [
        ("gpt-image-1", "model_not_found", "OpenAI shut it down on 2026-10-23"),
        ("gpt-image-1", "not_found", "its successors are gpt-image-2.5-flare"),
        ("openai-gpt-image-1", "model_not_found", "unverified for DigitalOcean"),
        ("gpt-image-2", "model_not_found", None),
        ("gpt-image-1", "invalid_api_key", None),
    ],
)
def test_the_404_of_a_model_that_is_gone_names_its_successors(
    run: Run, imagegen_sandbox: Sandbox, model: str, fault: str, said: str | None
):
    """In the one error that ends the run; not where the price list knows no end, or for a key."""
    imagegen_sandbox.script(fault)
    with pytest.raises(EndpointMisconfigured) as caught:
        run(["a mug"], model=model)
    text = str(caught.value)
    assert f"model '{model}'" in text
    assert ("successors" in text) == (said is not None)
    assert said is None or said in text


def test_an_error_names_every_model_that_is_gone(run: Run, imagegen_sandbox: Sandbox):
    """Each with its end and its successors, and the endpoint once."""
    imagegen_sandbox.script(Fault("model_not_found", times=None))
    models = ("gpt-image-1", "dall-e-3", "of-our-own")
    rows = [{"prompt": f"a mug by {model}", "model": model} for model in models]
    with pytest.raises(EndpointMisconfigured) as caught:
        run(rows, overrides=["model"])
    text = str(caught.value)
    for model in models:
        assert f"model '{model}'" in text
    assert text.count("its successors are") == 2
    assert text.count("https://images.example/v1") == 1


@pytest.mark.parametrize(
    "params",
    [{"output_format": "gif", "frame_count": 16}, {"output_format": "svg", "svg": {"model": "m"}}],
)
def test_a_budget_refuses_what_has_no_price(
    run: Run, imagegen_sandbox: Sandbox, params: dict[str, Any]
):
    """Its worst case would be that of one still picture."""
    params = {"size": "1024x1024", "quality": "low", **params}
    budget = Budget(max_usd=Decimal(1))
    with pytest.raises(ConfigurationError, match=f"output_format '{params['output_format']}'"):
        run(["a mug"], params=params, model="gpt-image-2.5-flare", budget=budget)
    assert imagegen_sandbox.requests == []
    made = run(["a mug"], params=params, model="gpt-image-2.5-flare")
    assert statuses(made) == ["generated"]


# -- the endpoint's list ---------------------------------------------------------------------------


def test_the_list_is_read_with_its_dates(
    imagegen_sandbox: Sandbox, open_engine: Callable[..., Engine]
):
    """Over HTTP, with the key; a model without a date has none."""
    engine = open_engine(imagegen_sandbox, api_key="sk-secret")
    ends = {model.id: model.shutdown_on for model in engine.models()}
    assert ends["gpt-image-1.5"] == date(2026, 12, 1)
    assert ends["gpt-image-2.5-flare"] is None
    (asked,) = imagegen_sandbox.other_requests
    assert (asked.path, asked.key_sent) == ("/v1/models", True)


def test_an_endpoint_without_a_list_is_one_error(
    imagegen_sandbox: Sandbox, open_engine: Callable[..., Engine]
):
    """It names the address and the status."""
    engine = open_engine(imagegen_sandbox, base_url=f"{imagegen_sandbox.root_url}/v0")
    with pytest.raises(EndpointMisconfigured, match=r"/v0/models answered 404 and no list"):
        engine.models()
    away = open_engine(imagegen_sandbox, base_url="http://127.0.0.1:9/v1")
    with pytest.raises(EndpointUnreachable, match=r"127.0.0.1:9/v1/models"):
        away.models()


@pytest.mark.parametrize(
    ("body", "models"),
    [
        ('{"data":[{"id":"a","shutdown_date":"2026-12-01"}]}', [("a", date(2026, 12, 1))]),
        (
            '{"data":[{"id":"a","shutdown_date":"2026-12-01T00:00:00Z"}]}',
            [("a", date(2026, 12, 1))],
        ),
        ('{"data":[{"id":"a","shutdown_date":1796083200}]}', [("a", date(2026, 12, 1))]),
        ('{"data":[{"id":"a","shutdown_date":"soon"},{"id":"b"}]}', [("a", None), ("b", None)]),
        ('[{"id":"a","shutdown_date":null}]', [("a", None)]),
        ('{"data":[{"id":7},"b",{}]}', []),
        ('{"data":[{"id":"a","shutdown_date":1e400}]}', [("a", None)]),
        ("{}", None),
        ("<html>", None),
        ("7", None),
    ],
)
def test_lists_of_models(body: str, models: list[tuple[str, date | None]] | None):
    """Dates as text and as Unix times; what is no list is none."""
    told = pytest.raises(EndpointMisconfigured, match="no list of models")
    with told if models is None else nullcontext():
        read = read_models(body.encode(), http_status=200, place="https://a.example/v1/models")
        assert [(each.id, each.shutdown_on) for each in read] == models


def test_the_list_lies_beside_the_images():
    """A query, such as Azure's `api-version`, stays."""
    url = models_url(httpx.URL("https://a.example/openai/v1/images/generations?api-version=1"))
    assert str(url) == "https://a.example/openai/v1/models?api-version=1"
