"""The bill against the books of the provider: a run with all that can go wrong, and a kill."""

import re
import signal
from collections.abc import Iterator
from datetime import datetime, timezone
from decimal import Decimal
from html.parser import HTMLParser
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pytest

from dagster_imagegen.audit.bars import money
from dagster_imagegen.audit.cost_table import CAUSES, COST_SCHEMA, cost_table, summed
from dagster_imagegen.audit.report import report_html
from dagster_imagegen.engine.errors import ConfigurationError
from dagster_imagegen.engine.money.amounts import usd_text
from dagster_imagegen.engine.record.schema import SCHEMA
from dagster_imagegen.sandbox import Fault, Sandbox
from dagster_imagegen.sandbox.request_log import Totals
from tests.audit.rows import row, usage
from tests.fire.conftest import Passes

MODELS = ("openai-gpt-image-1", "gpt-image-1-mini", "gpt-image-2")
MADE_AT = datetime(2026, 11, 26, 12, tzinfo=timezone.utc)


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[pa.Table, Totals]]:
    """The costs of three models, one of whose runs is killed, and what the provider billed."""
    folder = tmp_path_factory.mktemp("bill")
    passes = Passes(folder)
    with Sandbox(paint=False) as sandbox:
        engine = _killed_run_and_others(passes, sandbox)
        yield engine.usage.scan(cost_table), sandbox.totals
        passes.close()


def _killed_run_and_others(passes: Passes, sandbox: Sandbox) -> Any:
    killed = passes.start(
        sandbox,
        [f"a mug, number {number}" for number in range(30)],
        signals_itself=(5, signal.SIGKILL),
        max_concurrency=3,
    )
    assert killed.wait() == -signal.SIGKILL
    for model in MODELS:
        sandbox.script(
            Fault("moderation_blocked"),
            Fault("rate_limited", headers={"retry-after-ms": "1"}),
            Fault("server_error"),
            Fault("gateway_timeout"),
            None,
            Fault("refused_in_200"),
            None,
        )
        passes.run(sandbox, [f"a pot, number {number}" for number in range(8)], model=model)
    return passes.engine(sandbox)


def by_status(costs: pa.Table) -> dict[str, dict[str, Any]]:
    """The sums of each status."""
    return {row["status"]: row for row in summed(costs, ["status"]).to_pylist()}


def test_the_bill_equals_the_providers_books(books: tuple[pa.Table, Totals]) -> None:
    """To the last digit for what was answered; the rest lies between the two figures."""
    costs, totals = books
    (bill,) = summed(costs, []).to_pylist()
    found = by_status(costs)
    assert {"succeeded", "refused", "failed", "rate_limited", "unknown"} <= found.keys()
    answered = found["succeeded"]["cost_usd"]
    assert answered <= totals.cost_usd <= bill["cost_usd_max"]
    # All that the provider billed beyond the images is within what is on record as doubtful.
    doubtful = bill["cost_usd_max"] - answered
    assert 0 < totals.cost_usd - answered <= doubtful
    assert bill["unpriced_requests"] == 0
    assert {row["model"] for row in costs.to_pylist()} == set(MODELS)
    assert bill["requests"] >= totals.requests


def test_every_cent_has_a_cause(books: tuple[pa.Table, Totals]) -> None:
    """What is kept and the kinds of waste add up to the bill."""
    costs, _ = books
    (bill,) = summed(costs, []).to_pylist()
    causes = {row["cause"]: row for row in summed(costs, ["cause"]).to_pylist()}
    assert {"kept", "refused", "failed", "unknown"} <= causes.keys() <= set(CAUSES)
    assert sum(row["cost_usd"] for row in causes.values()) == bill["cost_usd"]
    assert bill["cost_usd"] - causes["kept"]["cost_usd"] == bill["waste_usd"] > 0
    assert bill["cost_per_image_kept_usd"] * bill["images_kept"] == pytest.approx(bill["cost_usd"])


class Page(HTMLParser):
    """The text of a page, and the tags in it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_report_shows_both_figures_and_loads_nothing(books: tuple[pa.Table, Totals]) -> None:
    """One file: its totals are those of the table."""
    costs, _ = books
    html = report_html(costs, made_at=MADE_AT, source="<here>")
    page = Page(html)
    (bill,) = summed(costs, []).to_pylist()
    for name in ("cost_usd", "cost_usd_max", "waste_usd"):
        assert usd_text(bill[name]) in page.text
    assert "<here>" in page.text
    assert not {"script", "link", "img", "iframe"} & page.tags
    assert not re.search(r"https?://(?!www\.w3\.org)|url\(|@import", html.replace(_endpoint(), ""))


def _endpoint() -> str:
    return "https://images.example/v1"


def rows(*given: dict[str, Any]) -> pa.Table:
    """The costs of usage rows, of one stored image each unless they say otherwise."""
    filled = [
        {
            "attempt_id": f"a-{number}",
            "fingerprint": f"{number:064x}",
            "asset_key": "hero",
            "prompt_id": f"row {number}",
            "model": "m",
            "status": "succeeded",
            "cost_basis": "metered",
            "endpoint_id": "https://images.example/v1",
            "cost_usd": Decimal(1),
            "started_at": datetime(2026, 11, 25, 23, 59, number, tzinfo=timezone.utc),
            **row,
        }
        for number, row in enumerate(given)
    ]
    return cost_table(ds.dataset(pa.Table.from_pylist(filled, schema=SCHEMA)))


def causes(costs: pa.Table) -> dict[str, int]:
    """How many requests had each cause."""
    return {row["cause"]: row["requests"] for row in summed(costs, ["cause"]).to_pylist()}


def test_an_image_that_was_made_again_is_waste() -> None:
    """Of the same fingerprint, the last is in use."""
    again = {"fingerprint": "f" * 64}
    costs = rows(again, {}, again, {**again, "status": "failed"})
    assert causes(costs) == {"kept": 2, "retried": 1, "failed": 1}


def test_an_image_whose_row_has_a_higher_revision_is_waste() -> None:
    """Per row, partition and variant; other rows of the same revision are not."""
    row = {"prompt_id": "mug"}
    costs = rows(
        row,
        {**row, "revision": 1},
        {**row, "revision": 2},
        {**row, "revision": 3, "status": "refused"},
        {**row, "partition_key": "de"},
        {"revision": 1},
    )
    assert causes(costs) == {"kept": 3, "replaced": 2, "refused": 1}


def test_the_sandbox_never_adds_to_money() -> None:
    """Its rows stand apart, whatever they say, and the report only counts them."""
    costs = rows(
        {}, {"cost_basis": "sandbox", "cost_usd": Decimal(500)}, {"endpoint_id": "sandbox"}
    )
    (bill,) = summed(costs, []).to_pylist()
    assert (bill["cost_usd"], bill["cost_usd_max"]) == (1, 1)
    assert money(costs)["requests"].to_pylist() == [1]
    page = Page(report_html(costs, made_at=MADE_AT, source="here"))
    assert "2 requests to the sandbox brought 2 images" in page.text
    assert "$500" not in page.text


def test_unknown_is_not_zero() -> None:
    """A request without a price is in no sum, and leaves no upper bound."""
    costs = rows({}, {"cost_usd": None, "cost_basis": "unknown"})
    (bill,) = summed(costs, []).to_pylist()
    assert (bill["unpriced_requests"], bill["cost_usd"]) == (1, 1)
    text = Page(report_html(costs, made_at=MADE_AT, source="here")).text
    assert "1 request of unknown cost" in text
    assert "at mostnot known" in text


def test_older_rows_have_their_cost_as_the_bound() -> None:
    """They have no `cost_usd_max`."""
    (bill,) = summed(rows({}, {"cost_usd_max": Decimal(3)}), []).to_pylist()
    assert (bill["cost_usd"], bill["cost_usd_max"]) == (2, 4)


def test_the_value_of_one_tag_is_a_dimension() -> None:
    """A row without the tag, or without any, is of nobody."""
    tagged = [
        row(1, asset_tags='{"cost-center": "4711", "team": "a"}', asset_owners="team:a"),
        row(2, asset_tags='{"cost-center": "4712", "team": "a"}', asset_owners="team:b"),
        row(3, asset_tags='{"cost-center": "4711"}'),
        row(4),
    ]
    costs = cost_table(usage(*tagged), by=["tag:team", "asset_owners"])
    found = {
        (each["tag:team"], each["asset_owners"]): each["requests"] for each in costs.to_pylist()
    }
    assert found == {("a", "team:a"): 1, ("a", "team:b"): 1, (None, None): 2}
    (total,) = (
        cost_table(usage(*tagged), by=["tag:cost-center"])
        .filter(pc.field("tag:cost-center") == "4711")
        .to_pylist()
    )
    assert (total["requests"], total["cost_usd"]) == (2, Decimal("0.10"))


def test_no_rows_are_a_table_without_rows() -> None:
    """And a report that says so."""
    costs = rows()
    assert (costs.num_rows, costs.schema) == (0, COST_SCHEMA)
    assert "No request has cost money yet" in report_html(costs, made_at=MADE_AT, source="here")


def test_a_column_that_is_none_is_an_error_with_a_remedy() -> None:
    """It names those that there are."""
    with pytest.raises(ConfigurationError, match=r'grouped by "modle".*did you mean "?model'):
        cost_table(ds.dataset(SCHEMA.empty_table()), by=["modle"])
