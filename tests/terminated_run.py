"""A run that takes a while, in a process of its own, for a test to terminate.

python -m tests.terminated_run BASE_URL FOLDER [op]
"""

import sys
from pathlib import Path

import dagster as dg

from dagster_imagegen import ImageGenResource, build_generate_images_op, image_asset

ROWS = 30


@image_asset(quality="low")
def hero() -> list[str]:
    return [f"prompt {number}" for number in range(ROWS)]


heroes = build_generate_images_op("heroes", quality="low")


@dg.op
def prompts() -> list[str]:
    return [f"prompt {number}" for number in range(ROWS)]


@dg.job
def drawing() -> None:
    heroes(prompts())


def instance(folder: Path) -> dg.DagsterInstance:
    """The one whose history lies in the folder."""
    (folder / "dagster").mkdir(exist_ok=True)
    return dg.DagsterInstance.local_temp(str(folder / "dagster"))


def resource(base_url: str, folder: Path) -> ImageGenResource:
    """Two requests at a time, so that some rows are left."""
    return ImageGenResource(
        base_url=base_url,
        endpoint_id="https://images.example/v1",
        model="openai-gpt-image-1",
        storage_uri=str(folder / "store"),
        max_concurrency=2,
    )


def main(base_url: str, folder: Path, kind: str = "asset") -> None:
    resources = {"imagegen": resource(base_url, folder)}
    with instance(folder) as history:
        if kind == "op":
            drawing.execute_in_process(instance=history, resources=resources, raise_on_error=False)
        else:
            dg.materialize([hero], instance=history, resources=resources, raise_on_error=False)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
