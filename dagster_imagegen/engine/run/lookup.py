"""What is on record of the images of a prompt table, found as columns for all of them at once."""

from collections.abc import Collection
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from dagster_imagegen.engine.attempt import Attempt
from dagster_imagegen.engine.prompts.rows import PromptTable
from dagster_imagegen.engine.record import Record, rows_on_record
from dagster_imagegen.engine.record.index import VERDICT_COLUMNS
from dagster_imagegen.engine.record.parts import read_rows
from dagster_imagegen.engine.record.schema import attempts_of
from dagster_imagegen.engine.run.outcomes import PaidImages
from dagster_imagegen.engine.storage import Storage


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The distinct images of a prompt table, in its order.

    `fingerprints` has each once, `images` the first image of the table with it. Under the `former`
    ones, one for each of `former_places`, the same images may be on record as well.
    """

    fingerprints: "pa.Array[pa.StringScalar]"
    images: "pa.Array[pa.Int64Scalar]"
    former: "pa.Array[pa.StringScalar]"
    former_places: "pa.Array[pa.Int32Scalar]"

    @classmethod
    def of(cls, prompts: PromptTable, former_endpoints: Collection[str] = ()) -> "Wanted":
        """Those of a prompt table, which may be on record at former endpoints as well."""
        encoded = prompts.images["fingerprint"].combine_chunks().dictionary_encode()
        counted = pa.table({"place": encoded.indices, "image": _range(len(encoded))})
        firsts = counted.group_by("place").aggregate([("image", "min")]).sort_by("place")
        images = firsts["image_min"].combine_chunks()
        places = _range(len(images)).cast(pa.int32())
        under = [prompts.under(name).take(images) for name in former_endpoints]
        return cls(
            fingerprints=encoded.dictionary,
            images=images,
            former=pa.chunked_array(under, pa.string()).combine_chunks(),
            former_places=pa.chunked_array([places] * len(under), pa.int32()).combine_chunks(),
        )

    def places(
        self, fingerprints: "pa.ChunkedArray[pa.StringScalar]"
    ) -> "pa.ChunkedArray[pa.Int32Scalar]":
        """Where each of some fingerprints is among these; null for one that is not wanted."""
        places = pc.index_in(fingerprints, self.fingerprints)
        if not len(self.former):
            return places
        formerly = self.former_places.take(pc.index_in(fingerprints, self.former).combine_chunks())
        return pc.coalesce(places, formerly)


def former_endpoints(record: Record, prompts: PromptTable, *, storage: Storage) -> list[str]:
    """The names with a query that are on record, of the endpoints of a prompt table."""
    names = {each.request.endpoint_id for each in prompts.settings}
    rows = read_rows(
        record.parts,
        record.open_attempts,
        storage=storage,
        columns=["endpoint_id"],
        where=pc.match_substring(pc.field("endpoint_id"), "?"),
    )
    recorded = {str(name) for name in pc.unique(rows["endpoint_id"]).to_pylist() if name}
    recorded |= record.index.queried
    return sorted({name for name in recorded if name.partition("?")[0] in names} - names)


class OnRecord:
    """The attempts on record at the wanted images. `rows` have the columns of a verdict."""

    def __init__(self, wanted: Wanted, record: Record, *, storage: Storage) -> None:
        self._wanted = wanted
        every = pa.concat_arrays([wanted.fingerprints, wanted.former])
        rows = rows_on_record(
            record,
            storage=storage,
            columns=VERDICT_COLUMNS,
            where=pc.field("fingerprint").isin(every),
        )
        places = wanted.places(rows["fingerprint"])
        if places.null_count:  # Those of open journals come unfiltered.
            there = places.is_valid()
            rows, places = rows.filter(there), places.filter(there)
        self._rows, self._places = rows, places

    @property
    def image_paths(self) -> "pa.ChunkedArray[pa.StringScalar]":
        """The paths of all images that were stored."""
        made = self._rows.filter(pc.equal(self._rows["status"], "succeeded"))
        return made["image_path"].drop_null()

    def settle(self, gone: Collection[str]) -> "tuple[PaidImages, dict[int, list[Attempt]]]":
        """The images that are paid for and there, and the attempts at the others.

        `gone` are the paths of the images that are missing. The attempts are found by the place of
        their image among the wanted ones, oldest first.
        """
        places, at = self._oldest_there(gone)
        rest = pc.invert(pc.is_in(self._places, places))
        attempts: dict[int, list[Attempt]] = {}
        others = self._rows.append_column("place", self._places).filter(rest)
        others = others.sort_by("attempt_id")
        found = attempts_of(others.drop_columns("place"))
        for place, attempt in zip(others["place"].to_pylist(), found, strict=True):
            attempts.setdefault(int(place or 0), []).append(attempt)
        return PaidImages(rows=self._taken(at, places)), attempts

    def _taken(
        self, at: "pa.Array[pa.Int64Scalar]", places: "pa.Array[pa.Int32Scalar]"
    ) -> pa.Table:
        """Some of the rows, with the fingerprints at some places. No rows are left after it."""
        schema = self._rows.schema
        columns = dict(zip(schema.names, self._rows.columns, strict=True))
        self._rows = self._rows.select([])
        columns["fingerprint"] = pa.chunked_array([self._wanted.fingerprints.take(places)])
        # One after the other: all of them twice would be more than the image table.
        taken = [
            columns.pop(name) if name == "fingerprint" else columns.pop(name).take(at)
            for name in schema.names
        ]
        return pa.Table.from_arrays(taken, schema=schema)

    def _oldest_there(
        self, gone: Collection[str]
    ) -> "tuple[pa.Array[pa.Int32Scalar], pa.Array[pa.Int64Scalar]]":
        """The places of images that are there, and the row of the oldest attempt that made each.

        The oldest, so that every reader names the same image. One without a path is left out.
        """
        rows = self._rows
        made = pa.table(
            {
                "place": self._places,
                "at": _range(rows.num_rows),
                "attempt_id": rows["attempt_id"],
                "path": rows["image_path"],
            }
        ).filter(pc.equal(rows["status"], "succeeded"))
        if gone:
            missing = pc.is_in(made["path"], pa.array(sorted(gone), pa.string()))
            made = made.filter(pc.invert(missing))
        if len(pc.unique(made["place"])) < made.num_rows:
            made = made.sort_by("attempt_id").drop_columns("attempt_id")
            made = made.append_column("age", _range(made.num_rows))
            oldest = made.group_by("place").aggregate([("age", "min")])["age_min"]
            made = made.take(oldest)
        made = made.filter(made["path"].is_valid()).select(["place", "at"]).sort_by("place")
        return made["place"].combine_chunks(), made["at"].combine_chunks()


def _range(count: int) -> "pa.Array[pa.Int64Scalar]":
    return pa.array(range(count), pa.int64())
