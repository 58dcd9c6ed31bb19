"""Recorded requests at the prices of another list."""

from decimal import Decimal
from typing import Any

import pyarrow as pa

from dagster_imagegen.audit.repriced_costs import repriced_costs
from dagster_imagegen.audit.repricing import REPRICED, reprice
from dagster_imagegen.engine.money.price_list import PriceList
from tests.audit.rows import MODEL, SANDBOX_ROW, row, unknown, usage

NEWER = PriceList.default().with_overrides(
    {
        MODEL: {"usd_per_million_tokens": {"text_input": 10, "image_output": 100}},
        "by-image": {"usd_per_image": {"512x512": {"*": 1}}},
    }
)


def repriced(*rows: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows at newer prices."""
    return pa.Table.from_batches(reprice(usage(*rows), NEWER), schema=REPRICED).to_pylist()


def test_tokens_are_charged_at_the_newer_prices() -> None:
    """10 tokens of text and 1,056 of an image; what was recorded stands beside it."""
    (found,) = repriced(row(1))
    assert found["recorded_usd"] == Decimal("0.05")
    assert found["repriced_usd"] == Decimal("0.1057")
    assert found["repriced_basis"] == "metered"
    assert found["not_repriced"] is None


def test_a_request_that_was_not_billed_costs_nothing_by_any_list() -> None:
    """Whatever its tokens."""
    (found,) = repriced(row(1, billing="not_billed", status="rejected", cost_usd=Decimal(0)))
    assert found["repriced_usd"] == 0


def test_what_cannot_be_repriced_says_why() -> None:
    """There is a reason wherever there is no cost, and none where there is one."""
    nothing = dict.fromkeys(("input_tokens", "output_tokens", "total_tokens"))
    found = repriced(
        SANDBOX_ROW,
        row(1, cost_basis="reported"),
        unknown(2),
        row(3, model="nobody-knows"),
        row(4, size="auto", **nothing),
        row(5, model="by-image"),
    )
    assert [each["not_repriced"] for each in found] == [
        "the sandbox costs nothing",
        "the endpoint reported what it charged",
        "whether it was billed is unknown",
        'the price list has no model "nobody-knows"',
        "the answer has no token counts, and the list no price for its size and quality",
        "the list has no price for its tokens, or for its size and quality",
    ]
    assert {each["repriced_usd"] for each in found} == {None}


def test_both_sums_are_of_the_same_requests() -> None:
    """What could not be repriced is summed apart, by its reason; the sandbox is in no sum."""
    rows = (row(1), row(2, model="nobody-knows"), unknown(3), row(4, cost_usd=None), SANDBOX_ROW)
    costs = repriced_costs(reprice(usage(*rows), NEWER), by=["model"])
    total = costs.total
    assert (total.repriced_requests, total.other_requests, costs.sandbox_requests) == (1, 3, 1)
    assert (total.recorded_usd, total.repriced_usd) == (Decimal("0.05"), Decimal("0.1057"))
    assert total.difference_usd == Decimal("0.0557")
    assert total.other_recorded_usd == Decimal("0.12")
    assert {reason: each.other_requests for reason, each in costs.reasons.items()} == {
        'the price list has no model "nobody-knows"': 1,
        "whether it was billed is unknown": 1,
        "no cost is on record": 1,
    }
    assert costs.groups[(MODEL,)].other_recorded_usd == Decimal("0.07")
