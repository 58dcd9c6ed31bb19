"""What the tests under fire share: passes in this process and in others, with their settings."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pytest
from upath import UPath

from dagster_imagegen.engine.attempt import Identity
from dagster_imagegen.engine.engine import Engine
from dagster_imagegen.engine.patience import Patience
from dagster_imagegen.engine.record import Limits
from dagster_imagegen.engine.request import ImageParams
from dagster_imagegen.engine.run.thread import Generation
from dagster_imagegen.engine.settings import Settings
from dagster_imagegen.sandbox import Sandbox
from tests.fire.writer import Work, Writer

# So that its failures show what was compared.
pytest.register_assert_rewrite("tests.fire.record_checks")

# An object store has no locks: who died is known when the lease is over, by times that are told in
# whole seconds.
S3_LIMITS = Limits(lease=5.0, poll=0.5, patience=Patience(backoff_seconds=0.05))


def until(condition: Callable[[], bool], *, seconds: float = 300.0) -> None:
    """Wait for what others do; the time only ends a test that hangs."""
    ends_at = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends_at, "it did not happen"
        time.sleep(0.005)


@dataclass
class Passes:
    """Passes on one storage, in this process one after the other, or in processes of their own."""

    folder: Path
    defaults: dict[str, Any] = field(default_factory=dict[str, Any])
    _stack: ExitStack = field(default_factory=ExitStack)
    _count: int = 0

    @property
    def storage(self) -> Path:
        """The storage on local disk, where it is unless `defaults` say otherwise."""
        return self.folder / "storage"

    @property
    def place(self) -> UPath:
        """The storage, wherever it is."""
        options = self.defaults.get("storage_options", {})
        uri = self.defaults.get("storage_uri", str(self.storage))
        return UPath(uri, **options)  # pyright: ignore[reportUnknownVariableType]

    def settings(self, sandbox: Sandbox | str, **changes: Any) -> dict[str, Any]:
        """Those of a paid endpoint, wherever it really is: rows cost money."""
        return {
            "base_url": sandbox if isinstance(sandbox, str) else sandbox.base_url,
            "endpoint_id": "https://images.example/v1",
            "model": "openai-gpt-image-1",
            "storage_uri": str(self.storage),
            "spill_folder": str(self.folder / "aside"),
            "patience_seconds": 2.0,
            "limits": Limits(lease=20.0, patience=Patience(backoff_seconds=0.01)),
            **self.defaults,
            **changes,
        }

    def engine(self, sandbox: Sandbox, **changes: Any) -> Engine:
        return self._stack.enter_context(Engine(Settings(**self.settings(sandbox, **changes))))

    def begin(
        self,
        sandbox: Sandbox,
        prompts: object,
        *,
        params: ImageParams | None = None,
        root_run_id: str | None = None,
        redo: tuple[Any, ...] = (),
        **changes: Any,
    ) -> Generation:
        """Begin a pass in this process, with a run id of its own."""
        self._count += 1
        run_id = f"pass-{self._count}"
        identity = Identity(run_id=run_id, root_run_id=root_run_id or run_id, asset_key="hero")
        engine = self.engine(sandbox, **changes)
        read = engine.read_prompts(prompts, params=params or {"quality": "low"})
        return engine.generate(read, identity=identity, redo=redo)

    def run(self, sandbox: Sandbox, prompts: object, **options: Any) -> Generation:
        """One pass in this process, to its end; raises what ended it early."""
        with self.begin(sandbox, prompts, **options) as generation:
            for _ in generation:
                pass
        return generation

    def start(self, sandbox: Sandbox | str, prompts: list[str], **options: Any) -> Writer:
        """A pass in a process of its own."""
        self._count += 1
        work = {
            name: options.pop(name)
            for name in ("dies_before", "in_a_block", "params", "root_run_id", "signals_itself")
            if name in options
        }
        writer = Writer(
            Work(
                settings=self.settings(sandbox, **options),
                prompts=prompts,
                log=self.folder / f"log-{self._count}",
                run_id=f"process-{self._count}",
                **work,
            )
        )
        self._stack.callback(lambda: writer.is_alive and writer.kill())
        return writer

    def close(self) -> None:
        self._stack.close()


OpenPasses = Callable[[str], Passes]
"""Passes in a folder of that name."""


@pytest.fixture(scope="session")
def passes_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenPasses]:
    """Passes on local disk; several threads may ask for some."""
    tmp_path_factory.getbasetemp()  # by one thread: there can only be one
    with ExitStack() as stack:

        def open_in(name: str) -> Passes:
            passes = Passes(tmp_path_factory.mktemp(name))
            stack.callback(passes.close)
            return passes

        yield open_in


@pytest.fixture(scope="session")
def passes_on_s3(passes_in: OpenPasses, s3_options: dict[str, Any]) -> OpenPasses:
    """Passes on a bucket of their own; the folder is for what they do not store."""

    def open_in(name: str) -> Passes:
        passes = passes_in(name)
        options = {**s3_options, "use_listings_cache": False}
        bucket = f"fire-{uuid4().hex}"
        fsspec.filesystem("s3", **options).mkdir(bucket)
        passes.defaults |= {
            "storage_uri": f"s3://{bucket}/shop",
            "storage_options": options,
            "limits": S3_LIMITS,
        }
        return passes

    return open_in


@pytest.fixture
def passes(tmp_path: Path) -> Iterator[Passes]:
    """Passes on this test's own folder."""
    passes = Passes(tmp_path)
    yield passes
    passes.close()


@pytest.fixture(params=["local", "s3"])
def passes_anywhere(request: pytest.FixtureRequest) -> Passes:
    """Passes on local disk, which has locks, and on S3, which has none."""
    if request.param == "local":
        return request.getfixturevalue("passes")
    return request.getfixturevalue("passes_on_s3")("s3")
