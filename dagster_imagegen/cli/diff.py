"""`diff`: what changes between two prompt tables, in rows, pictures and dollars."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path

import click
import pyarrow as pa

from dagster_imagegen.cli import exit_codes
from dagster_imagegen.cli.options import (
    EndpointChoice,
    StorageChoice,
    endpoint_options,
    open_engine,
    storage_options,
)
from dagster_imagegen.cli.output import Report, Table, json_option, show
from dagster_imagegen.cli.plan import bounds_of
from dagster_imagegen.cli.prompt_options import FILE, PromptChoice, new_identity, prompt_options
from dagster_imagegen.engine.prompts.rows import PromptRow, PromptTable
from dagster_imagegen.engine.prompts.source import read_source
from dagster_imagegen.engine.run.plan import Plan
from dagster_imagegen.prompt_file import read_prompt_file


@click.command()
@click.argument("old", type=FILE)
@click.argument("new", type=FILE)
@storage_options
@endpoint_options
@prompt_options
@json_option
def command(
    *,
    old: Path,
    new: Path,
    storage: StorageChoice,
    endpoint: EndpointChoice,
    prompts: PromptChoice,
    as_json: bool,
) -> int:
    """Tell what the change from the prompt table OLD to NEW affects. Sends and writes nothing.

    Rows are matched by `prompt_id` where both tables have it; otherwise a row is the same if it
    asks for the same pictures. Ends with status 1 if the tables differ.

    \b
    Example:
      dagster-imagegen diff monday.csv tuesday.csv --storage s3://shop/imagegen \\
        --endpoint https://api.openai.com/v1 --model gpt-image-1
    """
    engine = open_engine(storage, endpoint, may_be_new=True)
    sources = [read_prompt_file(each) for each in (old, new)]
    by_id = all("prompt_id" in read_source(each).names for each in sources)
    before, after = (prompts.read_rows(engine, each) for each in sources)
    changes = _changes(_rows(before, by_id=by_id), _rows(after, by_id=by_id))
    identity = new_identity()
    old_plan, new_plan = (engine.plan(each, identity=identity) for each in (before, after))
    facts = _facts(old_plan, new_plan, changes)
    show(Report(facts=facts, tables=[_table(changes)]), as_json=as_json)
    return exit_codes.FINDINGS if changes else exit_codes.FINE


def _rows(prompts: PromptTable, *, by_id: bool) -> Mapping[object, PromptRow]:
    """The rows by what identifies them. A key that comes again is counted, so that none is lost."""
    rows: dict[object, PromptRow] = {}
    count: dict[object, int] = {}
    for row in prompts.each_row():
        key = row.prompt_id if by_id else _pictures(row)
        count[key] = count.get(key, 0) + 1
        rows[key, count[key]] = row
    return rows


def _pictures(row: PromptRow) -> tuple[str, ...]:
    return tuple(request.fingerprint for request in row.requests)


def _changes(
    before: Mapping[object, PromptRow], after: Mapping[object, PromptRow]
) -> Sequence[tuple[str, PromptRow | None, PromptRow | None]]:
    """What happened to each row that is not the same, in the order of the tables."""
    changes: list[tuple[str, PromptRow | None, PromptRow | None]] = []
    for key, row in after.items():
        old = before.get(key)
        if old is None:
            changes.append(("added", None, row))
        elif _pictures(old) != _pictures(row):
            changes.append(("changed", old, row))
    changes += [("removed", row, None) for key, row in before.items() if key not in after]
    return changes


def _facts(
    before: Plan,
    after: Plan,
    changes: Sequence[tuple[str, PromptRow | None, PromptRow | None]],
) -> dict[str, object]:
    old, new = (set(plan.fingerprints()) for plan in (before, after))
    added, dropped = new - old, old - new
    bought = [job for job in after.to_request() if job.request.fingerprint in added]
    least, most = bounds_of([(job, 1) for job in bought])
    known = [*before.paid.among(pa.array(dropped, pa.string()))]
    known += [each for each in before.jobs.known if each.fingerprint in dropped]
    paid = [each.attempt.result for each in known if each.attempt]
    costs = [each.cost for each in paid if each is not None]
    bounds = [each.most_usd for each in costs if each.most_usd is not None]
    kinds = [kind for kind, _, _ in changes]
    return {
        "rows_added": kinds.count("added"),
        "rows_changed": kinds.count("changed"),
        "rows_removed": kinds.count("removed"),
        "rows_same": after.rows - kinds.count("added") - kinds.count("changed"),
        "pictures_same": len(new) - len(added),
        "pictures_new": len(added),
        "new_already_paid": len(added) - len(bought),
        "new_to_request": len(bought),
        "new_list_usd_least": least,
        "new_list_usd_most": most,
        "pictures_no_longer_used": len(dropped),
        "paid_for_those_usd": sum((each.usd for each in costs if each.usd is not None), Decimal(0)),
        # Where a cost is unknown, the bounds of the others bound nothing.
        "paid_for_those_usd_max": sum(bounds, Decimal(0)) if len(bounds) == len(costs) else None,
        "to_request_in_all": after.to_send,
    }


def _table(changes: Sequence[tuple[str, PromptRow | None, PromptRow | None]]) -> Table:
    return Table(
        name="changes",
        columns=("change", "prompt_id", "old_prompt", "new_prompt"),
        rows=[
            (kind, (new or old or _NO_ROW).prompt_id, _prompt(old), _prompt(new))
            for kind, old, new in changes
        ],
    )


_NO_ROW = PromptRow(prompt_id="", requests=())


def _prompt(row: PromptRow | None) -> str | None:
    return row.requests[0].prompt if row is not None and row.requests else None
