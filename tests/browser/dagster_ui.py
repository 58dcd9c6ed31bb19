"""Dagster's UI for tests: `dg dev` of a project, Debian's Chromium, and what people do in it.

A page of the UI that tests are to open needs a method of `DagsterUI` that opens it and waits until
it is there. Nothing here sleeps: every wait ends when its condition is met.
"""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, expect, sync_playwright

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WIDTH, HEIGHT = 1280, 800
PATIENCE_SECONDS = 300
"""Of every wait. A slow machine that does much else needs more than a minute to start `dg dev`."""

DONE = ("SUCCESS", "FAILURE", "CANCELED")

IN_VIEW = """([width, height]) => [
  ...document.querySelectorAll('img[src^="data:"]')
].filter(each => {
  const box = each.getBoundingClientRect();
  return each.naturalWidth > 0 && box.width > 0 && box.left >= 0 && box.top >= 0
    && box.right <= width && box.bottom <= height;
}).map(each => {
  const box = each.getBoundingClientRect();
  return [Math.round(box.width), Math.round(box.height)];
})"""

# Charts are drawn on canvases. What is drawn is in the properties of the component around one.
PLOTTED = """label => {
  for (const canvas of document.querySelectorAll('canvas')) {
    const key = Object.keys(canvas).find(each => each.startsWith('__reactFiber'));
    for (let fiber = canvas[key]; fiber; fiber = fiber.return) {
      const sets = fiber.memoizedProps?.data?.datasets;
      if (sets?.[0]?.label === label) return sets[0].data.map(each => each.y);
    }
  }
  return null;
}"""

# Grey boxes stand where something is still being loaded.
IS_LOADED = """() => !document.querySelector('[class*="Skeleton_skeleton"]')"""

RUN_STATUS = """async id => {
  const query = `{runOrError(runId: "${id}") {... on Run {status}}}`;
  const answer = await fetch('/graphql', {
    method: 'POST', headers: {'Content-Type': 'application/json'}, body: JSON.stringify({query}),
  });
  return (await answer.json()).data.runOrError.status;
}"""


class DagsterUI:
    """One tab of a browser in which Dagster's UI of one project is open."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url

    def open(self, path: str) -> None:
        """Open a page of the UI by its path."""
        self.page.goto(f"{self.url}{path}")

    def open_graph(self) -> None:
        """The graph of all assets."""
        self.open("/asset-groups")
        expect(self.page.get_by_text("Global asset lineage")).to_be_visible()

    def open_asset(self, name: str, tab: str = "overview") -> None:
        """A tab of an asset's page: overview, events, checks, lineage."""
        self.open(f"/assets/{name}?view={tab}")
        expect(self.page.get_by_role("tab", name=tab.capitalize(), exact=True)).to_be_visible()

    def open_check(self, asset: str, check: str) -> None:
        """The page of an asset check, which shows its latest result."""
        self.open_asset(asset, "checks")
        self.page.get_by_text(check, exact=True).first.click()
        expect(self.page.get_by_text("Evaluation result")).to_be_visible()

    def select_event(self, kind: str) -> None:
        """On the tab of events: the latest of them is of this kind, e.g. "Observed"."""
        expect(self.page.get_by_text(f"{kind} in run")).to_be_visible()

    def sees(self, text: str) -> None:
        """Wait until the page shows this text."""
        expect(self.page.get_by_text(text).first).to_be_visible()

    def sees_cell(self, text: str) -> None:
        """Wait until a table has a cell of exactly this text."""
        expect(self.page.get_by_role("cell", name=text, exact=True).first).to_be_visible()

    def sees_asset(self, name: str) -> None:
        """Wait until a graph or a list shows the asset."""
        expect(self.page.get_by_text(name, exact=True).first).to_be_visible()

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait for what happens outside of the browser."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < deadline, "it did not happen"
            self.page.evaluate("() => new Promise(requestAnimationFrame)")

    def materialize(self, name: str) -> str:
        """Click Materialize on an asset's page. Returns the id of the run that it launched."""
        self.open_asset(name)
        self._click("Materialize")
        expect(self.page.get_by_text("Launched run")).to_be_visible()
        link = self.page.get_by_role("link", name="View", exact=True).get_attribute("href")
        assert link is not None
        return link.split("/runs/")[1]

    def wait_for_run(self, run_id: str, *states: str) -> str:
        """Wait until a run is in one of the states, or done. Returns its status."""
        self.wait_until(lambda: self.page.evaluate(RUN_STATUS, run_id) in (*states, *DONE))
        return self.page.evaluate(RUN_STATUS, run_id)

    def run(self, name: str) -> str:
        """Materialize an asset by clicks and wait for the end. Returns the run's status."""
        return self.wait_for_run(self.materialize(name))

    def terminate(self, run_id: str) -> None:
        """Click Terminate on the page of a run, and confirm it."""
        self.open(f"/runs/{run_id}")
        self._click("Terminate")
        self._click("Terminate 1 run")
        expect(self.page.get_by_text("Do you wish to continue?")).to_be_hidden()

    def pictures_in_view(self, *, at_least: int) -> list[tuple[int, int]]:
        """Width and height of the pictures that are seen whole without scrolling."""
        size = [WIDTH, HEIGHT]
        self.page.wait_for_function(f"size => ({IN_VIEW})(size).length >= {at_least}", arg=size)
        return [(width, height) for width, height in self.page.evaluate(IN_VIEW, size)]

    def plotted(self, label: str, *, points: int) -> list[float]:
        """The values of the plot with this title, once it has as many points; oldest first."""
        self._click("Plots")
        self.page.wait_for_function(f"label => ({PLOTTED})(label)?.length >= {points}", arg=label)
        return self.page.evaluate(PLOTTED, label)

    def metadata(self, key: str) -> str:
        """The text of the entry with this key in the table of metadata that is shown."""
        cell = self.page.get_by_role("cell", name=key, exact=True)
        cell.wait_for()
        # The value has a column before it or after it, by the tab.
        return "\n".join(cell.locator("xpath=following-sibling::td").all_inner_texts())

    def show_markdown(self, key: str) -> None:
        """Click "Show Markdown" of the entry with this key."""
        cell = self.page.get_by_role("cell", name=key, exact=True)
        cell.locator("xpath=following-sibling::td").get_by_text("[Show Markdown]").click()

    def scroll_to(self, text: str) -> None:
        """Scroll until this text is at the top of what is in view."""
        self.page.get_by_text(text, exact=True).first.evaluate("each => each.scrollIntoView()")

    def _click(self, text: str) -> None:
        """Click the button with exactly this text. Its name also has that of its icon."""
        buttons = self.page.get_by_role("button")
        buttons.filter(has_text=re.compile(rf"^\s*{re.escape(text)}\s*$")).first.click()

    def screenshot(self, path: Path) -> None:
        """What is in view, as PNG, once all of the page is there."""
        self.page.wait_for_load_state("networkidle")
        self.page.wait_for_function(IS_LOADED)
        self.page.screenshot(path=path, animations="disabled")


@contextlib.contextmanager
def dagster_dev(project: Path, home: Path, environment: Mapping[str, str]) -> Generator[str]:
    """`dg dev` of a project with a DAGSTER_HOME of its own. Yields its URL, and ends it at last."""
    home.mkdir(parents=True, exist_ok=True)
    (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    # By this file Dagster knows that its greeting has been seen.
    (home / ".nux").mkdir(exist_ok=True)
    (home / ".nux" / "nux.yaml").write_text("seen: 1\n")
    port = _free_port()
    log = home / "dev.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            ["dg", "dev", "--host", "127.0.0.1", "--port", str(port)],
            cwd=project,
            env={
                **os.environ,
                "DAGSTER_HOME": str(home),
                "PYTHONPATH": str(project / "src"),
                "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
                **environment,
            },
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that it can be ended with all its children
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_it_serves(process, url, log)
        yield url
    finally:
        _end(process)


@contextlib.contextmanager
def browser_tab(url: str, profile: Path) -> Generator[DagsterUI]:
    """A tab of a new Chromium with an empty profile."""
    if not Path(CHROMIUM).exists():
        raise FileNotFoundError(f"there is no {CHROMIUM}; install Debian's package chromium")
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            profile,
            executable_path=CHROMIUM,
            headless=True,
            args=ARGUMENTS,
            viewport={"width": WIDTH, "height": HEIGHT},
            timeout=PATIENCE_SECONDS * 1000,
        )
        try:
            context.set_default_timeout(PATIENCE_SECONDS * 1000)
            expect.set_options(timeout=PATIENCE_SECONDS * 1000)
            yield DagsterUI(context.new_page(), url)
        finally:
            context.close()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _wait_until_it_serves(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    """Until the web server answers and has loaded the code. Raises what was logged instead."""
    query = "{workspaceOrError {... on Workspace {locationEntries {loadStatus}}}}"
    body = json.dumps({"query": query}).encode()
    request = urllib.request.Request(
        f"{url}/graphql", data=body, headers={"Content-Type": "application/json"}
    )
    for _ in range(PATIENCE_SECONDS):
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            with urllib.request.urlopen(request, timeout=60) as answer:
                entries: Any = json.load(answer)["data"]["workspaceOrError"]["locationEntries"]
            if entries and all(each["loadStatus"] == "LOADED" for each in entries):
                return
        try:
            process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            continue
        break
    raise RuntimeError(f"dg dev did not start:\n{log.read_text()}")


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Ask all of them to end, as Ctrl-C does; then end whatever is left."""
    os.killpg(process.pid, signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=60)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
