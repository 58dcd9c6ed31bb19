"""When a pass pauses, goes on and ends: rows sent to scripted endpoints, on a virtual clock.

`send_all` is what a pass does: workers that take rows, send again what may be sent again, and ask
the gate before each request. Nothing here sleeps.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest

from dagster_imagegen.engine.endpoint.failures import CONNECTION_LOST, Failure
from dagster_imagegen.engine.endpoint.kinds import FailureKind
from dagster_imagegen.engine.errors import (
    EndpointError,
    EndpointMisconfigured,
    EndpointUnreachable,
    OutOfCredit,
)
from dagster_imagegen.engine.run.breaker import AGREE, Breaker, Streak
from dagster_imagegen.engine.run.gate import Gate, Turn
from tests.virtual_time import run_virtual

K = FailureKind
Script = Callable[[int, float], Failure | None]
"""The answer to a row at a time; None: an image."""


def failure(kind: FailureKind, http_status: int | None = None, code: str | None = None) -> Failure:
    return Failure(kind=kind, message="no", http_status=http_status, code=code)


AWAY = failure(K.UNREACHABLE, code="unreachable")
RESET = failure(K.AMBIGUOUS, code=CONNECTION_LOST)
BAD_GATEWAY = failure(K.SERVER_ERROR, 502)
BUSY = failure(K.UNAVAILABLE, 503)
CRASH = failure(K.SERVER_ERROR, 500)
WRONG_KEY = failure(K.MISCONFIGURED, 401, "invalid_api_key")
NO_CREDIT = failure(K.OUT_OF_CREDIT, 402, "insufficient_quota")
BAD_ROW = failure(K.REJECTED, 422, "value_error")
REFUSED = failure(K.REFUSED, 400, "moderation_blocked")
TOO_FAST = failure(K.RATE_LIMITED, 429)


@dataclass
class Sending:
    """What came of the rows."""

    made: set[int] = field(default_factory=set[int])
    failed: dict[int, Failure] = field(default_factory=dict[int, Failure])
    requests: Counter[int] = field(default_factory=Counter[int])
    error: EndpointError | None = None
    seconds: float = 0.0
    paused: set[str] = field(default_factory=set[str])

    @property
    def sent(self) -> int:
        return self.requests.total()


def send_all(
    script: Script,
    *,
    rows: int = 100,
    workers: int = 10,
    latency: float = 1.0,
    patience: float = 600.0,
) -> Sending:
    return run_virtual(
        _send_all(script, rows=rows, workers=workers, latency=latency, patience=patience)
    )


async def _send_all(
    script: Script, *, rows: int, workers: int, latency: float, patience: float
) -> Sending:
    loop = asyncio.get_running_loop()
    done, todo, flying = Sending(), list(range(rows)), 0
    stop, chance = asyncio.Event(), random.Random(2)

    def end(error: EndpointError) -> None:
        done.error = done.error or error
        stop.set()

    gate = Gate(random.Random(1))
    breaker = Breaker(
        gate, endpoint="e", patience_seconds=patience, in_flight=lambda: flying, end=end
    )

    async def send(row: int, turn: Turn) -> tuple[Failure | None, Streak | None]:
        nonlocal flying
        if text := gate.describe():
            done.paused.add(text)
        flying += 1
        done.requests[row] += 1
        answer = script(row, loop.time())
        await asyncio.sleep(latency if answer is None else latency / 10)
        flying -= 1
        return answer, breaker.observe(turn, answer, model="model 'm'")

    async def work() -> None:
        while todo and not stop.is_set():
            turn = await gate.admit()
            if not todo:
                return gate.give_up(turn)
            row = todo.pop(chance.randrange(len(todo)) if turn.is_probe else 0)
            while True:
                answer, _ = await send(row, turn)
                if answer is None:
                    done.made.add(row)
                    break
                if answer.kind.rules.retry is None or stop.is_set():
                    done.failed[row] = answer
                    break
                await asyncio.sleep(0.5)
                turn = await gate.admit()
        return None

    tasks = [asyncio.create_task(work()) for _ in range(workers)]
    everything = asyncio.ensure_future(asyncio.wait(tasks))
    ended = asyncio.create_task(stop.wait())
    await asyncio.wait({everything, ended}, return_when=asyncio.FIRST_COMPLETED)
    for task in (*tasks, ended):
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await everything
    done.error = done.error or breaker.error_of_all()
    done.seconds = loop.time()
    return done


def not_expected(error: EndpointError) -> None:
    """The end of a run that should go on."""
    raise error


def breaker_of(gate: Gate, *, in_flight: int) -> Breaker:
    """That of a run which goes on."""
    return Breaker(
        gate, endpoint="e", patience_seconds=600, in_flight=lambda: in_flight, end=not_expected
    )


# -- a failure belongs to its row ------------------------------------------------------------------


@pytest.mark.parametrize("said", [WRONG_KEY, NO_CREDIT, BAD_ROW, REFUSED])
@pytest.mark.parametrize("at", [0, 50, 99])
def test_one_failure_among_good_answers_is_one_row(said: Failure, at: int) -> None:
    sending = send_all(lambda row, now: said if row == at else None)
    assert sending.failed == {at: said}
    assert len(sending.made) == 99
    assert sending.error is None


def test_rows_that_fail_together_are_not_the_end_of_the_rest() -> None:
    """Forty bad rows in a row pause sending; a probe of another row shows that all is well."""
    sending = send_all(lambda row, now: BAD_ROW if 20 <= row < 60 else None)
    assert set(sending.failed) == set(range(20, 60))
    assert len(sending.made) == 60
    assert sending.error is None
    assert sending.seconds < 60


def test_bad_rows_at_the_beginning_are_not_the_end_of_the_rest() -> None:
    """The requests in flight, and then a row chosen at random, decide."""
    sending = send_all(lambda row, now: BAD_ROW if row < 6 else None)
    assert len(sending.made) == 94
    assert sending.error is None


@pytest.mark.parametrize("latency", [0.01, 0.2, 1.0])
@pytest.mark.parametrize("bad", [8, 10, 12])
def test_no_run_ends_before_a_probe_was_answered(bad: int, latency: float) -> None:
    """Bad rows fill all that is in flight; a probe is one of the others, as most are."""
    sending = send_all(lambda row, now: BAD_ROW if row < bad else None, latency=latency, rows=200)
    assert sending.error is None
    assert len(sending.made) == 200 - bad


def test_images_that_cannot_be_downloaded_end_the_run() -> None:
    """Each is paid for: a few are enough."""
    sending = send_all(lambda row, now: failure(K.SAVING_FAILED, 200, "download_failed"))
    assert type(sending.error) is EndpointMisconfigured
    assert sending.sent <= 10 + AGREE


def test_refused_prompts_show_that_the_endpoint_works() -> None:
    sending = send_all(lambda row, now: REFUSED)
    assert len(sending.failed) == 100
    assert sending.error is None
    assert not sending.paused


# -- what concerns all ends the run, soon ----------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "error", "helps"),
    [
        (WRONG_KEY, EndpointMisconfigured, False),
        (BAD_ROW, EndpointMisconfigured, False),
        (NO_CREDIT, OutOfCredit, False),
        (CRASH, EndpointUnreachable, True),
    ],
)
def test_if_nothing_succeeds_and_the_first_agree_the_run_ends(
    said: Failure, error: type[EndpointError], helps: bool
) -> None:
    sending = send_all(lambda row, now: said, workers=4)
    assert sending.error is not None
    assert type(sending.error) is error
    assert AGREE < sending.sent <= 2 * AGREE
    assert sending.seconds < 10
    assert sending.error.retry_can_help is helps
    assert "answers were like this" in str(sending.error)


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_a_short_table_ends_with_the_error_that_all_share(rows: int) -> None:
    sending = send_all(lambda row, now: WRONG_KEY, rows=rows)
    assert type(sending.error) is EndpointMisconfigured
    assert "invalid_api_key" in str(sending.error)


def test_an_error_names_five_models_at_most() -> None:
    """A column of models can be anything."""

    async def main() -> None:
        gate = Gate(random.Random(1))
        breaker = breaker_of(gate, in_flight=0)
        for model in "11234567":
            breaker.observe(Turn(), WRONG_KEY, model=model)
        said = str(breaker.error_of_all())
        assert said.startswith("e, 1 and 2 and 3 and 4 and 5 and others: 401 (invalid_api_key)")

    run_virtual(main())


@pytest.mark.parametrize("said", [BAD_ROW, REFUSED])
def test_a_short_table_of_bad_rows_is_rows(said: Failure) -> None:
    assert send_all(lambda row, now: said, rows=3).error is None


def test_a_key_that_is_revoked_ends_the_run_when_patience_is_out() -> None:
    sending = send_all(lambda row, now: None if now < 5 else WRONG_KEY, patience=120)
    assert type(sending.error) is EndpointMisconfigured
    assert sending.error.retry_can_help
    assert "Nothing has succeeded for" in str(sending.error)
    assert 120 <= sending.seconds < 160
    assert len(sending.failed) < 30


def test_a_node_that_refuses_the_key_for_a_while_costs_a_few_rows() -> None:
    sending = send_all(lambda row, now: WRONG_KEY if 3 <= now < 20 else None)
    assert sending.error is None
    assert len(sending.failed) < 20
    assert len(sending.made) == 100 - len(sending.failed)


# -- an outage is waited for -----------------------------------------------------------------------


@pytest.mark.parametrize("said", [AWAY, BUSY, BAD_GATEWAY, RESET])
def test_an_outage_is_waited_for(said: Failure) -> None:
    """Two minutes long: single probes, all rows made, and the progress line says why."""
    sending = send_all(lambda row, now: said if 3 <= now < 123 else None)
    assert sending.error is None
    assert len(sending.made) == 100
    assert 123 < sending.seconds < 123 + 60
    assert sending.sent < 100 + 10 + AGREE + 12
    assert any(text.startswith("waiting for the endpoint for ") for text in sending.paused)


def test_a_probe_waits_as_long_as_the_endpoint_asks() -> None:
    """With `Retry-After: 50`: three probes in two minutes."""
    asks = replace(BUSY, wait_seconds=50.0)
    sending = send_all(lambda row, now: asks if 3 <= now < 123 else None, workers=4)
    assert len(sending.made) == 100
    assert sending.sent <= 100 + 4 + AGREE + 4


def test_different_failures_of_one_outage_agree() -> None:
    said = [AWAY, BUSY, BAD_GATEWAY, RESET]
    sending = send_all(lambda row, now: said[row % 4] if 3 <= now < 123 else None)
    assert len(sending.made) == 100
    assert sending.sent < 130


def test_an_outage_that_does_not_end_ends_the_run() -> None:
    sending = send_all(lambda row, now: None if now < 3 else AWAY, patience=300)
    assert type(sending.error) is EndpointUnreachable
    assert sending.error.retry_can_help
    assert 300 <= sending.seconds < 320
    assert sending.sent < 30 + 10 + AGREE + 14  # the last ones flying, and the probes


def test_an_outage_at_the_beginning_is_waited_for() -> None:
    sending = send_all(lambda row, now: BUSY if now < 200 else None)
    assert len(sending.made) == 100


def test_an_address_that_never_answers_is_given_a_minute() -> None:
    sending = send_all(lambda row, now: AWAY)
    assert type(sending.error) is EndpointUnreachable
    assert 60 <= sending.seconds < 62


def test_an_endpoint_that_refuses_all_as_too_many_ends_the_run_when_patience_is_out() -> None:
    sending = send_all(lambda row, now: TOO_FAST, patience=300)
    assert type(sending.error) is EndpointUnreachable
    assert 300 <= sending.seconds < 303
    assert not sending.paused  # the pacer has slowed it long before


def test_refusals_because_of_load_do_not_pause_while_others_are_at_work() -> None:
    """Three are worked on for a minute each; the rest is refused at once, again and again."""
    busy = 0

    def script(_: int, now: float) -> Failure | None:
        nonlocal busy
        if now % 60 < 0.9 and busy < 3 * (1 + now // 60):
            busy += 1
            return None
        return BUSY

    assert not send_all(script, rows=12, workers=4, latency=60.0).paused


@pytest.mark.parametrize("seed", range(5))
def test_server_errors_at_random_do_not_stop_a_run(seed: int) -> None:
    chance = random.Random(seed)
    sending = send_all(lambda row, now: CRASH if chance.random() < 0.1 else None, rows=300)
    assert len(sending.made) == 300
    assert sending.error is None


# -- whether an answer was lost in an outage -------------------------------------------------------


def decide(*, agreeing: int, at_work: int = 2, in_flight: int = 1) -> tuple[bool, float]:
    """Whether a reset with so many others like it, half a second apart, is an outage; and when."""

    async def main() -> tuple[bool, float]:
        loop = asyncio.get_running_loop()
        gate = Gate(random.Random(1))
        breaker = breaker_of(gate, in_flight=in_flight)
        streak = breaker.observe(await gate.admit(), RESET, model="m")
        assert streak is not None
        deciding = asyncio.create_task(
            breaker.is_outage(streak, others_at_work=lambda: at_work > 1)
        )
        for _ in range(agreeing - 1):
            await asyncio.sleep(0.5)
            turn = await gate.admit() if in_flight == 1 else Turn()
            breaker.observe(turn, AWAY, model="m")
        return await deciding, loop.time()

    return run_virtual(main())


def test_a_lost_answer_belongs_to_an_outage_if_others_agree() -> None:
    assert decide(agreeing=AGREE) == (True, pytest.approx(1.5))


def test_a_few_of_many_connections_that_break_at_once_are_no_outage() -> None:
    """It takes half of those in flight, or a probe."""
    assert decide(agreeing=AGREE, in_flight=63) == (False, pytest.approx(5.0))
    assert decide(agreeing=7, in_flight=15) == (False, pytest.approx(5.0))
    assert decide(agreeing=8, in_flight=15) == (True, pytest.approx(3.5))


def test_a_probe_that_fails_as_well_shows_an_outage() -> None:
    async def main() -> None:
        gate = Gate(random.Random(1))
        breaker = breaker_of(gate, in_flight=63)
        for _ in range(AGREE):
            streak = breaker.observe(Turn(), RESET, model="m")
            assert streak is not None
            assert not streak.is_outage
        streak = breaker.observe(await gate.admit(), RESET, model="m")
        assert streak is not None
        assert streak.is_outage

    run_virtual(main())


def test_a_lost_answer_is_a_row_of_its_own_if_nobody_agrees() -> None:
    assert decide(agreeing=1) == (False, pytest.approx(5.0))


def test_the_last_row_has_nobody_to_wait_for() -> None:
    assert decide(agreeing=1, at_work=1) == (False, 0.0)


def test_a_probe_that_is_cancelled_makes_room_for_another() -> None:
    async def main() -> None:
        gate = Gate(random.Random(1))
        breaker = breaker_of(gate, in_flight=0)
        for _ in range(AGREE):
            breaker.observe(await gate.admit(), AWAY, model="m")
        first = asyncio.create_task(gate.admit())
        await asyncio.sleep(0)
        first.cancel()
        turn = await gate.admit()
        assert turn.is_probe
        second = asyncio.create_task(gate.admit())
        await asyncio.sleep(0)
        gate.give_up(turn)
        assert (await second).is_probe

    run_virtual(main())


def test_a_probe_of_an_earlier_pause_is_none_of_the_next() -> None:
    """It waited for its slot while one pause ended and another began: one probe goes out."""

    async def main() -> None:
        gate = Gate(random.Random(1))
        breaker = breaker_of(gate, in_flight=0)
        for _ in range(AGREE):
            breaker.observe(Turn(), AWAY, model="m")
        stale = await gate.admit()
        assert stale.is_probe
        breaker.observe(Turn(), None, model="m")
        for _ in range(AGREE):
            breaker.observe(Turn(), AWAY, model="m")
        assert not gate.allows(stale)
        waiting = asyncio.create_task(gate.admit())
        gate.give_up(stale)
        await asyncio.sleep(0)
        assert not waiting.done(), "the next pause has just begun"
        probe = await waiting
        assert gate.allows(probe)
        assert probe.is_probe

    run_virtual(main())
