"""Fixtures for tests that run Dagster for real: an instance, a sandbox, a folder."""

import logging
import pickle
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from dagster_imagegen import ImageGenResource, image_asset
from dagster_imagegen.sandbox import Sandbox

# The same examples on every machine, and no limit of time: a slow machine is no failure.
hypothesis_settings.register_profile(
    "any_machine", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
hypothesis_settings.load_profile("any_machine")


@dataclass
class Project:
    """Assets on an empty instance, asking a sandbox of their own over HTTP."""

    folder: Path
    instance: dg.DagsterInstance
    sandbox: Sandbox
    settings: dict[str, Any] = field(default_factory=dict[str, Any])

    def resource(self, **changes: Any) -> ImageGenResource:
        """The resource that runs use: the sandbox as a paid endpoint, the folder as storage."""
        settings: dict[str, Any] = {
            "base_url": self.sandbox.base_url,
            "model": "openai-gpt-image-1",
            "storage_uri": str(self.folder / "store"),
            **self.settings,
            **changes,
        }
        return ImageGenResource(**settings)

    def run(
        self,
        *assets: dg.AssetsDefinition,
        select: list[str] | None = None,
        fails: bool = False,
        resources: dict[str, Any] | None = None,
        **options: Any,
    ) -> dg.ExecuteInProcessResult:
        """Materialize assets in this process; assert that the run succeeds, or that it fails."""
        result = dg.materialize(
            assets,
            instance=self.instance,
            resources={"imagegen": self.resource()} if resources is None else resources,
            selection=select,
            raise_on_error=False,
            **options,
        )
        assert result.success is not fails, self.errors(result)
        return result

    def usage(self, result: dg.ExecuteInProcessResult) -> pa.Table:
        """The usage rows that a run caused."""
        rows = self.resource().usage()
        return rows.filter(pc.field("run_id") == result.run_id)

    def sent(self) -> int:
        """Requests received since this was last asked."""
        count = len(self.sandbox.requests)
        self.sandbox.clear()
        return count

    @property
    def values(self) -> Path:
        """The folder of the default IO manager."""
        return Path(self.instance.storage_directory())

    def value(self, key: str) -> Any:
        """The value that the default IO manager stored for an asset."""
        return pickle.loads((self.values / key).read_bytes())

    def errors(self, result: dg.ExecuteInProcessResult) -> list[str]:
        """Description of every failed step, its causes after it."""
        texts: list[str] = []
        for event in result.all_events:
            if event.is_step_failure:
                data: Any = event.step_failure_data
                failure, error = data.user_failure_data, data.error
                texts.append(failure.description if failure else "")
                while error is not None:
                    texts[-1] += f"\n{error.message}"
                    error = error.cause
        return texts

    def logs(self, result: dg.ExecuteInProcessResult) -> list[str]:
        """What the assets logged."""
        entries = self.instance.all_logs(result.run_id)
        return [each.user_message for each in entries if each.dagster_event is None]


LONG_FILES = (
    "test_component_project.py",
    "test_sharded_processes.py",
    "test_model.py",
    "test_docs.py",
    "test_example_project.py",
    "test_sharding.py",
    "test_stores.py",
    "test_kill.py",
    "test_io_manager.py",
    "test_execution.py",
    "test_ops.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest: the last one to begin decides when all end."""
    items.sort(key=lambda item: item.path.name not in LONG_FILES)


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """A sandbox that paints small pictures at once."""
    with Sandbox(paint=False) as sandbox:
        yield sandbox


@cache
def shared_instance() -> dg.DagsterInstance:
    """One for all tests of this process: to make one takes as long as a run on it."""
    return dg.DagsterInstance.ephemeral()


@pytest.fixture
def project(tmp_path: Path, sandbox: Sandbox) -> Project:
    """A project whose instance knows of no run, partition or value of earlier tests."""
    project = Project(folder=tmp_path, instance=shared_instance(), sandbox=sandbox)
    project.instance.wipe()
    shutil.rmtree(project.values, ignore_errors=True)
    return project


@pytest.fixture(scope="session")
def s3_options() -> Iterator[dict[str, Any]]:
    """A server of S3's protocol, and what s3fs needs to reach it."""
    from moto.server import ThreadedMotoServer  # 2 s, which most tests need not wait for

    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # a line a request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield {
        "key": "testing",
        "secret": "testing",
        "endpoint_url": f"http://{host}:{port}",
        # Stores other than AWS's own (DigitalOcean Spaces) know no other checksums.
        "config_kwargs": {
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
        },
    }
    server.stop()


def materialized(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetMaterialization]:
    """The materializations of a run, by asset key."""
    return {
        event.materialization.asset_key.to_user_string(): event.materialization
        for event in result.get_asset_materialization_events()
    }


def observed(result: dg.ExecuteInProcessResult) -> list[dg.AssetObservation]:
    """The observations of a run."""
    return [
        event.asset_observation_data.asset_observation
        for event in result.get_asset_observation_events()
    ]


def column(table: pa.Table, name: str) -> list[Any]:
    """The values of a column."""
    return table[name].to_pylist()


def table_asset(table: Any, name: str = "products") -> dg.AssetsDefinition:
    """An upstream asset with this value."""

    @dg.asset(name=name)
    def products() -> Any:
        return table

    return products


def of_rows(rows: Any, **arguments: Any) -> dg.AssetsDefinition:
    """An image asset named `hero` of this prompt table."""

    def source() -> Any:
        return rows

    return image_asset(name="hero", **arguments)(source)


class Store(dg.IOManager):
    """Keeps values, of several partitions too."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        self.values[context.asset_key.to_user_string()] = obj

    def load_input(self, context: dg.InputContext) -> Any:
        return self.values[context.asset_key.to_user_string()]
