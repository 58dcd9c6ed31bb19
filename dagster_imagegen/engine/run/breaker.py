"""Whether failures are one row's own, everybody's, or an outage: weighed over all answers.

One failure says little about whom it concerns, so it belongs to its row until several in a row
agree. Then sending pauses: after growing waits one request at a time goes out as a probe.

- A probe brings an image, or a refusal of its prompt: sending goes on.
- Nothing has ever succeeded, and a probe agrees as well: every request would fail like this, so the
  run ends with one error. An outage is waited for all the same.
- Nothing has ever succeeded, and many requests were rejected for good, or refused in the same words
  and by nothing else: a probe like them ends the run, too.
- Each probe is rejected for good, as its row can be: the next goes out after a second.
- The probes go on failing: the run ends when patience runs out. But if no row is left that has not
  failed, and others have succeeded in this run, it is the rows that fail: they are given up.

The gate (gate.py) sends the probes; the breaker here decides when it closes and opens.
"""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from dagster_imagegen.engine.endpoint.failures import Failure
from dagster_imagegen.engine.endpoint.kinds import FailureKind
from dagster_imagegen.engine.errors import EndpointError
from dagster_imagegen.engine.run.gate import PROBE_SECONDS, Gate, Turn

AGREE = 4
"""Failures alike in a row that are no coincidence."""
MANY = 20
"""Answers that may be about their prompts, and without any other are no coincidence either."""
NEVER_ANSWERED_SECONDS = 60.0
"""The patience with an address that has never answered: it is probably wrong."""
DECISION_SECONDS = 5.0
"""How long a row at its last try waits for others to show whether it failed in an outage."""
MODELS_NAMED = 5
"""How many models the error that ends the run names: a column of models can be anything."""
ROWS_FAIL_SECONDS = 60.0
"""How long only probes were sent, and failed, before it is the rows' own fault."""

Signature: TypeAlias = tuple[object, ...]
OUTAGE: Signature = ("outage",)
RATE_LIMITED = FailureKind.RATE_LIMITED


@dataclass(eq=False, kw_only=True)
class Streak:
    """Failures in a row that are alike. `is_outage` once they have shown that it is one.

    A pause costs a second. An outage is more: answers that were lost in it are requested again. So
    it takes a probe that fails as well, or half of what was in flight (`enough`): a few connections
    of many can break at once in good health.

    `models` are those of the requests that failed, in order.
    """

    signature: Signature
    enough: int
    count: int = 0
    models: dict[str, None] = field(default_factory=dict[str, None])
    is_outage: bool = False
    is_over: bool = False

    def add(self, model: str) -> None:
        """Note one more failure."""
        self.count += 1
        self.models[model] = None

    def place(self, endpoint: str) -> str:
        """`https://example/v1, model 'a' and model 'b'`: where the requests went."""
        named = list(self.models)
        more = ["others"] if len(named) > MODELS_NAMED else []
        return f"{endpoint}, {' and '.join(named[:MODELS_NAMED] + more)}"


class Breaker:
    """The circuit breaker of one pass, made in its event loop, whose clock it uses.

    Args:
        gate: Sends only probes while it is closed.
        endpoint: Named in the error that ends the run.
        patience_seconds: How long nothing may succeed before the run ends.
        in_flight: Returns how many requests wait for an answer.
        end: Called with the error that ends the run.
        with_messages: Whether errors repeat the endpoint's message, which can repeat a prompt.
    """

    def __init__(
        self,
        gate: Gate,
        *,
        endpoint: str,
        patience_seconds: float,
        in_flight: Callable[[], int],
        end: Callable[[EndpointError], None],
        with_messages: bool = True,
    ) -> None:
        self._gate = gate
        self._endpoint = endpoint
        self._patience_seconds = patience_seconds
        self._in_flight = in_flight
        self._end = end
        self._with_messages = with_messages
        self._loop = asyncio.get_running_loop()
        self._streak: Streak | None = None
        self._failing_since = 0.0
        self._failures = 0  # since the last success
        self._final = 0  # of them, those that are not sent again
        self._last: Failure | None = None
        self._refused_as: str | None = None
        self._refused_alike = 0
        self._has_served = False  # an image, or a refusal that more than its words tells
        self._has_succeeded = False
        self._has_answered = False
        self._observed = asyncio.Event()

    def observe(self, turn: Turn, failure: Failure | None, *, model: str) -> Streak | None:
        """Weigh one answer. `model` names the model, for the error that ends the run.

        Returns the streak that a failure belongs to; None for an answer that shows that the
        endpoint works.
        """
        if failure is None or failure.kind.rules.if_all_fail is None:
            if not self._are_all_refused(turn, failure, model):
                self._works()
            return None
        now = self._loop.time()
        self._has_answered |= failure.http_status is not None
        self._failing_since = self._failing_since if self._failures else now
        self._failures += 1
        rules = failure.kind.rules
        self._final += rules.retry is None or rules.only_if_allowed
        self._last = failure
        streak = self._continued(failure, model)
        if self._gate.pause is not None:
            self._gate.pause.latest = failure
            if turn.is_probe:
                settled = self._has_succeeded and _settles_its_row(failure)
                wait = PROBE_SECONDS if settled else self._gate.pause.next_wait_seconds
                self._schedule_probe(max(wait, failure.wait_seconds or 0.0))
        elif self._agree(failure, streak):
            self._open(failure, streak, now)
        if self._gate.pause is not None and streak.signature == OUTAGE:
            streak.is_outage |= turn.is_probe or streak.count >= streak.enough
        evidence = self._evidence(streak, turn, now)
        if evidence is not None:
            self._end(self._error(failure, streak.place(self._endpoint), evidence))
        self._observed.set()
        return streak

    def are_rows_at_fault(self, *, all_probed: bool) -> bool:
        """Whether rows that have all failed are given up, because others have succeeded.

        `all_probed`: each has failed as a probe as often as it may. Otherwise patience decides.
        """
        pause = self._gate.pause
        if pause is None or not self._has_succeeded or pause.latest.kind is RATE_LIMITED:
            return False
        now = self._loop.time()
        # An address that nobody answers is no row's fault: it is waited for as long as may be.
        is_reached = pause.latest.kind is not FailureKind.UNREACHABLE
        probed = all_probed and is_reached and now - pause.since >= ROWS_FAIL_SECONDS
        return probed or now - self._failing_since >= self._patience()

    def error_of_all(self) -> EndpointError | None:
        """The error of a pass that is over; None unless one cause that concerns all kept every
        request from being accepted."""
        streak, failure = self._streak, self._last
        if failure is None or streak is None or not failure.kind.rules.concerns_all:
            return None
        if streak.count < self._failures or self._has_succeeded:
            return None
        return self._error(failure, streak.place(self._endpoint), "Every answer was like this")

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

    def _works(self) -> None:
        self._has_succeeded = self._has_answered = True
        self._failures = self._final = 0
        if self._streak is not None:
            self._streak.is_over = True
            self._streak = None
        self._gate.resume()
        self._observed.set()

    def _are_all_refused(self, turn: Turn, failure: Failure | None, model: str) -> bool:
        """Whether many prompts are refused in the same words, and nothing else has ever come.

        Then sending pauses, and a probe that is refused like that ends the run: it may be the
        account that is refused.
        """
        if failure is None or not failure.told_by_text:
            self._has_served = True
            return False
        words = re.sub(r"\S*\d\S*", "", failure.message)  # without ids and times
        self._refused_alike = self._refused_alike + 1 if words == self._refused_as else 1
        self._refused_as = words
        if self._has_served or self._refused_alike < MANY:
            return False
        if self._gate.pause is None:
            self._gate.close(since=self._loop.time(), latest=failure)
            self._schedule_probe(0.0)
        elif turn.is_probe and self._in_flight():
            self._schedule_probe(PROBE_SECONDS)
        elif turn.is_probe:
            evidence = f"The first {self._refused_alike} prompts were refused in these words"
            self._end(self._error(failure, f"{self._endpoint}, {model}", evidence))
        return True

    def _continued(self, failure: Failure, model: str) -> Streak:
        signature = _signature(failure)
        if self._streak is None or self._streak.signature != signature:
            if self._streak is not None:
                self._streak.is_over = True
            enough = max(AGREE, (self._in_flight() + 1) // 2)
            self._streak = Streak(signature=signature, enough=enough)
        self._streak.add(model)
        return self._streak

    def _agree(self, failure: Failure, streak: Streak) -> bool:
        if failure.kind is RATE_LIMITED or not (streak.count >= AGREE or self._all_final):
            return False
        # A server that refuses because of load may be at work on others, whose answers will tell.
        return not (failure.kind.rules.slows_sending and self._in_flight())

    @property
    def _all_final(self) -> bool:
        """Whether nothing has succeeded and many were rejected for good, each in its own way."""
        return not self._has_succeeded and self._final >= MANY

    def _open(self, failure: Failure, streak: Streak, now: float) -> None:
        self._gate.close(since=now, latest=failure)
        at_once = not self._has_succeeded and streak.signature != OUTAGE
        self._schedule_probe(0.0 if at_once else PROBE_SECONDS)

    def _schedule_probe(self, wait_seconds: float) -> None:
        patience_ends = self._failing_since + self._patience()
        self._gate.schedule_probe(wait_seconds, patience_ends=patience_ends)

    def _patience(self) -> float:
        if self._has_answered:
            return self._patience_seconds
        return min(self._patience_seconds, NEVER_ANSWERED_SECONDS)

    def _evidence(self, streak: Streak, turn: Turn, now: float) -> str | None:
        """Why the run has to end, as a sentence; None: it goes on."""
        shows = self._gate.pause is None or turn.is_probe
        if self._failures <= AGREE or not shows or (self._gate.pause is None and self._in_flight()):
            return None
        waits_for_it = streak.signature in (OUTAGE, (RATE_LIMITED,))
        settled = turn.is_probe and not self._in_flight()
        if settled and not (self._has_succeeded or waits_for_it) and streak.count > AGREE:
            return f"The first {streak.count} answers were like this"
        if settled and self._all_final and not waits_for_it:
            return f"None of the first {self._failures} answers brought an image"
        failing = now - self._failing_since
        if failing < self._patience():
            return None
        if turn.all_failed and self.are_rows_at_fault(all_probed=False):
            return None
        return f"Nothing has succeeded for {failing:,.0f} s"

    def _error(self, failure: Failure, place: str, evidence: str) -> EndpointError:
        return failure.error_that_ends_run(
            place,
            evidence,
            has_worked=self._has_succeeded and not failure.told_by_text,
            with_message=self._with_messages,
        )


def _settles_its_row(failure: Failure) -> bool:
    """Whether it is the final answer to its row and cost nothing: waiting longer brings no other.

    401 and 403 are about the account, which somebody may be putting right.
    """
    rejected = failure.kind in (FailureKind.REJECTED, FailureKind.MISCONFIGURED)
    return rejected and failure.billing == "not_billed" and failure.http_status not in (401, 403)


def _signature(failure: Failure) -> Signature:
    """What failures of one cause have in common."""
    if failure.is_outage:
        return OUTAGE
    if failure.kind is RATE_LIMITED:
        return (RATE_LIMITED,)
    return (failure.kind, failure.http_status, failure.code_without_text)
