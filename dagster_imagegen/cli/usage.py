"""`usage`: the bill of a storage, grouped and filtered, as a table, CSV, Parquet or FOCUS."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from functools import reduce
from operator import and_
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
import pyarrow.compute as pc

from dagster_imagegen.audit.cost_table import DIMENSIONS, FURTHER_DIMENSIONS, cost_table, summed
from dagster_imagegen.audit.focus import Biller, write_focus
from dagster_imagegen.audit.report import report_html
from dagster_imagegen.audit.table_files import ENDINGS, check_target, write_batches
from dagster_imagegen.cli import exit_codes
from dagster_imagegen.cli.options import (
    StorageChoice,
    open_engine,
    read_prices,
    storage_options,
)
from dagster_imagegen.cli.output import Report, Table, json_option, show
from dagster_imagegen.cli.repriced import repriced_report, write_repriced
from dagster_imagegen.engine.engine import Engine
from dagster_imagegen.engine.errors import StorageError
from dagster_imagegen.engine.money.price_list import PriceList

DAY = click.DateTime(["%Y-%m-%d"])
FILTERS = ("asset", "partition", "model", "status", "run")
_COLUMNS = {"asset": "asset_key", "partition": "partition_key", "run": "root_run_id"}
_SHOWN = (
    "requests",
    "images",
    "images_kept",
    "unpriced_requests",
    "cost_usd",
    "cost_usd_max",
    "waste_usd",
    "cost_per_image_kept_usd",
)


def _filters(command: Any) -> Any:
    for name in reversed(FILTERS):
        text = f"Only rows of this {name}. May be given again."
        command = click.option(f"--{name}", multiple=True, metavar="NAME", help=text)(command)
    return command


@click.command()
@storage_options
@click.option(
    "--by",
    default="asset_key,model",
    show_default=True,
    metavar="NAMES",
    help=f"What to group by: {', '.join((*DIMENSIONS, *FURTHER_DIMENSIONS, 'tag:NAME'))}.",
)
@_filters
@click.option("--since", type=DAY, metavar="YYYY-MM-DD", help="Only from this day (UTC) on.")
@click.option("--until", type=DAY, metavar="YYYY-MM-DD", help="Only before this day (UTC).")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the table to this file: .csv, .parquet, or .html for the report.",
)
@click.option(
    "--prices",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A YAML file of prices by model, as the resource's `prices`: shows what the requests "
    "would cost at these beside what is on record. With --output, a line for each request.",
)
@click.option(
    "--focus",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the requests to this file in FOCUS 1.2: .csv or .parquet.",
)
@click.option("--provider", metavar="NAME", help="FOCUS: who bills, if not the endpoint's host.")
@click.option(
    "--billing-account", metavar="ID", help="FOCUS: the account that receives the invoice."
)
@json_option
def command(
    *,
    storage: StorageChoice,
    by: str,
    since: datetime | None,
    until: datetime | None,
    output: Path | None,
    prices: Path | None,
    focus: Path | None,
    provider: str | None,
    billing_account: str | None,
    as_json: bool,
    **filters: Sequence[str],
) -> int:
    """The bill: what was charged, and the most that may have been charged.

    Requests to the sandbox are counted, and never add to money. Nothing on record is changed.

    \b
    Examples:
      dagster-imagegen usage --storage s3://shop/imagegen
      dagster-imagegen usage --storage out --by asset_group,tag:team
      dagster-imagegen usage --storage out --by day,cause --asset hero \\
        --since 2026-11-01
      dagster-imagegen usage --storage out --output bill.html
      dagster-imagegen usage --storage out --prices next-year.yaml --by model
      dagster-imagegen usage --storage out --focus november.parquet \\
        --since 2026-11-01
    """
    if focus is None and (provider or billing_account):
        raise click.UsageError("--provider and --billing-account belong to --focus")
    _check_targets(output, focus=focus, prices=prices)
    names = [each.strip() for each in by.split(",") if each.strip()]
    where = _where(filters, since, until)
    listed = None if prices is None else PriceList.default().with_overrides(read_prices(prices))
    engine = open_engine(storage)
    if focus is not None:
        biller = Biller(provider=provider, account_id=billing_account)
        engine.usage.scan(lambda usage: write_focus(usage, focus, biller=biller, where=where))
    elif listed is not None and output is not None:
        write_repriced(engine, listed, output, where=where)
    elif listed is not None:
        show(repriced_report(engine, listed, by=names, where=where), as_json=as_json)
    elif output is not None:
        _write(_costs(engine, names, where, output), output, source=engine.usage_uri)
    else:
        show(_report(_costs(engine, names, where, None), names), as_json=as_json)
    return exit_codes.FINE


def _check_targets(output: Path | None, *, focus: Path | None, prices: Path | None) -> None:
    if focus is not None and (output is not None or prices is not None):
        raise click.UsageError("--focus writes what is on record; leave out --output and --prices")
    if focus is not None:
        check_target(focus, what="--focus")
    if output is not None:
        endings = (*ENDINGS, ".html") if prices is None else ENDINGS
        check_target(output, what="--output", endings=endings)


def _costs(
    engine: Engine, names: Sequence[str], where: pc.Expression | None, output: Path | None
) -> pa.Table:
    # Asked for or not: what costs money and what is the sandbox's are never one sum.
    keys = list(dict.fromkeys(("sandbox", *names)))
    if output is not None and output.suffix == ".html":
        keys = list(DIMENSIONS)
    return engine.usage.scan(lambda usage: cost_table(usage, by=keys, where=where))


def _where(
    filters: dict[str, Sequence[str]], since: datetime | None, until: datetime | None
) -> pc.Expression | None:
    terms = [
        pc.field(_COLUMNS.get(name, name)).isin(list(values))
        for name, values in filters.items()
        if values
    ]
    started = pc.field("started_at")
    if since is not None:
        terms.append(started >= pa.scalar(since.replace(tzinfo=timezone.utc)))
    if until is not None:
        terms.append(started < pa.scalar(until.replace(tzinfo=timezone.utc)))
    return reduce(and_, terms) if terms else None


def _report(costs: pa.Table, names: Sequence[str]) -> Report:
    paid = costs.filter(~pc.field("sandbox"))
    total = summed(paid, []).to_pylist()[0]
    sandbox = pc.sum(costs.filter(pc.field("sandbox"))["requests"]).as_py() or 0
    facts = {name: total[name] or 0 for name in _SHOWN[:-1]}
    if facts["unpriced_requests"]:
        facts["cost_usd_max"] = None  # There is no bound.
    rows = [[_shown(row, name) for name in (*names, *_SHOWN)] for row in paid.to_pylist()]
    table = Table(name="usage", columns=(*names, *_SHOWN), rows=rows)
    return Report(facts={**facts, "sandbox_requests": sandbox}, tables=[table])


def _shown(row: Mapping[str, Any], name: str) -> object:
    # With a request of unknown cost, the bounds of the others bound nothing.
    return None if name == "cost_usd_max" and row["unpriced_requests"] else row[name]


def _write(costs: pa.Table, output: Path, *, source: str) -> None:
    try:
        if output.suffix == ".html":
            html = report_html(costs, made_at=datetime.now(timezone.utc), source=source)
            output.write_text(html, "utf-8")
        else:
            write_batches(output, costs.schema, costs.to_batches())
    except OSError as error:
        raise StorageError(f"--output {output} cannot be written ({error})") from error
