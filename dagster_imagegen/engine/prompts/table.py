"""Prompt tables to requests: `read_prompts`."""

import hashlib
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from dagster_imagegen.engine.errors import (
    ConfigurationError,
    InvalidRequest,
    PromptTableError,
    RowProblem,
    did_you_mean,
)
from dagster_imagegen.engine.prompts.parameters import (
    PARAMETERS,
    check_overrides,
    check_param,
    check_params,
    is_null,
    merge_extra_body,
    whole_number,
)
from dagster_imagegen.engine.prompts.source import read_source
from dagster_imagegen.engine.prompts.template import PromptTemplate
from dagster_imagegen.engine.request import ImageParams, ImageRequest, has_lone_surrogate

OUR_PREFIX = "image_"


@dataclass(frozen=True, kw_only=True)
class PromptRow:
    """One row of a prompt table: its requests are variants 0 to n-1 of one image."""

    position: int
    prompt_id: str
    prompt: str
    requests: tuple[ImageRequest, ...]


@dataclass(frozen=True, kw_only=True)
class PromptTable:
    """A prompt table that can be sent as it is.

    `carried` has one row for each of `rows`, in their order, and every column that is not
    `prompt`, `prompt_id` or an override. `warnings` are for the log.
    """

    carried: pa.Table
    rows: tuple[PromptRow, ...]
    warnings: tuple[str, ...] = ()


def read_prompts(
    source: object,
    /,
    *,
    endpoint_id: str,
    model: str,
    template: str | None = None,
    overrides: Sequence[str] = (),
    params: ImageParams | None = None,
    extra_body: Mapping[str, Any] | None = None,
    streaming_needs_partials: bool = False,
) -> PromptTable:
    """The requests of a prompt table, all of them sound, or an error and nothing to send.

    `model` and `extra_body` are the resource's; `params` win over them, a row's overrides over
    both. Raises `ConfigurationError` for arguments or columns that cannot work for any row, and
    else `PromptTableError` naming every bad row.

    With a template, a column `prompt` can be named in it like any other; the filled template then
    takes its place. A one-shot source (a generator, a record batch reader) is used up.
    """
    rules = _rules(
        {"endpoint_id": endpoint_id, "model": model, "n": 1, **check_params(params or {})},
        extra_body=extra_body,
        template=template,
        overrides=overrides,
        streaming_needs_partials=streaming_needs_partials,
    )
    table = read_source(source)
    if table.num_rows == 0 and not table.names:
        return PromptTable(carried=table.carry(()), rows=())
    _check_columns(table.names, rules)
    judged = [name for name in rules.columns if name in table.names]
    columns = [table.cells(name) for name in judged]
    reader = _RowReader(rules)
    rows = [
        reader.read(position, {name: cells[position] for name, cells in zip(judged, columns)})  # noqa: B905  # same length, once a row
        for position in range(table.num_rows)
    ]
    if reader.problems:
        raise PromptTableError(reader.problems)
    ours = ("prompt", "prompt_id", *overrides)
    return PromptTable(
        carried=table.carry([name for name in table.names if name not in ours]),
        rows=tuple(row for row in rows if row is not None),
        warnings=_warnings(table.names, rules),
    )


@dataclass(frozen=True, kw_only=True)
class _RowRules:
    """What holds for every row of one table. `base` has the parameters that a row can override."""

    template: PromptTemplate | None
    overrides: tuple[str, ...]
    base: Mapping[str, Any]
    extra_body: tuple[Mapping[str, Any] | None, ...]
    streaming_needs_partials: bool

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that a row is judged by."""
        prompt = self.template.columns if self.template else ("prompt",)
        return tuple(dict.fromkeys(("prompt_id", *prompt, *self.overrides)))

    def request(self, prompt: str, changes: Mapping[str, Any]) -> ImageRequest:
        """Variant 0 of a row. Its extra body is merged over the asset's."""
        settings = {**self.base, **changes}
        del settings["n"]
        if "extra_body" in changes:
            settings["extra_body"] = merge_extra_body(*self.extra_body, changes["extra_body"])
        return ImageRequest(prompt=prompt, **settings)

    def problems(self, request: ImageRequest) -> Iterator[InvalidRequest]:
        return request.problems(streaming_needs_partials=self.streaming_needs_partials)


def _rules(
    params: Mapping[str, Any],
    *,
    extra_body: Mapping[str, Any] | None,
    template: str | None,
    overrides: Sequence[str],
    streaming_needs_partials: bool,
) -> _RowRules:
    check_overrides(overrides)
    layers = (extra_body, params.get("extra_body"))
    rules = _RowRules(
        template=None if template is None else PromptTemplate.parse(template),
        overrides=tuple(dict.fromkeys(overrides)),
        base={**params, "extra_body": merge_extra_body(*layers)},
        extra_body=layers,
        streaming_needs_partials=streaming_needs_partials,
    )
    # What no row can mend is one error, not one a row.
    for problem in rules.problems(rules.request("any", {})):
        if not overrides:
            raise problem
    return rules


def _check_columns(names: Sequence[str], rules: _RowRules) -> None:
    template = rules.template
    if template is None and "prompt" not in names:
        raise ConfigurationError(
            'the prompt table has no column "prompt", and there is no prompt template'
            + did_you_mean("prompt", names)
        )
    if template is not None:
        template.check_columns(names)
        if "prompt" in names and "prompt" not in template.columns:
            raise ConfigurationError(
                'the prompt table has a column "prompt" beside a prompt template that does not '
                "use it; name it in the template as {prompt}, rename it, or leave out the template"
            )
    for name in rules.overrides:
        if name not in names:
            raise ConfigurationError(
                f'overrides: the prompt table has no column "{name}"' + did_you_mean(name, names)
            )
    collisions = [name for name in names if name.startswith(OUR_PREFIX)]
    if collisions:
        raise ConfigurationError(
            f"columns of the prompt table collide with those of the image table, which begin with "
            f'"{OUR_PREFIX}": {", ".join(collisions)}; rename or drop them'
        )


def _warnings(names: Sequence[str], rules: _RowRules) -> tuple[str, ...]:
    """Columns that look like overrides. One that the template uses is the table's own."""
    return tuple(
        f'column "{name}" of the prompt table is carried along and overrides nothing; if it is '
        f'meant for the request, name it: overrides=["{name}"]'
        for name in names
        if name in PARAMETERS and name not in rules.columns
    )


class _RowReader:
    """Reads a table's rows one by one, and collects what is wrong with any of them."""

    def __init__(self, rules: _RowRules) -> None:
        self._rules = rules
        self._positions: dict[str, int] = {}
        self.problems: list[RowProblem] = []

    def read(self, position: int, cells: Mapping[str, object]) -> PromptRow | None:
        """The row, or None where something is wrong with it. Positions are read in order."""
        found: list[InvalidRequest] = []
        prompt_id = self._prompt_id(position, cells, found)
        prompt = self._prompt(cells, found)
        changes = self._changes(cells, found)
        request = self._rules.request(prompt or "", changes)
        # A cell at fault is left out of the request, which is judged without it.
        faulty = {problem.field for problem in found}
        if prompt is None:
            faulty.add("prompt")
        found += [each for each in self._rules.problems(request) if each.field not in faulty]
        if found or prompt is None:
            self._report(position, prompt_id, found)
            return None
        variants: int = changes.get("n", self._rules.base["n"])
        return PromptRow(
            position=position,
            prompt_id=prompt_id or _stand_in_id(position, prompt),
            prompt=prompt,
            requests=(request, *(replace(request, variant=at) for at in range(1, variants))),
        )

    def _prompt_id(
        self, position: int, cells: Mapping[str, object], found: list[InvalidRequest]
    ) -> str | None:
        prompt_id = None
        with _noting(found):
            if "prompt_id" in cells:
                prompt_id = _prompt_id(cells["prompt_id"])
                first = self._positions.setdefault(prompt_id, position)
                if first != position:
                    raise InvalidRequest(
                        "prompt_id", prompt_id, f"row {first} has the same one; ids are unique"
                    )
        return prompt_id

    def _prompt(self, cells: Mapping[str, object], found: list[InvalidRequest]) -> str | None:
        template = self._rules.template
        with _noting(found):
            return _prompt(cells["prompt"]) if template is None else template.fill(cells)
        return None

    def _changes(self, cells: Mapping[str, object], found: list[InvalidRequest]) -> dict[str, Any]:
        """What the row overrides: null, and NaN in its stead, overrides nothing."""
        changes: dict[str, Any] = {}
        for name in self._rules.overrides:
            with _noting(found):
                if not is_null(cells[name]):
                    changes[name] = check_param(name, cells[name], in_table=True)
        return changes

    def _report(
        self, position: int, prompt_id: str | None, found: Sequence[InvalidRequest]
    ) -> None:
        self.problems += [
            RowProblem(
                position=position,
                prompt_id=prompt_id,
                column=problem.field,
                value=problem.value,
                remedy=problem.remedy,
            )
            for problem in found
        ]


@contextmanager
def _noting(found: list[InvalidRequest]) -> Generator[None, None, None]:
    """What is wrong inside is noted, so that the rest of the row is judged as well."""
    try:
        yield
    except InvalidRequest as problem:
        found.append(problem)


def _prompt(cell: object) -> str:
    if is_null(cell):
        raise InvalidRequest("prompt", None, "every row needs one; fill it or drop the row")
    if not isinstance(cell, str):
        raise InvalidRequest("prompt", cell, f"is text, not {type(cell).__name__}")
    return cell


def _prompt_id(cell: object) -> str:
    if is_null(cell):
        raise InvalidRequest(
            "prompt_id", None, "every row needs one, or the table no such column at all"
        )
    whole = whole_number(cell)
    if whole is not None:
        return str(whole)
    if not isinstance(cell, str):
        raise InvalidRequest("prompt_id", cell, f"is text or an integer, not {type(cell).__name__}")
    if not cell or has_lone_surrogate(cell):
        raise InvalidRequest("prompt_id", cell, "is text that UTF-8 can carry, and not empty")
    return cell


def _stand_in_id(position: int, prompt: str) -> str:
    return f"{position}-{hashlib.sha256(prompt.encode()).hexdigest()[:8]}"
