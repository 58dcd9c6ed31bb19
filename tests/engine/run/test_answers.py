"""What an answer cost: what was charged as far as anyone can tell, and what may have been."""

from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

import pytest

from dagster_imagegen.engine.attempt import Cost, SvgUsage, TokenUsage
from dagster_imagegen.engine.endpoint.failures import AnswerHead, Failure
from dagster_imagegen.engine.endpoint.kinds import FailureKind
from dagster_imagegen.engine.endpoint.response import Answer, GeneratedImage, read_answer
from dagster_imagegen.engine.money.amounts import usd_text
from dagster_imagegen.engine.money.price_list import PriceList
from dagster_imagegen.engine.record.schema import result_columns, result_of
from dagster_imagegen.engine.request import ImageRequest
from dagster_imagegen.engine.run.answers import cost_of_answer, result_of_answer
from dagster_imagegen.engine.run.progress import Totals, cost_text

PRICES = PriceList.default()
REQUEST = ImageRequest(
    endpoint_id="e", model="gpt-image-1", prompt="a mug", size="1024x1024", quality="low"
)
WORST = PRICES.bounds(REQUEST)[1]
AUTHOR: dict[str, Any] = {
    "model": "author-1",
    "input_tokens": 1000,
    "output_tokens": 2000,
    "reasoning_tokens": 500,
    "total_tokens": 3000,
}


def cost_of(said: Failure | GeneratedImage, prices: PriceList = PRICES) -> Cost:
    return cost_of_answer(prices, REQUEST, Answer(result=said), worst_case=WORST)


@pytest.mark.parametrize(
    ("failure", "usd", "most_usd"),
    [
        (Failure(kind=FailureKind.SERVER_ERROR, message="", http_status=500), 0, WORST.usd),
        (
            Failure(kind=FailureKind.REFUSED, message="", moderation_stage="output"),
            0,
            WORST.usd,
        ),
        (Failure(kind=FailureKind.REJECTED, message="", http_status=200), WORST.usd, WORST.usd),
        (Failure(kind=FailureKind.SERVER_ERROR, message="", http_status=200), WORST.usd, WORST.usd),
        (Failure(kind=FailureKind.AMBIGUOUS, message=""), WORST.usd, WORST.usd),
        (Failure(kind=FailureKind.RATE_LIMITED, message="", http_status=429), 0, 0),
    ],
    ids=[
        "server error",
        "refused after it was made",
        "error in a 200",
        "broken stream",
        "no answer",
        "not taken",
    ],
)
def test_what_a_failure_costs(failure: Failure, usd: Decimal, most_usd: Decimal) -> None:
    """A whole 5xx or a refusal costs 0, at most the worst case."""
    cost = cost_of(failure)
    assert (cost.usd, cost.most_usd, cost.basis) == (usd, most_usd, "estimated")


def test_without_a_price_a_server_error_has_no_known_cost() -> None:
    failure = Failure(kind=FailureKind.SERVER_ERROR, message="", http_status=500)
    unknown = Cost(usd=None, basis="unknown")
    cost = cost_of_answer(PRICES, REQUEST, Answer(result=failure), worst_case=unknown)
    assert cost == unknown


def test_an_estimate_has_a_bound_and_a_count_is_exact() -> None:
    """An estimate leaves out the prompt; the answer's tokens leave out nothing."""
    image = GeneratedImage(data=b"", format="png", width=1024, height=1024)
    estimated = cost_of(image)
    assert estimated.usd is not None
    assert estimated.most_usd == WORST.usd
    assert WORST.usd is not None
    assert estimated.usd < WORST.usd
    tokens = TokenUsage(input_tokens=10, output_tokens=272)
    metered = cost_of(
        GeneratedImage(data=b"", format="png", width=1024, height=1024, tokens=tokens)
    )
    assert metered.most_usd == metered.usd


def drawn(**answer: Any) -> GeneratedImage:
    """The svg in an answer with these fields."""
    svg = "<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'></svg>"
    usage = {"input_tokens": 10, "output_tokens": 272, "total_tokens": 282}
    body = {"data": [{"b64_json": svg}], "usage": usage, **answer}
    result = read_answer(body, AnswerHead(http_status=200, headers={}, now=0))
    assert isinstance(result, GeneratedImage)
    return result


def test_an_svg_s_author_is_paid_too() -> None:
    """By its own rates where it has any; otherwise the cost is unknown, and not that of a part."""
    rates = {"usd_per_million_tokens": {"text_input": 1, "text_output": 10}}
    prices = PRICES.with_overrides({"author-1": rates})
    alone, both = cost_of(drawn(), prices), cost_of(drawn(svg_usage=AUTHOR), prices)
    assert alone.usd is not None
    assert (both.usd, both.basis) == (alone.usd + Decimal("0.021"), "metered")
    assert cost_of(drawn(svg_usage=AUTHOR)) == Cost(usd=None, basis="unknown")
    assert cost_of(drawn(svg_usage={"total_tokens": 5}), prices).usd is None
    billed = drawn(svg_usage=AUTHOR, usage={"input_tokens": 10, "output_tokens": 272, "cost": 0.05})
    assert (cost_of(billed).usd, cost_of(billed).basis) == (Decimal("0.05"), "reported")


def test_an_svg_s_author_is_on_record() -> None:
    result = result_of_answer(
        Answer(result=drawn(svg_usage=AUTHOR)),
        WORST,
        sandbox=False,
        finished_at=datetime.now(timezone.utc),
    )
    assert result.svg == SvgUsage(
        model="author-1", input_tokens=1000, output_tokens=2000, total_tokens=3000
    )
    assert result_of(result_columns(result)) == result


@pytest.mark.parametrize(
    ("usd", "text"),
    [
        ("0", "$0.00"),
        ("0.0423", "$0.0423"),
        ("0.04", "$0.04"),
        ("1.1504", "$1.1504"),
        ("1234.5", "$1,234.50"),
        ("0.00004", "$0.00"),
        ("0.99999", "$1.00"),
    ],
)
def test_an_amount_has_two_decimals_or_four(usd: str, text: str) -> None:
    """Four where it is not whole cents, so that the cost of a single image can be told."""
    assert usd_text(Decimal(usd)) == text


def test_both_figures_are_shown_where_they_differ() -> None:
    """`$1.23, at most $1.89`, also at list price in the sandbox, and summed over passes."""
    one = Totals(cost_usd=Decimal("1.23"), cost_usd_max=Decimal("1.89"))
    same = Totals(cost_usd=Decimal(1), cost_usd_max=Decimal("1.00001"))
    assert cost_text(one, sandbox=False) == "$1.23, at most $1.89"
    assert cost_text(same, sandbox=False) == "$1.00"
    assert cost_text(one, same, sandbox=False) == "$2.23, at most $2.89"
    listed = Totals(list_price_usd=Decimal("1.23"), list_price_usd_max=Decimal("1.89"))
    assert cost_text(listed, sandbox=True) == (
        "$0.00 (sandbox; $1.23, at most $1.89 at list price)"
    )
