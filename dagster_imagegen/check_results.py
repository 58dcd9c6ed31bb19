"""What each check of an image asset finds, in the image table, its images and the usage table."""

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import cached_property
from typing import Any, Literal, TypeAlias

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc

from dagster_imagegen.engine.attempt import SANDBOX
from dagster_imagegen.engine.engine import Engine
from dagster_imagegen.engine.image_table import PUBLISHED_URI
from dagster_imagegen.engine.money.amounts import usd_text
from dagster_imagegen.engine.money.budget import Budget
from dagster_imagegen.engine.record.schema import TIME
from dagster_imagegen.event_size import cut, room
from dagster_imagegen.inspection import Expected, Inspected, inspect_images, near_duplicates
from dagster_imagegen.marks import Copy, compare_marks
from dagster_imagegen.previews import SHOWN_COLUMNS, contact_sheet, pictures
from dagster_imagegen.usage_asset import COLUMNS, cost, figures, measured, totals

CheckName: TypeAlias = Literal[
    "images_complete",
    "images_intact",
    "images_large_enough",
    "images_distinct",
    "provenance_published",
    "spending_known",
    "spending_within_limit",
]
Window: TypeAlias = Literal["day", "month", "all"]

ROWS_SHOWN = 10

DOUBTFUL_COLUMNS = ("attempt_id", "prompt_id", "status", "error_code", "cost_usd", "cost_usd_max")

Row: TypeAlias = Mapping[str, Any]
Problem: TypeAlias = tuple[Row, str]
"""A row of the image table, and what is wrong with it."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the checks hold the images and the spending to."""

    sample: int | None = None
    min_width: int | None = None
    min_height: int | None = None
    near_duplicates: int = 0
    published: bool = False
    max_usd: Decimal = Decimal(0)
    per: Window = "month"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check found. `problems` are shown, with the pictures of `shown`."""

    passed: bool
    description: str
    figures: Mapping[str, Any]
    problems: Sequence[Mapping[str, Any]] = ()
    shown: Sequence[Row] = ()


class ImageChecks:
    """The checks of one asset's image table. Images and usage rows are read when first needed.

    Args:
        rows: Those of the image table.
        engine: Of the storage that the images are in.
        asset_key: As usage rows name it.
        partitions: Whose spending counts; None for all.
        limits: What the checks hold to.
        seed: Of the sample.
        now: The day and month whose spending counts.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        engine: Engine,
        *,
        asset_key: str,
        partitions: Sequence[str] | None,
        limits: Limits,
        seed: str,
        now: datetime,
    ) -> None:
        self._rows = rows
        self._engine = engine
        self._asset_key = asset_key
        self._partitions = partitions
        self._limits = limits
        self._seed = seed
        self._now = now

    def run(self, name: CheckName, *, severity: dg.AssetCheckSeverity) -> dg.AssetCheckResult:
        """The result of one check."""
        checks: Mapping[CheckName, Callable[[], Finding]] = {
            "images_complete": self._complete,
            "images_intact": self._intact,
            "images_large_enough": self._large_enough,
            "images_distinct": self._distinct,
            "provenance_published": self._provenance_published,
            "spending_known": self._spending_known,
            "spending_within_limit": self._spending_within_limit,
        }
        found = checks[name]()
        metadata: dict[str, Any] = {}
        if found.problems:
            metadata["imagegen/problems"] = _table(found.problems)
        metadata |= {
            f"imagegen/{key}": each for key, each in found.figures.items() if each is not None
        }
        if sheet := self._sheet(found.shown, max_bytes=room(metadata)):
            metadata["imagegen/preview"] = dg.MetadataValue.md(sheet)
        return dg.AssetCheckResult(
            passed=found.passed,
            check_name=name,
            severity=severity,
            description=found.description,
            metadata=metadata,
        )

    def _sheet(self, rows: Sequence[Row], *, max_bytes: int) -> str:
        """Small pictures of the rows that have one, in their order."""
        if not self._engine.settings.previews:
            return ""
        rows = [row for row in rows if row["image_path"]]
        names = ("image_size_bytes", *SHOWN_COLUMNS)
        table = pa.table({name: [row[name] for row in rows] for name in names})
        table = table.append_column("image_status", pa.array(["reused"] * len(rows)))
        if not rows:
            return ""
        small = pictures(table, self._engine.read_image)
        captions = self._engine.settings.record_prompts
        return contact_sheet(small, captions=captions, max_bytes=max_bytes)

    # -- the image table -----------------------------------------------------------------------

    @cached_property
    def _with_image(self) -> list[Row]:
        return [row for row in self._rows if row["image_path"] is not None]

    def _complete(self) -> Finding:
        statuses = Counter[str](row["image_status"] for row in self._rows)
        refused = statuses["refused"]
        missing = [
            (row, f"{row['image_status']}: {row['image_error_code'] or 'no reason is known'}")
            for row in self._rows
            if row["image_path"] is None and row["image_status"] != "refused"
        ]
        return Finding(
            passed=not missing,
            description=f"{len(self._with_image):,} of {len(self._rows):,} rows have an image, "
            f"{refused:,} {'were' if refused != 1 else 'was'} refused, {len(missing):,} lack one",
            figures={
                "rows": len(self._rows),
                "with_image": len(self._with_image),
                "refused": refused,
                "without_image": len(missing),
            },
            problems=_named(missing),
        )

    def _large_enough(self) -> Finding:
        width, height = self._limits.min_width, self._limits.min_height
        sized = [row for row in self._with_image if row["image_width"] and row["image_height"]]
        small = [
            (row, f"is {row['image_width']}x{row['image_height']}")
            for row in sized
            if row["image_width"] < (width or 0) or row["image_height"] < (height or 0)
        ]
        limits = (
            f"{width:,} pixels wide" if width else "",
            f"{height:,} pixels high" if height else "",
        )
        return Finding(
            passed=not small,
            description=f"{len(small):,} of {len(sized):,} images are less than "
            f"{' or '.join(filter(None, limits))}",
            figures={
                "images": len(sized),
                "too_small": len(small),
                "of_unknown_size": len(self._with_image) - len(sized),
            },
            problems=_named(small),
            shown=[row for row, _ in small],
        )

    # -- the images ----------------------------------------------------------------------------

    @cached_property
    def _chosen(self) -> list[Row]:
        """One row of each image, or of a sample of the images."""
        rows = list({row["image_path"]: row for row in reversed(self._with_image)}.values())[::-1]
        sample = self._limits.sample
        if sample is None or sample >= len(rows):
            return rows
        at = random.Random(self._seed).sample(range(len(rows)), sample)  # noqa: S311  # no secret
        return [rows[each] for each in sorted(at)]

    @cached_property
    def _inspected(self) -> list[Inspected]:
        requested = self._requested_sizes()
        expected = [
            Expected(
                path=row["image_path"],
                sha256=row["image_sha256"],
                size_bytes=row["image_size_bytes"],
                format=row["image_format"],
                width=row["image_width"],
                height=row["image_height"],
                size=requested.get(row["image_attempt_id"]),
            )
            for row in self._chosen
        ]
        return inspect_images(expected, self._engine.read_image)

    def _requested_sizes(self) -> dict[str, str]:
        """By attempt. Another asset may have requested the image."""
        attempts = [row["image_attempt_id"] for row in self._chosen]
        usage = self._engine.usage.read(
            columns=["attempt_id", "size"],
            where=pc.field("attempt_id").isin(pa.array(attempts, pa.string())),
        )
        return {row["attempt_id"]: row["size"] for row in usage.to_pylist()}

    def _intact(self) -> Finding:
        damaged = [
            (row, each.problem)
            for row, each in zip(self._chosen, self._inspected, strict=True)
            if each.problem is not None
        ]
        return Finding(
            passed=not damaged,
            description=f"{len(damaged):,} of {len(self._chosen):,} images that were read are not "
            "what the image table says",
            figures={**self._read_figures(), "damaged": len(damaged)},
            problems=_named(damaged),
            shown=[row for row, _ in damaged],
        )

    def _distinct(self) -> Finding:
        alike = near_duplicates(
            [each.look for each in self._inspected], self._limits.near_duplicates
        )
        pairs = [(self._chosen[at], self._chosen[other]) for at, other in alike.items()]
        return Finding(
            passed=not pairs,
            description=f"{len(pairs):,} of {len(self._chosen):,} images that were read look like "
            "another one",
            figures={**self._read_figures(), "alike": len(pairs)},
            problems=_named([(row, f"looks like {_label(other)}") for row, other in pairs]),
            shown=[row for pair in pairs for row in reversed(pair)],
        )

    def _provenance_published(self) -> Finding:
        published = [row for row in self._chosen if row[PUBLISHED_URI.name] is not None]
        copies = [
            Copy(path=row["image_path"], address=row[PUBLISHED_URI.name]) for row in published
        ]
        found = compare_marks(copies, self._engine.read_image, self._engine.read_published)
        lost = [
            (row, each.problem)
            for row, each in zip(published, found, strict=True)
            if each.problem is not None
        ]
        return Finding(
            passed=not lost,
            description=f"{len(lost):,} of {len(published):,} published copies that were read lack "
            "marks of origin that their images carry, or are not there",
            figures={
                **self._read_figures(),
                "published_read": len(published),
                "with_marks": sum(each.has_marks for each in found),
                "marks_lost": len(lost),
            },
            problems=_named(lost),
            shown=[row for row, _ in lost],
        )

    def _read_figures(self) -> dict[str, int]:
        paths = {row["image_path"] for row in self._with_image}
        return {"images": len(paths), "images_read": len(self._chosen)}

    # -- the spending --------------------------------------------------------------------------

    @cached_property
    def _usage(self) -> pa.Table:
        """The usage rows of the asset, of the partitions and the time that count."""
        where = pc.field("asset_key") == self._asset_key
        if self._partitions is not None:
            where &= pc.field("partition_key").isin(list(self._partitions))
        limits = self._limits
        begins = Budget(max_usd=limits.max_usd, per=limits.per).begins(self._now)
        if begins is not None:
            where &= pc.field("started_at") >= pa.scalar(begins, TIME)
        columns = [*COLUMNS, "partition_key", "endpoint_id", *DOUBTFUL_COLUMNS]
        return self._engine.usage.read(columns=list(dict.fromkeys(columns)), where=where)

    @property
    def _time(self) -> str:
        per = self._limits.per
        return "all time" if per == "all" else f"this {per} (UTC)"

    def _spending_known(self) -> Finding:
        # As in budgets, an answer by which the server says that it failed counts as not charged.
        unpriced, lost = pc.field("cost_usd").is_null(), pc.field("status") == "unknown"
        sandbox = pc.field("endpoint_id") == SANDBOX
        rows = self._usage.filter((unpriced | lost) & ~sandbox)
        spent = totals(measured(self._usage))
        shown = rows.select(list(DOUBTFUL_COLUMNS)).slice(0, ROWS_SHOWN).to_pylist()
        return Finding(
            passed=not rows.num_rows,
            description=f"{self._time}: {rows.num_rows:,} of {self._usage.num_rows:,} requests are "
            f"of unknown cost, or nobody can tell whether they were billed; in all {cost(spent)}",
            figures={**figures(spent), "unknown_requests": rows.num_rows},
            problems=[{name: _cell(value) for name, value in row.items()} for row in shown],
        )

    def _spending_within_limit(self) -> Finding:
        spent = totals(measured(self._usage))
        limit = self._limits.max_usd
        return Finding(
            passed=not spent["unpriced_requests"] and spent["cost_usd_max"] <= limit,
            description=f"{self._time}: {cost(spent)}; the limit is {usd_text(limit)}",
            figures={**figures(spent), "max_usd": float(limit)},
        )


def _label(row: Row) -> str:
    variant = row["image_variant"]
    return f"{row['prompt_id']}" + (f", variant {variant}" if variant else "")


def _named(problems: Sequence[Problem]) -> list[dict[str, Any]]:
    return [
        {"row": _cell(_label(row)), "problem": _cell(text)} for row, text in problems[:ROWS_SHOWN]
    ]


def _cell(value: object) -> str | float | None:
    if isinstance(value, Decimal):
        return float(value)
    return None if value is None else cut(str(value))


def _table(rows: Sequence[Mapping[str, Any]]) -> dg.TableMetadataValue:
    money = {"cost_usd", "cost_usd_max"}
    columns = [
        dg.TableColumn(name=name, type="float" if name in money else "string") for name in rows[0]
    ]
    return dg.MetadataValue.table(
        [dg.TableRecord(row) for row in rows], schema=dg.TableSchema(columns=columns)
    )
