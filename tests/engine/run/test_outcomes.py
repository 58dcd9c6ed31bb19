"""The outcomes of a pass, whether they are objects or rows."""

from collections.abc import Callable

import pytest

from dagster_imagegen.engine.attempt import Identity
from dagster_imagegen.engine.engine import Engine
from dagster_imagegen.engine.run import outcomes as outcomes_module
from dagster_imagegen.engine.run.outcomes import Outcomes
from dagster_imagegen.sandbox import Sandbox
from tests.engine.conftest import Run

pytestmark = pytest.mark.imagegen_sandbox(paint=False)


def test_rows_and_objects_tell_the_same(
    run: Run,
    open_engine: Callable[..., Engine],
    imagegen_sandbox: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ten that were paid for before, twenty that are made, of which most become rows, a refusal."""
    prompts = [f"a mug, number {number}" for number in range(30)]
    run(prompts[:10])
    monkeypatch.setattr(outcomes_module, "AS_OBJECTS", 8)
    imagegen_sandbox.script("content_policy_violation")
    engine = open_engine(imagegen_sandbox, max_concurrency=1)
    table = engine.read_prompts(["one that is refused", *prompts], params={"quality": "low"})
    with engine.generate(table, identity=Identity(run_id="b", root_run_id="b")) as generation:
        objects = {each.fingerprint: each for each in generation}
    outcomes = generation.outcomes
    assert (len(outcomes.paid), len(outcomes.made), len(outcomes.found)) == (10, 16, 5)
    assert len(outcomes) == len(list(outcomes)) == len(objects) == 31
    assert outcomes.counts == {"generated": 20, "reused": 10, "refused": 1}
    for fingerprint, outcome in objects.items():
        assert fingerprint in outcomes
        same = outcomes[fingerprint]
        assert (same.status, same.image) == (outcome.status, outcome.image)
        assert same.attempt is not None
        assert outcome.attempt is not None
        assert same.attempt.attempt_id == outcome.attempt.attempt_id
    as_rows = engine.image_table(generation.plan, outcomes)
    assert engine.image_table(generation.plan, Outcomes(found=objects)).equals(as_rows)
