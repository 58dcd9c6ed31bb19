"""The parts that a writer has written: at the end of its pass they must all be there."""

from dagster_imagegen.engine.errors import StorageError
from dagster_imagegen.engine.record.journal import OwnJournal
from dagster_imagegen.engine.record.parts import day_of, list_parts, part_path, put_part
from dagster_imagegen.engine.storage import ObjectStore


class OwnParts:
    """Writes the parts of one writer's journals, and knows which it has written."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._published: list[str] = []

    async def put(self, journal: OwnJournal) -> None:
        """Write the part of a journal."""
        attempts = journal.content.attempts.values()
        await put_part(self._store, journal.journal_id, attempts)
        self._published.append(journal.journal_id)

    async def check(self) -> None:
        """Raise `StorageError` if a part that this writer has published is gone."""
        days = set(map(day_of, self._published))
        parts = await list_parts(self._store, *days) if days else {}
        gone = [part_path(jid) for jid in self._published if jid not in parts]
        if gone:
            raise StorageError(
                f"{gone[0]}, which this run has written, is gone, with the rows of its requests: "
                "somebody deleted the usage table or emptied its folder during the run. Restore it "
                "if you can, and run again: images that are in storage are not requested again",
                can_pass=False,
            )
