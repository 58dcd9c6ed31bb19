"""What a gallery shows: one entry for each image that was requested, from the usage table."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dagster_imagegen.engine.attempt import SANDBOX
from dagster_imagegen.engine.images import is_image_path
from dagster_imagegen.engine.record.schema import SCHEMA
from dagster_imagegen.engine.request import PARAMETERS

compute: Any = pc
"""pyarrow's stubs know no `is_in`."""

PARAMETER_COLUMNS = tuple(
    name for name, each in PARAMETERS.items() if each.column_type and name in SCHEMA.names
)
COLUMNS = (
    "fingerprint",
    "asset_key",
    "partition_key",
    "prompt_id",
    "variant",
    "endpoint_id",
    "prompt",
    *PARAMETER_COLUMNS,
    "status",
    "error_code",
    "error_message",
    "started_at",
    "revised_prompt",
    "cost_usd",
    "cost_usd_max",
    "image_path",
    "image_sha256",
    "image_size_bytes",
    "image_format",
    "image_width",
    "image_height",
    "image_provenance",
)

Row = Mapping[str, Any]


@dataclass(kw_only=True)
class Entry:
    """One image that was requested: the attempt that brought it or else the latest, and what all
    attempts at it cost. An amount is None if that of one of them is unknown."""

    row: Row
    requests: int = 0
    cost_usd: Decimal | None = Decimal(0)
    cost_usd_max: Decimal | None = Decimal(0)

    def add(self, row: Row) -> None:
        """Count one more attempt, whichever of them is older."""
        self.requests += 1
        self.cost_usd = _sum(self.cost_usd, row["cost_usd"])
        most = row["cost_usd"] if row["cost_usd_max"] is None else row["cost_usd_max"]
        self.cost_usd_max = _sum(self.cost_usd_max, most)
        if _rank(row) > _rank(self.row):
            self.row = row

    @property
    def is_sandbox(self) -> bool:
        """Whether its cost is no money."""
        return self.row["endpoint_id"] == SANDBOX


@dataclass(kw_only=True)
class Entries:
    """The newest images of a usage table, at most `limit`, and how many rows are of others."""

    limit: int
    found: dict[str, Entry] = field(default_factory=dict[str, Entry])
    left_out: int = 0

    def read(self, tables: Iterable[pa.Table]) -> list[Entry]:
        """The entries of tables that come newest first, sorted from the oldest to the newest.

        Memory is that of one table and `limit` entries.
        """
        for table in tables:
            for batch in self._wanted(table).to_batches(max_chunksize=1024):
                for row in batch.to_pylist():
                    self._add(row)
        return sorted(self.found.values(), key=lambda each: _rank(each.row)[1:])

    def _wanted(self, table: pa.Table) -> pa.Table:
        table = table.sort_by([("started_at", "descending")])
        if len(self.found) < self.limit:
            return table
        # Most rows of a long record are older than all that is shown.
        known = compute.is_in(table["fingerprint"], value_set=pa.array([*self.found]))
        kept = table.filter(known)
        self.left_out += table.num_rows - kept.num_rows
        return kept

    def _add(self, row: dict[str, Any]) -> None:
        if row["image_path"] is not None and not is_image_path(row["image_path"]):
            row["image_path"] = None
        fingerprint = row["fingerprint"]
        entry = self.found.get(fingerprint)
        if entry is None:
            if len(self.found) >= self.limit:
                self.left_out += 1
                return
            entry = self.found[fingerprint] = Entry(row=row)
        entry.add(row)


def _rank(row: Row) -> tuple[bool, str, str]:
    started_at = row["started_at"]
    at = "" if started_at is None else started_at.isoformat()
    return row["image_path"] is not None, at, row["fingerprint"]


def _sum(total: Decimal | None, amount: Decimal | None) -> Decimal | None:
    return None if total is None or amount is None else total + amount
