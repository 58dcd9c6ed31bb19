"""The run config of an image asset: given as users give it, checked by what the sandbox got."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from pydantic import Field, field_validator

from dagster_imagegen import ImageGenResource, build_image_asset, image_asset
from dagster_imagegen.engine.errors import ConfigurationError
from dagster_imagegen.run_config import ImageRunConfig
from dagster_imagegen.sandbox import Fault, Sandbox
from tests.conftest import Project, column, observed

COUNT = 300


@image_asset(quality="low", size="1024x1024")
def hero() -> list[str]:
    return [f"mug {number}" for number in range(COUNT)]


def mugs(count: int, **arguments: Any) -> dg.AssetsDefinition:
    """An image asset named `hero` of so many prompts, each about a cent."""

    def source() -> list[str]:
        return [f"mug {number}" for number in range(count)]

    return image_asset(name="hero", quality="low", size="1024x1024", **arguments)(source)


def config(**given: Any) -> dict[str, Any]:
    """What the Launchpad sends for it."""
    return config_of("hero", given)


def config_of(op: str, given: Mapping[str, Any]) -> dict[str, Any]:
    return {"ops": {op: {"config": given}}}


def retries(result: dg.ExecuteInProcessResult) -> int:
    return sum(event.event_type_value == "STEP_RESTARTED" for event in result.all_events)


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """One that takes a moment for each picture, so that requests are in flight together."""
    with Sandbox(paint=False, latency_seconds=(0.05, 0.15)) as sandbox:
        yield sandbox


# -- what the Launchpad knows ----------------------------------------------------------------------


class Season(Enum):
    summer = "s"
    winter = "w"


class Light(dg.Config):
    lamps: int = 1


class Wishes(dg.Config):
    """What the pictures are about."""

    subject: str = "mug"
    season: Season = Season.summer
    light: Light = Light()
    words: str = Field(default="", alias="more words")

    @field_validator("subject", mode="before")
    @classmethod
    def _shout(cls, given: str) -> str:
        return given + "!"


class Anything(dg.PermissiveConfig):
    subject: str = "mug"


def fields_of(asset: dg.AssetsDefinition) -> Mapping[str, Any]:
    """The fields of an asset's run config, as Dagster shows them."""
    schema: Any = asset.op.config_schema.as_field().config_type
    return schema.fields


@image_asset
def wished(config: Wishes) -> list[str]:
    return [config.subject]


def test_the_launchpad_knows_every_field_and_what_it_does() -> None:
    """With a function, with a function that has a config of its own, and without one."""
    generated = build_image_asset("shots", prompt_table="products")
    for asset, own in (
        (hero, set[str]()),
        (generated, set[str]()),
        (wished, set(Wishes().model_dump(by_alias=True))),
    ):
        fields = fields_of(asset)
        assert set(fields) == set(ImageRunConfig.model_fields) | own
        for name in ImageRunConfig.model_fields:
            assert fields[name].description == ImageRunConfig.model_fields[name].description
            assert not fields[name].is_required
    assert all(field.description for field in ImageRunConfig.model_fields.values())


@pytest.mark.parametrize("given", [{"max_usd": "1"}, {"max_used": 1}, {"redo": ["refusals"]}])
def test_what_is_misspelt_is_refused_before_the_run(project: Project, given: Any) -> None:
    """By Dagster, as the Launchpad shows it while it is typed."""
    with pytest.raises(dg.DagsterInvalidConfigError):
        project.run(mugs(1), run_config=config(**given))


@pytest.mark.parametrize("max_usd", [-0.5, float("nan"), float("inf")])
def test_what_is_no_amount_is_refused(project: Project, max_usd: float) -> None:
    """By its name and value, before the function runs, and not tried again."""
    calls: list[str] = []

    @image_asset(retry_policy=dg.RetryPolicy(max_retries=3))
    def hero() -> list[str]:
        calls.append("called")
        return ["a mug"]

    result = project.run(hero, run_config=config(max_usd=max_usd), fails=True)
    assert f"must be finite and at least 0, got {max_usd};" in project.errors(result)[0]
    assert project.sent() == len(calls) == retries(result) == 0


def test_the_function_gets_its_own_class(project: Project) -> None:
    """Made once of what was given, with none of our fields; also of one that takes anything."""
    seen: list[dg.Config] = []

    @image_asset
    def hero(config: Wishes) -> list[str]:
        seen.append(config)
        return []

    @image_asset
    def open_one(config: Anything) -> list[str]:
        seen.append(config)
        return []

    project.run(hero)
    given = {"subject": "pot", "season": "winter", "light": {"lamps": 3}, "more words": "please"}
    project.run(hero, run_config=config_of("hero", {**given, "max_usd": 1, "redo": ["refused"]}))
    typed = Wishes(subject="pan", light=Light(lamps=2))
    project.run(hero, run_config=dg.RunConfig(ops={"hero": typed}))
    project.run(open_one, run_config=config_of("open_one", {"max_usd": 1, "colour": "red"}))
    assert [type(each) for each in seen] == [Wishes, Wishes, Wishes, Anything]
    assert [each.model_dump() for each in seen] == [
        {"subject": "mug", "season": Season.summer, "light": {"lamps": 1}, "words": ""},
        {"subject": "pot!", "season": Season.winter, "light": {"lamps": 3}, "words": "please"},
        {"subject": "pan!!", "season": Season.summer, "light": {"lamps": 2}, "words": ""},
        {"subject": "mug", "colour": "red"},
    ]


class WithField(dg.Config):
    max_usd: float = 1


class WithAlias(dg.Config):
    again: bool = Field(default=False, alias="redo")


class WithProperty(dg.Config):
    @property
    def redo(self) -> bool:
        return False


@pytest.mark.parametrize(
    ("own", "told"),
    [
        (WithField, 'has a "max_usd", so its config class WithField must'),
        (WithAlias, 'has a "redo", so its config class WithAlias must'),
        (WithProperty, 'has a "redo", so its config class WithProperty must'),
        (dict, "annotate its argument `config` with a class derived from dg.Config"),
    ],
)
def test_a_config_that_cannot_stand_beside_ours_is_an_error_where_it_is_written(
    own: type, told: str
) -> None:
    """With the remedy."""

    def hero(config: Any) -> list[str]:
        return []

    hero.__annotations__["config"] = own
    with pytest.raises(ConfigurationError) as caught:
        image_asset(hero)
    assert told in str(caught.value)


def test_the_yaml_of_the_docs_is_taken(project: Project) -> None:
    """As it stands there, by an asset of that name."""
    page = (Path(__file__).parent.parent / "docs" / "costs-and-budgets.md").read_text()
    shown = [
        each
        for each in re.findall(r"^```yaml\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
        if "max_usd" in each
    ]
    project.run(mugs(2), run_config=yaml.safe_load(shown[0]))
    assert project.sent() == 2


# -- max_usd ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "budget",
    [None, {"max_usd": 5.0, "per": "month", "scope": "storage"}, {"max_usd": 0.2, "per": "day"}],
    ids=["no budget", "a looser one", "a tighter one"],
)
def test_a_run_stays_within_the_smaller_of_max_usd_and_the_budget(
    project: Project, sandbox: Sandbox, budget: dict[str, Any] | None
) -> None:
    """With many in flight: what fits is made, then the step fails and says which of them it was."""
    project.settings = {"budget": budget, "model": "gpt-image-1-mini"}
    most = (
        Decimal("0.5") if budget is None else min(Decimal("0.5"), Decimal(str(budget["max_usd"])))
    )
    result = project.run(hero, run_config=config(max_usd=0.5), fails=True)
    assert sandbox.totals.max_in_flight > 4
    assert most * Decimal("0.9") < sandbox.totals.cost_usd <= most
    (observation,) = observed(result)
    assert observation.metadata["imagegen/requests"].value == sandbox.totals.requests
    (error,) = project.errors(result)
    assert "This run's config has max_usd: 0.5" in error


@pytest.mark.full
def test_a_run_stays_within_max_usd_when_all_64_are_in_flight(project: Project) -> None:
    """The same where the endpoint takes its time."""
    with Sandbox(paint=False, latency_seconds=8.0) as sandbox:
        project.sandbox = sandbox
        project.settings = {"model": "gpt-image-1-mini"}
        project.run(hero, run_config=config(max_usd=0.5), fails=True)
        assert sandbox.totals.max_in_flight > 32  # of 64: a slow machine is late with some
        assert Decimal("0.45") < sandbox.totals.cost_usd <= Decimal("0.5")


def test_it_is_for_one_run(project: Project, sandbox: Sandbox) -> None:
    """The next run has none, unless it is given one; what is there is reused."""
    project.run(
        mugs(20), run_config=dg.RunConfig(ops={"hero": {"config": {"max_usd": 0.1}}}), fails=True
    )
    made = sandbox.totals.billed
    assert 0 < made < 20
    result = project.run(mugs(20))
    assert Counter(column(result.output_for_node("hero"), "image_status")) == {
        "reused": made,
        "generated": 20 - made,
    }


def test_an_asset_without_a_function_has_it_too(project: Project, sandbox: Sandbox) -> None:
    """The rest of its rows are deferred where the resource says so."""
    project.settings = {"budget": {"max_usd": 100, "when_exhausted": "defer"}}

    @dg.asset
    def products() -> list[dict[str, str]]:
        return [{"name": f"mug {number}"} for number in range(20)]

    shots = build_image_asset(
        "shots", prompt_table="products", prompt="{name}", quality="low", size="1024x1024"
    )
    result = project.run(products, shots, run_config=config_of("shots", {"max_usd": 0.1}))
    assert Decimal("0.05") < sandbox.totals.cost_usd <= Decimal("0.1")
    statuses = Counter(column(result.output_for_node("shots"), "image_status"))
    assert statuses == {"generated": sandbox.totals.billed, "deferred": 20 - sandbox.totals.billed}


def test_nothing_is_sent_for_0(project: Project) -> None:
    """What is there is handed out; what is not there fails; what has no cost is asked for."""
    project.run(mugs(3))
    assert project.sent() == 3
    project.run(mugs(3), run_config=config(max_usd=0))
    project.run(mugs(4), run_config=config(max_usd=0), fails=True)
    assert project.sent() == 0
    project.settings = {"prices": {"openai-gpt-image-1": {"usd_per_image": {"*": {"*": 0.0}}}}}
    project.run(mugs(4), run_config=config(max_usd=0))
    assert project.sent() == 1


def test_a_model_without_a_price_cannot_run_on_it(project: Project) -> None:
    """As on any budget: an error before anything is sent."""
    project.settings = {"model": "somebodys-model"}
    result = project.run(mugs(3), run_config=config(max_usd=1), fails=True)
    assert "prices" in project.errors(result)[0]
    assert project.sent() == 0


def test_retries_of_the_step_share_it(project: Project, sandbox: Sandbox) -> None:
    """What the first try spent is not there for the second."""
    project.settings = {
        "budget": {"max_usd": 100, "when_exhausted": "defer"},
        "retry": {"max_attempts": 1},
    }
    sandbox.script(Fault("server_error", prompt="mug 1", times=None))
    asset = mugs(40, retry_policy=dg.RetryPolicy(max_retries=3))
    tried = project.run(asset, run_config=config(max_usd=0.1))
    assert retries(tried) > 0
    assert Decimal("0.04") < sandbox.totals.cost_usd <= Decimal("0.1")


def shop_job() -> dg.JobDefinition:
    """A job that Dagster can build again, as for a re-execution."""
    job = dg.define_asset_job("shop", executor_def=dg.in_process_executor)
    resource = ImageGenResource(
        base_url=os.environ["SHOP_URL"],
        model="openai-gpt-image-1",
        storage_uri=os.environ["SHOP_STORAGE"],
    )
    return dg.Definitions(
        assets=[mugs(40)], jobs=[job], resources={"imagegen": resource}
    ).resolve_job_def("shop")


def test_a_re_execution_shares_it_and_a_new_run_has_its_own(
    project: Project, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One root run, one `max_usd`: from failure as in Dagster's UI, which keeps the config."""
    monkeypatch.setenv("SHOP_URL", sandbox.base_url)
    monkeypatch.setenv("SHOP_STORAGE", str(project.folder / "store"))
    job, given, instance = dg.reconstructable(shop_job), config(max_usd=0.1), project.instance
    first = dg.execute_job(job, instance, run_config=given)
    spent = [sandbox.totals.cost_usd]
    again = dg.ReexecutionOptions.from_failure(first.run_id, instance)
    second = dg.execute_job(job, instance, run_config=given, reexecution_options=again)
    spent.append(sandbox.totals.cost_usd)
    third = dg.execute_job(job, instance, run_config=given)
    spent.append(sandbox.totals.cost_usd)
    runs = [instance.get_run_by_id(each.run_id) for each in (first, second, third)]
    assert [run.root_run_id for run in runs if run] == [None, first.run_id, None]
    assert [each.success for each in (first, second, third)] == [False, False, False]
    assert Decimal("0.08") < spent[0] <= spent[1] <= Decimal("0.1")
    assert Decimal("0.17") < spent[2] <= Decimal("0.2")


CITIES = dg.StaticPartitionsDefinition(["bonn", "oslo"])


class Shelf(dg.IOManager):
    """Keeps the tables of several partitions, in no place at all."""

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None: ...

    def load_input(self, context: dg.InputContext) -> Any: ...


@pytest.mark.filterwarnings("ignore::dagster.BetaWarning")
def test_partitions_of_one_run_share_it_and_runs_of_a_backfill_do_not(
    project: Project, sandbox: Sandbox
) -> None:
    """A run over several partitions is one run; a run a partition has as much for each."""
    project.settings = {"budget": {"max_usd": 100, "when_exhausted": "defer"}}

    @image_asset(
        quality="low",
        size="1024x1024",
        partitions_def=CITIES,
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    def hero(context: dg.AssetExecutionContext) -> dict[str, list[str]]:
        return {key: [f"{key} {n}" for n in range(20)] for key in context.partition_keys}

    resources = {"imagegen": project.resource(), "io_manager": Shelf()}
    both = {
        "dagster/asset_partition_range_start": "bonn",
        "dagster/asset_partition_range_end": "oslo",
    }
    project.run(hero, tags=both, run_config=config(max_usd=0.1), resources=resources)
    assert Decimal("0.08") < sandbox.totals.cost_usd <= Decimal("0.1")
    sandbox.clear()
    for key in CITIES.get_partition_keys():
        project.run(hero, partition_key=key, run_config=config(max_usd=0.05))
    assert Decimal("0.06") < sandbox.totals.cost_usd <= Decimal("0.1")


# -- redo ------------------------------------------------------------------------------------------


def test_what_is_left_alone_is_asked_for_again_on_request(
    project: Project, sandbox: Sandbox
) -> None:
    """Refused prompts and images that someone deleted; without it, neither is."""
    sandbox.script(Fault("moderation_blocked", prompt="mug 0"))
    images = project.run(mugs(3)).output_for_node("hero")
    Path(column(images, "image_uri")[1]).unlink()
    project.sent()
    project.run(mugs(3), fails=True)
    assert project.sent() == 0
    project.run(mugs(3), run_config=config(redo=["refused"]), fails=True)
    assert project.sent() == 1
    project.run(mugs(3), run_config=config(redo=["refused", "unknown", "missing"]))
    assert project.sent() == 1
    assert column(project.value("hero"), "image_status") == ["reused", "generated", "reused"]


@pytest.mark.parametrize(
    ("kind", "fault", "before", "times"),
    [
        ("refused", "moderation_blocked", 2, 1),
        ("unknown", "broken_json", 2, 1),
        # In doubt for the first time: a later run asks twice anyway, and on request no more often.
        ("unknown", "broken_json", 1, 2),
        ("missing", "moderation_blocked", 0, 1),
        ("missing", "broken_json", 0, 1),
    ],
)
def test_a_run_asks_again_no_more_often_than_it_may_however_often_it_is_retried(
    project: Project, kind: str, fault: str, before: int, times: int
) -> None:
    """A retry of the step, for the sake of another row, finds the answer that its run got.

    before: how often it was asked for in vain. times: how often the run asks, retries included.
    """
    project.settings = {"retry": {"max_attempts": 1}}
    if kind == "missing":
        made = project.run(mugs(1)).output_for_node("hero")
        Path(column(made, "image_uri")[0]).unlink()
    failing = Fault(fault, prompt="mug 0", times=None)
    project.sandbox.script(failing)
    for _ in range(before):
        project.run(mugs(1, fail_on=[]), run_config=config(redo=[kind]))
    assert project.sent() == (before or 1)
    project.sandbox.script(Fault("server_error", prompt="mug 1", times=2))
    asset = mugs(2, retry_policy=dg.RetryPolicy(max_retries=2), fail_on=["failed"])
    tried = project.run(asset, run_config=config(redo=[kind]))
    assert retries(tried) == 2
    assert Counter(each.body["prompt"] for each in project.sandbox.requests) == {
        "mug 0": times,
        "mug 1": 3,
    }
