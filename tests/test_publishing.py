"""Image assets that publish their images."""

import re
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_imagegen import ImageGenComponent, build_image_asset, image_asset
from dagster_imagegen.engine.errors import ConfigurationError
from dagster_imagegen.sandbox import Fault
from tests.conftest import Project, Store, column, materialized, observed, of_rows, table_asset

# Dagster's own, of backfill_policy.
pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")

ROWS = [{"prompt": f"a {sku}", "sku": sku} for sku in ("mug", "bowl", "cup")]


@pytest.fixture
def folder(project: Project) -> Path:
    """Where images are published."""
    return project.folder / "public"


def there(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def asset(rows: Any, folder: Path, template: str = "{sku}.{ext}", **arguments: Any) -> Any:
    return of_rows(rows, publish=f"{folder}/{template}", **arguments)


def told(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    metadata = materialized(result)["hero"].metadata
    return {name: each.value for name, each in metadata.items()}


def config(**given: Any) -> dict[str, Any]:
    return {"ops": {"hero": {"config": given}}}


# -- a run -----------------------------------------------------------------------------------------


def test_the_image_table_has_the_published_addresses(project: Project, folder: Path) -> None:
    """In its last column, with its description; an asset that publishes nothing has none."""
    images = project.run(asset(ROWS, folder)).output_for_node("hero")
    assert images.column_names[-1] == "image_published_uri"
    addresses = column(images, "image_published_uri")
    assert addresses == [f"{folder}/{row['sku']}.png" for row in ROWS]
    for address, stored in zip(addresses, column(images, "image_uri"), strict=True):
        assert Path(address).read_bytes() == Path(stored).read_bytes()
    plain = project.run(of_rows(ROWS)).output_for_node("hero")
    assert "image_published_uri" not in plain.column_names


def test_a_run_tells_what_it_published(project: Project, folder: Path) -> None:
    """In metadata and log; stale files are a warning."""
    first = told(project.run(asset(ROWS, folder)))
    assert (first["imagegen/published"], first["imagegen/published_now"]) == (3, 3)
    assert first["imagegen/published_to"] == str(folder)
    assert "imagegen/stale" not in first
    result = project.run(asset(ROWS[:2], folder))
    second = told(result)
    assert (second["imagegen/published"], second["imagegen/published_now"]) == (2, 0)
    assert (second["imagegen/stale"], second["imagegen/stale_files"]) == (1, f"{folder}/cup.png")
    assert any("wanted by no row any more" in line for line in project.logs(result))
    third = told(project.run(asset(ROWS[:2], folder, publish_stale="remove")))
    assert (third["imagegen/stale_removed"], "imagegen/stale" in third) == (1, False)
    assert there(folder) == ["bowl.png", "mug.png"]
    assert project.sent() == 3


def test_another_address_is_another_data_version(project: Project, folder: Path) -> None:
    """What reads the addresses must run again; a run that changes nothing changes none."""

    def version(template: str) -> str | None:
        tags = materialized(project.run(asset(ROWS, folder, template)))["hero"].tags or {}
        return tags["dagster/data_version"]

    assert version("{sku}.{ext}") == version("{sku}.{ext}")
    assert version("{sku}.{ext}") != version("new/{sku}.{ext}")


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{skuu}.{ext}", 'no column "skuu"; did you mean "sku"?'),
        ("all.{ext}", "row 0 has it too"),
        ("{partition_key}.{ext}", "has no partitions"),
    ],
)
def test_names_that_cannot_be_are_errors_before_anything_is_sent(
    project: Project, folder: Path, template: str, problem: str
) -> None:
    """A plan finds them as well, and writes nothing."""
    for run_config in (config(plan_only=True), config()):
        result = project.run(asset(ROWS, folder, template), fails=True, run_config=run_config)
        assert problem in project.errors(result)[0]
    assert project.sent() == 0
    assert not folder.exists()


def test_a_plan_and_a_limited_run_publish_nothing(project: Project, folder: Path) -> None:
    """Nor does a run whose image table is incomplete; the next whole run publishes all."""
    project.run(asset(ROWS, folder), run_config=config(plan_only=True))
    assert not (project.folder / "store" / "_published").exists()
    project.run(asset(ROWS, folder), run_config=config(limit=1))
    project.sandbox.script(Fault("server_error", prompt="cup", times=3))
    result = project.run(asset(ROWS, folder), fails=True)
    assert materialized(result) == {}
    assert not folder.exists()
    project.run(asset(ROWS, folder))
    assert there(folder) == ["bowl.png", "cup.png", "mug.png"]


def test_rows_without_an_image_have_no_address(project: Project, folder: Path) -> None:
    """With `on_incomplete="materialize"`; a refused row has none in any case."""
    project.sandbox.script(Fault("server_error", prompt="cup", times=None))
    project.sandbox.script(Fault("moderation_blocked", prompt="bowl"))
    hero = asset(ROWS, folder, on_incomplete="materialize")
    images = project.run(hero).output_for_node("hero")
    assert column(images, "image_published_uri") == [f"{folder}/mug.png", None, None]
    assert there(folder) == ["mug.png"]


def test_several_partitions_in_one_run(project: Project, folder: Path) -> None:
    """Each has its own figures and its own stale files."""
    partitions = dg.StaticPartitionsDefinition(["bonn", "oslo"])
    tables: dict[str, Any] = {"bonn": ROWS[:2], "oslo": ROWS[2:]}
    arguments: dict[str, Any] = {
        "partitions_def": partitions,
        "backfill_policy": dg.BackfillPolicy.single_run(),
        "publish_stale": "remove",
    }
    store = Store()

    def run() -> dict[str, dict[str, Any]]:
        result = project.run(
            asset(tables, folder, "{partition_key}/{sku}.{ext}", **arguments),
            resources={"imagegen": project.resource(), "io_manager": store},
            tags={
                "dagster/asset_partition_range_start": "bonn",
                "dagster/asset_partition_range_end": "oslo",
            },
        )
        return {
            str(event.materialization.partition): {
                name: each.value for name, each in event.materialization.metadata.items()
            }
            for event in result.get_asset_materialization_events()
        }

    first = run()
    assert there(folder) == ["bonn/bowl.png", "bonn/mug.png", "oslo/cup.png"]
    assert [first[each]["imagegen/published_now"] for each in ("bonn", "oslo")] == [2, 1]
    assert column(store.values["hero"]["oslo"], "image_published_uri") == [f"{folder}/oslo/cup.png"]
    tables["bonn"] = ROWS[:1]
    assert run()["bonn"]["imagegen/stale_removed"] == 1
    assert there(folder) == ["bonn/mug.png", "oslo/cup.png"]
    alone = asset(tables["oslo"], folder, "{partition_key}/{sku}.{ext}", **arguments)
    assert told(project.run(alone, partition_key="oslo"))["imagegen/published_now"] == 0


def test_a_failure_to_publish_loses_nothing(project: Project, folder: Path) -> None:
    """The step fails and says so; the next run requests nothing, and publishes the rest."""
    folder.write_text("a file where the folder should be")
    result = project.run(asset(ROWS, folder), fails=True)
    (error,) = project.errors(result)
    assert "not all images could be published" in error
    assert str(folder) in error
    assert materialized(result) == {}
    (observation,) = observed(result)
    assert observation.metadata["imagegen/requests"].value == 3
    assert project.sent() == 3
    folder.unlink()
    images = project.run(asset(ROWS, folder)).output_for_node("hero")
    assert project.sent() == 0
    assert None not in column(images, "image_published_uri")


def test_assets_with_an_upstream_prompt_table(project: Project, folder: Path) -> None:
    """Whose columns the template names."""
    products = table_asset(ROWS)
    hero = build_image_asset(
        "hero",
        prompt_table=products,
        publish=f"{folder}/{{sku}}-{{quality}}.{{ext}}",
        quality="low",
    )
    project.run(products, hero)
    assert there(folder) == ["bowl-low.png", "cup-low.png", "mug-low.png"]


# -- the definition --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"publish": "{sku}.{ext}"}, "hero: publish template .* must begin with a folder"),
        ({"publish": "s3://cdn/{sku}.png"}, r"must end in \.{ext}"),
        ({"publish": 7}, "publish must be text"),
        ({"publish_stale": "remove"}, "set publish as well"),
        ({"publish": "s3://cdn/{a}.{ext}", "publish_stale": "keep"}, '"list" or "remove"'),
        ({"publis": "x"}, 'did you mean "publish"'),
    ],
)
def test_what_cannot_work_is_an_error_at_definition(
    arguments: dict[str, Any], problem: str
) -> None:
    """Before any run."""
    with pytest.raises(ConfigurationError, match=problem):
        image_asset(name="hero", **arguments)(list)


@pytest.mark.filterwarnings("ignore:`parse_obj_as` is deprecated")
def test_in_yaml_they_are_attributes(project: Project, folder: Path) -> None:
    """Of the component, whose error names the line."""
    from dagster.components.testing import create_defs_folder_sandbox

    text = (
        "type: dagster_imagegen.ImageGenComponent\n"
        "attributes:\n"
        "  asset: {key: hero}\n"
        "  prompts: [{prompt: a mug, sku: mug}]\n"
        f'  publish: "{folder}/{{sku}}.{{ext}}"\n'
        "  publish_stale: remove\n"
    )
    with create_defs_folder_sandbox() as sandbox:
        path = sandbox.defs_folder_path / "pictures"
        path.mkdir()
        (path / "defs.yaml").write_text(text)
        with sandbox.build_all_defs() as defs:
            (hero,) = list(defs.assets or [])
            assert isinstance(hero, dg.AssetsDefinition)
            project.run(hero)
        assert there(folder) == ["mug.png"]
        (path / "defs.yaml").write_text(text.replace(".{ext}", ".png"))
        with pytest.raises(Exception) as caught, sandbox.build_all_defs():
            pass
    chain: list[BaseException | None] = [caught.value]
    while chain[-1] is not None:
        chain.append(chain[-1].__cause__)
    told = "\n".join(map(str, chain))
    assert "must end in .{ext}" in told
    assert re.search(r"defs\.yaml:5\b", told), told
    assert {"publish", "publish_stale"} <= set(ImageGenComponent.model().model_fields)
