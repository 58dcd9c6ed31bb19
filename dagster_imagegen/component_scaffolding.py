"""What `dg scaffold defs` writes for the components: YAML that runs at once, in the sandbox."""

import contextlib
from pathlib import Path
from typing import Any

import dagster as dg
import yaml

IMAGE_ASSET = "dagster_imagegen.ImageGenComponent"
RESOURCE = "dagster_imagegen.ImageGenResourceComponent"
RESOURCE_ATTRIBUTES = {
    "base_url": "sandbox",
    "model": "openai-gpt-image-1",
    "storage_uri": "output",
}
PROMPT_FILE = "prompts.csv"
PROMPTS = "name,colour\nmug,red\ntent,yellow\ncanoe,green\n"


class ImageGenScaffolder(dg.Scaffolder[Any]):
    """Writes an image asset with a small prompt file, and a resource if the project has none."""

    def scaffold(self, request: dg.ScaffoldRequest[Any]) -> None:
        """Write the files. A prompt file that is there stays as it is."""
        folder = request.target_path
        asset = folder.parent.name if request.append else folder.name
        attributes = {
            "asset": {"key": asset},
            "prompt_file": PROMPT_FILE,
            "prompt": "A studio photo of a {colour} {name}, on white",
            "params": {"quality": "low"},
        }
        dg.scaffold_component(request, attributes)
        if request.scaffold_format != "yaml":
            return
        beside = folder.parent if request.append else folder
        if not (beside / PROMPT_FILE).exists():
            (beside / PROMPT_FILE).write_text(PROMPTS)
        if not _has_resource(request.project_root or beside.parent):
            _add_resource(beside.parent / "imagegen")


class ImageGenResourceScaffolder(dg.Scaffolder[Any]):
    """Writes a resource that uses the sandbox."""

    def scaffold(self, request: dg.ScaffoldRequest[Any]) -> None:
        """Write `defs.yaml`."""
        dg.scaffold_component(request, RESOURCE_ATTRIBUTES)


class ImageGenUsageScaffolder(dg.Scaffolder[Any]):
    """Writes a usage asset of the image assets that the project's YAML has."""

    def scaffold(self, request: dg.ScaffoldRequest[Any]) -> None:
        """Write `defs.yaml`."""
        folder = request.target_path.parent if request.append else request.target_path
        keys = _image_assets(request.project_root or folder.parent)
        attributes = {"asset": {"key": folder.name}, "image_assets": keys or ["product_shots"]}
        dg.scaffold_component(request, attributes)


def _image_assets(project: Path) -> list[str]:
    """The keys of the image assets in YAML."""
    keys: list[str] = []
    for path in sorted(_source(project).rglob("*.yaml")):
        with contextlib.suppress(yaml.YAMLError):  # With templates, for example.
            for each in yaml.safe_load_all(path.read_text(errors="ignore")):
                if isinstance(each, dict) and each.get("type") == IMAGE_ASSET:
                    keys.append(each["attributes"]["asset"]["key"])
    return keys


def _source(project: Path) -> Path:
    return project / "src" if (project / "src").is_dir() else project


def _has_resource(project: Path) -> bool:
    """Whether a file of the project names our resource, or the component that makes one."""
    files = (
        each for each in _source(project).rglob("*") if each.suffix in (".py", ".yaml", ".yml")
    )
    return any("ImageGenResource" in each.read_text(errors="ignore") for each in files)


def _add_resource(folder: Path) -> None:
    if not folder.exists():
        folder.mkdir()
        resource = dg.ScaffoldRequest[Any](
            type_name=RESOURCE,
            target_path=folder,
            scaffold_format="yaml",
            project_root=None,
            params=None,
        )
        dg.scaffold_component(resource, RESOURCE_ATTRIBUTES)
