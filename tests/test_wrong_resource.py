"""Something that is no `ImageGenResource`, under the key where one has to be."""

from typing import Any

import dagster as dg
import pytest

from dagster_imagegen import (
    build_cost_report_asset,
    build_generate_images_op,
    build_image_checks,
    build_reconciliation_check,
    build_sharded_image_asset,
    build_usage_asset,
    image_asset,
)

SAID = (
    "the resource 'imagegen' must be an ImageGenResource, got int; in your Definitions set "
    "resources={'imagegen': ImageGenResource(...)}, or give the definition the key of one as "
    "resource_key"
)
asked: list[str] = []


@image_asset
def hero() -> list[str]:
    asked.append("hero")
    return ["a mug"]


@dg.asset(name="hero")
def plain_hero() -> list[Any]:
    return []


@dg.op
def prompts() -> list[str]:
    return ["a mug"]


@dg.job
def pictures() -> None:
    build_generate_images_op(name="draw")(prompts())


DEFINITIONS: dict[str, dict[str, Any]] = {
    "image_asset": {"assets": [hero]},
    "op": {"jobs": [pictures]},
    "sharded": {"assets": [plain_hero, build_sharded_image_asset("shots", prompt_table="hero")]},
    "usage": {"assets": [plain_hero, build_usage_asset(image_assets=[plain_hero])]},
    "costs": {"assets": [plain_hero, build_cost_report_asset(image_assets=[plain_hero])]},
    "checks": {"assets": [plain_hero], "asset_checks": build_image_checks(plain_hero)},
    "reconciliation": {
        "assets": [plain_hero],
        "asset_checks": [build_reconciliation_check(plain_hero, export="no-such-export.csv")],
    },
}


@pytest.mark.parametrize("name", DEFINITIONS)
def test_a_resource_of_the_wrong_type_is_named(name: str) -> None:
    """With its key and its type, before a function of the user's or a file is asked."""
    everything = dg.Definitions(resources={"imagegen": 7}, **DEFINITIONS[name])
    job = everything.resolve_job_def("pictures" if name == "op" else "__ASSET_JOB")
    with dg.DagsterInstance.ephemeral() as instance:
        ran = job.execute_in_process(instance=instance, raise_on_error=False)
    (failed,) = [event for event in ran.all_events if event.is_step_failure]
    error = failed.step_failure_data.error
    assert error is not None
    assert SAID in error.to_string()
    assert asked == []
