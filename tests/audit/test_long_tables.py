"""A usage table of any length is scanned: what is held is the sums, not the rows."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.contestants.usage import make

PROGRAM = """
import json, sys
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds

from dagster_imagegen.audit.cost_table import cost_table
from dagster_imagegen.audit.focus import focus_batches
from dagster_imagegen.engine.record.schema import SCHEMA

what, folder = sys.argv[1], Path(sys.argv[2])
files = sorted(str(path) for path in folder.rglob("*.parquet"))
usage = ds.dataset(files, SCHEMA, format="parquet")
by = ["asset_key", "asset_group", "model", "status", "cause"]
read = {
    "costs": lambda: cost_table(usage, by=by, finds_superseded=False),
    "focus": lambda: [batch.num_rows for batch in focus_batches(usage)],
}
read[what]()
print(json.dumps(pa.default_memory_pool().max_memory()))
"""


def peak(what: str, folder: Path, parts: int) -> int:
    """The most bytes that Arrow has held, in a process of its own."""
    make(folder, 4_000 * parts, parts)
    program = [sys.executable, "-c", PROGRAM, what, str(folder)]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("what", ["costs", "focus"])
def test_four_times_the_rows_need_hardly_more_memory(what: str, tmp_path: Path) -> None:
    """To load them takes four times as much. How many parts are read at once varies a little."""
    few, many = (peak(what, tmp_path / str(parts), parts) for parts in (12, 48))
    assert many < 2 * few
