"""Checks of `hero`. One of them fails, because no picture is so large."""

import dagster as dg

from dagster_imagegen import build_image_checks


@dg.definitions
def checks() -> dg.Definitions:
    return dg.Definitions(asset_checks=build_image_checks("hero", min_width=3000, max_usd=25))
