"""The shop of the tests, open in a browser."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest

from dagster_imagegen import ImageGenResource
from dagster_imagegen.sandbox import Sandbox

if TYPE_CHECKING:
    from tests.browser.dagster_ui import DagsterUI

SHOP = Path(__file__).parent / "shop"
SLIDES = 60
SLIDE_SECONDS = 5.0
"""With two at a time, a run of all slides takes two and a half minutes, and can be terminated."""


@dataclass(frozen=True, kw_only=True)
class Shop:
    """The project, in a folder of its own, and the sandboxes that it sends its requests to."""

    ui: "DagsterUI"
    folder: Path
    sandbox: Sandbox
    slow_sandbox: Sandbox

    def usage(self, asset: str) -> pa.Table:
        """The usage rows of an asset."""
        resource = ImageGenResource(
            base_url="http://never.asked/v1", model="any", storage_uri=str(self.folder / "output")
        )
        return resource.usage(asset)

    def add_product(self, row: str) -> None:
        """One more row of the catalogue."""
        with (self.folder / "catalogue.csv").open("a") as file:
            file.write(f"{row}\n")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """The shop in `dg dev` and Chromium, both of which end with the tests.

    Not for the session: while Playwright is open it runs an event loop in this thread, and code of
    other tests that needs one of its own would fail.
    """
    from tests.browser.dagster_ui import browser_tab, dagster_dev

    folder = tmp_path_factory.mktemp("browser")
    project = folder / "shop"
    shutil.copytree(SHOP, project, ignore=shutil.ignore_patterns("__pycache__"))
    with (
        Sandbox(refuse=["forbidden"]) as sandbox,
        Sandbox(latency_seconds=SLIDE_SECONDS, paint=False) as slow_sandbox,
        dagster_dev(
            project,
            folder / "home",
            {
                "SHOP_SANDBOX": sandbox.base_url,
                "SHOP_SLOW_SANDBOX": slow_sandbox.base_url,
                "SHOP_SLIDES": str(SLIDES),
            },
        ) as url,
        browser_tab(url, folder / "profile") as ui,
    ):
        yield Shop(ui=ui, folder=project, sandbox=sandbox, slow_sandbox=slow_sandbox)


@pytest.fixture(autouse=True)
def _screenshot_of_a_failure(shop: Shop, request: pytest.FixtureRequest) -> Iterator[None]:
    """What was to be seen when a test failed, in a file beside the project."""
    failed = request.session.testsfailed
    yield
    if request.session.testsfailed > failed:
        path = shop.folder.parent / f"{request.node.name}.png"
        shop.ui.screenshot(path)
        print(f"screenshot: {path}, page: {shop.ui.page.url}")  # noqa: T201  # for the report
