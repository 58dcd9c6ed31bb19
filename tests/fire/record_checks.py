"""The provider's request log against the record: what every test under fire ends with."""

import hashlib
import io
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
from PIL import Image
from upath import UPath

from dagster_imagegen.engine.record.schema import Row
from dagster_imagegen.sandbox import ReceivedRequest


def rows_in(storage: Path | UPath) -> list[Row]:
    """The usage table as any reader of a Parquet folder sees it, oldest attempt first."""
    folder = UPath(storage) / "usage"
    if not folder.exists():
        return []
    table = ds.dataset(
        folder.path, filesystem=folder.fs, format="parquet", partitioning="hive"
    ).to_table()
    return table.sort_by([("started_at", "ascending"), ("attempt_id", "ascending")]).to_pylist()


def assert_every_request_has_its_row(
    rows: Sequence[Row], requests: Sequence[ReceivedRequest], *, dead: Collection[str] = ()
) -> int:
    """Exactly one row for each request received, and what was billed is not understated.

    A row without a request is an intent that a dead process left between its record and its
    sending; `dead` are the runs of such processes. Returns how many of those rows there are.
    """
    assert len({row["attempt_id"] for row in rows}) == len(rows), "an attempt is there twice"
    by_id = {request.request_id: request for request in requests}
    named = [row for row in rows if row["request_id"] is not None]
    assert len({row["request_id"] for row in named}) == len(named), "a request is there twice"
    for row in named:
        request = by_id.pop(row["request_id"])  # KeyError: a row of a request nobody received
        assert request.body["prompt"] == row["prompt"]
        assert not (request.billed and row["billing"] == "not_billed")
        assert_not_understated(row, request)
    # The rest can only be told by their prompts: the answer, if there was one, was lost.
    unnamed: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row["request_id"] is None:
            unnamed[row["prompt"]].append(row)
    received = Counter(request.body["prompt"] for request in by_id.values())
    for prompt, count in received.items():
        assert count <= len(unnamed[prompt]), f"a request for {prompt!r} has no row"
    never_sent = 0
    for prompt, left in unnamed.items():
        spare = len(left) - received[prompt]
        lost = [row for row in left if row["run_id"] in dead and is_lost(row)]
        assert spare <= len(lost), f"a row for {prompt!r} without a request: {left}"
        never_sent += spare
    unnamed_usd = sum((row["cost_usd"] for left in unnamed.values() for row in left), Decimal(0))
    uncounted_prompts = sum((_prompt_usd(request) for request in by_id.values()), Decimal(0))
    assert unnamed_usd + uncounted_prompts >= sum(
        (request.cost_usd for request in by_id.values()), Decimal(0)
    )
    return never_sent


def is_lost(row: Row) -> bool:
    """Whether nobody knows what became of the attempt, so that it counts at its worst case."""
    known = (row["status"], row["billing"], row["error_code"], row["cost_usd"])
    return known == ("unknown", "unknown", "outcome_lost", row["worst_case_usd"])


def assert_not_understated(row: Row, request: ReceivedRequest) -> None:
    """A row has at least what was billed for an upper bound; exactly that, where it was told."""
    if row["cost_basis"] in ("metered", "reported") and request.billed:
        assert row["cost_usd"] == request.cost_usd
    elif row["status"] == "succeeded":
        # An estimate is of the image: nobody told how many tokens the prompt came to.
        assert request.cost_usd - _prompt_usd(request) <= row["cost_usd"]
    else:
        assert row["cost_usd_max"] >= request.cost_usd


def _prompt_usd(request: ReceivedRequest) -> Decimal:
    """The prompt's part of the bill, at the most that a token of text costs in these tests."""
    return request.input_tokens * Decimal("0.000005")


def assert_whole(data: bytes, row: Row) -> None:
    """The bytes are those that the row names, and a picture."""
    assert hashlib.sha256(data).hexdigest() == row["image_sha256"]
    assert len(data) == row["image_size_bytes"]
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        assert image.size == (row["image_width"], row["image_height"])


def assert_images_are_whole(storage: Path | UPath, rows: Sequence[Row]) -> None:
    """Each success has its image, each image its success, and neither is half."""
    succeeded = {row["image_path"]: row for row in rows if row["status"] == "succeeded"}
    root = UPath(storage)
    files = {str(path.relative_to(root)) for path in root.glob("images/*/*")}
    assert files == set(succeeded)
    for path, row in succeeded.items():
        data = root.fs.cat_file((root / path).path)
        assert isinstance(data, bytes)
        assert_whole(data, row)


def assert_nothing_is_left_over(storage: Path | UPath) -> None:
    """No journal is open once its writer is done."""
    assert list(UPath(storage).glob("_journal/*/*")) == []


def billed_by_prompt(requests: Sequence[ReceivedRequest]) -> Counter[str]:
    """How often each prompt was billed."""
    return Counter(request.body["prompt"] for request in requests if request.billed)


def by_status(rows: Sequence[Row]) -> dict[str, int]:
    """How many rows have each status."""
    return dict(Counter(row["status"] for row in rows))


def values_of(rows: Sequence[Row], column: str) -> list[Any]:
    """A column's values."""
    return [row[column] for row in rows]
