"""A storage, or the place of its usage table, that somebody deletes in the middle of a run."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dagster_imagegen.engine.errors import StorageError
from dagster_imagegen.engine.record import Limits
from dagster_imagegen.sandbox import Sandbox
from tests.fire.conftest import Passes
from tests.fire.record_checks import billed_by_prompt
from tests.fire.shaky import Bucket, Trouble, Verb, shake_disk

FOLDERS = ("images", "usage", "_journal")
PROMPTS = [f"a mug, number {number}" for number in range(24)]


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(paint=False, seed=1) as sandbox:
        yield sandbox


class AtTheNth:
    """Does something once, when the nth image is about to be written."""

    def __init__(self, nth: int, happens: Callable[[], object]) -> None:
        self._left, self._happens = nth, happens

    def __call__(self, verb: Verb, path: str) -> Trouble | None:
        if verb == "put" and path.endswith(".tmp") and ".png." in path:
            self._left -= 1
            if self._left == 0:
                self._happens()
        return None


def delete(folder: Path) -> list[str]:
    """Returns the names of its images, listed when no more can be written there."""
    gone = folder.with_name("gone")
    folder.rename(gone)
    images = [path.name for path in gone.glob("images/*/*")]
    shutil.rmtree(gone)
    return images


@pytest.mark.parametrize("which", ["both", "storage", "usage"])
def test_a_folder_that_is_deleted_is_no_success(
    passes: Passes,
    sandbox: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
    which: str,
) -> None:
    """The error names the folder; it is not made again; and no image is paid for and lost after."""
    usage = passes.storage if which == "both" else passes.folder / "records"
    doomed = usage if which == "usage" else passes.storage
    options: dict[str, Any] = {"usage_uri": str(usage), "max_concurrency": 4}
    there: list[str] = []

    def happens() -> None:
        there.extend(delete(doomed))

    with monkeypatch.context() as patch:
        shake_disk(patch, AtTheNth(9, happens))
        with pytest.raises(StorageError, match=f"{doomed}.* deleted.* unmounted"):
            passes.run(sandbox, PROMPTS, **options)
    assert not doomed.exists()
    billed = len(billed_by_prompt(sandbox.requests))
    kept = {path.name for path in (passes.folder / "aside").rglob("*.png")}
    stored = len(list(passes.storage.glob("images/*/*")))
    if which == "usage":
        assert stored == billed
    else:
        assert len(kept.union(there)) == billed
    again = passes.run(sandbox, PROMPTS, **options)
    missing = [each for each in again.outcomes.values() if each.error_code == "image_missing"]
    assert len(missing) == (len(there) if which == "storage" else 0)
    assert all(each.image for each in again.outcomes.values() if each not in missing)
    bought_again = [n for n in billed_by_prompt(sandbox.requests).values() if n > 1]
    assert len(bought_again) == (len(there) if which == "both" else 0)


@pytest.mark.parametrize("folder", FOLDERS)
def test_what_is_deleted_within_a_bucket_is_no_success(
    passes: Passes, sandbox: Sandbox, folder: str
) -> None:
    """A bucket that is emptied has no folder that could be missing; what was written is."""
    bucket = Bucket()
    emptied: list[str] = []

    def weather(verb: Verb, path: str) -> Trouble | None:
        names = [*bucket.objects]
        all_there = all(any(f"/{each}/" in name for name in names) for each in FOLDERS)
        if verb == "put" and all_there and not emptied:
            emptied.extend(name for name in names if f"/{folder}/" in name)
            for name in emptied:
                del bucket.objects[name]
        return None

    bucket.weather = weather
    limits = Limits(lease=20.0, roll_attempts=2)
    with pytest.raises(StorageError, match=f"{folder}/.* is gone.*: somebody deleted"):
        passes.run(sandbox, PROMPTS, max_concurrency=4, limits=limits, **bucket.options)
