"""How often a request follows one whose billing is unknown: twice, and never in the run itself."""

from typing import Any

import pytest

from dagster_imagegen.engine.attempt import Attempt, Identity, RequestRecord, Result, Status
from dagster_imagegen.engine.request import ImageRequest
from dagster_imagegen.engine.run.verdict import Judge, Unresolved

REQUEST = ImageRequest(endpoint_id="e", model="m", prompt="a mug")


def attempts(*made: tuple[str, Status]) -> list[Attempt]:
    """Attempts at one image, by root run and status."""
    return [
        Attempt(
            attempt_id=f"a-{number}",
            identity=Identity(run_id=run, root_run_id=run),
            request=RequestRecord.of(REQUEST),
            result=Result(status=status),
        )
        for number, (run, status) in enumerate(made)
    ]


@pytest.mark.parametrize(
    ("made", "resend_unknown", "known"),
    [
        ((), False, None),
        ((("this", "unknown"),), False, "unknown"),
        ((("this", "unknown"),), True, None),
        ((("before", "unknown"),), False, None),
        ((("before", "unknown"), ("this", "unknown")), False, None),
        ((("before", "unknown"), ("later", "unknown"), ("this", "unknown")), False, "unknown"),
        ((("before", "unknown"), ("later", "succeeded")), False, "reused"),
        ((("before", "failed"),), False, None),
    ],
)
def test_what_is_on_record_decides_whether_to_send(
    made: tuple[tuple[str, Status], ...], resend_unknown: bool, known: str | None
) -> None:
    """A later run settles an unknown outcome, with two requests at most in all later runs."""
    judge = Judge(root_run_id="this", redo=(), resend_unknown=resend_unknown, gone=())
    outcome = judge.verdict(REQUEST, attempts(*made)).known
    assert (None if outcome is None else outcome.status) == known


def test_a_run_counts_what_it_meets_on_the_way() -> None:
    """Its own unknown answers, and those of a writer that died, count towards the same two."""
    own = Unresolved().one_more()
    assert not own.may_resend, "the run that left it leaves it to a later one"
    died = Unresolved().one_more(of_another_run=True)
    assert died.may_resend
    assert died.one_more().may_resend
    assert not died.one_more().one_more().may_resend


@pytest.mark.parametrize("redo", [(), ("unknown",)])
def test_redo_asks_once_in_a_run(redo: tuple[str, ...]) -> None:
    """What later runs have given up is requested once more, by a run that has not done so."""
    given_up: Any = [("a", "unknown"), ("b", "unknown"), ("c", "unknown")]
    judge = Judge(root_run_id="this", redo=redo, resend_unknown=False, gone=())  # pyright: ignore[reportArgumentType]  # of its literals
    known = judge.verdict(REQUEST, attempts(*given_up)).known
    assert (known is None) == bool(redo)
    again = judge.verdict(REQUEST, attempts(*given_up, ("this", "unknown"))).known
    assert again is not None
