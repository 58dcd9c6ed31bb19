"""The price list: which price a model has, where a cost comes from, and its worst case."""

from datetime import date
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagster_imagegen.engine.attempt import Cost, TokenUsage
from dagster_imagegen.engine.errors import ConfigurationError
from dagster_imagegen.engine.money.price import (
    PARTIAL_IMAGE_TOKENS,
    PROMPT_OVERHEAD_TOKENS,
    ModelPrice,
    TokenRates,
)
from dagster_imagegen.engine.money.price_list import PriceList
from dagster_imagegen.engine.request import ImageRequest
from dagster_imagegen.sandbox import metering

PRICES = PriceList.default()
UNKNOWN = Cost(usd=None, basis="unknown")


def worst_case(prices: PriceList, request: ImageRequest) -> Cost:
    return prices.bounds(request)[1]


def range_usd(prices: PriceList, request: ImageRequest) -> tuple[Decimal, Decimal] | None:
    least, most = prices.bounds(request)
    return None if least.usd is None or most.usd is None else (least.usd, most.usd)


def ask(model: str, **changes: Any) -> ImageRequest:
    fields: dict[str, Any] = {"endpoint_id": "here", "prompt": "a mug", **changes}
    return ImageRequest(model=model, **fields)


def usd(text: str) -> Decimal:
    return Decimal(text)


def test_the_reference_s_own_example():
    """12 text tokens at 5 and 4160 image tokens at 40 USD a million."""
    tokens = TokenUsage(
        input_tokens=12, total_tokens=4172, input_text_tokens=12, output_tokens=4160
    )
    assert PRICES.cost("gpt-image-1", tokens=tokens) == Cost(
        usd=usd("0.16646"), basis="metered", source="OpenAI API pricing", as_of=date(2026, 11, 22)
    )


@pytest.mark.parametrize(
    ("model", "rates"),
    [
        ("gpt-image-1", "5 1.25 10 2.5 40 None"),
        ("gpt-image-1-mini", "2 0.2 2.5 0.25 8 None"),
        ("gpt-image-1.5", "5 1.25 8 2 32 10"),
        ("chatgpt-image-latest", "5 1.25 8 2 32 10"),
        ("gpt-image-2", "5 1.25 8 2 30 None"),
        ("gpt-image-2.5-flash", "5 1.25 8 2 30 None"),
        ("gpt-image-2.6-flash", "5 1.25 8 2 30 None"),
    ],
)
def test_the_published_rates(model: str, rates: str):
    """As they stood on the day that the file names."""
    price = PRICES.find(model)
    assert price is not None
    assert price.usd_per_million_tokens is not None
    assert " ".join(str(rate) for rate in vars(price.usd_per_million_tokens).values()) == rates


@pytest.mark.parametrize(
    ("model", "size", "tokens"),
    [
        *[
            (model, size, tokens)
            for model in ("gpt-image-1", "gpt-image-1-mini", "gpt-image-1.5")
            for size, tokens in {
                "1024x1024": [272, 1056, 4160],
                "1024x1536": [408, 1584, 6240],
                "1536x1024": [400, 1568, 6208],
            }.items()
        ],
        ("gpt-image-2", "1024x1024", [196, 1756, 7024]),
        ("gpt-image-2", "1536x1024", [158, 1372, 5488]),
        ("gpt-image-2", "1024x1536", [158, 1372, 5488]),
        ("gpt-image-2", "3840x2160", [371, 3336, 13342]),
        ("gpt-image-2", "2160x3840", [371, 3336, 13342]),
        ("gpt-image-2.5-x", "1024x1024", [196, 439, 1756, 3122, 7024]),
        ("gpt-image-2.5-x", "1536x1024", [158, 343, 1372, 2459, 5488]),
    ],
)
def test_the_published_tokens(model: str, size: str, tokens: list[int]):
    """In the order of the qualities, the dearest last."""
    price = PRICES.find(model)
    assert price is not None
    qualities = ["low", "medium", "high", "xhigh", "max"][: len(tokens)]
    assert dict(price.output_tokens[size]) == dict(zip(qualities, tokens, strict=True))


@pytest.mark.parametrize(
    ("model", "like"),
    [
        ("gpt-image-1-2025-04-15", "gpt-image-1"),
        ("gpt-image-1-mini-2025-10-06", "gpt-image-1-mini"),
        ("gpt-image-1.5-2025-12-16", "gpt-image-1.5"),
        ("openai/gpt-image-1.5-2025-12-16", "gpt-image-1.5"),
        ("openai-gpt-image-1-mini", "gpt-image-1-mini"),
        ("gpt-image-2.5", "gpt-image-2.5-x"),
    ],
)
def test_a_model_is_found_by_other_names_of_it(model: str, like: str):
    """A snapshot has the price of its model, and so has the name that a gateway gives it."""
    found, expected = PRICES.find(model), PRICES.find(like)
    assert found is not None
    assert expected is not None
    assert found.usd_per_million_tokens == expected.usd_per_million_tokens


@pytest.mark.parametrize(
    "model",
    [
        "gpt-image-3",
        "gpt-image-10",
        "gpt-image-1-large",
        "gpt-image-1.7",
        "gpt-image-2-mini",
        "gpt-image-2.7-x",
        "gpt-image-2.55",
        "gpt-image-1-2025",
        "my-gpt-image-1",
        "azure/gpt-image-1",
        "openai-gpt-image-3",
        "GPT-IMAGE-1",
        "flux",
        "",
    ],
)
def test_a_model_whose_name_is_only_similar_has_no_price(model: str):
    """Unknown is unknown: no cost, no estimate and no worst case, never 0."""
    assert PRICES.cost(model, tokens=TokenUsage(input_tokens=9, output_tokens=9)) == UNKNOWN
    assert worst_case(PRICES, ask(model)) == UNKNOWN
    assert range_usd(PRICES, ask(model)) is None


def test_digitalocean_s_prices_are_not_presented_as_fact():
    """Two public lists give OpenAI's prices; no bill has confirmed them."""
    cost = PRICES.cost("openai-gpt-image-1", size="1024x1024", quality="low")
    assert cost.usd == usd("0.01088")
    assert cost.source == "OpenAI API pricing (unverified for DigitalOcean)"


COUNTED = TokenUsage(input_tokens=10, output_tokens=272, total_tokens=282)


def test_the_best_source_decides():
    """The reported cost, else the reported tokens, else the table, else unknown."""
    known: dict[str, Any] = {"size": "1024x1024", "quality": "high"}
    cost = PRICES.cost("gpt-image-1", reported_usd=usd("0.02"), tokens=COUNTED, **known)
    assert (cost.usd, cost.basis) == (usd("0.02"), "reported")
    cost = PRICES.cost("gpt-image-1", tokens=COUNTED, **known)
    assert (cost.usd, cost.basis) == (usd("0.01093"), "metered")
    cost = PRICES.cost("gpt-image-1", **known)
    assert (cost.usd, cost.basis) == (usd("0.1664"), "estimated")
    assert PRICES.cost("gpt-image-1", size="1024x1024", quality="auto") == UNKNOWN
    assert PRICES.cost("gpt-image-1", size=None, quality="low") == UNKNOWN
    assert PRICES.cost("gpt-image-1", size="512x512", quality="low") == UNKNOWN
    assert PRICES.cost("flux", reported_usd=usd("0.07")).basis == "reported"


@pytest.mark.parametrize("reported", ["0", "-1", "NaN", "Infinity", "1e9", "1e-11"])
def test_a_bill_that_cannot_be_is_none(reported: str):
    """A reported 0 comes from servers that do not count; the rest from broken ones."""
    cost = PRICES.cost("gpt-image-1", reported_usd=usd(reported), tokens=COUNTED)
    assert cost.basis == "metered"


def test_a_bill_is_kept_to_the_decimals_of_the_usage_table():
    """xAI's ticks fit exactly; what is finer is rounded once."""
    assert PRICES.cost("x", reported_usd=usd("0.0200000001")).usd == usd("0.0200000001")
    assert PRICES.cost("x", reported_usd=usd("0.12345678916")).usd == usd("0.1234567892")


@pytest.mark.parametrize(
    "tokens",
    [
        TokenUsage(),
        TokenUsage(input_tokens=0, output_tokens=0, total_tokens=0),
        TokenUsage(input_tokens=12, total_tokens=12),
        TokenUsage(input_tokens=12, output_tokens=0),
        TokenUsage(input_tokens=12),
        TokenUsage(output_tokens=4160),
        TokenUsage(total_tokens=4172),
        TokenUsage(input_tokens=-1, output_tokens=4160),
    ],
)
def test_usage_that_counts_nothing_is_not_free(tokens: TokenUsage):
    """Some proxies report zeros; the table applies then, or the cost is unknown."""
    assert PRICES.cost("gpt-image-1", tokens=tokens) == UNKNOWN
    cost = PRICES.cost("gpt-image-1", tokens=tokens, size="1024x1024", quality="low")
    assert cost.basis == "estimated"


def test_a_refusal_can_be_billed_for_its_prompt_alone():
    """An answer without an image needs no output tokens."""
    tokens = TokenUsage(input_tokens=20, output_tokens=0, total_tokens=20)
    assert PRICES.cost("gpt-image-1", tokens=tokens, image_made=False).usd == usd("0.0001")
    zeros = TokenUsage(input_tokens=0, output_tokens=0, total_tokens=0)
    assert PRICES.cost("gpt-image-1", tokens=zeros, image_made=False) == UNKNOWN


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        # All input is text and all output image, unless details say otherwise.
        ({"input_tokens": 100, "output_tokens": 1000}, 100 * 5 + 1000 * 32),
        ({"input_tokens": 100, "total_tokens": 1100}, 100 * 5 + 1000 * 32),
        ({"total_tokens": 1100, "output_tokens": 1000}, 100 * 5 + 1000 * 32),
        (
            {"input_tokens": 100, "input_text_tokens": 60, "output_tokens": 1000},
            60 * 5 + 40 * 8 + 1000 * 32,
        ),
        (
            {"input_tokens": 100, "input_image_tokens": 40, "output_tokens": 1000},
            60 * 5 + 40 * 8 + 1000 * 32,
        ),
        (
            {"input_text_tokens": 60, "input_image_tokens": 40, "output_image_tokens": 1000},
            60 * 5 + 40 * 8 + 1000 * 32,
        ),
        (
            {"input_tokens": 100, "output_tokens": 1000, "output_text_tokens": 200},
            100 * 5 + 800 * 32 + 200 * 10,
        ),
        (
            {
                "input_tokens": 100,
                "output_tokens": 1000,
                "output_image_tokens": 700,
                "output_text_tokens": 200,
            },
            100 * 5 + 800 * 32 + 200 * 10,
        ),
        (
            {"input_tokens": 100, "input_cached_tokens": 80, "output_tokens": 1000},
            20 * 5 + 80 * Fraction(5, 4) + 1000 * 32,
        ),
        (
            {
                "input_tokens": 100,
                "input_image_tokens": 40,
                "input_cached_tokens": 70,
                "output_tokens": 1000,
            },
            60 * Fraction(5, 4) + 10 * 2 + 30 * 8 + 1000 * 32,
        ),
        (
            {"input_tokens": 100, "input_cached_tokens": 500, "output_tokens": 1000},
            100 * Fraction(5, 4) + 1000 * 32,
        ),
    ],
)
def test_details_decide_where_they_are_reported(tokens: dict[str, int], expected: Fraction):
    """USD millionths of gpt-image-1.5, by hand."""
    cost = PRICES.cost("gpt-image-1.5", tokens=TokenUsage(**tokens))
    assert cost.basis == "metered"
    assert cost.usd is not None
    assert Fraction(cost.usd) * 10**6 == expected


def test_tokens_without_a_rate_are_not_free():
    """Output text of gpt-image-1 costs what an image does; cached input what other input does."""
    tokens = TokenUsage(input_tokens=100, output_tokens=50, output_text_tokens=50)
    assert PRICES.cost("gpt-image-1", tokens=tokens, image_made=False).usd == usd("0.0025")
    prices = PRICES.with_overrides(
        {
            "flux": ModelPrice(
                usd_per_million_tokens=TokenRates(text_input=usd("1"), image_output=usd("2"))
            )
        }
    )
    cached = TokenUsage(input_tokens=100, input_cached_tokens=100, output_tokens=50)
    assert prices.cost("flux", tokens=cached).usd == usd("0.0002")
    pictured = TokenUsage(input_tokens=100, input_image_tokens=1, output_tokens=50)
    assert prices.cost("flux", tokens=pictured) == UNKNOWN


def test_2_6_is_metered_but_neither_estimated_nor_bounded():
    """Its tokens are not published, and a formula would be a guess."""
    assert PRICES.cost("gpt-image-2.6-x", tokens=COUNTED).usd == usd("0.00821")
    assert PRICES.cost("gpt-image-2.6-x", size="1024x1024", quality="low") == UNKNOWN
    assert worst_case(PRICES, ask("gpt-image-2.6-x", size="1024x1024", quality="low")) == UNKNOWN


PROMPT_COST = 5 * (5 + PROMPT_OVERHEAD_TOKENS)
"""Of "a mug", at most, in millionths."""


@pytest.mark.parametrize(
    ("model", "changes", "tokens"),
    [
        ("gpt-image-1", {"size": "1024x1024", "quality": "low"}, 272 * 40),
        ("gpt-image-1", {"size": "1024x1024"}, 4160 * 40),
        ("gpt-image-1", {"size": "1536x1024", "quality": "auto"}, 6208 * 40),
        ("gpt-image-1", {"quality": "low"}, 408 * 40),
        ("gpt-image-1", {"size": None}, 6240 * 40),
        ("gpt-image-2", {}, 13342 * 30),
        ("gpt-image-2.5-x", {}, 7024 * 30),
        ("gpt-image-1", {"quality": "low", "stream": True, "partial_images": 3}, 708 * 40),
    ],
)
def test_the_worst_case_is_the_most_expensive_choice(
    model: str, changes: dict[str, Any], tokens: int
):
    """The endpoint may take the most expensive choice, and bill every partial image."""
    cost = worst_case(PRICES, ask(model, **changes))
    assert cost.usd == Decimal(tokens + PROMPT_COST).scaleb(-6)
    assert cost.basis == "estimated"


@pytest.mark.parametrize("changes", [{"size": "512x512"}, {"quality": "ultra"}])
def test_what_the_table_does_not_name_is_not_bounded(changes: dict[str, Any]):
    """A size or quality that the request names and no price list has is unknown."""
    assert worst_case(PRICES, ask("gpt-image-1", **changes)) == UNKNOWN
    assert range_usd(PRICES, ask("gpt-image-1", **changes)) is None


@pytest.mark.parametrize(
    ("model", "size", "quality", "tokens", "up_to"),
    [
        # Within 1536x1024; the square, which is smaller, is dearer.
        ("gpt-image-2", "1200x1008", "high", 7024, "1536x1024"),
        ("gpt-image-2.5-flare", "1024x1536", "max", 7024, "1536x1024"),
        ("gpt-image-2.5-flare", "1024x1536", "medium", 439, "1536x1024"),
        ("gpt-image-2.5-flare", "512x512", "low", 196, "1024x1024"),
        ("gpt-image-2", "1152x2048", "low", 371, "3840x2160"),
        ("openai/gpt-image-2", "2048x1152", "medium", 3336, "3840x2160"),
        ("gpt-image-2", "2048x2048", "auto", 13342, "3840x2160"),
    ],
)
def test_a_size_between_the_published_ones_is_bounded(
    model: str, size: str, quality: str, tokens: int, up_to: str
):
    """By the next larger one; the source says that it is a bound, and no estimate is made of it."""
    least, most = PRICES.bounds(ask(model, size=size, quality=quality))
    assert least.usd == 0
    assert most.usd == Decimal(tokens * 30 + PROMPT_COST).scaleb(-6)
    assert f"({size} is not published: bounded by the sizes up to {up_to})" in (most.source or "")
    assert PRICES.cost(model, size=size, quality=quality) == UNKNOWN


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ("gpt-image-2", {"size": "3840x2176"}),  # larger than all
        ("gpt-image-2.5-flare", {"size": "2048x1152"}),
        ("gpt-image-2", {"size": "1200x1008", "quality": "xhigh"}),
        ("gpt-image-2", {"size": "large"}),
        ("gpt-image-1", {"size": "1000x1000"}),  # takes three sizes only
        ("gpt-image-2.6-x", {"size": "1024x1024"}),
    ],
)
def test_a_size_that_no_published_one_contains_is_not_bounded(model: str, changes: dict[str, Any]):
    """Unknown is unknown."""
    assert worst_case(PRICES, ask(model, **changes)) == UNKNOWN


def test_a_figure_of_third_parties_says_so():
    """Portrait sizes of gpt-image-2 are in no list of OpenAI's."""
    portrait = PRICES.cost("gpt-image-2", size="1024x1536", quality="low")
    assert portrait.usd == usd("0.00474")
    assert portrait.source == (
        "OpenAI API pricing (portrait as landscape, by third parties, unverified)"
    )
    landscape = PRICES.cost("gpt-image-2", size="1536x1024", quality="low")
    assert landscape.source == "OpenAI API pricing"
    own = PRICES.with_overrides({"gpt-image-2": {"output_tokens": {"1024x1536": {"low": 9}}}})
    cost = own.cost("gpt-image-2", size="1024x1536", quality="low")
    assert cost.source == "prices setting, else OpenAI API pricing"


@pytest.mark.parametrize(
    "changes",
    [
        {"output_format": "gif"},
        {"output_format": "svg"},
        {"frame_count": 16},
        {"frame_duration_ms": 50},
        {"svg": '{"model":"m"}'},
        {"complexity": "high"},
        {"extra_body": '{"frame_count":16}'},
    ],
)
def test_what_has_no_published_price_has_no_worst_case(changes: dict[str, Any]):
    """Sixteen frames cost more than the one image that the token table is for. A price by the image
    is the user's own word for the whole."""
    request = ask("gpt-image-2.5-flare", size="1024x1024", quality="low", **changes)
    assert PRICES.bounds(request) == (UNKNOWN, UNKNOWN)
    flat = PRICES.with_overrides({"*": {"usd_per_image": {"*": {"*": 0.5}}}})
    assert worst_case(flat, request).usd == usd("0.5")


TODAY = date(2026, 11, 25)


@pytest.mark.parametrize(
    ("model", "today", "said"),
    [
        ("gpt-image-1-mini", TODAY, "OpenAI shuts it down on 2026-12-01"),
        ("gpt-image-1.5-2025-12-16", TODAY, "OpenAI shuts it down on 2026-12-01"),
        ("chatgpt-image-latest", date(2026, 12, 1), "OpenAI shut it down on 2026-12-01"),
        ("gpt-image-1", TODAY, "OpenAI shut it down on 2026-10-23"),
        ("dall-e-3", TODAY, "OpenAI shut it down on 2026-05-12"),
        ("openai-gpt-image-1-mini", TODAY, "unverified for DigitalOcean"),
        # What a gateway serves beyond the date is seen when it is asked.
        ("openai-gpt-image-1", TODAY, None),
        ("gpt-image-2", TODAY, None),
        ("gpt-image-2.5-flare", TODAY, None),
        ("my-gpt-image-1", TODAY, None),
    ],
)
def test_a_model_that_ends_has_a_warning(model: str, today: date, said: str | None):
    """With the date, its source and the successors."""
    life = PRICES.life(model)
    warning = life.warning(model, today) if life else None
    if said is None:
        assert warning is None
        return
    assert warning is not None
    assert warning.startswith(f"model '{model}': OpenAI shut")
    assert said in warning
    assert "OpenAI's deprecation page" in warning
    assert "gpt-image-2.5-flare" in warning


def test_a_gateway_s_missing_model_is_explained_with_a_reservation():
    """The date is the provider's; the gateway may have another."""
    life = PRICES.life("openai-gpt-image-1")
    assert life is not None
    assert "unverified for DigitalOcean" in life.explanation(TODAY)


def test_a_prompt_is_bounded_by_its_bytes():
    """Characters are no bound: one emoji can be four tokens."""
    short, long = (
        worst_case(PRICES, ask("gpt-image-1", prompt=prompt)).usd for prompt in ("x", "🫖")
    )
    assert short is not None
    assert long is not None
    assert long - short == usd("0.000015")


def test_the_plan_s_range_goes_from_the_cheapest_to_the_worst_case():
    """One amount only where all is named."""
    assert range_usd(PRICES, ask("gpt-image-1", partial_images=1)) == (
        usd("0.01088"),
        worst_case(PRICES, ask("gpt-image-1", partial_images=1)).usd,
    )


PER_IMAGE = {
    "flux-*": {
        "usd_per_image": {"1024x1024": {"hd": 0.08, "*": "0.04"}, "*": {"*": 0.1}},
        "source": "contract",
        "as_of": "2026-01-31",
    }
}


@pytest.mark.parametrize(
    ("size", "quality", "price"),
    [
        ("1024x1024", "hd", "0.08"),
        ("1024x1024", "low", "0.04"),
        ("512x512", "hd", "0.1"),
        ("1024x1024", None, None),
        (None, "hd", None),
    ],
)
def test_a_price_by_the_image(size: str | None, quality: str | None, price: str | None):
    """The most specific entry applies, whatever usage is reported; `auto` has several."""
    cost = PRICES.with_overrides(PER_IMAGE).cost(
        "flux-pro", tokens=COUNTED, size=size, quality=quality, partial_images=2
    )
    if price is None:
        assert cost == UNKNOWN
    else:
        assert cost == Cost(
            usd=usd(price), basis="estimated", source="contract", as_of=date(2026, 1, 31)
        )


def test_a_price_by_the_image_bounds_what_is_open():
    """The range is that of the possible entries; the prompt adds nothing."""
    prices = PRICES.with_overrides(PER_IMAGE)
    assert worst_case(prices, ask("flux-pro")).usd == usd("0.1")
    assert worst_case(prices, ask("flux-pro", size="512x512")).usd == usd("0.1")
    assert range_usd(prices, ask("flux-pro", quality="hd")) == (usd("0.08"), usd("0.1"))
    flat = PRICES.with_overrides({"*": {"usd_per_image": {"*": {"*": "0.03"}}}})
    assert flat.cost("anything").usd == usd("0.03")
    assert flat.find("gpt-image-1") == flat.find("anything")


def test_a_user_s_price_leaves_the_rest_as_listed():
    """A contract's rate for images out keeps the token table, and says where each comes from."""
    prices = PRICES.with_overrides(
        {
            "gpt-image-1": {"usd_per_million_tokens": {"image_output": 20}},
            "gpt-image-2.6-x": {"output_tokens": {"1024x1024": {"low": 700}}},
        }
    )
    cost = prices.cost("openai-gpt-image-1", tokens=COUNTED)
    assert cost.usd == usd("0.00549")
    assert cost.source == ("prices setting, else OpenAI API pricing (unverified for DigitalOcean)")
    assert worst_case(prices, ask("gpt-image-1", size="1024x1024", quality="low")).usd == (
        Decimal(272 * 20 + PROMPT_COST).scaleb(-6)
    )
    known = prices.cost("gpt-image-2.6-x", size="1024x1024", quality="low")
    assert known.usd == usd("0.021")
    assert known.as_of == date(2026, 11, 22)
    assert PRICES.cost("gpt-image-1", tokens=COUNTED).usd == usd("0.01093")


@pytest.mark.parametrize(
    ("price", "message"),
    [
        ({}, r'prices\["m"\] must have a price'),
        ({"usd_per_imag": {}}, r'\["m"\].usd_per_imag is not .*did you mean "usd_per_image"'),
        (
            {"usd_per_million_tokens": {"image_out": 3}},
            r'usd_per_million_tokens.image_out is not .*did you mean "image_output"',
        ),
        (
            {"usd_per_million_tokens": {"text_input": -1}},
            "text_input must be greater than or equal to 0, got -1",
        ),
        (
            {"usd_per_million_tokens": {"text_input": "NaN"}},
            "text_input must be a finite number, got 'NaN'",
        ),
        ({"usd_per_million_tokens": {"text_input": "0.00001"}}, "4 decimal places"),
        ({"usd_per_image": {"*": 0.04}}, r"usd_per_image.\* must be a .*, got 0.04"),
        ({"output_tokens": {"*": {"*": 0}}}, r"output_tokens.\*.\* must be greater than 0, got 0"),
        (
            {"usd_per_image": {"*": {"*": 1}}, "usd_per_million_tokens": {"text_input": 1}},
            "not both",
        ),
        (5, r'prices\["m"\] must be .*, got 5'),
    ],
)
def test_an_invalid_price_is_an_error(price: Any, message: str):
    """The message has place, rule and value, before any run uses the price."""
    with pytest.raises(ConfigurationError, match=message):
        PRICES.with_overrides({"m": price})


COUNTS = st.integers(0, 10**9)
TABLED = [
    "gpt-image-1",
    "openai-gpt-image-1",
    "gpt-image-1-mini",
    "gpt-image-1.5",
    "gpt-image-2",
    "gpt-image-2.5-x",
]


def metered(model: str, **tokens: int) -> Decimal:
    cost = PRICES.cost(model, tokens=TokenUsage(**tokens), image_made=False)
    return cost.usd or Decimal(0)


@settings(max_examples=80)
@given(st.sampled_from(TABLED), *[COUNTS] * 4)
def test_metered_costs_add_up_and_never_fall(model: str, a: int, b: int, c: int, d: int):
    """The bill of two images is the sum of their bills, exactly; more tokens never cost less."""
    both = metered(model, input_tokens=a + b, output_tokens=c + d)
    one = metered(model, input_tokens=a, output_tokens=c)
    other = metered(model, input_tokens=b, output_tokens=d)
    assert Fraction(both) == Fraction(one) + Fraction(other)
    assert both >= max(one, other)


@settings(max_examples=80)
@given(st.sampled_from(TABLED), COUNTS, COUNTS)
def test_money_is_exact_in_any_process(model: str, given_tokens: int, made: int):
    """Whatever decimal context the process has; and it fits the usage table's column."""
    with localcontext() as context:
        context.prec = 2
        usd = PRICES.cost(
            model, tokens=TokenUsage(input_tokens=given_tokens, output_tokens=made)
        ).usd
    price = PRICES.find(model)
    assert price is not None
    assert price.usd_per_million_tokens is not None
    rates = price.usd_per_million_tokens
    if made:
        assert usd is not None
        assert Fraction(usd) * 10**6 == (
            given_tokens * Fraction(rates.text_input or 0)
            + made * Fraction(rates.image_output or 0)
        )
        assert pa.array([usd], pa.decimal128(20, 10)).to_pylist() == [usd]


@settings(max_examples=150)
@given(st.data())
def test_no_answer_within_the_table_costs_more_than_its_worst_case(data: st.DataObject):
    """The amount reserved before sending is enough, whatever the endpoint chooses or reports."""
    model = data.draw(st.sampled_from(TABLED))
    price = PRICES.find(model)
    assert price is not None
    size = data.draw(st.sampled_from(sorted(price.output_tokens)))
    quality = data.draw(st.sampled_from(sorted(price.output_tokens[size])))
    partials = data.draw(st.integers(0, 3))
    prompt = data.draw(st.text(min_size=1, max_size=40))
    request = ask(
        model,
        prompt=prompt,
        size=data.draw(st.sampled_from([size, "auto", None])),
        quality=data.draw(st.sampled_from([quality, "auto", None])),
        stream=data.draw(st.booleans()),
        partial_images=partials,
    )
    put_in = data.draw(st.integers(0, len(prompt.encode()) + PROMPT_OVERHEAD_TOKENS))
    sent = data.draw(st.integers(0, partials))
    made = price.output_tokens[size][quality] + PARTIAL_IMAGE_TOKENS * sent
    tokens = data.draw(
        st.sampled_from(
            [
                TokenUsage(input_tokens=put_in, output_tokens=made),
                TokenUsage(input_tokens=put_in, total_tokens=put_in + made),
                TokenUsage(
                    input_tokens=put_in,
                    input_text_tokens=put_in,
                    input_cached_tokens=put_in // 2,
                    output_tokens=made,
                    output_image_tokens=made,
                    output_text_tokens=0,
                ),
            ]
        )
    )
    cost, worst = PRICES.cost(model, tokens=tokens).usd, worst_case(PRICES, request).usd
    bounds = range_usd(PRICES, request)
    assert cost is not None
    assert worst is not None
    assert bounds is not None
    assert bounds[0] <= cost <= worst == bounds[1]
    estimate = PRICES.cost(model, size=size, quality=quality, partial_images=sent).usd
    assert estimate is not None
    assert bounds[0] <= estimate <= worst


@settings(max_examples=80)
@given(st.sampled_from(TABLED), COUNTS, COUNTS)
def test_the_sandbox_bills_as_the_price_list_does(model: str, put_in: int, made: int):
    """Two lists written independently agree on every amount."""
    assert metered(model, input_tokens=put_in, output_tokens=made) == metering.cost_usd(
        model, input_count=put_in, output_count=made
    )
