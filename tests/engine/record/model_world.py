"""The world in which writers meet: a store with moods, and an endpoint that keeps a request log."""

import asyncio
import pickle
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from functools import cached_property
from types import ModuleType
from typing import Any, Literal, TypeVar

import pyarrow as pa

from dagster_imagegen.engine.attempt import Attempt, ImageFile, Result
from dagster_imagegen.engine.errors import StorageError
from dagster_imagegen.engine.patience import Patience, PatientStore
from dagster_imagegen.engine.record import Limits, Record, RecordWriter
from dagster_imagegen.engine.record.index import INDEX_FOLDER
from dagster_imagegen.engine.record.journal import JOURNAL_FOLDER, JournalContent
from dagster_imagegen.engine.record.parts import (
    PARTS_FOLDER,
    bound_usd,
    decode_part,
    journal_of,
)
from dagster_imagegen.engine.record.schema import row_of, to_table
from dagster_imagegen.engine.storage import StoredObject, WriterLock
from tests.engine.record.model_loop import ModelLoop

T = TypeVar("T")

Status = Literal["succeeded", "refused", "failed", "unknown"]

RULES: Mapping[str, str] = {
    "row": "every request that was sent has exactly one row",
    "phantom": "a row without a request is `unknown`, and of a writer that died or was stopped",
    "settled": "an outcome that was reported is in the parts, with that status",
    "agreed": "a part and its journal say the same: a fold that comes late changes nothing",
    "image": "an image that was reported, or that a row names, is there and whole",
    "recovered": "a dead writer's image that was in place makes its attempt succeeded",
    "twice": "nothing is asked for while a rightly living writer asks for it",
    "bought": "nothing is asked for whose image was in place",
    "budget": "what all have sent, at the worst case while under way, and may send, is within it",
    "stale": "nothing is granted a third of a lease after the journal was closed by another",
    "fenced": "a writer that was never silent is not taken for dead",
    "refused": "a writer that nothing happened to finishes without an error; none blames the store",
    "reader": "a reader sees no attempt twice, all that was sent, and none with an outcome vanish",
    "litter": "nothing stays but parts, images, seals and the index",
    "index": "what the index says of a part is what the part says",
    "hang": "a writer that is alive ends",
}


OUTAGE_SECONDS_MAX = 55.0
"""Longer than a lease, and no longer than a writer waits for a store that never answered it."""

WORST_CASE_USD = Decimal(1)
"""What one request can cost."""


@dataclass(kw_only=True)
class Post:
    """One request, as the endpoint has it in its request log."""

    attempt_id: str
    fingerprint: str
    writer: "Handle"
    at: float
    intended_at: float
    ended_at: float = float("inf")
    outcome: Status | None = None
    cost_usd: Decimal = WORST_CASE_USD


@dataclass(frozen=True, kw_only=True)
class Moods:
    """What a schedule's store and endpoint do, and how often."""

    error: float
    """Of each call of the store: how likely it fails."""
    late: float
    """Of each failing write: how likely it takes effect later, or once more later."""
    locks: bool
    """A local disk: writers hold locks, and a listing looks into one folder after the other."""
    slow: float
    """Of each call: how likely it takes seconds."""
    outage: "tuple[float, float]" = (0.0, 0.0)
    """From when to when every call fails, at once or late; a write may take effect all the same."""
    loses_index: bool = False
    """Whether somebody deletes objects of the index now and then."""
    part_loses_journal: float
    """Of each part: how likely some of its journal's objects vanish after it exists."""


class World:
    """The store's objects, the endpoint's request log, and all that is known of the writers."""

    def __init__(
        self,
        seed: int,
        code: ModuleType,
        loop: ModelLoop,
    ) -> None:
        self.loop = loop
        self.seed = seed
        self.rng = random.Random(seed)
        self.code: Any = code
        """The package of the record, or a copy with a rule left out."""
        rng = self.rng
        self.moods = Moods(
            error=rng.choice((0.0, 0.0, 0.02, 0.08)),
            late=rng.choice((0.0, 0.3)),
            locks=rng.random() < 0.3,
            slow=rng.choice((0.0, 0.0, 0.02, 0.1)),
            part_loses_journal=rng.choice((0.0, 0.5)),
            outage=_outage_of(seed),
            loses_index=seed % 3 == 1,
        )
        self._index_rng = random.Random(f"index {seed}")
        self.budget_usd = rng.choice((None, None, None, Decimal(2), Decimal(3), Decimal(5)))
        lease = rng.choice((12.0, 24.0, 48.0))
        self.limits = Limits(
            lease=lease,
            poll=lease / 12,
            # What is reserved has to follow from journal to journal.
            roll_attempts=rng.choice((1, 2, 3, 50) if self.budget_usd is None else (1, 1, 2)),
            roll_objects=rng.choice((3, 6, 256)),
            roll_seconds=rng.choice((5.0, 20.0, 300.0)),
            rival_grace=rng.choice((0.5, 2.0)),
            # All that are alive wait for the end of an outage.
            patience=Patience(attempts=5, backoff_seconds=0.1, seconds=2 * OUTAGE_SECONDS_MAX)
            if self.has_outage
            else Patience(attempts=5, backoff_seconds=0.1),
        )
        self.epoch = datetime(2026, 11, 22, 23, 59, 59, tzinfo=timezone.utc) - timedelta(
            seconds=rng.choice((0.0, 2.0, 10.0, 40.0, 40_000.0))
        )
        self.objects: dict[str, tuple[bytes, StoredObject]] = {}
        self.images: dict[str, list[tuple[str, float]]] = {}
        self.posts: list[Post] = []
        self.allowed: dict[str, Decimal] = {}
        """What writers may spend in all, by their names, as long as they send."""
        self.writers: list[Handle] = []
        self.violations: list[str] = []
        self.sealed_at: dict[str, float] = {}
        self.late_writes = 0
        self.written_at: dict[str, float] = {}
        self.silences: dict[str, float] = {}
        self.landing = 0
        self.over = False
        self.shortened: set[str] = set()
        """Journals of which the store lost objects once their part was there."""
        self.last_record: Record | None = None
        self.changes = 0
        """How often anything was written or deleted."""
        self._decoded: dict[bytes, list[Attempt]] = {}

    @property
    def has_outage(self) -> bool:
        return self.moods.outage[1] > 0

    def has_earlier_release(self, number: int) -> bool:
        """Whether a writer is of one without labels: in half of the schedules, each second one."""
        return random.Random(f"release {self.seed}").random() < 0.5 and number % 2 == 1

    @property
    def is_away(self) -> bool:
        """Whether the store fails every call now."""
        begins, ends = self.moods.outage
        return begins <= self.clock() < ends

    def now(self) -> datetime:
        return self.epoch + timedelta(seconds=self.clock())

    def clock(self) -> float:
        return self.loop.time()

    def break_rule(self, rule: str, text: str) -> None:
        assert rule in RULES
        self.violations.append(f"{rule}: {text} (at {self.clock():.2f})")

    def rows_of(self, path: str) -> list[Attempt]:
        """What a part holds now."""
        data, _ = self.objects[path]
        if data not in self._decoded:
            self._decoded[data] = decode_either(data)
        return self._decoded[data]

    def owner(self, journal_id: str) -> "Handle | None":
        return next((w for w in self.writers if w.owns(journal_id)), None)

    def indexed_rows(self, record: Record) -> list[Attempt] | None:
        """What the index holds of the parts that it covers; None: it is no longer whole."""
        rows: list[Attempt] = []
        for path in record.index.files:
            if path not in self.objects:
                return None
            data, _ = self.objects[path]
            if data not in self._decoded:
                try:
                    self._decoded[data] = decode_part(data)
                except pa.ArrowException:
                    return None
            rows += self._decoded[data]
        return [row for row in rows if row.attempt_id.rpartition("-")[0] not in record.gone]

    def rows_on_record(self, record: Record) -> list[Attempt]:
        """What a plan sees: `record.rows_on_record` does the same on a real storage."""
        indexed = self.indexed_rows(record)
        parts = record.parts if indexed is not None else record.all_parts
        published = [row for path in parts for row in self.rows_of(path)]
        return [*record.open_attempts, *published, *(indexed or [])]

    def remaining(self, record: Record) -> Decimal:
        """What the record of others leaves of the budget."""
        assert self.budget_usd is not None
        published = [row for path in record.parts for row in self.rows_of(path)]
        spent = sum((row.bound_usd for row in (*record.open_attempts, *published)), Decimal(0))
        spent += bound_usd(record.sums())
        reserved = sum((each.usd for each in record.reservations), Decimal(0))
        return self.budget_usd - spent - reserved

    def granted(self, by: "Handle", usd: Decimal) -> None:
        """A writer may spend so much in all from now on."""
        self.allowed[by.name] = usd
        taken = {each.name: self._taken(each) for each in self.writers}
        if self.budget_usd is not None and sum(taken.values()) > self.budget_usd:
            self.break_rule("budget", f"{taken} is taken of {self.budget_usd}")

    def _taken(self, writer: "Handle") -> Decimal:
        """What a writer has spent, or may spend if it is alive."""
        spent = sum((p.cost_usd for p in self.posts if p.writer is writer), Decimal(0))
        return max(spent, self.allowed.get(writer.name, spent) if writer.is_sending else spent)

    def sent(self, post: Post) -> None:
        """A request arrives at the endpoint."""
        self.posts.append(post)
        cost = sum((each.cost_usd for each in self.posts), Decimal(0))
        if self.budget_usd is not None and cost > self.budget_usd:
            self.break_rule("budget", f"{post.attempt_id} makes it {cost} of {self.budget_usd}")

    def listed(self, wanted: str) -> dict[str, StoredObject]:
        """All objects whose path begins so."""
        return {
            path: stored for path, (_, stored) in self.objects.items() if path.startswith(wanted)
        }

    # -- what the store does when a call reaches it ---------------------------------------------

    def take_effect(self, path: str, data: bytes, by: "Handle") -> None:
        self.changes += 1
        known = path in self.objects
        stored = StoredObject(path=path, size_bytes=len(data), modified=self.now().timestamp())
        self.objects[path] = (data, stored)
        if path.startswith("images/") and not known:
            _, fingerprint, attempt_id = path.split("/")
            self.images.setdefault(fingerprint, []).append((attempt_id, self.clock()))
        elif path.endswith(".sealed") and not known:
            self._sealed(path, by)
        elif path.startswith(INDEX_FOLDER):
            if self.moods.loses_index and self._index_rng.random() < 0.5:
                delay = self._index_rng.choice((0.0, 1.0, 20.0, 60.0))
                self.loop.call_later(delay, self.objects.pop, path, None)
        elif path.endswith(".jsonl"):
            jid = path.split("/")[1]
            silence = self.clock() - self.written_at.get(jid, self.clock())
            self.silences[jid] = max(self.silences.get(jid, 0.0), silence)
            self.written_at[jid] = self.clock()
        elif (jid := journal_of(path)) is not None and path.startswith(PARTS_FOLDER):
            if by is self.owner(jid) and not known:
                self._compare_with_journal(jid, decode_either(data))
            if self.rng.random() < self.moods.part_loses_journal:
                delay = self.rng.choice((0.0, 0.05, 1.0))
                self.loop.call_later(delay, self._lose_some_of, jid)

    def land_later(self, path: str, data: bytes, by: "Handle") -> None:
        """A write that the client gave up on takes effect after all, once more perhaps."""
        self.late_writes += 1
        self.landing += 1

        def land() -> None:
            self.landing -= 1
            self.take_effect(path, data, by)

        self.loop.call_later(self.rng.choice((0.3, 2.0, 8.0, 40.0)), land)

    def _lose_some_of(self, jid: str) -> None:
        self.shortened.add(jid)
        doomed = [path for path in self.objects if path.startswith(f"{JOURNAL_FOLDER}/{jid}/")]
        for path in doomed:
            if self.rng.random() < 0.5:
                self.changes += 1
                del self.objects[path]

    def _compare_with_journal(self, jid: str, rows: list[Attempt]) -> None:
        folder = f"{JOURNAL_FOLDER}/{jid}"
        below = sorted(path for path in self.objects if path.startswith(f"{folder}/"))
        paths = [path for path in below if path.endswith(".jsonl")]
        whole = bool(paths) and len(paths) == int(paths[-1][-12:-6]) + 1
        if not whole or f"{folder}.sealed" in self.objects:
            return
        journal = JournalContent()
        for path in paths:
            journal.apply(self.objects[path][0])
        recorded = {each: row.status for each, row in journal.attempts.items()}
        published = {row.attempt_id: row.status for row in rows}
        if recorded != published:
            self.break_rule("agreed", f"{jid} is published as {published}, recorded as {recorded}")

    def _sealed(self, path: str, by: "Handle") -> None:
        jid = path.removeprefix(f"{JOURNAL_FOLDER}/").removesuffix(".sealed")
        if by is self.owner(jid):
            return  # Its part is there, and late.
        self.sealed_at[jid] = self.clock()
        owner = self.owner(jid)
        if owner is None or not owner.is_open(jid):
            return
        owner.presumed_dead = True
        if jid in self.shortened:
            return  # Without its newest objects it looks silent for longer; its part is there.
        hindered = self.moods.slow or self.moods.error or self.has_outage
        at_ease = not (owner.was_silent or hindered)
        silence = max(self.silences.get(jid, 0.0), self.clock() - self.written_at[jid])
        # A store that is slow or fails keeps a writer silent; nothing else may.
        if not self.late_writes and (at_ease or silence < self.limits.lease):
            self.break_rule(
                "fenced", f"{by.name} sealed {jid} of {owner.name} after {silence:.2f} s"
            )


def _outage_of(seed: int) -> tuple[float, float]:
    """One schedule in four has one. Its own randomness leaves the other schedules as they are."""
    rng = random.Random(f"outage {seed}")
    if seed % 4 != 3:
        return (0.0, 0.0)
    begins = rng.choice((0.5, 2.0, 5.0, 15.0, 60.0)) * rng.uniform(0.5, 1.5)
    return begins, begins + rng.choice((1.0, 5.0, 20.0, OUTAGE_SECONDS_MAX))


CALLS = (
    "any",
    "put journal",
    "list journal",
    "get journal",
    "delete journal",
    "images",
    "index",
    "post",
    "list part",
    "put part",
)


@dataclass(frozen=True)
class Moment:
    """The n-th call of a kind."""

    kind: str
    number: int

    @classmethod
    def draw(cls, rng: random.Random) -> "Moment":
        kind = rng.choice(("any", *CALLS))
        most = {"any": 100, "put part": 3, "images": 12}.get(kind, 8)
        return cls(kind, rng.randint(1, most))


def kind_of(verb: str, path: str) -> str:
    if path.startswith("images"):
        return "images"
    if path.startswith("_index"):
        return "index"
    return f"{verb} {'part' if path.startswith(PARTS_FOLDER) else 'journal'}"


@dataclass(kw_only=True)
class Handle:
    """One writer's way to the store and the endpoint; the place where it dies or is paused."""

    world: World
    name: str
    dies_at: "Moment | None" = None
    pauses_at: "Moment | None" = None
    pause_seconds: float = 0.0
    calm: bool = False
    """Nothing goes wrong for this one."""
    is_of_earlier_release: bool = False
    """Its journals are as they were before there were labels and tags."""
    calls: Counter[str] = field(default_factory=Counter[str])
    killed_at: float | None = None
    paused_until: float = float("-inf")
    was_silent: bool = False
    presumed_dead: bool = False
    error: BaseException | None = None
    ended: bool = False
    writer: RecordWriter | None = None
    locked: set[str] = field(default_factory=set[str])
    settled: dict[str, Status] = field(default_factory=dict[str, Status])
    reported: list[str] = field(default_factory=list[str])
    """Paths of images that it handed on."""
    trace: list[str] = field(default_factory=list[str])

    def owns(self, jid: str) -> bool:
        return jid.endswith(f"-{self.name}") or f"-{self.name}." in jid

    def is_open(self, jid: str) -> bool:
        """Whether it still writes this journal, as far as it knows."""
        inside: Any = self.writer
        if not self.is_alive or (inside._journals.broken and not inside._journals._closing):
            return False
        beginning = inside._journals._beginning
        begins = beginning is not None and not beginning.done() and jid == inside.journal_ids[-1]
        return begins or jid in inside._own

    @property
    def is_alive(self) -> bool:
        return self.killed_at is None and not self.ended and self.writer is not None

    @property
    def is_sending(self) -> bool:
        """Whether it may still send, rightly."""
        inside: Any = self.writer
        return self.is_alive and not self.presumed_dead and inside._journals.broken is None

    @cached_property
    def rng(self) -> random.Random:
        return random.Random(self.world.rng.random())

    @property
    def may_leave_phantoms(self) -> bool:
        return self.killed_at is not None or self.presumed_dead or self.error is not None

    # -- life and death -------------------------------------------------------------------------

    async def _gate(self) -> None:
        """Where a dead writer stays for ever, and a paused one until it is resumed."""
        if self.world.over:
            raise asyncio.CancelledError
        if self.killed_at is not None:
            await self._never()
        while self.world.loop.now < self.paused_until:
            await self.world.loop.pause(self.paused_until - self.world.loop.now)
            if self.killed_at is not None:
                await self._never()

    async def _never(self) -> None:
        await self.world.loop.create_future()

    async def _begin(self, kind: str) -> bool:
        """A call sets out. Says whether it is to be this one's last."""
        await self._gate()
        self.calls["any"] += 1
        self.calls[kind] += 1
        dies = self._is_moment(self.dies_at, kind)
        if dies and self.rng.random() < 0.3:
            self.killed_at = self.world.clock()
            await self._never()
        return dies

    def _is_moment(self, moment: "Moment | None", kind: str) -> bool:
        return (
            moment is not None
            and moment.kind in ("any", kind)
            and moment.number == self.calls[moment.kind]
        )

    async def _step(self, kind: str, effect: Callable[[], T]) -> T:
        """One call: it takes a while to get there, and the answer a while to come back."""
        dies = await self._begin(kind)
        pauses = self._is_moment(self.pauses_at, kind)
        await self._latency()
        if dies:
            self.killed_at = self.world.clock()
        elif self.killed_at is not None and self.rng.random() < 0.5:
            await self._never()  # Killed by another of its calls, before this one got there.
        result = effect()
        if self.killed_at is not None:
            await self._never()
        if pauses:
            self.was_silent = True
            self.paused_until = self.world.clock() + self.pause_seconds
        if not self.calm and self.rng.random() < 0.3:
            await self._latency()
        await self._gate()
        return result

    def _latency(self) -> "asyncio.Future[None]":
        roll = self.rng.random()
        if not self.calm and self.world.is_away and roll < 0.3:
            # It hangs, and is given up; what it does may still take effect.
            return self.world.loop.pause(self.world.limits.record_call_seconds)
        if not self.calm and roll < self.world.moods.slow:
            return self.world.loop.pause(self.rng.uniform(0.02, 0.06) * self.world.limits.lease)
        return self.world.loop.pause(0.005 + 0.1 * roll * roll)

    def _fails(self) -> bool:
        if self.calm:
            return False
        return self.world.is_away or self.rng.random() < self.world.moods.error

    # -- ObjectStore ----------------------------------------------------------------------------

    async def put(self, path: str, data: bytes) -> None:
        if self.is_of_earlier_release and path.startswith(JOURNAL_FOLDER):
            if path.endswith(".label"):
                return
            data = re.sub(rb',"tag":"[^"]*"', b"", data)

        def effect() -> StorageError | None:
            if not self._fails():
                self.world.take_effect(path, data, self)
                return None
            if self.rng.random() < 0.5:
                torn = path.startswith(INDEX_FOLDER) and self.rng.random() < 0.5
                self.world.take_effect(path, data[:-9] if torn else data, self)
            if self.rng.random() < (0.3 if self.world.is_away else self.world.moods.late):
                self.world.land_later(path, data, self)
            return StorageError(f"put {path}")

        error = await self._step(kind_of("put", path), effect)
        if error is not None:
            raise error

    async def put_locked(self, path: str, data: bytes) -> WriterLock | None:
        if self.world.moods.locks:
            self.locked.add(path)
        await self.put(path, data)
        return _Lock(self, path) if self.world.moods.locks else None

    async def is_locked(self, path: str) -> bool | None:
        def effect() -> bool | None:
            if not self.world.moods.locks or path not in self.world.objects:
                return None
            return any(w.killed_at is None and path in w.locked for w in self.world.writers)

        return await self._step(kind_of("get", path), effect)

    async def get(self, path: str) -> bytes:
        def effect() -> bytes | StorageError | None:
            if self._fails():
                return StorageError(f"get {path}")
            found = self.world.objects.get(path)
            return None if found is None else found[0]

        data = await self._step(kind_of("get", path), effect)
        if isinstance(data, StorageError):
            raise data
        if data is None:
            raise FileNotFoundError(path)
        return data

    async def list(self, folder: str, *, prefix: str = "") -> dict[str, StoredObject]:
        wanted = f"{folder}/{prefix}"

        def effect() -> dict[str, StoredObject] | StorageError:
            if self._fails():
                return StorageError(f"list {wanted}")
            return self.world.listed(wanted)

        found = await self._step(kind_of("list", folder), effect)
        if isinstance(found, StorageError):
            raise found
        if self.world.moods.locks and folder in (JOURNAL_FOLDER, PARTS_FOLDER):
            await self._latency()
            here = {path: entry for path, entry in found.items() if path.count("/") == 1}
            folders = {path.rpartition("/")[0] for path in found if path not in here}
            later = self.world.listed(wanted)
            found = here | {p: later[p] for p in later if p.rpartition("/")[0] in folders}
        return found

    async def folders(self, folder: str) -> Sequence[str]:
        def effect() -> Sequence[str] | StorageError:
            if self._fails():
                return StorageError(f"list {folder}")
            below = (path[len(folder) + 1 :] for path in self.world.listed(f"{folder}/"))
            return sorted({path.split("/")[0] for path in below if "/" in path})

        found = await self._step(kind_of("list", folder), effect)
        if isinstance(found, StorageError):
            raise found
        return found

    async def delete(self, paths: Iterable[str]) -> None:
        """All at once, each of which takes its own time."""

        async def delete_one(path: str) -> StorageError | None:
            def effect() -> StorageError | None:
                fails = self._fails()
                if not fails or self.rng.random() < 0.5:
                    self.world.changes += 1
                    self.world.objects.pop(path, None)
                return StorageError(f"delete {path}") if fails else None

            return await self._step(kind_of("delete", path), effect)

        for error in await asyncio.gather(*map(delete_one, paths)):
            if error is not None:
                raise error

    # -- the endpoint ---------------------------------------------------------------------------

    async def post(self, attempt_id: str, fingerprint: str, *, intended_at: float) -> Post:
        sealed_at = self.world.sealed_at.get(attempt_id.rpartition("-")[0], float("inf"))
        if self.world.clock() - sealed_at > self.world.limits.lease / 3:
            self.world.break_rule("stale", f"{attempt_id}, sealed at {sealed_at:.2f}")
        dies = await self._begin("post")
        post = Post(
            attempt_id=attempt_id,
            fingerprint=fingerprint,
            writer=self,
            at=self.world.clock(),
            intended_at=intended_at,
        )
        self.world.sent(post)
        seconds = self.rng.choice((0.2, 1.0, 3.0, 10.0, 1.3 * self.world.limits.lease))
        await self.world.loop.pause(seconds)
        if dies:
            self.killed_at = self.world.clock()
        outcomes: tuple[Status, ...] = ("succeeded", "refused", "failed", "unknown")
        outcome = self.rng.choices(outcomes, (6, 1, 2, 1))[0]
        post.ended_at, post.outcome = self.world.clock(), outcome
        if outcome == "succeeded":
            post.cost_usd = self.rng.choice((Decimal("0.3"), WORST_CASE_USD))
        elif outcome != "unknown":
            post.cost_usd = Decimal(0)
        await self._gate()
        return post


class Images:
    """The images, as one writer sees them; patient with the store, as the real ones are."""

    def __init__(self, handle: Handle) -> None:
        self._store = PatientStore(handle, handle.world.limits.patience)

    async def find(self, fingerprint: str) -> Mapping[str, str]:
        listed = await self._store.list(f"images/{fingerprint}")
        return {path.rpartition("/")[2]: path for path in listed}

    async def recover(self, attempt: Attempt, path: str) -> Result:
        await self._store.get(path)
        return Result(status="succeeded", image=ImageFile(path=path))

    def lost(self, attempt: Attempt) -> Result:
        return Result(status="unknown")


@dataclass(frozen=True)
class _Lock:
    handle: Handle
    path: str

    def release(self) -> None:
        self.handle.locked.discard(self.path)


def image_of(attempt_id: str) -> bytes:
    return f"the picture of {attempt_id}".encode()


PARQUET_MAGIC = b"PAR1"


def encode_light(attempts: Iterable[Attempt]) -> bytes:
    """A part as a pickle: the protocol does not care, and it takes a hundredth of the time."""
    return pickle.dumps(list(attempts))


def table_of_either(data: bytes, columns: Sequence[str]) -> pa.Table:
    """`table_of_part`, however it was written."""
    return to_table(row_of(attempt) for attempt in decode_either(data)).select(list(columns))


def decode_either(data: bytes) -> list[Attempt]:
    """The attempts of a part, however it was written."""
    return decode_part(data) if data.startswith(PARQUET_MAGIC) else pickle.loads(data)
