"""`image_asset` and `build_image_asset`, materialized by Dagster against a sandbox over HTTP."""

import asyncio
from pathlib import Path
from types import ModuleType
from typing import Any

import dagster as dg
import polars as pl
import pyarrow as pa
import pytest

from dagster_imagegen import (
    ImageGenResource,
    build_image_asset,
    image_asset,
)
from tests.conftest import Project, column, materialized, observed, of_rows, table_asset

# Dagster's own, of arguments that are passed on to it.
pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")


@image_asset(quality="medium", size="1536x1024")
def hero() -> list[str]:
    """Pictures for the front page."""
    return ["a red enamel mug on a wooden table", "the same mug in the snow"]


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


def test_automation_can_wait_for_other_prompts(project: Project) -> None:
    """By the data version of the prompt table, which can be materialized as often as it likes."""
    prompts: list[str] = []

    @dg.asset
    def products() -> dg.Output[list[str]]:
        return dg.Output(list(prompts), data_version=dg.DataVersion(repr(prompts)))

    changed = dg.AutomationCondition.data_version_changed()
    condition = dg.AutomationCondition.eager().replace("newly_updated", changed)

    @image_asset(automation_condition=condition)
    def shots(products: list[str]) -> list[str]:
        return products

    assets = [products, shots]
    definitions = dg.Definitions(assets=assets, resources={"imagegen": project.resource()})
    state = dg.evaluate_automation_conditions(definitions, project.instance)
    for more, requested in (["a mug"], 1), ([], 0), (["a pot"], 1):
        prompts.extend(more)
        project.run(products)
        state = dg.evaluate_automation_conditions(
            definitions, project.instance, cursor=state.cursor
        )
        assert state.get_num_requested(shots.key) == requested
        project.run(*assets, select=["shots"])


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
