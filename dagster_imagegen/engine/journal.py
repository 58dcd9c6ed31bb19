"""The write-ahead record of attempts: what a journal's objects hold, and what they mean.

    _journal/<jid>/<seq>.jsonl   whole objects of one record a line; seq 0 begins with the header
    _journal/<jid>.sealed        its writer is presumed dead; whoever finds its own seal stops

Records: `intent` (every identity and request column), `result` (the outcome's columns),
`withdrawn` (not sent after all), `reserve` (what the pass may spend on attempts of this journal),
`heartbeat`. docs/write-protocol.md tells the whole protocol.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal, TypeAlias

from dagster_imagegen.engine.storage import StoredObject
from dagster_imagegen.engine.usage import Row, decode_values, encode_values, worth

JOURNAL_FOLDER = "_journal"
SCHEMA_VERSION = 1

_ENTRY = re.compile(rf"{JOURNAL_FOLDER}/([^/.]+)(?:/(\d{{6}})\.jsonl|\.sealed)")

Kind: TypeAlias = Literal["intent", "result", "withdrawn", "reserve", "heartbeat"]


@dataclass(frozen=True, kw_only=True)
class Identity:
    """On whose behalf attempts are made; the same columns in every row of a pass."""

    run_id: str
    root_run_id: str
    asset_key: str | None = None
    partition_key: str | None = None
    step_key: str | None = None


@dataclass(frozen=True, kw_only=True)
class Header:
    """The first line of a journal."""

    journal_id: str
    schema: int
    identity: Identity

    def line(self) -> str:
        return json.dumps({"record": "header", **asdict(self)}, separators=(",", ":"))

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Header":
        """The inverse of `line`, parsed."""
        return cls(
            journal_id=values["journal_id"],
            schema=values["schema"],
            # A later schema may say more; what it says is not ours to read.
            identity=Identity(
                **{k: v for k, v in values["identity"].items() if k in Identity.__annotations__}
            ),
        )


def new_journal_id(now: datetime, *, token: str) -> str:
    """`<UTC day and time>-<random>`: sorts by age, and names the day of its part."""
    return f"{now:%Y%m%dT%H%M%S%f}Z-{token}"


def object_path(journal_id: str, seq: int) -> str:
    return f"{JOURNAL_FOLDER}/{journal_id}/{seq:06d}.jsonl"


def seal_path(journal_id: str) -> str:
    return f"{JOURNAL_FOLDER}/{journal_id}.sealed"


def record_line(kind: Kind, attempt_id: str | None = None, values: Row | None = None) -> str:
    """One record: `{"record":kind,"attempt_id":…}`, then the values' own line of JSON."""
    head = json.dumps({"record": kind, "attempt_id": attempt_id}, separators=(",", ":"))
    return head if values is None else f"{head}\t{encode_values(values)}"


@dataclass(kw_only=True)
class Attempts:
    """What a journal's records add up to."""

    header: Header | None = None
    intended: bool = False
    """Whether there ever was an intent, withdrawn or not."""
    reserved_usd: Decimal = Decimal(0)
    rows: dict[str, Row] = field(default_factory=dict[str, Row])
    """By attempt: its intent, and its outcome once there is one. Withdrawn ones are gone."""
    unresolved: dict[str, str] = field(default_factory=dict[str, str])
    """Attempts without a result, and the fingerprint that each asks for."""

    def intend(self, attempt_id: str, values: Row) -> None:
        self.intended = True
        self.rows[attempt_id] = {**values, "attempt_id": attempt_id}
        self.unresolved[attempt_id] = values["fingerprint"]

    def resolve(self, attempt_id: str, outcome: Row) -> None:
        if attempt_id in self.rows:
            self.rows[attempt_id].update(outcome)
        self.unresolved.pop(attempt_id, None)

    def withdraw(self, attempt_id: str) -> None:
        self.rows.pop(attempt_id, None)
        self.unresolved.pop(attempt_id, None)

    def apply(self, data: bytes) -> None:
        """Take in one object of the journal."""
        for line in data.decode().splitlines():
            head, _, tail = line.partition("\t")
            record = json.loads(head)
            values = decode_values(tail) if tail else {}
            match record["record"]:
                case "header":
                    self.header = Header.of(record)
                case "intent":
                    self.intend(record["attempt_id"], values)
                case "result":
                    self.resolve(record["attempt_id"], values)
                case "withdrawn":
                    self.withdraw(record["attempt_id"])
                case "reserve":
                    self.reserved_usd = values["worst_case_usd"]
                case _:
                    pass

    @property
    def worth_usd(self) -> Decimal:
        """What its rows cost, at the worst case where that is all that is known."""
        return sum((worth(row) for row in self.rows.values()), Decimal(0))

    @property
    def is_of_newer_schema(self) -> bool:
        """Whether a newer version wrote it, so that it is left alone."""
        return self.header is not None and self.header.schema > SCHEMA_VERSION

    def rivals(self, fingerprint: str) -> tuple[str, ...]:
        """Its unresolved attempts at one image."""
        return tuple(a for a, wanted in self.unresolved.items() if wanted == fingerprint)


@dataclass(frozen=True, kw_only=True)
class JournalListing:
    """What one listing of the journal folder shows of one journal."""

    objects: Mapping[int, StoredObject]
    sealed: bool

    @property
    def newest(self) -> float | None:
        """The store's time of the newest object; None where the store tells no times."""
        times = [entry.modified for entry in self.objects.values() if entry.modified is not None]
        return max(times, default=None)


def parse_listing(entries: Iterable[StoredObject]) -> dict[str, JournalListing]:
    """The journals of one listing of `JOURNAL_FOLDER`, in the order of their ids."""
    objects: dict[str, dict[int, StoredObject]] = {}
    seals: set[str] = set()
    for entry in entries:
        if match := _ENTRY.fullmatch(entry.path):
            jid, seq = match.groups()
            if seq is None:
                seals.add(jid)
            else:
                objects.setdefault(jid, {})[int(seq)] = entry
    return {
        jid: JournalListing(objects=objects.get(jid, {}), sealed=jid in seals)
        for jid in sorted(objects.keys() | seals)
    }
