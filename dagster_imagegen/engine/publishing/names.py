"""The names that images are published under: a template, filled with what tables hold.

The template is the user's and decides the folder. The values are data, which may come from anybody:
none of them adds a folder, leaves one, or makes a name that means more to a filesystem or a URL.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from dagster_imagegen.engine.errors import (
    ConfigurationError,
    InvalidRequest,
    PromptTableError,
    RowProblem,
    abbreviate,
    did_you_mean,
)
from dagster_imagegen.engine.prompts.rows import PromptRow, PromptTable
from dagster_imagegen.engine.prompts.source import PromptColumns
from dagster_imagegen.engine.prompts.table import row_problem
from dagster_imagegen.engine.prompts.template import PromptTemplate
from dagster_imagegen.engine.request import PARAMETERS, ImageRequest

Partition: TypeAlias = str | None
StaleNames: TypeAlias = Literal["list", "remove"]

PLACE = "publish template"
ENDING = ".{ext}"
OUR_FIELDS = ("prompt_id", "prompt", "variant", "partition_key", "fingerprint")
PART_BYTES_MAX = 235
"""File names end at 255 bytes; an extension and what a temporary file adds come on top."""
ADDRESS_BYTES_MAX = 1000
"""S3's keys end at 1,024 bytes."""

_ADDRESS = re.compile(r"(?:[a-z][a-z0-9+.-]*://)?(.*)", re.IGNORECASE | re.DOTALL)
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f\\?*#%<>:\"|{}]")
"""In the template below its folder: what a filesystem or a URL reads as something else."""
_PUNCTUATION = frozenset(" -_.,()")
_KINDS = ("L", "M", "N")
"""Unicode's letters, marks and numbers."""
_RESERVED = frozenset(
    ["CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(10))]
)
"""Names of devices on Windows, with any extension."""


@dataclass(frozen=True, kw_only=True)
class Publication:
    """Where images are published, under which names, and what becomes of stale ones.

    All names are below `folder`. `name` makes them without their extension.
    """

    folder: str
    name: PromptTemplate
    stale: StaleNames = "list"

    @classmethod
    def parse(cls, template: object, *, stale: object = "list") -> "Publication":
        """Parse a template such as `s3://cdn/products/{sku}.{ext}`.

        Raises `ConfigurationError` for one that lets data decide the folder, leaves it, or writes
        an extension.
        """
        if not isinstance(template, str):
            raise ConfigurationError(
                f"publish must be text such as s3://cdn/products/{{sku}}.{{ext}}, got "
                f"{type(template).__name__} {abbreviate(template)}"
            )
        for known in get_args(StaleNames):
            if stale == known:
                return _parsed(template, known)
        raise ConfigurationError(f'publish_stale must be "list" or "remove", got {stale!r}')


@dataclass(frozen=True, kw_only=True)
class ImageName:
    """The name, without extension, that one image of a prompt table is published under."""

    text: str
    partition: Partition
    position: int
    prompt_id: str
    variant: int


Names: TypeAlias = Mapping[Partition, Sequence[ImageName]]
"""By partition: a name for each row of its image table, in the same order."""


def key_of(name: str) -> str:
    """What names have in common that are the same on a disk that ignores case."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


# -- the template ----------------------------------------------------------------------------------


def _parsed(text: str, stale: StaleNames) -> Publication:
    template = PromptTemplate.parse(text, place=PLACE)
    pieces = list(template.pieces)
    if not text.endswith(ENDING) or sum(name == "ext" for _, name, _ in pieces) != 1:
        raise ConfigurationError(
            f'{PLACE} "{text}" must end in {ENDING}, once: images keep the bytes that the provider '
            f"sent, which decide the extension; e.g. {_without_extension(text)}{ENDING}"
        )
    pieces[-1] = (pieces[-1][0].removesuffix("."), None, "")
    folder, slash, rest = pieces[0][0].rpartition("/")
    pieces[0] = (rest, *pieces[0][1:])
    below = "".join(literal + ("x" if name else "") for literal, name, _ in pieces)
    _check_folder(text, f"{folder}{slash}")
    _check_parts(text, below)
    return Publication(
        folder=folder,
        name=PromptTemplate(text=text, pieces=tuple(pieces), place=PLACE),
        stale=stale,
    )


def _without_extension(text: str) -> str:
    stem, dot, extension = text.rpartition(".")
    return stem if dot and extension.isalnum() else text.rstrip(".")


def _check_folder(text: str, folder: str) -> None:
    """Its part before the first column must name a folder, which no value can change."""
    address = _ADDRESS.fullmatch(folder)
    below = address.group(1) if address else ""
    if not below.strip("/") or not below.endswith("/"):
        raise ConfigurationError(
            f'{PLACE} "{text}" must begin with a folder or bucket and a slash before its first '
            "column, so that no value decides where images go; e.g. s3://cdn/products/{sku}"
            f"{ENDING}"
        )
    _check_parts(
        text, f"{below.strip('/')}/x", where="folder", forbidden=re.compile(r"[\x00-\x1f]")
    )


def _check_parts(
    text: str, path: str, *, where: str = "name", forbidden: re.Pattern[str] = _FORBIDDEN
) -> None:
    bad = [part for part in path.split("/") if part.strip() in ("", ".", "..")]
    if bad:
        raise ConfigurationError(
            f'{PLACE} "{text}": the {where} has the part "{bad[0]}"; write the path without '
            'empty parts, "." and ".."'
        )
    if found := forbidden.search(path):
        raise ConfigurationError(
            f'{PLACE} "{text}": the {where} must not contain {found.group()!r}, which is no plain '
            "character in a path or a URL; leave it out"
        )


# -- the names -------------------------------------------------------------------------------------


def names_of(
    publication: Publication, prompts: PromptTable, partition: Partition
) -> list[ImageName]:
    """The names of a prompt table's images: of each row, its variants.

    Raises `ConfigurationError` for a column that there is not, `PromptTableError` naming every row
    whose values make no name.
    """
    _check_columns(publication, prompts, partition)
    carried = [name for name in publication.name.columns if name in prompts.carried.column_names]
    table = PromptColumns(
        names=tuple(carried), num_rows=prompts.num_rows, table=prompts.carried.select(carried)
    )
    cells = {name: table.cells(name) for name in carried}
    names: list[ImageName] = []
    problems: list[RowProblem] = []
    for position, row in enumerate(prompts.each_row()):
        values = {name: column[position] for name, column in cells.items()}
        try:
            names += [
                ImageName(
                    text=_name(publication, {**_own_values(row, each, partition), **values}),
                    partition=partition,
                    position=position,
                    prompt_id=row.prompt_id,
                    variant=each.variant,
                )
                for each in row.requests
            ]
        except InvalidRequest as error:
            problems.append(row_problem(position, row.prompt_id, error))
    if problems:
        raise PromptTableError(problems)
    return names


def _check_columns(publication: Publication, prompts: PromptTable, partition: Partition) -> None:
    carried = prompts.carried.column_names
    if not prompts.num_rows:
        return
    known = [*carried, *OUR_FIELDS, "ext", *PARAMETERS]
    for name in publication.name.columns:
        if name not in known:
            raise ConfigurationError(
                f'{PLACE}: the prompt table has no column "{name}"{did_you_mean(name, known)}'
            )
    for name in (*publication.name.columns, "ext"):
        if name in carried and name in (*OUR_FIELDS, "ext"):
            raise ConfigurationError(
                f"{PLACE}: {{{name}}} is a fact of the image, and the prompt table has a column "
                f'"{name}" as well; rename the column'
            )
    if partition is None and "partition_key" in publication.name.columns:
        raise ConfigurationError(
            f"{PLACE}: {{partition_key}}: the asset has no partitions; leave it out"
        )


def _own_values(row: PromptRow, request: ImageRequest, partition: Partition) -> dict[str, object]:
    own = {
        "prompt_id": row.prompt_id,
        "partition_key": partition,
        "n": len(row.requests),
        "prompt": request.prompt,
        "variant": request.variant,
        "fingerprint": request.fingerprint,
    }
    return {**{name: getattr(request, name) for name in PARAMETERS if name != "n"}, **own}


def _name(publication: Publication, values: Mapping[str, object]) -> str:
    filled = publication.name.fill(values, change=plain_part)
    parts = [_unreserved(part) for part in unicodedata.normalize("NFC", filled).split("/")]
    for part in parts:
        if len(part.encode()) > PART_BYTES_MAX:
            raise InvalidRequest(
                "publish",
                part,
                f"must make names of at most {PART_BYTES_MAX} bytes",
                remedy="shorten the value, or name another column in the template",
            )
    name = "/".join(parts)
    if len(f"{publication.folder}/{name}".encode()) > ADDRESS_BYTES_MAX:
        raise InvalidRequest(
            "publish",
            name,
            f"must make addresses of at most {ADDRESS_BYTES_MAX:,} bytes",
            remedy="shorten the values, or name fewer columns in the template",
        )
    return name


def plain_part(text: str) -> str:
    """A value as a part of a name: letters, marks and numbers of any script, ` -_.,()`.

    Each other character becomes `_`, also what cannot be seen or changes the direction of
    reading. Spaces and dots at either end are left out; if nothing is left, it is `_`.
    """
    kept = "".join(
        each if each in _PUNCTUATION or unicodedata.category(each)[0] in _KINDS else "_"
        for each in unicodedata.normalize("NFC", text)
    )
    return kept.strip(" .") or "_"


def _unreserved(part: str) -> str:
    stem = part.split(".", maxsplit=1)[0].strip().upper()
    return f"_{part}" if stem in _RESERVED else part


# -- names that meet -------------------------------------------------------------------------------


def collisions(names: Names) -> list[RowProblem]:
    """Images of one run that would be published under the same name, whatever their extension."""
    by_key: defaultdict[str, list[ImageName]] = defaultdict(list)
    for each in (each for of_partition in names.values() for each in of_partition):
        by_key[key_of(each.text)].append(each)
    return [_collision(each, group[0]) for group in by_key.values() for each in group[1:2]]


def _collision(second: ImageName, first: ImageName) -> RowProblem:
    if second.partition != first.partition:
        other = f"row {first.position} of partition {first.partition} has it too"
        remedy = "name {partition_key} in the template"
    elif second.position != first.position:
        other = f"row {first.position} has it too"
        remedy = "name another column in the template, e.g. {prompt_id}"
    else:
        other = f"variant {first.variant} of the row has it too"
        remedy = "name {variant} in the template"
    if second.text != first.text:
        other += ", but for case, which some disks and stores ignore"
    of_partition = "" if second.partition is None else f" (partition {second.partition})"
    return RowProblem(
        position=second.position,
        prompt_id=second.prompt_id,
        column="publish",
        value=second.text,
        rule=f"must make a name of its own for each image{of_partition}",
        remedy=f"{other}; {remedy}",
    )
