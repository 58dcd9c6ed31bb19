"""`reconcile`: the usage table against what the provider says that it has charged."""

from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path

import click
import pyarrow.compute as pc

from dagster_imagegen.audit.provider_export import read_export
from dagster_imagegen.audit.reconciliation import Reconciliation, Tolerance, reconcile
from dagster_imagegen.cli import exit_codes
from dagster_imagegen.cli.options import StorageChoice, open_engine, storage_options
from dagster_imagegen.cli.output import Report, Table, json_option, show
from dagster_imagegen.engine.errors import ConfigurationError

_LINE = (
    "day",
    "model",
    "figure",
    "ours",
    "theirs",
    "difference",
    "least",
    "most",
    "unknown_requests",
    "verdict",
)
_UNKNOWN = ("started_at", "model", "attempt_id", "asset_key", "prompt_id", "cost_usd_max")


@click.command()
@click.argument("export", type=click.Path(path_type=Path))
@storage_options
@click.option("--tolerance-usd", default="0.01", show_default=True, help="Of a cost, in USD.")
@click.option("--tolerance-count", default="0", show_default=True, help="Of requests and tokens.")
@click.option(
    "--tolerance-share", default="0", show_default=True, help="Of any figure: 0.01 is 1%."
)
@click.option(
    "--rename", multiple=True, metavar="THEIRS=OURS", help="What a model of the export is here."
)
@click.option("--only-endpoint", metavar="ID", help="Only requests to this endpoint_id.")
@json_option
def command(
    *,
    export: Path,
    storage: StorageChoice,
    tolerance_usd: str,
    tolerance_count: str,
    tolerance_share: str,
    rename: Sequence[str],
    only_endpoint: str | None,
    as_json: bool,
) -> int:
    """Compare the usage table with the provider's export, by UTC day and model.

    EXPORT is a CSV file with the columns day and model, and at least one of cost_usd, requests and
    tokens; or OpenAI's costs export, grouped by line item. Sends and changes nothing.

    \b
    Examples:
      dagster-imagegen reconcile november.csv --storage s3://shop/imagegen
      dagster-imagegen reconcile costs.csv --storage /data/imagegen \\
        --tolerance-usd 0.50 --json
    """
    tolerance = Tolerance(
        usd=_amount("--tolerance-usd", tolerance_usd),
        count=_amount("--tolerance-count", tolerance_count),
        share=_amount("--tolerance-share", tolerance_share),
    )
    theirs = read_export(export, models=_renamed(rename))
    where = None if only_endpoint is None else pc.field("endpoint_id") == only_endpoint
    engine = open_engine(storage)
    found = engine.usage.scan(
        lambda usage: reconcile(usage, theirs, tolerance=tolerance, where=where)
    )
    show(_report(found), as_json=as_json)
    return exit_codes.FINE if found.agrees else exit_codes.FINDINGS


def _amount(option: str, text: str) -> Decimal:
    try:
        value = Decimal(text)
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite() or value < 0:
        raise ConfigurationError(f"{option} must be a number of at least 0, got {text}")
    return value


def _renamed(pairs: Sequence[str]) -> Mapping[str, str]:
    names: dict[str, str] = {}
    for pair in pairs:
        theirs, equals, ours = pair.partition("=")
        if not (theirs and equals and ours):
            raise ConfigurationError(f"--rename must be THEIRS=OURS, got {pair}")
        names[theirs] = ours
    return names


def _report(found: Reconciliation) -> Report:
    verdicts = ("matched", "may_be_unknown", "different", "ours_only", "theirs_only")
    facts: dict[str, object] = {
        "first_day_utc": found.first_day,
        "last_day_utc": found.last_day,
        **{verdict: found.count(verdict) for verdict in verdicts},
        "unknown_left_out": found.unknown_left_out,
    }
    lines = [[getattr(line, name) for name in _LINE] for line in found.lines]
    unknown = [[row[name] for name in _UNKNOWN] for row in found.unknown]
    return Report(
        facts=facts,
        tables=[
            Table(name="lines", columns=_LINE, rows=lines),
            Table(name="unknown_requests", columns=_UNKNOWN, rows=unknown),
        ],
    )
