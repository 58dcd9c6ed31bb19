"""The bill against the books of the provider: a run with all that can go wrong, and a kill."""

import re
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from dagster_imagegen.audit.bars import money
from dagster_imagegen.audit.cost_table import CAUSES, COST_SCHEMA, cost_table, summed
from dagster_imagegen.audit.focus import write_focus
from dagster_imagegen.audit.provider_export import read_export
from dagster_imagegen.audit.reconciliation import Reconciliation, Tolerance, reconcile
from dagster_imagegen.audit.report import report_html
from dagster_imagegen.engine.errors import ConfigurationError
from dagster_imagegen.engine.money.amounts import usd_text
from dagster_imagegen.engine.record.schema import SCHEMA
from dagster_imagegen.sandbox import Fault, Sandbox
from dagster_imagegen.sandbox.request_log import ReceivedRequest
from tests.audit.rows import row, usage
from tests.fire.conftest import Passes

MODELS = ("openai-gpt-image-1", "gpt-image-1-mini", "gpt-image-2")
KILLED_IN_FLIGHT = 3
"""On record, and killed before they were sent: at most as many."""
MADE_AT = datetime(2026, 11, 26, 12, tzinfo=timezone.utc)


@dataclass(frozen=True, kw_only=True)
class Books:
    """A bill by the usage table, its rows, and what the provider received and billed."""

    costs: pa.Table
    usage: pa.Table
    received: Sequence[ReceivedRequest]

    @property
    def billed_usd(self) -> Decimal:
        """By the provider, in all."""
        return sum((each.cost_usd for each in self.received), Decimal(0))

    @property
    def dataset(self) -> ds.Dataset:
        """The rows as if all had been sent at one moment: no run crosses midnight."""
        at = self.usage.schema.get_field_index("started_at")
        moments = pa.array([MADE_AT] * self.usage.num_rows, self.usage.schema.field(at).type)
        return ds.dataset(self.usage.set_column(at, "started_at", moments))


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Books]:
    """Three models, one of whose runs is killed, with refusals, retries and lost answers."""
    passes = Passes(tmp_path_factory.mktemp("bill"))
    with Sandbox(paint=False) as sandbox:
        engine = _killed_run_and_others(passes, sandbox)
        yield Books(
            costs=engine.usage.scan(cost_table),
            usage=engine.usage.read(),
            received=sandbox.requests,
        )
        passes.close()


def _killed_run_and_others(passes: Passes, sandbox: Sandbox) -> Any:
    killed = passes.start(
        sandbox,
        [f"a mug, number {number}" for number in range(30)],
        signals_itself=(5, signal.SIGKILL),
        max_concurrency=KILLED_IN_FLIGHT,
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


def test_the_bill_equals_the_providers_books(books: Books) -> None:
    """To the last digit for each answered request, of each model; the bound covers the rest."""
    billed = {each.request_id: each.cost_usd for each in books.received}
    rows = books.usage.to_pylist()
    assert {row["status"] for row in rows} == {
        *("succeeded", "refused", "failed", "rate_limited", "unknown")
    }
    answered = [row for row in rows if row["status"] == "succeeded" and row["request_id"]]
    assert {row["request_id"]: row["cost_usd"] for row in answered} == {
        row["request_id"]: billed[row["request_id"]] for row in answered
    }
    for model in MODELS:
        (bill,) = summed(books.costs.filter(pc.field("model") == model), []).to_pylist()
        of_model = [each for each in books.received if each.body["model"] == model]
        known = [row for row in answered if row["model"] == model]
        sure = sum((row["cost_usd"] for row in known), Decimal(0))
        theirs = sum((each.cost_usd for each in of_model), Decimal(0))
        # What was billed beyond the answered images is within what is on record as doubtful.
        assert 0 < theirs - sure <= bill["cost_usd_max"] - sure
        assert len(of_model) <= bill["requests"] <= len(of_model) + KILLED_IN_FLIGHT
    (bill,) = summed(books.costs, []).to_pylist()
    assert bill["cost_usd"] == sum(row["cost_usd"] for row in rows)
    assert bill["cost_usd_max"] == sum(row["cost_usd_max"] for row in rows)
    assert bill["unpriced_requests"] == 0


def test_focus_sums_to_the_bill(books: Books, tmp_path: Path) -> None:
    """Of the same run, to the last decimal, and so does its bound."""
    (bill,) = summed(books.costs, []).to_pylist()
    write_focus(books.dataset, tmp_path / "focus.parquet")
    focus = pq.read_table(tmp_path / "focus.parquet")
    for name in ("BilledCost", "EffectiveCost", "ListCost", "ContractedCost"):
        assert pc.sum(focus[name]).as_py() == bill["cost_usd"]
    assert pc.sum(focus["x_CostUsdMax"]).as_py() == bill["cost_usd_max"]


def test_the_providers_books_as_an_export_agree_and_doctored_ones_do_not(books: Books) -> None:
    """The requests of unknown billing explain what the provider charged; nothing explains more."""
    theirs = {
        model: sum((e.cost_usd for e in books.received if e.body["model"] == model), Decimal(0))
        for model in MODELS
    }
    found = reconciled(books, theirs)
    assert found.agrees
    assert {each["status"] for each in found.unknown} >= {"unknown"}
    most = {line.model: line.most for line in found.lines}
    first, second, third = MODELS
    doctored = {first: (most[first] or 0) + Decimal("0.01"), third: theirs[third], "added": 1}
    assert {line.model: line.verdict for line in reconciled(books, doctored).lines} == {
        first: "different",
        second: "ours_only",
        third: "may_be_unknown",
        "added": "theirs_only",
    }


def reconciled(books: Books, theirs: Mapping[str, Decimal | int]) -> Reconciliation:
    """The run against an export of these sums by model."""
    costs = [str(each) for each in theirs.values()]
    table = pa.table({"day": [MADE_AT.date()] * len(costs), "model": [*theirs], "cost_usd": costs})
    return reconcile(books.dataset, read_export(table), tolerance=Tolerance(usd=Decimal(0)))


def test_every_cent_has_a_cause(books: Books) -> None:
    """What is kept and the kinds of waste add up to the bill."""
    costs = books.costs
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


def test_the_report_shows_both_figures_and_loads_nothing(books: Books) -> None:
    """One file: its totals are those of the table."""
    costs = books.costs
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
