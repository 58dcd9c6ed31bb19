"""The key is in the Authorization header and nowhere else, whatever an endpoint makes of it."""

import base64
import html
import json
import logging
import re
import threading
import traceback
from collections.abc import Callable
from urllib.parse import quote

import dagster as dg
import pytest

from dagster_imagegen import image_asset
from dagster_imagegen.engine.errors import EndpointMisconfigured, NoImage
from dagster_imagegen.sandbox import Sandbox
from tests.conftest import Project
from tests.fire.conftest import Passes
from tests.fire.parrot import Answer, Heard, Parrot, error, files_below, success

KEY = 'sk-live/9"Zq<8&7=abc+0xyz'
OTHER_SECRET = "gateway/5'Yw>6%4==uvw-1rst"

REPEATED: dict[str, Callable[[str], Answer]] = {
    "as it is": lambda said: error(400, message=f"Bad {said}!", code=said, type=said),
    "cut short": lambda said: error(400, message="x" * 475 + said),
    "in a URL": lambda said: error(400, message=f"see https://a.example/?k={quote(said, safe='')}"),
    "in a form": lambda said: error(400, message=f"got {json.dumps({'headers': [said]})}"),
    "in base64": lambda said: error(
        400, message=f"Basic {base64.b64encode(f'me:{said}'.encode()).decode()}"
    ),
    "in a page": lambda said: (502, {}, f"<title>No {html.escape(said)}</title>".encode()),
    "in no format": lambda said: (200, {"content-type": "text/plain"}, said.encode()),
    "in moderation": lambda said: error(
        400,
        code="moderation_blocked",
        moderation_details={"moderation_stage": said, "categories": [said]},
    ),
    "in a success": lambda said: success(revised_prompt=f"a {said}", size=said, quality=said),
    "in a stream": lambda said: (
        200,
        {"content-type": "text/event-stream"},
        b"event: error\ndata: " + json.dumps({"error": {"message": said}}).encode() + b"\n\n",
    ),
}


def given_away(text: str, secret: str) -> bool:
    """Whether the secret can be read from the text, by whoever knows how servers write."""
    spellings = (secret, quote(secret, safe=""), json.dumps(secret)[1:-1], html.escape(secret))
    # Dagster's records are JSON, in which what is JSON already is escaped once more.
    if any(each in text or json.dumps(each)[1:-1] in text for each in spellings):
        return True
    for run in re.findall(r"[A-Za-z0-9+/]{16,}", text):
        for start in range(4):
            part = run[start : start + (len(run) - start) // 4 * 4]
            if secret[3:12].encode() in base64.b64decode(part):
                return True
    return False


def listen_to(name: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hear all that a logger and those below it say, whatever an earlier test made of them.

    Who configures logging (as Dagster does, and Alembic) may disable all loggers that there are.
    """
    for each in [name, *logging.root.manager.loggerDict]:
        if each == name or each.startswith(f"{name}."):
            monkeypatch.setattr(logging.getLogger(each), "disabled", False)
            monkeypatch.setattr(logging.getLogger(each), "propagate", True)
            caplog.set_level(logging.DEBUG, logger=each)


def test_a_key_that_an_endpoint_repeats_gets_nowhere(
    project: Project, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In no log, event, snapshot, table or file, however the answer spells it."""
    monkeypatch.setenv("IMAGE_KEY", KEY)
    monkeypatch.setenv("OTHER_SECRET", OTHER_SECRET)
    caplog.set_level(logging.DEBUG)
    for name in ("dagster_imagegen", "asyncio", "fsspec"):
        listen_to(name, caplog, monkeypatch)

    def repeat(heard: Heard) -> Answer:
        sent = heard.headers["authorization"].removeprefix("Bearer ")
        if heard.prompt.startswith("fine"):  # So that no four failures in a row end the run.
            return success()
        secret = sent if heard.prompt.endswith("key") else heard.headers["x-gateway"]
        if heard.prompt.startswith("stop"):
            return error(401, message=f"Incorrect API key provided: {secret}")
        return REPEATED[heard.prompt.rpartition(",")[0]](secret)

    prompts = [f"{way}, {which}" for way in REPEATED for which in ("key", "other", "fine")]
    prompts = [f"fine, {text}" if text.endswith("fine") else text for text in prompts]

    def asset(*prompts: str) -> dg.AssetsDefinition:
        return image_asset(name="hero")(lambda: list(prompts))

    with Parrot(repeat).serve() as parrot:
        resource = project.resource(
            base_url=parrot.base_url,
            api_key=dg.EnvVar("IMAGE_KEY"),
            extra_headers={"x-gateway": dg.EnvVar("OTHER_SECRET")},
            retry={"max_attempts": 1},
            max_concurrency=1,
        )
        resources = {"imagegen": resource}
        runs = [
            project.run(asset(*prompts), resources=resources, fails=True),
            project.run(asset("stop, key"), resources=resources, fails=True),
            project.run(asset("stop, other"), resources=resources, fails=True),
        ]
        usage = resource.usage()
    assert {heard.headers["authorization"] for heard in parrot.heard} == {f"Bearer {KEY}"}
    assert usage.num_rows == len(prompts) + 2
    texts = {"log": caplog.text, "rows": str(usage.to_pylist()), "resource": repr(resource)}
    assert "/images/generations was answered with HTTP 401" in caplog.text
    for number, run in enumerate(runs):
        for position, entry in enumerate(project.instance.all_logs(run.run_id)):
            texts[f"run {number} event {position}"] = entry.to_json()
        stored = project.instance.get_run_by_id(run.run_id)
        assert stored is not None
        texts[f"run {number} config"] = json.dumps(stored.run_config)
        texts[f"run {number} job"] = repr(
            project.instance.get_job_snapshot(stored.job_snapshot_id or "")
        )
    for path, data in files_below(project.folder).items():
        texts[path] = data.decode("latin-1")
    for secret in (KEY, OTHER_SECRET):
        assert [name for name, text in texts.items() if given_away(text, secret)] == []
    assert sum("***" in text for text in texts.values()) > len(REPEATED)


def test_the_key_is_on_no_disk_while_requests_are_in_flight(
    passes: Passes, sandbox: Sandbox
) -> None:
    """What a kill would leave behind: intents, with every column, and nothing secret in them."""
    arrived, go_on = threading.Semaphore(0), threading.Event()

    def wait(heard: Heard) -> Answer:
        arrived.release()
        go_on.wait(60)
        return success()

    with Parrot(wait).serve() as parrot:
        generation = passes.begin(
            sandbox,
            ["a mug", "a pot"],
            base_url=parrot.base_url,
            api_key=KEY,
            extra_headers={"x-gateway": OTHER_SECRET},
        )
        with generation:
            assert arrived.acquire(timeout=60)
            assert arrived.acquire(timeout=60)
            files = files_below(passes.folder)
            shown = repr(
                [generation, generation.plan, passes.engine(sandbox, api_key=KEY).settings]
            )
            go_on.set()
            for _ in generation:
                pass
    journal = b"".join(data for path, data in files.items() if "_journal/" in path)
    assert journal.count(b'"intent"') == 2
    everything = b"".join([*files.values(), *files_below(passes.folder).values(), shown.encode()])
    for secret in (KEY, OTHER_SECRET):
        assert not given_away(everything.decode("latin-1"), secret)


def test_the_key_is_in_no_traceback(project: Project) -> None:
    """Nor in an error's own words, nor in those of what caused it."""

    def refuse(heard: Heard) -> Answer:
        status = 401 if heard.prompt == "all" else 400
        return error(status, message=heard.headers["authorization"], code="x")

    with Parrot(refuse).serve() as parrot:
        resource = project.resource(base_url=parrot.base_url, api_key=KEY)
        for prompt, kind in (("all", EndpointMisconfigured), ("one", NoImage)):
            with pytest.raises(kind) as caught:
                resource.generate(prompt)
            told = "".join(traceback.format_exception(caught.value)) + repr(vars(caught.value))
            assert "***" in told
            assert not given_away(told, KEY)
