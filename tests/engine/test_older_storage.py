"""A storage written by an earlier version is read as it is: nothing in it is paid for again."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from dagster_imagegen.engine.attempt import Identity
from dagster_imagegen.engine.engine import Engine
from dagster_imagegen.engine.record.parts import bound_usd
from dagster_imagegen.engine.settings import Settings
from dagster_imagegen.sandbox import Sandbox

DATA = Path(__file__).parent.parent / "data" / "storage_of_0_1"
PAID = [
    {"prompt_id": "mug", "prompt": "a red enamel mug on a wooden table", "sku": "A-1"},
    {"prompt_id": "snow", "prompt": "the same mug in the snow, café ☃", "sku": "A-2"},
    {"prompt_id": "twice", "prompt": "the same mug in the snow, café ☃", "sku": "A-3"},
    {"prompt_id": "refused", "prompt": "a forbidden picture", "sku": "A-4"},
]
ADDED_SINCE = ["image_partial", "image_provenance", "image_cost_usd_max"]
SIZES = ["1024x1024", None, None, None]
VARIANTS = {
    "prompt_id": "lamp",
    "prompt": "a green lamp",
    "n": 2,
    "revision": 1,
    "output_format": "webp",
}


@pytest.fixture
def engine(tmp_path: Path, sandbox: Sandbox):
    """An engine on a copy of that storage, whose endpoint nobody should need."""
    shutil.copytree(DATA / "storage", tmp_path / "storage")
    settings = Settings(
        base_url=sandbox.base_url,
        endpoint_id="https://images.example.com/v1",
        model="openai-gpt-image-1",
        storage_uri=str(tmp_path / "storage"),
    )
    with Engine(settings) as engine:
        yield engine


def run_again(
    engine: Engine,
    rows: Sequence[Mapping[str, Any]],
    params: dict[str, Any],
    overrides: Sequence[str],
) -> pa.Table:
    prompts = engine.read_prompts(rows, params=params, overrides=overrides)  # pyright: ignore[reportArgumentType]  # a TypedDict's items
    identity = Identity(run_id="run-9", root_run_id="run-9", asset_key="hero")
    with engine.generate(prompts, identity=identity) as generation:
        for _ in generation:
            pass
    images = engine.image_table(generation.plan, generation.outcomes)
    return images.drop_columns(["image_uri", *ADDED_SINCE])


def rows(table: pa.Table) -> list[dict[str, Any]]:
    return table.to_pylist()


def test_every_usage_row_reads_as_before(engine: Engine):
    """The rows of parts and of an open journal, column by column."""
    before = pq.read_table(DATA / "usage_before.parquet")
    now = engine.usage.read().sort_by("attempt_id")
    assert rows(now.select(before.column_names)) == rows(before)


def test_what_was_paid_for_is_not_asked_for_again(engine: Engine, sandbox: Sandbox):
    """Images and a refusal are found under the same fingerprints; nothing is sent."""
    paid = [{**row, "size": size} for row, size in zip(PAID, SIZES, strict=True)]
    assert rows(run_again(engine, paid, {"quality": "low"}, ["size"])) == rows(
        pq.read_table(DATA / "images_paid.parquet")
    )
    params = {"quality": "medium", "extra_body": {"negative_prompt": "blur"}}
    variants = run_again(engine, [VARIANTS], params, ["n", "revision", "output_format"])
    assert rows(variants) == rows(pq.read_table(DATA / "images_variants.parquet"))
    assert len(sandbox.requests) == 0


def test_the_journal_of_a_killed_writer_is_closed_as_before(engine: Engine):
    """Each attempt that it left open becomes one row, the same as the earlier version's."""
    run_again(engine, [VARIANTS], {}, ["n", "revision", "output_format"])
    before = rows(pq.read_table(DATA / "usage_after.parquet"))
    known = {row["attempt_id"]: row for row in before}
    now = {row["attempt_id"]: row for row in rows(engine.usage.read())}
    for attempt_id, row in known.items():
        closed_now = row["error_code"] == "outcome_lost"
        ignored = {"finished_at"} if closed_now else set[str]()
        assert {k: now[attempt_id][k] for k in row.keys() - ignored} == {
            k: row[k] for k in row.keys() - ignored
        }


def test_an_older_row_counts_at_its_cost(engine: Engine):
    """It has no upper bound; its cost is the worst case where its billing is unknown."""
    usage = engine.usage.read()
    assert usage["cost_usd_max"].null_count > 0
    older = usage.filter(pc.field("cost_usd_max").is_null())
    assert bound_usd(older) == bound_usd(older, strict=True) > 0
