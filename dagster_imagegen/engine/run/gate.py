"""Who may send: everyone; or, during a pause, one request at a time, as a probe.

A probe is a request for an image that is wanted anyway, of a row chosen at random: rows that fail
for reasons of their own often stand together in a table.
"""

import asyncio
import random
from dataclasses import dataclass

from dagster_imagegen.engine.endpoint.failures import Failure

PROBE_SECONDS = 1.0
"""The wait before the first probe; it doubles with each that fails."""
PROBE_MAX_SECONDS = 30.0


@dataclass(eq=False, kw_only=True)
class Pause:
    """A time in which only probes are sent. Times are the event loop's, in seconds."""

    since: float
    latest: Failure
    wait_seconds: float
    probe_at: float = 0.0
    probe_is_due: bool = False
    is_over: bool = False

    @property
    def next_wait_seconds(self) -> float:
        """How long to wait once another probe has failed."""
        return min(2 * self.wait_seconds, PROBE_MAX_SECONDS)

    def describe(self, now: float) -> str:
        """`waiting for the endpoint for 45 s (503), next try in 8 s`."""
        left = self.probe_at - now
        return (
            f"waiting for the endpoint for {now - self.since:,.0f} s "
            f"({self.latest.summary_without_message}), "
            f"next try {f'in {left:,.0f} s' if left > 0 else 'under way'}"
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Turn:
    """The right to send one request; `observe` or `give_up` has to follow.

    Attributes:
        probe_of: The pause that it was given in; None: sending was not paused.
        all_failed: The probe is of a row that has failed before, because all that are left have.
    """

    probe_of: Pause | None = None
    all_failed: bool = False

    @property
    def is_probe(self) -> bool:
        """Whether it is the probe of the present pause. One of a pause that is over is none."""
        return self.probe_of is not None and not self.probe_of.is_over


class Gate:
    """Lets the requests of one pass through; made in its event loop, whose clock it uses.

    Args:
        rng: Chooses the rows of probes.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._loop = asyncio.get_running_loop()
        self.pause: Pause | None = None
        """Set while nothing but probes is sent."""
        self._waiting: list[asyncio.Future[Pause | None]] = []
        self._timer: asyncio.TimerHandle | None = None

    async def admit(self) -> Turn:
        """Wait while sending is paused, unless this request is chosen as a probe."""
        if self.pause is None:
            return Turn()
        if self.pause.probe_is_due:
            self.pause.probe_is_due = False
            return Turn(probe_of=self.pause)
        chosen: asyncio.Future[Pause | None] = self._loop.create_future()
        self._waiting.append(chosen)
        try:
            return Turn(probe_of=await chosen)
        except asyncio.CancelledError:
            if chosen in self._waiting:
                self._waiting.remove(chosen)
            if chosen.done() and not chosen.cancelled():
                self.give_up(Turn(probe_of=chosen.result()))
            raise

    @property
    def is_paused(self) -> bool:
        """Whether nothing but probes is sent."""
        return self.pause is not None

    def allows(self, turn: Turn) -> bool:
        """Whether the turn is still good: sending may have paused after it was given."""
        return turn.is_probe or self.pause is None

    def give_up(self, turn: Turn) -> None:
        """The turn brought no answer: if it was a probe, another row may be one."""
        if turn.is_probe:
            self._probe_is_due()

    def resume(self) -> None:
        """End the pause, if there is one: nothing is left to probe with, or the endpoint works."""
        if self.pause is not None:
            self.pause.is_over = True
        self.pause = None
        if self._timer is not None:
            self._timer.cancel()
        for each in self._waiting:
            if not each.done():  # A waiter that was cancelled has not run yet.
                each.set_result(None)
        self._waiting.clear()

    def describe(self) -> str | None:
        """Since when and why nothing but probes is sent; None where sending goes on."""
        pause = self.pause  # Asked from another thread, it may end at any moment.
        if pause is None:
            return None
        return pause.describe(self._loop.time())

    def close(self, *, since: float, latest: Failure) -> None:
        """Begin a pause because of a failure; `schedule_probe` has to follow."""
        self.pause = Pause(since=since, latest=latest, wait_seconds=0.0)

    def schedule_probe(self, wait_seconds: float, *, patience_ends: float) -> None:
        """Let the next probe of the pause through after a wait, or as patience ends."""
        pause = self.pause
        if pause is None:
            return
        now = self._loop.time()
        # Not beyond the end of patience: the last probe shows that it was not in vain.
        left = patience_ends - now
        pause.wait_seconds = max(wait_seconds, PROBE_SECONDS / 2)
        pause.probe_at = now + (min(wait_seconds, left) if left > 0 else wait_seconds)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(pause.probe_at, self._probe_is_due)

    def _probe_is_due(self) -> None:
        if self.pause is None:
            return
        if alive := [each for each in self._waiting if not each.done()]:
            chosen = self._rng.choice(alive)
            self._waiting.remove(chosen)
            chosen.set_result(self.pause)
        else:
            self.pause.probe_is_due = True
