"""`UsageTable`: the rows of the usage table, for those who count, check or show them."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from dagster_imagegen.engine.apart import run_apart
from dagster_imagegen.engine.attempt import Attempt
from dagster_imagegen.engine.record import read_record
from dagster_imagegen.engine.record.parts import PARTS_AT_ONCE, read_rows, scan_rows
from dagster_imagegen.engine.record.schema import SCHEMA
from dagster_imagegen.engine.storage import Storage

if TYPE_CHECKING:  # Loading it takes long.
    import pyarrow.dataset as ds

T = TypeVar("T")


class UsageTable:
    """Every row on record in a storage, published or not yet. Each call reads the record anew."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def read(
        self,
        *,
        asset_key: str | None = None,
        columns: Sequence[str] = SCHEMA.names,
        where: pc.Expression | None = None,
    ) -> pa.Table:
        """All rows; with `asset_key` those of that asset, with `where` those for which it is true.

        `columns` must have all that `where` names.
        """
        parts, settled = self._found()
        if asset_key is not None:
            of_asset = pc.field("asset_key") == asset_key
            where = of_asset if where is None else where & of_asset
        rows = read_rows(
            parts,
            settled,
            storage=self._storage,
            columns=list(dict.fromkeys([*columns, *([] if asset_key is None else ["asset_key"])])),
            where=where,
        )
        # The dataset has filtered the parts, and not the rest.
        return rows.filter(where).select(list(columns)) if where is not None else rows

    def scan(self, scan: "Callable[[ds.Dataset], T]") -> T:
        """What `scan` makes of a dataset of all rows.

        For more rows than fit into memory: `scan` reads a batch at a time.
        """
        parts, settled = self._found()
        return scan_rows(parts, settled, storage=self._storage, scan=scan)

    def backwards(
        self, *, asset_key: str | None = None, columns: Sequence[str] = SCHEMA.names
    ) -> Iterator[pa.Table]:
        """All rows, a few parts at a time, those of the newest journals first.

        A table as large as the whole usage table is never in memory. `columns` must have
        `asset_key` if it is given.
        """
        found, settled = self._found()
        where = None if asset_key is None else pc.field("asset_key") == asset_key
        parts = sorted(found, key=lambda path: path.rpartition("/")[2], reverse=True)
        starts = range(0, len(parts), PARTS_AT_ONCE)
        for some in ([], *(parts[at : at + PARTS_AT_ONCE] for at in starts)):
            rows = read_rows(
                some,
                () if some else settled,
                storage=self._storage,
                columns=columns,
                where=where,
            )
            yield rows if where is None else rows.filter(where)

    def _found(self) -> tuple[Sequence[str], list[Attempt]]:
        """The paths of all parts, and the settled attempts that are in none yet."""
        record = run_apart(lambda: read_record(self._storage, indexed=False))
        return record.parts, [each for each in record.open_attempts if each.result is not None]
