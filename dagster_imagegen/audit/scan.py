"""Sums over many rows, grouped a batch at a time: what is held is the groups, not the rows."""

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    import pyarrow.dataset as ds  # loads pandas, if it is there

compute: Any = pc
"""pyarrow's stubs know no arrays beside scalars."""

T = TypeVar("T")
R = TypeVar("R")

_THREADS = 3
_AHEAD = 4
_CODES_MAX = 1 << 40
"""Codes of several columns are multiplied; above this they are counted anew, so as not to wrap."""
_HELD_MAX = 100_000
"""So many rows of sums are held before they are summed again."""
_COUNTED, _NULLS = "requests", "_nulls"


def sums_by(
    dataset: "ds.Dataset",
    *,
    keys: Sequence[str],
    values: Sequence[str],
    columns: Sequence[str],
    where: pc.Expression | None,
    marks: Mapping[str, "pa.Array[Any]"],
) -> pa.Table:
    """One row for each combination of `keys`: the sums of `values`, how many rows lack each of
    them (`cost_usd_nulls` and so on), and `requests`.

    `columns` are those that the scan reads. The key `day` is made of `started_at`; the key
    `superseded` is the name in `marks` of the sorted list that has the row's `attempt_id`. Where
    `cost_usd_max` is null, `cost_usd` counts for it.
    """
    held: list[pa.Table] = []
    rows = 0

    def summed(fragment: "ds.Fragment") -> list[pa.Table]:
        batches = encoded_batches(fragment, dataset.schema, columns, where, encoded=keys)
        return [_of_batch(each, keys, values, marks) for each in batches if each.num_rows]

    for tables in in_order(dataset.get_fragments(filter=where), summed):
        held += tables
        rows += sum(each.num_rows for each in tables)
        if rows > _HELD_MAX:
            held = [_again(held, keys, values)]
            # Counting only what is new: many groups would else be summed again for each part.
            rows = 0
    if not held:
        empty = pa.RecordBatch.from_pylist(
            [], schema=pa.schema([dataset.schema.field(name) for name in columns])
        )
        held = [_of_batch(empty, keys, values, marks)]
    return _again(held, keys, values)


def encoded_batches(
    fragment: "ds.Fragment",
    schema: pa.Schema,
    columns: Sequence[str],
    where: pc.Expression | None,
    *,
    encoded: Sequence[str] = (),
) -> Iterator[pa.RecordBatch]:
    """The rows of a fragment, where those `encoded` columns that are text have dictionaries.

    Parquet has them encoded already: text that is not decoded need not be encoded again.
    """
    import pyarrow.dataset as ds  # noqa: PLC0415  # loads pandas, if it is there

    names = [name for name in encoded if name in columns and schema.field(name).type == pa.string()]
    if isinstance(fragment, ds.ParquetFileFragment):
        form = ds.ParquetFileFormat(dictionary_columns=names)
        # One of its own, too: a fragment keeps what it has read of its file's columns, 0.2 MB.
        fragment = form.make_fragment(fragment.path, filesystem=fragment.filesystem)
        kind = pa.dictionary(pa.int32(), pa.string())
        schema = pa.schema(
            [each.with_type(kind) if each.name in names else each for each in schema]
        )
    return fragment.to_batches(
        schema=schema, columns=list(columns), filter=where, use_threads=False
    )


def in_order(each: Iterable[T], work: Callable[[T], R]) -> Iterator[R]:
    """`work` on each, in a few threads, which are never far ahead of who takes the results."""

    def worked(one: T) -> R:
        made = work(one)
        # Otherwise each thread keeps what its largest part has needed.
        pa.default_memory_pool().release_unused()
        return made

    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="imagegen-audit") as pool:
        for one in each:
            waiting.append(pool.submit(worked, one))
            if len(waiting) > _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _of_batch(
    batch: pa.RecordBatch,
    keys: Sequence[str],
    values: Sequence[str],
    marks: Mapping[str, "pa.Array[Any]"],
) -> pa.Table:
    encoded = {name: with_dictionary(_key(batch, name, marks)) for name in keys}
    table: Any = {"code": codes(list(encoded.values()), batch.num_rows)}
    for name in values:
        table[name] = batch[name]
    if "cost_usd_max" in table:
        table["cost_usd_max"] = compute.coalesce(table["cost_usd_max"], table["cost_usd"])
    # The first row of a group says what its keys are.
    table["row"] = compute.cumulative_sum(pa.repeat(pa.scalar(1, pa.int32()), batch.num_rows))
    sums: Any = (
        pa.table(table)
        .group_by("code", use_threads=False)
        .aggregate(
            [
                ("row", "min"),
                ([], "count_all"),
                *((name, "count", pc.CountOptions("only_null")) for name in values),
                *((name, "sum") for name in values),
            ]
        )
    )
    first = compute.subtract(sums["row_min"], 1)
    made: Any = {name: each.take(first) for name, each in encoded.items()}
    made |= {_COUNTED: sums["count_all"]}
    made |= {f"{name}{_NULLS}": sums[f"{name}_count"] for name in values}
    return pa.table({**made, **{name: sums[f"{name}_sum"] for name in values}})


def with_dictionary(values: Any) -> Any:
    """Values with a dictionary. Null is one of those of its indices that it does not have."""
    return values if pa.types.is_dictionary(values.type) else values.dictionary_encode()


def _key(batch: pa.RecordBatch, name: str, marks: Mapping[str, "pa.Array[Any]"]) -> Any:
    if name == "day":
        return compute.cast(batch["started_at"], pa.date32(), safe=False)
    if name != "superseded":
        return batch[name]
    marked: Any = pa.nulls(batch.num_rows, pa.string())
    for mark, ids in marks.items():
        if not len(ids):
            continue
        near = _between(ids, compute.min_max(batch["attempt_id"]).as_py())
        marked = compute.if_else(compute.is_in(batch["attempt_id"], value_set=near), mark, marked)
    return marked


def _between(ids: Any, ends: Mapping[str, str | None]) -> Any:
    """Those of a sorted list that a batch can have: a part has the attempts of one journal.

    Each look-up makes a hash table of the list that it is given.
    """
    first = bisect_left(ids, ends["min"] or "", key=_text)
    return ids.slice(first, bisect_right(ids, ends["max"] or "", key=_text) - first)


def _text(scalar: Any) -> str:
    return scalar.as_py()


def codes(columns: Sequence[Any], rows: int) -> Any:
    """One number for each combination of values."""
    code: Any = pa.repeat(pa.scalar(0, pa.int64()), rows)
    size = 1
    for each in columns:
        values = len(each.dictionary)
        indices = each.indices.cast(pa.int64())
        if each.null_count:
            indices = compute.fill_null(indices, values)
            values += 1
        if values <= 1:
            continue
        if size * values > _CODES_MAX:
            counted = code.dictionary_encode()
            code, size = counted.indices.cast(pa.int64()), len(counted.dictionary)
        code = compute.add(compute.multiply(code, values), indices)
        size *= values
    return code


def _again(held: Sequence[pa.Table], keys: Sequence[str], values: Sequence[str]) -> pa.Table:
    names = (_COUNTED, *values, *(f"{name}{_NULLS}" for name in values))
    together: Any = pa.concat_tables(held, promote_options="permissive")
    # Grouped as numbers: each group has some twenty texts, of which there are few different ones.
    sums = together.unify_dictionaries().group_by(list(keys), use_threads=False)
    sums = sums.aggregate([(name, "sum") for name in names])
    return sums.rename_columns([name.removesuffix("_sum") for name in sums.column_names])
