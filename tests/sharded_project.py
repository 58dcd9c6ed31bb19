"""A project with a sharded image asset, made anew in each process from the same JSON arguments."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import dagster as dg
import pyarrow as pa

from dagster_imagegen import ImageGenResource, build_sharded_image_asset


def prompt(number: int) -> str:
    """The prompt of a row."""
    return f"a mug, {number}."


def job_in_processes(rows: int, shards: int, settings: Mapping[str, Any]) -> dg.JobDefinition:
    """Each step in a process of this machine."""
    return _job(dg.multiprocess_executor, rows, shards, settings)


def job_on_dask(rows: int, shards: int, settings: Mapping[str, Any]) -> dg.JobDefinition:
    """Each step on a worker of a Dask cluster."""
    # By its name, for the types are checked without the dependency group.
    return _job(import_module("dagster_dask").dask_executor, rows, shards, settings)


def _job(
    executor: dg.ExecutorDefinition, rows: int, shards: int, settings: Mapping[str, Any]
) -> dg.JobDefinition:
    @dg.asset
    def products() -> pa.Table:
        return pa.table({"prompt": [prompt(number) for number in range(rows)]})

    shots: Any = build_sharded_image_asset(
        "shots", prompt_table="products", shards=shards, quality="low"
    )
    return dg.Definitions(
        assets=[products, shots],
        jobs=[dg.define_asset_job("job", executor_def=executor)],
        resources={"imagegen": ImageGenResource(**settings)},
    ).resolve_job_def("job")
