"""A budget is never overspent, by the sandbox's request log."""

from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import pyarrow.dataset as ds
import pytest

from dagster_imagegen.engine.attempt import Identity
from dagster_imagegen.engine.endpoint.retries import RetryPolicy
from dagster_imagegen.engine.engine import Engine
from dagster_imagegen.engine.errors import BudgetExhausted, ConfigurationError
from dagster_imagegen.engine.money.budget import Budget, Per, Scope
from dagster_imagegen.engine.pacing import climb
from dagster_imagegen.engine.record import Limits
from dagster_imagegen.engine.request import ImageParams
from dagster_imagegen.engine.run.thread import Generation
from dagster_imagegen.engine.settings import Settings
from dagster_imagegen.sandbox import Sandbox
from tests.engine.conftest import Run, statuses

pytestmark = pytest.mark.imagegen_sandbox(paint=False, latency_seconds=(0.0, 0.05))

LOW: ImageParams = {"quality": "low", "size": "1024x1024"}
MINI = "gpt-image-1-mini"  # about $0.0022 at most for each, so that half a dollar has room for 64
HALF_A_DOLLAR = Budget(max_usd=Decimal("0.50"))
QUICK = RetryPolicy(max_attempts=4, max_wait_seconds=0.05)
MANY = 24  # in flight at once; a slow machine does not reach all 64


@pytest.fixture
def climbs_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to 64 in flight in a third of a second instead of three; pacing has tests of its own.

    Answers take so much longer that 64 are in flight before the first, on a busy machine too.
    """
    monkeypatch.setattr(climb, "START", 64)


def prompts(count: int, *, about: str = "mug") -> list[str]:
    return [f"{about} {number}" for number in range(count)]


@pytest.mark.usefixtures("climbs_at_once")
@pytest.mark.imagegen_sandbox(paint=False, latency_seconds=(1.5, 2.0))
def test_one_run_stays_within(run: Run, imagegen_sandbox: Sandbox, storage: Path) -> None:
    """With 64 in flight: as much as fits is made, then one error that says what to do."""
    with pytest.raises(BudgetExhausted, match="max_usd"):
        run(prompts(400), params=LOW, budget=HALF_A_DOLLAR, model=MINI)
    received = imagegen_sandbox.totals
    assert received.max_in_flight > MANY
    assert Decimal("0.49") < received.cost_usd <= Decimal("0.50")
    assert ds.dataset(storage / "usage").to_table().num_rows == received.requests


def test_the_rest_can_be_left_to_a_later_run(run: Run, imagegen_sandbox: Sandbox) -> None:
    """`defer` gives the remaining rows a status instead of failing; more budget does them."""
    budget = Budget(max_usd=Decimal("0.10"), when_exhausted="defer")
    first = statuses(run(prompts(20), params=LOW, budget=budget))
    made = first.count("generated")
    assert 0 < made < 20
    assert Counter(first) == {"generated": made, "deferred": 20 - made}
    assert imagegen_sandbox.totals.cost_usd <= Decimal("0.10")
    second = statuses(run(prompts(20), params=LOW))
    assert Counter(second) == {"reused": made, "generated": 20 - made}


def test_retries_of_a_run_share_its_budget(run: Run, imagegen_sandbox: Sandbox) -> None:
    """What the first try of a run spent is not there for the second; another run has its own."""
    for _ in range(3):
        with pytest.raises(BudgetExhausted):
            run(prompts(100), params=LOW, budget=HALF_A_DOLLAR, root_run_id="root")
    assert imagegen_sandbox.totals.cost_usd <= Decimal("0.50")
    with pytest.raises(BudgetExhausted):
        run(prompts(100), params=LOW, budget=HALF_A_DOLLAR)
    assert imagegen_sandbox.totals.cost_usd > Decimal("0.90")


@pytest.mark.parametrize("strict", [False, True])
def test_server_errors_do_not_use_up_a_budget(
    run: Run, imagegen_sandbox: Sandbox, strict: bool
) -> None:
    """Ten 502s of at most $0.25 each count 0; at their worst case if the budget is strict."""
    imagegen_sandbox.script(*["bad_gateway", None] * 10)
    budget = Budget(max_usd=Decimal("2.80"), when_exhausted="defer", strict=strict)
    high: ImageParams = {"quality": "high", "size": "1536x1024"}
    retry = RetryPolicy(max_attempts=1)
    became = Counter(statuses(run(prompts(20), params=high, budget=budget, retry=retry)))
    if strict:
        assert 0 < became["generated"] < 10 < became["deferred"] + became["failed"]
        assert became["deferred"] > 0
    else:
        assert became == {"generated": 10, "failed": 10}


def test_what_may_have_been_billed_counts_at_its_worst(run: Run, imagegen_sandbox: Sandbox) -> None:
    """Lost answers are billed by the provider and unknown to us; the budget holds all the same."""
    lost = [*["broken_json"] * 15, *["gateway_timeout"] * 10]
    imagegen_sandbox.script(*[each for fault in lost for each in (fault, None)])
    with pytest.raises(BudgetExhausted):
        run(prompts(300), params=LOW, budget=HALF_A_DOLLAR, retry=QUICK)
    assert Decimal("0.40") < imagegen_sandbox.totals.cost_usd <= Decimal("0.50")


@pytest.mark.usefixtures("climbs_at_once")
@pytest.mark.imagegen_sandbox(
    paint=False,
    latency_seconds=(1.5, 2.0),
    fault_rates={"server_error": 0.1, "bad_gateway": 0.1, "closed": 0.05},
)
def test_retries_of_requests_stay_within(run: Run, imagegen_sandbox: Sandbox) -> None:
    """With 64 in flight: every try reserves its own worst case."""
    with pytest.raises(BudgetExhausted):
        run(prompts(400), params=LOW, budget=HALF_A_DOLLAR, model=MINI, retry=QUICK)
    received = imagegen_sandbox.totals
    assert received.max_in_flight > MANY
    assert Decimal("0.40") < received.cost_usd <= Decimal("0.50")


@pytest.mark.usefixtures("climbs_at_once")
@pytest.mark.imagegen_sandbox(paint=False, latency_seconds=(1.5, 2.0))
@pytest.mark.parametrize("roll_attempts", [5_000, 20])
def test_overlapping_runs_share_a_budget(
    imagegen_sandbox: Sandbox, open_engine: Callable[..., Engine], roll_attempts: int
) -> None:
    """Four runs at once on one storage, with journals that roll meanwhile: together within it.

    More than 64 requests are in flight. Two of the four fit in as a whole, and the others share the
    rest.
    """
    # A rival has a minute to give way, so that it does on any machine.
    limits = Limits(lease=20.0, roll_attempts=roll_attempts, rival_grace=60.0)
    budget = Budget(max_usd=Decimal("0.50"), per="day", scope="storage", when_exhausted="defer")
    generations: list[Generation] = []
    for name in ("one", "two", "three", "four"):
        engine = open_engine(imagegen_sandbox, budget=budget, limits=limits, model=MINI)
        read = engine.read_prompts(prompts(80, about=name), params=LOW)
        identity = Identity(run_id=name, root_run_id=name, asset_key=name)
        generations.append(engine.generate(read, identity=identity))
    for generation in generations:
        with generation:
            for _ in generation:
                pass
    received = imagegen_sandbox.totals
    assert received.max_in_flight > 64
    assert Decimal("0.40") < received.cost_usd <= Decimal("0.50")
    made = [sum(o.status == "generated" for o in g.outcomes.values()) for g in generations]
    assert sum(made) == received.billed


@pytest.mark.parametrize(
    ("per", "days", "full"),
    [
        ("day", [0, 0, 1], [True, False, True]),
        ("month", [0, 29, 30], [True, False, True]),
        ("all", [0, 1, 400], [True, False, False]),
    ],
)
def test_a_budget_is_there_again_when_its_period_is_over(
    imagegen_sandbox: Sandbox, storage: Path, per: Per, days: list[int], full: list[bool]
) -> None:
    """Rows of earlier periods do not count; those of this one do, whichever run caused them."""
    budget = Budget(max_usd=Decimal("0.10"), per=per, when_exhausted="defer")
    made: list[int] = []
    for number, day in enumerate(days):
        now = datetime(2026, 11, 1, 12, tzinfo=timezone.utc) + timedelta(days=day)
        settings = Settings(
            base_url=imagegen_sandbox.base_url,
            endpoint_id="https://images.example/v1",
            model="openai-gpt-image-1",
            storage_uri=str(storage),
            budget=budget,
        )
        with Engine(settings, now=lambda now=now: now) as engine:
            read = engine.read_prompts(prompts(20), params=LOW)
            identity = Identity(run_id=f"r{number}", root_run_id=f"r{number}", asset_key="hero")
            with engine.generate(read, identity=identity) as generation:
                for _ in generation:
                    pass
        made.append(generation.totals.succeeded)
    assert made[0] > 0
    assert made == [made[0] * there_again for there_again in full]


def test_another_asset_has_a_budget_of_its_own(
    imagegen_sandbox: Sandbox, open_engine: Callable[..., Engine]
) -> None:
    """Unless its scope is the storage."""
    made: list[int] = []
    scopes: tuple[tuple[str, Scope], ...] = (("a", "asset"), ("b", "asset"), ("c", "storage"))
    for asset, scope in scopes:
        budget = Budget(
            max_usd=Decimal("0.10"),
            per="all",
            scope=scope,
            when_exhausted="defer",
        )
        engine = open_engine(imagegen_sandbox, budget=budget)
        read = engine.read_prompts(prompts(20, about=asset), params=LOW)
        identity = Identity(run_id=asset, root_run_id=asset, asset_key=asset)
        with engine.generate(read, identity=identity) as generation:
            for _ in generation:
                pass
        made.append(generation.totals.succeeded)
    assert made[0] == made[1] > 0
    assert made[2] == 0


def test_a_model_without_a_price_cannot_run_on_a_budget(
    run: Run, imagegen_sandbox: Sandbox
) -> None:
    """Known before anything is sent, with the remedy."""
    with pytest.raises(ConfigurationError, match="prices"):
        run(prompts(3), budget=HALF_A_DOLLAR, model="somebodys-model")
    assert imagegen_sandbox.requests == []


def test_max_usd_tightens_the_budget_for_one_run(
    imagegen_sandbox: Sandbox, open_engine: Callable[..., Engine]
) -> None:
    """The smaller of the two counts, and it needs no budget to be set."""
    for budget in (HALF_A_DOLLAR, None):
        engine = open_engine(imagegen_sandbox, budget=budget)
        about = f"{budget}"
        read = engine.read_prompts(prompts(50, about=about), params=LOW)
        identity = Identity(run_id=about, root_run_id=about, asset_key="hero")
        before = imagegen_sandbox.totals.cost_usd
        with (
            pytest.raises(BudgetExhausted),
            engine.generate(read, identity=identity, max_usd=Decimal("0.10")) as generation,
        ):
            for _ in generation:
                pass
        assert Decimal("0.05") < imagegen_sandbox.totals.cost_usd - before <= Decimal("0.10")


def test_the_sandbox_rehearses_a_budget(run: Run, imagegen_sandbox: Sandbox) -> None:
    """Within one pass the sandbox's list price counts, though its rows cost nothing."""
    with pytest.raises(BudgetExhausted):
        run(prompts(300), params=LOW, budget=HALF_A_DOLLAR, endpoint_id="sandbox")
    assert imagegen_sandbox.totals.cost_usd <= Decimal("0.50")
