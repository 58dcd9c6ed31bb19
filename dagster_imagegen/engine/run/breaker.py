"""Whether failures are one row's own, everybody's, or an outage: weighed over all answers.

One failure says little about whom it concerns, so it belongs to its row until several in a row
agree. Then sending pauses: after growing waits one request at a time goes out as a probe.

- A probe brings an image, or a refusal of its prompt: sending goes on.
- Nothing has ever succeeded, and a probe agrees as well: every request would fail like this, so the
  run ends with one error. An outage is waited for all the same.
- The probes go on failing: the run ends when patience runs out.

A probe is a request for an image that is wanted anyway, of a row chosen at random: rows that fail
for reasons of their own often stand together in a table.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from dagster_imagegen.engine.endpoint.failures import Failure
from dagster_imagegen.engine.endpoint.kinds import FailureKind
from dagster_imagegen.engine.errors import EndpointError

AGREE = 4
"""Failures alike in a row that are no coincidence."""
PROBE_SECONDS = 1.0
"""The wait before the first probe; it doubles with each that fails."""
PROBE_MAX_SECONDS = 30.0
NEVER_ANSWERED_SECONDS = 60.0
"""The patience with an address that has never answered: it is probably wrong."""
DECISION_SECONDS = 5.0
"""How long a row whose answer was lost waits for others to show whether it was an outage."""

Signature: TypeAlias = tuple[object, ...]
OUTAGE: Signature = ("outage",)


@dataclass(eq=False, kw_only=True)
class Streak:
    """Failures in a row that are alike. `is_outage` once they have shown that it is one."""

    signature: Signature
    count: int = 0
    is_outage: bool = False
    is_over: bool = False


@dataclass(eq=False, kw_only=True)
class Pause:
    """A time in which only probes are sent. Times are the event loop's, in seconds."""

    since: float
    latest: Failure
    wait_seconds: float
    probe_at: float = 0.0
    probe_is_due: bool = False


@dataclass(frozen=True, eq=False, kw_only=True)
class Turn:
    """The right to send one request; `observe` or `give_up` has to follow."""

    is_probe: bool = False


class Breaker:
    """The circuit breaker of one pass, made in its event loop, whose clock it uses.

    Args:
        patience_seconds: How long nothing may succeed before the run ends.
        in_flight: Returns how many requests wait for an answer.
        end: Called with the error that ends the run.
        rng: Chooses the rows of probes.
        with_messages: Whether errors repeat the endpoint's message, which can repeat a prompt.
    """

    def __init__(
        self,
        *,
        patience_seconds: float,
        in_flight: Callable[[], int],
        end: Callable[[EndpointError], None],
        rng: random.Random,
        with_messages: bool = True,
    ) -> None:
        self._patience_seconds = patience_seconds
        self._in_flight = in_flight
        self._end = end
        self._rng = rng
        self._with_messages = with_messages
        self._loop = asyncio.get_running_loop()
        self._pause: Pause | None = None
        self._streak: Streak | None = None
        self._failing_since = 0.0
        self._failures = 0  # since the last success
        self._last: tuple[Failure, str] | None = None
        self._has_succeeded = False
        self._has_answered = False
        self._waiting: list[asyncio.Future[bool]] = []
        self._spared: list[asyncio.Future[bool]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._observed = asyncio.Event()

    # -- who may send --------------------------------------------------------------------------

    async def admit(self, *, spare: bool = False) -> Turn:
        """Wait while sending is paused, unless this request is chosen as a probe.

        With `spare` only if no other can be: the image may have been paid for already.
        """
        if self._pause is None:
            return Turn()
        if self._pause.probe_is_due:
            self._pause.probe_is_due = False
            return Turn(is_probe=True)
        chosen: asyncio.Future[bool] = self._loop.create_future()
        (self._spared if spare else self._waiting).append(chosen)
        try:
            return Turn(is_probe=await chosen)
        except asyncio.CancelledError:
            for waiting in (self._waiting, self._spared):
                if chosen in waiting:
                    waiting.remove(chosen)
            if chosen.done() and not chosen.cancelled():
                self.give_up(Turn(is_probe=chosen.result()))
            raise

    @property
    def is_paused(self) -> bool:
        """Whether nothing but probes is sent."""
        return self._pause is not None

    def allows(self, turn: Turn) -> bool:
        """Whether the turn is still good: sending may have paused after it was given."""
        return turn.is_probe or self._pause is None

    def give_up(self, turn: Turn) -> None:
        """The turn brought no answer: if it was a probe, another row may be one."""
        if turn.is_probe:
            self._probe_is_due()

    # -- what answers show ---------------------------------------------------------------------

    def observe(self, turn: Turn, failure: Failure | None, *, place: str) -> Streak | None:
        """Weigh one answer. `place` names endpoint and model, for the error that ends the run.

        Returns the streak that a failure belongs to; None for an answer that shows that the
        endpoint works.
        """
        if failure is None or failure.kind.rules.if_all_fail is None:
            self._works()
            return None
        now = self._loop.time()
        self._has_answered |= failure.http_status is not None
        self._failing_since = self._failing_since if self._failures else now
        self._failures += 1
        self._last = failure, place
        streak = self._continued(failure)
        if self._pause is not None:
            self._pause.latest = failure
            if turn.is_probe:
                longer = min(2 * self._pause.wait_seconds, PROBE_MAX_SECONDS)
                self._schedule_probe(max(longer, failure.wait_seconds or 0.0))
        elif self._agree(failure, streak):
            self._open(failure, streak, now)
        streak.is_outage |= self._pause is not None and streak.signature == OUTAGE
        evidence = self._evidence(streak, now, is_probe=turn.is_probe)
        if evidence is not None:
            self._end(self._error(failure, place, evidence))
        self._observed.set()
        return streak

    def error_of_all(self) -> EndpointError | None:
        """The error of a pass that is over; None unless one cause that concerns all kept every
        request from being accepted."""
        streak, last = self._streak, self._last
        if last is None or streak is None or streak.count < self._failures or self._has_succeeded:
            return None
        failure, place = last
        if not failure.kind.rules.concerns_all:
            return None
        return self._error(failure, place, "Every answer was like this")

    async def is_outage(self, streak: Streak, *, others_at_work: Callable[[], bool]) -> bool:
        """Whether a failure belongs to an outage; waits a moment for other answers to show it."""
        ends = self._loop.time() + DECISION_SECONDS
        while not (streak.is_outage or streak.is_over) and others_at_work():
            left = ends - self._loop.time()
            if left <= 0:
                break
            self._observed.clear()
            try:
                await asyncio.wait_for(self._observed.wait(), left)
            except asyncio.TimeoutError:
                break
        return streak.is_outage

    def describe(self) -> str | None:
        """`waiting for the endpoint for 45 s (503), next try in 8 s`; None where it goes on."""
        pause = self._pause  # Asked from another thread, it may end at any moment.
        if pause is None:
            return None
        now = self._loop.time()
        left = pause.probe_at - now
        return (
            f"waiting for the endpoint for {now - pause.since:,.0f} s "
            f"({pause.latest.summary_without_message}), "
            f"next try {f'in {left:,.0f} s' if left > 0 else 'under way'}"
        )

    def _works(self) -> None:
        self._has_succeeded = self._has_answered = True
        self._failures = 0
        if self._streak is not None:
            self._streak.is_over = True
            self._streak = None
        self._pause = None
        if self._timer is not None:
            self._timer.cancel()
        for each in (*self._waiting, *self._spared):
            if not each.done():  # A waiter that was cancelled has not run yet.
                each.set_result(False)
        self._waiting.clear()
        self._spared.clear()
        self._observed.set()

    def _continued(self, failure: Failure) -> Streak:
        signature = _signature(failure)
        if self._streak is None or self._streak.signature != signature:
            if self._streak is not None:
                self._streak.is_over = True
            self._streak = Streak(signature=signature)
        self._streak.count += 1
        return self._streak

    def _agree(self, failure: Failure, streak: Streak) -> bool:
        if failure.kind is FailureKind.RATE_LIMITED or streak.count < AGREE:
            return False
        # A server that refuses because of load may be at work on others, whose answers will tell.
        return not (failure.kind.rules.slows_sending and self._in_flight())

    def _open(self, failure: Failure, streak: Streak, now: float) -> None:
        self._pause = Pause(since=now, latest=failure, wait_seconds=0.0)
        at_once = not self._has_succeeded and streak.signature != OUTAGE
        self._schedule_probe(0.0 if at_once else PROBE_SECONDS)

    def _schedule_probe(self, wait_seconds: float) -> None:
        pause = self._pause
        if pause is None:
            return
        now = self._loop.time()
        # Not beyond the end of patience: the last probe shows that it was not in vain.
        left = self._failing_since + self._patience() - now
        pause.wait_seconds = max(wait_seconds, PROBE_SECONDS / 2)
        pause.probe_at = now + max(0.0, min(wait_seconds, left))
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(pause.probe_at, self._probe_is_due)

    def _probe_is_due(self) -> None:
        if self._pause is None:
            return
        for waiting in (self._waiting, self._spared):
            if alive := [each for each in waiting if not each.done()]:
                chosen = self._rng.choice(alive)
                waiting.remove(chosen)
                chosen.set_result(True)
                return
        self._pause.probe_is_due = True

    def _patience(self) -> float:
        if self._has_answered:
            return self._patience_seconds
        return min(self._patience_seconds, NEVER_ANSWERED_SECONDS)

    def _evidence(self, streak: Streak, now: float, *, is_probe: bool) -> str | None:
        """Why the run has to end, as a sentence; None: it goes on."""
        if self._failures <= AGREE or (self._pause is None and self._in_flight()):
            return None
        waits_for_it = streak.signature in (OUTAGE, (FailureKind.RATE_LIMITED,))
        settled = is_probe and not self._in_flight()
        if settled and not (self._has_succeeded or waits_for_it) and streak.count > AGREE:
            return f"The first {streak.count} answers were like this"
        failing = now - self._failing_since
        if failing < self._patience():
            return None
        return f"Nothing has succeeded for {failing:,.0f} s"

    def _error(self, failure: Failure, place: str, evidence: str) -> EndpointError:
        return failure.error_that_ends_run(
            place, evidence, has_worked=self._has_succeeded, with_message=self._with_messages
        )


def _signature(failure: Failure) -> Signature:
    """What failures of one cause have in common."""
    if failure.is_outage:
        return OUTAGE
    if failure.kind is FailureKind.RATE_LIMITED:
        return (FailureKind.RATE_LIMITED,)
    return (failure.kind, failure.http_status, failure.code_without_text)
