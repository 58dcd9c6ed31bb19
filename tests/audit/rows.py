"""Rows of a usage table, made by hand, as a dataset."""

from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

import pyarrow.dataset as ds

from dagster_imagegen.engine.record.schema import to_table

MODEL = "gpt-image-1"


def row(number: int, **values: Any) -> dict[str, Any]:
    """A billed request of 1,056 output tokens on 2026-11-24; `values` are other columns of it."""
    return {
        "attempt_id": f"journal-{number}",
        "run_id": "run-1",
        "root_run_id": "run-1",
        "asset_key": "shop/hero",
        "partition_key": "2026-11",
        "prompt_id": f"sku-{number}",
        "endpoint_id": "https://images.example/v1",
        "model": MODEL,
        "size": "1024x1024",
        "quality": "medium",
        "attempt": 1,
        "status": "succeeded",
        "billing": "billed",
        "started_at": datetime(2026, 11, 24, 12, tzinfo=timezone.utc),
        "input_tokens": 10,
        "output_tokens": 1056,
        "total_tokens": 1066,
        "cost_usd": Decimal("0.05"),
        "cost_usd_max": Decimal("0.05"),
        "cost_basis": "metered",
        **values,
    }


def usage(*rows: dict[str, Any]) -> ds.Dataset:
    """The rows as a dataset with the usage table's schema."""
    return ds.dataset(to_table(rows))


def unknown(number: int, **values: Any) -> dict[str, Any]:
    """A request that may have been billed, recorded at its worst case of $0.07."""
    lost = {"status": "unknown", "billing": "unknown", "cost_basis": "unknown"}
    counts = dict.fromkeys(("input_tokens", "output_tokens", "total_tokens"))
    worst = {"cost_usd": Decimal("0.07"), "cost_usd_max": Decimal("0.07")}
    return row(number, **{**lost, **counts, **worst, **values})


SANDBOX_ROW = row(99, endpoint_id="sandbox", cost_basis="sandbox", cost_usd=Decimal(0))
