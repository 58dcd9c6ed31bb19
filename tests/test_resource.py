"""`ImageGenResource`: its settings, its errors before anything is sent, and its own methods."""

import contextlib
import hashlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest

from dagster_imagegen import ImageGenError, ImageGenResource, image_asset
from dagster_imagegen.engine.endpoint.base_url import endpoint_name, request_headers
from dagster_imagegen.engine.endpoint.client import ImageClient
from dagster_imagegen.engine.errors import (
    BudgetExhausted,
    ConfigurationError,
    EndpointUnreachable,
    NoImage,
)
from dagster_imagegen.engine.storage import Storage
from tests.conftest import Project, column

KEY = "sk-live-1234567890abcdef"


def opened(**settings: Any) -> Any:
    """The engine's settings that these settings of the resource come to."""
    given: dict[str, Any] = {
        "base_url": "https://example.com/v1",
        "model": "m",
        "storage_uri": "memory://x",
        **settings,
    }
    with ImageGenResource(**given).open_engine() as engine:
        return engine.settings


def files_in(folder: Path) -> Iterator[Path]:
    """Every file under a folder."""
    return (path for path in folder.rglob("*") if path.is_file())


# -- settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"storag_uri": "x"}, 'did you mean "storage_uri"'),
        ({"retry": {"max_atempts": 2}}, 'did you mean "max_attempts"'),
        ({"prices": {"m": {"usd_per_imag": {}}}}, 'did you mean "usd_per_image"'),
        ({"base_url": "example.com/v1"}, "must be an http(s) URL"),
        ({"base_url": "ftp://example.com"}, "must be an http(s) URL"),
        ({"base_url": "https://user:pass@example.com/v1"}, "set api_key"),
        ({"base_url": "https://example.com:99999/v1"}, "no such port"),
        ({"base_url": ""}, "must be an http(s) URL"),
        ({"model": " "}, "model is empty"),
        ({"storage_uri": ""}, "storage_uri is empty"),
        ({"storage_uri": "s4://bucket"}, "no filesystem serves s4://"),
        ({"storage_uri": "gs://bucket"}, "pip install 'dagster-imagegen[gcs]'"),
        ({"prices": {"m": {"source": "nowhere"}}}, "must have a price"),
        ({"storage_options": {"key": dg.EnvVar("NOT_THERE")}}, "variable 'NOT_THERE' is not set"),
        ({"endpoint_id": "sandbox"}, "sandbox"),
        ({"base_url": "sandbox", "endpoint_id": "mine"}, "sandbox"),
    ],
)  # fmt: skip
def test_a_setting_that_cannot_work_is_an_error(settings: dict[str, Any], told: str) -> None:
    """With the remedy, before anything is sent."""
    with pytest.raises(ConfigurationError) as caught:
        opened(**settings)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"max_concurrency": 0}, "max_concurrency must be at least 1, got 0"),
        ({"timeout_seconds": 0}, "timeout_seconds must be greater than 0, got 0"),
        ({"requests_per_minute": -1}, "requests_per_minute must be greater than 0, got -1"),
        ({"drain_seconds": -1}, "drain_seconds must be at least 0, got -1"),
        ({"retry": {"max_attempts": 0}}, "retry.max_attempts must be at least 1, got 0"),
        ({"budget": {"max_usd": 0}}, "budget.max_usd must be greater than 0, got 0"),
        ({"budget": {}}, "budget.max_usd must be set"),
        ({"budget": {"max_usd": 1, "per": "week"}}, "budget.per must be 'run', 'day'"),
        ({"timeout_seconds": "soon"}, "timeout_seconds must be a number, got 'soon'"),
        ({"max_concurrency": 1.5}, "max_concurrency must be a whole number, got 1.5"),
        ({"record_prompts": "perhaps"}, "record_prompts must be true or false, got 'perhaps'"),
        ({"prices": {"m": {"usd_per_image": {"*": {"*": "x"}}}}},
         "prices: usd_per_image.*.* must be a number, got 'x'"),
        ({"base_url": None}, "base_url must be set"),
    ],
)  # fmt: skip
def test_a_value_that_breaks_a_rule_is_an_error(settings: dict[str, Any], told: str) -> None:
    """With the place, the rule and the value, where it is written."""
    with pytest.raises(ConfigurationError) as caught:
        opened(**settings)
    assert str(caught.value).startswith(told)


def started(**settings: Any) -> None:
    """Begin a pass with these settings, up to where the first request would be sent."""
    given: dict[str, Any] = {"base_url": "https://example.com/v1", "model": "m"}
    given |= {"storage_uri": "memory://x", **settings}
    with ImageGenResource(**given).open_engine() as engine:
        ImageClient(
            base_url=engine.settings.base_url,
            api_key=engine.settings.api_key,
            extra_headers=engine.settings.extra_headers,
        )


@pytest.mark.parametrize(
    "settings",
    [
        {"api_key": {"pasted": KEY}},
        {"api_key": [KEY]},
        {"extra_headers": {"x-key": [KEY]}},
        {"extra_headers": KEY},
        {"extra_headers": {"x-key": f"{KEY}\n{KEY}"}},
        {"storage_options": KEY},
        {"storage_options": [KEY]},
        {"api_key": KEY, "base_url": None},
        {"api_key": KEY, "timeout_seconds": "soon"},
        {"api_key": f"{KEY}\n{KEY}"},
        {"base_url": f"https://example.com:99999/v1?key={KEY}"},
        {"base_url": f"example.com/v1?key={KEY}"},
        {"base_url": f"https://example.com/v1?key=\x00{KEY}"},
        {"base_url": f"https://example.com/v1?key={KEY}", "endpoint_id": "sandbox"},
    ],
)
def test_no_error_of_a_setting_shows_a_secret(settings: dict[str, Any]) -> None:
    """Neither its message nor what Python and Dagster show of where it comes from."""
    with pytest.raises(ConfigurationError) as caught:
        started(**settings)
    error = caught.value
    assert KEY not in "".join(traceback.format_exception(error))


def test_a_line_break_in_the_key_is_named() -> None:
    """A key pasted with one is the usual mistake; where it is helps, and shows none of it."""
    with pytest.raises(ConfigurationError, match="has a line break at position 3 of 5"):
        request_headers("ab\ncd", {})


def test_the_drain_leaves_time_to_publish() -> None:
    """Kubernetes kills 30 s after it has asked to end."""
    assert opened().drain_seconds == 20


def test_the_spill_folder_is_a_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By default it is in the user's state folder, and in the temporary one without a home."""
    assert opened(spill_folder=str(tmp_path)).spill_folder == str(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", "/var/state")
    assert opened().spill_folder == "/var/state/dagster-imagegen/unsaved"
    monkeypatch.delenv("XDG_STATE_HOME")
    code = (
        "import os; from dagster_imagegen.engine.settings import spill_folder\n"
        "os.setuid(54321); print(spill_folder())"
    )
    nobody = {name: each for name, each in os.environ.items() if name != "HOME"}
    if os.getuid() == 0:
        done = subprocess.run(
            [sys.executable, "-c", code], env=nobody, check=True, capture_output=True, text=True
        )
        assert done.stdout.strip() == f"{tempfile.gettempdir()}/dagster-imagegen/unsaved"


def test_a_bad_setting_fails_the_step_before_the_function_runs(project: Project) -> None:
    """And names the asset."""
    called: list[int] = []

    @image_asset
    def pictures() -> list[str]:
        called.append(1)
        return ["one"]

    resource = project.resource(storage_uri="s4://bucket")
    result = project.run(pictures, resources={"imagegen": resource}, fails=True)
    assert project.errors(result)[0].startswith("pictures: storage 's4://bucket'")
    assert called == []


@pytest.mark.parametrize(
    ("given", "one"),
    [
        ("https://Example.com/v1/", "https://example.com/v1"),
        ("HTTPS://example.com:443/v1", "https://example.com/v1"),
        ("http://example.com:80", "http://example.com"),
        ("http://example.com:8080/v1//", "http://example.com:8080/v1"),
        ("http://[::1]:8080/v1", "http://[::1]:8080/v1"),
        ("https://a.azure.com/x/?api-version=1&key=k", "https://a.azure.com/x"),
        (" https://example.com/V1 ", "https://example.com/V1"),
    ],
)
def test_spellings_of_one_address_share_their_images(given: str, one: str) -> None:
    """The base URL is who images belong to unless `endpoint_id` says so."""
    assert endpoint_name(given) == one
    assert opened(base_url=given).endpoint_id == one
    assert opened(base_url=given, endpoint_id="mine").endpoint_id == "mine"


def test_a_slash_at_the_end_of_the_base_url_changes_nothing(project: Project) -> None:
    """Neither where requests go, nor whose images they are."""
    first = project.resource().generate("a mug")
    second = project.resource(base_url=project.sandbox.base_url + "/").generate("a mug")
    assert (first.status, second.status) == ("generated", "reused")
    assert project.sent() == 1


def test_settings_arrive(project: Project) -> None:
    """Headers, body parameters, retries, prices and unrecorded prompts, through a real request."""
    resource = project.resource(
        extra_headers={"x-team": "web"},
        extra_body={"style": "vivid"},
        record_prompts=False,
        usage_uri=str(project.folder / "apart"),
        prices={"openai-gpt-image-1": {"usd_per_image": {"*": {"*": 0.25}}}},
        retry={"max_attempts": 1},
    )
    image = resource.generate("a mug", quality="low")
    (request,) = project.sandbox.requests
    assert request.headers["x-team"] == "web"
    assert (request.body["style"], request.body["quality"]) == ("vivid", "low")
    assert image.cost_usd == Decimal("0.25")
    (row,) = resource.usage().to_pylist()
    assert row["prompt"] is None
    assert row["price_source"] == "prices setting"
    assert (project.folder / "apart" / "usage").is_dir()
    assert not (project.folder / "store" / "usage").exists()


def test_storage_options_take_environment_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a run, where Dagster hands over `{"env": …}`, and outside of one."""
    monkeypatch.setenv("BUCKET_SECRET", "s3cret")
    deep = {"a": 1, "b": {"c": dg.EnvVar("BUCKET_SECRET")}}
    settings = opened(storage_options={"secret": dg.EnvVar("BUCKET_SECRET"), "n": deep})
    resolved = {"secret": "s3cret", "n": {"a": 1, "b": {"c": "s3cret"}}}
    assert settings.storage_options == resolved
    seen: list[Any] = []

    @dg.asset
    def look(imagegen: ImageGenResource) -> None:
        with imagegen.open_engine() as engine:
            seen.append(engine.settings.storage_options)

    resource = ImageGenResource(
        base_url="https://example.com",
        model="m",
        storage_uri="memory://x",
        storage_options={"secret": dg.EnvVar("BUCKET_SECRET"), "n": deep},
    )
    dg.materialize([look], resources={"imagegen": resource})
    assert seen == [resolved]


def test_environment_variables_are_resolved_outside_a_run(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a notebook, where a resource is used as it was written."""
    monkeypatch.setenv("IMAGE_KEY", KEY)
    monkeypatch.setenv("IMAGE_MODEL", "gpt-image-1-mini")
    resource = project.resource(
        api_key=dg.EnvVar("IMAGE_KEY"),
        model=dg.EnvVar("IMAGE_MODEL"),
        extra_headers={"x-key": dg.EnvVar("IMAGE_KEY")},
    )
    resource.generate("a mug")
    (request,) = project.sandbox.requests
    assert request.key_sha256 == hashlib.sha256(KEY.encode()).hexdigest()
    assert request.body["model"] == "gpt-image-1-mini"


ENVIRONMENT = {
    "T": "5", "C": "7", "RPM": "90.5", "ATTEMPTS": "2", "USD": "2.5", "PER": "day", "PRICE": "0.25",
    "TOKENS": "12", "YES": "true", "NO": "false", "K": KEY, "DEEP": "s3cret", "N": "4",
}  # fmt: skip


def with_variables_everywhere() -> dict[str, Any]:
    """Settings in which environment variables stand for values of every kind, however deep."""
    env = dg.EnvVar
    return {
        "timeout_seconds": env("T"),
        "patience_seconds": env.int("T"),
        "max_concurrency": env.int("C"),
        "requests_per_minute": env("RPM"),
        "drain_seconds": env("T"),
        "record_prompts": env("NO"),
        "retry": {"max_attempts": env("ATTEMPTS"), "resend_unknown": env("YES")},
        "budget": {"max_usd": env("USD"), "per": env("PER")},
        "prices": {
            "m": {
                "usd_per_image": {"*": {"*": env("PRICE")}},
                "source": env("PER"),
            },
            "t": {
                "usd_per_million_tokens": {"image_output": env.int("TOKENS")},
                "output_tokens": {"*": {"*": env("N")}},
            },
        },
        "extra_headers": {"x-key": env("K")},
        "extra_body": {"k": env("K"), "steps": env.int("N"), "deep": [{"a": env("DEEP")}]},
        "storage_options": {"k": env("K"), "deep": {"list": [env("DEEP"), env.int("N")]}},
    }


def check_resolved(settings: Any) -> None:
    assert (settings.timeout_seconds, settings.patience_seconds) == (5.0, 5.0)
    assert (settings.max_concurrency, settings.requests_per_minute) == (7, 90.5)
    assert (settings.drain_seconds, settings.record_prompts) == (5.0, False)
    assert (settings.retry.max_attempts, settings.retry.resend_unknown) == (2, True)
    assert (settings.budget.max_usd, settings.budget.per) == (Decimal("2.5"), "day")
    assert settings.prices == {
        "m": {"usd_per_image": {"*": {"*": 0.25}}, "source": "day"},
        "t": {
            "usd_per_million_tokens": {"image_output": 12},
            "output_tokens": {"*": {"*": 4}},
        },
    }
    assert settings.extra_headers == {"x-key": KEY}
    assert settings.extra_body == {"k": KEY, "steps": 4, "deep": [{"a": "s3cret"}]}
    assert settings.storage_options == {"k": KEY, "deep": {"list": ["s3cret", 4]}}


def test_environment_variables_stand_for_every_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same inside a run, materialized or of a job in `Definitions`, as outside of one."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    check_resolved(opened(**with_variables_everywhere()))
    seen: list[Any] = []

    @dg.asset
    def look(imagegen: ImageGenResource) -> None:
        with imagegen.open_engine() as engine:
            seen.append(engine.settings)

    resource = ImageGenResource(
        base_url="https://e.com", model="m", storage_uri="memory://x", **with_variables_everywhere()
    )
    assert dg.materialize([look], resources={"imagegen": resource}).success
    defs = dg.Definitions(
        assets=[look], resources={"imagegen": resource}, jobs=[dg.define_asset_job("all")]
    )
    config = {
        "base_url": "https://e.com",
        "model": "m",
        "storage_uri": "memory://x",
        "extra_body": {"k": {"env": "K"}},
        "timeout_seconds": {"env": "N"},
    }
    launched = {"resources": {"imagegen": {"config": config}}}
    job = defs.resolve_job_def("all")
    assert job.execute_in_process().success
    assert job.execute_in_process(run_config=launched).success
    check_resolved(seen[0])
    check_resolved(seen[1])
    assert (seen[2].timeout_seconds, seen[2].extra_body) == (4.0, {"k": KEY})


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            {"timeout_seconds": dg.EnvVar("GONE")},
            "timeout_seconds: the environment variable 'GONE'",
        ),
        ({"budget": {"max_usd": dg.EnvVar("ZERO")}}, "budget.max_usd must be greater than 0"),
        ({"max_concurrency": dg.EnvVar.int("WORD")}, "'WORD' is not a whole number"),
        ({"max_concurrency": dg.EnvVar("WORD")}, "max_concurrency must be a whole number"),
        ({"extra_body": {"a": [dg.EnvVar("GONE")]}}, "extra_body['a'][0]: the environment"),
    ],
)
def test_the_value_of_an_environment_variable_is_checked(
    settings: dict[str, Any], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if it had been written there."""
    monkeypatch.setenv("ZERO", "0")
    monkeypatch.setenv("WORD", "soon")
    with pytest.raises(ConfigurationError) as caught:
        opened(**settings)
    assert told in str(caught.value)


# -- the query of the base URL ---------------------------------------------------------------------


def test_the_query_is_sent_and_shown_nowhere(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither in rows, files, logs and reprs, nor in what an answer repeats of it."""
    caplog.set_level(logging.DEBUG)
    url = f"{project.sandbox.base_url}?api-version=2024-02-01&sig={KEY}"
    resource = project.resource(base_url=url, retry={"max_attempts": 1})
    project.sandbox.script(None, "server_error", "invalid_api_key")
    resource.generate("a mug")
    assert resource.models()
    told = [repr(resource), str(resource)]
    for prompt in ("two", "three"):
        with pytest.raises(ImageGenError) as caught:
            resource.generate(prompt)
        told.append(str(caught.value))
    with resource.open_engine() as engine:
        told.append(repr(engine.settings))
    told.append(str(resource.usage().to_pylist()))
    # Not the sandbox's own log: that is the endpoint's.
    told += [each.getMessage() for each in caplog.records if each.name != "uvicorn.access"]
    told += [path.read_bytes().decode(errors="replace") for path in files_in(project.folder)]
    lines = [line for text in told for line in text.splitlines()]
    for secret in (KEY, "2024-02-01", "api-version"):
        assert [line for line in lines if secret in line] == []


def test_raising_the_version_in_the_query_buys_nothing_again(project: Project) -> None:
    """It is no part of what identifies an image."""
    url = project.sandbox.base_url
    made = [
        project.resource(base_url=f"{url}{query}").generate("a mug").status
        for query in ("?api-version=1", "?api-version=2", "")
    ]
    assert made == ["generated", "reused", "reused"]


@pytest.mark.parametrize("version", [1, 2])
def test_images_of_a_name_with_a_query_are_found(project: Project, version: int) -> None:
    """Version 0.1 made the query a part of `endpoint_id`. It can be raised in the same step."""
    url = project.sandbox.base_url
    before = project.resource(base_url=url, endpoint_id=f"{url}?api-version=1")
    old = before.generate("a mug")
    project.sandbox.script("moderation_blocked")
    with pytest.raises(NoImage):
        before.generate("a forbidden mug")
    now = project.resource(base_url=f"{url}?api-version={version}")
    table = now.generate_many(["a mug", "a forbidden mug", "a mug"])
    assert column(table, "image_status") == ["reused", "refused", "reused"]
    assert table["image_path"][0].as_py() == old.path
    assert project.sent() == 2
    assert now.generate("a new mug").status == "generated"


def test_every_setting_says_what_it_does() -> None:
    """In the Launchpad and in the generated docs."""
    for name, field in ImageGenResource.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name


# -- the key ---------------------------------------------------------------------------------------


def test_the_key_is_in_the_header_and_nowhere_else(
    project: Project, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Not in repr, logs, events, errors, tables or files, whether all goes well or nothing does."""
    monkeypatch.setenv("IMAGE_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    resource = project.resource(
        api_key=dg.EnvVar("IMAGE_KEY"),
        extra_headers={"x-gateway": dg.EnvVar("IMAGE_KEY")},
        retry={"max_attempts": 1},
    )
    seen: list[str] = []

    @image_asset(fail_on=[])
    def pictures(imagegen: ImageGenResource) -> list[str]:
        seen.extend([repr(imagegen), str(imagegen)])
        return ["one", "two"]

    project.sandbox.script(None, "server_error", "invalid_api_key")
    resources = {"imagegen": resource}
    runs = [
        project.run(pictures, resources=resources),
        project.run(image_asset(name="other")(lambda: ["three"]), resources=resources, fails=True),
    ]
    assert project.sandbox.requests[0].key_sent
    for run in runs:
        entries = project.instance.all_logs(run.run_id)
        seen.extend(each.to_json() for each in entries)
        stored = project.instance.get_run_by_id(run.run_id)
        assert stored is not None
        seen.append(json.dumps(stored.run_config))
        seen.append(str(project.instance.get_job_snapshot(stored.job_snapshot_id or "")))
    seen.extend([repr(resource), caplog.text])
    assert not [text for text in seen if KEY in text]
    folders = (project.folder, project.values)
    files = [path for each in folders for path in each.rglob("*") if path.is_file()]
    assert len(files) > 3
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


def test_a_literal_key_is_at_least_not_in_repr() -> None:
    """Dagster keeps it with the job, which the field's description says."""
    resource = ImageGenResource(
        base_url="https://example.com",
        api_key=KEY,
        model="m",
        storage_uri="memory://x",
        storage_options={"secret": KEY},
        extra_headers={"api-key": KEY},
    )
    assert KEY not in repr(resource)
    with resource.open_engine() as engine:
        assert KEY not in repr(engine.settings)


# -- the sandbox -----------------------------------------------------------------------------------


def test_the_sandbox_needs_no_key_and_marks_its_images(project: Project) -> None:
    """A real endpoint on the same storage makes them anew."""
    played = project.resource(base_url="sandbox").generate("a mug", quality="low")
    paid = project.resource().generate("a mug", quality="low")
    assert (played.status, played.cost_basis, played.cost_usd) == ("generated", "sandbox", 0)
    assert (paid.status, paid.cost_basis) == ("generated", "metered")
    assert played.path != paid.path


def test_a_missing_extra_is_named(tmp_path: Path) -> None:
    """What to install, instead of an ImportError."""
    program = (
        "import sys; sys.modules['uvicorn'] = None\n"
        "from dagster_imagegen import ImageGenResource, ImageGenError\n"
        "r = ImageGenResource(base_url='sandbox', model='m', storage_uri='x')\n"
        "try: r.open_engine()\n"
        "except ImageGenError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert "pip install 'dagster-imagegen[sandbox]'" in done.stdout


# -- its own methods -------------------------------------------------------------------------------


def test_generate_gives_one_image_and_records_it(project: Project) -> None:
    """The provider's bytes; the second time from storage, at no cost."""
    resource = project.resource()
    image = resource.generate("a mug", quality="low", asset_key=["shop", "front"])
    again = resource.generate("a mug", quality="low")
    assert project.sent() == 1
    assert image.data == Path(image.uri).read_bytes() == again.data
    assert (image.format, again.status) == ("png", "reused")
    assert image.cost_usd == again.cost_usd
    assert image.cost_usd_max == again.cost_usd_max == image.cost_usd
    assert image.cost_basis == "metered"
    (row,) = (
        resource.usage("shop/front").to_pylist()
        or resource.usage(dg.AssetKey(["shop", "front"])).to_pylist()
    )
    assert row["attempt_id"] == image.attempt_id


def test_generate_in_a_run_is_recorded_as_that_runs(project: Project) -> None:
    """So an op's spend can be found by run."""

    @dg.op
    def draw(imagegen: ImageGenResource) -> str:
        return imagegen.generate("a mug").uri

    @dg.job(resource_defs={"imagegen": project.resource()})
    def drawing() -> None:
        draw()

    result = drawing.execute_in_process(instance=project.instance)
    (row,) = project.resource().usage().to_pylist()
    assert row["run_id"] == row["root_run_id"] == result.run_id


@pytest.mark.parametrize(
    ("fault", "status"), [("moderation_blocked", "refused"), ("gateway_timeout", "unknown")]
)
def test_generate_raises_where_there_is_no_image(project: Project, fault: str, status: str) -> None:
    """With the outcome's status and the answer's own words."""
    project.sandbox.script(fault)
    with pytest.raises(NoImage) as caught:
        project.resource().generate("a mug")
    assert caught.value.status == status
    assert isinstance(caught.value, ImageGenError)


def test_generate_makes_one() -> None:
    """Several variants are a table's."""
    resource = ImageGenResource(base_url="https://example.com", model="m", storage_uri="memory://x")
    with pytest.raises(ConfigurationError, match=r"n must be 1 for generate\(\), got 2; use gen"):
        resource.generate("a mug", n=2)


def test_a_budget_binds_all_calls_outside_a_run(project: Project) -> None:
    """Together, for one resource object; what is there already costs nothing."""
    resource = project.resource(budget={"max_usd": 0.1})
    made = 0
    with contextlib.suppress(BudgetExhausted):
        for number in range(50):
            resource.generate(f"mug {number}", quality="low", size="1024x1024")
            made += 1
    assert 1 < made < 50
    assert 0 < project.sandbox.totals.cost_usd <= Decimal("0.1")
    with pytest.raises(BudgetExhausted):
        resource.generate_many([f"pot {n}" for n in range(20)], quality="low", size="1024x1024")
    assert project.sandbox.totals.cost_usd <= Decimal("0.1")
    assert resource.generate("mug 0", quality="low", size="1024x1024").status == "reused"
    assert len(set(column(resource.usage(), "root_run_id"))) == 1


def test_generate_many_gives_the_image_table(project: Project) -> None:
    """Carried columns, a template, overrides and variants, as in an asset."""
    project.settings = {"max_concurrency": 1}
    project.sandbox.script(None, "moderation_blocked")
    images = project.resource().generate_many(
        pa.table({"name": ["mug", "pot"], "quality": ["low", None]}),
        template="a {name}",
        overrides=["quality"],
        asset_key="shop",
    )
    assert column(images, "name") == ["mug", "pot"]
    assert column(images, "image_status") == ["generated", "refused"]
    assert project.sandbox.requests[0].body["quality"] == "low"
    assert set(column(project.resource().usage("shop"), "asset_key")) == {"shop"}


def test_generate_many_refuses_what_an_asset_refuses_before_it_pays(project: Project) -> None:
    """A column that no image table can carry, and a key that no usage row can hold."""
    text = pa.py_buffer(b"\xff\xfe")
    offsets = pa.py_buffer(b"\x00\x00\x00\x00\x02\x00\x00\x00")
    broken = pa.Array.from_buffers(pa.string(), 1, [None, offsets, text])
    table = pa.table({"prompt": ["a mug"], "deep": broken})
    with pytest.raises(ConfigurationError, match=r'column "deep".* convert it or leave it out'):
        project.resource().generate_many(table)
    number: Any = 7
    with pytest.raises(ConfigurationError, match="partition_key must be text, got int 7"):
        project.resource().generate_many(["a mug"], partition_key=number)
    assert project.sent() == 0


def test_errors_do_not_repeat_what_may_be_a_prompt(project: Project) -> None:
    """Neither of the call's extra_body, nor of the resource's, nor of a template."""
    bodies: list[Any] = [
        {"negative_prompt": "SECRET words", "size": "x"},
        {"negative_prompt": "SECRET words", "bytes": b"SECRET"},
        "SECRET words",
    ]
    for body in bodies:
        with pytest.raises(ConfigurationError) as caught:
            project.resource(record_prompts=False).generate("a mug", extra_body=body)
        assert "extra_body must" in str(caught.value)
        assert "SECRET" not in str(caught.value)
    resource = project.resource(record_prompts=False, extra_body=bodies[0])
    with pytest.raises(ConfigurationError, match='must not contain "size"') as caught:
        resource.generate("a mug")
    assert "SECRET" not in str(caught.value)
    with pytest.raises(ConfigurationError, match='no column "nmae"') as caught:
        project.resource(record_prompts=False).generate_many(
            [{"name": "x"}], template="SECRET words {nmae}"
        )
    assert "SECRET" not in str(caught.value)


def held_by(error: BaseException | None) -> str:
    """All that an error and those behind it hold, also where no traceback shows it."""
    texts: list[str] = []
    while error is not None:
        texts.append(f"{error!r} {vars(error)!r}")
        error = error.__cause__ or error.__context__
    return "\n".join(texts)


def test_no_error_holds_what_a_row_holds(project: Project) -> None:
    """Trackers of errors show the errors behind an error with all their attributes."""
    with pytest.raises(ConfigurationError) as caught:
        project.resource(record_prompts=False).generate_many(
            [{"prompt": "SECRET words", "extra_body": '{"a": SECRET'}], overrides=["extra_body"]
        )
    assert "row 0" in str(caught.value)
    assert "SECRET" not in held_by(caught.value)


def test_no_error_holds_the_query_of_the_address() -> None:
    for url in ("https://a.example/v1?sig=SECRET\x00", "https://[x/v1?sig=SECRET"):
        with pytest.raises(ConfigurationError) as caught:
            ImageGenResource(base_url=url, model="m", storage_uri="memory://x").generate("a mug")
        assert "SECRET" not in held_by(caught.value)


@pytest.mark.parametrize(
    "setting",
    [
        {"base_url": "https://user:SECRET@a.example/v1"},
        {"base_url": "http://127.0.0.1:9/v1#SECRET", "patience_seconds": 0.1},
        {"base_url": "a.example/v1?key=SECRET"},
        {"storage_uri": "abfs://container/shop?sv=2024&sig=SECRET"},
        {"usage_uri": "abfs://container/shop?sig=SECRET"},
        {"base_url": "user:SECRET@a.example/v1"},
        {"base_url": "user:pass?SECRET@a.example/v1"},
        {"base_url": "//user:SECRET@a.example"},
        {"base_url": "https://user:SECRET/word@a.example/v1"},
        {"base_url": "https://user:pass/SECRET@a.example/v1"},
        {"base_url": "https://user:SECRET?word@a.example/v1"},
        {"base_url": "https//user:SECRET@a.example/v1"},
        {"base_url": "a.example:8080/v1?user=a@b&key=SECRET"},
        {"storage_uri": "s3://a.example:9000/s?user=a@b&sig=SECRET"},
        {"storage_uri": "container/s?sig=SECRET"},
        {"storage_uri": "container/s?SECRET"},
        {"storage_uri": "/container/s?sig=SECRET"},
        {"storage_uri": "user:SECRET@a.example/s"},
        {"storage_uri": "//user:SECRET@a.example/s"},
        {"usage_uri": "s3://id:pass/SECRET@bucket/s"},
        {"usage_uri": "s3://id:pass@SECRET@bucket/s"},
        {"extra_headers": {"Authorization: Bearer SECRET": ""}},
    ],
)
def test_a_secret_in_the_wrong_place_is_not_shown(project: Project, setting: Any) -> None:
    """Neither in the repr nor in an error, if there is one."""
    resource = project.resource(**setting)
    assert "SECRET" not in repr(resource)
    with pytest.raises(ImageGenError) as caught:
        resource.generate("a mug")
    assert "SECRET" not in held_by(caught.value)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("/data/a@b/c", None),
        ("/data/a:b@c/d", None),
        ("/data/what?/c#/d", None),
        ("~/a#b", None),
        ("C:\\data\\a@b", None),
        ("C:\\data#1\\b", None),
        ("file:///data/a:b@c", None),
        ("abfs://pictures@shop.dfs.core.windows.net/s", None),
        ("simplecache::abfs://pictures@shop/s", None),
        ("hdfs://user@node:8020/s", None),
        ("https://a.example:8443/v1", None),
        ("https://a.example/ai/run/@cf/v1", None),
        ("https://a.example:8080/@cf/model/v1", None),
        ("hdfs://node:8020/user/a@b", None),
        ("memory://[::1]:8020/a@b", None),
        ("s3://arn:aws:s3:eu-1:123456789012:accesspoint/shop/a@b", None),
        ("my-x://node:8443/a@b", None),
        ("/data/run#1/date=2024", None),
        ("https://a.example:8080/v1?user=a@b&key=SECRET", "https://a.example:8080/v1"),
        ("https://a.example/v1?key=abc@SECRET", "https://a.example/v1"),
        ("https://user:SECRET@a.example/v1?email=a@b&key=SECRET", "https://user:…"),
        ("https://user:SECRET@a.example/v1?a=b", "https://user:…@a.example/v1"),
        ("pictures?a", "pictures"),
    ],
)
def test_an_address_without_a_secret_is_shown(address: str, shown: str | None) -> None:
    """A folder's name may have the characters of a password or a query."""
    resource = ImageGenResource(base_url="https://e.com", model="m", storage_uri=address)
    assert f"storage_uri={(shown or address)!r}" in repr(resource)


def test_a_port_is_no_password() -> None:
    """The @ after it belongs to the path."""
    Storage("memory://node:8020/a@b")


def test_extra_body_is_not_in_repr(project: Project) -> None:
    """It can hold a secret: a token for a callback, say."""
    resource = project.resource(extra_body={"webhook_token": "SECRET"})
    assert "SECRET" not in repr(resource)
    with resource.open_engine() as engine:
        assert "SECRET" not in repr(engine.settings)


def test_open_image_takes_a_path_or_a_uri(project: Project) -> None:
    """As the image table's columns have them."""
    resource = project.resource()
    image = resource.generate("a mug")
    assert resource.open_image(image.path).read() == image.data
    assert resource.open_image(image.uri).read() == image.data
    with pytest.raises(FileNotFoundError):
        resource.open_image("images/aa/none.png")


def test_a_relative_storage_is_below_the_working_directory(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the sandbox; it is told as an absolute path."""
    monkeypatch.chdir(project.folder)
    resource = project.resource(base_url="sandbox", storage_uri="pictures", usage_uri="records")
    image = resource.generate("a mug")
    assert image.uri.startswith(str(project.folder / "pictures" / "images"))
    assert os.path.isabs(image.uri)  # noqa: PTH117  # the string itself is what is tested


@pytest.mark.parametrize("name", ["storage_uri", "usage_uri"])
@pytest.mark.parametrize("relative", ["pictures", "./pictures", "file://pictures"])
def test_a_relative_storage_is_an_error_with_an_endpoint_that_is_paid(
    project: Project, monkeypatch: pytest.MonkeyPatch, name: str, relative: str
) -> None:
    """From another working directory it would be empty, and everything would be bought again."""
    monkeypatch.chdir(project.folder)
    with pytest.raises(ConfigurationError) as caught:
        project.resource(**{name: relative}).generate("a mug")
    absolute = project.folder / "pictures"
    assert str(caught.value).startswith(
        f"{name} must be absolute with a paid endpoint, got {relative!r}; use {str(absolute)!r}, "
        "or s3://…"
    )
    assert project.sent() == 0
    assert not absolute.exists()
    project.resource(**{name: str(absolute)}).generate("a mug")
    assert project.sent() == 1


@pytest.mark.parametrize("name", ["storage_uri", "usage_uri"])
def test_a_key_in_an_address_is_refused_and_not_shown(name: str) -> None:
    """Logs and image tables would show it."""
    given: dict[str, Any] = {"storage_uri": "memory://x", name: f"s3://id:{KEY}@bucket/pictures"}
    resource = ImageGenResource(base_url="https://e.com", model="m", **given)
    assert KEY not in repr(resource)
    with pytest.raises(ConfigurationError, match="set it in storage_options") as caught:
        resource.open_engine()
    assert KEY not in str(caught.value)


def test_the_home_folder_and_addresses_are_absolute(tmp_path: Path) -> None:
    """Whatever comes after them."""
    for uri in ("~/pictures", f"file://{tmp_path}", "memory://x"):
        assert opened(storage_uri=uri).storage_uri == uri


def test_without_prompts_an_image_that_fails_still_says_why(project: Project) -> None:
    """The endpoint's words are dropped; the code stays, and what we say ourselves."""
    resource = project.resource(record_prompts=False, retry={"max_attempts": 1})
    project.sandbox.script("moderation_blocked")
    with pytest.raises(NoImage, match=r"^no image: refused: moderation_blocked$"):
        resource.generate("a mug")
    away = project.resource(
        base_url="http://127.0.0.1:9/v1", record_prompts=False, patience_seconds=0
    )
    with pytest.raises(EndpointUnreachable, match=r"\(unreachable\): 127\.0\.0\.1: .*[Cc]onnect"):
        away.generate("a mug")
