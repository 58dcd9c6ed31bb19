"""Prompt tables to images in Dagster, with every request on record.

The names are loaded on first use, so that the engine, the command line and the sandbox start
without Dagster.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dagster_imagegen.assets import build_image_asset, image_asset
    from dagster_imagegen.checks import build_image_checks
    from dagster_imagegen.component import ImageGenComponent
    from dagster_imagegen.cost_report import build_cost_report_asset
    from dagster_imagegen.definition import ImageAssetDefinition
    from dagster_imagegen.engine.errors import ImageGenError
    from dagster_imagegen.io_manager import ParquetIOManager
    from dagster_imagegen.ops import build_generate_images_op
    from dagster_imagegen.reconciliation_check import build_reconciliation_check
    from dagster_imagegen.resource import ImageGenResource
    from dagster_imagegen.resource_component import ImageGenResourceComponent
    from dagster_imagegen.sharding import build_sharded_image_asset
    from dagster_imagegen.usage_asset import build_usage_asset
    from dagster_imagegen.usage_component import ImageGenUsageComponent

__version__ = "0.2.0.dev0"

__all__ = [
    "ImageAssetDefinition",
    "ImageGenComponent",
    "ImageGenError",
    "ImageGenResource",
    "ImageGenResourceComponent",
    "ImageGenUsageComponent",
    "ParquetIOManager",
    "build_cost_report_asset",
    "build_generate_images_op",
    "build_image_asset",
    "build_image_checks",
    "build_reconciliation_check",
    "build_sharded_image_asset",
    "build_usage_asset",
    "image_asset",
]

_HOMES = {
    "ImageAssetDefinition": "definition",
    "ImageGenComponent": "component",
    "ImageGenError": "engine.errors",
    "ImageGenResource": "resource",
    "ImageGenResourceComponent": "resource_component",
    "ImageGenUsageComponent": "usage_component",
    "ParquetIOManager": "io_manager",
    "build_cost_report_asset": "cost_report",
    "build_generate_images_op": "ops",
    "build_image_asset": "assets",
    "build_image_checks": "checks",
    "build_reconciliation_check": "reconciliation_check",
    "build_sharded_image_asset": "sharding",
    "build_usage_asset": "usage_asset",
    "image_asset": "assets",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
