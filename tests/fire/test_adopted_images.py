"""Images in storage that no attempt on record brought: used, and read once."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from dagster_imagegen.engine.errors import StorageError
from dagster_imagegen.engine.run.thread import Generation
from dagster_imagegen.sandbox import Sandbox
from tests.fire.conftest import Passes
from tests.fire.shaky import Bucket, Trouble, Verb

PROMPTS = ["a red mug", "a blue mug", "a green mug"]


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(paint=False, seed=1) as sandbox:
        yield sandbox


class Reads:
    """Counts the images that are read. `refuses` is whether none can be written."""

    def __init__(self) -> None:
        self.count = 0
        self.refuses = False

    def __call__(self, verb: Verb, path: str) -> Trouble | None:
        if "/images/" not in path:
            return None
        self.count += verb == "get"
        return "unavailable" if self.refuses and verb == "put" else None


@pytest.fixture
def reads() -> Reads:
    return Reads()


@pytest.fixture
def options(reads: Reads) -> dict[str, Any]:
    return Bucket(weather=reads).options


def statuses(run: Generation) -> Counter[str]:
    assert all(each.image is not None and each.image.sha256 for each in run.outcomes.values())
    return Counter(each.status for each in run.outcomes.values())


def digests(run: Generation) -> dict[str, str | None]:
    return {key: each.image and each.image.sha256 for key, each in run.outcomes.items()}


def test_images_without_any_record_are_read_once(
    passes: Passes, sandbox: Sandbox, reads: Reads, options: dict[str, Any]
) -> None:
    """The usage table was lost: a run uses the images, and the next one does not read them."""
    first = passes.run(sandbox, PROMPTS, **options)
    bucket: Bucket = options["storage_options"]["bucket"]
    for path in [path for path in bucket.objects if "/usage/" in path]:
        del bucket.objects[path]
    assert statuses(passes.run(sandbox, PROMPTS, **options)) == {"reused": 3}
    assert reads.count == 3
    left = {*bucket.objects}
    again = passes.run(sandbox, PROMPTS, **options)
    assert statuses(again) == {"reused": 3}
    assert digests(again) == digests(first)
    assert reads.count == 3
    assert {*bucket.objects} == left
    assert len(sandbox.requests) == 3


def test_images_that_arrived_later_are_read_once(
    passes: Passes, sandbox: Sandbox, reads: Reads, options: dict[str, Any]
) -> None:
    """Spilled, then restored: their rows still say that they were not saved."""
    reads.refuses = True
    with pytest.raises(StorageError):
        passes.run(sandbox, PROMPTS, max_concurrency=3, **options)
    reads.refuses = False
    assert sum(statuses(passes.run(sandbox, PROMPTS, **options)).values()) == 3
    sent, read = len(sandbox.requests), reads.count
    assert read > 0
    assert statuses(passes.run(sandbox, PROMPTS, **options)) == {"reused": 3}
    assert (len(sandbox.requests), reads.count) == (sent, read)


def test_what_was_kept_of_an_adopted_image_may_be_torn(
    passes: Passes, sandbox: Sandbox, reads: Reads, options: dict[str, Any]
) -> None:
    """Then the image is read again."""
    passes.run(sandbox, PROMPTS, **options)
    bucket: Bucket = options["storage_options"]["bucket"]
    for path in [path for path in bucket.objects if "/usage/" in path]:
        del bucket.objects[path]
    passes.run(sandbox, PROMPTS, **options)
    (kept,) = bucket.below("_adopted")
    bucket.objects[f"bucket/shop/{kept}"] = (b'{"path": "ima', 0.0)
    assert statuses(passes.run(sandbox, PROMPTS, **options)) == {"reused": 3}
    assert reads.count == 6
    assert len(sandbox.requests) == 3
