"""Files of the record that are torn, empty or foreign are named, and stop only what they must."""

from pathlib import Path

import pytest

from dagster_imagegen.engine.errors import StorageError
from dagster_imagegen.sandbox import Sandbox
from tests.engine.conftest import Run, statuses

pytestmark = pytest.mark.imagegen_sandbox(paint=False)

JOURNAL = "_journal/20261122T110000000000Z-foreign"


def damaged(storage: Path, path: str, data: bytes) -> None:
    (storage / path).parent.mkdir(parents=True, exist_ok=True)
    (storage / path).write_bytes(data)


@pytest.mark.parametrize("data", [b"", b"PAR1", b"no Parquet at all"])
def test_a_damaged_part_is_named(
    run: Run, storage: Path, imagegen_sandbox: Sandbox, data: bytes
) -> None:
    """Nothing is sent; without it, the images that are in storage are not bought again."""
    run(["a mug"])
    (part,) = storage.glob("usage/*/*.parquet")
    part.write_bytes(data)
    with pytest.raises(StorageError, match=rf"(?s)damaged parts.*{part.name}.*delete them"):
        run(["a mug", "a lamp"])
    part.unlink()
    assert statuses(run(["a mug", "a lamp"])) == ["reused", "generated"]
    assert len(imagegen_sandbox.requests) == 2


@pytest.mark.parametrize(
    "path",
    [
        "usage/report.parquet",
        "usage/2026/report.parquet",
        "usage/date=2026-11-26/._20261126T185329024886Z-9e18b849.parquet",
    ],
)
def test_a_stray_file_is_no_part(
    run: Run, storage: Path, imagegen_sandbox: Sandbox, path: str
) -> None:
    damaged(storage, path, b"somebody's own")
    assert statuses(run(["a mug"])) == ["generated"]
    assert statuses(run(["a mug"])) == ["reused"]


@pytest.mark.parametrize("header", [b"", b"\x00\xff garbage", b'{"record":"header"}\n', b"[]\n"])
def test_a_damaged_header_without_requests_stops_nothing(
    run: Run, storage: Path, imagegen_sandbox: Sandbox, header: bytes
) -> None:
    """There was never a request in that journal."""
    damaged(storage, f"{JOURNAL}/000000.jsonl", header)
    assert statuses(run(["a mug"])) == ["generated"]
    assert statuses(run(["a mug"])) == ["reused"]


@pytest.mark.parametrize("data", [b'{"record":"intent","attem', b"\x00\xff", b"{}\n"])
def test_a_torn_journal_object_is_named(
    run: Run, storage: Path, imagegen_sandbox: Sandbox, data: bytes
) -> None:
    """It may hold requests that were billed: nothing is sent until somebody decides."""
    damaged(storage, f"{JOURNAL}/000000.jsonl", b"garbage")
    damaged(storage, f"{JOURNAL}/000001.jsonl", data)
    with pytest.raises(StorageError, match=rf"damaged journal: {JOURNAL}.*delete the folder"):
        run(["a mug"])
    assert len(imagegen_sandbox.requests) == 0
