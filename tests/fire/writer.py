"""A writer in a process of its own, that a test can kill, pause and interrupt.

It is forked from a server that has everything imported, so that it starts in no time and inherits
neither threads nor event loops of the tests.
"""

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import FrameType
from typing import Any

from dagster_imagegen.engine.attempt import Identity
from dagster_imagegen.engine.engine import Engine
from dagster_imagegen.engine.errors import ImageGenError
from dagster_imagegen.engine.settings import Settings

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.fire.preloaded"])
# multiprocessing asks after all its processes whenever it starts one, and its answers to two
# threads that ask at the same time are wrong.
_ASKING = threading.Lock()

EXIT_DRAINED = 3
"""The process was asked to stop, drained, and says so."""
EXIT_FAILED = 4
"""The pass ended with an error, whose class is the last line of the log."""

_CHANGES = frozenset({"os.rename", "os.remove", "os.rmdir", "os.mkdir"})


@dataclass(frozen=True, kw_only=True)
class Work:
    """One pass: its settings, its prompts, and a file to note down each outcome that is reported.

    dies_before: a folder of the storage and a number: it kills itself before it makes, moves or
        removes something there for the nth time. `removal` counts what is removed from journals.
    in_a_block: one pass for each prompt, all of one block.
    signals_itself: a number and a signal: it gets that when it has noted down so many outcomes,
        however late anybody else would notice.
    """

    settings: Mapping[str, Any]
    prompts: list[str]
    log: Path
    run_id: str = "first"
    root_run_id: str | None = None
    params: Mapping[str, Any] = field(default_factory=lambda: {"quality": "low"})
    dies_before: tuple[str, int] | None = None
    signals_itself: tuple[int, signal.Signals] | None = None
    in_a_block: bool = False


class Fork:
    """A process that runs one function, from the start on. Several threads may have some."""

    def __init__(self, target: Callable[..., None], *args: object) -> None:
        self._process = _FORKS.Process(target=_run, args=(target, args), daemon=True)
        with _ASKING:
            self._process.start()

    @staticmethod
    def pipe() -> tuple[Connection, Connection]:
        """Two ends: one to keep, one for the process."""
        return _FORKS.Pipe()

    @property
    def ended(self) -> int:
        """What `multiprocessing.connection.wait` waits for."""
        return self._process.sentinel

    @property
    def is_alive(self) -> bool:
        with _ASKING:
            return self._process.is_alive()

    def send(self, sent: signal.Signals) -> None:
        """Send a signal; a process that has ended takes none."""
        if self.is_alive and self._process.pid is not None:
            os.kill(self._process.pid, sent)

    def wait(self, seconds: float) -> int:
        """Wait for its end, and kill it if that does not come. The exit code, as a shell's."""
        in_time = bool(wait([self.ended], seconds))
        if not in_time:
            self.send(signal.SIGKILL)
            wait([self.ended])
        with _ASKING:
            code = self._process.exitcode
        if not in_time:
            raise TimeoutError(f"a process did not end within {seconds:g} s")
        assert code is not None
        return code


class Writer(Fork):
    """A process that does one `Work`, from `start` on."""

    def __init__(self, work: Work) -> None:
        self.work = work
        super().__init__(_write, work)

    def wait(self, seconds: float = 300.0) -> int:
        """Wait for its end: 0, one of the codes above, or the negative of what killed it."""
        try:
            return super().wait(seconds)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; its log: {self.log}") from None

    def kill(self) -> None:
        """Kill it, as `kill -9` does, and wait until it is gone."""
        self.send(signal.SIGKILL)
        self.wait()

    @property
    def log(self) -> list[str]:
        """The lines of its log: `fingerprint status` for each outcome, then what became of it."""
        return self.work.log.read_text().splitlines() if self.work.log.exists() else []

    @property
    def reported(self) -> dict[str, str]:
        """The status of each outcome that was reported, by fingerprint."""
        outcomes = (line.partition(" ") for line in self.log if not line.startswith("#"))
        return {fingerprint: status for fingerprint, _, status in outcomes}


def _run(target: Callable[..., None], args: tuple[object, ...]) -> None:
    """The process: not through the interpreter's own end, which takes longer than what it did."""
    try:
        target(*args)
    except BaseException:  # noqa: BLE001  # told, and it ends here in any case
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _write(work: Work) -> None:
    """The process: one pass, noting down what is reported the moment it is."""
    signal.signal(signal.SIGTERM, _interrupted)
    signal.signal(signal.SIGINT, _interrupted)
    log = os.open(work.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    settings = Settings(**work.settings)
    identity = Identity(
        run_id=work.run_id, root_run_id=work.root_run_id or work.run_id, asset_key="hero"
    )
    if work.dies_before is not None:
        _die_before(*work.dies_before, storage=settings.storage_uri)
    if work.in_a_block:
        _write_block(work, Engine(settings), identity, log)
        return
    with Engine(settings) as engine:
        prompts = engine.read_prompts(work.prompts, params=dict(work.params))  # pyright: ignore[reportArgumentType]  # a TypedDict's items
        generation = engine.generate(prompts, identity=identity)
        try:
            for number, outcome in enumerate(generation, 1):
                os.write(log, f"{outcome.fingerprint} {outcome.status}\n".encode())
                if work.signals_itself is not None and work.signals_itself[0] == number:
                    os.kill(os.getpid(), work.signals_itself[1])
        except KeyboardInterrupt:
            for outcome in generation.drain():
                os.write(log, f"{outcome.fingerprint} {outcome.status}\n".encode())
            os.write(log, b"# drained\n")
            os._exit(EXIT_DRAINED)
        except ImageGenError as error:
            os.write(log, f"# {type(error).__name__}: {error}\n".encode())
            os._exit(EXIT_FAILED)
    os.write(log, b"# done\n")


def _write_block(work: Work, engine: Engine, identity: Identity, log: int) -> None:
    with engine.block(identity) as block:
        for prompt in work.prompts:
            read = engine.read_prompts([prompt], params=dict(work.params))  # pyright: ignore[reportArgumentType]  # a TypedDict's items
            with block.generate(read) as generation:
                for outcome in generation:
                    os.write(log, f"{outcome.fingerprint} {outcome.status}\n".encode())
    os.write(log, b"# done\n")


def _interrupted(number: int, frame: FrameType | None) -> None:
    """As Dagster does it: a signal comes out of whatever the main thread waits in."""
    raise KeyboardInterrupt


def _die_before(folder: str, nth: int, *, storage: str) -> None:
    """Kill this process before its nth change of that kind, whichever thread makes it."""
    if folder == "removal":
        die_before(f"{storage}/_journal", nth, removing=True)
    else:
        die_before(f"{storage}/{folder}", nth)


def die_before(place: str, nth: int, *, removing: bool = False) -> None:
    """Kill this process before it makes or moves something there for the nth time, or removes."""
    count = 0

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal count
        if event not in _CHANGES:
            return
        changed = str(args[1] if event == "os.rename" else args[0])
        if changed.startswith(place) and (event == "os.remove") == removing:
            count += 1
            if count == nth:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
