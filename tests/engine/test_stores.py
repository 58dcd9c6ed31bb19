"""The same pass on every kind of storage: local disk, memory, and S3's protocol."""

import io
import os
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet as pq
import pytest

from dagster_imagegen.sandbox import Sandbox
from tests.engine.conftest import Run, statuses, table_of

pytestmark = pytest.mark.imagegen_sandbox(paint=False)


@pytest.fixture(params=["local", "memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """Where a pass writes: `storage_uri` and `storage_options`."""
    name = f"{os.getpid()}-{request.node.name[:40].replace('[', '-').replace(']', '')}"
    if request.param == "local":
        return {"storage_uri": str(tmp_path / "pictures")}
    if request.param == "memory":
        return {"storage_uri": f"memory://{name}"}
    options = request.getfixturevalue("s3_options")
    bucket = f"pictures-{abs(hash(name))}"
    fsspec.filesystem("s3", **options).mkdir(bucket)
    return {"storage_uri": f"s3://{bucket}/shop", "storage_options": options}


def test_a_pass_and_its_repetition(
    run: Run, imagegen_sandbox: Sandbox, place: dict[str, Any]
) -> None:
    """Images, parts and the second run's silence are the same wherever the storage is."""
    prompts = [f"a mug, number {number}" for number in range(12)]
    first = run(prompts, **place)
    assert statuses(first) == ["generated"] * 12
    options = place.get("storage_options", {})
    fs, root = fsspec.url_to_fs(place["storage_uri"], **options)
    for row in table_of(first).to_pylist():
        assert len(fs.cat_file(row["image_uri"])) == row["image_size_bytes"]
    parts = fs.glob(f"{root}/usage/date=*/*.parquet")
    rows = sum(pq.read_table(io.BytesIO(fs.cat_file(part))).num_rows for part in parts)
    assert rows == 12
    assert fs.glob(f"{root}/_journal/*") == []
    second = run(prompts, **place)
    assert statuses(second) == ["reused"] * 12
    assert len(imagegen_sandbox.requests) == 12
