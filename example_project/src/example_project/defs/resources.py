"""Who makes the pictures, and where everything goes. `.env` decides; see `.env.example`."""

import os
from pathlib import Path

import dagster as dg

from dagster_imagegen import ImageGenResource
from example_project.tables import ParquetTables

OUTPUT = "output"
# Absolute: what is there is not paid for again, wherever Dagster is started.
STORAGE = str(Path(__file__).parents[3] / OUTPUT)
BASE_URL = os.getenv("IMAGEGEN_BASE_URL") or "sandbox"


@dg.definitions
def resources() -> dg.Definitions:
    return dg.Definitions(
        resources={
            "imagegen": ImageGenResource(
                base_url=BASE_URL,
                # The sandbox needs no key. As an EnvVar, it is read when a run starts, and what
                # Dagster stores of it is the variable's name.
                api_key=None if BASE_URL == "sandbox" else dg.EnvVar("IMAGEGEN_API_KEY"),
                model=os.getenv("IMAGEGEN_MODEL") or "openai-gpt-image-1",
                storage_uri=os.getenv("IMAGEGEN_STORAGE_URI") or STORAGE,
                usage_tags=["cost-center"],
            ),
            "io_manager": ParquetTables(folder=f"{OUTPUT}/tables"),
        },
        # All steps in one process: starting one for each would take longer than their work.
        executor=dg.in_process_executor,
    )
