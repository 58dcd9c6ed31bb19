"""`adopt`: existing images become part of the record, and are not bought again."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import cast

import click

from dagster_imagegen.cli import exit_codes
from dagster_imagegen.cli.options import (
    EndpointChoice,
    StorageChoice,
    endpoint_options,
    open_engine,
    storage_options,
)
from dagster_imagegen.cli.output import Report, Table, json_option, show
from dagster_imagegen.cli.progress import counting
from dagster_imagegen.cli.prompt_options import FILE, PromptChoice, prompt_options
from dagster_imagegen.engine.errors import ConfigurationError, StorageError
from dagster_imagegen.engine.prompts.rows import PromptTable
from dagster_imagegen.engine.prompts.source import read_source
from dagster_imagegen.engine.verification import problem_of
from dagster_imagegen.prompt_file import read_prompt_file


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("file", type=FILE)
@storage_options
@endpoint_options
@prompt_options
@click.option(
    "--file-column",
    default="file",
    show_default=True,
    metavar="COLUMN",
    help="The column of FILE with the name of each image, below FOLDER.",
)
@click.option("--dry-run", is_flag=True, help="Check everything, and store nothing.")
@json_option
def command(
    *,
    folder: Path,
    file: Path,
    storage: StorageChoice,
    endpoint: EndpointChoice,
    prompts: PromptChoice,
    file_column: str,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Make the images of FOLDER part of the record: FILE has the prompt and the name of each.

    Give the endpoint, the model and the parameters that later runs will ask with: these decide
    which request an image answers. Nothing is sent. The files stay as they are, and are copied.

    \b
    Example:
      dagster-imagegen adopt ./old-images prompts.csv --storage /data/imagegen \\
        --endpoint https://api.openai.com/v1 --model gpt-image-1 \\
        --param quality=high
    """
    engine = open_engine(storage, endpoint, may_be_new=True)
    source = read_prompt_file(file)
    table = prompts.read_rows(engine, source)
    columns = read_source(source)
    if file_column not in columns.names:
        raise ConfigurationError(
            f'{file} has no column "{file_column}" with the names of the images, only '
            f"{', '.join(columns.names)}; name it with --file-column"
        )
    paths = _paths(folder, columns.cells(file_column, 0, table.num_rows))
    wanted = _wanted(table, paths)
    bad = _unusable(paths)
    adopted = 0
    if not bad and not dry_run:
        with counting("adopting images") as on_done:
            adopted = engine.upkeep.adopt(_readers(wanted, on_done))
    facts = {"rows": table.num_rows, "images": len(wanted), "adopted": adopted}
    if not dry_run and not bad:
        facts["already_there"] = len(wanted) - adopted
    show(Report(facts=facts, tables=[_table(bad)]), as_json=as_json)
    return exit_codes.USAGE if bad else exit_codes.FINE


def _paths(folder: Path, names: Sequence[object]) -> list[Path]:
    """The file of each row. Raises `ConfigurationError` for one outside of the folder."""
    root = folder.resolve()
    paths: list[Path] = []
    for position, name in enumerate(names):
        if not (isinstance(name, str) and name.strip()):
            raise ConfigurationError(f"row {position} names no file, got {name!r}")
        path = root / name
        try:
            is_below = path.resolve().is_relative_to(root)
        except (OSError, RuntimeError, ValueError) as error:  # A loop of links, a null character.
            raise ConfigurationError(
                f"row {position}: {name!r} is no name of a file ({error})"
            ) from error
        if not is_below:
            raise ConfigurationError(f"row {position}: {name!r} is not below {folder}")
        paths.append(path)
    return paths


def _wanted(table: PromptTable, paths: Sequence[Path]) -> dict[str, Path]:
    """The file of each fingerprint; each row is one image. Raises where two rows disagree."""
    wanted: dict[str, Path] = {}
    for position, (row, path) in enumerate(zip(table.each_row(), paths, strict=True)):
        if len(row.requests) != 1:
            raise ConfigurationError(
                f"row {position} asks for {len(row.requests)} images and names one file; adopt "
                "with n=1"
            )
        other = wanted.setdefault(row.requests[0].fingerprint, path)
        if other != path:
            raise ConfigurationError(
                f"row {position}: {path.name} answers the same request as {other.name}; keep one, "
                "or tell them apart with a revision"
            )
    return wanted


def _unusable(paths: Sequence[Path]) -> list[tuple[str, str]]:
    """What is missing or no image, all of it: nothing is stored if there is any."""
    bad: list[tuple[str, str]] = []
    for path in dict.fromkeys(paths):
        if not path.is_file():
            bad.append((str(path), "there is no such file"))
        elif (problem := _problem_of_file(path)) is not None:
            bad.append((str(path), problem))
    return bad


def _problem_of_file(path: Path) -> str | None:
    try:
        return problem_of(path.read_bytes())
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StorageError(f"{path} was usable and cannot be read now ({error})") from error


def _readers(
    wanted: dict[str, Path], on_done: Callable[[int, int], None]
) -> Iterator[tuple[str, Callable[[], bytes]]]:
    for count, (fingerprint, path) in enumerate(wanted.items(), start=1):
        on_done(count, len(wanted))
        yield fingerprint, partial(_read, path)


def _table(bad: list[tuple[str, str]]) -> Table:
    return Table(name="unusable", columns=("file", "problem"), rows=cast("list[list[object]]", bad))
