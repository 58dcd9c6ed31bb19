"""Parts: the immutable Parquet files of the usage table, one for each published journal."""

import asyncio
import io
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from dagster_imagegen.engine.attempt import Attempt
from dagster_imagegen.engine.errors import ConfigurationError, StorageError
from dagster_imagegen.engine.record.schema import (
    MONEY,
    SCHEMA,
    attempts_of,
    check_version,
    row_of,
    to_table,
)
from dagster_imagegen.engine.storage import ObjectStore, Storage

T = TypeVar("T")

if TYPE_CHECKING:  # Loading it takes long.
    import pyarrow.dataset as ds

PARTS_FOLDER = "usage"
PARTS_AT_ONCE = 32
"""How many parts may take as long to read as one call of the storage."""
READ_AHEAD = 4
"""How many parts, and row groups of a part, are read ahead: a million rows at once take twice their
memory. From a local disk, which answers at once, one."""
BOUND_COLUMNS = ("cost_usd", "cost_usd_max", "worst_case_usd")

_PART = re.compile(rf"{PARTS_FOLDER}/date=\d{{4}}-\d\d-\d\d/([^/._][^/]*)\.parquet")


def part_path(journal_id: str) -> str:
    """The path of a journal's part, in the folder of the day on which the journal began (UTC)."""
    return f"{PARTS_FOLDER}/{day_folder(day_of(journal_id))}/{journal_id}.parquet"


def day_of(journal_id: str) -> str:
    """The day (UTC) on which a journal began."""
    return f"{journal_id[:4]}-{journal_id[4:6]}-{journal_id[6:8]}"


def day_folder(day: str) -> str:
    """The name of the folder with the parts of a day."""
    return f"date={day}"


def part_day(path: str) -> date:
    """The day (UTC) on which the journal of a part began."""
    return date.fromisoformat(path.split("/date=", 1)[1][:10])


def journal_of(path: str) -> str | None:
    """The journal whose part is at `path`; None where the file is not a part.

    A file that somebody else put there, at the top of the folder or under another name, is none;
    nor is a hidden one, such as macOS puts beside each file that it copies.
    """
    match = _PART.fullmatch(path)
    return None if match is None else match[1]


def is_in_place(path: str) -> bool:
    """Whether a part is where its journal's part belongs; others were put there by somebody."""
    jid = journal_of(path)
    return jid is not None and path == part_path(jid)


def listed_day(path: str) -> str:
    """The day in whose folder a part is, be it its own or not."""
    return path.removeprefix(f"{PARTS_FOLDER}/{day_folder('')}")[:10]


async def list_parts(store: ObjectStore, *days: str) -> dict[str, str]:
    """The parts' paths, by journal; with days those of these days."""
    folders = [f"{PARTS_FOLDER}/{day_folder(day)}" for day in days] or [PARTS_FOLDER]
    listings = await asyncio.gather(*(store.list(folder) for folder in folders))
    paths = (path for listed in listings for path in listed)
    return {jid: path for path in paths if (jid := journal_of(path)) is not None}


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
    import pyarrow.parquet as pq  # noqa: PLC0415

    # As objects: Arrow takes several times the table's memory to sort it.
    table = to_table(map(row_of, sorted(attempts, key=_age)))
    buffer = io.BytesIO()
    # Without checksums some flipped bytes are readable, as other amounts.
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    return buffer.getvalue()


def _age(attempt: Attempt) -> tuple[float, str]:
    started = attempt.started_at
    return float("inf") if started is None else started.timestamp(), attempt.attempt_id


def decode_part(data: bytes) -> list[Attempt]:
    """The attempts of a part."""
    import pyarrow.parquet as pq  # noqa: PLC0415

    return list(attempts_of(pq.ParquetFile(io.BytesIO(data)).read()))


def table_of_part(data: bytes, columns: Sequence[str]) -> pa.Table:
    """Some columns of a part's rows, null where an older part lacks them."""
    import pyarrow.parquet as pq  # noqa: PLC0415

    file = pq.ParquetFile(io.BytesIO(data))
    found = file.read([name for name in columns if name in file.schema_arrow.names])
    fields = [SCHEMA.field(name) for name in columns]
    arrays = [
        found[field.name].cast(field.type)
        if field.name in found.column_names
        else pa.nulls(found.num_rows, field.type)
        for field in fields
    ]
    return pa.table(arrays, schema=pa.schema(fields))


def read_rows(
    parts: Sequence[str],
    unpublished: Iterable[Attempt],
    *,
    storage: Storage,
    columns: Sequence[str] = SCHEMA.names,
    where: pc.Expression | None = None,
    explain: bool = True,
) -> pa.Table:
    """The rows of parts in `storage` that pass a filter, then those of unpublished attempts.

    Columns that an older part lacks are null. Raises `StorageError` for a part that is damaged,
    and where the storage does not answer for as long as so many parts may take; with `explain` it
    names those that are damaged. Raises `ConfigurationError` if the newest of the parts is that of
    a newer version.
    """
    columns = list(columns)
    tables = [to_table(row_of(attempt) for attempt in unpublished).select(columns)]
    if parts:
        ahead = 1 if storage.is_local else READ_AHEAD
        found = _with_dataset(
            parts,
            storage,
            lambda dataset: dataset.to_table(
                columns=columns, filter=where, batch_readahead=ahead, fragment_readahead=ahead
            ),
            explain=explain,
        )
        tables.insert(0, found)
    return pa.concat_tables(tables)


def scan_rows(
    parts: Sequence[str],
    unpublished: Iterable[Attempt],
    *,
    storage: Storage,
    scan: "Callable[[ds.Dataset], T]",
) -> T:
    """What `scan` makes of a dataset of the same rows, which it can read a batch at a time.

    Raises as `read_rows` does.
    """
    import pyarrow.dataset as ds  # noqa: PLC0415  # loads pandas, if it is there

    rest = ds.dataset(to_table(row_of(attempt) for attempt in unpublished))
    if not parts:
        return scan(rest)
    # Each part may take as long as one call of the storage: the scan also computes with its rows.
    return _with_dataset(
        parts, storage, lambda dataset: scan(ds.dataset([dataset, rest])), parts_at_once=1
    )


def _with_dataset(
    parts: Sequence[str],
    storage: Storage,
    scan: "Callable[[ds.FileSystemDataset], T]",
    *,
    explain: bool = True,
    parts_at_once: int = PARTS_AT_ONCE,
) -> T:
    import pyarrow.dataset as ds  # noqa: PLC0415  # loads pandas, if it is there

    # Naming the files one by one leaves out temporaries and foreign files.
    files: Any = [storage.full_path(path) for path in parts]
    filesystem: Any = storage.filesystem

    def read() -> tuple[T] | Exception:
        try:
            dataset = ds.dataset(files, schema=SCHEMA, format="parquet", filesystem=filesystem)
            _check_newest(dataset, parts, storage)
            return (scan(dataset),)
        except (pa.ArrowInvalid, OSError, ConfigurationError, StorageError) as error:
            return error

    found = storage.run_now("read", PARTS_FOLDER, read, times=1 + len(parts) / parts_at_once)
    if isinstance(found, (ConfigurationError, StorageError)):
        raise found
    if isinstance(found, Exception):
        if explain:
            _name_the_damaged(parts, storage)
        raise StorageError(f"cannot read {storage.uri(PARTS_FOLDER)}: {found}") from found
    return found[0]


def _check_newest(dataset: "ds.FileSystemDataset", parts: Sequence[str], storage: Storage) -> None:
    """Raise `ConfigurationError` if a newer version has written the newest of the parts, and
    `StorageError` if its version is garbled.

    That version was the newest so far, or is this one. What is read here is not read again.
    """
    ours = [path for path in parts if journal_of(path) is not None]
    if not ours:
        return
    newest = max(ours, key=lambda path: path.rpartition("/")[2])
    for fragment in dataset.get_fragments():
        if fragment.path.endswith(newest):
            check_version(fragment.physical_schema.metadata, of=storage.uri(newest))


def _name_the_damaged(parts: Sequence[str], storage: Storage) -> None:
    """Raise `StorageError` if any of the parts is not whole."""
    import pyarrow.parquet as pq  # noqa: PLC0415

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
