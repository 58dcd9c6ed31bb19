"""`plan`: what a file of prompts would send, and what that may cost."""

from collections import defaultdict
from decimal import Decimal
from pathlib import Path

import click

from dagster_imagegen.cli import exit_codes
from dagster_imagegen.cli.options import (
    EndpointChoice,
    StorageChoice,
    endpoint_options,
    open_engine,
    storage_options,
)
from dagster_imagegen.cli.output import Report, Table, json_option, note, show
from dagster_imagegen.cli.prompt_options import FILE, PromptChoice, new_identity, prompt_options
from dagster_imagegen.engine.run.jobs import Job
from dagster_imagegen.engine.run.plan import Plan
from dagster_imagegen.engine.run.verdict import Redo

REDO = click.Choice(["refused", "unknown", "missing"])


@click.command()
@click.argument("file", type=FILE)
@storage_options
@endpoint_options
@prompt_options
@click.option("--redo", multiple=True, type=REDO, help="What is requested again.")
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    metavar="N",
    help="Images per minute, for the time that it takes.",
)
@json_option
def command(
    *,
    file: Path,
    storage: StorageChoice,
    endpoint: EndpointChoice,
    prompts: PromptChoice,
    redo: tuple[Redo, ...],
    rate: float | None,
    as_json: bool,
) -> int:
    """Tell what FILE (.csv, .parquet or .jsonl) would send. Sends and writes nothing.

    \b
    Examples:
      dagster-imagegen plan products.csv --storage /data/imagegen \\
        --endpoint https://api.openai.com/v1 --model gpt-image-1 \\
        --param quality=low
      dagster-imagegen plan products.parquet --storage out \\
        --endpoint sandbox --template "a photo of {name}" --rate 60 --json
    """
    engine = open_engine(storage, endpoint, may_be_new=True)
    plan = engine.plan(prompts.read(engine, file), identity=new_identity(), redo=redo)
    for warning in plan.warnings:
        note(f"warning: {warning}")
    facts = {**facts_of(plan), **_time(plan, rate)}
    show(Report(facts=facts, tables=[_requests(plan)]), as_json=as_json)
    return exit_codes.FINE


def facts_of(plan: Plan) -> dict[str, object]:
    """The counts of a plan, and its cost. In the sandbox that is 0, beside the list price."""
    least, most = plan.cost_range_usd or (None, None)
    facts: dict[str, object] = {
        "rows": plan.rows,
        "images": plan.images,
        "already_paid": plan.reused,
        "duplicates": plan.duplicates,
        "refused_before": plan.refused,
        "outcome_unknown": plan.unknown,
        "paid_and_missing": plan.missing,
        "to_request": plan.to_send,
        "retried": plan.retried,
    }
    if plan.sandbox:
        facts |= {"list_price_usd_least": least, "list_price_usd_most": most}
        least = most = Decimal(0)
    return {**facts, "cost_usd_least": least, "cost_usd_most": most}


def _time(plan: Plan, rate: float | None) -> dict[str, object]:
    return {} if rate is None else {"minutes": round(plan.to_send / rate, 1)}


def _requests(plan: Plan) -> Table:
    """What is to be sent, by all that its price depends on."""
    groups: defaultdict[tuple[str, str, str], list[tuple[Job, int]]] = defaultdict(list)
    for job, count in plan.jobs.kinds:
        request = job.request
        key = (request.model, request.size or "auto", request.quality or "auto")
        groups[key].append((job, count))
    return Table(
        name="requests",
        columns=("model", "size", "quality", "requests", "list_usd_least", "list_usd_most"),
        rows=[
            (*key, sum(count for _, count in jobs), *bounds_of(jobs))
            for key, jobs in sorted(groups.items())
        ],
    )


def bounds_of(jobs: list[tuple[Job, int]]) -> tuple[Decimal | None, Decimal | None]:
    """The least and the most that so many requests of each kind cost by the price list; None where
    one has no price."""
    least = [count * job.least.usd for job, count in jobs if job.least.usd is not None]
    most = [count * job.worst_case.usd for job, count in jobs if job.worst_case.usd is not None]
    if len(least) < len(jobs) or len(most) < len(jobs):
        return None, None
    return sum(least, Decimal(0)), sum(most, Decimal(0))
