"""What the tests under fire share: passes in this process and in others, with their settings."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from moto.server import ThreadedMotoServer

from dagster_imagegen.engine import Engine, Identity, Settings
from dagster_imagegen.engine.endpoint.client import RetryPolicy
from dagster_imagegen.engine.generation import Generation
from dagster_imagegen.engine.ledger import Limits
from dagster_imagegen.engine.request import ImageParams
from dagster_imagegen.sandbox import Sandbox
from tests.fire.writer import Work, Writer

QUICK = RetryPolicy(max_attempts=3, max_wait_seconds=5)


@dataclass
class Passes:
    """Passes on one storage, in this process one after the other, or in processes of their own."""

    folder: Path
    defaults: dict[str, Any] = field(default_factory=dict[str, Any])
    _stack: ExitStack = field(default_factory=ExitStack)
    _count: int = 0

    @property
    def storage(self) -> Path:
        return self.folder / "storage"

    def settings(self, sandbox: Sandbox, **changes: Any) -> dict[str, Any]:
        """Those of a paid endpoint: rows cost money."""
        return {
            "base_url": sandbox.base_url,
            "endpoint_id": "https://images.example/v1",
            "model": "openai-gpt-image-1",
            "storage_uri": str(self.storage),
            "aside_folder": str(self.folder / "aside"),
            "limits": Limits(lease=20.0, store_backoff=0.01),
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

    def start(self, sandbox: Sandbox, prompts: list[str], **options: Any) -> Writer:
        """A pass in a process of its own."""
        self._count += 1
        work = {
            name: options.pop(name)
            for name in ("dies_before", "params", "root_run_id")
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


@pytest.fixture
def passes_in() -> Iterator[Callable[[Path], Passes]]:
    """Passes on a folder of one's choice."""
    with ExitStack() as stack:

        def open_in(folder: Path) -> Passes:
            folder.mkdir(exist_ok=True)
            passes = Passes(folder)
            stack.callback(passes.close)
            return passes

        yield open_in


@pytest.fixture
def passes(tmp_path: Path, passes_in: Callable[[Path], Passes]) -> Passes:
    """Passes on this test's own folder."""
    return passes_in(tmp_path)


@pytest.fixture(scope="session")
def s3_options() -> Iterator[dict[str, Any]]:
    """A server of S3's protocol, and what s3fs needs to reach it."""
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


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "full: the long form of a test; run with `pytest -m full`")
