"""Tables as CSV or Parquet files, written a batch at a time.

CSV is opened in spreadsheets, so no cell of text is a formula there, and amounts have no exponents.
"""

import csv
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dagster_imagegen.engine.errors import ConfigurationError

ENDINGS = (".csv", ".parquet")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""A spreadsheet runs a cell that begins so. Prompt ids and names come from elsewhere."""


def check_target(path: Path, *, what: str, endings: tuple[str, ...] = ENDINGS) -> None:
    """Raise `ConfigurationError` where `path` cannot be written: another ending, or no folder.

    `what` names the option or the format in the message.
    """
    if path.suffix not in endings:
        listed = f"{', '.join(endings[:-1])} or {endings[-1]}"
        raise ConfigurationError(f"{what}: {path} must end in {listed}")
    if not path.parent.is_dir():
        raise ConfigurationError(f"{what}: there is no folder {path.parent}; create it")


def write_batches(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
    """Write `.csv` or `.parquet`, and return the number of rows.

    The file appears when it is whole: after an error there is none, or the one from before. In CSV,
    text that a spreadsheet would take for a formula gets an apostrophe before it; Parquet has every
    value as it is.
    """
    with _replacing(path) as temporary:
        if path.suffix == ".csv":
            return _write_csv(temporary, schema, batches)
        return _write_parquet(temporary, schema, batches)


@contextmanager
def _replacing(path: Path) -> Generator[Path]:
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_parquet(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
    count = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(batch)
            count += batch.num_rows
    return count


def _write_csv(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
    count = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(schema.names)
        for batch in batches:
            for row in batch.to_pylist():
                writer.writerow(_text(value) for value in row.values())
            count += batch.num_rows
    return count


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return f"'{value}" if value.startswith(_FORMULA) else value
    if isinstance(value, Decimal):
        # pyarrow writes small amounts with an exponent, which FOCUS does not allow.
        return f"{value:f}"
    if isinstance(value, datetime):
        return value.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    return str(value).lower() if isinstance(value, bool) else str(value)
