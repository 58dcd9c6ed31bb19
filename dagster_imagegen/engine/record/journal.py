"""Journals, the write-ahead record of attempts: what their objects hold, and what that means.

    _journal/<jid>/<seq>.jsonl          whole objects of one record a line; seq 0 is the header
    _journal/<jid>/<seq>.<tags>.label   which images the records of that object are about
    _journal/<jid>.sealed               its writer is presumed dead; one that finds its seal stops

The name of a label has a tag for each image, so that a listing tells who else requests an image,
and nothing is read of other images' records. Labels only spare reads: an object without one may be
about any image, and is read.

Records: `intent` (what is on record before a request is sent), `result` (its outcome), `withdrawn`
(it was not sent after all), `reserve` (what the pass may spend on attempts of this journal),
`heartbeat`. docs/write-protocol.md explains the whole protocol.
"""

import hashlib
import json
import re
from base64 import urlsafe_b64encode
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from dagster_imagegen.engine.attempt import Attempt, Identity, Result
from dagster_imagegen.engine.errors import DamagedJournal
from dagster_imagegen.engine.record.schema import (
    Row,
    attempt_of,
    decode_values,
    encode_values,
    request_columns,
    result_columns,
    result_of,
)
from dagster_imagegen.engine.storage import StoredObject, WriterLock

JOURNAL_FOLDER = "_journal"
JOURNAL_VERSION = 1

TAG_LENGTH = 4
TAGS_MAX = 28
"""So that no name is longer than 138 characters, also while it is temporary; some encrypted folders
take 143."""
NO_IMAGES = "-"
"""Stands for the tags of an object that is about no image."""

_PROMPTS = ("prompt", "extra_body")
"""The columns of an intent that can be long."""

_encode = json.JSONEncoder(separators=(",", ":")).encode

_ENTRY = re.compile(rf"{JOURNAL_FOLDER}/([^/.]+)(?:/(\d{{6}})\.(?:jsonl|([\w-]+)\.label)|\.sealed)")


@dataclass(frozen=True, kw_only=True)
class Header:
    """The first line of a journal."""

    journal_id: str
    schema: int
    identity: Identity
    first_journal_id: str | None = None
    """The first journal of the same pass, which tells how old the pass is; None: this one."""

    def line(self) -> str:
        """The header as a line of JSON."""
        return _encode({"record": "header", **asdict(self)})

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Header":
        """The inverse of `line`, parsed. Names that a later schema adds are left out."""
        known = Identity.__annotations__
        return cls(
            journal_id=values["journal_id"],
            schema=values["schema"],
            identity=Identity(**{k: v for k, v in values["identity"].items() if k in known}),
            first_journal_id=values.get("first_journal_id"),
        )


def new_journal_id(now: datetime, *, token: str) -> str:
    """`<UTC day and time>-<random>`: sorts by age, and names the day of its part."""
    return f"{now:%Y%m%dT%H%M%S%f}Z-{token}"


def journal_id_of(attempt_id: str) -> str:
    """The journal that an attempt is in."""
    return attempt_id.rpartition("-")[0]


def object_path(journal_id: str, seq: int) -> str:
    """The path of one object of a journal."""
    return f"{JOURNAL_FOLDER}/{journal_id}/{seq:06d}.jsonl"


def label_path(journal_id: str, seq: int, tags: str) -> str:
    """The path of the label of an object."""
    return f"{JOURNAL_FOLDER}/{journal_id}/{seq:06d}.{tags}.label"


@lru_cache(maxsize=4_096)
def tag_of(fingerprint: str) -> str:
    """An image's tag: 24 bits, in letters that any store takes. Where two images have the same one,
    an object is read that need not be."""
    return urlsafe_b64encode(hashlib.sha256(fingerprint.encode()).digest()[:3]).decode()


def tags_in_name(tags: Collection[str]) -> str | None:
    """What the label of an object about these images says; None if they are too many for a name."""
    return None if len(tags) > TAGS_MAX else "".join(tags) or NO_IMAGES


def seal_path(journal_id: str) -> str:
    """The path of a journal's seal."""
    return f"{JOURNAL_FOLDER}/{journal_id}.sealed"


def intent_line(attempt: Attempt) -> str:
    """The record that puts an attempt on record."""
    tag = tag_of(attempt.fingerprint)
    return _line("intent", attempt.attempt_id, request_columns(attempt), tag=tag)


def result_line(attempt: Attempt, result: Result) -> str:
    """The record of an attempt's outcome."""
    tag = tag_of(attempt.fingerprint)
    return _line("result", attempt.attempt_id, result_columns(result), tag=tag)


def withdrawn_line(attempt: Attempt) -> str:
    """The record that an attempt was not sent after all."""
    return _line("withdrawn", attempt.attempt_id, tag=tag_of(attempt.fingerprint))


def reserve_line(usd: Decimal) -> str:
    """The record of what a pass may spend on attempts of this journal."""
    return _line("reserve", values={"worst_case_usd": usd})


def heartbeat_line() -> str:
    """A sign of life."""
    return _line("heartbeat")


def _line(
    kind: str, attempt_id: str | None = None, values: Row | None = None, *, tag: str | None = None
) -> str:
    """`{"record":kind,"attempt_id":…,"tag":…}`, then the values as a JSON object of their own."""
    head = _encode({"record": kind, "attempt_id": attempt_id} | ({"tag": tag} if tag else {}))
    return head if values is None else f"{head}\t{encode_values(values)}"


def tags_in(data: bytes, known: dict[str, str]) -> str | None:
    """The tags of all images that an object's records are about; None: it cannot be told.

    Records of earlier releases have no tags, and only the intent names the image: `known` keeps
    those tags by attempt, for the records that follow.
    """
    tags: set[str | None] = set()
    for line in data.decode().splitlines():
        head, _, tail = line.partition("\t")
        record = json.loads(head)
        attempt_id = record.get("attempt_id")
        if record["record"] == "intent" and "tag" not in record:
            known[attempt_id] = tag_of(decode_values(tail)["fingerprint"])
        if attempt_id is not None:
            tags.add(record.get("tag") or known.get(attempt_id))
    return None if None in tags else "".join(sorted(str(tag) for tag in tags))


@dataclass(kw_only=True)
class JournalContent:
    """What a journal's records add up to."""

    header: Header | None = None
    lean: bool = False
    """Whether prompts are left out."""
    had_intents: bool = False
    """Whether there ever was an intent, withdrawn or not."""
    reserved_usd: Decimal = Decimal(0)
    attempts: dict[str, Attempt] = field(default_factory=dict[str, Attempt])
    """By id, each with its result once there is one. Withdrawn ones are gone."""
    pending: dict[str, str] = field(default_factory=dict[str, str])
    """The ids of attempts without a result, and the fingerprint that each requests."""

    def copy(self) -> "JournalContent":
        """The same, which does not change with it."""
        return replace(self, attempts=dict(self.attempts), pending=dict(self.pending))

    def intend(self, attempt: Attempt) -> None:
        """Add an attempt without a result."""
        self.had_intents = True
        self.attempts[attempt.attempt_id] = attempt
        self.pending[attempt.attempt_id] = attempt.fingerprint

    def resolve(self, attempt_id: str, result: Result) -> None:
        """Give an attempt its result."""
        if attempt_id in self.attempts:
            self.attempts[attempt_id] = replace(self.attempts[attempt_id], result=result)
        self.pending.pop(attempt_id, None)

    def withdraw(self, attempt_id: str) -> None:
        """Remove an attempt that was not sent."""
        self.attempts.pop(attempt_id, None)
        self.pending.pop(attempt_id, None)

    def apply(self, data: bytes) -> None:
        """Add the records of one object of the journal."""
        for line in data.decode().splitlines():
            head, _, tail = line.partition("\t")
            record = json.loads(head)
            values = decode_values(tail) if tail else {}
            match record["record"]:
                case "header":
                    self.header = Header.of(record)
                case "intent":
                    if self.lean:
                        values |= dict.fromkeys(_PROMPTS)
                    self.intend(attempt_of({**values, "attempt_id": record["attempt_id"]}))
                case "result":
                    self.resolve(record["attempt_id"], result_of(values))
                case "withdrawn":
                    self.withdraw(record["attempt_id"])
                case "reserve":
                    self.reserved_usd = values["worst_case_usd"]
                case _:
                    pass

    @property
    def bound_usd(self) -> Decimal:
        """What its attempts count against a budget."""
        return sum((attempt.bound_usd for attempt in self.attempts.values()), Decimal(0))

    @property
    def is_of_newer_schema(self) -> bool:
        """Whether a newer version wrote it, so that it is left alone."""
        return self.header is not None and self.header.schema > JOURNAL_VERSION

    def rivals(self, fingerprint: str) -> tuple[str, ...]:
        """Its pending attempts at one image."""
        return tuple(a for a, wanted in self.pending.items() if wanted == fingerprint)


def apply_object(content: JournalContent, path: str, data: bytes) -> None:
    """`JournalContent.apply`. Raises `DamagedJournal` for an object that is not a journal's."""
    try:
        content.apply(data)
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise _damaged(path, data, f"{type(error).__name__}: {error}") from error
    if content.header is None:
        raise _damaged(path, data, "no header")


def _damaged(path: str, data: bytes, why: str) -> DamagedJournal:
    return DamagedJournal(
        f"damaged journal: {path} ({len(data):,} bytes) is not what was written there ({why}). It "
        "may record requests that were billed, so that nothing is sent. Restore it, or delete the "
        f"folder {path.rpartition('/')[0]}: then its images that are in storage are used all the "
        "same, and its other requests are sent again",
        can_pass=False,
    )


class JournalObject(NamedTuple):
    """An object of a journal on its way to the store, and the path of its label, if any."""

    path: str
    data: bytes
    label: str | None


@dataclass(kw_only=True)
class OwnJournal:
    """A journal that this writer opened and has not published."""

    journal_id: str
    content: JournalContent
    lock: WriterLock | None
    opened_at: float
    last_put_at: float
    next_seq: int = 1
    next_attempt: int = 0
    state: Literal["open", "draining", "publishing"] = "open"
    pending: list[str] = field(default_factory=list[str])
    """Lines that the next object of the journal holds."""
    tags: dict[str, None] = field(default_factory=dict[str, None])
    """Of the images that these are about."""
    unwritten: JournalObject | None = None
    """An object that is being written, or could not be."""
    labels: list[str] = field(default_factory=list[str])
    """The paths of the labels."""

    def add(self, line: str, about: Attempt) -> None:
        """Let the next object hold a line about an attempt."""
        self.pending.append(line)
        self.tags[tag_of(about.fingerprint)] = None

    def begin_object(self, *, labelled: bool) -> JournalObject | None:
        """The object that is to be written now; None: there is none.

        After an error that is the same one again, because it may be in place all the same, and so
        may its label, which must not lack an image of it.
        """
        if self.unwritten is None and self.pending:
            tags = tags_in_name(self.tags) if labelled else None
            self.unwritten = JournalObject(
                path=object_path(self.journal_id, self.next_seq),
                data="".join(f"{line}\n" for line in self.pending).encode(),
                label=tags and label_path(self.journal_id, self.next_seq, tags),
            )
            if self.unwritten.label is not None:
                self.labels.append(self.unwritten.label)
            self.pending.clear()
            self.tags.clear()
        return self.unwritten

    def end_object(self, *, at: float) -> None:
        """The object that was begun is in place."""
        self.unwritten = None
        self.next_seq += 1
        self.last_put_at = at

    def reserve(self, usd: Decimal) -> None:
        """Say with the next object what the pass may spend, if the journal says otherwise."""
        if usd != self.content.reserved_usd:
            self.content.reserved_usd = usd
            self.pending.append(reserve_line(usd))


class Label(NamedTuple):
    """The label of an object in a listing, and the tags in its name."""

    path: str
    tags: str


@dataclass(frozen=True, kw_only=True)
class JournalListing:
    """What one listing of the journal folder shows of one journal."""

    objects: Mapping[int, StoredObject]
    labels: Mapping[int, Label]
    sealed: bool

    @property
    def label_paths(self) -> list[str]:
        """The paths of the labels."""
        return [label.path for label in self.labels.values()]

    @property
    def newest(self) -> float | None:
        """The store's time of the newest object; None where the store has no times."""
        times = [entry.modified for entry in self.objects.values() if entry.modified is not None]
        return max(times, default=None)


def parse_listing(entries: Iterable[StoredObject]) -> dict[str, JournalListing]:
    """The journals in one listing of `JOURNAL_FOLDER`, in the order of their ids."""
    objects: dict[str, dict[int, StoredObject]] = {}
    labels: dict[str, dict[int, Label]] = {}
    seals: set[str] = set()
    for entry in entries:
        jid, seq, tags = _place_of(entry.path)
        if jid is None:
            continue
        if seq is None:
            seals.add(jid)
        elif tags is None:
            objects.setdefault(jid, {})[seq] = entry
        else:
            labels.setdefault(jid, {})[seq] = Label(entry.path, tags)
    return {
        jid: JournalListing(
            objects=objects.get(jid, {}), labels=labels.get(jid, {}), sealed=jid in seals
        )
        for jid in sorted(objects.keys() | labels.keys() | seals)
    }


@lru_cache(maxsize=4_096)  # A writer lists its own journal again after each commit.
def _place_of(path: str) -> tuple[str | None, int | None, str | None]:
    """The journal, the number and the tags in a path; the first is None for any other path."""
    match = _ENTRY.fullmatch(path)
    if match is None:
        return None, None, None
    jid, seq, tags = match.groups()
    return jid, None if seq is None else int(seq), tags
