"""`build_cost_report_asset`: the bill as an asset, with files, charts and figures."""

import base64
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from dagster_imagegen import ImageGenError, build_cost_report_asset, image_asset
from dagster_imagegen.cli import main
from dagster_imagegen.sandbox import Fault
from tests.conftest import Project, materialized


@image_asset(quality="low", size="1024x1024")
def hero() -> list[str]:
    return ["a mug", "a pot"]


def test_it_writes_the_table_and_the_report_and_shows_charts(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its sums are the provider's; the command line tells the same."""
    project.sandbox.script(Fault("server_error"))
    result = project.run(hero, build_cost_report_asset(image_assets=[hero], group_name="costs"))
    shown: dict[str, Any] = {
        name: getattr(value, "value", value)
        for name, value in materialized(result)["cost_report"].metadata.items()
    }
    cost = project.sandbox.totals.cost_usd
    assert shown["imagegen/cost_usd"] == pytest.approx(float(cost))
    assert shown["imagegen/cost_usd_max"] > shown["imagegen/cost_usd"]
    assert (shown["imagegen/requests"], shown["imagegen/images_kept"]) == (3, 2)
    table = pq.read_table(Path(shown["imagegen/costs"].removeprefix("file://")))
    assert pc.sum(table["cost_usd"]).as_py() == cost
    html = Path(shown["imagegen/report"].removeprefix("file://")).read_text("utf-8")
    assert "<script" not in html
    assert "Cost of hero" in html
    picture = shown["imagegen/chart_by_time"].split("base64,")[1].removesuffix(")")
    svg = base64.b64decode(picture).decode()
    assert svg.startswith("<svg")
    assert ' width="360" height=' in svg  # Without a size, Dagster's table shows nothing of it.
    assert any("at most" in each for each in project.logs(result))
    event = dg.AssetMaterialization("x", metadata=materialized(result)["cost_report"].metadata)
    assert len(dg.serialize_value(event)) < 60_000
    store = str(project.folder / "store")
    assert main(["usage", "--storage", store, "--by", "cause"]) == 0
    assert f"cost_usd\t{float(cost):g}" in capsys.readouterr().out
    for name in ("bill.csv", "bill.parquet", "bill.html"):
        file = project.folder / name
        assert main(["usage", "--storage", store, "--model", "none", "--output", str(file)]) == 0
        assert file.stat().st_size > 0


def test_without_waste_there_is_no_chart_of_it(project: Project) -> None:
    """An entry with an empty picture would say nothing."""
    result = project.run(hero, build_cost_report_asset(image_assets=[hero]))
    metadata = materialized(result)["cost_report"].metadata
    charts = {name for name in metadata if name.startswith("imagegen/chart_")}
    assert charts == {f"imagegen/chart_by_{name}" for name in ("time", "asset", "model")}


def test_arguments_that_cannot_work_are_errors() -> None:
    """At definition time, and the builder is named."""
    with pytest.raises(ImageGenError, match="build_cost_report_asset has no argument"):
        build_cost_report_asset(image_assets=[hero], gruop_name="x")
