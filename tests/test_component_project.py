"""The components in a project as `create-dagster` makes one, used by `dg` alone."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.dataset as ds
import pytest

from tests.pages import README

ENVIRONMENT = {
    name: value for name, value in os.environ.items() if name not in ("DAGSTER_HOME", "SHOP_KEY")
}


def dg(project: Path, *arguments: str, fails: bool = False) -> str:
    """What a `dg` command prints. Its exit code must be 0, or must not."""
    done = subprocess.run(
        ["dg", *arguments],
        cwd=project,
        env={
            **ENVIRONMENT,
            "PYTHONPATH": str(project / "src"),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "COLUMNS": "200",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert (done.returncode != 0) is fails, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that `create-dagster project shop` writes, as far as `dg` reads them."""
    project = tmp_path_factory.mktemp("create") / "shop"
    package = project / "src/shop"
    (package / "defs").mkdir(parents=True)
    (project / "pyproject.toml").write_text(
        '[project]\nname = "shop"\nversion = "0.1.0"\nrequires-python = ">=3.10"\n'
        '[tool.dg]\ndirectory_type = "project"\n'
        '[tool.dg.project]\nroot_module = "shop"\nregistry_modules = ["shop.components.*"]\n'
    )
    for path in (package / "__init__.py", package / "defs/__init__.py"):
        path.write_text("")
    (package / "definitions.py").write_text(
        "from pathlib import Path\n\nfrom dagster import definitions, load_from_defs_folder\n\n\n"
        "@definitions\ndef defs():\n"
        "    return load_from_defs_folder(path_within_project=Path(__file__).parent)\n"
    )
    dg(project, "scaffold", "defs", "dagster_imagegen.ImageGenComponent", "product_shots")
    return project


def test_dg_lists_the_components(project: Path) -> None:
    """All, with their descriptions."""
    listed = dg(project, "list", "components")
    assert "dagster_imagegen.ImageGenUsageComponent " in listed
    assert "dagster_imagegen.ImageGenComponent " in listed
    assert "dagster_imagegen.ImageGenResourceComponent " in listed


def test_what_dg_scaffolds_runs_at_once(project: Path) -> None:
    """It loads without a warning, and makes images in the sandbox."""
    told = dg(project, "list", "defs")
    assert "warning" not in told.lower()
    assert "product_shots" in told
    assert "imagegen" in told
    assert "3 generated" in dg(project, "launch", "--assets", "*")
    assert len([*(project / "output/images").rglob("*.png")]) == 3
    usage = ds.dataset(project / "output/usage", format="parquet").to_table()
    assert usage["asset_key"].to_pylist() == ["product_shots"] * 3


def test_one_resource_and_one_bill_serve_several_assets(project: Path) -> None:
    """A resource is scaffolded only for a project that has none, and a bill beside its assets."""
    dg(project, "scaffold", "defs", "dagster_imagegen.ImageGenComponent", "banners")
    dg(project, "scaffold", "defs", "dagster_imagegen.ImageGenUsageComponent", "usage")
    found = [each.parent.name for each in project.rglob("defs.yaml")]
    assert sorted(found) == ["banners", "imagegen", "product_shots", "usage"]
    assert "product_shots" in (project / "src/shop/defs/usage/defs.yaml").read_text()
    for command in (("check", "yaml"), ("check", "defs"), ("list", "defs")):
        told = dg(project, *command)
        assert "warning" not in told.lower()
    assert "usage" in told


def test_the_readme_s_code_is_a_file_of_the_project(project: Path) -> None:
    """To the letter, beside components, as the README says."""
    path = project / "src/shop/defs/images.py"
    path.write_text(README.code("python")[0])
    resource = project / "src/shop/defs/imagegen/defs.yaml"
    text = resource.read_text()
    resource.unlink()  # The code has one under the same key.
    told = dg(project, "list", "defs")
    resource.write_text(text)
    path.unlink()
    assert "hero" in told
    assert "product_shots" in told


def test_dg_check_names_the_line_of_an_unknown_key(project: Path) -> None:
    """And the parameter that does not exist, or whose value cannot be."""
    path = project / "src/shop/defs/product_shots/defs.yaml"
    text = path.read_text()
    wrong = text.replace("quality: low", "qualty: low\n    n: 0").replace("  prompt:", "  propmt:")
    path.write_text(wrong)
    told = dg(project, "check", "yaml", str(path.parent), fails=True)
    path.write_text(text)
    lines = re.findall(r"^\S*defs\.yaml:(\d+) - \S+ (\S+) (.*)$", told, re.MULTILINE)
    assert [(place, wrong.splitlines()[int(line) - 1].strip()) for line, place, _ in lines] == [
        ("attributes.propmt", "propmt: A studio photo of a {colour} {name}, on white"),
        ("attributes.params.qualty", "qualty: low"),
        ("attributes.params.n", "n: 0"),
    ]
    assert lines[2][2] == "0 is less than the minimum of 1"


def test_a_key_s_variable_that_is_not_set_is_named_in_the_run(project: Path) -> None:
    """Definitions load without it, so that it need not be where they are checked."""
    path = project / "src/shop/defs/imagegen/defs.yaml"
    text = path.read_text()
    path.write_text(text + "  api_key_env_var: SHOP_KEY\n")
    dg(project, "check", "defs")
    told = dg(project, "launch", "--assets", "product_shots", fails=True)
    path.write_text(text)
    assert "SHOP_KEY" in told
