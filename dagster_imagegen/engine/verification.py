"""Comparing all that a storage holds with its record, without changing anything."""

import asyncio
import hashlib
import io
import re
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, TypeAlias

import pyarrow as pa

from dagster_imagegen.engine.adopted import FOLDER as ADOPTED_FOLDER
from dagster_imagegen.engine.errors import (
    ConfigurationError,
    DamagedJournal,
    StorageError,
    abbreviate,
)
from dagster_imagegen.engine.image_header import read_header
from dagster_imagegen.engine.images import FOLDER as IMAGES_FOLDER
from dagster_imagegen.engine.images import Images, is_image_path
from dagster_imagegen.engine.publishing.copies import CopyKind, PublishedCopies
from dagster_imagegen.engine.record.journal import (
    JOURNAL_FOLDER,
    JOURNAL_VERSION,
    JournalListing,
    journal_id_of,
    object_path,
    parse_listing,
)
from dagster_imagegen.engine.record.parts import PARTS_FOLDER, journal_of, part_path
from dagster_imagegen.engine.record.reader import read_journal, read_journal_header
from dagster_imagegen.engine.record.schema import SCHEMA, VERSION_KEY, check_version
from dagster_imagegen.engine.storage import TEMPORARY_FOLDER, Storage, StoredObject

_RecordKind: TypeAlias = Literal[
    "missing_image",
    "damaged_image",
    "orphaned_image",
    "spilled_image",
    "abandoned_journal",
    "torn_journal",
    "damaged_part",
    "misplaced_part",
    "stale_temporary",
    "foreign_file",
]
Kind: TypeAlias = _RecordKind | CopyKind
_COPY_AGAIN = "materialize its asset: that copies the image again"
REMEDIES: Mapping[Kind, str] = {
    "missing_image": "restore it from a backup, or let a run redo what is missing",
    "damaged_image": "--repair moves it to _damaged/; restore it from a backup",
    "orphaned_image": "--repair adopts it, so that it is not bought again",
    "spilled_image": "--repair stores it",
    "abandoned_journal": "--repair publishes it",
    "torn_journal": "--repair publishes what is readable, and moves the journal to _damaged/",
    "damaged_part": "--repair moves it to _damaged/, and adopts its images; or restore it",
    "misplaced_part": "--repair moves it to where its rows count",
    "stale_temporary": "--repair deletes it",
    "foreign_file": "move it elsewhere; it is left alone and does no harm",
    "missing_copy": _COPY_AGAIN,
    "changed_copy": f"delete it, then {_COPY_AGAIN}",
    "unmarked_copy": f"delete it, then {_COPY_AGAIN}; find out what writes it without its marks",
    "unreadable_copy": "check the address, and whether the credentials are valid and may read it",
}
HARMLESS: Collection[Kind] = ("foreign_file",)
AT_ONCE = 16
"""Objects that are read at a time."""
TASKS_AT_ONCE = 1_000
STALE_SECONDS = 3600.0
PIXELS_MAX, JPEG_SCANS_MAX = 40_000_000, 32
"""An image with more of either is not decoded: small files can take gigabytes and minutes."""
CLOCKS_DIFFER_SECONDS = 60.0

_TEMPORARY = re.compile(rf"{TEMPORARY_FOLDER}/[^/]+\.tmp")
_COLUMNS = ["attempt_id", "status", "image_path", "image_sha256", "image_size_bytes"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is not as it should be; `path` is relative to the storage, and for a
    published copy its address."""

    kind: Kind
    path: str
    detail: str

    @property
    def remedy(self) -> str:
        """What to do about it."""
        return REMEDIES[self.kind]

    @property
    def is_harmless(self) -> bool:
        """Whether everything works in spite of it."""
        return self.kind in HARMLESS


@dataclass(kw_only=True)
class Verified:
    """What was compared, and what was found. With `images_read` below `images`, sizes only."""

    images: int = 0
    images_read: int = 0
    rows: int = 0
    parts: int = 0
    open_journals: int = 0
    copies: int | None = None
    findings: list[Finding] = field(default_factory=list[Finding])

    def add(self, kind: Kind, path: str, detail: str) -> None:
        """Note a finding."""
        self.findings.append(Finding(kind=kind, path=path, detail=detail))

    @property
    def harm(self) -> Sequence[Finding]:
        """What should be repaired."""
        return [each for each in self.findings if not each.is_harmless]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Expected:
    """An image that should be there."""

    sha256: str | None
    size_bytes: int | None
    told_by: str


OpenCopies: TypeAlias = Callable[[Callable[[str], Awaitable[bytes | None]]], PublishedCopies]
"""Gets what reads the stored image with a sha256."""


class Verification:
    """One comparison of a storage with its record.

    Args:
        storage: where the images are.
        usage: where the record is.
        images: for what is spilled and adopted.
        now: Unix time, for what is stale.
        lease_seconds: how long a silent writer counts as alive.
        sound: the paths of images that are known to be whole, which are not read; it is added to.
        on_read: called with how many images were read, and how many there are.
        copies: opens the published copies, to be compared as well.
    """

    def __init__(
        self,
        *,
        storage: Storage,
        usage: Storage,
        images: Images,
        now: float,
        lease_seconds: float,
        sound: set[str],
        on_read: Callable[[int, int], None] = lambda _done, _total: None,
        copies: OpenCopies | None = None,
    ) -> None:
        self._copies = copies
        self._storage = storage
        self._usage = usage
        self._images = images
        self._now = now
        self._lease_seconds = lease_seconds
        self._sound = sound
        self._on_read = on_read
        self._at_once = asyncio.Semaphore(AT_ONCE)
        self._found = Verified()
        self._expected: dict[str, _Expected] = {}
        self._by_sha256: dict[str | None, str] | None = None
        """The paths of `_expected`, made for the first copy that has changed: mostly none has."""
        self._pending: set[str] = set()
        """The ids of attempts without a result: their images are waited for."""

    async def run(self, *, reads_images: bool) -> Verified:
        """Compare everything; without `reads_images` of images only the sizes.

        Raises `ConfigurationError` for a usage table of a newer version.
        """
        # Images first: whatever is listed is on record by the time that the record is read.
        listed = await self._storage.list(IMAGES_FOLDER)
        await self._check_journals()
        await self._check_parts()
        for file in (await self._images.adopted_files()).values():
            self._expected.setdefault(
                file.path,
                _Expected(sha256=file.sha256, size_bytes=file.size_bytes, told_by=ADOPTED_FOLDER),
            )
        await self._check_images(listed, reads_images=reads_images)
        for path in await self._images.spilled():
            self._found.add("spilled_image", path, "on this machine's disk, not in the storage")
        await self._check_temporaries()
        if self._copies is not None:
            await self._check_copies(self._copies(self._image_with), reads=reads_images)
        self._found.findings.sort(key=lambda each: (each.kind, each.path))
        return self._found

    # -- the record ------------------------------------------------------------------------------

    async def _check_journals(self) -> None:
        entries = await self._usage.list(JOURNAL_FOLDER)
        listing = parse_listing(entries.values())
        known = {object_path(jid, seq) for jid, each in listing.items() for seq in each.objects}
        known |= {path for each in listing.values() for path in each.label_paths}
        for path in entries.keys() - known:
            if not path.endswith(".sealed"):
                self._found.add("foreign_file", path, "is not an object of a journal")
        for jid, found in listing.items():
            if found.objects or found.labels:
                await self._check_journal(jid, found)

    async def _check_journal(self, jid: str, found: JournalListing) -> None:
        folder = f"{JOURNAL_FOLDER}/{jid}"
        header = await read_journal_header(self._usage, jid)
        if header is not None and header.schema > JOURNAL_VERSION:
            # Not damaged, even if it cannot be read here: it would be torn apart.
            raise ConfigurationError(
                f"{self._usage.uri(folder)} has schema {header.schema} of the record, and this "
                f"version of dagster-imagegen knows {JOURNAL_VERSION}; upgrade it"
            )
        is_dead = await self._is_dead(jid, found)
        try:
            content = await read_journal(self._usage, jid, found)
        except DamagedJournal as error:
            kind: Kind = "torn_journal"
            detail = str(error).partition(". It may")[0].removeprefix("damaged journal: ")
            self._found.add(kind, folder, detail if is_dead else f"{detail}; its writer is alive")
            return
        self._found.open_journals += not is_dead
        self._pending |= content.pending.keys()
        for attempt in content.attempts.values():
            self._found.rows += attempt.result is not None
            if attempt.image is not None and attempt.status == "succeeded":
                image = attempt.image
                self._expect(image.path, image.sha256, image.size_bytes, told_by=folder)
        if is_dead:
            self._found.add(
                "abandoned_journal",
                folder,
                f"its writer is gone; {len(content.attempts):,} requests, "
                f"{len(content.pending):,} of them without a result",
            )

    async def _is_dead(self, jid: str, found: JournalListing) -> bool:
        """Whether its writer is gone, as far as a reader can tell."""
        if found.sealed or 0 not in found.objects:
            return True
        locked = await self._usage.is_locked(object_path(jid, 0))
        if locked is not None:
            return not locked
        silence = self._now - (found.newest or self._now)
        return silence > self._lease_seconds + CLOCKS_DIFFER_SECONDS

    async def _check_parts(self) -> None:
        listed = await self._usage.list(PARTS_FOLDER)
        await asyncio.gather(*(self._check_part(path) for path in sorted(listed)))

    async def _check_part(self, path: str) -> None:
        import pyarrow.parquet as pq  # noqa: PLC0415  # takes long to load

        async with self._at_once:
            data = await self._usage.get(path)
        jid = journal_of(path)
        try:
            table = pq.read_table(io.BytesIO(data), page_checksum_verification=True)
            table.validate(full=True)
        except (pa.ArrowException, OSError, ValueError) as error:
            if jid is None:
                self._found.add("foreign_file", path, "is not a part of the usage table")
            else:
                why = "is empty" if not data else f"is no whole Parquet file: {error}"
                self._found.add("damaged_part", path, f"{why} ({len(data):,} bytes)")
            return
        metadata: Mapping[bytes, bytes] = table.schema.metadata or {}
        if VERSION_KEY not in metadata and not set(_COLUMNS) <= set(table.column_names):
            self._found.add("foreign_file", path, "is a table of something else")
            return
        try:
            check_version(metadata, of=self._usage.uri(path))
        except StorageError:
            why = f"has a garbled schema version: {abbreviate(metadata[VERSION_KEY])}"
            self._found.add("damaged_part", path, why)
            return
        self._count_part(path, jid, _columns(table))

    def _count_part(self, path: str, jid: str | None, rows: list[dict[str, Any]]) -> None:
        place = home_of(rows)
        if place is not None and place != path and (jid is None or part_path(jid) != path):
            self._found.add("misplaced_part", path, f"belongs to {place}; its rows may not count")
            if jid is None:
                return
        self._found.parts += 1
        self._found.rows += len(rows)
        for row in rows:
            if row["status"] == "succeeded" and row["image_path"]:
                self._expect(
                    row["image_path"], row["image_sha256"], row["image_size_bytes"], told_by=path
                )

    def _expect(
        self, path: str, sha256: str | None, size_bytes: int | None, *, told_by: str
    ) -> None:
        self._expected[path] = _Expected(sha256=sha256, size_bytes=size_bytes, told_by=told_by)

    # -- the images ------------------------------------------------------------------------------

    async def _check_images(
        self, listed: Mapping[str, StoredObject], *, reads_images: bool
    ) -> None:
        self._found.images = len(listed)
        # An image that was requested again is not missed.
        there = {fingerprint_of(path) for path in listed}
        missed = {
            p for p in self._expected.keys() - listed.keys() if fingerprint_of(p) not in there
        }
        # A path that is none of ours may lead anywhere, and is not looked for.
        foreign = {path for path in missed if not is_image_path(path)}
        gone = foreign | await self._images.missing(missed - foreign)
        for path in gone:
            self._found.add(
                "missing_image", path, f"is on record in {self._expected[path].told_by}"
            )
        entries = iter(listed.values())
        # Not all at once: each is a task, and a storage can have millions.
        while some := list(islice(entries, TASKS_AT_ONCE)):
            await asyncio.gather(
                *(self._check_image(each, reads_images=reads_images) for each in some)
            )

    async def _check_image(self, entry: StoredObject, *, reads_images: bool) -> None:
        path = entry.path
        if not is_image_path(path):
            self._found.add("foreign_file", path, "has no name of an image")
            return
        expected = self._expected.get(path)
        if expected is None:
            await self._check_orphan(path)
            return
        if expected.size_bytes not in (None, entry.size_bytes):
            detail = f"has {entry.size_bytes:,} bytes instead of {expected.size_bytes:,}"
            self._found.add("damaged_image", path, detail)
            return
        if reads_images and expected.sha256 is not None and path not in self._sound:
            digest = hashlib.sha256(await self._read(path)).hexdigest()
            if digest != expected.sha256:
                detail = f"has sha256 {digest[:12]}… instead of {expected.sha256[:12]}…"
                self._found.add("damaged_image", path, detail)
            else:
                self._sound.add(path)

    async def _check_orphan(self, path: str) -> None:
        if path.split(".")[-2] in self._pending:
            return
        problem = await asyncio.to_thread(problem_of, await self._read(path))
        if problem is None:
            self._found.add("orphaned_image", path, "no request on record brought it")
        else:
            self._found.add("damaged_image", path, f"{problem}, and is not on record")

    async def _read(self, path: str) -> bytes:
        async with self._at_once:
            data = await self._storage.get(path)
        self._found.images_read += 1
        self._on_read(self._found.images_read, self._found.images)
        return data

    # -- the published copies --------------------------------------------------------------------

    async def _check_copies(self, copies: PublishedCopies, *, reads: bool) -> None:
        async for each in copies.problems(reads=reads):
            self._found.add(each.kind, each.address, each.detail)
        self._found.copies = copies.count

    async def _image_with(self, sha256: str) -> bytes | None:
        if self._by_sha256 is None:
            self._by_sha256 = {each.sha256: path for path, each in self._expected.items()}
        path = self._by_sha256.get(sha256)
        if path is None or not is_image_path(path):
            return None
        try:
            data = await self._storage.get(path)
        except FileNotFoundError:
            return None
        return data if hashlib.sha256(data).hexdigest() == sha256 else None

    # -- what is left ----------------------------------------------------------------------------

    async def _check_temporaries(self) -> None:
        for store in {
            self._storage.uri(""): self._storage,
            self._usage.uri(""): self._usage,
        }.values():
            for entry in (await store.list(TEMPORARY_FOLDER)).values():
                path, age = entry.path, self._now - (entry.modified or self._now)
                if _TEMPORARY.fullmatch(path) is None:
                    self._found.add("foreign_file", path, "is not named like a temporary")
                elif age > STALE_SECONDS:
                    self._found.add(
                        "stale_temporary", path, f"was left {age / 3600:,.0f} hours ago"
                    )


def fingerprint_of(path: str) -> str:
    """The fingerprint in the name of an image."""
    return path.rpartition("/")[2].partition(".")[0]


def home_of(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Where the part with these rows belongs; None where they do not say."""
    journals = {journal_id_of(row["attempt_id"] or "") for row in rows}
    place = part_path(journals.pop()) if len(journals) == 1 else ""
    return place if journal_of(place) is not None else None


def problem_of(data: bytes) -> str | None:
    """Why bytes are no whole image; None if they are, or nobody here can tell."""
    from PIL import Image, features  # noqa: PLC0415  # for orphans alone; takes a moment to load

    header = read_header(data)
    if header is None:
        return f"is not an image of a known format ({len(data):,} bytes)"
    if header.format == "png" and b"IEND" not in data:  # Pillow does not miss it.
        return f"is cut short ({len(data):,} bytes)"
    pixels = (header.width or 0) * (header.height or 0)
    scans = data.count(b"\xff\xda") if header.format == "jpeg" else 1
    cannot = header.format in ("avif", "webp") and not features.check(header.format)
    if header.format == "svg" or cannot or pixels > PIXELS_MAX or scans > JPEG_SCANS_MAX:
        return None
    try:
        # By default it tries every format that it knows.
        with Image.open(io.BytesIO(data), formats=[header.format.upper()]) as image:
            image.load()
    except Exception as error:  # noqa: BLE001  # Pillow raises many kinds for damaged files
        return f"cannot be decoded ({type(error).__name__})"
    return None


def _columns(table: pa.Table) -> list[dict[str, Any]]:
    """Those that are compared; an older part may lack some."""
    there = [name for name in _COLUMNS if name in table.column_names]
    rows = table.select(there).to_pylist()
    empty = dict.fromkeys(name for name in _COLUMNS if name in SCHEMA.names)
    return [{**empty, **row} for row in rows]
