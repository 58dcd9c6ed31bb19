"""A whole pass: against the sandbox over HTTP, on real files, its requests against the record."""

import hashlib
import re
import threading
import traceback
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import duckdb
import fsspec
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from dagster_imagegen.engine.attempt import Attempt, Identity, RequestRecord
from dagster_imagegen.engine.endpoint.retries import RetryPolicy
from dagster_imagegen.engine.engine import Engine
from dagster_imagegen.engine.errors import (
    ConfigurationError,
    EndpointMisconfigured,
    EndpointUnreachable,
    OutOfCredit,
    PromptTableError,
    StorageError,
)
from dagster_imagegen.engine.patience import Patience
from dagster_imagegen.engine.record import Limits
from dagster_imagegen.engine.record.journal import Header, intent_line
from dagster_imagegen.engine.request import ImageRequest
from dagster_imagegen.sandbox import Fault, Sandbox
from tests.engine.conftest import Run, statuses, table_of, values
from tests.fire.parrot import Answer, Heard, Parrot, success

pytestmark = pytest.mark.imagegen_sandbox(paint=False)

PROMPTS = [f"a mug, number {number}" for number in range(10)]
QUICK = RetryPolicy(max_attempts=3, max_wait_seconds=5)


def usage_rows(storage: Path) -> pa.Table:
    """The usage table as any reader of a Parquet folder sees it."""
    return ds.dataset(storage / "usage", format="parquet", partitioning="hive").to_table()


def test_every_prompt_becomes_a_whole_image(run: Run, storage: Path) -> None:
    """The stored bytes are those that the row's sha256 names, in the prompt table's order."""
    table = table_of(run(PROMPTS))
    assert values(table, "prompt") == PROMPTS
    for row in table.to_pylist():
        assert row["image_status"] == "generated"
        data = Path(row["image_uri"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == row["image_sha256"]
        assert Path(row["image_uri"]) == storage / row["image_path"]


def test_a_second_run_sends_nothing(run: Run, imagegen_sandbox: Sandbox, storage: Path) -> None:
    """What the usage table holds is not asked for again, and such a run leaves no trace."""
    first = table_of(run(PROMPTS))
    files = sorted(storage.rglob("*"))
    second = run(PROMPTS)
    assert len(imagegen_sandbox.requests) == len(PROMPTS)
    assert second.totals.requests == 0
    assert sorted(storage.rglob("*")) == files
    assert set(statuses(second)) == {"reused"}
    unchanged = [name for name in first.schema.names if name != "image_status"]
    assert table_of(second).select(unchanged) == first.select(unchanged)


def test_one_more_row_is_one_more_request(run: Run, imagegen_sandbox: Sandbox) -> None:
    """Adding a row pays for a row."""
    run(PROMPTS)
    run([*PROMPTS, "a lamp"])
    assert [r.body["prompt"] for r in imagegen_sandbox.requests][10:] == ["a lamp"]


def test_a_raised_revision_makes_the_row_anew(
    run: Run, imagegen_sandbox: Sandbox, storage: Path
) -> None:
    """Exactly one request, and the old image is still there."""
    run([{"prompt": "a mug", "revision": 0}, {"prompt": "a lamp", "revision": 0}])
    before = set(storage.glob("images/*/*"))
    again = run(
        [{"prompt": "a mug", "revision": 1}, {"prompt": "a lamp", "revision": None}],
        overrides=("revision",),
    )
    assert len(imagegen_sandbox.requests) == 3
    assert before < set(storage.glob("images/*/*"))
    assert statuses(again) == ["generated", "reused"]


def test_the_same_prompt_ten_times_is_one_request(run: Run, imagegen_sandbox: Sandbox) -> None:
    """One request serves all rows that ask for the same image."""
    generation = run(PROMPTS * 10)
    assert len(imagegen_sandbox.requests) == 10
    assert statuses(generation) == ["generated"] * 100
    assert generation.plan.duplicates == 90


def test_variants_are_requests_of_their_own(run: Run, imagegen_sandbox: Sandbox) -> None:
    """`n` images are n requests of one image each, and n rows."""
    table = table_of(run(["a mug"], params={"n": 3, "quality": "low"}))
    assert [r.body["n"] for r in imagegen_sandbox.requests] == [1, 1, 1]
    assert values(table, "image_variant") == [0, 1, 2]
    assert len(set(values(table, "image_path"))) == 3


def test_every_reader_sums_to_the_request_log(
    run: Run, imagegen_sandbox: Sandbox, storage: Path
) -> None:
    """pyarrow, DuckDB and polars agree with the sandbox on tokens and money, to the last one."""
    run(
        [{"prompt": p, "size": s} for p in PROMPTS for s in ("1024x1024", "1536x1024")],
        overrides=("size",),
    )
    received = imagegen_sandbox.totals
    expected = (20, received.input_tokens, received.output_tokens, received.cost_usd)
    rows = usage_rows(storage)
    by_arrow = (
        rows.num_rows,
        sum(values(rows, "input_tokens")),
        sum(values(rows, "output_tokens")),
        sum(values(rows, "cost_usd")),
    )
    by_duckdb = (
        duckdb.connect()
        .execute(
            "select count(*), sum(input_tokens), sum(output_tokens), sum(cost_usd) "
            f"from '{storage}/usage/**/*.parquet'"
        )
        .fetchall()[0]
    )
    by_polars = (
        pl.read_parquet(storage / "usage")
        .select(pl.len(), pl.sum("input_tokens", "output_tokens", "cost_usd"))
        .row(0)
    )
    assert received.cost_usd > 0
    assert by_arrow == expected
    assert by_duckdb == expected
    assert by_polars == expected


def test_sandbox_rows_cost_nothing(
    imagegen_sandbox: Sandbox, open_engine: Callable[..., Engine], run: Run, storage: Path
) -> None:
    """Rows of the embedded sandbox are marked, and a sum over all rows is what was really spent."""
    rehearsal = run(PROMPTS, endpoint_id="sandbox")
    assert rehearsal.totals.cost_usd == 0
    assert rehearsal.totals.list_price_usd == imagegen_sandbox.totals.cost_usd
    real = run(PROMPTS)
    assert real.totals.requests == 10, "a sandbox image never passes for a paid one"
    rows = usage_rows(storage)
    assert Counter(values(rows, "cost_basis")) == {"sandbox": 10, "metered": 10}
    assert sum(values(rows, "cost_usd")) == real.totals.cost_usd


def test_a_refused_prompt_is_one_row(run: Run, imagegen_sandbox: Sandbox) -> None:
    """The others are made, and a later run does not ask again."""
    prompts = ["a mug", "something gory", "a lamp"]
    refusing = Fault("moderation_blocked", prompt="gory")
    imagegen_sandbox.script(refusing)
    first = run(prompts)
    assert statuses(first) == ["generated", "refused", "generated"]
    second = run(prompts)
    assert statuses(second) == ["reused", "refused", "reused"]
    assert len(imagegen_sandbox.requests) == 3
    assert values(table_of(second), "image_error_code")[1] == "moderation_blocked"


def test_a_refusal_is_asked_again_on_request(run: Run, imagegen_sandbox: Sandbox) -> None:
    """`redo: [refused]`, or a lower moderation level, asks again."""
    imagegen_sandbox.script(Fault("moderation_blocked", prompt="gory"))
    run(["something gory"])
    lower = run(["something gory"], params={"quality": "low", "moderation": "low"})
    assert statuses(lower) == ["generated"]


def test_what_was_not_accepted_is_tried_again(
    run: Run, imagegen_sandbox: Sandbox, storage: Path
) -> None:
    """Each try is a usage row, and only the one that brought an image costs anything."""
    imagegen_sandbox.script("unavailable", "server_error")
    generation = run(["a mug"], retry=QUICK)
    assert statuses(generation) == ["generated"]
    rows = usage_rows(storage).sort_by("attempt").to_pylist()
    assert [row["status"] for row in rows] == ["failed", "failed", "succeeded"]
    assert [row["billing"] for row in rows] == ["not_billed", "unknown", "billed"]
    assert len(imagegen_sandbox.requests) == 3


def test_an_ambiguous_outcome_is_asked_again_by_a_later_run_only(
    run: Run, imagegen_sandbox: Sandbox, storage: Path
) -> None:
    """Not within one root run, retries of the run included; by a later one at most twice."""
    imagegen_sandbox.script(*["broken_json"] * 3)
    assert statuses(run(["a mug"], root_run_id="root")) == ["unknown"]
    assert statuses(run(["a mug"], root_run_id="root")) == ["unknown"]
    assert len(imagegen_sandbox.requests) == 1
    later = run(["a mug"])
    assert later.plan.retried == 1
    assert statuses(later) == ["unknown"]
    assert len(imagegen_sandbox.requests) == 3
    last = run(["a mug"])
    assert len(imagegen_sandbox.requests) == 3
    assert (last.plan.retried, last.plan.unknown) == (0, 1)
    rows = usage_rows(storage)
    assert values(rows, "status") == ["unknown"] * 3
    assert all(cost > 0 for cost in values(rows, "cost_usd")), "counted at the worst case"
    assert statuses(run(["a mug"], redo=("unknown",))) == ["generated"]


def test_a_later_run_settles_what_was_in_doubt(run: Run, imagegen_sandbox: Sandbox) -> None:
    """Its second request is its own, in the same pass or in a retry of that run."""
    imagegen_sandbox.script("broken_json", "broken_json")
    assert statuses(run(["a mug"])) == ["unknown"]
    once = RetryPolicy(max_attempts=1)
    assert statuses(run(["a mug"], root_run_id="later", retry=once)) == ["unknown"]
    assert len(imagegen_sandbox.requests) == 2
    assert statuses(run(["a mug"], root_run_id="later")) == ["generated"]
    assert len(imagegen_sandbox.requests) == 3


def test_an_ambiguous_outcome_is_asked_again_at_once_on_request(
    run: Run, imagegen_sandbox: Sandbox, storage: Path
) -> None:
    """With `resend_unknown`: in the same pass, and in a retry of the run that left it in doubt."""
    insists = RetryPolicy(max_wait_seconds=0.01, resend_unknown=True)
    imagegen_sandbox.script("broken_json")
    assert statuses(run(["a mug"], retry=insists)) == ["generated"]
    assert len(imagegen_sandbox.requests) == 2
    imagegen_sandbox.clear()
    imagegen_sandbox.script("broken_json")
    once = RetryPolicy(max_attempts=1, resend_unknown=True)
    assert statuses(run(["a lamp"], root_run_id="root", retry=once)) == ["unknown"]
    assert statuses(run(["a lamp"], root_run_id="root", retry=once)) == ["generated"]
    assert len(imagegen_sandbox.requests) == 2
    assert sorted(values(usage_rows(storage), "status")) == ["succeeded"] * 2 + ["unknown"] * 2


CONCERN_ALL = [("invalid_api_key", EndpointMisconfigured), ("insufficient_quota", OutOfCredit)]


@pytest.mark.parametrize(("fault", "error"), CONCERN_ALL)
def test_what_every_request_would_meet_ends_the_pass(
    run: Run, imagegen_sandbox: Sandbox, storage: Path, fault: str, error: type[Exception]
) -> None:
    """One error, after a few answers that agree."""
    imagegen_sandbox.script(*[fault] * 100)
    with pytest.raises(error, match="answers were like this"):
        run([f"mug {number}" for number in range(100)], max_concurrency=2)
    assert len(imagegen_sandbox.requests) <= 8
    assert usage_rows(storage).num_rows == len(imagegen_sandbox.requests)


@pytest.mark.parametrize(("fault", "error"), CONCERN_ALL)
def test_what_every_request_meets_from_some_time_on_ends_the_pass_after_patience(
    run: Run, imagegen_sandbox: Sandbox, storage: Path, fault: str, error: type[Exception]
) -> None:
    """It has worked before, so it may again. What was made before is kept."""
    imagegen_sandbox.script(None, None, *[fault] * 98)
    with pytest.raises(error, match="Nothing has succeeded for 2 s"):
        run([f"mug {number}" for number in range(100)], max_concurrency=2)
    assert len(imagegen_sandbox.requests) <= 20
    rows = usage_rows(storage)
    assert rows.num_rows == len(imagegen_sandbox.requests)
    assert values(rows, "status").count("succeeded") == 2


def test_nobody_at_the_base_url(open_engine: Callable[..., Engine], storage: Path) -> None:
    """The error names the address, and every try is a row that cost nothing."""
    engine = open_engine(
        type("Closed", (), {"base_url": "http://127.0.0.1:9/v1"})(),
        retry=RetryPolicy(max_attempts=2, max_wait_seconds=0.01),
    )
    prompts = engine.read_prompts(["a mug"], params={})
    with (
        pytest.raises(EndpointUnreachable, match="base_url"),
        engine.generate(prompts, identity=Identity(run_id="r", root_run_id="r")) as generation,
    ):
        for _ in generation:
            pass
    assert set(values(usage_rows(storage), "billing")) == {"not_billed"}


def test_an_image_that_is_gone_is_not_bought_again(run: Run, imagegen_sandbox: Sandbox) -> None:
    """It was paid for; the row says which file is gone, unless it is asked for again."""
    path = Path(table_of(run(["a mug", "a lamp"]))["image_uri"][0].as_py())
    path.unlink()
    second = run(["a mug", "a lamp"])
    assert statuses(second) == ["failed", "reused"]
    assert path.name in table_of(second)["image_error_message"][0].as_py()
    assert len(imagegen_sandbox.requests) == 2
    assert statuses(run(["a mug"], redo=("missing",))) == ["generated"]


@pytest.mark.parametrize("fault", ["rate_limited", "unavailable"])
def test_a_wait_that_is_too_long_leaves_the_rest_to_a_later_run(
    run: Run, imagegen_sandbox: Sandbox, storage: Path, fault: str
) -> None:
    """Once the endpoint keeps asking: who was refused failed, and says how long; the rest waits."""
    imagegen_sandbox.script(*[Fault(fault, headers={"retry-after": "86400"})] * 3)
    prompts = [f"mug {number}" for number in range(20)]
    patience = RetryPolicy(max_wait_seconds=2)
    first = run(prompts, retry=patience, max_concurrency=1)
    assert len(imagegen_sandbox.requests) == 3
    assert Counter(statuses(first)) == Counter(failed=3, deferred=17)
    for outcome in first.outcomes.values():
        assert "asks to wait 86," in (outcome.error_message or "")
        if outcome.status == "deferred":
            assert outcome.error_code == "wait_too_long"
    assert usage_rows(storage).num_rows == 3
    second = statuses(run(prompts, retry=patience, max_concurrency=4))
    assert Counter(second) == Counter(generated=20)


def test_one_wait_that_is_too_long_fails_one_row(run: Run, imagegen_sandbox: Sandbox) -> None:
    """The others are answered well, so it was not meant for them."""
    imagegen_sandbox.script(None, Fault("rate_limited", headers={"retry-after": "86400"}))
    generation = run([f"mug {number}" for number in range(20)], max_concurrency=1)
    assert Counter(statuses(generation)) == Counter(generated=19, failed=1)


def test_an_empty_table_is_an_empty_table(run: Run, storage: Path) -> None:
    """Zero rows, no error, nothing written."""
    table = table_of(
        run(pa.table({"prompt": pa.array([], pa.string()), "sku": pa.array([], pa.int64())}))
    )
    assert table.num_rows == 0
    assert table.schema.names[:3] == ["sku", "prompt_id", "prompt"]
    assert not storage.exists()


def test_an_unwritable_place_is_known_before_anything_is_sent(
    run: Run, imagegen_sandbox: Sandbox, tmp_path: Path
) -> None:
    """The error names the place; no request has left. A file stands where the folder should."""
    (tmp_path / "taken").write_text("")
    with pytest.raises(StorageError, match="taken"):
        run(["a mug"], storage_uri=str(tmp_path / "taken"))
    (tmp_path / "usage").mkdir()
    with pytest.raises(StorageError, match="taken"):
        run(["a mug"], storage_uri=str(tmp_path / "taken"), usage_uri=str(tmp_path / "usage"))
    assert imagegen_sandbox.requests == []


def test_an_unknown_scheme_is_an_error_at_once(run: Run) -> None:
    """It says what can be used."""
    with pytest.raises(ConfigurationError, match="nowhere"):
        run(["a mug"], storage_uri="nowhere://bucket")


def test_usage_can_lie_apart_from_the_images(run: Run, storage: Path, tmp_path: Path) -> None:
    """Images may be public where prompts and costs are not."""
    generation = run(PROMPTS, usage_uri=str(tmp_path / "private"))
    assert statuses(generation) == ["generated"] * 10
    assert sorted(p.name for p in storage.iterdir() if not p.name.startswith("_")) == ["images"]
    assert usage_rows(tmp_path / "private").num_rows == 10


def test_prompts_can_stay_out_of_the_usage_table(run: Run, storage: Path) -> None:
    """Their digest stays, and nothing else of them: no prompt, no revised prompt."""
    run(["a secret product"], record_prompts=False)
    row = usage_rows(storage).to_pylist()[0]
    assert row["prompt"] is None
    assert row["revised_prompt"] is None
    assert row["prompt_sha256"] == hashlib.sha256(b"a secret product").hexdigest()
    assert not any(b"secret product" in p.read_bytes() for p in storage.rglob("*.jsonl"))


@pytest.mark.imagegen_sandbox(paint=False, latency_seconds=0.4)
def test_draining_keeps_what_is_in_flight(
    imagegen_sandbox: Sandbox, open_engine: Callable[..., Engine], storage: Path
) -> None:
    """Stopped in the middle: nothing more is sent, and every request sent has its row."""
    engine = open_engine(imagegen_sandbox, max_concurrency=4)
    # Far more than can be sent by the time that the first outcome is seen, on any machine.
    prompts = engine.read_prompts([f"mug {n}" for n in range(400)], params={"quality": "low"})
    with engine.generate(prompts, identity=Identity(run_id="r", root_run_id="r")) as generation:
        next(iter(generation))
        rest = generation.drain()
    sent = len(imagegen_sandbox.requests)
    assert 0 < sent < 400
    rows = usage_rows(storage)
    assert rows.num_rows == sent
    assert set(values(rows, "status")) == {"succeeded"}
    assert len(rest) == sent - 1
    assert list(storage.glob("_journal/*")) == []


@pytest.mark.imagegen_sandbox(paint=False, latency_seconds=3600.0)
def test_draining_is_bounded(
    imagegen_sandbox: Sandbox, open_engine: Callable[..., Engine], storage: Path
) -> None:
    """What does not come back in time is unknown, at its worst-case cost."""
    engine = open_engine(imagegen_sandbox, max_concurrency=4, drain_seconds=0.1)
    prompts = engine.read_prompts([f"mug {n}" for n in range(40)], params={"quality": "low"})
    with engine.generate(prompts, identity=Identity(run_id="r", root_run_id="r")) as generation:
        while len(imagegen_sandbox.requests) < 4:
            threading.Event().wait(0.01)
        assert generation.drain() == []
    rows = usage_rows(storage)
    assert values(rows, "status") == ["unknown"] * 4
    assert values(rows, "cost_usd") == values(rows, "worst_case_usd")


@pytest.mark.imagegen_sandbox(paint=False, latency_seconds=0.2)
def test_two_passes_at_once_buy_each_image_once(
    imagegen_sandbox: Sandbox, open_engine: Callable[..., Engine], storage: Path
) -> None:
    """What another live writer asks for is waited for and reused."""
    prompts = [f"mug {number}" for number in range(20)]
    generations = []
    for name in ("one", "two"):
        engine = open_engine(imagegen_sandbox)
        read = engine.read_prompts(prompts, params={"quality": "low"})
        identity = Identity(run_id=name, root_run_id=name)
        generations.append(engine.generate(read, identity=identity))
    for generation in generations:
        with generation:
            for _ in generation:
                pass
    assert len(imagegen_sandbox.requests) == 20
    assert usage_rows(storage).num_rows == 20
    statuses = Counter(o.status for g in generations for o in g.outcomes.values())
    assert statuses == {"generated": 20, "reused": 20}


def test_money_in_the_image_table_is_what_the_image_cost(run: Run) -> None:
    """A reused image keeps the cost of the request behind it."""
    first, second = table_of(run(["a mug"])), table_of(run(["a mug"]))
    assert first["image_cost_usd"] == second["image_cost_usd"]
    assert first["image_cost_usd"][0].as_py() > Decimal(0)


def test_a_plan_tells_counts_and_a_price_range(run: Run) -> None:
    """Of all rows, of which some request the same image."""
    plan = run(["a mug", "a mug", "a lamp"]).plan
    assert (plan.rows, plan.images, plan.to_send, plan.duplicates) == (3, 3, 2, 1)
    assert plan.cost_range_usd is not None
    assert "2 to request" in plan.describe()


def test_an_image_that_was_bought_again_is_found_again(run: Run, imagegen_sandbox: Sandbox) -> None:
    """Of several successes the oldest that is still there counts, not the oldest of all."""
    Path(values(table_of(run(["a mug"])), "image_uri")[0]).unlink()
    assert statuses(run(["a mug"], redo=("missing",))) == ["generated"]
    assert statuses(run(["a mug"])) == ["reused"]
    assert len(imagegen_sandbox.requests) == 2


@pytest.mark.parametrize("endpoint_id", ["sandbox", "https://images.example/v1"])
def test_an_image_that_could_not_be_saved_is_stored_by_the_next_run(
    run: Run, imagegen_sandbox: Sandbox, storage: Path, tmp_path: Path, endpoint_id: str
) -> None:
    """It waits on this machine's disk, and is not bought again; its row is whole."""
    place = {"usage_uri": str(tmp_path / "usage"), "spill_folder": str(tmp_path / "aside")}
    settings = {
        **place,
        "endpoint_id": endpoint_id,
        "limits": Limits(patience=Patience(backoff_seconds=0.001)),
    }
    request = ImageRequest(
        endpoint_id=endpoint_id, model="openai-gpt-image-1", prompt="a mug", quality="low"
    )
    blocked = storage / "images" / request.fingerprint[:2]
    blocked.parent.mkdir(parents=True)
    blocked.write_text("a file where the folder should be")
    with pytest.raises(StorageError, match="aside"):
        run(["a mug"], **settings)
    blocked.unlink()
    second = run(["a mug"], **settings)
    assert statuses(second) == ["reused"]
    assert values(table_of(second), "image_size_bytes")[0] > 0
    assert len(imagegen_sandbox.requests) == 1


@pytest.mark.parametrize("silent", [3600, 19], ids=["dead already", "dies meanwhile"])
@pytest.mark.parametrize("root_run_id", ["root", "a later one"])
def test_only_a_later_run_asks_for_what_a_dead_one_asked_for(
    run: Run, imagegen_sandbox: Sandbox, storage: Path, silent: int, root_run_id: str
) -> None:
    """Where no lock tells who is dead, a run's own retry leaves what was in flight alone; another
    one asks for it as soon as the lease is over."""
    name = f"memory://{storage}"
    limits = Limits(lease=20.0, poll=0.05, patience=Patience(backoff_seconds=0.01))
    run(["a lamp"], storage_uri=name)
    fs, root = fsspec.url_to_fs(name)
    jid = "20260101T000000000000Z-dead"
    request = ImageRequest(
        endpoint_id="https://images.example/v1",
        model="openai-gpt-image-1",
        prompt="a mug",
        quality="low",
    )
    identity = Identity(run_id="died", root_run_id="root")
    header = Header(journal_id=jid, schema=1, identity=identity)
    intent = intent_line(attempt_at(RequestRecord.of(request), identity, f"{jid}-0"))
    for seq, line in enumerate((header.line(), intent)):
        path = f"{root}/_journal/{jid}/{seq:06d}.jsonl"
        fs.pipe_file(path, line.encode())
        fs.store[path].created -= timedelta(seconds=silent)
    later = root_run_id != "root"
    again = run(["a mug"], storage_uri=name, root_run_id=root_run_id, limits=limits)
    assert statuses(again) == ["generated" if later else "unknown"]
    assert len(imagegen_sandbox.requests) == 1 + later


@pytest.mark.parametrize("asked_for", [0, 2])
def test_a_run_with_nothing_to_send_closes_what_a_dead_one_left(
    run: Run, imagegen_sandbox: Sandbox, storage: Path, asked_for: int
) -> None:
    """Also where no lock tells who is dead; it leaves nothing of its own."""
    name = f"memory://{storage}"
    run(["a mug"], storage_uri=name)
    fs, root = fsspec.url_to_fs(name)
    jid = "20260101T000000000000Z-dead"
    identity = Identity(run_id="died", root_run_id="died")
    header = Header(journal_id=jid, schema=1, identity=identity)
    intents = [
        intent_line(attempt_at(RequestRecord(fingerprint=f"{number}"), identity, f"{jid}-{number}"))
        for number in range(asked_for)
    ]
    path = f"{root}/_journal/{jid}/000000.jsonl"
    fs.pipe_file(path, "\n".join([header.line(), *intents]).encode())
    fs.store[path].created -= timedelta(hours=1)
    assert statuses(run(["a mug"], storage_uri=name)) == ["reused"]
    assert len(imagegen_sandbox.requests) == 1
    assert [left for left in fs.find(f"{root}/_journal") if not left.endswith(".sealed")] == []
    rows = ds.dataset(f"{root}/usage", filesystem=fs).to_table().to_pylist()
    assert Counter(row["status"] for row in rows) == Counter(succeeded=1, unknown=asked_for)


def test_a_message_that_repeats_the_prompt_does_not_bring_it_into_the_usage_table(
    run: Run, imagegen_sandbox: Sandbox, storage: Path
) -> None:
    """Nor do parameters of one's own, which can hold another prompt."""
    prompt = "a secret product\n\non a table of oak, beside a window" + " and so on" * 80
    imagegen_sandbox.script(Fault("moderation_blocked", message=f"No: {prompt}"))
    run([prompt], record_prompts=False, extra_body={"negative_prompt": "a secret colour"})
    row = usage_rows(storage).to_pylist()[0]
    assert row["status"] == "refused"
    assert (row["error_code"], row["error_message"]) == ("moderation_blocked", None)
    assert row["extra_body"] is None
    assert not any(b"a secret" in p.read_bytes() for p in storage.rglob("*") if p.is_file())


@pytest.mark.parametrize(
    "rows",
    [
        [{"prompt": "a secret product" * 2001}, {"prompt": "a mug", "n": "many"}],
        [{"prompt": "a mug", "n": 1, "kept": 1}, {"prompt": "a mug", "kept": "a secret"}],
    ],
)
def test_bad_rows_are_named_without_what_is_private(
    imagegen_sandbox: Sandbox, open_engine: Callable[..., Engine], rows: list[dict[str, object]]
) -> None:
    """Position, column and remedy, and not the text; what overrides a parameter is told."""
    for record in (True, False):
        engine = open_engine(imagegen_sandbox, record_prompts=record)
        with pytest.raises(PromptTableError) as caught:
            engine.read_prompts(rows, params={}, overrides=["n"])
        told = "".join(traceback.format_exception(caught.value))
        assert ("a secret" in told) == record
        assert "many" in told or "row 1: kept" in told


def test_a_pass_tells_that_it_waits(open_engine: Callable[..., Engine]) -> None:
    """There are beats, in which its progress can be told; outcomes are not handed over in them."""
    waited = threading.Event()

    def answer_later(_: Heard) -> Answer:
        assert waited.wait(60), "there was no beat"
        return success(usage={"input_tokens": 10, "output_tokens": 400, "total_tokens": 410})

    with Parrot(answer_later).serve() as parrot:
        engine = open_engine(parrot)
        prompts = engine.read_prompts(["a mug", "a lamp"], params={"quality": "low"})
        identity = Identity(run_id="r", root_run_id="r")
        with engine.generate(prompts, identity=identity) as generation:
            assert generation.plan.to_send == 2
            assert generation.totals.succeeded == 0
            for beat in generation.beats(0.05):
                assert beat is None
                waited.set()
            assert generation.totals.succeeded == len(generation.outcomes) == 2
            told = str(generation.progress)
    assert re.fullmatch(r"2 of 2 images, 0 in flight, [\d,]+ a minute, \$0\.03\d\d", told), told


def attempt_at(request: RequestRecord, identity: Identity, attempt_id: str) -> Attempt:
    """An attempt that its writer left open."""
    return Attempt(attempt_id=attempt_id, identity=identity, request=request)
