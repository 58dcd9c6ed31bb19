"""`models`: what the endpoint lists, with known prices and shutdown dates."""

from datetime import date
from decimal import Decimal

import click

from dagster_imagegen.cli import exit_codes
from dagster_imagegen.cli.options import (
    EndpointChoice,
    endpoint_options,
    open_endpoint,
    read_prices,
)
from dagster_imagegen.cli.output import Report, Table, json_option, show
from dagster_imagegen.engine.endpoint.models import ListedModel
from dagster_imagegen.engine.money.price_list import PriceList


@click.command()
@endpoint_options
@click.option("--priced", is_flag=True, help="Only models with a known price.")
@json_option
def command(*, endpoint: EndpointChoice, priced: bool, as_json: bool) -> int:
    """List the endpoint's models, with what the price list knows of each.

    The two amounts are of one image without its prompt, over all sizes and qualities.

    \b
    Example:
      IMAGEGEN_API_KEY=… dagster-imagegen models \\
        --endpoint https://api.openai.com/v1 --priced
    """
    listed = open_endpoint(endpoint).models()
    prices = PriceList.default()
    if endpoint.prices is not None:
        prices = prices.with_overrides(read_prices(endpoint.prices))
    rows = [_row(each, prices) for each in sorted(listed, key=lambda each: each.id)]
    table = Table(
        name="models",
        columns=(
            "model",
            "usd_least",
            "usd_most",
            "price_source",
            "as_of",
            "shutdown",
            "successor",
        ),
        rows=[row for row in rows if row[1] is not None or not priced],
    )
    show(Report(facts={"listed": len(listed)}, tables=[table]), as_json=as_json)
    return exit_codes.FINE


def _row(model: ListedModel, prices: PriceList) -> tuple[object, ...]:
    price, life = prices.find(model.id), prices.life(model.id)
    possible: list[Decimal] = [] if price is None else price.estimates(None, None, 0)
    ends: date | None = model.shutdown_on or (life and life.shutdown_on)
    return (
        model.id,
        min(possible, default=None),
        max(possible, default=None),
        price and price.source,
        price and price.as_of,
        ends,
        life and ", ".join(life.successors),
    )
