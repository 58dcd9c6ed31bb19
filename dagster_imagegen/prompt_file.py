"""Prompt tables in files: beside a component's `defs.yaml`, or named on the command line."""

import csv
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

import pyarrow as pa

from dagster_imagegen.engine.errors import ConfigurationError


def prompt_file_in(folder: Path, name: str) -> Path:
    """The path of a prompt file in a component's folder.

    Raises `ConfigurationError` if it is not there, is elsewhere, or is of another format.
    """
    folder = folder.resolve()
    path = (folder / name).resolve()
    if not path.is_relative_to(folder):
        raise ConfigurationError(
            f"prompt_file must be in the component's folder {folder}, got {name!r}; move it there"
        )
    if path.suffix.lower() not in _READERS:
        raise ConfigurationError(
            f"prompt_file must end in {' or '.join(_READERS)}, got {name!r}; for other tables make "
            "an asset of them and set prompt_table to its key"
        )
    if not path.is_file():
        raise ConfigurationError(
            f"prompt_file: there is no file {path}; create it, or correct prompt_file"
        )
    return path


def read_prompt_file(path: Path) -> object:
    """The prompt table of a file. Cells of a CSV file are text, empty ones included.

    Raises `ConfigurationError` for a file that cannot be read, or is of another format.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise ConfigurationError(
            f"a file of prompts must end in {' or '.join(_READERS)}, got {str(path)!r}"
        )
    try:
        return reader(path)
    except (OSError, ValueError, csv.Error, pa.ArrowException) as error:
        remedy = "save it as UTF-8" if isinstance(error, UnicodeError) else "repair or replace it"
        raise ConfigurationError(f"prompt_file {path} cannot be read: {error}; {remedy}") from error


def _read_csv(path: Path) -> object:
    # Excel writes a byte order mark. Cells may have line breaks.
    with path.open(encoding="utf-8-sig", newline="") as file:
        # Strict, because a quote that is never closed would make one prompt of all that follows.
        rows = csv.DictReader(file, strict=True)
        headers = rows.fieldnames or []
        for name in headers:
            if headers.count(name) > 1:  # The reader would keep the last of them.
                raise csv.Error(f'the header names "{name}" twice; rename or leave out one')
        return list(rows)


def _read_parquet(path: Path) -> object:
    import pyarrow.parquet as pq  # noqa: PLC0415

    return pq.read_table(path)


def _read_jsonl(path: Path) -> object:
    rows: list[object] = []
    for number, line in enumerate(path.read_text("utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row: object = json.loads(line)
        except ValueError as error:
            raise ValueError(f"line {number} is not JSON ({error})") from error
        if not isinstance(row, dict):
            raise ConfigurationError(
                f"{path} line {number} must be a JSON object, one row of the table"
            )
        rows.append(cast("object", row))
    return rows


_READERS: Mapping[str, Callable[[Path], object]] = {
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".jsonl": _read_jsonl,
}
