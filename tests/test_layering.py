"""Which module may import which, held by import-linter's contracts in pyproject.toml."""

import subprocess
import sys
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

ROOT = Path(__file__).parent.parent


def test_every_floor_imports_only_lower_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """The contracts of pyproject.toml hold for the code as it is."""
    monkeypatch.chdir(ROOT)
    assert lint_imports(config_filename="pyproject.toml", no_cache=True) == 0


def test_the_engine_may_import_none_of_the_modules_above_it() -> None:
    """Each module of the Dagster layer is in the contract's list."""
    contract = (ROOT / "pyproject.toml").read_text().partition("nor of Dagster")[2]
    forbidden = contract.partition("[[")[0]
    modules = {path.stem for path in (ROOT / "dagster_imagegen").glob("*.py")} - {"__init__"}
    assert len(modules) >= 6
    assert [name for name in modules if f'"dagster_imagegen.{name}"' not in forbidden] == []


@pytest.mark.parametrize("module", ["dagster_imagegen.engine", "dagster_imagegen.cli"])
def test_engine_and_command_line_start_without_dagster(module: str) -> None:
    """A process that imports them has not loaded Dagster, not even by way of the package."""
    code = f"import sys, {module}; sys.exit('dagster' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_only_the_public_interface_of_dagster_is_used() -> None:
    """Nothing imports Dagster's private modules, which change without notice."""
    sources = [
        path
        for folder in ("dagster_imagegen", "example_project/src", "tests")
        for path in (ROOT / folder).rglob("*.py")
        if path != Path(__file__)
    ]
    assert sources
    assert [str(path) for path in sources if "dagster._" in path.read_text()] == []
