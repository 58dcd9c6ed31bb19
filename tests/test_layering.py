"""Which module may import which, held by import-linter's contracts in pyproject.toml."""

from pathlib import Path

import pytest
from importlinter.cli import lint_imports

ROOT = Path(__file__).parent.parent


def test_every_floor_imports_only_lower_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """The contracts of pyproject.toml hold for the code as it is."""
    monkeypatch.chdir(ROOT)
    assert lint_imports(config_filename="pyproject.toml", no_cache=True) == 0


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
