"""The provider in a process of its own, so that it and those who ask it do not share one core."""

import contextlib
import time
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any

from typing_extensions import Self

from dagster_imagegen.sandbox import ReceivedRequest, Sandbox
from tests.fire.writer import Fork

ANSWERS_WITHIN = 300.0  # or it hangs


class Provider:
    """Two sandboxes, for a `with` block: one that takes its time, and one that answers at once, for
    a run that is not what the test is about."""

    def __init__(self, *, latency_seconds: tuple[float, float], seed: int) -> None:
        self._ours, theirs = Fork.pipe()
        self._fork = Fork(_serve, theirs, latency_seconds, seed)
        theirs.close()

    def __enter__(self) -> Self:
        self.base_url, self.quick_url = self._answer()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ours.close()
        self._fork.wait(ANSWERS_WITHIN)

    def requests_at(self, base_url: str) -> list[ReceivedRequest]:
        """Every request that the sandbox there received, when it is done with all of them: it
        does, and bills, also what nobody waits for any more."""
        self._ours.send(base_url)
        return self._answer()

    def wait_until(self, *, received: int, by: Fork) -> None:
        """Wait for so many requests at `base_url`, or for the end of whoever sends them."""
        self._ours.send(received)
        wait([self._ours, by.ended], ANSWERS_WITHIN)
        self._ours.send(0)  # those are there in any case: it stops waiting for more
        self._answer()
        self._answer()

    def _answer(self) -> Any:
        if not self._ours.poll(ANSWERS_WITHIN):
            raise TimeoutError("the provider's process does not answer")
        return self._ours.recv()


def _serve(pipe: Connection, latency_seconds: tuple[float, float], seed: int) -> None:
    """The process: answers what it is asked over the pipe until that is closed."""
    with (
        Sandbox(paint=False, latency_seconds=latency_seconds, seed=seed) as slow,
        Sandbox(paint=False) as quick,
    ):
        at = {sandbox.base_url: sandbox for sandbox in (slow, quick)}
        pipe.send(tuple(at))
        with contextlib.suppress(EOFError):  # the test is done
            while True:
                wanted: str | int = pipe.recv()
                if isinstance(wanted, str):
                    while any(request.status is None for request in at[wanted].requests):
                        time.sleep(0.01)
                    pipe.send(at[wanted].requests)
                else:
                    while len(slow.requests) < wanted and not pipe.poll(0.002):
                        pass
                    pipe.send(None)
