"""`verify --published`: copies that are missing, have changed, or lost their marks of origin."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from fsspec.implementations.local import LocalFileSystem
from PIL import Image

from dagster_imagegen import ImageGenResource, image_asset
from dagster_imagegen.cli import main
from dagster_imagegen.engine.publishing.copies import GIVE_UP_AFTER
from dagster_imagegen.sandbox import Sandbox

PRODUCTS = ("mug", "bowl", "lamp", "chair")
READ = LocalFileSystem.cat_file


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """The folder of published copies with both marks; the storage is beside it."""
    folder = tmp_path / "cdn"

    @image_asset(publish=f"{folder}/{{sku}}.{{ext}}", quality="low")
    def product() -> list[dict[str, str]]:
        return [{"prompt": f"a {each}", "sku": each} for each in PRODUCTS]

    with Sandbox(paint=False, credentials=True) as sandbox:
        imagegen = ImageGenResource(
            base_url=sandbox.base_url,
            model="openai-gpt-image-1",
            storage_uri=str(tmp_path / "storage"),
        )
        assert dg.materialize([product], resources={"imagegen": imagegen}).success
    return folder


def verify(
    published: Path, capsys: pytest.CaptureFixture[str], *options: str
) -> tuple[int, int | None, dict[str, tuple[str, str]]]:
    """The status, the number of copies, and by file name what was found of each and why."""
    storage = str(published.parent / "storage")
    capsys.readouterr()
    status = main(["verify", "--storage", storage, "--json", *options])
    told = json.loads(capsys.readouterr().out)
    found = {Path(each["path"]).name: (each["kind"], each["detail"]) for each in told["findings"]}
    return status, told["published_copies"], found


def test_copies_are_found_that_are_missing_changed_or_without_their_marks(
    published: Path, capsys: pytest.CaptureFixture[str]
):
    assert verify(published, capsys, "--published") == (0, 4, {})
    (published / "mug.png").unlink()
    with (published / "bowl.png").open("ab") as file:
        file.write(b"more")
    without_marks = io.BytesIO()
    Image.open(published / "lamp.png").convert("RGB").save(without_marks, "PNG")
    (published / "lamp.png").write_bytes(without_marks.getvalue())
    status, copies, found = verify(published, capsys, "--published")
    assert (status, copies) == (1, 4)
    assert {name: kind for name, (kind, _) in found.items()} == {
        "mug.png": "missing_copy",
        "bowl.png": "changed_copy",
        "lamp.png": "unmarked_copy",
    }
    assert "lacks c2pa, iptc:trainedAlgorithmicMedia" in found["lamp.png"][1]
    # Without being asked it looks at the storage alone, which is whole.
    assert verify(published, capsys) == (0, None, {})


def test_quick_compares_the_sizes_of_copies_only(
    published: Path, capsys: pytest.CaptureFixture[str]
):
    same_size = bytearray((published / "mug.png").read_bytes())
    same_size[-20] ^= 1
    (published / "mug.png").write_bytes(same_size)
    (published / "bowl.png").write_bytes(b"cut")
    _, _, found = verify(published, capsys, "--published", "--quick")
    assert {name: kind for name, (kind, _) in found.items()} == {"bowl.png": "changed_copy"}


def test_a_folder_that_cannot_be_opened_is_one_finding_and_the_others_are_compared(
    published: Path, capsys: pytest.CaptureFixture[str]
):
    (manifest,) = (published.parent / "storage" / "_published").rglob("*.json")
    told = json.loads(manifest.read_text())
    told["published"]["nosuchstore://elsewhere/a.png"] = {"sha256": "0" * 64, "size_bytes": 1}
    manifest.write_text(json.dumps(told))
    (published / "mug.png").unlink()
    status, copies, found = verify(published, capsys, "--published")
    assert (status, copies) == (1, 5)
    assert {kind for kind, _ in found.values()} == {"unreadable_copy", "missing_copy"}


def unreadable(monkeypatch: pytest.MonkeyPatch, denied: Callable[[str], bool]) -> None:
    """What the target says of files that nobody may read any more."""

    def read_if_allowed(filesystem: LocalFileSystem, path: str, **options: Any) -> Any:
        if denied(path):
            raise PermissionError(f"the token has expired: {path}")
        return READ(filesystem, path, **options)

    monkeypatch.setattr(LocalFileSystem, "cat_file", read_if_allowed)


def test_a_copy_that_cannot_be_read_is_named_and_the_others_of_its_folder_are_compared(
    published: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    unreadable(monkeypatch, lambda path: path == str(published / "bowl.png"))
    (published / "mug.png").unlink()
    (published / "lamp.png").write_bytes(b"changed")
    status, copies, found = verify(published, capsys, "--published")
    assert (status, copies) == (1, 4)
    assert {name: kind for name, (kind, _) in found.items()} == {
        "mug.png": "missing_copy",
        "bowl.png": "unreadable_copy",
        "lamp.png": "unmarked_copy",
    }
    assert "bowl.png: PermissionError" in found["bowl.png"][1]


def test_once_the_credentials_lapse_the_place_is_one_finding(
    published: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """Whether nothing can be read or, from some moment on, nothing more; what was read counts."""
    unreadable(monkeypatch, lambda path: path.startswith(str(published)))
    status, copies, found = verify(published, capsys, "--published")
    assert (status, copies) == (1, 4)
    ((place, (kind, detail)),) = found.items()
    assert (place, kind) == (published.name, "unreadable_copy")
    assert "4 in a row could not be read; the last: " in detail
    assert "the token has expired" in detail

    (manifest,) = (published.parent / "storage" / "_published").rglob("*.json")
    told = json.loads(manifest.read_text())
    facts = told["published"][str(published / "mug.png")]
    for number in range(1_000):  # Each in a folder of its own, after those in the folder itself.
        copy = published / f"more-{number:04}" / "mug.png"
        copy.parent.mkdir()
        copy.write_bytes((published / "mug.png").read_bytes())
        told["published"][str(copy)] = facts
    manifest.write_text(json.dumps(told))
    unreadable(
        monkeypatch, lambda path: str(published / "more-01") < path < str(published / "more-1")
    )
    (published / "lamp.png").unlink()
    status, copies, found = verify(published, capsys, "--published")
    assert (status, copies) == (1, 4 + 100 + GIVE_UP_AFTER)
    assert {name: kind for name, (kind, _) in found.items()} == {
        "lamp.png": "missing_copy",
        published.name: "unreadable_copy",
    }
    assert f"and the other {900 - GIVE_UP_AFTER} were not tried" in found[published.name][1]
