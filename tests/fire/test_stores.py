"""Storage that fails under a pass: nothing lost, nothing half, nothing bought twice."""

import asyncio
import io
import os
import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dagster_imagegen.engine.attempt import Identity, Outcome
from dagster_imagegen.engine.errors import StorageError
from dagster_imagegen.engine.images import Images
from dagster_imagegen.engine.money.price_list import PriceList
from dagster_imagegen.engine.patience import Patience
from dagster_imagegen.engine.record import Limits
from dagster_imagegen.engine.record.schema import Row, row_of
from dagster_imagegen.engine.storage import Storage
from dagster_imagegen.sandbox import Sandbox
from tests.fire import record_checks
from tests.fire.conftest import Passes, until
from tests.fire.proxy import BREAKS, BreakingProxy
from tests.fire.record_checks import (
    assert_every_request_has_its_row,
    assert_nothing_is_left_over,
    assert_whole,
    billed_by_prompt,
    by_status,
    rows_in,
)
from tests.fire.shaky import (
    Bucket,
    Outage,
    Storm,
    Trouble,
    Verb,
    fair,
    shake_disk,
    shake_memory,
)

QUICK = Limits(lease=20.0, patience=Patience(backoff_seconds=0.001))
# A lease that a test can wait for, on a store that has no locks to tell the dead.
IMPATIENT = Limits(lease=2.0, poll=0.05, patience=Patience(backoff_seconds=0.001))
PROMPTS = [f"a mug, number {number}" for number in range(40)]


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(paint=False, latency_seconds=(0.0, 0.03), seed=1) as sandbox:
        yield sandbox


def rows_of(objects: Mapping[str, bytes]) -> list[Row]:
    """The usage rows in the parts of a bucket, in the order of their attempts."""
    tables = [
        pq.read_table(io.BytesIO(data))
        for path, data in objects.items()
        if path.startswith("usage/")
    ]
    rows = pa.concat_tables(tables).to_pylist() if tables else []
    return sorted(rows, key=lambda row: row["attempt_id"])


def assert_images_are_whole(bucket: Bucket, rows: list[Row]) -> None:
    """Each success has its image, each image its success, and neither is half."""
    images = bucket.below("images")
    succeeded = {row["image_path"]: row for row in rows if row["status"] == "succeeded"}
    assert set(images) == set(succeeded)
    for path, row in succeeded.items():
        assert_whole(images[path], row)


@pytest.mark.parametrize("seed", range(4))
def test_a_store_that_fails_now_and_then(passes: Passes, sandbox: Sandbox, seed: int) -> None:
    """One request in six fails, before or after its effect, and the pass does not show it."""
    storm = Storm(rate=0.15, seed=seed)
    bucket = Bucket(weather=storm)
    limits = Limits(lease=20.0, patience=Patience(attempts=10, backoff_seconds=0.001))
    run = passes.run(sandbox, PROMPTS, limits=limits, **bucket.options)
    bucket.weather = fair
    rows = rows_of(bucket.below("usage"))
    assert storm.count > 10
    assert {outcome.status for outcome in run.outcomes.values()} == {"generated"}
    assert by_status(rows) == {"succeeded": len(PROMPTS)}
    assert_every_request_has_its_row(rows, sandbox.requests)
    assert_images_are_whole(bucket, rows)
    assert len(sandbox.requests) == len(PROMPTS)


def test_of_many_listings_only_those_that_failed_are_repeated() -> None:
    """Images are looked for together; of so many, on a bad store, one fails each time."""
    listed: Counter[str] = Counter()

    def weather(verb: Verb, path: str) -> Trouble | None:
        listed[path] += 1
        return "unavailable" if listed[path] == 1 + int(path[-1], 16) % 3 else None

    options = {"bucket": Bucket(weather=weather)}
    images = Images(
        Storage("shaky://bucket/shop", options),
        spill=Storage("shaky://bucket/spill", options),
        prices=PriceList.default(),
        now=lambda: datetime.now(timezone.utc),
        patience=Patience(attempts=2, backoff_seconds=0.0),
    )
    wanted = [f"{number:02x}{'0' * 62}" for number in range(64)]

    async def main() -> list[Mapping[str, str]]:
        return await asyncio.gather(*map(images.find, wanted))

    assert asyncio.run(main()) == [{}] * 64
    assert max(listed.values()) == 2


@pytest.mark.full
@pytest.mark.parametrize("seed", range(100, 150))
def test_a_store_that_fails_now_and_then_in_full(
    passes: Passes, sandbox: Sandbox, seed: int
) -> None:
    """The same with 50 seeds."""
    test_a_store_that_fails_now_and_then(passes, sandbox, seed)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["disk", "memory"])
def test_disk_and_memory_that_fail_now_and_then(
    passes: Passes, sandbox: Sandbox, kind: str, seed: int
) -> None:
    """Torn writes, renames that were not made or not synced, failing listings: nothing is half,
    lost or bought twice on local disk, and the like on `memory://`."""
    storm = Storm(rate=0.03, seed=seed)
    # Long enough for what is half to be seen.
    passes.defaults["limits"] = Limits(
        lease=20.0, patience=Patience(attempts=10, backoff_seconds=0.01)
    )
    if kind == "memory":
        passes.defaults["storage_uri"] = f"memory://fire-{uuid4().hex}"
    with pytest.MonkeyPatch.context() as patch:
        (shake_memory if kind == "memory" else shake_disk)(patch, storm)
        with passes.begin(sandbox, PROMPTS) as run:
            for _ in run:
                for path in passes.storage.glob("images/*/*"):
                    assert path.read_bytes().endswith(b"IEND\xaeB`\x82"), "half an image"
    assert storm.count >= 3
    assert {outcome.status for outcome in run.outcomes.values()} == {"generated"}
    rows = rows_in(passes.place)
    assert len(sandbox.requests) == len(PROMPTS)
    assert_every_request_has_its_row(rows, sandbox.requests)
    record_checks.assert_images_are_whole(passes.place, rows)
    assert passes.run(sandbox, PROMPTS).totals.requests == 0
    assert_nothing_is_left_over(passes.place)


def outage_and_rerun(passes: Passes, sandbox: Sandbox, *, begins_at: int) -> None:
    """The store goes away for good under a pass; when it is back, the pass is run again."""
    outage = Outage(begins_at=begins_at)
    bucket = Bucket(weather=outage)
    options: dict[str, Any] = {"limits": IMPATIENT, "max_concurrency": 16, **bucket.options}
    with passes.begin(sandbox, PROMPTS, **options) as first:
        try:
            for _ in first:
                pass
        except StorageError:
            assert outage.has_begun
    reported = dict(first.outcomes)
    bucket.weather = fair
    again = passes.run(sandbox, PROMPTS, **options)
    for fingerprint in reported:
        assert again.outcomes[fingerprint].status == "reused"
    # What was on record and not sent when the store went: nobody could write that down any more,
    # so it is unknown to whoever comes while the first pass may still be at it, and later resent.
    if bucket.below("_journal"):
        # Then it is dead, by times of whole seconds, though nothing is left to be sent.
        time.sleep(IMPATIENT.lease + 1)
    last = passes.run(sandbox, PROMPTS, **options)

    assert billed_by_prompt(sandbox.requests) == dict.fromkeys(PROMPTS, 1)
    assert {outcome.status for outcome in last.outcomes.values()} <= {"generated", "reused"}
    assert len(last.outcomes) == len(PROMPTS)
    rows = rows_of(bucket.below("usage"))
    assert_every_request_has_its_row(rows, sandbox.requests, dead={"pass-1"})
    assert [path for path in bucket.below("_journal") if not path.endswith(".sealed")] == []
    images = bucket.below("images")
    for outcome in last.outcomes.values():
        row = row_of_outcome(outcome)
        assert_whole(images[row["image_path"]], row)
    assert len(images) == len(PROMPTS)


@pytest.mark.parametrize("seed", range(4))
def test_a_store_that_goes_away(passes: Passes, sandbox: Sandbox, seed: int) -> None:
    """What was in flight is set aside on this machine, and taken up when the store is back."""
    outage_and_rerun(passes, sandbox, begins_at=random.Random(seed).randint(5, 250))


@pytest.mark.full
@pytest.mark.parametrize("seed", range(100, 160))
def test_a_store_that_goes_away_in_full(passes: Passes, sandbox: Sandbox, seed: int) -> None:
    """The same at 60 points."""
    outage_and_rerun(passes, sandbox, begins_at=random.Random(seed).randint(1, 350))


def no_deletions(verb: str, path: str) -> Any:
    """Nothing is deleted of journals; the rest is in order."""
    return "unavailable" if verb == "delete" and "/_journal/" in path else None


def test_what_a_writer_could_not_delete_goes_in_a_run_that_sends_nothing(
    passes: Passes, sandbox: Sandbox
) -> None:
    """Its part is in place, so that its journal counts no more, but every run would list it."""
    bucket = Bucket(weather=no_deletions)
    options: dict[str, Any] = {"limits": IMPATIENT, "max_concurrency": 16, **bucket.options}
    passes.run(sandbox, PROMPTS, **options)
    assert bucket.below("usage")
    assert bucket.below("_journal")
    bucket.weather = fair
    time.sleep(IMPATIENT.lease + 1)
    passes.run(sandbox, PROMPTS, **options)
    assert [path for path in bucket.below("_journal") if not path.endswith(".sealed")] == []
    assert billed_by_prompt(sandbox.requests) == dict.fromkeys(PROMPTS, 1)
    assert len(rows_of(bucket.below("usage"))) == len(PROMPTS)


def no_deletions_and_no_parts(verb: str, path: str) -> Any:
    """Nothing is published, either."""
    return "unavailable" if verb == "put" and "/usage/" in path else no_deletions(verb, path)


def test_where_nothing_may_be_deleted_runs_that_send_nothing_leave_nothing(
    passes: Passes, sandbox: Sandbox
) -> None:
    """After one that publishes what a dead writer had on record, which it opens a journal for."""
    bucket = Bucket(weather=no_deletions_and_no_parts)
    options: dict[str, Any] = {"limits": IMPATIENT, "max_concurrency": 16, **bucket.options}
    with pytest.raises(StorageError):
        passes.run(sandbox, PROMPTS, **options)
    bucket.weather = no_deletions
    time.sleep(IMPATIENT.lease + 1)
    left: list[int] = []
    for _ in range(4):
        passes.run(sandbox, PROMPTS, **options)
        left.append(len(bucket.below("_journal")))
    assert left == [left[0]] * 4
    assert billed_by_prompt(sandbox.requests) == dict.fromkeys(PROMPTS, 1)
    assert len(rows_of(bucket.below("usage"))) == len(PROMPTS)


def no_images(verb: str, path: str) -> Any:
    """The folder of images takes nothing more; the rest is in order."""
    return "unavailable" if verb == "put" and "/images/" in path else None


def test_images_that_are_refused_for_good_are_set_aside(passes: Passes, sandbox: Sandbox) -> None:
    """The error says where they are, each is a row that says it is paid for, and the next pass
    on this machine stores them instead of buying them again."""
    bucket = Bucket(weather=no_images)
    options: dict[str, Any] = {"max_concurrency": 8, "limits": QUICK, **bucket.options}
    aside = passes.folder / "aside"
    with (
        pytest.raises(StorageError, match=f"kept at {aside}"),
        passes.begin(sandbox, PROMPTS, **options) as generation,
    ):
        for _ in generation:
            pass
    bought = len(sandbox.requests)
    assert generation.totals.statuses == {"failed": bought}
    rows = rows_of(bucket.below("usage"))
    assert 0 < bought < len(PROMPTS)
    assert len([path for path in aside.rglob("*") if path.is_file()]) == bought
    assert by_status(rows) == {"failed": bought}
    assert {row["billing"] for row in rows} == {"billed"}
    assert {row["error_code"] for row in rows} == {"image_not_saved"}
    assert_every_request_has_its_row(rows, sandbox.requests)

    with pytest.raises(StorageError):
        passes.run(sandbox, PROMPTS, **options)
    assert len(sandbox.requests) == bought, "the storage is still away: nothing more is bought"
    assert len([path for path in aside.rglob("*") if path.is_file()]) == bought

    bucket.weather = fair
    back = passes.run(sandbox, PROMPTS, **options)
    assert [path for path in aside.rglob("*") if path.is_file()] == []
    assert set(billed_by_prompt(sandbox.requests).values()) == {1}
    assert len(sandbox.requests) == len(PROMPTS)
    statuses = [outcome.status for outcome in back.outcomes.values()]
    assert statuses.count("reused") == bought
    assert statuses.count("generated") == len(PROMPTS) - bought
    images = bucket.below("images")
    paid = {row["attempt_id"]: row["cost_usd"] for row in rows}
    for outcome in back.outcomes.values():
        row = row_of_outcome(outcome)
        assert_whole(images[row["image_path"]], row)
        if outcome.status == "reused":
            assert row["cost_usd"] == paid[row["attempt_id"]]
    later = passes.run(sandbox, PROMPTS, **options)
    assert {outcome.status for outcome in later.outcomes.values()} == {"reused"}
    assert len(sandbox.requests) == len(PROMPTS)


def test_what_was_set_aside_belongs_to_one_storage(
    passes: Passes, sandbox: Sandbox, tmp_path: Path
) -> None:
    """Another storage on the same machine is given nothing of it."""
    bucket = Bucket(weather=no_images)
    with pytest.raises(StorageError):
        passes.run(sandbox, PROMPTS[:4], limits=QUICK, **bucket.options)
    passes.run(sandbox, ["a lamp"])
    assert len(list((tmp_path / "storage" / "images").rglob("*.png"))) == 1


def test_two_passes_take_up_what_was_set_aside(passes: Passes, sandbox: Sandbox) -> None:
    """Both at once: each image is brought back, and neither stumbles over the other."""
    bucket = Bucket(weather=no_images)
    with pytest.raises(StorageError):
        passes.run(sandbox, PROMPTS, max_concurrency=32, limits=QUICK, **bucket.options)
    bucket.weather = fair
    both = [passes.begin(sandbox, PROMPTS, **bucket.options) for _ in range(4)]
    for one in both:
        with one:
            for _ in one:
                pass
        assert len(one.outcomes) == len(PROMPTS)
    assert set(billed_by_prompt(sandbox.requests).values()) == {1}


def test_nowhere_to_set_an_image_aside(passes: Passes, sandbox: Sandbox, tmp_path: Path) -> None:
    """Both places are named, and the row says that the image is paid for."""
    (tmp_path / "taken").write_text("")
    bucket = Bucket(weather=no_images)
    with pytest.raises(StorageError, match="taken") as caught:
        passes.run(
            sandbox,
            ["a mug"],
            spill_folder=str(tmp_path / "taken"),
            limits=QUICK,
            **bucket.options,
        )
    assert "shaky://" in str(caught.value)
    (row,) = rows_of(bucket.below("usage"))
    assert (row["status"], row["billing"]) == ("failed", "billed")
    assert row["cost_usd"] == sandbox.totals.cost_usd
    assert "taken" in row["error_message"]


def test_stopped_while_the_storage_is_away(passes: Passes, sandbox: Sandbox) -> None:
    """With no time left to drain, an image that came and could not be stored is set aside."""
    being_saved: set[str] = set()

    def no_images_and_who_tries(verb: str, path: str) -> Any:
        if no_images(verb, path):
            being_saved.add(path)
        return no_images(verb, path)

    bucket = Bucket(weather=no_images_and_who_tries)
    stubborn = Limits(lease=20.0, poll=0.05, patience=Patience(attempts=50))
    options: dict[str, Any] = {"drain_seconds": 0.2, **bucket.options}
    with passes.begin(sandbox, PROMPTS[:4], limits=stubborn, **options) as first:
        # From the first failure on nothing new is sent.
        until(lambda: 0 < first.totals.requests == len(being_saved))
        first.drain()
    bought = len(sandbox.requests)
    bucket.weather = fair
    again = passes.run(sandbox, PROMPTS[:4], limits=IMPATIENT, **options)
    assert billed_by_prompt(sandbox.requests) == dict.fromkeys(PROMPTS[:4], 1)
    statuses = [outcome.status for outcome in again.outcomes.values()]
    assert sorted(statuses) == ["generated"] * (4 - bought) + ["reused"] * bought
    assert_every_request_has_its_row(rows_of(bucket.below("usage")), sandbox.requests)


def test_a_call_that_has_ended_hurries_no_later_one(passes: Passes, sandbox: Sandbox) -> None:
    """To drain it again is nothing: the next call of the block bears a storage that fails."""
    bucket = Bucket()
    limits = Limits(lease=20.0, patience=Patience(attempts=2, backoff_seconds=0.001))
    engine = passes.engine(sandbox, limits=limits, patience_seconds=600.0, **bucket.options)
    mug, lamp = (
        engine.read_prompts([text], params={"quality": "low"}) for text in ("a mug", "a lamp")
    )
    failures = iter(range(5))

    def no_journals_for_a_while(verb: str, path: str) -> Any:
        is_journal = verb == "put" and "/_journal/" in path
        return "unavailable" if is_journal and next(failures, None) is not None else None

    with engine.block(Identity(run_id="1", root_run_id="1")) as block:
        with block.generate(mug) as first:
            assert [each.status for each in first] == ["generated"]
        bucket.weather = no_journals_for_a_while
        with block.generate(lamp) as second:
            assert [each.status for each in second] == ["generated"]
    assert next(failures, None) is None
    assert_every_request_has_its_row(rows_of(bucket.below("usage")), sandbox.requests)


def broken_s3(
    passes: Passes, sandbox: Sandbox, options: dict[str, Any], *, rate: float, seed: int
) -> None:
    """A pass through a proxy that breaks requests to an S3 server, then one without the proxy."""
    name = f"fire-{os.getpid()}-{seed}"
    direct = fsspec.filesystem("s3", **options)
    direct.mkdir(name)
    with BreakingProxy(options["endpoint_url"], rate=rate, seed=seed) as proxy:
        # Only silence can reach that timeout: a healthy answer takes a hundredth of it.
        config = {**options["config_kwargs"], "read_timeout": 5, "retries": {"max_attempts": 1}}
        broken = {**options, "endpoint_url": proxy.url, "config_kwargs": config}
        # Slots are held while the store is slow; the lease has to bear it.
        limits = Limits(lease=60.0, patience=Patience(backoff_seconds=0.01))
        run = passes.run(
            sandbox,
            PROMPTS,
            limits=limits,
            storage_uri=f"s3://{name}/shop",
            storage_options=broken,
        )
    assert set(proxy.broken) == set(BREAKS)
    assert {outcome.status for outcome in run.outcomes.values()} == {"generated"}
    assert billed_by_prompt(sandbox.requests) == dict.fromkeys(PROMPTS, 1)
    found = direct.find(f"{name}/shop")
    parts = {path.removeprefix(f"{name}/shop/"): direct.cat_file(path) for path in found}
    rows = rows_of(parts)
    assert_every_request_has_its_row(rows, sandbox.requests)
    images = {path: data for path, data in parts.items() if path.startswith("images/")}
    assert set(images) == {row["image_path"] for row in rows}
    for row in rows:
        assert_whole(images[row["image_path"]], row)
    assert [path for path in parts if path.startswith("_journal/")] == []
    again = passes.run(sandbox, PROMPTS, storage_uri=f"s3://{name}/shop", storage_options=options)
    assert again.totals.requests == 0


def test_s3_behind_a_breaking_proxy(
    passes: Passes, sandbox: Sandbox, s3_options: dict[str, Any]
) -> None:
    """503s, torn uploads, lost answers and silence on the wire: s3fs and we get through it."""
    broken_s3(passes, sandbox, s3_options, rate=0.08, seed=1)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(2, 8))
def test_s3_behind_a_breaking_proxy_in_full(
    passes: Passes, sandbox: Sandbox, s3_options: dict[str, Any], seed: int
) -> None:
    """The same with six more seeds, and more of it."""
    broken_s3(passes, sandbox, s3_options, rate=0.15, seed=seed)


def row_of_outcome(outcome: Outcome) -> Row:
    """The usage row behind an outcome."""
    assert outcome.attempt is not None
    return row_of(outcome.attempt)
