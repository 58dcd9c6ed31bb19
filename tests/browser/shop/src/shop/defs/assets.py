"""Image assets of every kind that has a page of its own, and what is up and down stream of them."""

import csv
import os
from pathlib import Path
from typing import Any

import dagster as dg

from dagster_imagegen import (
    build_image_asset,
    build_usage_asset,
    image_asset,
)

CATALOGUE = Path("catalogue.csv")
"""In the folder in which `dg dev` was started. The tests add rows to it."""


@dg.asset(group_name="shop", kinds={"csv"})
def catalogue() -> list[dict[str, Any]]:
    """One row for each product."""
    with CATALOGUE.open() as file:
        return list(csv.DictReader(file))


hero = build_image_asset(
    "hero",
    prompt_table="catalogue",
    prompt="a {colour} {product} on a wooden table",
    quality="low",
    size="1536x1024",
    group_name="shop",
    description="A picture of every product in the catalogue.",
)


@image_asset(quality="low", fail_on=["refused"], group_name="shop")
def picky() -> list[dict[str, str]]:
    """A table of which two rows are refused by the sandbox, so that its run fails."""
    return [
        {"prompt_id": name, "prompt": f"a {name}"}
        for name in ("lamp", "forbidden sword", "chair", "forbidden axe")
    ]


@image_asset(quality="low", group_name="shop", resource_key="slow_imagegen")
def slides() -> list[str]:
    """A table that takes so long that its run can be terminated."""
    return [f"slide {number}" for number in range(int(os.environ["SHOP_SLIDES"]))]


usage = build_usage_asset(image_assets=[hero], group_name="shop")
