"""Turns a prompt table into requests: `read_prompts`."""

import hashlib
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any, TypeGuard

import pyarrow as pa

from dagster_imagegen.engine.errors import (
    ConfigurationError,
    InvalidRequest,
    PromptTableError,
    RowProblem,
    did_you_mean,
)
from dagster_imagegen.engine.prompts.parameters import (
    check_overrides,
    check_param,
    check_params,
    check_value,
    merge_mappings,
    wrong_type,
)
from dagster_imagegen.engine.prompts.rows import (
    ROWS_AT_ONCE,
    PromptTable,
    PromptTableBuilder,
)
from dagster_imagegen.engine.prompts.source import PromptColumns, read_source, renamed
from dagster_imagegen.engine.prompts.template import PromptTemplate
from dagster_imagegen.engine.prompts.values import is_empty, whole_number
from dagster_imagegen.engine.request import (
    PARAMETERS,
    PROMPT,
    ImageParams,
    ImageRequest,
    Parameter,
    is_sound_text,
)

OUR_PREFIX = "image_"
BYTE_ORDER_MARKS = ("\ufeff", "ï»¿")
"""As UTF-8 reads it, and as other encodings do."""
ZERO_WIDTH_SPACE = "\u200b"
PROMPT_ID = Parameter("text", name="prompt_id", nullable=False)


def read_prompts(
    source: object,
    /,
    *,
    endpoint_id: str,
    model: str,
    template: str | None = None,
    overrides: Sequence[str] = (),
    carry_prefix: str | None = None,
    params: ImageParams | None = None,
    extra_body: Mapping[str, Any] | None = None,
    streaming_needs_partials: bool = False,
) -> PromptTable:
    """Read a prompt table; nothing can be sent unless every row is sound.

    Args:
        source: Anything tabular, see `read_source`. A generator or reader is used up.
        endpoint_id: The endpoint that the images belong to.
        model: The resource's model; `extra_body` is the resource's too.
        template: A prompt with named columns. The filled template replaces a column `prompt`.
        overrides: The columns that override a parameter for their row.
        carry_prefix: See `carried_names`.
        params: The asset's, which precede the resource's. Overrides precede both.
        streaming_needs_partials: See `ImageRequest.problems`.

    Raises:
        PromptTableError: Rows are at fault; it names all of them.
        ConfigurationError: Arguments or columns are at fault, for any row.
    """
    reader = _RowReader(
        {"endpoint_id": endpoint_id, "model": model, "n": 1, **check_params(params or {})},
        extra_body=extra_body,
        template=template,
        overrides=overrides,
        streaming_needs_partials=streaming_needs_partials,
    )
    table = read_source(source)
    if carry_prefix is not None:
        table = renamed(table, carried_names(table.names, carry_prefix, template))
    if table.num_rows == 0 and not table.names:
        return reader.table(table.carry(()))
    reader.check_columns(table.names)
    reader.read_all(table)
    if reader.problems:
        raise PromptTableError(reader.problems)
    ours = ("prompt", "prompt_id", *overrides)
    return reader.table(
        table.carry([name for name in table.names if name not in ours]),
        warnings=_warnings(table.names, reader.columns),
    )


def carried_names(names: Sequence[str], prefix: str, template: str | None) -> dict[str, str]:
    """The columns of an image table that is a prompt table → the names that they get.

    All that begin with `image_`. With a template also `prompt` and `prompt_id`, so that the
    template names the prompt of before by its prefix; without one they are the row's own.
    """
    ours = ("prompt", "prompt_id") if template is not None else ()
    renamed = (name for name in names if name.startswith(OUR_PREFIX) or name in ours)
    return {name: f"{prefix}{name}" for name in renamed}


def name_before(name: str, prefix: str | None) -> str:
    """The name in the prompt table of a column that `carried_names` may have renamed."""
    before = name.removeprefix(prefix or "")
    ours = before in ("prompt", "prompt_id") or before.startswith(OUR_PREFIX)
    return before if ours else name


def check_carry_prefix(prefix: object) -> str | None:
    """Raise `ConfigurationError` for a prefix that would not keep the columns apart."""
    if prefix is None:
        return None
    if not isinstance(prefix, str) or not prefix or prefix.startswith(OUR_PREFIX):
        raise ConfigurationError(
            f'carry_prefix must be text that does not begin with "{OUR_PREFIX}", e.g. "hero_", got '
            f"{prefix!r}"
        )
    return prefix


def _warnings(names: Sequence[str], judged: Sequence[str]) -> tuple[str, ...]:
    """For columns with the name of a parameter that neither `overrides` nor the template names,
    and for those that only look like `prompt_id`."""
    ids = () if "prompt_id" in names else names
    return tuple(
        f'the prompt table has no column "prompt_id"{_as_seen(each)}'
        for each in ids
        if _seen(each) == "prompt_id"
    ) + tuple(
        f'column "{name}" of the prompt table does not override the parameter of that name; if it '
        f'should, add overrides=["{name}"]'
        for name in names
        if name in PARAMETERS and name not in judged
    )


def _seen(name: str) -> str:
    """A column's name as a reader takes it: without a byte order mark, outer spaces and case."""
    for mark in (*BYTE_ORDER_MARKS, ZERO_WIDTH_SPACE):
        name = name.replace(mark, "")
    return unicodedata.normalize("NFKC", name).strip().lower()


def _as_seen(other: str) -> str:
    """What to do about a column that looks like the one that is needed."""
    if other.startswith(BYTE_ORDER_MARKS):
        why = "it begins with a byte order mark; read the file with encoding utf-8-sig"
    elif other != other.strip():
        why = "it has spaces around it; rename it"
    elif other != other.lower():
        why = "its case differs; rename it"
    else:
        why = "it has characters that cannot be seen; rename it"
    return f'; did you mean "{repr(other)[1:-1]}"? {why}'


def _no_column(name: str, names: Sequence[str]) -> str:
    alike = next((each for each in names if _seen(each) == _seen(name)), None)
    hint = did_you_mean(name, names) if alike is None else _as_seen(alike)
    return f'the prompt table has no column "{name}"{hint}'


class _RowReader:
    """Reads rows one by one, and collects the problems of all of them.

    Args:
        params: The asset's and the resource's, which rows override.
        extra_body: The resource's; the asset's and a row's are merged over it.
    """

    def __init__(
        self,
        params: Mapping[str, Any],
        *,
        extra_body: Mapping[str, Any] | None,
        template: str | None,
        overrides: Sequence[str],
        streaming_needs_partials: bool,
    ) -> None:
        check_overrides(overrides)
        self._overrides = tuple(dict.fromkeys(overrides))
        self._template = None if template is None else PromptTemplate.parse(template)
        self._streaming_needs_partials = streaming_needs_partials
        self._layers = {
            name: (extra_body if name == "extra_body" else None, params.get(name))
            for name, parameter in PARAMETERS.items()
            if parameter.kind == "mapping"
        }
        """The mappings over which a row's own are merged."""
        merged = {name: merge_mappings(name, *layers) for name, layers in self._layers.items()}
        self._base: dict[str, Any] = {**params, **merged}
        self._positions: dict[str, int] = {}
        self._known: dict[tuple[object, ...], int] = {}
        """The settings of sound rows, by their overrides."""
        self._rows = PromptTableBuilder()
        self.problems: list[RowProblem] = []
        self._prompt_columns = ("prompt",) if self._template is None else self._template.columns
        self.columns = tuple(dict.fromkeys(("prompt_id", *self._prompt_columns, *overrides)))
        """The columns that are read; all others are carried along."""
        # What no row can change is one error, not one for each row.
        if not overrides:
            for problem in self._problems(self._request("any", {})):
                raise problem

    def check_columns(self, names: Sequence[str]) -> None:
        """Raise `ConfigurationError` if a column is missing, ambiguous or named as ours are."""
        template = "without a prompt template" if self._template is None else "prompt template"
        needed = dict.fromkeys(self._prompt_columns, template)
        needed |= {name: "overrides" for name in self._overrides if name not in needed}
        for name, place in needed.items():
            if name not in names:
                raise ConfigurationError(f"{place}: {_no_column(name, names)}")
        if "prompt" in names and "prompt" not in self._prompt_columns:
            raise ConfigurationError(
                'the prompt table has a column "prompt" beside a prompt template that does not '
                "use it; name it in the template as {prompt}, rename it, or leave out the template"
            )
        collisions = [name for name in names if name.startswith(OUR_PREFIX)]
        if collisions:
            raise ConfigurationError(
                f'columns of the prompt table must not begin with "{OUR_PREFIX}", as those of the '
                f"image table do, got {', '.join(collisions)}; rename or drop them, or set "
                "carry_prefix"
            )

    def read_all(self, table: PromptColumns) -> None:
        """Read all rows, of which only some are Python values at a time."""
        judged = [name for name in self.columns if name in table.names]
        for start in range(0, table.num_rows, ROWS_AT_ONCE):
            columns = [table.cells(name, start, start + ROWS_AT_ONCE) for name in judged]
            count = min(ROWS_AT_ONCE, table.num_rows - start)
            self._read_some(start, count, dict(zip(judged, columns, strict=True)))

    def table(self, carried: pa.Table, *, warnings: Sequence[str] = ()) -> PromptTable:
        """The rows that were read; none of them may have problems."""
        return self._rows.table(carried, warnings=warnings)

    def _read_some(self, start: int, count: int, columns: Mapping[str, Sequence[object]]) -> None:
        settings = self._settings_before(columns, count)
        ids = self._plain_ids(columns, start, count)
        texts = self._texts(columns, count)
        for at, (index, prompt_id, text) in enumerate(zip(settings, ids, texts, strict=True)):
            # Most rows have nothing new about them.
            if index is not None and prompt_id is not None and text is not None:
                self._rows.add(prompt_id or _stand_in(start + at, text), text, index)
            else:
                self._read(start + at, {name: column[at] for name, column in columns.items()})

    def _settings_before(
        self, columns: Mapping[str, Sequence[object]], count: int
    ) -> Iterable[int | None]:
        """For each row the settings of an earlier sound one with the same overrides."""
        if not self._overrides:
            # Looked up for each: after the first row they are known.
            return (self._known.get(()) for _ in range(count))
        keys = map(_key, zip(*(columns[name] for name in self._overrides), strict=True))
        return (None if key is None else self._known.get(key) for key in keys)

    def _plain_ids(
        self, columns: Mapping[str, Sequence[object]], start: int, count: int
    ) -> Iterable[str | None]:
        """The `prompt_id` of each row, None for one to look at closer; "" where there are none."""
        if "prompt_id" not in columns:
            return repeat("", count)
        is_first, ids = self._positions.setdefault, enumerate(columns["prompt_id"], start)
        return [
            each if _is_sound(each, PROMPT_ID) and is_first(each, at) == at else None
            for at, each in ids
        ]

    def _texts(self, columns: Mapping[str, Sequence[object]], count: int) -> Iterable[str | None]:
        """The prompt of each row, None for one to look at closer."""
        if self._template is None:
            texts = columns["prompt"]
        else:
            texts = self._template.fill_all(columns, count)
        return [each if _is_sound(each, PROMPT) else None for each in texts]

    def _read(self, position: int, cells: Mapping[str, object]) -> None:
        """Add a row, or note its problems. Positions are read in order."""
        found = _Found()
        prompt_id = prompt = None
        with found:
            if "prompt_id" in cells:
                prompt_id = _prompt_id(cells["prompt_id"])
                self._check_unique(prompt_id, position)
        with found:
            template = self._template
            prompt = _prompt(cells["prompt"]) if template is None else template.fill(cells)
        settings = self._judge(position, cells, prompt_id, prompt, found)
        if settings is not None and prompt is not None:
            self._rows.add(prompt_id or _stand_in(position, prompt), prompt, settings)

    def _judge(
        self,
        position: int,
        cells: Mapping[str, object],
        prompt_id: str | None,
        prompt: str | None,
        found: "_Found",
    ) -> int | None:
        """The settings of a row, or None if it has problems, which are noted."""
        changes: dict[str, Any] = {}
        for name in self._overrides:
            with found:
                # CSV has empty text for null.
                if not is_empty(cells[name]):
                    changes[name] = check_param(name, cells[name], in_table=True)
        request = self._request(prompt or "", changes)
        # A faulty cell is left out of the request, so its rules are not applied a second time.
        faulty = {problem.field for problem in found} | ({"prompt"} if prompt is None else set())
        # Without overrides nothing but the prompt differs from what was checked at first.
        problems = self._problems(request) if self._overrides else PROMPT.problems(request.prompt)
        found += [each for each in problems if each.field not in faulty]
        if found or prompt is None:
            self.problems += [row_problem(position, prompt_id, each) for each in found]
            return None
        settings = self._rows.settings(request, n=changes.get("n", self._base["n"]))
        key = _key([cells[name] for name in self._overrides])
        if key is not None:
            self._known[key] = settings
        return settings

    def _check_unique(self, prompt_id: str, position: int) -> None:
        first = self._positions.setdefault(prompt_id, position)
        if first != position:
            remedy = f"row {first} has the same one"
            raise InvalidRequest("prompt_id", prompt_id, "must be unique", remedy=remedy)

    def _request(self, prompt: str, changes: Mapping[str, Any]) -> ImageRequest:
        """Variant 0 of a row that sets `changes`."""
        settings = {**self._base, **changes}
        del settings["n"]
        for name in changes.keys() & self._layers.keys():
            settings[name] = merge_mappings(name, *self._layers[name], changes[name])
        return ImageRequest(prompt=prompt, **settings)

    def _problems(self, request: ImageRequest) -> Iterator[InvalidRequest]:
        return request.problems(streaming_needs_partials=self._streaming_needs_partials)


def _key(values: Sequence[object]) -> tuple[object, ...] | None:
    """What is the same for the same overrides; None for a mapping, which has no hash.

    With the types: True and 1 are equal.
    """
    key = (*values, *map(type, values))
    try:
        hash(key)
    except TypeError:
        return None
    return key


def _stand_in(position: int, prompt: str) -> str:
    """The `prompt_id` of a row of a table without that column."""
    return f"{position}-{hashlib.sha256(prompt.encode()).hexdigest()[:8]}"


def row_problem(position: int, prompt_id: str | None, problem: InvalidRequest) -> RowProblem:
    """A problem as one of a row."""
    return RowProblem(
        position=position,
        prompt_id=prompt_id,
        column=problem.field,
        value=problem.value,
        rule=problem.rule,
        got=problem.got,
        remedy=problem.remedy,
    )


class _Found(list[InvalidRequest]):
    """Notes the problem raised inside `with`, so that the rest of the row is checked as well."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: object, trace: object) -> bool:
        if isinstance(error, InvalidRequest):
            self.append(error)
        return isinstance(error, InvalidRequest)


def _is_sound(cell: object, parameter: Parameter) -> TypeGuard[str]:
    """Whether a cell is text without a problem: quicker than to look for all problems of it."""
    return isinstance(cell, str) and is_sound_text(cell, parameter)


def _prompt(cell: object) -> str:
    if cell is None:
        raise InvalidRequest("prompt", None, "must be set", remedy="fill it or drop the row")
    if not isinstance(cell, str):
        raise wrong_type("prompt", cell, "text")
    return cell


def _prompt_id(cell: object) -> str:
    if cell is None:
        remedy = "fill it in every row, or drop the column"
        raise InvalidRequest("prompt_id", None, "must be set", remedy=remedy)
    whole = whole_number(cell)
    if whole is None and not isinstance(cell, str):
        raise wrong_type("prompt_id", cell, "text or an integer")
    return check_value(PROMPT_ID, cell if whole is None else str(whole))
