"""The record of every request: journals while it is under way, Parquet parts once it is over."""

from dagster_imagegen.engine.record.folding import ImageStore
from dagster_imagegen.engine.record.limits import Limits
from dagster_imagegen.engine.record.reader import (
    Record,
    Reservation,
    read_record,
    rows_on_record,
)
from dagster_imagegen.engine.record.writer import (
    AlreadyThere,
    Contended,
    Decision,
    Granted,
    RecordWriter,
)

__all__ = [
    "AlreadyThere",
    "Contended",
    "Decision",
    "Granted",
    "ImageStore",
    "Limits",
    "Record",
    "RecordWriter",
    "Reservation",
    "read_record",
    "rows_on_record",
]
