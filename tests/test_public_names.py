"""What `dagster_imagegen` exports, and what importing it loads."""

import importlib.metadata
import subprocess
import sys

import dagster as dg
import pytest

import dagster_imagegen


def test_all_is_what_is_there() -> None:
    """Every public name loads, is where it says, and nothing else is public."""
    assert dagster_imagegen.__all__ == [
        "ImageAssetDefinition",
        "ImageGenComponent",
        "ImageGenError",
        "ImageGenResource",
        "ImageGenResourceComponent",
        "ImageGenUsageComponent",
        "ParquetIOManager",
        "build_cost_report_asset",
        "build_generate_images_op",
        "build_image_asset",
        "build_image_checks",
        "build_reconciliation_check",
        "build_sharded_image_asset",
        "build_usage_asset",
        "image_asset",
    ]
    for name in dagster_imagegen.__all__:
        assert getattr(dagster_imagegen, name).__name__ == name
    assert {*dagster_imagegen.__all__, "__version__"} == set(dir(dagster_imagegen))


def test_an_unknown_name_is_an_attribute_error() -> None:
    """As of any module."""
    with pytest.raises(AttributeError, match="image_assets"):
        _ = dagster_imagegen.image_assets  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType]  # on purpose


def test_the_version_is_the_packages() -> None:
    """One number, written twice, so that reading it costs nothing."""
    assert importlib.metadata.version("dagster-imagegen") == dagster_imagegen.__version__


def test_dagster_knows_the_library() -> None:
    """Its version stands beside Dagster's own where a code location is shown."""
    assert dagster_imagegen.ImageGenResource
    registered = dg.DagsterLibraryRegistry.get()  # pyright: ignore[reportPrivateImportUsage]  # documented, but not marked as exported
    assert registered["dagster-imagegen"] == dagster_imagegen.__version__


def test_the_engine_the_sandbox_and_the_command_line_start_without_dagster() -> None:
    """They run where no Dagster does, and start in a fraction of the time."""
    program = """
import sys
import dagster_imagegen
import dagster_imagegen.engine
from dagster_imagegen import ImageGenError
from dagster_imagegen.sandbox import Sandbox
import dagster_imagegen.sandbox.server
import importlib
from dagster_imagegen.cli.app import VERBS
for verb in VERBS:
    importlib.import_module(f"dagster_imagegen.cli.{verb}")
assert "dagster" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_importing_all_names_loads_nothing_that_only_a_run_needs() -> None:
    """A code location imports them each time that it loads: no HTTP client, no pandas."""
    program = """
import sys
import dagster
before = set(sys.modules)
from dagster_imagegen import *
heavy = {"httpx", "pandas", "polars", "pyarrow.dataset", "uvicorn", "c2pa"}
print(sorted(heavy & (set(sys.modules) - before)))
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    assert done.stdout.decode().strip() == "[]"
