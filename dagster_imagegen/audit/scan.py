"""Sums over many rows, grouped a batch at a time: what is held is the groups, not the rows."""

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
_HELD_MAX = 400_000
"""So many rows of sums are held before they are summed again."""
_COUNTED, _UNPRICED = "requests", "unpriced_requests"


def sums_by(
    dataset: "ds.Dataset",
    *,
    keys: Sequence[str],
    values: Sequence[str],
    columns: Sequence[str],
    where: pc.Expression | None,
    marks: Mapping[str, "pa.Array[Any]"],
) -> pa.Table:
    """One row for each combination of `keys`: the sums of `values`, `requests`, and how many of
    them have no `cost_usd`.

    `columns` are those that the scan reads. The key `day` is made of `started_at`; the key
    `superseded` is the name in `marks` of the list that has the row's `attempt_id`. Where
    `cost_usd_max` is null, `cost_usd` counts for it.
    """
    held: list[pa.Table] = []
    rows = 0

    def summed(fragment: "ds.Fragment") -> list[pa.Table]:
        batches = fragment.to_batches(
            schema=dataset.schema, columns=list(columns), filter=where, use_threads=False
        )
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


def in_order(each: Iterable[T], work: Callable[[T], R]) -> Iterator[R]:
    """`work` on each, in a few threads, which are never far ahead of who takes the results."""
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="imagegen-audit") as pool:
        for one in each:
            waiting.append(pool.submit(work, one))
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
    encoded = {name: _key(batch, name, marks).dictionary_encode("encode") for name in keys}
    table: Any = {"code": _code(list(encoded.values()), batch.num_rows)}
    for name in values:
        table[name] = batch[name]
    if "cost_usd_max" in table:
        table["cost_usd_max"] = compute.coalesce(table["cost_usd_max"], table["cost_usd"])
    # The first row of a group says what its keys are.
    table["row"] = pa.array(range(batch.num_rows), pa.int32())
    sums: Any = (
        pa.table(table)
        .group_by("code")
        .aggregate(
            [
                ("row", "min"),
                ([], "count_all"),
                ("cost_usd", "count", pc.CountOptions("only_null")),
                *((name, "sum") for name in values),
            ]
        )
    )
    made: Any = {name: each.take(sums["row_min"]) for name, each in encoded.items()}
    made = {name: compute.cast(each, each.type.value_type) for name, each in made.items()}
    made |= {_COUNTED: sums["count_all"], _UNPRICED: sums["cost_usd_count"]}
    return pa.table({**made, **{name: sums[f"{name}_sum"] for name in values}})


def _key(batch: pa.RecordBatch, name: str, marks: Mapping[str, "pa.Array[Any]"]) -> Any:
    if name == "day":
        return compute.cast(batch["started_at"], pa.date32(), safe=False)
    if name != "superseded":
        return batch[name]
    marked: Any = pa.nulls(batch.num_rows, pa.string())
    for mark, ids in marks.items():
        if len(ids):
            marked = compute.if_else(
                compute.is_in(batch["attempt_id"], value_set=ids), mark, marked
            )
    return marked


def _code(columns: Sequence[Any], rows: int) -> Any:
    """One number for each combination of values."""
    code: Any = pa.repeat(pa.scalar(0, pa.int64()), rows)
    size = 1
    for each in columns:
        values = len(each.dictionary)
        if values <= 1:
            continue
        if size * values > _CODES_MAX:
            counted = code.dictionary_encode()
            code, size = counted.indices.cast(pa.int64()), len(counted.dictionary)
        code = compute.add(compute.multiply(code, values), each.indices.cast(pa.int64()))
        size *= values
    return code


def _again(held: Sequence[pa.Table], keys: Sequence[str], values: Sequence[str]) -> pa.Table:
    names = (_COUNTED, _UNPRICED, *values)
    together: Any = pa.concat_tables(held, promote_options="permissive")
    sums = together.group_by(list(keys)).aggregate([(name, "sum") for name in names])
    return sums.rename_columns([name.removesuffix("_sum") for name in sums.column_names])
