"""Runs of the job of `sharded_project.py` in several processes, and the kill of one of them."""

import contextlib
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc

from dagster_imagegen import ImageGenResource
from dagster_imagegen.engine.request import ImageRequest
from dagster_imagegen.sandbox import Fault, Sandbox
from dagster_imagegen.shard_files import shard_of
from tests import sharded_project
from tests.conftest import column

REPOSITORY = Path(__file__).parents[1]
CONCURRENCY = 2
"""So few that the requests in flight are known when a process is killed."""
MODEL, ENDPOINT = "openai-gpt-image-1", "provider"


@dataclass(kw_only=True)
class ShardedRuns:
    """Runs on one instance and one storage, all with the same job and executor."""

    folder: Path
    instance: dg.DagsterInstance
    sandbox: Sandbox
    job: str
    executor: dict[str, Any]
    shards: int
    rows: int

    @property
    def settings(self) -> dict[str, Any]:
        """Those of the resource; the endpoint has a name that does not depend on the port."""
        return {
            "base_url": self.sandbox.base_url,
            "endpoint_id": ENDPOINT,
            "model": MODEL,
            "storage_uri": str(self.folder / "store"),
            "max_concurrency": CONCURRENCY,
        }

    def run(self, *, ops: Any = None, again: Any = None) -> dg.JobExecutionResult:
        """Run the job, or, with options of a re-execution, a part of it again."""
        job: Any = dg.build_reconstructable_job(
            sharded_project.__name__,
            self.job,
            reconstructable_kwargs={
                "rows": self.rows,
                "shards": self.shards,
                "settings": self.settings,
            },
            reconstructor_working_directory=str(REPOSITORY),
        )
        return dg.execute_job(
            job,
            self.instance,
            run_config={"execution": {"config": self.executor}, "ops": ops or {}},
            reexecution_options=again,
        )

    def run_and_kill(self, shard: int, hanging: Sequence[str]) -> dg.JobExecutionResult:
        """A run in which a shard's process is killed while these of its requests hang."""
        assert len(hanging) == CONCURRENCY
        self.sandbox.script(*(Fault("hang", prompt=each) for each in hanging))
        with _repeated(partial(self._kill_once_sent, f"shots.shard_{shard}", set(hanging))):
            return self.run()

    def finish(self, hanging: Sequence[str]) -> None:
        """A new run, which requests only those that hung in a killed process once more."""
        assert self.run().success
        assert self.sent() == Counter([*self.prompts(), *hanging])
        usage = self.usage()
        assert Counter(column(usage, "prompt")) == self.sent()
        unknown = usage.filter(pc.field("status") == "unknown")
        assert sorted(column(unknown, "prompt")) == sorted(hanging)

    def _kill_once_sent(self, step: str, prompts: set[str]) -> bool:
        if not self.sent().keys() >= prompts:
            return False
        (run,) = self.instance.get_runs(limit=1)
        (pid,) = (
            event.pid
            for event in (each.dagster_event for each in self.instance.all_logs(run.run_id))
            if event and event.is_step_start and event.step_key == step
        )
        assert pid not in (None, os.getpid())
        os.kill(pid, signal.SIGKILL)
        return True

    def prompts(self, shard: int | None = None) -> list[str]:
        """All, or those of a shard, in the order of the rows."""
        texts = [sharded_project.prompt(number) for number in range(self.rows)]
        return [each for each in texts if shard in (None, self._shard(each))]

    def _shard(self, text: str) -> int:
        request = ImageRequest(endpoint_id=ENDPOINT, model=MODEL, prompt=text, quality="low")
        return shard_of(request.fingerprint, self.shards)

    def sent(self) -> Counter[str]:
        """How often the sandbox has received each prompt."""
        return Counter(str(each.body["prompt"]) for each in self.sandbox.requests)

    def usage(self) -> pa.Table:
        """The usage table."""
        return ImageGenResource(**self.settings).usage()


def failed_steps(result: dg.JobExecutionResult) -> dict[str, str]:
    """The steps that failed, each with what it said."""
    said: dict[str, str] = {}
    for event in result.all_events:
        if event.is_step_failure:
            data = event.step_failure_data
            failure = data.user_failure_data
            said[str(event.step_key)] = str(failure.description if failure else data.error)
    return said


@contextlib.contextmanager
def _repeated(try_once: Callable[[], bool]) -> Generator[None]:
    """Call it on a thread until it returns True, or the block ends."""
    ended = threading.Event()

    def until_done() -> None:
        while not ended.wait(0.05) and not try_once():
            pass

    thread = threading.Thread(target=until_done)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
