"""A prompt table that can be sent, as columns: `PromptTable`.

A million rows fit into memory as columns, and not as objects. So rows and requests are made as
objects only where somebody asks for them: for what will be sent.
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from dagster_imagegen.engine.request import ImageRequest, canonical_text

Column: TypeAlias = Any
"""A column of an Arrow table: the stubs know no common type for those of several types."""

ROWS_AT_ONCE = 8_192
"""How many rows are Python objects at a time."""

TEXT_BYTES_MAX = 2**31 - 1
"""As many as the offsets of one array of Arrow's `string` can count."""

_ROWS: pa.Schema = pa.schema(
    {
        "prompt_id": pa.string(),
        "prompt": pa.string(),
        "settings": pa.int32(),
        "partition_key": pa.string(),
    }
)
_IMAGES: pa.Schema = pa.schema(
    {"row": pa.int64(), "variant": pa.int32(), "fingerprint": pa.string()}
)


@dataclass(frozen=True, kw_only=True)
class PromptRow:
    """One row of a prompt table. Its `requests` are variants 0 to n-1 of one image.

    `partition_key` is set in a table that is joined of those of several partitions.
    """

    prompt_id: str
    requests: tuple[ImageRequest, ...]
    partition_key: str | None = None


@dataclass(frozen=True)
class RowSettings:
    """What many rows have in common: a `request` without its prompt, of the first of n variants."""

    request: ImageRequest
    n: int = 1

    @property
    def variants(self) -> range:
        """The variants of each row."""
        return range(self.request.variant, self.request.variant + self.n)

    def around_prompts(self) -> list[tuple[str, str]]:
        """For each variant what is hashed before and after the prompt for the fingerprint."""
        return [self.request.around_prompt(variant) for variant in self.variants]

    def requests(self, prompt: str) -> tuple[ImageRequest, ...]:
        """Those of a row with this prompt."""
        return tuple(
            replace(self.request, prompt=prompt, variant=variant) for variant in self.variants
        )


@dataclass(frozen=True, kw_only=True)
class PromptTable:
    """A prompt table whose every row can be sent.

    `carried` has every column but `prompt`, `prompt_id` and the overrides, with one row for each
    of `row_columns` in the same order. `warnings` are for the log.
    """

    carried: pa.Table
    row_columns: pa.Table
    """`prompt_id`, `prompt`, the index of its `settings`, `partition_key`."""
    images: pa.Table
    """One row for each row and variant: the index of its `row`, `variant`, `fingerprint`."""
    settings: tuple[RowSettings, ...] = ()
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(cls, rows: Iterable[PromptRow], *, carried: pa.Table | None = None) -> "PromptTable":
        """The table of some rows. It carries nothing unless told."""
        building = PromptTableBuilder()
        for row in rows:
            first = row.requests[0]
            settings = building.settings(first, n=len(row.requests))
            building.add(row.prompt_id, first.prompt, settings, partition=row.partition_key)
        return building.table(carried)

    @property
    def num_rows(self) -> int:
        """How many rows it has."""
        return self.row_columns.num_rows

    @property
    def rows(self) -> tuple[PromptRow, ...]:
        """All rows as objects, which takes long for a large table."""
        return tuple(self.each_row())

    def each_row(self) -> Iterator[PromptRow]:
        """The rows as objects, made one after the other."""
        for batch in self.row_columns.to_batches(max_chunksize=ROWS_AT_ONCE):
            for prompt_id, prompt, index, partition in _values(batch):
                requests = self.settings[index].requests(prompt)
                yield PromptRow(prompt_id=prompt_id, requests=requests, partition_key=partition)

    def wanted(self, images: Column) -> Iterator[PromptRow]:
        """Some of the `images` as objects, each as a row of its own.

        Only some of them are objects at a time, and only those rows are read that they are among.
        """
        for start in range(0, len(images), ROWS_AT_ONCE):
            chosen = _taken_from_span(self.images, images.slice(start, ROWS_AT_ONCE))
            rows = _taken_from_span(self.row_columns, chosen["row"])
            variants = chosen["variant"].to_pylist()
            cells = zip(*(rows[name].to_pylist() for name in _ROWS.names), strict=True)
            for variant, (prompt_id, prompt, index, key) in zip(variants, cells, strict=True):
                request = replace(self.settings[index].request, prompt=prompt, variant=variant)
                yield PromptRow(prompt_id=prompt_id, requests=(request,), partition_key=key)

    def of_images(self, column: str) -> Column:
        """A column of the rows, with a value for each of the `images`."""
        values = self.row_columns[column]
        if self.images.num_rows == self.num_rows:  # Each row is one image.
            return values
        return taken(values, self.images["row"])

    def fingerprints_by_row(self) -> Column:
        """The fingerprints of each row's images, as a list."""
        counts = pa.array([settings.n for settings in self.settings], pa.int32())
        each: Column = counts.take(self.row_columns["settings"].combine_chunks())
        ends = pc.cumulative_sum(each)
        starts = pa.concat_arrays([pa.array([0], pa.int32()), ends])
        return pa.ListArray.from_arrays(starts, self.images["fingerprint"].combine_chunks())

    def under(self, former: str) -> Column:
        """The fingerprints of its `images` under an endpoint's former name, which has a query."""
        now = former.partition("?")[0]
        settings = [
            replace(each, request=replace(each.request, endpoint_id=former))
            if each.request.endpoint_id == now
            else each
            for each in self.settings
        ]
        hashes = Fingerprints(settings)
        chunks = [
            pa.array(hashes.of(*_lists(batch, "prompt", "settings")), pa.string())
            for batch in self.row_columns.to_batches(max_chunksize=ROWS_AT_ONCE)
        ]
        return pa.chunked_array(chunks, pa.string())

    def wants_any(self, fingerprints: Collection[str]) -> bool:
        """Whether one of the fingerprints is that of one of its images."""
        found = pc.is_in(self.images["fingerprint"], pa.array(fingerprints, pa.string()))
        return bool(pc.any(found).as_py())

    def first(self, count: int) -> "PromptTable":
        """The first rows alone."""
        return self.keep(pa.array(range(min(max(count, 0), self.num_rows)), pa.int64()))

    def without(self, fingerprints: Collection[str]) -> "PromptTable":
        """The rows none of whose images has one of the fingerprints."""
        lacking = pc.is_in(self.images["fingerprint"], pa.array(fingerprints, pa.string()))
        rows = pa.array(range(self.num_rows), pa.int64())
        gone = self.images["row"].filter(lacking).combine_chunks()
        return self.keep(rows.filter(pc.invert(pc.is_in(rows, gone))))

    def keep(self, rows: Column) -> "PromptTable":
        """Some of the rows, by their index."""
        at = pc.index_in(self.images["row"], rows).cast(pa.int64())
        images = self.images.set_column(0, _IMAGES.field("row"), at)
        has_columns = self.carried.num_columns > 0
        carried = rows_taken(self.carried, rows) if has_columns else nothing_carried(len(rows))
        return replace(
            self,
            carried=carried,
            row_columns=rows_taken(self.row_columns, rows),
            images=images.filter(at.is_valid()),
        )


def taken(column: Column, at: Column) -> Column:
    """`column.take(at)`, also of more text than one array of Arrow's `string` can hold.

    Arrow makes one array of all chunks first.
    """
    if not pa.types.is_string(column.type) or column.nbytes < TEXT_BYTES_MAX:
        return column.take(at)
    whole = column.cast(pa.large_string()).combine_chunks()
    places = at.combine_chunks() if isinstance(at, pa.ChunkedArray) else at
    chunks = [
        whole.take(places.slice(start, ROWS_AT_ONCE)).cast(pa.string())
        for start in range(0, len(places), ROWS_AT_ONCE)
    ]
    return pa.chunked_array(chunks, pa.string())


def rows_taken(table: pa.Table, at: Column) -> pa.Table:
    """The same for each column of a table."""
    columns = [taken(column, at) for column in table.columns]
    return pa.Table.from_arrays(columns, schema=table.schema)


def _taken_from_span(table: pa.Table, at: Column) -> pa.Table:
    """The same for rows that stand near each other: Arrow copies the table that it takes from."""
    first, last = pc.min(at).as_py() or 0, pc.max(at).as_py() or 0
    return rows_taken(table.slice(first, last + 1 - first), pc.subtract(at, first))


def join_partitions(tables: Mapping[str, PromptTable]) -> PromptTable:
    """The rows of several partitions, each with its partition key, for one pass over them all.

    It carries no columns, because those of the tables can differ.
    """
    rows, images = [_ROWS.empty_table()], [_IMAGES.empty_table()]
    settings: list[RowSettings] = []
    before = 0
    for key, table in tables.items():
        indexes = pc.add(table.row_columns["settings"], pa.scalar(len(settings), pa.int32()))
        keys = pa.array([key] * table.num_rows, pa.string())
        rows.append(
            table.row_columns.set_column(2, "settings", indexes).set_column(
                3, "partition_key", keys
            )
        )
        at = pc.add(table.images["row"], pa.scalar(before, pa.int64()))
        images.append(table.images.set_column(0, "row", at))
        settings += table.settings
        before += table.num_rows
    return PromptTable(
        carried=nothing_carried(before),
        row_columns=pa.concat_tables(rows),
        images=pa.concat_tables(images),
        settings=tuple(settings),
    )


def nothing_carried(rows: int) -> pa.Table:
    """A table with so many rows and no columns."""
    return pa.table({"": pa.nulls(rows)}).select([])


class PromptTableBuilder:
    """Collects the rows of a prompt table."""

    def __init__(self) -> None:
        self._settings: dict[RowSettings, int] = {}
        self._hashes = Fingerprints()
        self._waiting = _Waiting()
        self._rows: list[pa.RecordBatch] = []
        self._images: list[pa.RecordBatch] = []
        self._count = 0

    def settings(self, request: ImageRequest, *, n: int) -> int:
        """The index of the settings of a row whose first request is this, but for its prompt."""
        settings = RowSettings(replace(request, prompt=""), n)
        index = self._settings.setdefault(settings, len(self._settings))
        if index == len(self._hashes.settings):
            self._hashes.settings.append(settings)
        return index

    def add(
        self, prompt_id: str, prompt: str, settings: int, *, partition: str | None = None
    ) -> None:
        """Add a row, with the index of its settings."""
        waiting = self._waiting
        waiting.prompt_ids.append(prompt_id)
        waiting.prompts.append(prompt)
        waiting.settings.append(settings)
        waiting.partitions.append(partition)
        if len(waiting.prompts) == ROWS_AT_ONCE:
            self._pack()

    def _pack(self) -> None:
        """Make columns of the rows that wait."""
        waiting, self._waiting = self._waiting, _Waiting()
        each = [self._hashes.settings[index] for index in waiting.settings]
        rows = [row for row, settings in enumerate(each, self._count) for _ in settings.variants]
        variants = [variant for settings in each for variant in settings.variants]
        fingerprints = self._hashes.of(waiting.prompts, waiting.settings)
        self._rows.append(
            _batch(_ROWS, waiting.prompt_ids, waiting.prompts, waiting.settings, waiting.partitions)
        )
        self._images.append(_batch(_IMAGES, rows, variants, fingerprints))
        self._count += len(each)

    def table(
        self, carried: pa.Table | None = None, *, warnings: Sequence[str] = ()
    ) -> PromptTable:
        """The table of all rows."""
        self._pack()
        return PromptTable(
            carried=nothing_carried(self._count) if carried is None else carried,
            row_columns=pa.Table.from_batches(self._rows, _ROWS),
            images=pa.Table.from_batches(self._images, _IMAGES),
            settings=tuple(self._hashes.settings),
            warnings=tuple(warnings),
        )


@dataclass(frozen=True, kw_only=True)
class _Waiting:
    """Rows that are Python objects still."""

    prompt_ids: list[str] = field(default_factory=list[str])
    prompts: list[str] = field(default_factory=list[str])
    settings: list[int] = field(default_factory=list[int])
    partitions: list[str | None] = field(default_factory=list[str | None])


class Fingerprints:
    """Makes the fingerprints of many prompts; what rows have in common is made once."""

    def __init__(self, settings: Sequence[RowSettings] = ()) -> None:
        self.settings = list(settings)
        self._around: dict[int, list[tuple[str, str]]] = {}

    def of(self, prompts: Iterable[str], settings: Iterable[int]) -> list[str]:
        """The fingerprints of some rows, each with the index of its settings: of all variants.

        The same as `ImageRequest.fingerprint`.
        """
        return [
            hashlib.sha256(f"{head}{text}{tail}".encode()).hexdigest()
            for prompt, index in zip(prompts, settings, strict=True)
            for text in (canonical_text(prompt),)
            for head, tail in self._around.get(index) or self._made(index)
        ]

    def _made(self, index: int) -> list[tuple[str, str]]:
        around = self._around[index] = self.settings[index].around_prompts()
        return around


def _batch(schema: pa.Schema, *columns: list[Any]) -> pa.RecordBatch:
    arrays = [pa.array(each, kind) for each, kind in zip(columns, schema.types, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _lists(batch: pa.RecordBatch, *names: str) -> list[list[Any]]:
    return [batch.column(name).to_pylist() for name in names]


def _values(batch: pa.RecordBatch) -> Iterator[tuple[str, str, int, str | None]]:
    return zip(*_lists(batch, *_ROWS.names), strict=True)
