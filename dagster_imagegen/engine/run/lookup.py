"""What is on record of the images of a prompt table, found as columns for all of them at once."""

from collections.abc import Collection
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from dagster_imagegen.engine.attempt import Attempt
from dagster_imagegen.engine.prompts.rows import Column, PromptTable, taken
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

    fingerprints: Column
    images: Column
    former: Column
    former_places: Column

    @classmethod
    def of(cls, prompts: PromptTable, former_endpoints: Collection[str] = ()) -> "Wanted":
        """Those of a prompt table, which may be on record at former endpoints as well."""
        fingerprints = prompts.images["fingerprint"]
        images = _firsts(fingerprints)
        give_back()
        if len(images) < len(fingerprints):  # Otherwise they would be in memory twice.
            fingerprints = fingerprints.take(images)
        under = [prompts.under(name).take(images) for name in former_endpoints]
        places = _range(len(images)).cast(pa.int32())
        return cls(
            fingerprints=fingerprints,
            images=images,
            former=pa.chunked_array(
                [chunk for each in under for chunk in each.chunks], pa.string()
            ),
            former_places=pa.chunked_array([places] * len(under), pa.int32()),
        )

    def places(self, fingerprints: Column) -> Column:
        """Where each of some fingerprints is among these; null for one that is not wanted."""
        places = pc.index_in(fingerprints, self.fingerprints)
        if not len(self.former):
            return places
        formerly = self.former_places.take(pc.index_in(fingerprints, self.former))
        return pc.coalesce(places, formerly)

    @property
    def every(self) -> Column:
        """All fingerprints under which they may be on record."""
        return pa.chunked_array(
            [*self.fingerprints.chunks, *self.former.chunks], pa.string()
        ).combine_chunks()


def _firsts(fingerprints: Column) -> Column:
    """Where each distinct fingerprint is first."""
    encoded: Column = fingerprints.combine_chunks().dictionary_encode()
    places, images = encoded.indices, _range(len(encoded))
    if len(encoded.dictionary) == len(encoded):  # Each is wanted once.
        return images
    counted = pa.table({"place": places, "image": images})
    firsts = counted.group_by("place").aggregate([("image", "min")]).sort_by("place")
    return firsts["image_min"].combine_chunks()


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
        rows = rows_on_record(
            record,
            storage=storage,
            columns=VERDICT_COLUMNS,
            where=pc.field("fingerprint").isin(wanted.every),
        )
        places = wanted.places(rows["fingerprint"])
        if places.null_count:  # Those of open journals come unfiltered.
            there = places.is_valid()
            rows, places = rows.filter(there), places.filter(there)
        self._rows, self._places = rows, places
        give_back()

    @property
    def image_paths(self) -> Column:
        """The paths of all images that were stored."""
        paths = self._rows["image_path"]
        stored: Column = pc.and_(self._made(), paths.is_valid())
        return paths if pc.all(stored).as_py() else paths.filter(stored)

    def settle(self, gone: Collection[str]) -> "tuple[PaidImages, dict[int, list[Attempt]]]":
        """The images that are paid for and there, and the attempts at the others.

        `gone` are the paths of the images that are missing. The attempts are found by the place of
        their image among the wanted ones, oldest first.
        """
        places, at = self._oldest_there(gone)
        rest: Column = pc.invert(pc.is_in(self._places, places))
        attempts: dict[int, list[Attempt]] = {}
        others = self._rows.append_column("place", self._places).filter(rest)
        others = others.sort_by("attempt_id")
        found = attempts_of(others.drop_columns("place"))
        for place, attempt in zip(others["place"].to_pylist(), found, strict=True):
            attempts.setdefault(int(place or 0), []).append(attempt)
        return PaidImages(rows=self._taken(at, places)), attempts

    def _taken(self, at: Column, places: Column) -> pa.Table:
        """Some of the rows, with the fingerprints at some places. No rows are left after it."""
        schema = self._rows.schema
        columns = dict(zip(schema.names, self._rows.columns, strict=True))
        self._rows = self._rows.select([])
        columns["fingerprint"] = self._wanted.fingerprints.take(places)
        some: list[Column] = []
        for name in schema.names:
            # One after the other: all of them twice would be more than the image table.
            column = columns.pop(name)
            some.append(column if name == "fingerprint" else taken(column, at))
            del column
            give_back()
        return pa.Table.from_arrays(some, schema=schema)

    def _oldest_there(self, gone: Collection[str]) -> tuple[Column, Column]:
        """The places of images that are there, and the row of the oldest attempt that made each.

        The oldest, so that every reader names the same image. One without a path is left out.
        """
        paths = self._rows["image_path"]
        there: Column = self._made()
        if gone:
            missing = pc.is_in(paths, pa.array(sorted(gone), pa.string()))
            there = pc.and_(there, pc.invert(missing))
        made = pa.Table.from_pydict(
            {"place": self._places, "at": _range(len(paths)), "has_path": paths.is_valid()}
        ).filter(there)
        if len(pc.unique(made["place"])) < made.num_rows:
            made = self._oldest(made)
        made = made.filter(made["has_path"]).sort_by("place")
        return made["place"].combine_chunks(), made["at"].combine_chunks()

    def _made(self) -> Column:
        """Which attempts brought an image."""
        made = pc.equal(self._rows["status"], pa.scalar("succeeded"))
        return pc.coalesce(made, pa.scalar(False))

    def _oldest(self, made: pa.Table) -> pa.Table:
        """The first of the attempts at each place."""
        order = pc.sort_indices(self._rows["attempt_id"].take(made["at"]))
        made = made.take(order).append_column("age", _range(len(order)))
        return made.take(made.group_by("place").aggregate([("age", "min")])["age_min"])


def give_back() -> None:
    """Give memory back that was needed for a moment: with large tables it is hundreds of MB."""
    pa.default_memory_pool().release_unused()


def _range(count: int) -> Column:
    return pa.array(range(count), pa.int64())
