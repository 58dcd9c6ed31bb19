"""The gallery: a static site in the storage that shows its images, with prompts and costs.

Imports no Dagster.
"""

from dagster_imagegen.gallery.building import BuiltGallery, build_gallery

__all__ = ["BuiltGallery", "build_gallery"]
