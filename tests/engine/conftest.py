"""What the engine's tests share: an engine on a sandbox, over real HTTP and real files."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pytest

from dagster_imagegen.engine.attempt import Identity
from dagster_imagegen.engine.engine import Engine
from dagster_imagegen.engine.patience import Patience
from dagster_imagegen.engine.record import Limits
from dagster_imagegen.engine.request import ImageParams
from dagster_imagegen.engine.run.thread import Generation
from dagster_imagegen.engine.settings import Settings
from dagster_imagegen.sandbox import Sandbox


class Run(Protocol):
    """Run one pass to its end: its generation, all outcomes in."""

    def __call__(self, source: object, **options: Any) -> Generation: ...


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    return tmp_path / "storage"


@pytest.fixture
def open_engine(storage: Path) -> Iterator[Callable[..., Engine]]:
    """Engines on a sandbox as on a paid endpoint: their rows cost money."""
    with ExitStack() as stack:

        def open_one(sandbox: Sandbox, **changes: Any) -> Engine:
            settings: dict[str, Any] = {
                "base_url": sandbox.base_url,
                "endpoint_id": "https://images.example/v1",
                "model": "openai-gpt-image-1",
                "storage_uri": str(storage),
                "patience_seconds": 2.0,
                "limits": Limits(lease=20.0, patience=Patience(backoff_seconds=0.01)),
                **changes,
            }
            return stack.enter_context(Engine(Settings(**settings)))

        yield open_one


@pytest.fixture
def run(imagegen_sandbox: Sandbox, open_engine: Callable[..., Engine]) -> Run:
    """One pass on the test's sandbox, each with a run id of its own unless told."""
    count = 0

    def run_one(
        source: object,
        *,
        params: ImageParams | None = None,
        overrides: tuple[str, ...] = (),
        template: str | None = None,
        redo: tuple[Any, ...] = (),
        root_run_id: str | None = None,
        **changes: Any,
    ) -> Generation:
        nonlocal count
        count += 1
        engine = open_engine(imagegen_sandbox, **changes)
        prompts = engine.read_prompts(
            source, params=params or {"quality": "low"}, overrides=overrides, template=template
        )
        run_id = f"run-{count}"
        identity = Identity(run_id=run_id, root_run_id=root_run_id or run_id, asset_key="hero")
        with engine.generate(prompts, identity=identity, redo=redo) as generation:
            for _ in generation:
                pass
        generation.engine = engine  # type: ignore[attr-defined]
        return generation

    return run_one


def table_of(generation: Generation) -> pa.Table:
    """The image table of a pass that `run` made."""
    engine: Engine = generation.engine  # type: ignore[attr-defined]
    return engine.image_table(generation.plan, generation.outcomes)


def values(table: pa.Table, column: str) -> list[Any]:
    """A column's values."""
    return table[column].to_pylist()


def statuses(generation: Generation) -> list[str]:
    """The image table's statuses, in order."""
    return values(table_of(generation), "image_status")
