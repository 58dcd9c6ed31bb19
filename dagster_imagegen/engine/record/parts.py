"""Parts: the immutable Parquet files of the usage table, one for each published journal."""

import io
import re
from collections.abc import Iterable, Sequence
from datetime import date
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from dagster_imagegen.engine.attempt import Attempt
from dagster_imagegen.engine.errors import StorageError
from dagster_imagegen.engine.record.schema import MONEY, SCHEMA, attempt_of, row_of, to_table
from dagster_imagegen.engine.storage import ObjectStore, Storage

PARTS_FOLDER = "usage"
BOUND_COLUMNS = ("cost_usd", "cost_usd_max", "worst_case_usd")

_PART = re.compile(rf"{PARTS_FOLDER}/date=\d{{4}}-\d\d-\d\d/([^/]+)\.parquet")


def part_path(journal_id: str) -> str:
    """The path of a journal's part, in the folder of the day on which the journal began (UTC)."""
    day = f"{journal_id[:4]}-{journal_id[4:6]}-{journal_id[6:8]}"
    return f"{PARTS_FOLDER}/date={day}/{journal_id}.parquet"


def part_day(path: str) -> date:
    """The day (UTC) on which the journal of a part began."""
    return date.fromisoformat(path.split("/date=", 1)[1][:10])


def journal_of(path: str) -> str | None:
    """The journal whose part is at `path`; None where the file is not a part.

    A file that somebody else put there, at the top of the folder or under another name, is none.
    """
    match = _PART.fullmatch(path)
    return None if match is None else match[1]


async def list_parts(store: ObjectStore) -> dict[str, str]:
    """The parts' paths, by journal."""
    listed = await store.list(PARTS_FOLDER)
    return {jid: path for path in listed if (jid := journal_of(path)) is not None}


async def has_part(store: ObjectStore, journal_id: str) -> bool:
    """Whether the part of a journal exists."""
    folder, _, name = part_path(journal_id).rpartition("/")
    return bool(await store.list(folder, prefix=name))


async def put_part(store: ObjectStore, journal_id: str, attempts: Iterable[Attempt]) -> None:
    """Publish the attempts of a journal as its part.

    A part without rows is written too: if the store later completes an old write and attempts of
    this journal come back, the part says that they do not count.
    """
    await store.put(part_path(journal_id), encode_part(attempts))


def encode_part(attempts: Iterable[Attempt]) -> bytes:
    """A Parquet file of the attempts, in the order in which they were put on record."""
    table = to_table(row_of(attempt) for attempt in attempts)
    table = table.sort_by([("started_at", "ascending"), ("attempt_id", "ascending")])
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def decode_part(data: bytes) -> list[Attempt]:
    """The attempts of a part."""
    return [attempt_of(row) for row in pq.read_table(io.BytesIO(data)).to_pylist()]


def read_rows(
    parts: Sequence[str],
    unpublished: Iterable[Attempt],
    *,
    storage: Storage,
    columns: Sequence[str] = SCHEMA.names,
    where: pc.Expression | None = None,
) -> pa.Table:
    """The rows of parts in `storage` that pass a filter, then those of unpublished attempts.

    Columns that an older part lacks are null.
    """
    columns = list(columns)
    tables = [to_table(row_of(attempt) for attempt in unpublished).select(columns)]
    if parts:
        # Naming the files one by one leaves out temporaries and foreign files.
        files: Any = [storage.full_path(path) for path in parts]
        filesystem: Any = storage.filesystem
        try:
            dataset = ds.dataset(files, schema=SCHEMA, format="parquet", filesystem=filesystem)
            tables.insert(0, dataset.to_table(columns=columns, filter=where))
        except (pa.ArrowInvalid, OSError) as error:
            _name_the_damaged(parts, storage)
            raise StorageError(f"cannot read {storage.uri(PARTS_FOLDER)}: {error}") from error
    return pa.concat_tables(tables)


def _name_the_damaged(parts: Sequence[str], storage: Storage) -> None:
    """Raise `StorageError` if any of the parts is not whole."""
    damaged: list[str] = []
    for path in parts:
        data = storage.get_now(path)
        try:
            pq.read_table(io.BytesIO(data))
        except (pa.ArrowInvalid, OSError) as error:
            damaged.append(f"{storage.uri(path)} ({len(data):,} bytes: {error})")
    if damaged:
        raise StorageError(
            f"damaged parts of the usage table: {'; '.join(damaged)}. What they recorded is not "
            "known, so that nothing is sent. Restore them from a backup, or delete them: then "
            "images that are in storage are used all the same, and requests that were refused or "
            "failed are sent again",
            can_pass=False,
        )


def bound_usd(table: pa.Table, *, strict: bool = False) -> Decimal:
    """The sum of `Attempt.bound_usd` over the rows of a table with `BOUND_COLUMNS`.

    `strict` counts each at the most that may have been charged; older rows have their cost only.
    """
    charged = [table[name] for name in BOUND_COLUMNS]
    if strict:
        charged.insert(0, table["cost_usd_max"])
    each = pc.coalesce(*charged, pa.scalar(Decimal(0), MONEY))
    return pc.sum(each).as_py() or Decimal(0)
