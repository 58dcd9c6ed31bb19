"""What the README and the docs say is so: code is run, commands, links and tables are checked."""

import importlib.metadata
import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import dagster as dg
import pytest
import yaml
from dagster.components.testing import create_defs_folder_sandbox

from dagster_imagegen import ImageGenComponent
from dagster_imagegen.definition import OUR_ARGUMENTS
from dagster_imagegen.run_config import ImageRunConfig
from dagster_imagegen.sandbox import Sandbox
from dagster_imagegen.sandbox.faults import KINDS
from tests.generated_docs import SECTIONS, sections_of, with_section
from tests.pages import BROUGHT_BY_THE_READER, PAGES, README, ROOT, Page

PACKAGE = ROOT / "dagster_imagegen"
LINES_MAX = 200
DIALECT = (
    "purse|shelf|set aside|doubtful|come by|came by|anew|go before|is told|of yours|books|"
    "hero_usage"
)
"""Words that the project once had for its own ideas, and that readers stumbled over."""

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
SECTIONS_OF_PAGES = [(page, name) for page in PAGES for name in sections_of(page.text)]


def page(name: str) -> Page:
    return Page(f"docs/{name}.md")


# -- every page ------------------------------------------------------------------------------------


@each_page
def test_a_page_is_short(page: Page) -> None:
    """Nobody reads more in one go."""
    assert len(page.text.splitlines()) <= LINES_MAX


@each_page
@pytest.mark.filterwarnings("ignore::dagster.BetaWarning")  # Dagster's own, of backfill_policy.
def test_its_code_runs(
    page: Page,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """All of it, in order, in one session, and it prints what the page shows.

    Definitions and assets without upstream are materialized.
    """
    monkeypatch.chdir(tmp_path)
    session: dict[str, Any] = {"__name__": "page"}
    with dg.DagsterInstance.ephemeral() as instance:
        for number, block in enumerate(page.blocks):
            if block.language != "python":
                continue
            before = dict(session)
            capsys.readouterr()
            exec(compile(block.code, f"{page.name} block {number}", "exec"), session)
            if block.output is not None:
                assert capsys.readouterr().out == block.output
            new = {name: each for name, each in session.items() if before.get(name) is not each}
            _use(new, session, instance=instance)


def _use(new: dict[str, Any], session: dict[str, Any], *, instance: dg.DagsterInstance) -> None:
    """Do with what a block defined what its reader would do with it."""
    defs = session.get("defs")
    for each in new.values():
        if isinstance(each, dg.Definitions):
            job = each.resolve_implicit_global_asset_job_def()
            assert job.execute_in_process(instance=instance).success
        elif isinstance(each, dg.AssetsDefinition) and "defs" not in new and defs is not None:
            if each.dependency_keys:
                continue
            result = dg.materialize([each], resources=defs.resources, instance=instance)
            assert result.success


@pytest.mark.parametrize("name", ["sandbox", "testing"])
def test_the_tests_that_it_shows_pass(name: str, tmp_path: Path) -> None:
    """The page is a test file, which pytest runs."""
    code = page(name).code("python")
    (tmp_path / "test_page.py").write_text("\n".join(code))
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    tests = sum(block.count("\ndef test_") for block in code)
    assert tests >= 2
    assert f"{tests} passed" in done.stdout, done.stdout


@each_page
def test_its_programs_and_files_are_there(page: Page) -> None:
    """What its commands start is installed, and the files and folders that they name exist."""
    for words in page.commands():
        rest = [word for word in words if not word.startswith("-")]
        for place in (ROOT / rest[2] if "--directory" in words else ROOT,):
            assert (place / "pyproject.toml").is_file()
        program = rest[0].split("/")[-1]
        if rest[1:2] == ["run"]:
            program = rest[3] if "--directory" in words else rest[2]
        if program not in BROUGHT_BY_THE_READER:
            assert shutil.which(program, path=str(Path(sys.executable).parent)), program
        named = [word for word in rest if word.startswith(("tests/", "docs/"))]
        assert [word for word in named if not (ROOT / word).exists()] == []


@each_page
def test_its_links_lead_somewhere(page: Page) -> None:
    """Those to files of this repository."""
    links = re.findall(r'\]\(([^)#]+)[^)]*\)|src="([^"]+)"', page.prose)
    paths = [path for pair in links for path in pair if path and "://" not in path]
    assert [path for path in paths if not (page.path.parent / path).exists()] == []


@each_page
def test_its_run_config_exists(page: Page) -> None:
    """Fields that are no field of the run config would be errors in the Launchpad."""
    for code in page.code("yaml"):
        for op in yaml.safe_load(code).get("ops", {}).values():
            assert set(op["config"]) <= set(ImageRunConfig.model_fields)
            ImageRunConfig(**op["config"])


# Dagster's own: its reading of YAML, and what it calls beta.
@pytest.mark.filterwarnings("ignore:`parse_obj_as` is deprecated")
@pytest.mark.filterwarnings("ignore::dagster.BetaWarning")
@each_page
def test_its_components_load(page: Page) -> None:
    """All that it shows in YAML, in one project with the upstream asset that they name."""
    shown = [code for code in page.code("yaml") if code.startswith("type: ")]
    upstream = dg.Definitions(assets=[dg.AssetSpec("products")])
    with create_defs_folder_sandbox() as folder:
        for number, code in enumerate(shown):
            path = folder.defs_folder_path / f"component_{number}"
            path.mkdir()
            (path / "defs.yaml").write_text(code)
        if shown:
            with folder.build_all_defs() as defs:
                dg.Definitions.validate_loadable(dg.Definitions.merge(defs, upstream))


def test_components_names_every_attribute() -> None:
    """Of the image asset, and no other."""
    section = page("components").section("The image asset")
    rows = re.findall(r"^\| (`[^|]+) \|", section, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert named >= set(ImageGenComponent.model().model_fields) - set(OUR_ARGUMENTS)
    assert named <= set(ImageGenComponent.model().model_fields)


@each_page
def test_its_words_are_common(page: Page) -> None:
    """One term for one thing, the field's where it has one."""
    assert re.findall(rf"\b({DIALECT})\b", page.text, re.IGNORECASE) == []


@pytest.mark.parametrize(
    ("page", "name"), SECTIONS_OF_PAGES, ids=[name for _, name in SECTIONS_OF_PAGES]
)
def test_a_generated_table_is_up_to_date(page: Page, name: str) -> None:
    """If this fails, run: uv run python tests/generated_docs.py"""
    assert sections_of(page.text)[name] == sections_of(with_section(page.text, name))[name]


def test_every_generated_table_is_in_a_page() -> None:
    """Once."""
    assert sorted(name for _, name in SECTIONS_OF_PAGES) == sorted(SECTIONS)


def test_the_readme_leads_to_every_page() -> None:
    """Nothing is written that nobody finds."""
    docs = [page.name for page in PAGES if page.name.startswith("docs/")]
    assert [name for name in docs if f"]({name})" not in README.text] == []


def test_the_extras_exist() -> None:
    """Those that are to be installed."""
    text = "".join(page.text for page in PAGES)
    extras = set(re.findall(r"(?:'\.|`)\[(\w+)\]", text))
    assert extras == {"s3", "gcs", "azure", "sandbox"}
    metadata = importlib.metadata.metadata("dagster-imagegen")
    assert extras <= set(metadata.get_all("Provides-Extra") or [])


# -- one page --------------------------------------------------------------------------------------


def test_settings_names_every_argument_of_ours() -> None:
    """Those of `image_asset` that are neither the request's nor `dg.asset`'s, and no others."""
    section = page("settings").section("The asset")
    assert sorted(re.findall(r"^\| `(\w+)`", section, re.MULTILINE)) == sorted(OUR_ARGUMENTS)


def test_failures_explains_every_status() -> None:
    """Of an image."""
    from dagster_imagegen.engine.attempt import OutcomeStatus

    section = page("failures-and-retries").section("What becomes of an image")
    assert [each for each in get_args(OutcomeStatus) if f"`{each}`" not in section] == []


def test_costs_explains_every_basis() -> None:
    """And names none that there is not."""
    from dagster_imagegen.engine.attempt import CostBasis

    section = page("costs-and-budgets").section("Where a cost comes from")
    explained = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert explained == ["cost_basis", *get_args(CostBasis)]


def test_sandbox_names_every_argument_and_every_fault() -> None:
    """And no argument that there is not."""
    sandbox = page("sandbox")
    section = sandbox.section("Arguments of `Sandbox`")
    named = {
        name
        for row in re.findall(r"^\| (`[^|]+) \|", section, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", row)
    }
    assert named == set(inspect.signature(Sandbox).parameters)
    faults = re.findall(r"`(\w+)`", sandbox.section("Kinds of failure"))
    assert [kind for kind in KINDS if kind not in faults] == []


def test_the_options_of_serve_exist() -> None:
    """Those that the sandbox's page shows."""
    serve = [w for w in page("sandbox").commands() if w[:2] == ["dagster-imagegen", "serve"]]
    told = subprocess.run(
        [sys.executable, "-m", "dagster_imagegen.cli", "serve", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    options = {word for words in serve for word in words if word.startswith("--")}
    assert len(options) >= 4
    assert [option for option in options if option not in f"{told.stdout} --help"] == []


# -- the architecture ------------------------------------------------------------------------------

ARCHITECTURE = page("architecture")
FILES = re.compile(r"`((?:engine/|sandbox/)?[\w/]*\w\.(?:py|yaml))`")


@pytest.mark.parametrize("name", ["architecture", "contributing"])
def test_the_modules_that_a_page_names_exist(name: str) -> None:
    """By their paths below the package."""
    named = [path for path in FILES.findall(page(name).text) if not path.startswith("tests/")]
    assert len(named) >= 5
    missing = [path for path in named if not (PACKAGE / path).exists()]
    # Beside the file that the sentence is about.
    assert [path for path in missing if not list((ROOT / "tests").rglob(path))] == []


def test_the_tree_of_the_architecture_is_the_package() -> None:
    """Every module and folder of the package stands in it, and nothing else does."""
    tree = next(code for code in ARCHITECTURE.code("text") if code.startswith("dagster_imagegen/"))
    named: set[str] = set()
    folder = ""
    for line in tree.splitlines()[1:]:
        indent = len(line) - len(line.lstrip())
        entries = re.findall(r"\w+(?:\.py|/)", line.lstrip().partition("     ")[0])
        folder = "engine/" if indent > 2 else ""
        named |= {f"{folder}{entry}" for entry in entries}
    there = {
        f"{prefix}{path.name}{'/' if path.is_dir() else ''}"
        for prefix, place in (("", PACKAGE), ("engine/", PACKAGE / "engine"))
        for path in place.iterdir()
        if (path.suffix == ".py" or path.is_dir()) and not path.name.startswith("__")
    }
    assert named == there


def test_a_newcomer_learns_ten_terms_at_most() -> None:
    """The glossary is all that there is to learn."""
    terms = re.findall(r"^\| (?!term|---)", ARCHITECTURE.section("The words"), re.MULTILINE)
    assert 5 <= len(terms) <= 10


def test_the_walk_of_a_row_enters_no_file_more_than_twice() -> None:
    """The code goes one way."""
    steps = re.findall(r"^\d+\..*?(?=^\d+\.|\Z|^$)", _walk(), re.DOTALL | re.MULTILINE)
    files = [path for step in steps for path in FILES.findall(step)]
    assert len(steps) >= 10
    assert [path for path in files if files.count(path) > 2] == []


def _walk() -> str:
    return ARCHITECTURE.section("One prompt row, file by file")
