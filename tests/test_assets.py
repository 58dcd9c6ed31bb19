"""`image_asset` and `build_image_asset`, materialized by Dagster against a sandbox over HTTP."""

import asyncio
import inspect
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any

import dagster as dg
import polars as pl
import pyarrow as pa
import pytest

from dagster_imagegen import (
    ImageAssetDefinition,
    ImageGenError,
    ImageGenResource,
    build_image_asset,
    execution,
    image_asset,
)
from dagster_imagegen.assets import FunctionAssetArguments
from dagster_imagegen.definition import OUR_ARGUMENTS, argument_names
from dagster_imagegen.engine.attempt import Identity
from dagster_imagegen.engine.errors import ConfigurationError
from dagster_imagegen.engine.request import ImageParams
from dagster_imagegen.execution import Execution, StepEvents, TableOptions
from dagster_imagegen.run_config import ImageRunConfig
from dagster_imagegen.sandbox import Sandbox
from tests import terminated_run
from tests.conftest import Project, column, materialized, observed

# Dagster's own, of arguments that are passed on to it.
pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")


@image_asset(quality="medium", size="1536x1024")
def hero() -> list[str]:
    """Pictures for the front page."""
    return ["a red enamel mug on a wooden table", "the same mug in the snow"]


def table_asset(table: Any, name: str = "products") -> dg.AssetsDefinition:
    """An upstream asset with this value."""

    @dg.asset(name=name)
    def products() -> Any:
        return table

    return products


def of_rows(rows: Any, **arguments: Any) -> dg.AssetsDefinition:
    """An image asset named `hero` of this prompt table."""

    def source() -> Any:
        return rows

    return image_asset(name="hero", **arguments)(source)


# -- one asset -------------------------------------------------------------------------------------


def test_the_value_is_the_image_table_and_every_request_is_a_usage_row(project: Project) -> None:
    """A row for each prompt in the one, for each request in the other, and files that exist."""
    result = project.run(hero)
    images: pa.Table = result.output_for_node("hero")
    usage = project.usage(result)
    assert set(materialized(result)) == {"hero"}
    assert observed(result) == []
    assert column(images, "image_status") == ["generated", "generated"]
    assert all(Path(uri).is_file() for uri in column(images, "image_uri"))
    assert usage.num_rows == project.sent() == 2
    assert set(column(usage, "asset_key")) == {"hero"}
    assert set(column(usage, "step_key")) == {"hero"}


def test_a_second_run_sends_nothing_and_changes_nothing(project: Project) -> None:
    """Same rows but for their status, same data version, and no usage."""
    first = project.run(hero)
    assert project.sent() == 2
    second = project.run(hero)
    assert project.sent() == 0
    before, after = (each.output_for_node("hero") for each in (first, second))
    assert after["image_status"].to_pylist() == ["reused", "reused"]
    assert after.drop_columns("image_status") == before.drop_columns("image_status")
    assert project.usage(second).num_rows == 0
    versions = [materialized(each)["hero"].tags or {} for each in (first, second)]
    assert versions[0]["dagster/data_version"] == versions[1]["dagster/data_version"]


def test_a_row_more_is_a_request_more(project: Project) -> None:
    """The others are reused, and the data version changes."""
    first = project.run(of_rows(["one", "two"]))
    assert project.sent() == 2
    second = project.run(of_rows(["one", "two", "three"]))
    assert project.sent() == 1
    images = second.output_for_node("hero")
    assert images["image_status"].to_pylist() == ["reused", "reused", "generated"]
    versions = [(materialized(each)["hero"].tags or {}) for each in (first, second)]
    assert versions[0]["dagster/data_version"] != versions[1]["dagster/data_version"]


def test_a_revision_raised_makes_that_row_anew_and_keeps_the_old_image(project: Project) -> None:
    """One request, another file; the first one stays where it is."""
    rows = [{"prompt": "one", "revision": 0}, {"prompt": "two", "revision": 0}]
    old = project.run(of_rows(rows, overrides=["revision"])).output_for_node("hero")
    project.sent()
    rows[1]["revision"] = 1
    new = project.run(of_rows(rows, overrides=["revision"])).output_for_node("hero")
    assert project.sent() == 1
    assert new["image_status"].to_pylist() == ["reused", "generated"]
    assert new["image_revision"].to_pylist() == [0, 1]
    paths = [table["image_uri"][1].as_py() for table in (old, new)]
    assert paths[0] != paths[1]
    assert all(Path(path).is_file() for path in paths)


def test_a_duplicate_row_is_asked_for_once(project: Project) -> None:
    """Both rows name the one image."""
    images = project.run(of_rows(["same", "same"])).output_for_node("hero")
    assert project.sent() == 1
    assert len(set(images["image_path"].to_pylist())) == 1


def test_an_empty_table_is_an_empty_table(project: Project) -> None:
    """No rows, no request, no error."""
    result = project.run(of_rows([]))
    assert project.sent() == 0
    assert result.output_for_node("hero").num_rows == 0
    assert project.usage(result).num_rows == 0


# -- an asset like any other -----------------------------------------------------------------------


@dg.asset(deps=[hero])
def poster() -> None: ...


@dg.asset_check(asset=hero)
def has_pictures(hero: pa.Table) -> dg.AssetCheckResult:
    """Reads what the asset's materialization stored."""
    return dg.AssetCheckResult(passed=hero.num_rows == 2)


def test_it_stands_for_its_key(project: Project) -> None:
    """As a dependency, a check's target, a selection, and the prompt table of the next one."""
    assert hero.key == dg.AssetKey("hero")
    bigger = build_image_asset("bigger", prompt_table=hero)
    assert bigger.dependency_keys == poster.dependency_keys == {hero.key}
    definitions = dg.Definitions(
        assets=[hero, poster, bigger],
        asset_checks=[has_pictures],
        jobs=[dg.define_asset_job("nightly", selection=[hero])],
        resources={"imagegen": project.resource()},
    )
    job = definitions.resolve_job_def("nightly")
    result = job.execute_in_process(instance=project.instance)
    assert set(materialized(result)) == {"hero"}
    (evaluation,) = result.get_asset_check_evaluations()
    assert evaluation.passed


def test_the_function_finds_itself_in_its_context(project: Project) -> None:
    """Its key and its metadata, which stands beside ours."""

    @image_asset
    def pictures(context: dg.AssetExecutionContext) -> list[str]:
        context.add_output_metadata({"source": context.asset_key.to_user_string()})
        return ["a mug"]

    metadata = materialized(project.run(pictures))["pictures"].metadata
    assert metadata["source"].value == "pictures"
    assert metadata["imagegen/images"].value == 1


def test_a_key_can_be_replaced_after_the_definition(project: Project) -> None:
    """The run makes, records and describes the asset under the key that it has then."""
    products = table_asset([{"prompt": "a mug"}])
    old = build_image_asset("old", prompt_table=products)
    front, shop = dg.AssetKey(["web", "front"]), dg.AssetKey(["shop", "products"])
    renames = {old.key: front, products.key: shop}
    renamed = [each.with_attributes(asset_key_replacements=renames) for each in (products, old)]
    result = project.run(*renamed)
    assert set(materialized(result)) == {"shop/products", "web/front"}
    assert set(column(project.usage(result), "asset_key")) == {"web/front"}
    lineage: Any = materialized(result)["web/front"].metadata["dagster/column_lineage"].value
    assert {dep.asset_key for dep in lineage.deps_by_column["prompt"]} == {shop}
    assert any(line.startswith("web/front: plan: 1 rows") for line in project.logs(result))
    assert project.sent() == 1


def test_a_key_prefix_of_a_loader(project: Project) -> None:
    """`key_prefix` renames the asset, its upstream and its check."""
    module = ModuleType("shop")
    module.__dict__.update(
        products=table_asset([{"prompt": "a mug"}]),
        shots=build_image_asset("shots", prompt_table="products"),
    )
    loaded = dg.load_assets_from_modules([module], key_prefix="eu")
    assets = [each for each in loaded if isinstance(each, dg.AssetsDefinition)]
    result = project.run(*assets)
    assert set(materialized(result)) == {"eu/products", "eu/shots"}
    assert set(column(project.usage(result), "asset_key")) == {"eu/shots"}
    assert project.sent() == 1


def test_automation_requests_it_as_one_asset(project: Project) -> None:
    """When what is upstream was updated; downstream of it, only when its data changed."""
    rows = [{"prompt": "a mug"}]

    @dg.asset
    def products() -> list[dict[str, str]]:
        return list(rows)

    changed = dg.AutomationCondition.data_version_changed()
    shots = build_image_asset(
        "shots",
        prompt_table=products,
        automation_condition=dg.AutomationCondition.eager(),
    )

    @dg.asset(
        deps=[shots],
        automation_condition=dg.AutomationCondition.any_deps_match(changed).since_last_handled(),
    )
    def thumbs() -> None: ...

    assets = [products, shots, thumbs]
    definitions = dg.Definitions(assets=assets, resources={"imagegen": project.resource()})
    state = dg.evaluate_automation_conditions(definitions, project.instance)
    project.run(products)
    state = dg.evaluate_automation_conditions(definitions, project.instance, cursor=state.cursor)
    assert state.get_num_requested(shots.key) == 1
    for row, requested in ((None, 1), (None, 0), ({"prompt": "a pot"}, 1)):
        rows.extend([row] if row else [])
        project.run(*assets, select=["products", "shots"])
        state = dg.evaluate_automation_conditions(
            definitions, project.instance, cursor=state.cursor
        )
        assert state.get_num_requested(thumbs.key) == requested


# -- what the function takes -----------------------------------------------------------------------


class Wishes(dg.Config):
    subject: str = "mug"


class Names(dg.ConfigurableResource[Any]):
    prefix: str


def test_the_function_takes_what_an_asset_takes(project: Project) -> None:
    """Context, config, resources, upstream assets by name and by `ins`, and keyword-only ones."""
    seen: dict[str, Any] = {}

    @image_asset(ins={"shelf": dg.AssetIn(key=["a", "shelf"])}, deps=["stock"], code_version="3")
    def pictures(
        context: dg.AssetExecutionContext,
        products: pl.DataFrame,
        shelf: list[str],
        config: Wishes,
        *,
        names: Names,
    ) -> pl.DataFrame:
        seen.update(run_id=context.run.run_id, shelf=shelf, prefix=names.prefix)
        return products.select(prompt=pl.lit(f"{config.subject} ") + pl.col("name"), price="price")

    @dg.asset(key=["a", "shelf"])
    def shelf() -> list[str]:
        return ["top"]

    @dg.asset
    def stock() -> None: ...

    products = table_asset(pl.DataFrame({"name": ["a", "b"], "price": [1, 2]}))
    result = project.run(
        products,
        shelf,
        stock,
        pictures,
        resources={"imagegen": project.resource(), "names": Names(prefix="x")},
        run_config={"ops": {"pictures": {"config": {"subject": "pot"}}}},
    )
    images: pa.Table = result.output_for_node("pictures")
    assert images["prompt"].to_pylist() == ["pot a", "pot b"]
    assert images["price"].to_pylist() == [1, 2]
    assert seen == {"run_id": result.run_id, "shelf": ["top"], "prefix": "x"}
    upstream = {dg.AssetKey("products"), dg.AssetKey(["a", "shelf"]), dg.AssetKey("stock")}
    assert pictures.asset_deps[dg.AssetKey("pictures")] == upstream


def test_the_context_has_any_name_that_dagster_knows_it_by(project: Project) -> None:
    """`context_` is one; `__` is an input, as it is to `dg.asset`."""

    @image_asset
    def hero(context_: dg.AssetExecutionContext) -> list[str]:
        return [f"a mug of {context_.run.run_id}"]

    assert project.run(hero).output_for_node("hero").num_rows == 1

    @image_asset
    def other(__: list[str]) -> list[str]:
        return __

    assert dg.AssetKey("__") in other.dependency_keys


def test_the_function_can_be_async_and_take_the_resource_itself(project: Project) -> None:
    """The resource under the same key is the one that the images are made with."""

    @image_asset
    async def pictures(
        context: dg.OpExecutionContext, imagegen: ImageGenResource
    ) -> list[dict[str, str]]:
        await asyncio.sleep(0)
        return [{"prompt": f"{imagegen.model} {type(context).__name__}"}]

    result = project.run(pictures)
    prompts = result.output_for_node("pictures")["prompt"].to_pylist()
    assert prompts == ["openai-gpt-image-1 OpExecutionContext"]


def test_a_downstream_asset_takes_the_image_table(project: Project) -> None:
    """As an Arrow table, through the default IO manager."""
    sizes: list[int] = []

    @dg.asset
    def thumbs(hero: pa.Table, imagegen: ImageGenResource) -> None:
        for path in column(hero, "image_path"):
            sizes.append(len(imagegen.open_image(path).read()))

    images = project.run(hero, thumbs).output_for_node("hero")
    assert sizes == images["image_size_bytes"].to_pylist()


def test_another_resource_key(project: Project) -> None:
    """Two endpoints in one code location."""

    @image_asset(resource_key="other")
    def pictures() -> list[str]:
        return ["one"]

    project.run(pictures, resources={"other": project.resource()})
    assert project.sent() == 1


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
    later = {"freshness_policy", "is_virtual"}  # Of newer releases than the oldest supported.
    assert known - argument_names() <= later
    assert ours <= known


def test_a_freshness_policy(project: Project) -> None:
    """As the installed Dagster has them."""
    preview = pytest.importorskip("dagster.preview.freshness")
    policy = preview.FreshnessPolicy.cron(
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


# -- the execution behind it -----------------------------------------------------------------------


def test_an_execution_runs_in_any_step(project: Project) -> None:
    """An op that is no asset, which an engine, a log and an identity are enough for."""
    options = TableOptions(params={"quality": "low"}, template="a {name}")

    @dg.op
    def draw(context: dg.OpExecutionContext, imagegen: ImageGenResource) -> pa.Table:
        identity = Identity(
            run_id=context.run_id, root_run_id=context.run_id, step_key=context.op.name
        )
        with imagegen.open_engine() as engine:
            run = Execution(engine=engine, log=context.log, identity=identity)
            with run.begin(run.read([{"name": "mug"}], options)) as generation:
                return run.finish(generation).images

    @dg.job(resource_defs={"imagegen": project.resource()})
    def drawing() -> None:
        draw()

    result = drawing.execute_in_process(instance=project.instance)
    assert column(result.output_for_node("draw"), "prompt") == ["a mug"]
    (row,) = project.usage(result).to_pylist()
    assert (row["asset_key"], row["step_key"]) == (None, "draw")
    assert any(line.startswith("draw: plan: 1 rows") for line in project.logs(result))


# -- without a function ----------------------------------------------------------------------------


def test_an_asset_without_a_function(project: Project) -> None:
    """A template, an override, carried columns, and lineage of columns from the upstream asset."""
    shots = build_image_asset(
        "product_shots",
        prompt_table=["shop", "products"],
        prompt="A studio photo of {name}, {colour}, on white",
        overrides=["size"],
        quality="medium",
        group_name="marketing",
    )

    @dg.asset(key=["shop", "products"])
    def products() -> pa.Table:
        return pa.table(
            {"name": ["mug", "pot"], "colour": ["red", "blue"], "size": [None, "1024x1536"]}
        )

    result = project.run(products, shots)
    images: pa.Table = result.output_for_node("product_shots")
    assert images["prompt"][0].as_py() == "A studio photo of mug, red, on white"
    assert images["colour"].to_pylist() == ["red", "blue"]
    sizes = [request.body["size"] for request in project.sandbox.requests]
    assert sorted(sizes) == ["1024x1536", "auto"]
    lineage: Any = materialized(result)["product_shots"].metadata["dagster/column_lineage"]
    deps = lineage.value.deps_by_column
    upstream = dg.AssetKey(["shop", "products"])
    assert deps["colour"] == [dg.TableColumnDep(asset_key=upstream, column_name="colour")]
    assert {dep.column_name for dep in deps["prompt"]} == {"name", "colour"}


def test_an_upstream_definition_can_stand_for_its_key(project: Project) -> None:
    """Without a template the column `prompt` is taken."""
    products = table_asset([{"prompt": "a mug"}])
    shots = build_image_asset("shots", prompt_table=products)
    images = project.run(products, shots).output_for_node("shots")
    assert images["prompt"].to_pylist() == ["a mug"]


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


def test_a_column_that_cannot_be_carried_costs_nothing(project: Project) -> None:
    """It is found before anything is sent, and named with its type."""
    text = pa.py_buffer(b"\xff\xfe")
    broken = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), text])
    rows = pa.table({"prompt": ["a mug"], "note": broken})
    (error,) = project.errors(project.run(of_rows(rows), fails=True))
    assert 'column "note" of the prompt table (string) cannot be carried' in error
    assert project.sent() == 0


def test_odd_times_and_descriptions_are_carried(project: Project) -> None:
    """Into the image table as they came."""
    times = pa.array([2**62], pa.timestamp("us"))
    described = pa.field("at", times.type, metadata={"description": b"\xff"})
    schema = pa.schema([pa.field("prompt", pa.string()), described])
    rows = pa.Table.from_arrays([pa.array(["a mug"]), times], schema=schema)
    images = project.run(of_rows(rows)).output_for_node("hero")
    assert images["at"].combine_chunks().equals(times)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (None, "return statement"),
        ("a mug", "put it in a list"),
        (pl.LazyFrame({"prompt": ["a"]}), "collect()"),
        ([{"text": "a"}], 'no column "prompt"'),
        ([{"prompt": "a"}, {"prompt": None}, {"prompt": ""}], "2 problems"),
        (["x" * 32_001], "32,001"),
        ([{"prompt": "a", "image_uri": "x"}], "must not begin with"),
        ([{"prompt": "a", "prompt_id": "1"}, {"prompt": "b", "prompt_id": "1"}], "row 0"),
    ],
)
def test_a_table_that_cannot_be_sent_fails_the_step_before_anything_is(
    project: Project, rows: Any, told: str
) -> None:
    """The description names the asset and the remedy; a retry policy has nothing to try."""
    asset = of_rows(rows, retry_policy=dg.RetryPolicy(max_retries=2))
    result = project.run(asset, fails=True)
    assert project.sent() == 0
    assert materialized(result) == {}
    assert not retries(result)
    (error,) = project.errors(result)
    assert error.startswith("hero: ")
    assert told in error
    assert not (project.folder / "store").exists()


def retries(result: dg.ExecuteInProcessResult) -> list[dg.DagsterEvent]:
    """Every time that Dagster tried the step again."""
    return [each for each in result.all_events if each.event_type_value == "STEP_RESTARTED"]


# -- statuses --------------------------------------------------------------------------------------


def test_a_refused_row_is_a_row_and_the_run_succeeds(project: Project) -> None:
    """The next run does not ask again."""
    project.sandbox.script("moderation_blocked", None)
    images = project.run(hero).output_for_node("hero")
    assert sorted(images["image_status"].to_pylist()) == ["generated", "refused"]
    project.sent()
    project.run(hero)
    assert project.sent() == 0


def test_a_failed_row_fails_the_step_once_the_table_is_stored(project: Project) -> None:
    """With the counts, and the row's own error."""
    project.settings = {"retry": {"max_attempts": 1}, "max_concurrency": 1}
    project.sandbox.script(None, "server_error")
    result = project.run(hero, fails=True)
    assert set(materialized(result)) == {"hero"}
    assert project.value("hero")["image_status"].to_pylist() == ["generated", "failed"]
    (error,) = project.errors(result)
    assert "1 of 2 images are missing: 1 failed." in error
    assert "The server had an error" in error
    project.sent()
    project.run(hero)
    assert project.sent() == 1


def test_a_step_is_retried_where_a_retry_can_help(project: Project) -> None:
    """A failed image is asked for again by the step's retry policy; those made are not."""
    project.settings = {"retry": {"max_attempts": 1}, "max_concurrency": 1}
    project.sandbox.script(None, "server_error")
    policy = dg.RetryPolicy(max_retries=1)
    result = project.run(of_rows(["one", "two"], retry_policy=policy))
    assert len(retries(result)) == 1
    assert project.sent() == 3


def test_an_unknown_row_is_not_worth_a_retry_of_the_step(project: Project) -> None:
    """Only a later run asks again for what may have been billed."""
    project.sandbox.script("gateway_timeout")
    policy = dg.RetryPolicy(max_retries=3)
    result = project.run(of_rows(["one"], retry_policy=policy), fails=True)
    assert project.sent() == 1
    assert not retries(result)
    assert "1 of 1 images are missing: 1 unknown." in project.errors(result)[0]


def test_fail_on_says_which_statuses_fail(project: Project) -> None:
    """None of them with an empty list, refusals where they are named."""
    project.settings = {"retry": {"max_attempts": 1}}
    project.sandbox.script("server_error")
    project.run(of_rows(["one"], fail_on=[]))
    project.sandbox.script("moderation_blocked")
    result = project.run(of_rows(["two"], fail_on=["refused"]), fails=True)
    assert "1 of 1 images are missing: 1 refused." in project.errors(result)[0]


def test_an_image_that_was_deleted_is_not_paid_for_again(project: Project) -> None:
    """The step fails and says what to do about it."""
    images = project.run(hero).output_for_node("hero")
    Path(column(images, "image_uri")[0]).unlink()
    project.sent()
    result = project.run(hero, fails=True)
    assert project.sent() == 0
    assert column(project.value("hero"), "image_status") == ["failed", "reused"]
    assert "raise the row's revision" in project.errors(result)[0]


def test_an_image_that_was_deleted_is_not_worth_a_retry_of_the_step(project: Project) -> None:
    """Only who brings it back, or raises its revision, helps."""
    pictures = of_rows(["one", "two"], retry_policy=dg.RetryPolicy(max_retries=2))
    images = project.run(pictures).output_for_node("hero")
    Path(column(images, "image_uri")[0]).unlink()
    assert not retries(project.run(pictures, fails=True))


def test_a_long_prompt_id_is_told_in_short(project: Project) -> None:
    """An error lists rows, not pages."""
    project.sandbox.script("moderation_blocked")
    rows = [{"prompt": "a mug", "prompt_id": "x" * 5000}]
    (error,) = project.errors(project.run(of_rows(rows, fail_on=["refused"]), fails=True))
    assert "prompt_id 'xxx" in error
    assert len(error) < 1500


STATUSES = ("succeeded", "refused", "rejected", "rate_limited", "failed", "unknown")


@pytest.mark.parametrize("fault", ["invalid_api_key", "model_not_found", "insufficient_quota"])
def test_an_endpoint_that_refuses_everything_is_one_error(project: Project, fault: str) -> None:
    """The spending is observed, the image table left as it was, and nothing is tried again."""
    project.settings = {"max_concurrency": 1}
    rows = [f"prompt {number}" for number in range(20)]
    before = project.run(of_rows(rows[:2])).output_for_node("hero")
    project.sent()
    project.sandbox.script(*[fault] * 20)
    policy = dg.RetryPolicy(max_retries=2)
    result = project.run(of_rows(rows, retry_policy=policy), fails=True)
    assert project.sent() == 1
    assert not retries(result)
    assert materialized(result) == {}
    assert project.value("hero") == before
    (code,) = column(project.usage(result), "error_code")
    (observation,) = observed(result)
    assert observation.asset_key == dg.AssetKey("hero")
    metadata: dict[str, Any] = {name: each.value for name, each in observation.metadata.items()}
    assert metadata["imagegen/requests"] == 1
    assert sum(metadata.get(f"imagegen/requests_{each}", 0) for each in STATUSES) == 1
    assert metadata["imagegen/cost"] == "$0.00"
    (error,) = project.errors(result)
    assert code in error


def test_nobody_at_the_base_url(project: Project) -> None:
    """One clear error that names the address."""
    project.settings = {"base_url": "http://127.0.0.1:9/v1", "retry": {"max_attempts": 1}}
    result = project.run(hero, fails=True)
    (error,) = project.errors(result)
    assert "127.0.0.1:9" in error
    assert "Nobody answers" in error


# -- partitions ------------------------------------------------------------------------------------

STATIC = dg.StaticPartitionsDefinition(["cats", "dogs"])
DAILY = dg.DailyPartitionsDefinition("2026-01-01", end_date="2026-02-01")
BREEDS = dg.DynamicPartitionsDefinition(name="breeds")
MULTI = dg.MultiPartitionsDefinition({"animal": STATIC, "day": DAILY})


@pytest.mark.parametrize(
    ("partitions", "key", "text"),
    [
        (STATIC, "cats", "cats"),
        (DAILY, "2026-01-02", "2026-01-02"),
        (BREEDS, "collie", "collie"),
        (MULTI, dg.MultiPartitionKey({"day": "2026-01-02", "animal": "cats"}), "cats|2026-01-02"),
    ],
    ids=["static", "time", "dynamic", "multi"],
)
def test_partitions(
    project: Project, partitions: dg.PartitionsDefinition[Any], key: str, text: str
) -> None:
    """The partition is in every usage row, its tables are its own, and it is resumed as one."""
    project.instance.add_dynamic_partitions("breeds", ["collie", "pug"])

    @image_asset(partitions_def=partitions)
    def pets(context: dg.AssetExecutionContext) -> list[str]:
        return [f"a picture of {context.partition_key}"]

    result = project.run(pets, partition_key=key)
    images: pa.Table = result.output_for_node("pets")
    assert images["prompt"].to_pylist() == [f"a picture of {text}"]
    assert column(project.usage(result), "partition_key") == [text]
    assert materialized(result)["pets"].partition == text
    project.run(pets, partition_key=key)
    assert project.sent() == 1


def in_range(first: str, last: str) -> dict[str, str]:
    """The tags of a run over several partitions, as a single-run backfill sets them."""
    return {
        "dagster/asset_partition_range_start": first,
        "dagster/asset_partition_range_end": last,
    }


def test_a_run_over_partitions_is_refused_before_it_costs(project: Project) -> None:
    """The default IO manager cannot write one; the remedy is named, the function does not run."""
    calls: list[str] = []

    @image_asset(partitions_def=STATIC, backfill_policy=dg.BackfillPolicy.single_run())
    def pets() -> dict[str, list[str]]:
        calls.append("called")
        return {}

    result = project.run(pets, tags=in_range("cats", "dogs"), fails=True)
    assert project.sent() == 0
    assert calls == []
    (error,) = project.errors(result)
    assert "over 2 partitions" in error
    assert "BackfillPolicy.multi_run()" in error


class Store(dg.IOManager):
    """Keeps values, of several partitions too."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        self.values[context.asset_key.to_user_string()] = obj

    def load_input(self, context: dg.InputContext) -> Any:
        return self.values[context.asset_key.to_user_string()]


def test_a_run_over_partitions_for_an_io_manager_that_can(project: Project) -> None:
    """Tables and metadata by partition; each row names its own."""

    @dg.asset(partitions_def=STATIC, backfill_policy=dg.BackfillPolicy.single_run())
    def products(context: dg.AssetExecutionContext) -> dict[str, list[str]]:
        return {key: [f"one of the {key}"] for key in context.partition_keys}

    pets = build_image_asset(
        "pets",
        prompt_table="products",
        partitions_def=STATIC,
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    # `build_image_asset` reads a column; a list of texts is a column named prompt.
    store = Store()
    resources = {"imagegen": project.resource(), "io_manager": store}
    result = project.run(products, pets, tags=in_range("cats", "dogs"), resources=resources)
    assert project.sent() == 2
    assert {key: table["prompt"].to_pylist() for key, table in store.values["pets"].items()} == {
        "cats": ["one of the cats"],
        "dogs": ["one of the dogs"],
    }
    assert sorted(column(project.usage(result), "partition_key")) == ["cats", "dogs"]
    counts = {
        event.materialization.partition: event.materialization.metadata["imagegen/images"].value
        for event in result.get_asset_materialization_events()
        if event.materialization.asset_key == dg.AssetKey("pets")
    }
    assert counts == {"cats": 1, "dogs": 1}


@pytest.mark.parametrize(
    ("tables", "told"), [(["a"], "got one list"), ({"cats": ["a"], "cows": []}, "['dogs']")]
)
def test_a_run_over_partitions_needs_a_table_for_each(
    project: Project, tables: Any, told: str
) -> None:
    """What is missing and what does not belong there are named, before anything is sent."""
    pets = of_rows(tables, partitions_def=STATIC, backfill_policy=dg.BackfillPolicy.single_run())
    resources = {"imagegen": project.resource(), "io_manager": Store()}
    result = project.run(pets, tags=in_range("cats", "dogs"), resources=resources, fails=True)
    assert told in project.errors(result)[0]
    assert project.sent() == 0


def test_a_run_over_one_of_the_partitions_takes_the_same_dict(project: Project) -> None:
    """What the function of a single-run backfill returns works for a single partition too."""

    @image_asset(partitions_def=STATIC, backfill_policy=dg.BackfillPolicy.single_run())
    def pets(context: dg.AssetExecutionContext) -> dict[str, list[str]]:
        return {key: [f"one of the {key}"] for key in context.partition_keys}

    images = project.run(pets, partition_key="cats").output_for_node("pets")
    assert column(images, "prompt") == ["one of the cats"]


def test_a_stopped_run_over_partitions_observes_those_that_were_begun(project: Project) -> None:
    """Each with what it spent; the stored tables of all of them stay as they were."""
    prompts = {"cats": ["a cat"], "dogs": ["a dog"], "pugs": ["a pug"]}
    animals = dg.StaticPartitionsDefinition(list(prompts))

    @image_asset(partitions_def=animals, backfill_policy=dg.BackfillPolicy.single_run())
    def pets(context: dg.AssetExecutionContext) -> dict[str, list[str]]:
        return {key: prompts[key] for key in context.partition_keys}

    store = Store()
    resources = {"imagegen": project.resource(), "io_manager": store}
    project.run(pets, tags=in_range("cats", "pugs"), resources=resources)
    before = store.values["pets"]
    prompts.update({key: [f"another of the {key}"] for key in prompts})
    project.sandbox.script(None, "invalid_api_key")
    result = project.run(pets, tags=in_range("cats", "pugs"), resources=resources, fails=True)
    assert store.values["pets"] is before
    assert materialized(result) == {}
    counts = {
        each.partition: (
            each.metadata["imagegen/requests"].value,
            "imagegen/requests_succeeded" in each.metadata,
        )
        for each in observed(result)
    }
    assert counts == {"cats": (1, True), "dogs": (1, False)}


def test_an_asset_without_partitions_in_a_partitioned_run(project: Project) -> None:
    """It runs as ever, and its rows name no partition."""

    @dg.asset(partitions_def=STATIC)
    def other() -> None: ...

    result = project.run(hero, other, partition_key="cats")
    assert column(project.usage(result), "partition_key") == [None, None]


# -- what is logged --------------------------------------------------------------------------------


def test_the_log_has_the_plan_first_and_the_sum_last(project: Project) -> None:
    """Where everything lies and what it cost is the last line."""
    lines = project.logs(project.run(hero))
    mine = [line for line in lines if line.startswith("hero: ")]
    assert mine[0].startswith("hero: plan: 2 rows, 2 images, 2 to request; $0.1")
    assert mine[-1].startswith("hero: 2 generated; cost of this run $0.13; images in ")
    assert str(project.folder / "store") in mine[-1]


def test_an_unknown_cost_is_never_told_as_nothing(project: Project) -> None:
    """The log counts the requests, and the metadata has no figure that looks like a whole."""
    project.settings = {"model": "flux-of-our-own", "max_concurrency": 1}
    result = project.run(hero)
    last = [line for line in project.logs(result) if line.startswith("hero: ")][-1]
    assert "cost of this run $0.00 and 2 requests of unknown cost;" in last
    metadata = materialized(result)["hero"].metadata
    assert metadata["imagegen/unpriced_requests"].value == 2
    assert "imagegen/cost_usd" not in metadata
    assert metadata["imagegen/cost"].value == "$0.00 and 2 requests of unknown cost"
    assert metadata["imagegen/cost_by_basis"].value == "unknown (2)"

    project.sandbox.script(None, "invalid_api_key")
    stopped = project.run(of_rows(["one", "two", "three"]), fails=True)
    (line,) = [line for line in project.logs(stopped) if "stopped after" in line]
    assert "$0.00 and 1 request of unknown cost" in line


def test_the_sandbox_costs_nothing_and_says_what_it_would(project: Project) -> None:
    """In the log, in the metadata and in the table."""
    result = project.run(hero, resources={"imagegen": project.resource(base_url="sandbox")})
    assert project.sent() == 0
    last = [line for line in project.logs(result) if line.startswith("hero: ")][-1]
    assert "$0.00 (sandbox; $0.13 at list price)" in last
    metadata = materialized(result)["hero"].metadata
    assert metadata["imagegen/cost_usd"].value == 0.0
    assert metadata["imagegen/list_price_usd"].value == pytest.approx(0.1255, abs=1e-3)
    images = result.output_for_node("hero")
    assert set(images["image_cost_basis"].to_pylist()) == {"sandbox"}
    assert sum(images["image_cost_usd"].to_pylist()) == Decimal(0)


def test_progress_is_logged_every_so_often(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the plan and the sum."""
    monkeypatch.setattr(execution, "PROGRESS_SECONDS", 0.05)
    with Sandbox(paint=False, latency_seconds=0.2) as slow:
        lines = project.logs(
            project.run(hero, resources={"imagegen": project.resource(base_url=slow.base_url)})
        )
    assert any("of 2 images" in line for line in lines)


def test_a_likely_override_that_is_not_named_is_warned_of(project: Project) -> None:
    """A product table has a size of its own, so it is carried along."""
    lines = project.logs(project.run(of_rows([{"prompt": "a", "size": "XL"}])))
    assert any('overrides=["size"]' in line for line in lines)


# -- termination -----------------------------------------------------------------------------------


def test_a_terminated_run_waits_for_what_is_in_flight_and_observes_what_it_spent(
    tmp_path: Path,
) -> None:
    """As Kubernetes ends a run: nothing more is sent, nothing that was sent is lost."""
    third = threading.Event()
    received: list[str] = []

    def count(prompt: str) -> bool:
        received.append(prompt)
        if len(received) == 3:
            third.set()
        return False

    with Sandbox(paint=False, latency_seconds=0.5, refuse=count) as sandbox:
        command = [sys.executable, "-m", "tests.terminated_run", sandbox.base_url, str(tmp_path)]
        with subprocess.Popen(command) as process:
            assert third.wait(timeout=90)
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)
        requests = sandbox.requests
    assert 3 <= len(requests) < terminated_run.ROWS
    with terminated_run.instance(tmp_path) as instance:
        (run,) = instance.get_runs()
        assert run.status in (dg.DagsterRunStatus.CANCELED, dg.DagsterRunStatus.FAILURE)
        assert instance.get_latest_materialization_event(dg.AssetKey("hero")) is None
        (record,) = instance.fetch_observations(dg.AssetKey("hero"), limit=10).records
        assert record.asset_observation is not None
        metadata = record.asset_observation.metadata
        lines = [each.user_message for each in instance.all_logs(run.run_id)]
    assert any(f"stopped after {len(requests)} of {terminated_run.ROWS} images" in x for x in lines)
    resource = ImageGenResource(
        base_url="http://never.asked/v1", model="any", storage_uri=str(tmp_path / "store")
    )
    usage = resource.usage("hero")
    assert metadata["imagegen/requests"].value == usage.num_rows == len(requests)
    assert set(column(usage, "status")) == {"succeeded"}
    assert not list((tmp_path / "store" / "_journal").glob("*"))


def test_a_budget_ends_the_step_or_defers_the_rest(project: Project) -> None:
    """`fail` keeps what was made and observes the spending; `defer` gives the rest a status."""

    @image_asset(quality="low", size="1024x1024")
    def hero() -> list[str]:
        return [f"mug {number}" for number in range(20)]

    budget = {"max_usd": 0.1, "per": "day"}
    project.settings = {"budget": budget}
    stopped = project.run(hero, fails=True)
    assert "max_usd" in project.errors(stopped)[0]
    assert materialized(stopped) == {}
    (observation,) = observed(stopped)
    totals = project.sandbox.totals
    assert observation.metadata["imagegen/cost_usd"].value == float(totals.cost_usd)
    assert observation.metadata["imagegen/requests_succeeded"].value == totals.billed
    assert 0 < totals.cost_usd <= Decimal("0.1")

    project.settings = {"budget": {**budget, "when_exhausted": "defer"}}
    deferred = project.run(hero)
    statuses = column(project.value("hero"), "image_status")
    assert set(statuses) == {"reused", "deferred"}
    assert materialized(deferred)["hero"].metadata["imagegen/deferred"].value == statuses.count(
        "deferred"
    )
