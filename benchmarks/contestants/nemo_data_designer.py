"""NeMo Data Designer: one column of prompts, one of images."""

import data_designer.config as dd
import pandas as pd
from data_designer.interface import DataDesigner
from measure import Job, run


def make(job: Job) -> None:
    """All images, so many at a time, as its tutorial of image generation does it."""
    provider = dd.ModelProvider(
        name="bench", endpoint=job.base_url, provider_type="openai", api_key="bench"
    )
    model = dd.ModelConfig(
        alias="images",
        model="gpt-image-1-mini",
        provider="bench",
        inference_parameters=dd.ImageInferenceParams(
            max_parallel_requests=job.in_flight, extra_body={"quality": "low"}
        ),
        skip_health_check=True,
    )
    designer = DataDesigner(model_providers=[provider], artifact_path=job.folder)
    builder = dd.DataDesignerConfigBuilder(model_configs=[model])
    seed = pd.DataFrame({"prompt": job.prompts})
    builder.with_seed_dataset(dd.DataFrameSeedSource(df=seed))
    builder.add_column(
        dd.ImageColumnConfig(name="image", prompt="{{ prompt }}", model_alias="images")
    )
    designer.create(builder, num_records=job.images, dataset_name="bench")


if __name__ == "__main__":
    run(make)
