"""This project: `python ours.py generate_many|asset`, its guarantees on."""

import functools
import importlib
import sys

import dagster as dg
from measure import Job, run

from dagster_imagegen import ImageGenResource, image_asset

LOADED_LATE = ("pyarrow.dataset", "dagster_imagegen.engine.endpoint.client")
"""What a first call loads. It is no more a part of what is measured than others' imports."""


def resource_for(job: Job) -> ImageGenResource:
    """The resource as a user would write it."""
    return ImageGenResource(
        base_url=job.base_url,
        api_key="bench",
        model="gpt-image-1-mini",
        storage_uri=str(job.folder),
        max_concurrency=job.in_flight,
    )


def generate_many(job: Job) -> None:
    """The call for scripts and for assets of one's own."""
    images = resource_for(job).generate_many(job.prompts, quality="low")
    assert set(images["image_status"].to_pylist()) == {"generated"}  # noqa: S101


def asset(job: Job, instance: dg.DagsterInstance) -> None:
    """A decorated asset, materialized by Dagster in process."""

    @image_asset(quality="low")
    def pictures() -> list[dict[str, str]]:
        return [{"prompt": prompt} for prompt in job.prompts]

    resources = {"imagegen": resource_for(job)}
    done = dg.materialize([pictures], resources=resources, instance=instance)
    assert done.success  # noqa: S101


def start_dagster() -> dg.DagsterInstance:
    """An instance that has materialized an asset of nothing.

    What Dagster loads for its first run, and the making of an ephemeral instance, is not per image.
    """

    @dg.asset
    def nothing() -> None:
        """Nothing."""

    instance = dg.DagsterInstance.ephemeral()
    dg.materialize([nothing], instance=instance)
    return instance


if __name__ == "__main__":
    name = sys.argv.pop(1)
    for module in LOADED_LATE:
        importlib.import_module(module)
    works = {"generate_many": generate_many}
    if name == "asset":
        works[name] = functools.partial(asset, instance=start_dagster())
    run(works[name])
