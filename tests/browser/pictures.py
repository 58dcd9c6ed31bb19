"""Make the pictures of the UI in `docs/images/` again, from the example project.

python -m tests.browser.pictures
"""

import shutil
import tempfile
from pathlib import Path

from PIL import Image

from dagster_imagegen.sandbox import Sandbox
from tests.browser.dagster_ui import DagsterUI, browser_tab, dagster_dev

ROOT = Path(__file__).parent.parent.parent
IMAGES = ROOT / "docs" / "images"
COLOURS = 256
LEFT_BEHIND = shutil.ignore_patterns("output", ".dagster", ".env", "__pycache__", ".tmp_*")


def main() -> None:
    with tempfile.TemporaryDirectory() as name, Sandbox() as sandbox:
        folder = Path(name)
        project = folder / "example_project"
        shutil.copytree(ROOT / "example_project", project, ignore=LEFT_BEHIND)
        # As a paid endpoint, so that runs have a cost to plot: that of the price list.
        settings = {"IMAGEGEN_BASE_URL": sandbox.base_url, "IMAGEGEN_API_KEY": "any"}
        with (
            dagster_dev(project, folder / "home", settings) as url,
            browser_tab(url, folder / "profile") as ui,
        ):
            run_three_times(ui, project)
            take_pictures(ui, folder)


def run_three_times(ui: DagsterUI, project: Path) -> None:
    """All products, no new one, and a few that are new."""
    catalogue = project / "src/example_project/defs/catalogue.csv"
    lines = catalogue.read_text().splitlines(keepends=True)
    catalogue.write_text("".join(lines[:-12]))
    assert ui.run("catalogue") == "SUCCESS"
    for _ in range(2):
        assert ui.run("hero") == "SUCCESS"
    catalogue.write_text("".join(lines))
    assert ui.run("catalogue") == "SUCCESS"
    assert ui.run("hero") == "SUCCESS"


def take_pictures(ui: DagsterUI, folder: Path) -> None:
    """Each of what is in view."""
    ui.open_asset("hero")
    ui.pictures_in_view(at_least=2)
    save(ui, folder, "asset_page")
    ui.plotted("imagegen/cost_usd", points=3)
    ui.scroll_to("imagegen/cost_usd")
    save(ui, folder, "plots")
    ui.open_asset("hero", "events")
    ui.show_markdown("imagegen/preview")
    ui.pictures_in_view(at_least=8)
    save(ui, folder, "preview")


def save(ui: DagsterUI, folder: Path, name: str) -> None:
    """As PNG of few colours, which is small and sharp."""
    ui.screenshot(folder / "screen.png")
    with Image.open(folder / "screen.png") as screen:
        few = screen.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
        few.save(IMAGES / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
