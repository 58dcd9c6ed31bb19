"""A large record: `record.py make|plan --folder … --rows … --parts …`.

`make` puts rows on record that were all paid for, with empty files as their images; `plan` asks for
the same rows once more, which sends nothing.
"""

import argparse
import json
import resource
import sys
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dagster_imagegen import ImageGenResource
from dagster_imagegen.engine.prompts.rows import PromptTable


def resource_for(folder: Path) -> ImageGenResource:
    """Nothing listens at its address."""
    return ImageGenResource(
        base_url="http://127.0.0.1:9/v1",
        api_key="bench",
        model="gpt-image-1-mini",
        storage_uri=str(folder),
    )


def prompts(rows: int) -> pa.Table:
    """One for each row."""
    return pa.table({"prompt": [f"picture {number}" for number in range(rows)]})


def make(folder: Path, rows: int, parts: int) -> None:
    """Write parts as writers would have, of attempts that all succeeded."""
    from dagster_imagegen.engine.record.schema import SCHEMA  # noqa: PLC0415

    with resource_for(folder).open_engine() as engine:
        table: PromptTable = engine.read_prompts(prompts(rows), params={"quality": "low"})
    requests = [request for row in table.rows for request in row.requests]
    each = -(-rows // parts)
    for part in range(parts):
        chosen = requests[part * each : (part + 1) * each]
        began = datetime(2026, 1, 1, tzinfo=timezone.utc) + timedelta(hours=part)
        jid = f"{began:%Y%m%dT%H%M%S%fZ}-{part:08x}"
        paths = [f"images/{r.fingerprint[:2]}/{r.fingerprint}.{jid}-0.png" for r in chosen]
        for image in (folder / name for name in paths):
            image.parent.mkdir(parents=True, exist_ok=True)
            image.touch()
        known = {
            "attempt_id": [f"{jid}-{number}" for number in range(len(chosen))],
            "fingerprint": [request.fingerprint for request in chosen],
            "prompt": [request.prompt for request in chosen],
            "endpoint_id": [request.endpoint_id for request in chosen],
            "image_path": paths,
        }
        same = {
            "status": "succeeded",
            "billing": "billed",
            "model": "gpt-image-1-mini",
            "quality": "low",
            "run_id": "bench",
            "root_run_id": "bench",
            "asset_key": "bench",
            "attempt": 1,
            "started_at": began,
            "finished_at": began,
            "image_sha256": "0" * 64,
            "image_format": "png",
            "image_size_bytes": 200_000,
        }
        columns = {**{name: [value] * len(chosen) for name, value in same.items()}, **known}
        arrays = [
            pa.array(columns.get(field.name, [None] * len(chosen)), field.type) for field in SCHEMA
        ]
        path = folder / "usage" / f"date={began:%Y-%m-%d}" / f"{jid}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_arrays(arrays, schema=SCHEMA), path)


def plan(folder: Path, rows: int) -> dict[str, float]:
    """What it takes to find that nothing has to be sent."""
    began = time.perf_counter()
    images = resource_for(folder).generate_many(prompts(rows), quality="low")
    seconds = time.perf_counter() - began
    assert set(images["image_status"].to_pylist()) <= {"reused"}  # noqa: S101
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "seconds": seconds,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_rss_mb": used.ru_maxrss / 1024,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["make", "plan"])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--parts", type=int, default=1)
    given = parser.parse_args()
    measured = {}
    if given.what == "make":
        make(given.folder, given.rows, given.parts)
    else:
        measured = plan(given.folder, given.rows)
    sys.stdout.write(f"\n{json.dumps(measured)}\n")
