"""`generate`: images of a file of prompts, without Dagster."""

import contextlib
import csv
import json
import signal
from collections.abc import Generator
from decimal import Decimal
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
import pyarrow.parquet as pq

from dagster_imagegen.cli import exit_codes
from dagster_imagegen.cli.options import (
    EndpointChoice,
    StorageChoice,
    amount,
    endpoint_options,
    open_engine,
    storage_options,
)
from dagster_imagegen.cli.output import Report, Table, inert, json_option, note, show
from dagster_imagegen.cli.plan import REDO
from dagster_imagegen.cli.progress import follow
from dagster_imagegen.cli.prompt_options import FILE, PromptChoice, new_identity, prompt_options
from dagster_imagegen.engine.errors import ConfigurationError, ImageGenError, StorageError
from dagster_imagegen.engine.run.outcomes import Outcomes
from dagster_imagegen.engine.run.thread import Generation
from dagster_imagegen.engine.run.verdict import Redo
from dagster_imagegen.engine.settings import Settings

OUTPUTS = (".parquet", ".csv")


@click.command()
@click.argument("file", type=FILE)
@storage_options
@endpoint_options
@prompt_options
@click.option("--redo", multiple=True, type=REDO, help="What is requested again.")
@click.option("--max-usd", type=amount, metavar="USD", help="The most that this run may cost.")
@click.option(
    "--max-concurrency",
    type=click.IntRange(min=1),
    default=Settings.max_concurrency,
    show_default=True,
    metavar="N",
    help="The most requests in flight.",
)
@click.option(
    "--requests-per-minute",
    type=click.FloatRange(min=0, min_open=True),
    metavar="N",
    help="The most requests per minute.",
)
@click.option(
    "--drain-seconds",
    type=click.FloatRange(min=0),
    default=Settings.drain_seconds,
    show_default=True,
    help="How long Ctrl+C waits for requests in flight.",
)
@click.option("--asset", metavar="NAME", help="The asset that usage rows name.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the image table to this .parquet or .csv file.",
)
@json_option
def command(
    *,
    file: Path,
    storage: StorageChoice,
    endpoint: EndpointChoice,
    prompts: PromptChoice,
    redo: tuple[Redo, ...],
    max_usd: Decimal | None,
    asset: str | None,
    output: Path | None,
    as_json: bool,
    **settings: Any,
) -> int:
    """Generate the images of FILE (.csv, .parquet or .jsonl) that are not paid for yet.

    Ctrl+C sends nothing more, waits for what is in flight, and records it; the same command goes
    on from there.

    \b
    Examples:
      dagster-imagegen generate products.csv --storage /data/imagegen \\
        --endpoint https://api.openai.com/v1 --model gpt-image-1 --max-usd 5
      dagster-imagegen generate products.csv --storage /tmp/try \\
        --endpoint sandbox --model gpt-image-1 --output images.parquet
    """
    _check_output(output)
    engine = open_engine(storage, endpoint, may_be_new=True, **settings)
    table = prompts.read(engine, file)
    identity = new_identity(asset)
    with (
        _terminated_as_interrupted(),
        engine.generate(table, identity=identity, redo=redo, max_usd=max_usd) as generation,
    ):
        problem = _run(generation)
    if isinstance(problem, KeyboardInterrupt) and not generation.has_plan:
        raise problem
    complete = len(generation.outcomes) == generation.plan.distinct
    unwritten = None
    if output is not None and complete:
        unwritten = _write(engine.image_table(generation.plan, generation.outcomes), output)
    show(_report(generation, run_id=identity.run_id), as_json=as_json)
    if unwritten is not None:
        raise unwritten
    if output is not None and not complete:
        note(f"{output} was not written, because not every image has an outcome")
    return _status(generation, problem)


def _run(generation: Generation) -> BaseException | None:
    """Follow a pass to its end; returns what ended it early. All is on record by then."""
    try:
        note(generation.plan.describe())
        for warning in (*generation.plan.warnings, generation.warning):
            if warning is not None:
                note(f"warning: {warning}")
        follow(generation)
    except KeyboardInterrupt as interrupt:
        note("stopping: nothing more is sent, and requests in flight are waited for")
        generation.drain()
        return interrupt
    except ImageGenError as error:
        if not generation.has_plan:
            raise
        return error
    return None


def _status(generation: Generation, problem: BaseException | None) -> int:
    if isinstance(problem, ImageGenError):
        raise problem
    if problem is not None:
        return exit_codes.INTERRUPTED
    lacks = any(each.image is None for each in generation.outcomes.found.values())
    return exit_codes.FINDINGS if lacks else exit_codes.FINE


def _report(generation: Generation, *, run_id: str) -> Report:
    """What became of each image, and both figures: what was charged, and at most charged."""
    plan, totals = generation.plan, generation.totals
    outcomes = generation.outcomes
    made = outcomes.counts
    unanswered = 0 if plan.sandbox else totals.requests - totals.statuses.total()
    of_unknown_cost = totals.unpriced + unanswered
    facts: dict[str, object] = {
        "run_id": run_id,
        "rows": plan.rows,
        "images": plan.distinct,
        **{each: made[each] for each in ("generated", "reused", "refused", "failed")},
        "unknown": made["unknown"],
        "deferred": made["deferred"],
        "not_reached": plan.distinct - len(outcomes),
        "requests": totals.requests,
        "cost_usd": totals.cost_usd,
        # With a request of unknown cost, the bounds of the others bound nothing.
        "cost_usd_max": None if of_unknown_cost else totals.cost_usd_max,
        "requests_of_unknown_cost": of_unknown_cost,
    }
    if plan.sandbox:
        facts |= {
            "list_price_usd": totals.list_price_usd,
            "list_price_usd_max": totals.list_price_usd_max,
        }
    return Report(facts=facts, tables=[_without_image(generation, outcomes)])


def _without_image(generation: Generation, outcomes: Outcomes) -> Table:
    rows: list[tuple[object, ...]] = []
    jobs = generation.plan.jobs
    for place, fingerprint in enumerate(jobs.fingerprints.to_pylist()):
        outcome = outcomes.found.get(fingerprint)
        if outcome is not None and outcome.image is None:
            job = jobs[place]
            rows.append((job.prompt_id, outcome.status, outcome.error_code, outcome.error_message))
    return Table(
        name="without_image", columns=("prompt_id", "status", "error_code", "error"), rows=rows
    )


@contextlib.contextmanager
def _terminated_as_interrupted() -> Generator[None]:
    """SIGTERM, which ends containers, drains as Ctrl+C does."""

    def interrupt(_signal: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# -- the image table as a file ---------------------------------------------------------------------


def _check_output(path: Path | None) -> None:
    """Raise `ConfigurationError` before anything is paid, where nothing could be written."""
    if path is None:
        return
    if path.suffix.lower() not in OUTPUTS:
        raise ConfigurationError(f"--output must end in {' or '.join(OUTPUTS)}, got {str(path)!r}")
    if not path.parent.is_dir():
        raise ConfigurationError(f"--output: there is no folder {path.parent}; create it")


def _write(table: pa.Table, path: Path) -> StorageError | None:
    """Returns what failed: the report of what was made comes first."""
    try:
        _write_table(table, path)
    except OSError as error:
        return StorageError(
            f"--output {path} cannot be written ({error}); the images are stored, and the same "
            "command writes the table without requesting them again"
        )
    return None


def _write_table(table: pa.Table, path: Path) -> None:
    if path.suffix.lower() == ".parquet":
        pq.write_table(table, path)
        return
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(table.column_names)
        for row in table.to_pylist():
            rows.writerow(_cell(name, each) for name, each in row.items())


def _cell(name: str, value: object) -> object:
    """What CSV has no notion of becomes JSON; what the endpoint wrote becomes no formula.

    The prompt table's own columns stay as they are: changed, they would be other requests.
    """
    if isinstance(value, str):
        return inert(value) if name.startswith("image_") else value
    return json.dumps(value, default=str) if isinstance(value, (list, dict)) else value
