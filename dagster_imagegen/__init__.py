"""Prompt tables to images in Dagster, with every request on record.

The names are loaded on first use, so that the engine, the command line and the sandbox start
without Dagster.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dagster_imagegen.assets import build_image_asset, image_asset
    from dagster_imagegen.definition import ImageAssetDefinition
    from dagster_imagegen.engine.errors import ImageGenError
    from dagster_imagegen.resource import ImageGenResource

__version__ = "0.1.0"

__all__ = [
    "ImageAssetDefinition",
    "ImageGenError",
    "ImageGenResource",
    "build_image_asset",
    "image_asset",
]

_HOMES = {
    "ImageAssetDefinition": "definition",
    "ImageGenError": "engine.errors",
    "ImageGenResource": "resource",
    "build_image_asset": "assets",
    "image_asset": "assets",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
