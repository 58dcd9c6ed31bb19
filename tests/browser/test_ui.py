"""What people see of image assets in Dagster's UI, and what they click there."""

from collections.abc import Callable

import pytest

from dagster_imagegen.sandbox import Sandbox
from tests.browser.conftest import SLIDES, Shop
from tests.conftest import column

pytestmark = [pytest.mark.browser, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def hero_costs(shop: Shop) -> list[float]:
    """What three runs of `hero` have cost: all images, none, and one more."""
    costs: list[float] = []
    assert shop.ui.run("catalogue") == "SUCCESS"
    for _ in range(2):
        costs.append(_cost_of(shop.sandbox, lambda: shop.ui.run("hero")))
    shop.add_product("LAMP-01,lamp,green")
    assert shop.ui.run("catalogue") == "SUCCESS"
    costs.append(_cost_of(shop.sandbox, lambda: shop.ui.run("hero")))
    return costs


def _cost_of(sandbox: Sandbox, run: Callable[[], str]) -> float:
    before = sandbox.totals.cost_usd
    assert run() == "SUCCESS"
    return float(sandbox.totals.cost_usd - before)


def test_the_graph_shows_image_assets_and_what_they_are_made_of(shop: Shop) -> None:
    """From the prompt table to the bill, with the asset that a component makes."""
    shop.ui.open_graph()
    for name in ("catalogue", "hero", "picky", "slides", "poster", "usage"):
        shop.ui.sees_asset(name)
    shop.ui.open_asset("hero", "lineage")
    shop.ui.sees_asset("catalogue")
    shop.ui.sees_asset("usage")


def test_the_first_page_of_an_asset_shows_pictures(shop: Shop, hero_costs: list[float]) -> None:
    """Without scrolling, with the names of their rows, and larger than icons."""
    assert hero_costs
    shop.ui.open_asset("hero")
    seen = shop.ui.pictures_in_view(at_least=2)
    assert min(max(size) for size in seen) >= 100
    shop.ui.sees("LAMP-01")
    shop.ui.open_asset("hero", "events")
    seen = shop.ui.pictures_in_view(at_least=2)
    assert min(max(size) for size in seen) >= 80


def test_columns_and_row_count_are_shown(shop: Shop, hero_costs: list[float]) -> None:
    """Those of the prompt table and ours."""
    assert hero_costs
    shop.ui.open_asset("hero")
    shop.ui.sees("Row count")
    for name in ("product", "colour", "prompt", "image_uri", "image_cost_usd"):
        shop.ui.sees_cell(name)


def test_the_cost_of_each_run_is_plotted(shop: Shop, hero_costs: list[float]) -> None:
    """A run that cost nothing too."""
    shop.ui.open_asset("hero")
    plotted = shop.ui.plotted("imagegen/cost_usd", points=3)
    assert plotted == pytest.approx(hero_costs)
    assert plotted[1] == 0
    assert plotted[0] > plotted[2] > 0


def test_checks_are_shown_with_their_results(shop: Shop, hero_costs: list[float]) -> None:
    """A failed one names its rows and shows their pictures."""
    assert hero_costs
    shop.ui.open_check("hero", "images_complete")
    shop.ui.sees("5 of 5 rows have an image, 0 were refused, 0 lack one")
    shop.ui.sees("Passed")
    shop.ui.open_check("hero", "images_large_enough")
    shop.ui.sees("5 of 5 images are less than 3,000 pixels wide")
    shop.ui.sees("is 1536x1024")


def test_a_failed_run_is_told_of_on_the_page_of_its_asset(shop: Shop) -> None:
    """By an observation, which names the rows that failed and why."""
    assert shop.ui.run("picky") == "FAILURE"
    shop.ui.open_asset("picky", "events")
    shop.ui.select_event("Observed")
    shop.ui.sees("Rows without an image: 2. Nothing was materialized.")
    problems = [
        line for line in shop.ui.metadata("imagegen/problems").splitlines() if "prompt_id" in line
    ]
    assert ["forbidden sword" in each for each in problems] == [True, False]
    assert ["forbidden axe" in each for each in problems] == [False, True]


def test_a_terminated_run_loses_nothing(shop: Shop) -> None:
    """Every request is one usage row, every image is there, and the next run pays for the rest."""
    sandbox = shop.slow_sandbox
    run_id = shop.ui.materialize("slides")
    assert shop.ui.wait_for_run(run_id, "STARTED") == "STARTED"
    shop.ui.wait_until(lambda: len(sandbox.requests) >= 3)
    shop.ui.terminate(run_id)
    assert shop.ui.wait_for_run(run_id) == "CANCELED"
    first = list(sandbox.requests)
    assert 3 <= len(first) < SLIDES
    usage = shop.usage("slides")
    assert sorted(column(usage, "request_id")) == sorted(each.request_id for each in first)
    assert set(column(usage, "status")) == {"succeeded"}
    assert all((shop.folder / "output" / path).is_file() for path in column(usage, "image_path"))

    port = int(sandbox.base_url.split(":")[2].split("/")[0])
    sandbox.__exit__(None, None, None)
    with Sandbox(port=port, paint=False) as quick:
        assert shop.ui.run("slides") == "SUCCESS"
        second = list(quick.requests)
    assert len(first) + len(second) == SLIDES
    prompts = [each.body["prompt"] for each in [*first, *second]]
    assert len(set(prompts)) == SLIDES
    assert shop.usage("slides").num_rows == SLIDES


def test_an_asset_of_a_component_looks_the_same(shop: Shop) -> None:
    """Its description is that of its YAML; its pictures are in view."""
    assert shop.ui.run("poster") == "SUCCESS"
    shop.ui.open_asset("poster")
    shop.ui.sees("Posters, made without Python.")
    assert shop.ui.pictures_in_view(at_least=2)


def test_the_usage_asset_shows_its_tables(shop: Shop, hero_costs: list[float]) -> None:
    """The cost by asset, by model and by day."""
    assert hero_costs
    assert shop.ui.run("usage") == "SUCCESS"
    shop.ui.open_asset("usage", "events")
    assert "hero" in shop.ui.metadata("imagegen/cost_by_asset")
    assert "openai-gpt-image-1" in shop.ui.metadata("imagegen/cost_by_model")
    assert "20" in shop.ui.metadata("imagegen/cost_by_day")
