"""Where the images come from: sandboxes of the tests, which count their requests."""

from pathlib import Path

import dagster as dg

from dagster_imagegen import ImageGenResource


def imagegen(variable: str) -> ImageGenResource:
    return ImageGenResource(
        base_url=dg.EnvVar(variable),
        model="openai-gpt-image-1",
        # In the folder in which `dg dev` was started. Absolute, because the sandboxes have prices.
        storage_uri=str(Path("output").absolute()),
        max_concurrency=2,
    )


@dg.definitions
def resources() -> dg.Definitions:
    return dg.Definitions(
        resources={
            "imagegen": imagegen("SHOP_SANDBOX"),
            "slow_imagegen": imagegen("SHOP_SLOW_SANDBOX"),
        },
        # One process for all steps: starting one for each would take longer than their work.
        executor=dg.in_process_executor,
    )
