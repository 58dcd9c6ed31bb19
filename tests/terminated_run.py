"""A run that takes a while, in a process of its own, for a test to terminate.

python -m tests.terminated_run BASE_URL FOLDER
"""

import sys
from pathlib import Path

import dagster as dg

from dagster_imagegen import ImageGenResource, image_asset

ROWS = 30


@image_asset(quality="low")
def hero() -> list[str]:
    return [f"prompt {number}" for number in range(ROWS)]


def instance(folder: Path) -> dg.DagsterInstance:
    """The one whose history lies in the folder."""
    (folder / "dagster").mkdir(exist_ok=True)
    return dg.DagsterInstance.local_temp(str(folder / "dagster"))


def main(base_url: str, folder: Path) -> None:
    resource = ImageGenResource(
        base_url=base_url,
        model="openai-gpt-image-1",
        storage_uri=str(folder / "store"),
        max_concurrency=2,
    )
    with instance(folder) as history:
        dg.materialize(
            [hero], instance=history, resources={"imagegen": resource}, raise_on_error=False
        )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
