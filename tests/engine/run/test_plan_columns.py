"""A plan made of columns: the same verdicts as one by one, and objects only for what needs them."""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from dagster_imagegen.engine.attempt import (
    Attempt,
    Cost,
    Identity,
    ImageFile,
    Outcome,
    RequestRecord,
    Result,
)
from dagster_imagegen.engine.engine import Engine
from dagster_imagegen.engine.prompts import rows
from dagster_imagegen.engine.prompts.rows import PromptTable, taken
from dagster_imagegen.engine.record.parts import encode_part, part_path
from dagster_imagegen.engine.request import ImageRequest
from dagster_imagegen.engine.run import jobs
from dagster_imagegen.engine.run.verdict import Judge, Redo, successes
from dagster_imagegen.engine.settings import Settings

BEGAN = datetime(2026, 1, 1, tzinfo=timezone.utc)
STATUSES: Any = ("succeeded", "succeeded", "refused", "failed", "unknown")
WIDE: Any = {"prompt": "a", "size": "1024x1024", "n": 2, "revision": 0}


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(
        Settings(
            base_url="http://127.0.0.1:9/v1",
            endpoint_id="https://images.example/v1",
            model="openai-gpt-image-1",
            storage_uri=str(tmp_path),
        )
    )


def attempt_of(request: ImageRequest, jid: str, number: int, status: Any, run: str) -> Attempt:
    """An attempt on record; with a path if it brought an image."""
    attempt_id = f"{jid}-{number}"
    name = f"{request.fingerprint[:2]}/{request.fingerprint}.{attempt_id}.png"
    return Attempt(
        attempt_id=attempt_id,
        identity=Identity(run_id=run, root_run_id=run, asset_key="hero"),
        request=RequestRecord.of(request),
        started_at=BEGAN,
        result=Result(
            status=status,
            billing="unknown" if status == "unknown" else "billed",
            finished_at=BEGAN,
            error_code=None if status == "succeeded" else status,
            cost=Cost(usd=None, basis="unknown"),
            image=ImageFile(path=f"images/{name}", format="png") if status == "succeeded" else None,
        ),
    )


def put_on_record(folder: Path, attempts: list[Attempt], *, parts: int) -> None:
    """Publish attempts in some parts, each with those of its journal."""
    for part in range(parts):
        began = BEGAN + timedelta(hours=part)
        jid = f"{began:%Y%m%dT%H%M%S%fZ}-{part:08x}"
        path = folder / part_path(jid)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_part(attempts[part::parts]))


def store(folder: Path, attempt: Attempt) -> None:
    assert attempt.image is not None
    path = folder / attempt.image.path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def random_table(engine: Engine, rng: random.Random) -> PromptTable:
    """Duplicates, variants and overrides, some of them as floats and texts."""
    rows = [
        {
            "prompt": f"picture {rng.randrange(12)}",
            "size": rng.choice([None, "1024x1024", ""]),
            "n": rng.choice([1, 1.0, "2", 3, None]),
            "revision": rng.choice([0, 1]),
            "extra_body": rng.choice([None, {"seed": 1}, '{"seed": 1}', {"seed": 2}]),
        }
        for _ in range(60)
    ]
    return engine.read_prompts(rows, params={}, overrides=["size", "n", "revision", "extra_body"])


@pytest.mark.parametrize("seed", range(8))
def test_columns_come_to_the_verdicts_of_a_judge(engine: Engine, tmp_path: Path, seed: int) -> None:
    """For each image of a random table and record, as if it were judged alone."""
    rng = random.Random(seed)
    table = random_table(engine, rng)
    wanted = {each.fingerprint: each for row in table.rows for each in row.requests}
    on_record: dict[str, list[Attempt]] = {}
    gone: set[str] = set()
    for number, (fingerprint, request) in enumerate(sorted(wanted.items())):
        for more in range(rng.choice([0, 1, 1, 3])):
            run = rng.choice(["run", "other"])
            jid = f"20260101T0{rng.randrange(10)}0000000000Z-0000000{more}"
            attempt = attempt_of(request, jid, number, rng.choice(STATUSES), run)
            on_record.setdefault(fingerprint, []).append(attempt)
            if attempt.image is not None and rng.random() < 0.7:
                store(tmp_path, attempt)
            elif attempt.image is not None:
                gone.add(attempt.image.path)
    put_on_record(tmp_path, [each for some in on_record.values() for each in some], parts=10)
    redo: list[Redo] = rng.sample(["refused", "unknown", "missing"], rng.randrange(3))
    plan = engine.plan(table, identity=Identity(run_id="run", root_run_id="run"), redo=redo)

    judge = Judge(root_run_id="run", redo=redo, resend_unknown=False, gone=gone)
    expected = {
        fingerprint: judge.verdict(
            request, sorted(on_record.get(fingerprint, []), key=lambda each: each.attempt_id)
        )
        for fingerprint, request in wanted.items()
    }
    paid = {each.fingerprint: each for each in plan.paid}
    jobs = {job.request.fingerprint: job for job in plan.jobs}
    assert paid.keys().isdisjoint(jobs)
    assert paid.keys() | jobs.keys() == wanted.keys()
    for fingerprint, verdict in expected.items():
        known = paid.get(fingerprint) or jobs[fingerprint].known
        assert told(known) == told(verdict.known)
        if fingerprint in jobs:
            assert jobs[fingerprint].request == wanted[fingerprint]
            assert jobs[fingerprint].unresolved == verdict.unresolved
            assert told(jobs[fingerprint].tried) == told(verdict.tried)
        else:
            assert successes(on_record[fingerprint])
    assert paid
    assert jobs


def told(outcome: Outcome | None) -> object:
    """What an outcome says, without what a plan does not read of an attempt."""
    if outcome is None:
        return None
    attempt_id = outcome.attempt and outcome.attempt.attempt_id
    return outcome.status, attempt_id, outcome.image, outcome.error_code, outcome.error_message


def test_fingerprints_of_many_rows_are_those_of_their_requests(engine: Engine) -> None:
    """The columns hold for each image what its request, made alone, has."""
    prompts = ["a", "ü \U0001f600", 'quote " \\ ', "tab\t", "a"]
    rows = [{**WIDE, "prompt": each, "revision": at} for at, each in enumerate(prompts)]
    table = engine.read_prompts(rows, params={}, overrides=["size", "n", "revision"])
    requests = [each for row in table.rows for each in row.requests]
    alone = [replace(each).fingerprint for each in requests]
    assert table.images["fingerprint"].to_pylist() == alone
    assert [each.variant for each in requests] == [0, 1] * len(prompts)


def test_objects_are_made_only_for_what_is_not_paid(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice the paid rows make no more requests, attempts and outcomes: no object for each."""
    made = Counter[str]()

    def counted(kind: type, name: str) -> Callable[..., None]:
        before: Callable[..., None] = kind.__init__  # type: ignore[misc]

        def init(self: object, *args: Any, **values: Any) -> None:
            made[name] += 1
            before(self, *args, **values)

        return init

    def objects(rows: int) -> Counter[str]:
        made.clear()
        source = [f"picture {number}" for number in range(rows + 3)]
        table = engine.read_prompts(source, params={})
        identity = Identity(run_id="run", root_run_id="run")
        plan = engine.plan(table, identity=identity)
        assert (plan.reused, plan.to_send) == (rows, 3)
        return made.copy()

    rows = 400
    requests = [
        each
        for row in engine.read_prompts([f"picture {n}" for n in range(2 * rows)], params={}).rows
        for each in row.requests
    ]
    jid = "20260101T000000000000Z-00000000"
    attempts = [
        attempt_of(each, jid, number, "succeeded", "other") for number, each in enumerate(requests)
    ]
    for kind in (ImageRequest, Attempt, Outcome):
        monkeypatch.setattr(kind, "__init__", counted(kind, kind.__name__))
    few = attempts[:rows]
    for each in few:
        store(tmp_path, each)
    put_on_record(tmp_path, few, parts=1)
    once = objects(rows)
    for each in attempts[rows:]:
        store(tmp_path, each)
    put_on_record(tmp_path, attempts, parts=1)
    assert objects(2 * rows) == once
    assert once["ImageRequest"] < 20


def test_jobs_are_the_same_in_any_order_and_priced_by_kind(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One by one from either end as in their order; and what they can cost is their sum."""
    monkeypatch.setattr(jobs, "AT_ONCE", 7)
    monkeypatch.setattr(rows, "ROWS_AT_ONCE", 5)
    table = random_table(engine, random.Random(1))
    plan = engine.plan(table, identity=Identity(run_id="run", root_run_id="run"))
    each = [*plan.jobs]
    assert len(each) == len(plan.jobs) == plan.to_send > 20
    assert [plan.jobs[place] for place in range(len(each))] == each
    assert [plan.jobs[place] for place in reversed(range(len(each)))] == each[::-1]
    assert [job.request.fingerprint for job in each] == plan.jobs.fingerprints.to_pylist()
    assert [job.request.model for job in each] == plan.jobs.models
    costs = [(job.least.usd or 0, job.worst_case.usd or 0) for job in each]
    assert plan.cost_range_usd == tuple(map(sum, zip(*costs, strict=True)))
    assert min(min(both) for both in costs) > 0
    assert len(plan.jobs.kinds) < len(each)


def test_a_plan_makes_no_object_for_each_image_that_it_sends(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 900 rows it makes one request for each kind, by the length of the prompt."""
    table = engine.read_prompts([f"picture {number}" for number in range(100, 1_000)], params={})
    made: list[ImageRequest] = []
    before = ImageRequest.__init__

    def init(self: ImageRequest, *args: Any, **values: Any) -> None:
        made.append(self)
        before(self, *args, **values)

    monkeypatch.setattr(ImageRequest, "__init__", init)
    plan = engine.plan(table, identity=Identity(run_id="run", root_run_id="run"))
    assert plan.to_send == 900
    assert plan.cost_range_usd is not None
    assert len(made) == 1


def test_more_text_than_one_array_holds_is_taken_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Null, doubled and chunked as it is; tried with a limit of a few bytes instead of 2 GiB."""
    text = pa.chunked_array([["a", None], ["ccc", "d" * 100]], pa.string())
    for at in ([3, 0, 0, 1], []):
        places = pa.array(at, pa.int64())
        expected = text.take(places).to_pylist()
        with monkeypatch.context() as patched:
            patched.setattr(rows, "TEXT_BYTES_MAX", 10)
            assert taken(text, places).to_pylist() == expected
            assert taken(text, pa.chunked_array([places])).type == pa.string()
