"""The README's way without Python, in a project that the real `create-dagster` makes."""

import importlib.metadata
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pyarrow.dataset as ds
import pytest

from tests.conftest import column
from tests.pages import README, ROOT

# It installs Dagster into an environment of its own, from the network.
pytestmark = pytest.mark.full

NOT_OF_A_USER = ("DAGSTER_HOME", "PYTHONPATH", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE")


@pytest.fixture
def shell(tmp_path: Path) -> Callable[[str], str]:
    """Runs a line of the README in the project; returns what it prints."""
    environment = {name: each for name, each in os.environ.items() if name not in NOT_OF_A_USER}
    # Of the Dagster that is tested here: a release is there for `create-dagster` at once, and for
    # the packages of a project only when all of them are published.
    version = importlib.metadata.version("dagster")
    subprocess.run(
        ["uvx", f"create-dagster@{version}", "project", "shop", "--no-uv-sync"],
        cwd=tmp_path,
        env=environment,
        check=True,
    )

    def run(line: str) -> str:
        done = subprocess.run(
            line,
            shell=True,
            cwd=tmp_path / "shop",
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    return run


def test_images_without_writing_python(shell: Callable[[str], str], tmp_path: Path) -> None:
    """By the README's own commands: they are valid, load, and make an image of each row."""
    (commands,) = (each for each in README.code("sh") if "dg scaffold defs" in each)
    for line in commands.strip().splitlines():
        shell(line.replace("/path/to/clone", str(ROOT)))
    project = tmp_path / "shop"
    prompts = project / "src/shop/defs/product_shots/prompts.csv"
    prompts.write_text("prompt_id,colour,name\nsku-1,red,mug\nsku-2,brass,lamp\n")
    shell("uv run dg check yaml")
    shell("uv run dg check defs")
    launch = 'uv run dg launch --assets "*"'
    assert f"`{launch}`" in README.text
    assert "2 generated" in shell(launch)
    usage = ds.dataset(project / "output/usage", format="parquet").to_table()
    assert sorted(column(usage, "prompt_id")) == ["sku-1", "sku-2"]
    assert len([*(project / "output/images").rglob("*.png")]) == 2
