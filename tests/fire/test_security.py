"""What a run must not give away, and what must not get out of its place: clause by clause.

Whole passes and whole Dagster runs, over real HTTP, on real files. Of security there is more:

    tests/fire/test_security_key.py         the key, however an endpoint repeats it
    tests/fire/test_security_network.py     other hosts, TLS, downloads, bodies
    tests/test_resource.py                  the key in a run that fails, reprs, the literal key
    tests/engine/endpoint/test_client.py    the key in one answer, which network an address is in
    tests/test_previews.py                  decompression bombs, captions in markdown
    tests/engine/test_storage.py            paths that leave the storage
    tests/engine/test_request.py            the hard limits, one by one
    tests/engine/endpoint/test_failures.py  prompts in messages that repeat them

Nothing is written for spreadsheets: the tables are Parquet, where a formula is a text.
"""

import html
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import dagster as dg
import pytest
from markdown_it import MarkdownIt

from dagster_imagegen import image_asset
from dagster_imagegen.engine.attempt import Identity
from dagster_imagegen.engine.errors import ConfigurationError
from dagster_imagegen.engine.request import ImageParams
from dagster_imagegen.sandbox import Sandbox
from tests.conftest import Project, materialized
from tests.fire.conftest import Passes
from tests.fire.parrot import Answer, Heard, Parrot, error, files_below, success
from tests.fire.record_checks import rows_in

# -- names -----------------------------------------------------------------------------------------

NAMES = [
    "../../x",
    "../../../../../../../../../tmp/x",
    "/etc/passwd",
    "C:\\x",
    "..\\..\\x",
    "..",
    ".",
    "a/b",
    "x\x00y",
    "~/x",
    "$HOME/x",
    "a\nb",
    "%2e%2e%2fx",
    "x" * 5000,
    "CON",
    "date=2000-01-01",
]


def test_names_stay_inside_the_storage(passes: Passes, sandbox: Sandbox, tmp_path: Path) -> None:
    """Of rows, assets, partitions, runs, columns: they are values in tables, never paths."""
    passes.folder = tmp_path / "deep" / "in" / "here"
    passes.folder.mkdir(parents=True)
    engine = passes.engine(sandbox)
    table = [
        {"prompt_id": name, "prompt": f"{name} mug", f"carried {name}": name} for name in NAMES
    ]
    for name in NAMES:
        identity = Identity(
            run_id=name, root_run_id=name, asset_key=name, partition_key=name, step_key=name
        )
        rows = table if name == NAMES[0] else [{"prompt_id": name, "prompt": f"a pot for {name}"}]
        prompts = engine.read_prompts(rows, params={"user": name[:256], "quality": "low"})
        with engine.generate(prompts, identity=identity) as generation:
            for _ in generation:
                pass
        images = engine.image_table(generation.plan, generation.outcomes)
        assert images["prompt_id"].to_pylist() == [row["prompt_id"] for row in rows]
    rows = rows_in(passes.storage)
    for column in ("prompt_id", "asset_key", "partition_key", "run_id"):
        assert {row[column] for row in rows} == set(NAMES)
    ours = re.compile(
        r"deep/in/here/storage/(images/[0-9a-f]{2}/[0-9a-f]{64}\.[0-9TZ]+-[0-9a-f]+-\d+\.png"
        r"|usage/date=\d{4}-\d\d-\d\d/[0-9TZ]+-[0-9a-f]+\.parquet)"
    )
    index = re.compile(r"deep/in/here/storage/_index/1/[0-9TZ]+-[0-9a-f]+\.(rows|parts)\.parquet")
    files = [path for path in files_below(tmp_path) if not index.fullmatch(path)]
    assert [path for path in files if not ours.fullmatch(path)] == []
    assert len(files) == 3 * len(NAMES) - 1


# -- texts -----------------------------------------------------------------------------------------

ODD_TEXTS = {
    "nul": "a\x00mug",
    "emoji": "🫖👩‍👩‍👧‍👦",  # joined on purpose
    "long": "🫖" * 32_000,
    "lines": "a\r\nmug\u2028on\u2029a\x0btable\x85",
    "direction": "a \u202egum\u202c \u2066mug\u2069",
    "byte order": "\ufeffa mug\ufffe\uffff",
    "quotes": "\"'`\\ =cmd|' /C calc'!A0 ,\t;",
    "formula": '=HYPERLINK("http://a.example","x")',
}


def test_odd_texts_reach_the_endpoint_and_the_usage_row(passes: Passes, sandbox: Sandbox) -> None:
    """To the letter: as prompts, ids and parameters; and in the image table too."""
    rows: list[dict[str, Any]] = [
        {
            "prompt_id": text,
            "prompt": text,
            "carried": text,
            "user": text[:256],
            "extra_body": json.dumps({"note": text, text[:100]: 1}),
        }
        for text in ODD_TEXTS.values()
    ]
    engine = passes.engine(sandbox)
    prompts = engine.read_prompts(rows, params={}, overrides=["user", "extra_body"])
    with engine.generate(prompts, identity=Identity(run_id="r", root_run_id="r")) as generation:
        for _ in generation:
            pass
    sent = {request.body["prompt"]: request.body for request in sandbox.requests}
    recorded = {row["prompt"]: row for row in rows_in(passes.storage)}
    images = engine.image_table(generation.plan, generation.outcomes).to_pylist()
    assert len(sent) == len(recorded) == len(images) == len(rows)
    for given, image in zip(rows, images, strict=True):
        text = given["prompt"]
        assert (sent[text]["user"], sent[text]["note"]) == (given["user"], text)
        row = recorded[text]
        assert (row["prompt_id"], row["user"], row["status"]) == (text, given["user"], "succeeded")
        assert json.loads(row["extra_body"]) == json.loads(given["extra_body"])
        assert (image["prompt"], image["carried"], image["prompt_id"]) == (text, text, text)


@pytest.mark.parametrize(
    ("row", "params"),
    [
        ({"prompt": "a \ud800 mug"}, {}),
        ({"prompt_id": "a \ud800 mug"}, {}),
        ({"carried": "a \ud800 mug"}, {}),
        ({"carried \ud800": "x"}, {}),
        ({"prompt": "x" * 32_001}, {}),
        ({}, {"user": "a \udfff mug"}),
        ({}, {"model": "a \udfff mug"}),
        ({}, {"quality": "a \udfff mug"}),
    ],
)
def test_what_utf8_cannot_carry_is_refused_before_the_intent(
    passes: Passes, sandbox: Sandbox, row: dict[str, str], params: dict[str, str]
) -> None:
    """Nothing is sent, nothing is written, and the error can itself be written anywhere."""
    with pytest.raises(ConfigurationError) as caught:
        passes.run(sandbox, [{"prompt": "a mug", **row}], params=cast("ImageParams", params))
    assert str(caught.value).encode()
    assert sandbox.requests == []
    assert files_below(passes.folder) == {}


def test_a_lone_surrogate_in_the_body_is_sent_and_recorded_as_its_escape(
    passes: Passes, sandbox: Sandbox
) -> None:
    """JSON can carry it as six ASCII characters, and so can Parquet."""
    params: ImageParams = {"extra_body": {"note": "a \ud800 mug"}}
    passes.run(sandbox, ["a mug"], params=params)
    (request,), (row,) = sandbox.requests, rows_in(passes.storage)
    assert request.body["note"] == "a \ud800 mug"
    assert row["extra_body"] == '{"note":"a \\ud800 mug"}'


# -- prompts that are nobody's business ------------------------------------------------------------

SECRET_PROMPT = 'the "Zephyr 9" mug\nof oak & brass, <unannounced>, beside a window; ' + "so " * 300


def test_an_unrecorded_prompt_is_in_nothing_of_ours(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where the endpoint repeats it, whole, cut or escaped: no row, journal, log or event."""
    caplog.set_level(logging.DEBUG)
    ways: list[Callable[[str], Answer]] = [
        lambda said: error(400, message=f"No: {said}"),
        lambda said: error(400, message="x" * 480 + said),
        lambda said: error(400, message=f"Your prompt '{said[:15]}...' was refused", code=said),
        # Between them a success and a refusal: four failures in a row would concern everybody.
        lambda said: success(revised_prompt=said),
        lambda said: error(400, message=json.dumps({"prompt": said})),
        lambda said: error(400, message=f"[input_value='{said[:25]}...{said[40:65]}']"),
        lambda said: error(400, code="moderation_blocked", message=said),
        lambda said: (400, {}, f"<title>{html.escape(said)}</title>".encode()),
    ]
    journals: list[bytes] = []

    def repeat(heard: Heard) -> Answer:
        journals.extend(files_below(project.folder / "store" / "_journal").values())
        return ways[int(heard.prompt[-1])](heard.prompt)

    @image_asset
    def hero() -> list[str]:
        return [f"{SECRET_PROMPT}{number}" for number in range(len(ways))]

    with Parrot(repeat).serve() as parrot:
        resource = project.resource(
            base_url=parrot.base_url, record_prompts=False, max_concurrency=1
        )
        failed = project.run(hero, resources={"imagegen": resource}, fails=True)
        rows = resource.usage().to_pylist()
    texts = [str(rows), caplog.text, *(data.decode() for data in journals)]
    texts += [each.to_json() for each in project.instance.all_logs(failed.run_id)]
    assert len(rows) == len(ways)
    assert all(row["prompt_sha256"] for row in rows)
    assert b'"intent"' in b"".join(journals)
    for told in ("Zephyr", "oak &", "unannounced", "beside a window"):
        assert [text[:400] for text in texts if told in text] == []


# -- prompts that want to be more than text --------------------------------------------------------

INJECTIONS = [
    "<img src=x onerror=alert(1)>",
    "</code></td><script>alert(1)</script>",
    "[x](javascript:alert(1))",
    "![](http://tracker.example/p.gif)",
    "` ![](http://tracker.example/p.gif) `",
    "``` ![](http://tracker.example/p.gif)",
    "a | b | ![](http://tracker.example/p.gif) |",
    "a \\| ![](http://tracker.example/p.gif)",
    "a\n\n# heading\n\n![](http://tracker.example/p.gif)",
    "https://tracker.example/p.gif www.tracker.example",
    "\\` <b>bold</b> \\",
    "\u202e)fig.p/elpmaxe.rekcart//:ptth(][!",
]


def test_prompts_are_inert_in_what_dagster_shows(project: Project) -> None:
    """Markdown of a run's metadata, rendered: our pictures, and captions that are only read."""

    @image_asset(key=["shop", "hero"])
    def hero() -> list[dict[str, str]]:
        return [{"prompt": text, "prompt_id": text, f"column {text}": text} for text in INJECTIONS]

    seen: list[str] = []
    for materialization in materialized(project.run(hero)).values():
        for name, value in materialization.metadata.items():
            assert "tracker" not in name
            if isinstance(value, dg.MarkdownMetadataValue):
                seen.append(name)
                assert_inert(value.value or "")
            elif not isinstance(value, dg.TableSchemaMetadataValue):
                assert "alert" not in str(value)
            else:
                assert_inert(value.schema.columns[0].description or "")
    assert seen == [*(f"imagegen/thumbnail_{number}" for number in (1, 2, 3)), "imagegen/preview"]


def assert_inert(markdown: str) -> None:
    rendered = MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown)
    tags = re.findall(r"<(/?\w+)([^>]*)>", rendered)
    names = {tag.lstrip("/") for tag, _ in tags}
    assert names <= {"table", "thead", "tbody", "tr", "th", "td", "img", "code", "p"}
    picture = r' src="data:image/webp;base64,[A-Za-z0-9+/=]+" alt="images?" /'
    assert all(re.fullmatch(picture, each) for tag, each in tags if tag == "img")
    # What a prompt holds stands in code, where nothing is a link, not even to a linkifier.
    outside = re.sub(r"<code>[^<]*</code>", "", rendered)
    assert not re.search("tracker|alert|script|bold", outside)
    assert "\u202e" not in rendered
