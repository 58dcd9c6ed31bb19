"""What became of a prompt table in one run, by the record alone."""

from collections.abc import Mapping
from dataclasses import replace

import pyarrow.compute as pc

from dagster_imagegen.engine.attempt import IMAGE_MISSING, Attempt, Cost, Identity, Outcome, Result
from dagster_imagegen.engine.money.price_list import PriceList
from dagster_imagegen.engine.record import Record
from dagster_imagegen.engine.record.parts import read_rows
from dagster_imagegen.engine.record.schema import attempt_of
from dagster_imagegen.engine.run.outcomes import Outcomes
from dagster_imagegen.engine.run.plan import Plan
from dagster_imagegen.engine.run.progress import Totals
from dagster_imagegen.engine.storage import Storage

_COLUMNS = (
    *(
        "attempt_id",
        "fingerprint",
        "asset_key",
        "partition_key",
        "root_run_id",
        "status",
        "billing",
        "cost_usd",
    ),
    *("cost_usd_max", "cost_basis", "input_tokens", "output_tokens", "total_tokens", "model"),
    *("input_text_tokens", "input_image_tokens", "input_cached_tokens", "output_text_tokens"),
    *("output_image_tokens", "size", "quality", "answered_size", "answered_quality"),
)


def outcomes_on_record(plan: Plan, root_run_id: str, deferred: Mapping[str, Outcome]) -> Outcomes:
    """The outcome of each image that a run has one for, by fingerprint.

    `plan` was made after its passes. `deferred` are the outcomes that they left to a later run,
    which are on no record. An image that is not in the result was not worked on to the end.
    """
    found = {
        job.request.fingerprint: deferred.get(job.request.fingerprint) or job.tried
        if job.known is None
        else _of_run(job.known, root_run_id)
        for job in plan.jobs
    }
    return Outcomes(
        paid=replace(plan.paid, made_by=root_run_id),
        found={key: outcome for key, outcome in found.items() if outcome is not None},
    )


def _of_run(known: Outcome, root_run_id: str) -> Outcome:
    """As the run's own pass reported it: what it made itself is `generated`, not `reused`."""
    attempt = known.attempt
    if attempt is None or attempt.result is None or known.error_code == IMAGE_MISSING:
        return known
    if attempt.identity.root_run_id != root_run_id:
        return known
    return replace(Outcome.of(attempt), fingerprint=known.fingerprint)


def run_totals(
    record: Record, identity: Identity, *, storage: Storage, prices: PriceList
) -> Totals:
    """What a run has caused for an asset and a partition, its retries and re-executions included.

    `storage` holds the parts of `record`.
    """
    wanted = pc.field("root_run_id") == identity.root_run_id
    for name in ("asset_key", "partition_key"):
        value = getattr(identity, name)
        wanted &= pc.field(name).is_null() if value is None else pc.field(name) == value
    rows = read_rows(
        record.parts_of_run(identity.root_run_id),
        record.open_attempts,
        storage=storage,
        columns=_COLUMNS,
        where=wanted,
    )
    totals = Totals()
    for row in rows.filter(wanted).to_pylist():  # It has filtered the parts, and not the rest.
        attempt = attempt_of(row)
        totals.requests += 1
        if attempt.result is not None:
            price = _list_price(attempt, attempt.result, prices)
            totals.add(attempt.result, list_price=price)
    return totals


def _list_price(attempt: Attempt, result: Result, prices: PriceList) -> Cost:
    """What it cost at list price, which the sandbox's results do not hold."""
    asked = attempt.request.parameters
    if result.cost.basis != "sandbox" or result.billing == "not_billed":
        return result.cost
    return prices.cost(
        asked.get("model", ""),
        tokens=result.tokens,
        size=result.reply.answered_size or asked.get("size"),
        quality=result.reply.answered_quality or asked.get("quality"),
        image_made=result.status == "succeeded",
    )
