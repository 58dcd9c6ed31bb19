"""Reading the record: what is in parts and in open journals, without changing anything."""

import contextlib
from collections.abc import Collection
from dataclasses import dataclass
from decimal import Decimal

from dagster_imagegen.engine.attempt import Attempt, Identity
from dagster_imagegen.engine.errors import DamagedJournal
from dagster_imagegen.engine.record.journal import (
    JOURNAL_FOLDER,
    Header,
    JournalContent,
    JournalListing,
    apply_object,
    object_path,
    parse_listing,
)
from dagster_imagegen.engine.record.parts import list_parts
from dagster_imagegen.engine.storage import ObjectStore


@dataclass(frozen=True, kw_only=True)
class Reservation:
    """What another pass may spend beyond what its journal's attempts count already."""

    journal_id: str
    identity: Identity
    usd: Decimal


@dataclass(frozen=True, kw_only=True)
class Record:
    """All that is on record: the parts, and what journals hold that is in no part yet."""

    parts: tuple[str, ...]
    open_attempts: tuple[Attempt, ...]
    journals: tuple[str, ...] = ()
    """The journals that are in no part yet, empty ones included."""
    reservations: tuple[Reservation, ...] = ()


async def read_record(store: ObjectStore, *, without: Collection[str] = ()) -> Record:
    """Read the journals, then list the parts, changing nothing; `without` leaves out journals.

    In that order, so that a journal published in between is found as a part instead of being
    missed. Journals are listed until no new ones appear: a reservation may move to a new journal
    in between.
    """
    journals: dict[str, JournalContent] = {}
    while True:
        listing = parse_listing((await store.list(JOURNAL_FOLDER)).values())
        new = [jid for jid in listing if jid not in journals and jid not in without]
        if not new:
            break
        for jid in new:
            journals[jid] = await read_journal(store, jid, listing[jid])
    parts = await list_parts(store)
    unpublished = {
        jid: content
        for jid, content in journals.items()
        if jid not in parts and not content.is_of_newer_schema
    }
    return Record(
        parts=tuple(path for jid, path in parts.items() if jid not in without),
        open_attempts=tuple(a for each in unpublished.values() for a in each.attempts.values()),
        journals=tuple(unpublished),
        reservations=tuple(
            Reservation(journal_id=jid, identity=each.header.identity, usd=left)
            for jid, each in unpublished.items()
            if each.header is not None and (left := each.reserved_usd - each.bound_usd) > 0
        ),
    )


async def read_journal(store: ObjectStore, jid: str, found: JournalListing) -> JournalContent:
    """What a journal holds; nothing if one of its objects is gone.

    A journal is deleted, header first, once its part is in place or when it never had an intent.
    """
    content = JournalContent()
    for seq in sorted({0, *found.objects}):
        try:
            apply_object(content, object_path(jid, seq), await store.get(object_path(jid, seq)))
        except FileNotFoundError:
            return JournalContent()
        except DamagedJournal:
            if found.objects.keys() <= {0}:
                return JournalContent()  # There never was an intent in it.
            raise
        if content.is_of_newer_schema:
            break
    return content


async def read_header(store: ObjectStore, jid: str) -> Header | None:
    """The header of a journal; None where it is gone."""
    head = JournalContent()
    with contextlib.suppress(FileNotFoundError, DamagedJournal):
        apply_object(head, object_path(jid, 0), await store.get(object_path(jid, 0)))
    return head.header
