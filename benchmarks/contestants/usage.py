"""A long usage table: `usage.py make|bill|… --folder … --rows … --parts …`.

`make` writes parts as writers would have. The others read them, each in a process of its own:
`bill` is the cost table by its default dimensions, `waste` the same with what was bought again or
replaced, `duckdb` and `duckdb_waste` are DuckDB's sums of the same files by the same columns.
`prices`, `focus` and `reconcile` are what the command line does with each request.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from dagster_imagegen.engine.record.schema import MONEY, SCHEMA

BEGAN = datetime(2026, 1, 1, tzinfo=timezone.utc)
compute: Any = pc
ASSETS = [f"shop/asset_{number}" for number in range(24)]
MODELS = ["gpt-image-1", "gpt-image-1-mini", "openai-gpt-image-1", "gpt-image-2"]
QUALITIES = ["low", "medium", "high", "auto"]
SIZES = ["1024x1024", "1536x1024", "1024x1536"]


# -- made ------------------------------------------------------------------------------------------


def make(folder: Path, rows: int, parts: int) -> None:
    """Parts of so many rows in all, one after the other in time, of the same numbers each time."""
    each = -(-rows // parts)
    for part in range(parts):
        count = min(each, rows - part * each)
        table = _part(np.random.default_rng(part), part, count)
        began = BEGAN + timedelta(hours=part)
        jid = f"{began:%Y%m%dT%H%M%S%fZ}-{part:08x}"
        path = folder / "usage" / f"date={began:%Y-%m-%d}" / f"{jid}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path, compression="zstd", write_page_checksum=True)


def _part(random: np.random.Generator, part: int, count: int) -> pa.Table:
    """One run of four assets: most images are made, some are refused, fail, or are made again."""
    began = BEGAN + timedelta(hours=part)
    asset = random.integers(0, 4, count) + part % 6 * 4
    # Of an earlier part, now and then: the same image again.
    image = np.where(random.random(count) < 0.01, 0, part) * count + np.arange(count)
    status = random.choice(4, count, p=[0.95, 0.02, 0.02, 0.01])
    tokens = random.integers(200, 4_000, count)
    cents = (tokens * 40_000 + random.integers(0, 40_000, count)) * 10
    made = status == 0
    cost = _money(cents, null=~made)
    seconds = np.sort(random.integers(0, 3_600_000_000, count))
    started = pa.array(int(began.timestamp() * 1e6) + seconds).cast(pa.timestamp("us", tz="UTC"))
    known: dict[str, Any] = {
        "attempt_id": _numbered(f"{began:%Y%m%dT%H%M%S%fZ}-{part:08x}-", np.arange(count)),
        "run_id": f"run-{part}",
        "root_run_id": f"run-{part}",
        "asset_key": _chosen(ASSETS, asset),
        "partition_key": f"{began:%Y-%m-%d}",
        "asset_owners": _chosen([f"team:{number % 5}" for number in range(24)], asset),
        "asset_group": _chosen([f"group_{number % 3}" for number in range(24)], asset),
        "asset_tags": _chosen([f'{{"team": "{number % 5}"}}' for number in range(24)], asset),
        "prompt_id": _numbered("sku-", image),
        "variant": pa.repeat(pa.scalar(0, pa.int32()), count),
        "fingerprint": _fingerprints(image),
        "endpoint_id": "https://images.example/v1",
        "model": _chosen(MODELS, asset % 4),
        "prompt": _numbered("A studio photo of a product on white, number ", image),
        "size": _chosen(SIZES, random.integers(0, 3, count)),
        "quality": _chosen(QUALITIES, random.integers(0, 4, count)),
        "revision": pa.array(np.where(random.random(count) < 0.01, 1, 0)),
        "status": _chosen(["succeeded", "refused", "failed", "unknown"], status),
        "billing": _chosen(["billed", "not_billed", "not_billed", "unknown"], status),
        "request_id": _numbered(f"req_{part}_", np.arange(count)),
        "started_at": started,
        "finished_at": started,
        "answered_quality": _chosen(["low", "medium", "high"], random.integers(0, 3, count)),
        "answered_size": _chosen(SIZES, random.integers(0, 3, count)),
        "input_tokens": pa.array(random.integers(10, 60, count), mask=~made),
        "input_text_tokens": pa.array(random.integers(10, 60, count), mask=~made),
        "output_tokens": pa.array(tokens, mask=~made),
        "total_tokens": pa.array(tokens + 30, mask=~made),
        "cost_usd": cost,
        "cost_usd_max": cost,
        "cost_basis": _chosen(["metered", "estimated", "estimated", "unknown"], status),
        "price_source": "https://images.example/prices",
    }
    arrays = [_column(known.get(field.name), field.type, count) for field in SCHEMA]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def _column(values: Any, kind: pa.DataType, count: int) -> Any:
    if values is None or isinstance(values, str):
        return pa.repeat(pa.scalar(values, kind), count)
    return values.cast(kind)


def _chosen(names: list[str], numbers: Any) -> Any:
    return pa.array(names).take(pa.array(numbers))


def _numbered(text: str, numbers: Any) -> Any:
    return compute.binary_join_element_wise(text, pa.array(numbers).cast(pa.string()), "")


def _fingerprints(image: Any) -> Any:
    """64 hexadecimal digits, without order, of which one image always has the same."""
    mixed = (image.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    words = np.stack([mixed, mixed ^ np.uint64(0x5BD1E995), ~mixed, mixed * np.uint64(3)], axis=1)
    text = np.ascontiguousarray(words.astype(">u8")).tobytes().hex()
    offsets = pa.array(np.arange(len(image) + 1, dtype=np.int32) * 64)
    return pa.StringArray.from_buffers(
        len(image), offsets.buffers()[1], pa.py_buffer(text.encode())
    )


def _money(units: Any, *, null: Any) -> Any:
    """Ten-billionths of a dollar as amounts."""
    return compute.multiply(
        pa.array(units, mask=null).cast(pa.decimal128(20, 0)), pa.scalar(Decimal("1e-10"))
    ).cast(MONEY, safe=False)


# -- read ------------------------------------------------------------------------------------------


def bill(folder: Path, *, waste: bool = False) -> object:
    """The cost table, with or without what was made again or replaced."""
    from dagster_imagegen.audit.cost_table import cost_table  # noqa: PLC0415

    return _scanned(folder, lambda usage: cost_table(usage, finds_superseded=waste))


def duckdb(folder: Path, *, waste: bool = False) -> object:
    """DuckDB's sums of the same columns by the same columns, of the same files.

    With `waste` also by whether an image was bought again, or its row has a higher revision.
    """
    import duckdb  # noqa: PLC0415

    files = f"read_parquet('{folder}/usage/*/*.parquet')"
    superseded = f"""
        with made as (from {files} where status = 'succeeded'),
        last as (
            select fingerprint, max((started_at, attempt_id)) as latest from made group by all),
        newest as (
            select asset_key, partition_key, prompt_id, variant, max(revision) as revision
            from made group by all having max(revision) > 0),
        superseded as (
            select attempt_id, 'replaced' as superseded from made join newest
            using (asset_key, partition_key, prompt_id, variant)
            where coalesce(made.revision, 0) < newest.revision
            union select attempt_id, 'retried' from made join last using (fingerprint)
            where (started_at, attempt_id) < latest)
    """  # noqa: S608  # no text of anybody else's
    return duckdb.sql(f"""{superseded if waste else ""}
        select cast(started_at as date) as day, endpoint_id, asset_key, partition_key, asset_group,
               asset_owners, asset_tags, model, quality, size, status, answered_quality,
               answered_size, cost_basis, {"superseded," if waste else ""}
               count(*), count(*) filter (where cost_usd is null), sum(input_tokens),
               sum(output_tokens), sum(total_tokens), sum(cost_usd),
               sum(coalesce(cost_usd_max, cost_usd))
        from {files} {"left join superseded using (attempt_id)" if waste else ""} group by all
    """).fetchall()  # noqa: S608  # no text of anybody else's


def prices(folder: Path) -> object:
    """`usage --prices`: each request at the prices of the list."""
    from dagster_imagegen.audit.repriced_costs import repriced_costs  # noqa: PLC0415
    from dagster_imagegen.audit.repricing import reprice  # noqa: PLC0415
    from dagster_imagegen.engine.money.price_list import PriceList  # noqa: PLC0415

    listed, by = PriceList.default(), ["asset_key", "model"]
    return _scanned(folder, lambda usage: repriced_costs(reprice(usage, listed), by=by))


def focus(folder: Path) -> object:
    """`usage --focus`: each request as one row."""
    from dagster_imagegen.audit.focus import write_focus  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as output:
        target = Path(output) / "focus.parquet"
        return _scanned(folder, lambda usage: write_focus(usage, target))


def reconcile(folder: Path) -> object:
    """`reconcile` with an export that has every day and nothing charged on it."""
    from dagster_imagegen.audit.provider_export import FIGURES, ProviderExport  # noqa: PLC0415
    from dagster_imagegen.audit.reconciliation import reconcile  # noqa: PLC0415

    days = [date(2026, 1, 1) + timedelta(days=number) for number in range(30)]
    nothing = {figure: Decimal(0) for figure in FIGURES}
    export = ProviderExport(
        name="export",
        groups={(day, model): dict(nothing) for day in days for model in MODELS},
        figures=tuple(FIGURES),
    )
    return _scanned(folder, lambda usage: reconcile(usage, export))


def _scanned(folder: Path, scan: Callable[["ds.Dataset"], object]) -> object:
    """As the command line and the assets scan it: through the engine and fsspec."""
    from dagster_imagegen.engine.engine import Engine  # noqa: PLC0415
    from dagster_imagegen.engine.settings import Settings  # noqa: PLC0415

    settings = Settings(
        base_url="http://127.0.0.1:9/v1",
        endpoint_id="bench",
        model="gpt-image-1",
        storage_uri=str(folder),
    )
    with Engine(settings) as engine:
        return engine.usage.scan(scan)


READERS: Mapping[str, Callable[[Path], object]] = {
    "bill": bill,
    "waste": lambda folder: bill(folder, waste=True),
    "duckdb": duckdb,
    "duckdb_waste": lambda folder: duckdb(folder, waste=True),
    "prices": prices,
    "focus": focus,
    "reconcile": reconcile,
}


def measured(work: Callable[[Path], object], folder: Path) -> dict[str, float]:
    """What it takes, with the imports that it needs."""
    began = time.perf_counter()
    work(folder)
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "seconds": time.perf_counter() - began,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_rss_mb": used.ru_maxrss / 1024,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["make", *READERS])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=0)
    parser.add_argument("--parts", type=int, default=1)
    given = parser.parse_args()
    found: dict[str, float] = {}
    if given.what == "make":
        make(given.folder, given.rows, given.parts)
    else:
        found = measured(READERS[given.what], given.folder)
    sys.stdout.write(f"\n{json.dumps(found)}\n")
