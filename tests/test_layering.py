"""Which module may import which, held by import-linter's contracts in pyproject.toml."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_every_floor_imports_only_lower_ones() -> None:
    """The contracts of pyproject.toml hold for the code as it is."""
    # In a process of its own: it silences all loggers that are there, for the tests after it.
    lint = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports())"
    command = [sys.executable, "-c", lint]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


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
