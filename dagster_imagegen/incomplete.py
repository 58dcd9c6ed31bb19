"""Rows of an image table that have no image, and how a step tells of them."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc

from dagster_imagegen.engine.errors import abbreviate
from dagster_imagegen.metadata import FinishedPass, counts_text

PROBLEMS_SHOWN = 5
_PROBLEM = ["prompt_id", "image_status", "image_error_code", "image_error_message"]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A row of an image table that has no image. `partition` is set in a run over several."""

    partition: str | None
    status: str
    text: str


def problems_of(
    done: Mapping[str | None, FinishedPass], statuses: Collection[str]
) -> list[Problem]:
    """The rows that have one of the statuses, of all partitions."""
    return [
        Problem(
            partition=partition if len(done) > 1 else None,
            status=row["image_status"],
            text=_text(row),
        )
        for partition, each in done.items()
        for row in _with_status(each.images, statuses).to_pylist()
    ]


def _with_status(images: pa.Table, statuses: Collection[str]) -> pa.Table:
    """What is told of the rows that have one of the statuses: of a million only these."""
    wanted: Any = pc.is_in(images["image_status"], pa.array(sorted(statuses), pa.string()))
    return images.select(_PROBLEM).filter(wanted)


def problem_metadata(
    problems: Sequence[Problem], *, of_partition: str | None = None
) -> dict[str, Any]:
    """The first problems, of one partition or of all; nothing where there are none.

    A table, because Dagster shows the lines of a text as one.
    """
    mine = [
        each for each in problems if of_partition is None or each.partition in (None, of_partition)
    ]
    if not mine:
        return {}
    records = [dg.TableRecord({"problem": line}) for line in _lines(mine)]
    return {"imagegen/problems": dg.MetadataValue.table(records)}


def incomplete_failure(
    name: str,
    problems: Sequence[Problem],
    done: Mapping[str | None, FinishedPass],
    *,
    nothing: str = "Nothing was materialized",
    metadata: Mapping[str, Any] | None = None,
) -> dg.Failure:
    """What a step without a whole image table raises; not to be tried again where that is no help.

    `metadata` is shown beside the counts of rows without an image.
    """
    counts = Counter(each.status for each in problems)
    rows = sum(each.images.num_rows for each in done.values())
    text = (
        f"{name}: {len(problems):,} of {rows:,} rows have no image: {counts_text(counts)}. "
        f"{nothing}. All images made are stored; the next run requests only the rest."
    )
    faulty = list(dict.fromkeys(each.partition for each in problems))
    complete = len(done) - len(faulty)
    if complete > 0:
        text += (
            f" A step stores all of its partitions or none, and {complete:,} of its {len(done):,} "
            f"are complete: run them without {_listed(faulty)} to materialize them at no further "
            "cost."
        )
    retryable = any(each.retry_can_help for each in done.values())
    return dg.Failure(
        "\n".join([text, *_lines(problems)]),
        metadata={
            **(metadata or {}),
            **{f"imagegen/{status}": count for status, count in counts.items()},
        },
        allow_retries=None if retryable else False,
    )


def _lines(problems: Sequence[Problem]) -> list[str]:
    lines = [
        each.text if each.partition is None else f"{each.partition}: {each.text}"
        for each in problems[:PROBLEMS_SHOWN]
    ]
    if len(problems) > PROBLEMS_SHOWN:
        lines.append(f"and {len(problems) - PROBLEMS_SHOWN:,} more")
    return lines


def _listed(names: Sequence[str | None]) -> str:
    shown = ", ".join(str(each) for each in names[:PROBLEMS_SHOWN])
    more = len(names) - PROBLEMS_SHOWN
    return f"{shown} and {more:,} more" if more > 0 else shown


def _text(row: Mapping[str, str | None]) -> str:
    parts = (row["image_status"], row["image_error_code"], row["image_error_message"])
    return f"prompt_id {abbreviate(row['prompt_id'])}: {': '.join(part for part in parts if part)}"
