"""This project: `python ours.py generate_many|asset`, its guarantees on."""

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


def asset(job: Job) -> None:
    """A decorated asset, materialized by Dagster on its ephemeral instance."""

    @image_asset(quality="low")
    def pictures() -> list[dict[str, str]]:
        return [{"prompt": prompt} for prompt in job.prompts]

    done = dg.materialize([pictures], resources={"imagegen": resource_for(job)})
    assert done.success  # noqa: S101


def start_dagster() -> None:
    """Materialize an asset of nothing: what Dagster loads for its first run is not per image."""

    @dg.asset
    def nothing() -> None:
        """Nothing."""

    dg.materialize([nothing])


if __name__ == "__main__":
    name = sys.argv.pop(1)
    for module in LOADED_LATE:
        importlib.import_module(module)
    if name == "asset":
        start_dagster()
    run({"generate_many": generate_many, "asset": asset}[name])
