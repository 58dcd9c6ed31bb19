"""Images that were paid for and are used no longer: made again, or replaced by a revision."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from dagster_imagegen.audit.scan import encoded_batches, in_order

if TYPE_CHECKING:
    import pyarrow.dataset as ds  # loads pandas, if it is there

T = TypeVar("T")

compute: Any = pc
"""pyarrow's stubs know no arrays beside scalars."""

RETRIED, REPLACED = "retried", "replaced"

_HEX_DIGITS = 15
"""Of a fingerprint: as many as an int64 holds."""
_BUCKETS = 16
_SLOT = ("asset_key", "partition_key", "prompt_id", "variant")


def superseded(dataset: "ds.Dataset") -> "dict[str, pa.Array[Any]]":
    """The ids of attempts whose image is used no longer, by cause, sorted.

    `retried`: the same image (fingerprint) was bought again later. `replaced`: a row of the prompt
    table got an image of a higher revision. The dataset is scanned; only what was found is held,
    and eight bytes of each fingerprint.
    """
    found = {RETRIED: _retried(dataset), REPLACED: _replaced(dataset)}
    return {cause: ids.take(compute.sort_indices(ids)) for cause, ids in found.items()}


def _batches(
    dataset: "ds.Dataset", columns: list[str], where: pc.Expression
) -> Iterator[pa.RecordBatch]:
    for batches in _made_of(dataset, columns, where, lambda batch: batch):
        yield from batches


def _made_of(
    dataset: "ds.Dataset",
    columns: list[str],
    where: pc.Expression,
    make: Callable[[pa.RecordBatch], T],
) -> Iterator[list[T]]:
    def read(fragment: "ds.Fragment") -> list[T]:
        batches = encoded_batches(fragment, dataset.schema, columns, where)
        return [make(each) for each in batches if each.num_rows]

    return in_order(dataset.get_fragments(filter=where), read)


# -- the same image again --------------------------------------------------------------------------


def _stored() -> pc.Expression:
    # Made when it is used: pyarrow loads pandas for the first value of Python that it takes.
    return pc.field("status") == "succeeded"


def _retried(dataset: "ds.Dataset") -> "pa.Array[Any]":
    keys = _made_of(dataset, ["fingerprint"], _stored(), lambda batch: _short(batch["fingerprint"]))
    twice = _met_twice(each for some in keys for each in some)
    if not len(twice):
        return pa.array([], pa.string())
    found: list[pa.RecordBatch] = []
    for batch in _batches(dataset, ["fingerprint", "started_at", "attempt_id"], _stored()):
        found.append(batch.filter(compute.is_in(_short(batch["fingerprint"]), value_set=twice)))
    rows = pa.Table.from_batches(found).sort_by(
        [("fingerprint", "ascending"), ("started_at", "ascending"), ("attempt_id", "ascending")]
    )
    images: Any = rows["fingerprint"].combine_chunks()
    # Of neighbours with the same image, the last is the one in use.
    bought_again = compute.equal(images[:-1], images[1:])
    ids: Any = rows["attempt_id"].combine_chunks()
    return ids[:-1].filter(bought_again)


def _met_twice(keys: Iterator[Any]) -> "pa.Array[Any]":
    """The keys that occur more than once; counted a part at a time, to need little memory."""
    together: Any = pa.chunked_array(list(keys), pa.int64())
    twice: list[Any] = []
    for bucket in range(_BUCKETS):
        of_bucket = compute.equal(compute.bit_wise_and(together, _BUCKETS - 1), bucket)
        counted = compute.value_counts(together.filter(of_bucket))
        twice.append(counted.field("values").filter(compute.greater(counted.field("counts"), 1)))
    return pa.chunked_array(twice, pa.int64()).combine_chunks()


def _short(fingerprints: Any) -> Any:
    """Fingerprints as numbers, so that ten million of them fit into 80 MB."""
    digits = compute.utf8_slice_codeunits(fingerprints, 0, _HEX_DIGITS)
    try:
        return compute.cast(compute.binary_join_element_wise("0x", digits, ""), pa.int64())
    except pa.ArrowInvalid:  # Not written by this package.
        values = fingerprints.to_pylist()
        return pa.array([None if each is None else hash(each) for each in values], pa.int64())


# -- a higher revision -----------------------------------------------------------------------------


def _replaced(dataset: "ds.Dataset") -> "pa.Array[Any]":
    raised = _stored() & (pc.field("revision") > 0)
    revised = pa.Table.from_batches(
        list(_batches(dataset, [*_SLOT, "revision"], raised)), _schema(dataset, "revision")
    )
    if not revised.num_rows:
        return pa.array([], pa.string())
    newest = (
        _slots(revised).group_by(list(_SLOT), use_threads=False).aggregate([("revision", "max")])
    )
    ids: list[Any] = [pa.array([], pa.string())]
    # Only rows of these assets can be older than one of them.
    where = _stored() & pc.field("asset_key").isin(compute.unique(revised["asset_key"]))
    for batch in _batches(dataset, [*_SLOT, "revision", "attempt_id"], where):
        rows = _slots(pa.Table.from_batches([batch]))
        rows = rows.join(
            _of_same_slots(newest, rows), keys=list(_SLOT), join_type="inner", use_threads=False
        )
        older = pc.field("revision") < pc.field("revision_max")
        ids += rows.filter(older)["attempt_id"].chunks
    return pa.chunked_array(ids, pa.string()).combine_chunks()


def _of_same_slots(newest: pa.Table, rows: pa.Table) -> pa.Table:
    """Those whose asset and partition the rows have: a join makes a hash table of all that it is
    given."""
    for name in _SLOT[:2]:
        here: Any = compute.unique(rows[name])
        newest = newest.filter(compute.is_in(newest[name], value_set=here))
    return newest


def _schema(dataset: "ds.Dataset", *more: str) -> pa.Schema:
    return pa.schema([dataset.schema.field(name) for name in (*_SLOT, *more)])


def _slots(rows: pa.Table) -> pa.Table:
    """Rows without nulls in what they are joined by, and in the revision, where null is 0."""
    for name in (*_SLOT, "revision"):
        column: Any = rows[name]
        empty = "" if pa.types.is_string(column.type) else 0
        at = rows.schema.get_field_index(name)
        rows = rows.set_column(at, name, compute.fill_null(column, empty))
    return rows
