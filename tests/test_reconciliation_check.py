"""`build_reconciliation_check` on a usage asset, with what the sandbox was asked for."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_imagegen import ImageGenResource, build_reconciliation_check, build_usage_asset
from dagster_imagegen.sandbox import Sandbox


@pytest.mark.parametrize(("requests", "passed"), [(1, True), (3, False)])
def test_the_check_fails_where_the_export_differs(
    tmp_path: Path, sandbox: Sandbox, requests: int, passed: bool
) -> None:
    """It names the day, the model and both figures."""
    imagegen = ImageGenResource(
        base_url=sandbox.base_url,
        endpoint_id="https://images.example/v1",
        model="gpt-image-1",
        storage_uri=str(tmp_path / "storage"),
    )
    imagegen.generate("a red mug", size="1024x1024", quality="low")
    rows: list[dict[str, Any]] = imagegen.usage().to_pylist()
    day = rows[0]["started_at"].date()
    export = tmp_path / "export.csv"
    export.write_text(f"day,model,requests\n{day},gpt-image-1,{requests}\n")
    usage = build_usage_asset(image_assets=["hero"])
    definitions = [usage, build_reconciliation_check(usage, export=export)]
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(definitions, resources={"imagegen": imagegen}, instance=instance)
    (evaluation,) = result.get_asset_check_evaluations()
    assert evaluation.passed is passed
    shown = str(evaluation.metadata["imagegen/differences"].value)
    assert (f"| {day} | gpt-image-1 | requests | 1 | 3 | different |" in shown) is not passed
