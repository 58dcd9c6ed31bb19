"""What the README alone promises; what holds for every page is in test_docs.py."""

import re
from pathlib import Path
from typing import Any

import dagster as dg

from dagster_imagegen import ImageGenResource
from tests.pages import README, ROOT

PICTURES = ROOT / "example_project/src/example_project/defs/pictures.py"
TESTS = "pip install uv && uv run pytest"
LAUNCH = 'uv run --directory example_project dg launch --assets "*"'


def test_its_two_commands_are_those_that_every_change_runs() -> None:
    """To the letter: the tests, and the example."""
    ci = (ROOT / ".ci/run").read_text().splitlines()
    commands = "".join(README.code("sh")).splitlines()
    assert TESTS in commands
    assert TESTS in ci
    assert f"pip install uv && {LAUNCH}" in commands
    assert any(line.strip(" &\\)").endswith(LAUNCH) for line in ci)


def test_the_hero_it_shows_is_the_example_s() -> None:
    """To the letter."""
    (shown,) = (code for code in README.code("python") if "build_image_asset(" in code)
    assert shown.partition("\n\n")[2] in PICTURES.read_text()


def test_it_shows_three_ways_and_the_lines_that_make_it_real() -> None:
    """Each in a block that is run."""
    code = "".join(README.code("python"))
    for name in ("@image_asset", "build_image_asset(", ".generate_many("):
        assert name in code
    for setting in ("base_url=", 'api_key=dg.EnvVar("', "storage_uri="):
        assert setting in code


def test_whoever_copies_its_third_way_sees_whom_the_images_are_charged_to(tmp_path: Path) -> None:
    """The usage rows name the asset's owners and its group."""
    (shown,) = (code for code in README.code("python") if ".generate_many(" in code)
    session: dict[str, Any] = {"dg": dg, "ImageGenResource": ImageGenResource}
    exec(compile(shown, "README.md", "exec"), session)

    def owned(spec: dg.AssetSpec) -> dg.AssetSpec:
        return spec.replace_attributes(owners=["team:shop"], group_name="shop")

    banners: dg.AssetsDefinition = session["banners"].map_asset_specs(owned)
    imagegen = ImageGenResource(base_url="sandbox", model="any", storage_uri=str(tmp_path))
    result = dg.materialize([banners], resources={"imagegen": imagegen})
    rows = imagegen.usage().to_pylist()
    assert {row["asset_key"] for row in rows} == {"banners"}
    assert {(row["asset_owners"], row["asset_group"]) for row in rows} == {("team:shop", "shop")}
    (materialized,) = result.asset_materializations_for_node("banners")
    assert materialized.metadata["imagegen/generated"].value == 2


def test_its_pictures_are_large_enough_to_see() -> None:
    """Those of the sandbox and of the UI."""
    assert (
        len(re.findall(r'<img src="docs/images/[^"]+" width="700" alt="[^"]+">', README.text)) == 2
    )
