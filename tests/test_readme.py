"""What the README says is so: its code is run, its commands, links and tables are checked."""

import importlib.metadata
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import dagster as dg
import pyarrow.dataset as ds
import pytest

from dagster_imagegen import ImageGenResource
from dagster_imagegen.engine.record.schema import SCHEMA
from dagster_imagegen.engine.request import ImageParams
from dagster_imagegen.sandbox import Sandbox

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PICTURES = ROOT / "example_project/src/example_project/defs/pictures.py"
SETTINGS = re.compile(r"<!-- settings: .*? -->\n(.*?)<!-- end of settings -->", re.DOTALL)
BROUGHT_BY_THE_READER = {"pip", "pipx", "brew", "winget", "python3", "uv"}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def commands() -> Iterator[list[str]]:
    """Every command of the README, in blocks and in the text, as its words."""
    text = re.sub(r"^```.*?^```$", "", README, flags=re.DOTALL | re.MULTILINE)
    programs = (*BROUGHT_BY_THE_READER, "dg", "dagster-imagegen")
    inline = list(re.findall(r"`([^`\n]+ [^`\n]+)`", text))
    for line in "".join(blocks("sh")).splitlines() + inline:
        for part in line.split("&&"):
            words = shlex.split(part) if part.split()[0].split("/")[-1] in programs else []
            if words:
                yield words


def test_its_code_runs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    imagegen_sandbox: Sandbox,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """All of it, in order, in one session; assets are materialized, tests are called."""
    monkeypatch.chdir(tmp_path)
    session: dict[str, Any] = {"__name__": "readme"}
    with dg.DagsterInstance.ephemeral() as instance:
        for number, block in enumerate(blocks("python")):
            exec(compile(block, f"README block {number}", "exec"), session)
            if "defs = " in block:
                job = session["defs"].resolve_implicit_global_asset_job_def()
                assert job.execute_in_process(instance=instance).success
            if "def banner" in block:
                resources = session["defs"].resources
                assert dg.materialize([session["banner"]], resources=resources).success
            if "def test_" in block:
                session["test_a_refused_prompt_is_one_row"](imagegen_sandbox, tmp_path / "store")
    assert ds.dataset("output/usage").count_rows() == 3
    assert "1536 1024 0" in capsys.readouterr().out


def test_the_hero_it_shows_is_the_example_s() -> None:
    """To the letter."""
    (shown,) = (block for block in blocks("python") if "build_image_asset(" in block)
    assert shown.partition("\n\n")[2] in PICTURES.read_text()


def test_its_programs_are_installed() -> None:
    """What `uv run` starts is there, in the folders that are named."""
    started = 0
    for words in commands():
        program = words[0].split("/")[-1]
        if words[1:2] == ["run"]:
            rest = words[2:]
            if rest[0] == "--directory":
                assert (ROOT / rest[1] / "pyproject.toml").is_file()
                rest = rest[2:]
            program = rest[0]
        if program not in BROUGHT_BY_THE_READER:
            assert shutil.which(program, path=str(Path(sys.executable).parent)), program
            started += 1
    assert started >= 4


def test_the_options_of_its_commands_exist() -> None:
    """Those of `dagster-imagegen serve`, and the extras that are to be installed."""
    (serve,) = (words for words in commands() if words[:2] == ["dagster-imagegen", "serve"])
    told = subprocess.run(
        [sys.executable, "-m", "dagster_imagegen.cli", "serve", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert [word for word in serve if word.startswith("--") and word not in told.stdout] == []
    extras = set(re.findall(r"(?:'\.|`)\[(\w+)\]", README))
    assert extras == {"s3", "gcs", "azure", "sandbox"}
    metadata = importlib.metadata.metadata("dagster-imagegen")
    assert extras <= set(metadata.get_all("Provides-Extra") or [])


def test_its_links_lead_somewhere() -> None:
    """Those to files of this repository."""
    links = re.findall(r'\]\(([^)]+)\)|src="([^"]+)"', README)
    paths = [path for pair in links for path in pair if path and "://" not in path]
    assert len(paths) >= 5
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_modules_of_its_architecture_exist() -> None:
    """Those named by file, wherever below the package."""
    package = ROOT / "dagster_imagegen"
    named = re.findall(r"`([\w/]+\.py|[\w/]+/)`", README.partition("## Architecture")[2])
    there = {path.name for path in package.rglob("*.py")}
    assert len(named) >= 10
    assert [name for name in named if not (package / name).exists() and name not in there] == []


def test_the_usage_rows_it_shows_have_columns_of_the_schema() -> None:
    """Their names are those of the usage table."""
    (rows,) = (block for block in blocks("text") if "prompt_id" in block)
    assert set(rows.splitlines()[0].split()) <= set(SCHEMA.names)


def test_it_names_every_parameter_of_a_request() -> None:
    """None is left out."""
    assert [name for name in ImageParams.__annotations__ if f"`{name}`" not in README] == []


def test_its_settings_table_is_the_resource_s_own() -> None:
    """Names, defaults and descriptions. When this fails, paste what it expected."""
    found = SETTINGS.search(README)
    assert found is not None
    assert found[1] == settings_table()


def settings_table() -> str:
    lines = ["| setting | default | |", "|---|---|---|"]
    lines += settings_rows(ImageGenResource)
    return "\n".join(lines) + "\n"


def settings_rows(model: type[Any], prefix: str = "") -> Iterator[str]:
    """A row for each field; nested settings have rows of their own, below one that can be unset."""
    for name, field in model.model_fields.items():
        default = "required" if field.is_required() else ""
        if not default and field.default_factory is None and field.default is not None:
            default = f"`{field.default}`"
        nested = nested_settings(field.annotation)
        if nested is None or field.default_factory is not nested:
            yield f"| `{prefix}{name}` | {default} | {field.description} |"
        if nested is not None:
            by_name = get_origin(field.annotation) is dict
            yield from settings_rows(nested, f"{prefix}{name}.{'*.' if by_name else ''}")


def nested_settings(annotation: Any) -> type[dg.Config] | None:
    """The class of settings in `Settings`, `Settings | None` or `dict[str, Settings]`."""
    for each in (annotation, *get_args(annotation)):
        if isinstance(each, type) and get_origin(each) is None and issubclass(each, dg.Config):
            return each
    return None
