"""A shop: a storage with images that the command line works on, and the endpoint they came from."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dagster_imagegen.cli import main
from dagster_imagegen.engine.attempt import Identity, Outcome
from dagster_imagegen.engine.engine import Engine
from dagster_imagegen.engine.run.verdict import Redo
from dagster_imagegen.engine.settings import Settings
from dagster_imagegen.sandbox import Sandbox

ENDPOINT_ID = "https://images.example/v1"
MODEL = "openai-gpt-image-1"


@dataclass
class Ran:
    """What a command ended with and printed."""

    status: int
    out: str
    err: str

    @property
    def found(self) -> dict[str, Any]:
        """The JSON that it printed."""
        return json.loads(self.out)


@dataclass
class Shop:
    """A storage, the sandbox that fills it, and the command line on both."""

    folder: Path
    sandbox: Sandbox
    capture: pytest.CaptureFixture[str]

    @property
    def storage(self) -> Path:
        """The folder of the storage."""
        return self.folder / "storage"

    def run(self, verb: str, *arguments: str, storage: Path | str | None = None) -> Ran:
        """Run a verb on the storage."""
        place = str(storage or self.storage)
        status = main([verb, "--storage", place, *arguments])
        printed = self.capture.readouterr()
        return Ran(status=status, out=printed.out, err=printed.err)

    def send(self, verb: str, *arguments: str, **options: Any) -> Ran:
        """Run a verb on the storage and the sandbox, as on a paid endpoint."""
        endpoint = ["--endpoint", self.sandbox.base_url, "--endpoint-id", ENDPOINT_ID]
        return self.run(verb, *arguments, *endpoint, "--model", MODEL, **options)

    def engine(self) -> Engine:
        """An engine on the storage and the sandbox."""
        settings = Settings(
            base_url=self.sandbox.base_url,
            endpoint_id=ENDPOINT_ID,
            model=MODEL,
            storage_uri=str(self.storage),
        )
        return Engine(settings)

    def fill_again(
        self, *prompts: str, redo: tuple[Redo, ...] = (), run_id: str = "again"
    ) -> dict[str, Outcome]:
        """Generate an image of each prompt, in one pass; returns the outcomes by fingerprint."""
        engine = self.engine()
        table = engine.read_prompts(list(prompts), params={"quality": "low"})
        identity = Identity(run_id=run_id, root_run_id=run_id, asset_key="hero")
        with engine.generate(table, identity=identity, redo=redo) as generation:
            return {each.fingerprint: each for each in generation}

    def fill(self, *prompts: str) -> dict[str, Path]:
        """Generate an image of each prompt, in one pass; returns where each is."""
        outcomes = self.fill_again(*prompts, run_id="fill")
        table = self.engine().read_prompts(list(prompts), params={"quality": "low"})
        paths: dict[str, Path] = {}
        for row in table.rows:
            image = outcomes[row.requests[0].fingerprint].image
            assert image is not None
            paths[row.requests[0].prompt] = self.storage / image.path
        return paths

    def sent(self) -> int:
        """Requests received since this was last asked."""
        count = len(self.sandbox.requests)
        self.sandbox.clear()
        return count

    def table(self, name: str, text: str) -> str:
        """A file of the shop; returns its path."""
        path = self.folder / name
        path.write_text(text)
        return str(path)

    def state(self) -> dict[str, bytes]:
        """All files of the storage."""
        return {
            str(path.relative_to(self.storage)): path.read_bytes()
            for path in self.storage.rglob("*")
            if path.is_file()
        }


@pytest.fixture
def shop(
    tmp_path: Path,
    sandbox: Sandbox,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Shop:
    """An empty shop; what is spilled goes to a folder of its own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return Shop(folder=tmp_path, sandbox=sandbox, capture=capsys)


Plant = Callable[[Shop, dict[str, Path]], str]
"""Damages a filled shop; returns the path of what `verify` is to name."""
