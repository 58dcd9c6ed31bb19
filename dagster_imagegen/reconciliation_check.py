"""`build_reconciliation_check`: the usage table against the provider's export, as a check."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from dagster_imagegen.audit.provider_export import read_export
from dagster_imagegen.audit.reconciliation import Reconciliation, Tolerance, reconcile
from dagster_imagegen.calls import AssetKeyLike
from dagster_imagegen.event_size import cut
from dagster_imagegen.resource import resource_of

LINES_MAX = 40
"""The check shows this many lines that do not match: an event must stay small."""


def build_reconciliation_check(
    asset: AssetKeyLike | dg.AssetsDefinition | dg.AssetSpec,
    *,
    export: str | Path,
    tolerance: Tolerance | None = None,
    models: Mapping[str, str] | None = None,
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.WARN,
    resource_key: str = "imagegen",
) -> dg.AssetChecksDefinition:
    """Make the check `spending_reconciled` of an asset, such as the usage asset.

    It compares the whole usage table with the provider's export, by UTC day and model, and passes
    if every figure matches or can be explained by requests of unknown billing. It sends nothing.

    Args:
        asset: The asset that shows the check.
        export: A CSV file, read when the check runs: `day`, `model` and at least one of
            `cost_usd`, `requests` and `tokens`, or OpenAI's costs export.
        tolerance: How far two figures may be apart; by default a cent.
        models: Names of models in the export, to those of the usage table.
        severity: Of a failed check.
        resource_key: The key of the `ImageGenResource`.
    """

    @dg.asset_check(
        asset=asset.key if isinstance(asset, dg.AssetSpec) else asset,
        name="spending_reconciled",
        description="The usage table agrees with the provider's export.",
        required_resource_keys={resource_key},
    )
    def spending_reconciled(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        imagegen = resource_of(context, resource_key)
        theirs = read_export(export, models=models)
        with imagegen.open_engine() as engine:
            found = engine.usage.scan(lambda usage: reconcile(usage, theirs, tolerance=tolerance))
        return dg.AssetCheckResult(
            passed=found.agrees, severity=severity, metadata=_metadata(found)
        )

    return spending_reconciled


def _metadata(found: Reconciliation) -> dict[str, Any]:
    open_lines = [line for line in found.lines if line.verdict != "matched"]
    shown = [
        f"| {line.day} | {_cell(line.model)} | {line.figure} | {line.ours:f} | {line.theirs:f} "
        f"| {line.verdict} |"
        for line in open_lines[:LINES_MAX]
    ]
    head = ["| day (UTC) | model | figure | ours | theirs | verdict |", "|---|---|---|---|---|---|"]
    return {
        "imagegen/days": f"{found.first_day} to {found.last_day}",
        "imagegen/matched": found.count("matched"),
        "imagegen/not_matched": len(open_lines),
        "imagegen/unknown_requests": len(found.unknown) + found.unknown_left_out,
        "imagegen/differences": dg.MetadataValue.md("\n".join([*head, *shown])),
    }


def _cell(text: str) -> str:
    """A name from the export on one line of one cell."""
    return cut(" ".join(text.split()), characters=80, max_bytes=240).replace("|", "\\|")
