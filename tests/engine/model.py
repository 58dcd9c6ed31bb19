"""A world in which writers meet: a store with moods, an endpoint that keeps books, virtual time.

One seed is one schedule. `run_schedule(seed)` lets two or three writers ask for overlapping images
on one store, with deaths, pauses longer than the lease, store errors before and after the effect,
and writes that land again later; then a last writer recovers. What breaks a promise is collected in
`World.violations`. `RULES` tells what each promise is.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from functools import cached_property
from typing import Any, Literal, TypeVar

from dagster_imagegen.engine import ledger as ledger_module
from dagster_imagegen.engine.errors import StorageError
from dagster_imagegen.engine.journal import JOURNAL_FOLDER, Identity, parse_listing
from dagster_imagegen.engine.ledger import AlreadyThere, Books, Contended, Granted, Ledger, Limits
from dagster_imagegen.engine.storage import ObjectStore, StoredObject, WriterLock
from dagster_imagegen.engine.usage import (
    PARTS_FOLDER,
    Row,
    decode_part,
    decode_values,
    encode_part,
    encode_values,
    journal_of,
)
from tests.virtual_time import run_virtual

T = TypeVar("T")

Status = Literal["succeeded", "refused", "failed", "unknown"]

RULES: Mapping[str, str] = {
    "row": "every request that was sent has exactly one row",
    "phantom": "a row without a request is `unknown`, and of a writer that died or was stopped",
    "settled": "an outcome that was reported is in the parts, with that status",
    "image": "an image that was reported, or that a row names, is there and whole",
    "recovered": "a dead writer's image that was in place makes its attempt succeeded",
    "twice": "nothing is asked for while a rightly living writer asks for it",
    "bought": "nothing is asked for whose image was in place",
    "fenced": "a writer that was never silent is not taken for dead",
    "refused": "a writer that nothing happened to finishes without an error",
    "reader": "a reader sees no attempt twice, and none with an outcome vanish",
    "litter": "nothing stays but parts, images and seals",
    "hang": "a writer that is alive ends",
}


class Killed(BaseException):
    """Raised in what is left of a dead writer when the world ends, so that it unwinds quietly."""


@dataclass(kw_only=True)
class Post:
    """One request, as the endpoint has it in its books."""

    attempt_id: str
    fingerprint: str
    writer: "Handle"
    at: float
    intended_at: float
    ended_at: float = float("inf")
    outcome: Status | None = None


@dataclass(frozen=True, kw_only=True)
class Moods:
    """What a schedule's store and endpoint do, and how often."""

    error: float
    """Of each call of the store: how likely it fails."""
    late: float
    """Of each failing write: how likely it takes effect later, or once more later."""
    locks: bool
    slow: float
    """Of each call: how likely it takes seconds."""
    part_loses_journal: float
    """Of each part: how likely some of its journal's objects vanish after it exists."""


class World:
    """The store's objects, the endpoint's books, and everything that is known of the writers."""

    def __init__(
        self,
        seed: int,
        *,
        ledger: type[Ledger] = Ledger,
        read_books: "Callable[[ObjectStore], Coroutine[Any, Any, Books]] | None" = None,
    ) -> None:
        self.rng = random.Random(seed)
        self.ledger = ledger
        self.read_books = read_books or ledger_module.read_books
        rng = self.rng
        self.moods = Moods(
            error=rng.choice((0.0, 0.0, 0.02, 0.08)),
            late=rng.choice((0.0, 0.3)),
            locks=rng.random() < 0.3,
            slow=rng.choice((0.0, 0.02, 0.1)),
            part_loses_journal=rng.choice((0.0, 0.3)),
        )
        self.limits = Limits(
            lease=rng.choice((8.0, 12.0, 24.0)),
            roll_attempts=rng.choice((1, 2, 3, 50)),
            roll_objects=rng.choice((3, 6, 256)),
            roll_seconds=rng.choice((5.0, 20.0, 300.0)),
            rival_grace=rng.choice((0.5, 2.0)),
            store_attempts=5,
        )
        self.epoch = datetime(2026, 11, 22, 23, 59, 59, tzinfo=timezone.utc) - timedelta(
            seconds=rng.choice((0.0, 2.0, 10.0, 40.0, 40_000.0))
        )
        self.objects: dict[str, tuple[bytes, float]] = {}
        self.images: dict[str, list[tuple[str, float]]] = {}
        self.posts: list[Post] = []
        self.writers: list[Handle] = []
        self.violations: list[str] = []
        self.late_writes = 0
        self.landing = 0
        self.first_part_at: dict[str, float] = {}
        self.over = False
        self._decoded: dict[bytes, list[Row]] = {}

    def now(self) -> datetime:
        return self.epoch + timedelta(seconds=self.clock())

    @staticmethod
    def clock() -> float:
        return asyncio.get_running_loop().time()

    def break_rule(self, rule: str, text: str) -> None:
        assert rule in RULES
        self.violations.append(f"{rule}: {text} (at {self.clock():.2f})")

    def rows_of(self, path: str) -> list[Row]:
        """What a part holds now."""
        data, _ = self.objects[path]
        if data not in self._decoded:
            self._decoded[data] = decode_either(data)
        return self._decoded[data]

    def owner(self, journal_id: str) -> "Handle | None":
        return next((w for w in self.writers if w.owns(journal_id)), None)

    # -- what the store does when a call reaches it ---------------------------------------------

    def take_effect(self, path: str, data: bytes, by: "Handle") -> None:
        known = path in self.objects
        self.objects[path] = (data, self.clock())
        if path.startswith("images/") and not known:
            _, fingerprint, attempt_id = path.split("/")
            self.images.setdefault(fingerprint, []).append((attempt_id, self.clock()))
        elif path.endswith(".sealed") and not known:
            self._sealed(path, by)
        elif (jid := journal_of(path)) is not None and path.startswith(PARTS_FOLDER):
            self.first_part_at.setdefault(jid, self.clock())
            if self.rng.random() < self.moods.part_loses_journal:
                delay = self.rng.choice((0.0, 0.05, 1.0))
                asyncio.get_running_loop().call_later(delay, self._lose_some_of, jid)

    def land_later(self, path: str, data: bytes, by: "Handle") -> None:
        """A write that the client gave up on takes effect after all, once more perhaps."""
        self.late_writes += 1
        self.landing += 1

        def land() -> None:
            self.landing -= 1
            self.take_effect(path, data, by)

        asyncio.get_running_loop().call_later(self.rng.choice((0.3, 2.0, 8.0, 40.0)), land)

    def _lose_some_of(self, jid: str) -> None:
        doomed = [path for path in self.objects if path.startswith(f"{JOURNAL_FOLDER}/{jid}/")]
        for path in doomed:
            if self.rng.random() < 0.5:
                del self.objects[path]

    def _sealed(self, path: str, by: "Handle") -> None:
        jid = path.removeprefix(f"{JOURNAL_FOLDER}/").removesuffix(".sealed")
        owner = self.owner(jid)
        if owner is None or not owner.is_open(jid):
            return
        owner.presumed_dead = True
        if not owner.was_silent and not self.late_writes:
            self.break_rule("fenced", f"{by.name} sealed {jid} of {owner.name}")


@dataclass(kw_only=True)
class Handle:
    """One writer's way to the store and the endpoint; the place where it dies or is paused."""

    world: World
    name: str
    dies_at: int | None = None
    """The number of the call at which it is killed."""
    pauses_at: int | None = None
    pause_seconds: float = 0.0
    calm: bool = False
    """Nothing goes wrong for this one."""
    calls: int = 0
    killed_at: float | None = None
    paused_until: float = float("-inf")
    was_silent: bool = False
    presumed_dead: bool = False
    error: BaseException | None = None
    ended: bool = False
    ledger: Ledger | None = None
    past_journals: list[str] = field(default_factory=list[str])
    locked: set[str] = field(default_factory=set[str])
    settled: dict[str, Status] = field(default_factory=dict[str, Status])
    reported: list[str] = field(default_factory=list[str])
    """Paths of images that it handed on."""
    trace: list[str] = field(default_factory=list[str])

    def owns(self, jid: str) -> bool:
        return jid.endswith(f"-{self.name}") or f"-{self.name}." in jid

    def is_open(self, jid: str) -> bool:
        """Whether it still writes this journal, as far as it knows."""
        if self.killed_at is not None or self.ended or self.ledger is None:
            return False
        if self.error is not None or self.ledger._broken is not None:  # pyright: ignore[reportPrivateUsage]  # the model looks inside
            return False
        return jid in self.ledger._own  # pyright: ignore[reportPrivateUsage]  # likewise

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
            raise Killed
        if self.killed_at is not None:
            await _never()
        while self.world.clock() < self.paused_until:
            await asyncio.sleep(self.paused_until - self.world.clock())
            if self.killed_at is not None:
                await _never()

    async def _step(self, effect: Callable[[], T], *, what: str = "") -> T:
        """One call: it takes a while to get there, and the answer a while to come back."""
        await self._gate()
        self.calls += 1
        dies = self.calls == self.dies_at
        if dies and self.rng.random() < 0.3:
            self.killed_at = self.world.clock()
            await _never()
        await self._latency()
        if dies:
            self.killed_at = self.world.clock()
        elif self.killed_at is not None and self.rng.random() < 0.5:
            await _never()  # Killed by another of its calls, before this one got there.
        result = effect()
        if self.killed_at is not None:
            await _never()
        if self.calls == self.pauses_at:
            self.pauses_at = None
            self.was_silent = True
            self.paused_until = self.world.clock() + self.pause_seconds
        if not self.calm and self.rng.random() < 0.5:
            await self._latency()
        await self._gate()
        return result

    async def _latency(self) -> None:
        roll = self.rng.random()
        if not self.calm and roll < self.world.moods.slow:
            await asyncio.sleep(self.rng.uniform(0.5, 3.0))
        else:
            await asyncio.sleep(0.005 + 0.1 * roll * roll)

    def _fails(self) -> bool:
        return not self.calm and self.rng.random() < self.world.moods.error

    # -- ObjectStore ----------------------------------------------------------------------------

    async def put(self, path: str, data: bytes) -> None:
        def effect() -> StorageError | None:
            if not self._fails():
                self.world.take_effect(path, data, self)
                return None
            if self.rng.random() < 0.5:
                self.world.take_effect(path, data, self)
            if self.rng.random() < self.world.moods.late:
                self.world.land_later(path, data, self)
            return StorageError(f"put {path}")

        error = await self._step(effect)
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

        return await self._step(effect)

    async def get(self, path: str) -> bytes:
        def effect() -> bytes | StorageError | None:
            if self._fails():
                return StorageError(f"get {path}")
            found = self.world.objects.get(path)
            return None if found is None else found[0]

        data = await self._step(effect)
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
            return {
                path: StoredObject(path=path, size_bytes=len(data), modified=modified)
                for path, (data, modified) in self.world.objects.items()
                if path.startswith(wanted)
            }

        found = await self._step(effect)
        if isinstance(found, StorageError):
            raise found
        return found

    async def delete(self, paths: Iterable[str]) -> None:
        for path in paths:

            def effect(path: str = path) -> StorageError | None:
                fails = self._fails()
                if not fails or self.rng.random() < 0.5:
                    self.world.objects.pop(path, None)
                return StorageError(f"delete {path}") if fails else None

            error = await self._step(effect)
            if error is not None:
                raise error

    # -- ImageShelf -----------------------------------------------------------------------------

    async def find(self, fingerprint: str) -> Mapping[str, str]:
        listed = await self.list(f"images/{fingerprint}")
        return {path.rpartition("/")[2]: path for path in listed}

    async def recover(self, intent: Row, path: str) -> Row:
        await self.get(path)
        return {"status": "succeeded", "image_path": path}

    def lost(self, intent: Row) -> Row:
        return {"status": "unknown"}

    # -- the endpoint ---------------------------------------------------------------------------

    async def post(self, attempt_id: str, fingerprint: str, *, intended_at: float) -> Status:
        await self._gate()
        self.calls += 1
        dies = self.calls == self.dies_at
        if dies and self.rng.random() < 0.3:
            self.killed_at = self.world.clock()
            await _never()
        post = Post(
            attempt_id=attempt_id,
            fingerprint=fingerprint,
            writer=self,
            at=self.world.clock(),
            intended_at=intended_at,
        )
        self.world.posts.append(post)
        await asyncio.sleep(self.rng.choice((0.2, 1.0, 3.0, 10.0, 2.0 * self.world.limits.lease)))
        if dies:
            self.killed_at = self.world.clock()
        outcomes: tuple[Status, ...] = ("succeeded", "refused", "failed", "unknown")
        outcome = self.rng.choices(outcomes, (6, 1, 2, 1))[0]
        post.ended_at, post.outcome = self.world.clock(), outcome
        await self._gate()
        return outcome


@dataclass(frozen=True)
class _Lock:
    handle: Handle
    path: str

    def release(self) -> None:
        self.handle.locked.discard(self.path)


async def _never() -> None:
    await asyncio.get_running_loop().create_future()


def image_of(attempt_id: str) -> bytes:
    return f"the picture of {attempt_id}".encode()


# -- a writer -----------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Writer:
    """What generation does with a ledger, and nothing more."""

    handle: Handle
    wanted: list[str]
    workers: int
    stopping: bool = False

    async def run(self) -> None:
        handle, world = self.handle, self.handle.world
        serial = iter(range(1000))
        handle.ledger = ledger = world.ledger(
            store=handle,
            shelf=handle,
            identity=Identity(run_id=handle.name, root_run_id=handle.name),
            now=world.now,
            token=lambda: f"{next(serial)}-{handle.name}",
            limits=world.limits,
        )
        try:
            await self._generate(ledger)
        except StorageError as error:
            handle.error = error
        handle.ended = True
        handle.locked.clear()

    async def _generate(self, ledger: Ledger) -> None:
        handle = self.handle
        books = await ledger.start()
        known = {row["fingerprint"]: row for row in await read_rows(handle, books)}
        done = {f for f, row in known.items() if row.get("status") in ("succeeded", "refused")}
        todo = [each for each in self.wanted if each not in done]
        if not todo and not handle.calm:
            return
        await ledger.open()
        try:
            results = await asyncio.gather(
                *(self._work(ledger, todo) for _ in range(self.workers)), return_exceptions=True
            )
        finally:
            await ledger.close()
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _work(self, ledger: Ledger, todo: list[str]) -> None:
        try:
            while todo and not self.stopping:
                await self._produce(ledger, todo.pop())
        except StorageError:
            self.stopping = True
            raise

    async def _produce(self, ledger: Ledger, fingerprint: str) -> None:
        handle = self.handle
        for attempt in range(40):
            if self.stopping:
                return
            intended_at = handle.world.clock()
            intent = {"fingerprint": fingerprint, "run_id": handle.name, "attempt": attempt}
            decision = await ledger.intend(intent)
            if isinstance(decision, AlreadyThere):
                handle.reported.append(decision.path)
                return
            if isinstance(decision, Contended):
                row = await ledger.outcome_of(decision.rival)
                if row is not None and row["status"] == "succeeded":
                    handle.reported.append(row["image_path"])
                if row is not None and row["status"] in ("succeeded", "refused"):
                    return
                continue
            if await self._ask(ledger, decision, fingerprint, intended_at) in (
                "succeeded",
                "refused",
                "unknown",
            ):
                return
        handle.world.break_rule("hang", f"{handle.name} tries {fingerprint} for ever")

    async def _ask(
        self, ledger: Ledger, granted: Granted, fingerprint: str, intended_at: float
    ) -> Status:
        handle, attempt_id = self.handle, granted.attempt_id
        outcome = await handle.post(attempt_id, fingerprint, intended_at=intended_at)
        columns: Row = {"status": outcome}
        if outcome == "succeeded":
            path = f"images/{fingerprint}/{attempt_id}"
            columns["image_path"] = path
            for tried in range(6):
                try:
                    await handle.put(path, image_of(attempt_id))
                    break
                except StorageError:
                    if tried == 5:
                        await ledger.settle(attempt_id, {"status": "failed"})
                        raise
                await asyncio.sleep(0.5)
        await ledger.settle(attempt_id, columns)
        handle.settled[attempt_id] = outcome
        if outcome == "succeeded":
            handle.reported.append(columns["image_path"])
        return outcome


# -- readers, and the parts' encoding -------------------------------------------------------------

PARQUET_MAGIC = b"PAR1"


def encode_light(rows: Iterable[Row]) -> bytes:
    """A part as lines of JSON: the protocol does not care, and it takes a hundredth of the time."""
    return "\n".join(encode_values(row) for row in rows).encode()


def decode_either(data: bytes) -> list[Row]:
    if data.startswith(PARQUET_MAGIC):
        return decode_part(data)
    return [decode_values(line) for line in data.decode().splitlines()]


@contextlib.contextmanager
def light_parts(light: bool):  # noqa: ANN201  # a generator of nothing
    """Have the ledger write parts as JSON, for schedules by the thousand."""
    real = ledger_module.encode_part, ledger_module.decode_part
    ledger_module.encode_part = encode_light if light else encode_part
    ledger_module.decode_part = decode_either
    try:
        yield
    finally:
        ledger_module.encode_part, ledger_module.decode_part = real


async def read_rows(store: ObjectStore, books: Books) -> list[Row]:
    """All that the books hold, as a report would read it."""
    rows = list(books.open_rows)
    for path in books.parts:
        rows += decode_either(await store.get(path))
    return rows


async def watch(world: World, reader: Handle) -> None:
    """Read the books again and again; complain when an attempt is doubled or vanishes."""
    seen: set[str] = set()
    pause = world.rng.choice((0.2, 1.0, 5.0))
    while True:
        books = await world.read_books(reader)
        # Whole at any time, so they need no calls of their own.
        published = [row for path in books.parts for row in world.rows_of(path)]
        ids = [row["attempt_id"] for row in (*books.open_rows, *published)]
        if len(ids) != len(set(ids)):
            world.break_rule("reader", f"twice: {sorted(i for i in ids if ids.count(i) > 1)}")
        if missing := seen - set(ids):
            world.break_rule("reader", f"vanished: {sorted(missing)}")
        seen |= {
            row["attempt_id"] for row in (*books.open_rows, *published) if row.get("status")
        }
        await asyncio.sleep(pause * reader.rng.random())
        pause *= 1.1


# -- a schedule -------------------------------------------------------------------------------------


def run_schedule(seed: int, **options: Any) -> World:
    """One schedule, the same every time. Look at `violations`."""
    world = World(seed, **options)
    with light_parts(seed % 50 != 0):
        run_virtual(_live(world))
    return world


async def _live(world: World) -> None:
    rng = world.rng
    fingerprints = [f"f{n}" for n in range(rng.choice((1, 2, 3, 5)))]
    tasks = [
        asyncio.create_task(_begin(world, number, fingerprints))
        for number in range(rng.choice((2, 2, 3)))
    ]
    reader = Handle(world=world, name="reader", calm=True)
    watching = asyncio.create_task(watch(world, reader))
    try:
        await _ended(world, tasks)
        watching.cancel()
        await asyncio.sleep(2 * world.limits.lease + 100)
        assert not world.landing
        last = Handle(world=world, name="last", calm=True)
        world.writers.append(last)
        await Writer(handle=last, wanted=[], workers=0).run()
        judge(world)
    finally:
        world.over = True
    with contextlib.suppress(asyncio.CancelledError):
        await watching


async def _begin(world: World, number: int, fingerprints: list[str]) -> None:
    rng = world.rng
    fate = rng.random()
    handle = Handle(
        world=world,
        name=f"w{number}",
        dies_at=rng.randrange(1, 120) if fate < 0.35 else None,
        pauses_at=rng.randrange(1, 80) if 0.3 < fate < 0.55 else None,
        pause_seconds=world.limits.lease * rng.choice((0.4, 1.3, 3.0)),
    )
    world.writers.append(handle)
    wanted = rng.sample(fingerprints, rng.randint(1, len(fingerprints)))
    writer = Writer(handle=handle, wanted=wanted, workers=rng.randint(1, 3))
    await asyncio.sleep(rng.choice((0.0, 0.0, 0.05, 1.0, 20.0, 2.0 * world.limits.lease)))
    await writer.run()


async def _ended(world: World, tasks: "list[asyncio.Task[None]]") -> None:
    """Until every writer has ended or died."""
    deadline = world.clock() + 200 * world.limits.lease
    while True:
        waiting = [
            task
            for task, handle in _by_task(world, tasks)
            if not task.done() and (handle is None or handle.killed_at is None)
        ]
        if not waiting:
            break
        if world.clock() > deadline:
            world.break_rule("hang", "a writer does not end")
            break
        await asyncio.wait(waiting, timeout=world.limits.lease)
    for task in tasks:
        if task.done():
            task.result()


def _by_task(
    world: World, tasks: "list[asyncio.Task[None]]"
) -> "list[tuple[asyncio.Task[None], Handle | None]]":
    by_name = {handle.name: handle for handle in world.writers}
    return [(task, by_name.get(f"w{number}")) for number, task in enumerate(tasks)]


# -- judgement --------------------------------------------------------------------------------------


def judge(world: World) -> None:
    rows = [
        row
        for path in world.objects
        if path.startswith(PARTS_FOLDER)
        for row in world.rows_of(path)
    ]
    _judge_rows(world, rows)
    _judge_money(world)
    for path in world.objects:
        if not (path.startswith(("images/", f"{PARTS_FOLDER}/")) or path.endswith(".sealed")):
            world.break_rule("litter", path)
    for handle in world.writers:
        for path in handle.reported:
            _judge_image(world, path, f"reported by {handle.name}")
        if handle.error is not None and not (
            handle.presumed_dead or world.moods.error or handle.killed_at is not None
        ):
            world.break_rule("refused", f"{handle.name}: {handle.error!r}")


def _judge_rows(world: World, rows: list[Row]) -> None:
    by_attempt: dict[str, list[Row]] = {}
    for row in rows:
        by_attempt.setdefault(row["attempt_id"], []).append(row)
    for attempt_id, found in by_attempt.items():
        if len(found) > 1:
            world.break_rule("row", f"{attempt_id} has {len(found)} rows")
    posts = {post.attempt_id: post for post in world.posts}
    if len(posts) != len(world.posts):
        world.break_rule("row", "an attempt was sent twice")
    for attempt_id in posts:
        if attempt_id not in by_attempt:
            world.break_rule("row", f"{attempt_id} was sent and has none")
    for attempt_id, (row, *_) in by_attempt.items():
        owner = world.owner(attempt_id.rpartition("-")[0])
        if attempt_id not in posts and (
            row["status"] != "unknown" or owner is None or not owner.may_leave_phantoms
        ):
            world.break_rule("phantom", f"{attempt_id} is {row['status']} and was never sent")
        if row["status"] == "succeeded":
            _judge_image(world, row["image_path"], f"of row {attempt_id}")
    for handle in world.writers:
        for attempt_id, status in handle.settled.items():
            found = [row["status"] for row in by_attempt.get(attempt_id, [])]
            if found != [status]:
                world.break_rule("settled", f"{attempt_id} as {status}, recorded as {found}")
    for attempt_id, at in (each for images in world.images.values() for each in images):
        owner = world.owner(attempt_id.rpartition("-")[0])
        (row, *_) = by_attempt.get(attempt_id, [{}])
        died = owner is not None and owner.killed_at is not None and at < owner.killed_at
        if died and owner and not owner.presumed_dead and row.get("status") != "succeeded":
            world.break_rule("recovered", f"{attempt_id} is {row.get('status')}")


def _judge_image(world: World, path: str, whose: str) -> None:
    data, _ = world.objects.get(path, (b"", 0.0))
    if data != image_of(path.rpartition("/")[2]):
        world.break_rule("image", f"{path} {whose} is {data!r}")


def _judge_money(world: World) -> None:
    for later in world.posts:
        for attempt_id, placed_at in world.images.get(later.fingerprint, []):
            if placed_at < later.intended_at:
                world.break_rule("bought", f"{later.attempt_id}, though {attempt_id} was there")
        for earlier in world.posts:
            if earlier is later or earlier.writer.presumed_dead or later.writer.presumed_dead:
                continue
            if earlier.fingerprint != later.fingerprint:
                continue
            if earlier.at <= later.at < _busy_until(world, earlier):
                world.break_rule("twice", f"{later.attempt_id} beside {earlier.attempt_id}")


def _busy_until(world: World, post: Post) -> float:
    """When others may ask again: the image is in place, there is an outcome, or the writer died."""
    placed = [at for attempt, at in world.images.get(post.fingerprint, []) if attempt == post.attempt_id]
    end = max(post.ended_at, min(placed, default=post.ended_at))
    return min(end, post.writer.killed_at or end)


__all__ = ["JOURNAL_FOLDER", "RULES", "World", "parse_listing", "run_schedule"]
