"""Publishing by a process that is killed, and to a store that is stopped in the middle of it."""

import signal
import threading
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest

from dagster_imagegen.engine.engine import Engine
from dagster_imagegen.engine.errors import StorageError
from dagster_imagegen.engine.patience import Patience
from dagster_imagegen.engine.prompts.rows import PromptTable
from dagster_imagegen.engine.publishing.names import Publication
from dagster_imagegen.engine.publishing.publisher import Published
from dagster_imagegen.engine.record import Limits
from dagster_imagegen.engine.run.thread import Generation
from dagster_imagegen.engine.settings import Settings
from dagster_imagegen.sandbox import Sandbox
from tests.fire.conftest import OpenPasses, Passes, until
from tests.fire.proxy import StoppableProxy
from tests.fire.writer import Fork, die_before

COUNT = 30


@pytest.fixture
def sandbox() -> Any:
    with Sandbox(paint=False) as sandbox:
        yield sandbox


def read(engine: Engine, *, last: str = "a mug") -> PromptTable:
    prompts = [f"a mug, number {number}" for number in range(COUNT - 1)]
    return engine.read_prompts([*prompts, last], params={"quality": "low"})


def publication(folder: str, *, stale: str = "list") -> Publication:
    return Publication.parse(f"{folder}/{{prompt}}.{{ext}}", stale=stale)


def publish(engine: Engine, generation: Generation, names: Publication) -> Published:
    tables: dict[str | None, PromptTable] = {None: generation.plan.prompts}
    claimed = engine.claim_names(names, tables, asset="hero")
    images: dict[str | None, pa.Table] = {
        None: engine.image_table(generation.plan, generation.outcomes)
    }
    return engine.publish(names, claimed, images, asset="hero")[None]


def publish_and_die(settings: dict[str, Any], folder: str, nth: int) -> None:
    """A process that publishes what is in storage, and dies before the nth file is in place."""
    from dagster_imagegen.engine.attempt import Identity

    die_before(folder, nth)
    with Engine(Settings(**settings)) as engine:
        identity = Identity(run_id="killed", root_run_id="killed", asset_key="hero")
        with engine.generate(read(engine), identity=identity) as generation:
            for _ in generation:
                pass
        publish(engine, generation, publication(folder))


@pytest.mark.parametrize("nth", [1, 12, COUNT])
def test_a_process_killed_in_the_middle(
    passes: Passes, sandbox: Sandbox, tmp_path: Path, nth: int
) -> None:
    """Every file is whole or not there, the next run copies the rest, and none is unknown: what
    the dead one published for a row that has left the table is removed."""
    folder = tmp_path / "public"
    engine = passes.engine(sandbox)
    prompts = [row.requests[0].prompt for row in read(engine).rows]
    passes.run(sandbox, prompts)
    process = Fork(publish_and_die, passes.settings(sandbox), str(folder), nth)
    assert process.wait(120) == -signal.SIGKILL
    stored = {path.read_bytes() for path in (passes.storage / "images").rglob("*.png")}
    found = list(folder.glob("*.png"))
    assert len(found) < COUNT
    assert {path.read_bytes() for path in found} <= stored
    # On disk it is known which ones were under way; the last row leaves the table.
    again = passes.run(sandbox, [*prompts[:-1], "a bowl"])
    done = publish(engine, again, publication(str(folder), stale="remove"))
    assert len(set(done.addresses)) == COUNT
    assert sorted(map(str, folder.rglob("*.png"))) == sorted(map(str, done.addresses))
    assert done.removed == ((f"{folder}/a mug.png",) if folder / "a mug.png" in found else ())


def on_s3(passes: Passes, sandbox: Sandbox, url: str, seconds: float) -> tuple[Engine, Generation]:
    """An engine whose storage is a disk and whose target is behind a proxy, and a finished pass."""
    options = {**passes.defaults.pop("storage_options"), "endpoint_url": url}
    passes.defaults.pop("storage_uri")
    if not seconds:
        once = Patience(attempts=1)
        passes.defaults["limits"] = Limits(lease=20.0, call_seconds=3.0, patience=once)
    engine = passes.engine(sandbox, publish_storage_options=options, patience_seconds=seconds)
    prompts = [row.requests[0].prompt for row in read(engine).rows]
    return engine, passes.run(sandbox, prompts)


@pytest.mark.parametrize("patient", [True, False])
def test_a_store_that_is_stopped(passes_on_s3: OpenPasses, sandbox: Sandbox, patient: bool) -> None:
    """It is waited for; where patience ends, an error names the place, the next call goes on."""
    passes = passes_on_s3("published")
    options, uri = passes.defaults["storage_options"], passes.defaults["storage_uri"]
    names = publication(f"{uri.rpartition('/')[0]}/cdn")
    with StoppableProxy(options["endpoint_url"]) as proxy:
        engine, generation = on_s3(passes, sandbox, proxy.url, 600.0 if patient else 0.0)
        proxy.stop()
        if patient:

            def back() -> None:
                until(lambda: proxy.held_up > 3)
                proxy.go_on()

            helper = threading.Thread(target=back)
            helper.start()
            done = publish(engine, generation, names)
            helper.join()
            assert proxy.held_up > 0
        else:
            with pytest.raises(StorageError, match=r"s3://.*/cdn"):
                publish(engine, generation, names)
            proxy.go_on()
            done = publish(engine, generation, names)
    assert done.copied == COUNT
    fs = fsspec.filesystem("s3", **options)
    stored = {path.read_bytes() for path in (passes.storage / "images").rglob("*.png")}
    assert {fs.cat_file(address) for address in done.addresses} == stored
    assert len(sandbox.requests) == COUNT
