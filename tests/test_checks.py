"""`build_image_checks`: asset checks of tables, images and spending, in real runs."""

import hashlib
import inspect
import io
import re
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import dagster as dg
import fsspec
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from PIL import Image

from dagster_imagegen import (
    ImageGenError,
    ImageGenResource,
    ParquetIOManager,
    build_image_checks,
    image_asset,
)
from dagster_imagegen.check_results import ImageChecks, Limits, Window
from dagster_imagegen.checks import IMAGE_COLUMNS
from dagster_imagegen.engine.money.amounts import usd_text
from dagster_imagegen.sandbox import Sandbox, shared_sandbox
from tests.conftest import Project, Store, column, of_rows

DEFAULT = ["images_complete", "images_intact", "spending_known"]
pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """A sandbox that draws pictures of the size that is requested."""
    with Sandbox() as sandbox:
        yield sandbox


PROMPTS = ["a red mug", "a blue bowl", "a yellow tent"]


def hero(prompts: Any = PROMPTS, **arguments: Any) -> dg.AssetsDefinition:
    """An image asset whose pictures are small."""
    return of_rows(prompts, **{"quality": "low", "size": "1024x1024", **arguments})


def results(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    """The check results of a run, by name."""
    return {each.check_name: each for each in result.get_asset_check_evaluations()}


def values(evaluation: dg.AssetCheckEvaluation) -> dict[str, Any]:
    """The values of a result's metadata."""
    return {name: getattr(each, "value", each) for name, each in evaluation.metadata.items()}


def problems(evaluation: dg.AssetCheckEvaluation) -> dict[str, str]:
    """The problem of each row that a result names."""
    rows = [each.data for each in values(evaluation)["imagegen/problems"].records]
    return {str(row["row"]): str(row["problem"]) for row in rows}


def check(
    project: Project, asset: dg.AssetsDefinition | None = None, **arguments: Any
) -> dict[str, dg.AssetCheckEvaluation]:
    """Materialize, then run the checks alone; they send nothing."""
    asset = asset or hero()
    project.run(asset)
    return check_again(project, asset, **arguments)


def check_again(
    project: Project, asset: dg.AssetsDefinition, **arguments: Any
) -> dict[str, dg.AssetCheckEvaluation]:
    """Run the checks alone, on what is stored."""
    project.sent()
    checks = build_image_checks(asset, per=arguments.pop("per", "all"), **arguments)
    selection = dg.AssetSelection.checks(*checks)
    result = project.run(asset, *checks, select=selection)  # pyright: ignore[reportArgumentType]  # it takes any selection
    assert project.sent() == 0
    return results(result)


def images(project: Project) -> list[Path]:
    """The stored images."""
    return sorted((project.folder / "store" / "images").rglob("*.*"))


def picture(name: str = "png", color: str = "red", size: tuple[int, int] = (1024, 1024)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, name)
    return buffer.getvalue()


# -- all well --------------------------------------------------------------------------------------


def test_all_is_well(project: Project) -> None:
    """Each check says how much it looked at."""
    found = check(project, min_width=1024, near_duplicates=10, max_usd=1)
    assert {name: each.passed for name, each in found.items()} == dict.fromkeys(
        [*DEFAULT, "images_large_enough", "images_distinct", "spending_within_limit"], True
    )
    assert found["images_complete"].description == (
        "3 of 3 rows have an image, 0 were refused, 0 lack one"
    )
    assert values(found["images_intact"])["imagegen/images_read"] == 3
    assert values(found["images_large_enough"])["imagegen/images"] == 3
    assert values(found["spending_known"])["imagegen/requests"] == 3
    assert "imagegen/preview" not in values(found["images_intact"])


def test_a_check_alone_of_images_that_were_never_made_sends_nothing(project: Project) -> None:
    """Ours find no image table, and Dagster refuses to run that of the asset's own step alone."""
    asset = hero(on_incomplete="materialize")
    checks = build_image_checks(asset)
    alone: Any = dg.AssetSelection.checks(*checks)
    (error,) = project.errors(project.run(asset, *checks, select=alone, fails=True))
    assert "No such file" in error
    own: Any = dg.AssetSelection.checks(dg.AssetCheckKey(asset.key, "complete"))
    with pytest.raises(dg.DagsterInvalidDefinitionError):
        project.run(asset, select=own)
    assert project.sent() == 0


def test_checks_run_with_the_asset_and_block_what_is_downstream(project: Project) -> None:
    """If they are blocking and fail."""

    @dg.asset(deps=["hero"])
    def shop() -> None:
        pass

    small = build_image_checks(
        "hero", checks=["images_large_enough"], min_width=2000, blocking=True
    )
    result = project.run(hero(), shop, *build_image_checks("hero"), *small, fails=True)
    assert not results(result)["images_large_enough"].passed
    assert results(result)["images_complete"].passed
    assert "shop" not in {event.step_key for event in result.all_events if event.is_step_success}


def test_severity_is_that_of_the_call(project: Project) -> None:
    """Two calls make checks of two severities."""
    asset = hero()
    warn = build_image_checks(
        asset,
        checks=["images_large_enough"],
        min_height=5000,
        severity=dg.AssetCheckSeverity.WARN,
    )
    error = build_image_checks(asset, checks=["images_complete"])
    found = results(project.run(asset, *warn, *error))
    assert found["images_large_enough"].severity == dg.AssetCheckSeverity.WARN
    assert found["images_complete"].severity == dg.AssetCheckSeverity.ERROR


def test_the_checks_of_a_renamed_asset_follow_it(project: Project) -> None:
    """Its spending too."""
    keys = {dg.AssetKey("hero"): dg.AssetKey(["shop", "hero"])}
    asset = hero().with_attributes(asset_key_replacements=keys)
    checks = [
        each.with_attributes(asset_key_replacements=keys)
        for each in build_image_checks("hero", per="all")
    ]
    found = results(project.run(asset, *checks))
    assert {each.asset_key.to_user_string() for each in found.values()} == {"shop/hero"}
    assert values(found["spending_known"])["imagegen/requests"] == 3


@pytest.mark.parametrize("kind", ["arrow", "pandas", "polars", "frame of floats"])
def test_every_kind_of_table_can_be_checked(project: Project, kind: str) -> None:
    """Whatever the project's IO manager loads."""
    project.settings = {"max_concurrency": 1}
    project.sandbox.script(None, "moderation_blocked", None)
    store = Store()
    resources = {"imagegen": project.resource(), "io_manager": store}
    asset = hero()
    project.run(asset, resources=resources)
    table: pa.Table = store.values["hero"]
    frame = table.to_pandas()
    store.values["hero"] = {
        "arrow": table,
        "pandas": frame,
        "polars": pl.from_arrow(table),
        "frame of floats": frame.astype({"image_width": "float64", "image_size_bytes": "float64"}),
    }[kind]
    checks = build_image_checks(asset, min_width=10)
    selection = dg.AssetSelection.checks(*checks)
    found = results(project.run(asset, *checks, select=selection, resources=resources))  # pyright: ignore[reportArgumentType]  # it takes any selection
    assert all(each.passed for each in found.values())
    assert values(found["images_complete"])["imagegen/refused"] == 1


@pytest.mark.parametrize("value", [None, 3, [{"a": 1}], pd.DataFrame({"a": [1]})])
def test_what_is_no_image_table_is_an_error(project: Project, value: Any) -> None:
    """Of the step, which names the asset."""

    @dg.asset(name="hero")
    def other() -> Any:
        return value

    result = project.run(other, *build_image_checks("hero"), fails=True)
    assert "hero: its value must be an image table" in project.errors(result)[0]


# -- coverage --------------------------------------------------------------------------------------


def test_a_row_without_an_image_is_named(project: Project) -> None:
    """With the reason; a refused one is counted apart and is no failure."""
    project.settings = {"max_concurrency": 1, "retry": {"max_attempts": 1}}
    project.sandbox.script(None, "moderation_blocked", "server_error")
    rows = [{"prompt_id": f"p{n}", "prompt": text} for n, text in enumerate(PROMPTS)]
    found = check(project, hero(rows, fail_on=[]))["images_complete"]
    assert not found.passed
    assert found.description == "1 of 3 rows have an image, 1 was refused, 1 lack one"
    assert list(problems(found)) == ["p2"]
    assert problems(found)["p2"].startswith("failed: ")


def test_a_few_of_many_rows_are_named(project: Project) -> None:
    """All are counted."""
    project.settings = {
        "max_concurrency": 1,
        "budget": {"max_usd": 0.02, "when_exhausted": "defer"},
    }
    found = check(project, hero([f"mug {n}" for n in range(15)]))["images_complete"]
    assert values(found)["imagegen/without_image"] == 14
    assert len(problems(found)) == 10


# -- integrity -------------------------------------------------------------------------------------


def spoilt(project: Project, data: bytes | None, **arguments: Any) -> dg.AssetCheckEvaluation:
    """The result of `images_intact` after the first image was replaced, or deleted."""
    asset = hero()
    project.run(asset)
    path = images(project)[0]
    path.unlink() if data is None else path.write_bytes(data)
    return check_again(project, asset, **arguments)["images_intact"]


def test_a_deleted_image_is_named(project: Project) -> None:
    """And the two others are not."""
    found = spoilt(project, None)
    assert not found.passed
    assert list(problems(found).values()) == ["is not in storage"]
    assert found.description == ("1 of 3 images that were read are not what the image table says")


def test_a_changed_image_is_named(project: Project) -> None:
    """By its length, and its picture is shown."""
    found = spoilt(project, picture())
    ((row, problem),) = problems(found).items()
    assert problem.startswith(f"has {len(picture()):,} bytes instead of ")
    assert row.startswith(("0-", "1-", "2-", "row"))
    assert str(values(found)["imagegen/preview"]).count("data:image/webp") == 1


def test_bytes_that_were_flipped_are_found(project: Project) -> None:
    """The length is the same."""
    asset = hero()
    project.run(asset)
    path = images(project)[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    (problem,) = problems(check_again(project, asset)["images_intact"]).values()
    assert problem.startswith("has the sha256 ")


def test_an_image_of_another_size_than_requested_is_named(project: Project) -> None:
    """The record and the bytes agree with each other, and not with the request."""
    with Sandbox(paint=False) as sandbox:  # Its pictures are tiny whatever is requested.
        project.sandbox = sandbox
        found = check(project)["images_intact"]
    assert all(
        re.fullmatch(r"is \dx\d, and 1024x1024 was requested", each)
        for each in problems(found).values()
    )
    assert len(problems(found)) == 3


def test_only_a_sample_is_read(project: Project) -> None:
    """Another one in each run, of whole images."""
    asset = hero([f"mug {n}" for n in range(8)])
    project.run(asset)
    for path in images(project):
        path.unlink()
    seen: set[str] = set()
    while len(seen) < 8:
        found = check_again(project, asset, sample=3)["images_intact"]
        assert values(found)["imagegen/images_read"] == 3
        assert values(found)["imagegen/images"] == 8
        assert len(problems(found)) == 3
        seen |= set(problems(found))


def test_an_image_of_several_rows_is_read_once(project: Project) -> None:
    """Rows with the same prompt share it."""
    found = check(project, hero(["a mug", "a mug"]), near_duplicates=10)
    assert values(found["images_intact"])["imagegen/images_read"] == 1
    assert found["images_distinct"].passed


# -- size and look ---------------------------------------------------------------------------------


def test_a_small_image_is_named_and_shown(project: Project) -> None:
    """By its width or its height."""
    rows = [
        {"prompt_id": "wide", "prompt": "a", "size": "1536x1024"},
        {"prompt_id": "square", "prompt": "b"},
    ]
    asset = hero(rows, overrides=["size"])
    found = check(project, asset, min_width=1200)["images_large_enough"]
    assert (found.passed, problems(found)) == (False, {"square": "is 1024x1024"})
    assert str(values(found)["imagegen/preview"]).count("data:image/webp") == 1
    assert "`b`" in str(values(found)["imagegen/preview"])
    assert check_again(project, asset, min_height=1024)["images_large_enough"].passed


def test_an_svg_is_not_decoded(project: Project) -> None:
    """Its bytes are compared all the same."""
    asset = hero(output_format="svg")
    found = check(project, asset, near_duplicates=48)
    assert (found["images_intact"].passed, found["images_distinct"].passed) == (True, True)
    images(project)[0].write_text("<svg/>")
    assert not check_again(project, asset)["images_intact"].passed


def test_images_that_look_alike_are_named_and_shown(project: Project) -> None:
    """Also if one was compressed and scaled; others are not."""
    rows = [{"prompt_id": f"p{n}", "prompt": text} for n, text in enumerate([*PROMPTS, "a mug"])]
    asset = hero(rows)
    project.run(asset)
    table: pa.Table = project.value("hero")
    rows = table.to_pylist()
    paths = [str(project.folder / "store" / row["image_path"]) for row in rows]
    with Image.open(paths[1]) as image:
        image.convert("RGB").resize((600, 600)).save(paths[3], "JPEG", quality=50)
    # Of what is on record of the fourth, only the bytes are wrong now.
    other = Path(paths[3]).read_bytes()
    store = Store()
    rows[3] |= {
        "image_size_bytes": len(other),
        "image_sha256": hashlib.sha256(other).hexdigest(),
        "image_format": "jpeg",
        "image_width": 600,
        "image_height": 600,
        "image_attempt_id": None,
    }
    store.values["hero"] = pa.Table.from_pylist(rows, schema=table.schema)
    resources = {"imagegen": project.resource(), "io_manager": store}
    checks = build_image_checks(asset, near_duplicates=10)
    selection = dg.AssetSelection.checks(*checks)
    result = project.run(asset, *checks, select=selection, resources=resources)  # pyright: ignore[reportArgumentType]  # it takes any selection
    assert results(result)["images_intact"].passed
    found = results(result)["images_distinct"]
    assert (found.passed, problems(found)) == (False, {"p3": "looks like p1"})
    assert str(values(found)["imagegen/preview"]).count("data:image/webp") == 2
    assert found.description == "1 of 4 images that were read look like another one"


# -- spending --------------------------------------------------------------------------------------


def test_a_request_that_may_have_been_billed_is_named(project: Project) -> None:
    """With both figures."""
    project.settings = {"max_concurrency": 1, "retry": {"max_attempts": 1}}
    project.sandbox.script(None, "closed", None)
    found = check(project, hero(fail_on=[]))["spending_known"]
    assert not found.passed
    assert found.description is not None
    assert found.description.startswith("all time: 1 of 3 requests are of unknown cost")
    (row,) = [each.data for each in values(found)["imagegen/problems"].records]
    assert row["status"] == "unknown"
    assert isinstance(row["cost_usd_max"], float)


def test_a_server_error_counts_as_not_charged(project: Project) -> None:
    """Its worst case is in the upper figure alone."""
    project.settings = {"max_concurrency": 1}
    project.sandbox.script("server_error")
    found = check(project)["spending_known"]
    assert found.passed
    assert values(found)["imagegen/requests"] == 4
    assert values(found)["imagegen/cost_usd_max"] > values(found)["imagegen/cost_usd"]
    assert ", at most $" in str(found.description)


def test_a_request_without_a_price_is_unknown_and_within_no_limit(project: Project) -> None:
    """Unknown is not 0."""
    found = check(project, hero(model="nobody-knows-its-price"), max_usd=1_000)
    assert not found["spending_known"].passed
    assert values(found["spending_known"])["imagegen/unpriced_requests"] == 3
    assert not found["spending_within_limit"].passed
    assert "imagegen/cost_usd_max" not in values(found["spending_within_limit"])


def test_the_limit_holds_to_the_most_that_may_have_been_charged(project: Project) -> None:
    """The description tells both figures."""
    asset = hero()
    found = check(project, asset, max_usd=1)["spending_within_limit"]
    spent = project.sandbox.totals.cost_usd or Decimal(str(values(found)["imagegen/cost_usd"]))
    most = Decimal(str(values(found)["imagegen/cost_usd_max"]))
    assert found.passed
    assert found.description == (f"all time: {usd_text(spent)}; the limit is $1.00")
    for limit, passes in ((most, True), (most - Decimal("0.000001"), False), (0, False)):
        again = check_again(project, asset, max_usd=limit)["spending_within_limit"]
        assert again.passed is passes


def test_another_assets_spending_does_not_count(project: Project) -> None:
    """On the same storage."""

    @image_asset(name="banner")
    def banner() -> list[str]:
        return ["a flag"]

    project.run(banner)
    found = check(project, per="all", max_usd=1)
    assert values(found["spending_within_limit"])["imagegen/requests"] == 3


@pytest.mark.parametrize(("per", "requests"), [("day", 0), ("month", 0), ("all", 3)])
def test_spending_counts_in_its_time(project: Project, per: Window, requests: int) -> None:
    """A day and a month of UTC; two years later it is neither."""
    project.run(hero())
    later = datetime.now(timezone.utc) + timedelta(days=731)
    for now, counted in ((later, requests), (None, 3)):
        with project.resource().open_engine() as engine:
            first = min(column(engine.usage.read(), "started_at"))
            checks = ImageChecks(
                [],
                engine,
                asset_key="hero",
                partitions=None,
                limits=Limits(per=per, max_usd=Decimal(1)),
                seed="",
                now=now or first,
            )
            found = checks.run("spending_within_limit", severity=dg.AssetCheckSeverity.WARN)
        assert found.metadata["imagegen/requests"].value == counted


def test_the_sandbox_costs_nothing(project: Project) -> None:
    """Lost answers of it were not billed."""
    shared_sandbox().script("closed")
    imagegen = ImageGenResource(
        base_url="sandbox",
        model="nobody-knows-its-price",
        storage_uri=str(project.folder / "store"),
    )
    checks = build_image_checks(
        "hero", checks=["spending_known", "spending_within_limit"], max_usd=0, per="all"
    )
    result = project.run(hero(fail_on=[]), *checks, resources={"imagegen": imagegen})
    assert "unknown" in column(imagegen.usage(), "status")
    assert all(each.passed for each in results(result).values())
    assert results(result)["spending_within_limit"].description == (
        "all time: $0.00; 3 requests to the sandbox cost nothing; the limit is $0.00"
    )


# -- partitions and places -------------------------------------------------------------------------

DAYS = dg.StaticPartitionsDefinition(["mon", "tue", "wed"])


def daily(fails_on: str | None = None) -> dg.AssetsDefinition:
    """An image asset with an image for each day."""

    @image_asset(name="hero", partitions_def=DAYS, quality="low", size="1024x1024")
    def asset(context: dg.AssetExecutionContext) -> list[dict[str, str]]:
        return [{"prompt_id": context.partition_key, "prompt": f"a mug on {context.partition_key}"}]

    return asset


@pytest.mark.parametrize("kind", ["pickle", "parquet"])
def test_all_partitions_are_checked(project: Project, kind: str) -> None:
    """Together: Dagster tells a check no partition unless it is asked to."""
    resources: dict[str, Any] = {"imagegen": project.resource()}
    if kind == "parquet":
        resources["io_manager"] = ParquetIOManager(uri=str(project.folder / "tables"))
    asset, checks = daily(), build_image_checks("hero", per="all")
    for day in ("mon", "tue"):
        project.run(asset, resources=resources, partition_key=day)
    found = results(project.run(asset, *checks, resources=resources, partition_key="wed"))
    assert values(found["images_complete"])["imagegen/rows"] == 3
    assert values(found["images_intact"])["imagegen/images_read"] == 3
    assert values(found["spending_known"])["imagegen/requests"] == 3


HAS_PARTITIONS = "partitions_def" in inspect.signature(dg.AssetCheckSpec.__new__).parameters


@pytest.mark.skipif(not HAS_PARTITIONS, reason="this Dagster has no partitions of checks")
@pytest.mark.filterwarnings("ignore::dagster.PreviewWarning")
def test_a_check_with_partitions_sees_that_of_its_run(project: Project) -> None:
    """Its spending too."""
    asset, checks = daily(), build_image_checks("hero", partitions_def=DAYS, per="all", max_usd=1)
    for day in ("mon", "tue"):
        found = results(project.run(asset, *checks, partition_key=day))
        assert values(found["images_complete"])["imagegen/rows"] == 1
        assert values(found["spending_within_limit"])["imagegen/requests"] == 1
        assert found["images_complete"].partition == day


def test_images_in_a_bucket_are_checked(project: Project, s3_options: dict[str, Any]) -> None:
    """There as well a missing one is found."""
    filesystem = fsspec.filesystem("s3", **s3_options)
    filesystem.mkdir("checked")
    project.settings = {"storage_uri": "s3://checked/shop", "storage_options": s3_options}
    asset = hero()
    assert all(each.passed for each in check(project, asset, near_duplicates=10).values())
    filesystem.rm_file(filesystem.find("checked/shop/images")[0])
    found = check_again(project, asset)["images_intact"]
    assert list(problems(found).values()) == ["is not in storage"]


def test_prompts_that_are_not_recorded_are_not_shown(project: Project) -> None:
    """Nor in the captions of pictures."""
    project.settings = {"record_prompts": False}
    rows = [{"prompt_id": "p", "prompt": "hunter2"}]
    found = check(project, hero(rows), min_width=5_000)["images_large_enough"]
    assert "data:image/webp" in str(values(found)["imagegen/preview"])
    assert "hunter2" not in dg.serialize_value(found)


@pytest.mark.parametrize("recorded", [True, False])
def test_the_error_about_a_table_repeats_no_prompt_that_is_not_recorded(
    project: Project, recorded: bool
) -> None:
    """Arrow's own message, and the error behind it, hold the value that does not fit."""
    project.settings = {"record_prompts": recorded}
    row = {**dict.fromkeys(IMAGE_COLUMNS), "image_width": "hunter2"}

    @dg.asset(name="hero")
    def other() -> pa.Table:
        return pa.Table.from_pylist([row])

    result = project.run(other, *build_image_checks("hero"), fails=True)
    assert "its value must be an image table" in project.errors(result)[0]
    events = [dg.serialize_value(each) for each in result.all_events if each.is_step_failure]
    assert ("hunter2" in str(events)) is recorded
    assert ("record_prompts is off" in str(events)) is not recorded


def test_a_result_fits_the_smallest_event_log(project: Project) -> None:
    """With the longest ids that there are."""
    rows = [{"prompt_id": "x" * 5_000 + str(n), "prompt": f"mug {n}"} for n in range(20)]
    found = check(project, hero(rows), min_width=5_000)["images_large_enough"]
    assert len(dg.serialize_value(found)) < 60_000


# -- arguments -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"checks": ["images_complet"]}, 'checks: "images_complet" is not a check; did you mean'),
        ({"checks": "images_complete"}, "checks must be a list of names"),
        ({"checks": []}, "checks must be a list of names, got []"),
        ({"checks": ["images_distinct"]}, 'checks: "images_distinct" needs a limit; set near_dup'),
        ({"sample": 0}, "sample must be a whole number, at least 1, got 0"),
        ({"min_width": 1.5}, "min_width must be a whole number, at least 1, got 1.5"),
        ({"near_duplicates": 100}, "near_duplicates must be a whole number, from 0 to 48, got 100"),
        ({"max_usd": -1}, "max_usd must be a number, at least 0, got -1"),
        ({"max_usd": "much"}, "max_usd must be a number, at least 0, got 'much'"),
        ({"max_usd": 1, "per": "year"}, "per must be day, month or all, got 'year'"),
    ],
)
def test_arguments_that_cannot_work_are_errors(arguments: dict[str, Any], told: str) -> None:
    """At definition time, with the rule and the value."""
    with pytest.raises(ImageGenError) as error:
        build_image_checks("hero", **arguments)
    assert str(error.value).startswith(told)


def test_the_limits_say_which_checks_there_are() -> None:
    """Each with a description."""
    (some,) = build_image_checks(dg.AssetKey(["shop", "hero"]))
    (every,) = build_image_checks("hero", min_height=1, near_duplicates=0, max_usd=0)
    assert sorted(spec.name for spec in some.check_specs) == DEFAULT
    assert len(list(every.check_specs)) == 6
    assert all(spec.description for spec in every.check_specs)


def test_marks_that_a_published_copy_has_lost_are_found(project: Project, tmp_path: Path) -> None:
    """One copy is as it was published, one was written again by a tool, and one is deleted."""
    names = ("kept", "rewritten", "gone")
    marked = of_rows(
        [{"prompt_id": name, "prompt": name} for name in names],
        publish=f"{tmp_path}/cdn/{{prompt_id}}.{{ext}}",
    )
    with Sandbox(paint=False, credentials=True) as sandbox:
        project.settings["base_url"] = sandbox.base_url
        project.run(marked)
        with Image.open(tmp_path / "cdn" / "rewritten.png") as image:
            image.load()
            image.copy().save(tmp_path / "cdn" / "rewritten.png")
        (tmp_path / "cdn" / "gone.png").unlink()
        found = check_again(project, marked, published=True)["provenance_published"]
    assert not found.passed
    assert values(found)["imagegen/with_marks"] == 3
    assert problems(found) == {
        "rewritten": "its published copy lacks c2pa, iptc:trainedAlgorithmicMedia",
        "gone": "its published copy is not there",
    }
