"""How an image asset is declared: arguments, overrides, and what cannot work."""

import inspect
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import dagster as dg
import pytest

from dagster_imagegen import (
    ImageAssetDefinition,
    ImageGenError,
    ImageGenResource,
    build_image_asset,
    build_image_checks,
    build_sharded_image_asset,
    image_asset,
)
from dagster_imagegen.assets import FunctionAssetArguments
from dagster_imagegen.definition import OUR_ARGUMENTS, argument_names
from dagster_imagegen.engine.errors import ConfigurationError
from dagster_imagegen.engine.request import ImageParams
from dagster_imagegen.run_config import ImageRunConfig
from dagster_imagegen.step import StepEvents
from tests.conftest import Project, Store, column, materialized, of_rows, table_asset

# Dagster's own, of arguments that are passed on to it.
pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")


# -- what dg.asset takes -------------------------------------------------------------------------


def test_what_dg_asset_takes_is_passed_on() -> None:
    """Key, group, tags, owners, kinds, metadata, automation, retries, hooks and pool."""
    condition = dg.AutomationCondition.eager()

    @image_asset(
        key=["shop", "front"],
        group_name="marketing",
        tags={"tier": "1"},
        owners=["team:web"],
        kinds={"image", "table"},
        metadata={"page": "front"},
        automation_condition=condition,
        retry_policy=dg.RetryPolicy(max_retries=2),
        op_tags={"dagster/concurrency_key": "images"},
        pool="images",
        code_version="2",
        check_specs=[dg.AssetCheckSpec("sharp", asset=["shop", "front"])],
        quality="low",
    )
    def anything() -> list[str]:
        """Front page."""
        return []

    (front,) = anything.specs
    assert front.key == anything.key == dg.AssetKey(["shop", "front"])
    assert front.description == "Front page."
    assert front.group_name == "marketing"
    assert front.owners == ["team:web"]
    assert front.kinds == {"image", "table"}
    assert front.metadata["page"] == "front"
    assert front.automation_condition == condition
    assert front.code_version == "2"
    assert anything.op.name == "shop__front"
    assert anything.op.pool == "images"
    assert [each.name for each in anything.check_specs] == ["sharp"]


def test_everything_that_the_installed_dg_asset_takes_is_known() -> None:
    """A new argument of Dagster's works without a change here; no name means two things."""
    dagster = inspect.signature(dg.asset).parameters
    asset = {name for name in dagster if name not in ("compute_fn", "kwargs")}
    assert asset - {"config_schema"} <= argument_names()
    assert not asset & {*ImageParams.__annotations__, *OUR_ARGUMENTS}


def test_type_checkers_know_what_dg_asset_takes() -> None:
    """Arguments of the newest Dagster that they do not know of would be errors to them alone."""
    known = set(FunctionAssetArguments.__annotations__)
    assert argument_names() <= known
    ours = {*ImageParams.__annotations__, *OUR_ARGUMENTS}
    later = {"is_virtual"}  # Of newer releases than the oldest supported.
    assert known - argument_names() <= later
    assert ours <= known


def test_a_freshness_policy(project: Project) -> None:
    """As Dagster has them."""
    policy = dg.FreshnessPolicy.cron(
        deadline_cron="0 1 * * *", lower_bound_delta=timedelta(hours=1)
    )
    (spec,) = of_rows([], freshness_policy=policy).specs
    assert spec.freshness_policy == policy


def test_a_key_prefix_and_a_name() -> None:
    """As `dg.asset` makes keys of them."""

    @image_asset(name="front", key_prefix=["shop", "web"])
    def anything() -> list[str]:
        return []

    assert anything.key == dg.AssetKey(["shop", "web", "front"])


def test_resources_by_key_beside_ours(project: Project) -> None:
    """`required_resource_keys`, `resource_defs`, hooks and an IO manager of its own."""
    finished: list[str] = []

    @dg.success_hook
    def tell(context: dg.HookContext) -> None:
        finished.append(context.op.name)

    store = Store()
    names = dg.ResourceDefinition.hardcoded_resource("mug")

    @image_asset(
        required_resource_keys={"names"},
        resource_defs={"names": names},
        io_manager_def=store,
        hooks={tell},
    )
    def pictures(context: dg.AssetExecutionContext) -> list[str]:
        return [context.resources.names]

    result = project.run(pictures)
    assert column(store.values["pictures"], "prompt") == ["mug"]
    assert finished == ["pictures"]
    assert result.success


# -- what users override ---------------------------------------------------------------------------


class ShopImages(ImageAssetDefinition):
    """A project's own image assets."""

    def get_asset_spec(self, spec: dg.AssetSpec) -> dg.AssetSpec:
        key = dg.AssetKey(["shop", *spec.key.path])
        return spec.replace_attributes(key=key, owners=["team:shop"])

    def execute(
        self,
        context: dg.AssetExecutionContext,
        imagegen: ImageGenResource,
        prompts: Callable[[], Any],
        config: ImageRunConfig,
    ) -> StepEvents:
        def shorter() -> Any:
            return prompts()[:1]

        for event in super().execute(context, imagegen, shorter, config):
            yield event
            if isinstance(event, dg.MaterializeResult):
                few = len(project_rows(event)) == 1
                yield dg.AssetCheckResult(check_name="few", passed=few)


def project_rows(event: "dg.MaterializeResult[Any]") -> list[Any]:
    return event.value.to_pylist()


def test_get_asset_spec_can_be_overridden(project: Project) -> None:
    """With a function and without; the key too, under which everything is recorded."""
    source = table_asset(["a mug", "a pot"])
    specs = [dg.AssetCheckSpec("few", asset="hero")]
    with_function = of_rows(["a mug", "a pot"], definition=ShopImages, check_specs=specs)
    without = build_image_asset("shots", prompt_table="products", definition=ShopImages)
    assert without.key == dg.AssetKey(["shop", "shots"])
    (spec,) = with_function.specs
    assert (spec.key, spec.owners) == (dg.AssetKey(["shop", "hero"]), ["team:shop"])
    assert spec.kinds == {"image"}
    result = project.run(with_function, source)
    assert set(materialized(result)) == {"shop/hero", "products"}
    assert set(column(project.usage(result), "asset_key")) == {"shop/hero"}


def test_execute_can_be_overridden(project: Project) -> None:
    """What goes in is changed, and a check's result comes out beside the materialization."""
    specs = [dg.AssetCheckSpec("few", asset="hero")]
    result = project.run(
        of_rows(["a mug", "a pot"], definition=ShopImages, check_specs=specs, quality="low")
    )
    assert project.sent() == 1
    assert column(result.output_for_node("hero"), "prompt") == ["a mug"]
    (evaluation,) = result.get_asset_check_evaluations()
    assert evaluation.passed
    assert evaluation.asset_key == dg.AssetKey(["shop", "hero"])


# -- written wrongly -------------------------------------------------------------------------------

# A type checker finds these mistakes; not everybody runs one.
UNTYPED_ASSET: Any = image_asset
UNTYPED_BUILD: Any = build_image_asset


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (lambda: UNTYPED_ASSET(qualty="high"), 'did you mean "quality"'),
        (lambda: UNTYPED_ASSET(grup_name="x"), 'did you mean "group_name"'),
        (lambda: UNTYPED_BUILD("a", prompt_table="b", sise="auto"), 'did you mean "size"'),
        (lambda: UNTYPED_ASSET("medium"), "arguments must be named"),
        (lambda: UNTYPED_ASSET(config_schema={}), "annotate an argument `config`"),
        (lambda: UNTYPED_BUILD("a", prompt_table="b", ins={}), 'no argument "ins"'),
        (lambda: of_rows([], n=0), "must be at least 1, got 0"),
        (lambda: of_rows([], output_compression=101), "must be at most 100, got 101"),
        (lambda: of_rows([], background="transparent", output_format="jpeg"), "png or webp"),
        (lambda: of_rows([], overrides=["colour"]), "colour"),
        (lambda: of_rows([], overrides="size"), 'overrides=["size"]'),
        (lambda: of_rows([], fail_on=["failled"]), 'did you mean "failed"'),
        (lambda: of_rows([], fail_on="failed"), 'fail_on=["failed"]'),
        (lambda: of_rows([], resource_key="my images"), "resource_key"),
        (lambda: of_rows([], on_incomplete="warn"), '"fail" or "materialize"'),
        (lambda: of_rows([], carry_prefix="image_"), "does not begin with"),
        (lambda: build_image_asset("a", prompt_table="b", prompt="{name.x}"), "whole columns"),
    ],
)
def test_what_cannot_work_is_an_error_where_it_is_written(
    write: Callable[[], Any], told: str
) -> None:
    """Long before a run, with the nearest name or the remedy."""
    with pytest.raises(ConfigurationError) as caught:
        write()
    assert told in str(caught.value)


def test_a_parameter_that_cannot_work_is_named_with_its_asset() -> None:
    """A project has many assets."""
    for name, arguments, rule in (
        ("hero", {"size": 1024}, "size must be text, got int 1024"),
        ("hero", {"overrides": "size"}, "overrides must be a list of column names"),
        ("hero", {"prompt": "{x:>999999999}"}, "prompt template: {x}: a number in its format"),
    ):
        given: Any = arguments
        with pytest.raises(ConfigurationError) as caught:
            build_image_asset(name, prompt_table="products", **given)
        assert str(caught.value).startswith(f"{name}: {rule}")


def test_a_generator_is_refused_where_it_is_written() -> None:
    """A prompt table is known whole before anything is sent."""

    def rows() -> Any:
        yield "one"

    with pytest.raises(ImageGenError, match="must return the whole prompt table"):
        image_asset(rows)


def test_an_argument_named_like_the_resource_is_refused() -> None:
    """Rather than the resource arriving as a prompt table."""

    def rows(imagegen: list[str]) -> list[str]:
        return imagegen

    with pytest.raises(ImageGenError, match="rename it"):
        image_asset(rows)


MISSING = [
    lambda: dg.Definitions(assets=[of_rows(["a mug"])]),
    lambda: dg.Definitions(
        assets=[build_sharded_image_asset("hero", prompt_table="products", shards=2)]
    ),
    lambda: dg.Definitions(asset_checks=build_image_checks("hero")),
]


@pytest.mark.parametrize("definitions", MISSING, ids=["asset", "shards", "checks"])
def test_a_missing_resource_is_an_error_where_it_is_loaded(
    definitions: Callable[[], dg.Definitions],
) -> None:
    """By Dagster, before anything runs: it names the key, what wants it, and what to do."""
    wanted = "'imagegen' required by op .* was not provided. Please provide"
    with pytest.raises(dg.DagsterInvalidDefinitionError, match=wanted):
        dg.Definitions.validate_loadable(definitions())


def of_input(name: str) -> dg.AssetsDefinition:
    """An image asset whose function takes this asset."""

    def hero(rows: Any) -> Any:
        return rows

    return image_asset(ins={"rows": dg.AssetIn(name)})(hero)


def of_table(name: str) -> dg.AssetsDefinition:
    return build_image_asset("hero", prompt_table=name)


def of_shards(name: str) -> dg.AssetsDefinition:
    return build_sharded_image_asset("hero", prompt_table=name, shards=2)


@pytest.mark.parametrize("hero", [of_table, of_shards, of_input])
def test_a_prompt_table_that_is_no_asset_is_an_error_where_it_is_loaded(
    project: Project, hero: Callable[[str], dg.AssetsDefinition]
) -> None:
    """By Dagster, as of any asset: it names the key, and those that are alike."""
    resources = {"imagegen": project.resource()}
    products = table_asset([{"prompt": "mug"}])

    def load(name: str, *others: dg.AssetSpec) -> None:
        assets = [products, hero(name), *others]
        dg.Definitions.validate_loadable(dg.Definitions(assets=assets, resources=resources))

    for name, told in (
        ("nope", r'\["nope"\].* is not produced by'),
        ("product", r'Did you mean .*\n\t\["products"\]'),
    ):
        with pytest.raises(dg.DagsterInvalidDefinitionError, match=told):
            load(name)
    load("nope", dg.AssetSpec("nope"))  # The remedy that the docs name, for other code locations.
