"""Whom costs are charged to: the owners, the group and chosen tags of the asset, in usage rows."""

import json
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dagster_imagegen import (
    ImageGenResource,
    ParquetIOManager,
    build_cost_report_asset,
    build_generate_images_op,
    build_sharded_image_asset,
    build_usage_asset,
    image_asset,
)
from dagster_imagegen.engine.attempt import Attempt, Identity, RequestRecord
from dagster_imagegen.engine.record.journal import Header, JournalContent, intent_line
from tests.conftest import Project, materialized, table_asset

# Dagster's own, of arguments that are passed on to it.
pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")

SPEC: dict[str, Any] = {
    "group_name": "shop",
    "owners": ["team:growth", "ana@shop.example"],
    "tags": {"team": "growth", "cost-center": "4711", "secret-plan": "x"},
}
CHARGED = (
    "ana@shop.example,team:growth",
    "shop",
    '{"cost-center": "4711", "team": "growth"}',
)
NOBODY = (None, None, None)


@pytest.fixture
def project(project: Project) -> Project:
    """Its resource has two of the tags chosen, and one that no asset has."""
    project.settings["usage_tags"] = ["team", "cost-center", "unused"]
    return project


def charged(rows: pa.Table) -> set[tuple[str | None, ...]]:
    """Owners, group and tags of the rows."""
    names = ["asset_owners", "asset_group", "asset_tags"]
    return {tuple(row[name] for name in names) for row in rows.to_pylist()}


def of(project: Project, result: dg.ExecuteInProcessResult) -> set[tuple[str | None, ...]]:
    """Those of the rows of a run, of which there are some."""
    rows = project.usage(result)
    assert rows.num_rows
    return charged(rows)


def test_an_image_asset_is_charged_to_its_owners_group_and_chosen_tags(project: Project) -> None:
    """In the published part too, which any tool reads; without a choice there are no tags."""

    @image_asset(quality="low", **SPEC)
    def hero() -> list[str]:
        return ["a mug"]

    @image_asset(quality="low")
    def plain() -> list[str]:
        return ["a pot"]

    result = project.run(hero, plain)
    assert of(project, result) == {CHARGED, (None, "default", None)}
    assert charged(pq.read_table(project.folder / "store" / "usage")) == of(project, result)
    del project.settings["usage_tags"]

    @image_asset(quality="low", **SPEC)
    def banner() -> list[str]:
        return ["a tent"]

    assert of(project, project.run(banner)) == {(*CHARGED[:2], None)}


def test_partitions_and_shards_are_charged_alike(project: Project) -> None:
    """A run over several partitions, and the processes of a sharded asset."""
    days = dg.StaticPartitionsDefinition(["mon", "tue"])

    @image_asset(
        quality="low",
        partitions_def=days,
        backfill_policy=dg.BackfillPolicy.single_run(),
        **SPEC,
    )
    def daily(context: dg.AssetExecutionContext) -> dict[str, list[str]]:
        return {key: [f"a mug on {key}"] for key in context.partition_keys}

    tables = ParquetIOManager(uri=str(project.folder / "tables"))
    resources = {"imagegen": project.resource(), "io_manager": tables}
    ends = {"start": "mon", "end": "tue"}
    tags = {f"dagster/asset_partition_range_{end}": key for end, key in ends.items()}
    assert of(project, project.run(daily, tags=tags, resources=resources)) == {CHARGED}
    products = table_asset(pa.table({"prompt": ["a pot", "a tent"]}))
    sharded = build_sharded_image_asset("hero", prompt_table="products", shards=2, **SPEC)
    assert of(project, project.run(products, sharded)) == {CHARGED}


def test_a_definition_that_is_changed_later_counts_as_it_runs(project: Project) -> None:
    """Owners and groups can be set after an asset was defined."""

    @image_asset(quality="low", tags=SPEC["tags"])
    def hero() -> list[str]:
        return ["a mug"]

    changed = hero.map_asset_specs(
        lambda spec: spec.replace_attributes(owners=SPEC["owners"], group_name="shop")
    )
    assert of(project, project.run(changed)) == {CHARGED}


def test_blocks_are_charged_to_the_asset_that_they_name(project: Project) -> None:
    """Of a step, of one of its assets, and of an asset that another step makes."""

    @dg.multi_asset(specs=[dg.AssetSpec("big"), dg.AssetSpec("small", **SPEC)])
    def both(context: dg.AssetExecutionContext, imagegen: ImageGenResource):
        with imagegen.for_asset(context, asset_key="small") as images:
            images.generate("mug", quality="low")

    assert of(project, project.run(both)) == {CHARGED}

    place = dg.Definitions(assets=[dg.AssetSpec("hero", **SPEC)]).get_repository_def()
    imagegen = project.resource()
    with (
        dg.build_sensor_context(repository_def=place) as context,
        imagegen.for_asset(context, asset_key="hero") as images,
    ):
        images.generate("pot", quality="low")
    rows = imagegen.usage("hero")
    assert (rows.num_rows, charged(rows)) == (1, {CHARGED})


def test_who_has_no_asset_is_charged_to_nobody(project: Project) -> None:
    """An op, calls of the resource, and an asset that is defined nowhere."""
    draw = build_generate_images_op("draw", quality="low")

    @dg.op
    def prompts() -> list[str]:
        return ["a mug"]

    @dg.job(resource_defs={"imagegen": project.resource()})
    def drawing() -> None:
        draw(prompts())

    assert of(project, drawing.execute_in_process(instance=project.instance)) == {NOBODY}
    imagegen = project.resource()
    imagegen.generate("a pot", asset_key="hero")
    with dg.build_sensor_context() as context, imagegen.for_asset(context, asset_key="x") as images:
        images.generate("a tent")
    assert imagegen.usage().num_rows == 3
    assert charged(imagegen.usage()) == {NOBODY}


def test_the_bill_is_by_group_owners_and_tags(project: Project) -> None:
    """In the metadata of the usage asset, and in the table and the page of the report."""

    @image_asset(quality="low", **SPEC)
    def hero() -> list[str]:
        return ["a mug"]

    usage = build_usage_asset(image_assets=[hero])
    shown = materialized(project.run(hero, usage, build_cost_report_asset(image_assets=[hero])))
    for name, value in zip(("owners", "group", "tags"), CHARGED, strict=True):
        table: Any = shown["usage"].metadata[f"imagegen/cost_by_{name}"]
        (record,) = table.records
        assert record.data[name] == value
    folder = project.folder / "store" / "reports" / "cost_report"
    assert charged(pq.read_table(folder / "costs.parquet")) == {CHARGED}
    page = (folder / "report.html").read_text("utf-8")
    assert "By owners" in page
    assert "team:growth" in page


def test_a_killed_writers_rows_are_charged_as_its_own_are(project: Project) -> None:
    """The journal says whom its requests are for."""
    tags = json.dumps({"team": "growth"})
    identity = Identity(run_id="r", root_run_id="r", asset_owners="team:growth", asset_tags=tags)
    attempt = Attempt(
        attempt_id="j-1", identity=identity, request=RequestRecord(fingerprint="f" * 64)
    )
    content = JournalContent()
    header = Header(journal_id="j", schema=1, identity=identity)
    content.apply(f"{header.line()}\n{intent_line(attempt)}\n".encode())
    assert content.header == header
    assert content.attempts["j-1"].identity == identity
