"""The example project, run for real against the sandbox: by Dagster in this process, and by dg."""

import importlib
import os
import runpy
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dagster_imagegen.sandbox import shared_sandbox

EXAMPLE = Path(__file__).parent.parent / "example_project"
LEFT_BEHIND = shutil.ignore_patterns("output", ".dagster", ".env", "__pycache__", ".tmp_*")
SETTINGS = [
    "IMAGEGEN_BASE_URL",
    "IMAGEGEN_MODEL",
    "IMAGEGEN_API_KEY",
    "IMAGEGEN_STORAGE_URI",
]

DIGITALOCEAN_SIZES = ("auto", "1536x1024", "1024x1536")
"""Those of its public description."""


@dataclass(frozen=True, kw_only=True)
class Shop:
    """The example's definitions, with a catalogue and an output folder of their own."""

    folder: Path
    definitions: dg.Definitions
    instance: dg.DagsterInstance

    @property
    def catalogue(self) -> Path:
        return self.folder / "catalogue.csv"

    def run(self, *selected: str, job: str | None = None) -> dg.ExecuteInProcessResult:
        """Run a job, or materialize these assets, or all."""
        if job is not None:
            return self.definitions.resolve_job_def(job).execute_in_process(instance=self.instance)
        everything = self.definitions.resolve_implicit_global_asset_job_def()
        return everything.execute_in_process(
            instance=self.instance,
            asset_selection=[dg.AssetKey(name) for name in selected] or None,
        )

    def table(self, name: str) -> pa.Table:
        return pq.read_table(self.folder / "output" / "tables" / f"{name}.parquet")

    def usage(self) -> pa.Table:
        return ds.dataset(self.folder / "output" / "usage", format="parquet").to_table()

    def data_version(self) -> str | None:
        event = self.instance.get_latest_materialization_event(dg.AssetKey("hero"))
        assert event is not None
        assert event.asset_materialization is not None
        tags = event.asset_materialization.tags or {}
        return tags["dagster/data_version"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """The whole example, after its first run."""
    folder = tmp_path_factory.mktemp("shop")
    with pytest.MonkeyPatch.context() as patch, dg.DagsterInstance.ephemeral() as instance:
        for name in SETTINGS:
            patch.delenv(name, raising=False)
        patch.setenv("IMAGEGEN_STORAGE_URI", str(folder / "output"))
        patch.chdir(folder)
        patch.syspath_prepend(EXAMPLE / "src")
        definitions = importlib.import_module("example_project.definitions").defs()
        module = importlib.import_module("example_project.defs.catalogue")
        shutil.copy(module.CATALOGUE, folder)
        patch.setattr(module, "CATALOGUE", folder / "catalogue.csv")
        shop = Shop(folder=folder, definitions=definitions, instance=instance)
        assert shop.run().success
        yield shop


def sent() -> int:
    """Requests that the sandbox received since this was last asked."""
    sandbox = shared_sandbox()
    count = len(sandbox.requests)
    sandbox.clear()
    return count


def test_every_product_has_a_picture_of_its_own(shop: Shop) -> None:
    """At least 40 different pictures, in the size that their row or the asset asks for."""
    rows = shop.table("hero").to_pylist()
    assert len(rows) >= 40
    assert len({row["image_sha256"] for row in rows}) == len(rows)
    asked = {row["sku"]: row["size"] for row in shop.table("catalogue").to_pylist()}
    for row in rows:
        size = asked[row["sku"]] or "1536x1024"
        assert size in DIGITALOCEAN_SIZES
        with Image.open(row["image_uri"]) as image:
            assert "x".join(map(str, image.size)) == size
    assert len(set(asked.values())) > 1


def test_the_usage_table_and_the_contact_sheet_are_there(shop: Shop) -> None:
    """One usage row for each picture; one sheet that shows them all."""
    pictures = shop.table("hero").num_rows
    assert shop.usage().num_rows >= pictures
    with Image.open(shop.folder / "output" / "contact_sheet.png") as sheet:
        assert sheet.width == 2000
        assert len(sheet.convert("RGB").getcolors(maxcolors=sheet.width * sheet.height) or []) > 999


def test_a_second_run_sends_nothing(shop: Shop) -> None:
    """It makes the same image table, with the same data version, and the check passes."""
    sent()
    before, version = shop.table("hero"), shop.data_version()
    result = shop.run()
    assert sent() == 0
    assert shop.data_version() == version
    assert shop.table("hero")["image_sha256"] == before["image_sha256"]
    (evaluation,) = result.get_asset_check_evaluations()
    assert evaluation.passed


def test_one_more_product_is_one_request(shop: Shop) -> None:
    """The pictures of the others are not asked for again. A product need not have a price yet."""
    sent()
    with shop.catalogue.open("a") as file:
        file.write("NEW-01,Xenia,bowl,lime,porcelain,on a red background,,,,\n")
    assert shop.run().success
    assert sent() == 1


def test_a_raised_revision_is_one_request_and_keeps_the_old_picture(shop: Shop) -> None:
    """The row is made anew; the file that it had stays where it was."""
    sent()
    (old,) = (row for row in shop.table("hero").to_pylist() if row["sku"] == "MUG-01")
    text = shop.catalogue.read_text()
    shop.catalogue.write_text(text.replace("morning light,14.00,,,", "morning light,14.00,,,1"))
    shop.run()
    (new,) = (row for row in shop.table("hero").to_pylist() if row["sku"] == "MUG-01")
    assert sent() == 1
    assert new["image_path"] != old["image_path"]
    assert Path(old["image_uri"]).is_file()


def test_the_pictures_can_be_run_alone(shop: Shop) -> None:
    """By the job and by the asset's name."""
    assert materialized(shop.run(job="hero_pictures")) == {"hero"}
    assert materialized(shop.run("hero")) == {"hero"}


def materialized(result: dg.ExecuteInProcessResult) -> set[str]:
    """The assets that a run materialized."""
    events = result.get_asset_materialization_events()
    return {event.materialization.asset_key.to_user_string() for event in events}


def test_the_nightly_schedule_waits_to_be_started(shop: Shop) -> None:
    """Nothing runs by itself until someone says so."""
    schedule = shop.definitions.resolve_schedule_def("nightly")
    assert schedule.cron_schedule == "0 2 * * *"
    assert schedule.default_status is dg.DefaultScheduleStatus.STOPPED


@pytest.mark.parametrize(
    ("endpoint", "base_url", "model"),
    [
        ("DigitalOcean", "https://inference.do-ai.run/v1", "openai-gpt-image-1"),
        ("OpenAI", "https://api.openai.com/v1", "gpt-image-2.5-flare"),
    ],
)
def test_three_lines_of_the_env_file_turn_it_to_a_real_endpoint(
    endpoint: str, base_url: str, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address and the model are taken; the key stays the name of its variable."""
    example = (EXAMPLE / ".env.example").read_text()
    block = example.split(f"# {endpoint}\n")[1].split("\n\n")[0]
    lines = [line for line in block.splitlines() if line.startswith("# IMAGEGEN_")]
    assert len(lines) == 3
    monkeypatch.delenv("IMAGEGEN_STORAGE_URI", raising=False)
    for line in lines:
        name, _, value = line.removeprefix("# ").partition("=")
        monkeypatch.setenv(name, value or "sk-secret")
    monkeypatch.syspath_prepend(EXAMPLE / "src")
    loaded = runpy.run_path(str(EXAMPLE / "src/example_project/defs/resources.py"))
    resource = loaded["resources"]().resources["imagegen"]
    assert resource.base_url == base_url
    assert resource.model == model
    assert isinstance(resource.api_key, dg.EnvVar)
    assert "sk-secret" not in repr(resource)
    with resource.open_engine() as engine:  # A storage that a paid endpoint takes.
        assert engine.storage_uri == str(EXAMPLE / "output")


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A copy of the project with four products, and the lines that `dg launch` printed."""
    project = tmp_path_factory.mktemp("clone") / "example_project"
    shutil.copytree(EXAMPLE, project, ignore=LEFT_BEHIND)
    catalogue = project / "src/example_project/defs/catalogue.csv"
    catalogue.write_text("".join(catalogue.read_text().splitlines(keepends=True)[:5]))
    return project, dg_tells(project, "launch", "--assets", "*").splitlines()


def dg_tells(project: Path, *arguments: str) -> str:
    """What a `dg` command prints, which must succeed."""
    environment = {
        **{name: value for name, value in os.environ.items() if name not in SETTINGS},
        "PYTHONPATH": str(project / "src"),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    }
    environment.pop("DAGSTER_HOME", None)
    done = subprocess.run(
        ["dg", *arguments],
        cwd=project,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_dg_lists_and_checks_it_without_a_warning(launched: tuple[Path, list[str]]) -> None:
    """`dg list defs` and `dg check defs`, as a newcomer runs them."""
    project, _ = launched
    listed = dg_tells(project, "list", "defs")
    assert all(name in listed for name in ("catalogue", "hero", "contact_sheet", "nightly"))
    told = listed + dg_tells(project, "check", "defs")
    assert "warning" not in told.lower()


def test_the_last_lines_say_where_all_is_and_what_it_cost(
    launched: tuple[Path, list[str]],
) -> None:
    """Every place named there exists."""
    project, lines = launched
    told = dict(line.strip().split("  ", 1) for line in lines[-5:])
    places = {name: Path(place.strip()) for name, place in told.items() if name != "cost"}
    assert list(told) == ["images", "image table", "usage table", "contact sheet", "cost"]
    assert all(place.exists() and project in place.parents for place in places.values())
    assert len([*places["images"].rglob("*.jpeg")]) == 4
    assert told["cost"].strip().startswith("$0.00 (sandbox;")


def test_the_history_of_the_launch_is_kept_beside_the_project(
    launched: tuple[Path, list[str]],
) -> None:
    """Without DAGSTER_HOME, by the checked-in dagster.yaml; no temporary home is left."""
    project, _ = launched
    with closing(sqlite3.connect(project / ".dagster/history/runs.db")) as runs:
        assert runs.execute("select status from runs").fetchall() == [("SUCCESS",)]
    assert [*project.glob(".tmp_dagster_home_*")] == []
