"""Objects on real filesystems: whole or not there, listed, locked, refused with a remedy."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.spec import AbstractFileSystem

from dagster_imagegen.engine.errors import ConfigurationError, StorageError
from dagster_imagegen.engine.record.parts import part_path, read_rows
from dagster_imagegen.engine.storage import Storage, WriterLock

HOLD_A_LOCK = """
import asyncio, sys
from dagster_imagegen.engine.storage import Storage
storage = Storage(sys.argv[1])
lock = asyncio.run(storage.put_locked("_journal/j/000000.jsonl", b"header"))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture(params=["local", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """One storage of each kind, at an address with a space and an accent in it."""
    uri = str(tmp_path / "my café") if request.param == "local" else f"memory://{tmp_path.name} é"
    return Storage(uri)


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_an_object_is_read_as_it_was_written(storage: Storage):
    """What was put is got, byte for byte, and a second put replaces it."""
    data = bytes(range(256)) * 5000
    asyncio.run(storage.put("images/3f/a.png", data))
    assert asyncio.run(storage.get("images/3f/a.png")) == data
    asyncio.run(storage.put("images/3f/a.png", b"new"))
    assert asyncio.run(storage.get("images/3f/a.png")) == b"new"


def test_what_is_not_there_is_file_not_found(storage: Storage):
    """A missing object is `FileNotFoundError`, which is no failure of the store."""
    with pytest.raises(FileNotFoundError):
        asyncio.run(storage.get("images/3f/nothing.png"))


def test_a_listing_shows_what_lies_below(storage: Storage):
    """Folders are listed to the bottom, with sizes and times, and narrowed by a prefix."""
    for path in ("_journal/j1/000000.jsonl", "_journal/j1/000001.jsonl", "_journal/j2.sealed"):
        asyncio.run(storage.put(path, b"12345"))
    asyncio.run(storage.put("_journals/j3/000000.jsonl", b"a folder of a longer name"))
    listed = asyncio.run(storage.list("_journal"))
    assert sorted(listed) == [
        "_journal/j1/000000.jsonl",
        "_journal/j1/000001.jsonl",
        "_journal/j2.sealed",
    ]
    assert all(entry.path == path for path, entry in listed.items())
    assert {entry.size_bytes for entry in listed.values()} == {5}
    assert all(entry.modified is not None for entry in listed.values())
    assert sorted(asyncio.run(storage.list("_journal/j1"))) == sorted(listed)[:2]
    assert list(asyncio.run(storage.list("_journal", prefix="j2"))) == ["_journal/j2.sealed"]
    assert list(asyncio.run(storage.list("_journal/j1", prefix="000001"))) == [sorted(listed)[1]]


def test_a_folder_that_is_not_there_lists_nothing(storage: Storage):
    """Nothing written yet is an empty listing, on every filesystem."""
    assert asyncio.run(storage.list("usage")) == {}
    assert asyncio.run(storage.list("usage", prefix="x")) == {}


def test_deleting_may_be_repeated(storage: Storage):
    """Objects go; one that is gone already is no error."""
    asyncio.run(storage.put("_journal/j/000000.jsonl", b"x"))
    asyncio.run(storage.put("_journal/k/000000.jsonl", b"x"))
    for _ in range(2):
        asyncio.run(storage.delete(["_journal/j/000000.jsonl", "_journal/j/000001.jsonl"]))
    assert list(asyncio.run(storage.list("_journal"))) == ["_journal/k/000000.jsonl"]


@pytest.mark.parametrize("path", ["../outside", "images/../../outside", "images/./a", ".."])
def test_a_path_cannot_leave_the_storage(storage: Storage, path: str):
    """A path with `..` in it is refused, whatever is done with it."""
    for call in (storage.put(path, b"x"), storage.get(path), storage.delete([path])):
        with pytest.raises(StorageError, match="is not a path below"):
            asyncio.run(call)


def test_local_files_are_whole_and_alone(tmp_path: Path):
    """No temporary stays, and none is ever in a folder that readers take for theirs."""
    storage = Storage(str(tmp_path / "s"))
    asyncio.run(storage.put("usage/date=2026-11-22/j.parquet", b"part"))
    assert files(tmp_path / "s") == ["usage/date=2026-11-22/j.parquet"]
    (tmp_path / "s/usage/date=2026-11-22/k.parquet").mkdir()  # so that the rename fails
    with pytest.raises(StorageError, match=r"cannot write .*k\.parquet"):
        asyncio.run(storage.put("usage/date=2026-11-22/k.parquet", b"part"))
    assert files(tmp_path / "s") == ["usage/date=2026-11-22/j.parquet"]


def test_a_journal_s_folder_goes_with_its_objects(tmp_path: Path):
    """Deleting the last object of a local folder removes the folder too."""
    storage = Storage(str(tmp_path))
    asyncio.run(storage.put("_journal/j/000000.jsonl", b"x"))
    asyncio.run(storage.delete(["_journal/j/000000.jsonl"]))
    assert not (tmp_path / "_journal/j").exists()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path):
    """A file where a folder should be: the error names the address and the reason."""
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(StorageError, match=r"cannot write .*taken/images/a\.png: \w+"):
        asyncio.run(Storage(str(tmp_path / "taken")).put("images/a.png", b"x"))


def test_an_unknown_scheme_is_refused_with_those_that_are_known():
    """`s4://` is an error at once, and says what would be understood."""
    with pytest.raises(ConfigurationError, match=r"no filesystem serves s4://.*s3://, gs://"):
        Storage("s4://bucket/images")


def test_a_missing_package_is_named_by_its_extra(monkeypatch: pytest.MonkeyPatch):
    """A scheme whose package is not installed says what to install."""
    monkeypatch.setitem(sys.modules, "gcsfs", None)  # Python's own way of saying: not there.
    with pytest.raises(ConfigurationError, match=r"pip install 'dagster-imagegen\[gcs\]'"):
        Storage("gs://bucket/images")


def test_addresses_can_be_opened_elsewhere(storage: Storage):
    """An object's URI opens with plain fsspec; on local disk it is a plain absolute path."""
    import fsspec

    asyncio.run(storage.put("images/a.png", b"bytes"))
    with fsspec.open(storage.uri("images/a.png"), "rb") as file:
        assert file.read() == b"bytes"  # pyright: ignore[reportAttributeAccessIssue]  # untyped
    if storage.is_local:
        assert Path(storage.uri("images/a.png")).is_absolute()


def test_a_relative_folder_stays_where_it_was_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Changing the working directory later does not move the storage."""
    monkeypatch.chdir(tmp_path)
    storage = Storage("pictures")
    monkeypatch.chdir("/")
    asyncio.run(storage.put("images/a.png", b"x"))
    assert files(tmp_path) == ["pictures/images/a.png"]


@pytest.mark.skipif(sys.platform == "win32", reason="no flock there")
def test_a_lock_lives_as_long_as_its_process(tmp_path: Path):
    """Another process's lock is seen while it lives, and is free once it is killed."""
    storage = Storage(str(tmp_path))
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD_A_LOCK, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        header = "_journal/j/000000.jsonl"
        assert asyncio.run(storage.is_locked(header)) is True
        assert asyncio.run(storage.get(header)) == b"header"
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    assert asyncio.run(storage.is_locked(header)) is False


@pytest.mark.skipif(sys.platform == "win32", reason="no flock there")
def test_a_lock_is_seen_within_its_own_process(tmp_path: Path):
    """Two writers in one process see each other's locks; releasing one frees it."""
    storage = Storage(str(tmp_path))

    async def main() -> tuple[WriterLock | None, bool | None, bool | None]:
        lock = await storage.put_locked("j/000000.jsonl", b"x")
        held = await storage.is_locked("j/000000.jsonl")
        assert lock is not None
        lock.release()
        return lock, held, await storage.is_locked("j/000000.jsonl")

    _, held, after = asyncio.run(main())
    assert (held, after) == (True, False)


def test_no_lock_can_be_told_where_there_is_none(tmp_path: Path):
    """Memory has no locks, and a file that is gone tells nothing."""
    memory = Storage(f"memory://{tmp_path.name}-locks")
    assert asyncio.run(memory.put_locked("j/000000.jsonl", b"x")) is None
    assert asyncio.run(memory.is_locked("j/000000.jsonl")) is None
    assert asyncio.run(Storage(str(tmp_path)).is_locked("j/000000.jsonl")) is None


@pytest.mark.parametrize(
    ("config", "sent"), [({}, False), ({"request_checksum_calculation": "when_supported"}, True)]
)
def test_other_stores_get_no_checksums_that_they_may_not_know(
    config: dict[str, Any], sent: bool
) -> None:
    """An S3 store with an address of its own gets what the protocol requires, unless told."""
    received: list[list[str]] = []

    class Store(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # which knows the 100-continue that is waited for

        def do_PUT(self) -> None:
            received.append([name.lower() for name in self.headers])
            self.rfile.read(int(self.headers.get("content-length") or 0))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Store) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        options = {
            "key": "k",
            "secret": "s",
            "endpoint_url": f"http://127.0.0.1:{server.server_port}",
            "skip_instance_cache": True,
            "config_kwargs": config,
        }
        storage = Storage("s3://pictures/shop", options)
        asyncio.run(storage.put("images/a.png", b"bytes"))
        server.shutdown()
    (headers,) = received
    assert any("checksum" in name for name in headers) == sent


class Stalled(AbstractFileSystem):
    """A store that takes a call and never answers, until the test is over."""

    protocol = "stalled"
    cachable = False
    over = threading.Event()

    def _never(self, *_args: Any, **_options: Any) -> Any:
        self.over.wait()
        raise OSError("the test is over")

    cat_file = find = pipe_file = open = info = _never


@pytest.fixture
def stalled() -> Iterator[Storage]:
    fsspec.register_implementation("stalled", Stalled, clobber=True)
    Stalled.over.clear()
    yield Storage("stalled://bucket/shop", deadline_seconds=0.05)
    Stalled.over.set()


CALLS: dict[str, Callable[[Storage], object]] = {
    "get": lambda storage: storage.get_now("images/a.png"),
    "put": lambda storage: storage.put_now("images/a.png", b"x"),
    "list": lambda storage: storage.list_now("images"),
    "read_rows": lambda storage: read_rows([part_path("20261122T1-a")], [], storage=storage),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_no_reader_waits_for_good(stalled: Storage, call: Callable[[Storage], object]):
    """Calls of a thread that waits have a deadline as well, and so has the usage table."""
    with pytest.raises(StorageError, match=r"stalled://bucket/shop/.*no answer in 0\.05"):
        call(stalled)


class Strict(MemoryFileSystem):
    """Hands all that it is given to its client, as fsspec's `sftp://` does."""

    protocol = "strict"
    cachable = False

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.user = _connect(**options)


def _connect(*, user: str) -> str:
    return user


def test_a_client_that_knows_no_listings_cache_is_given_none():
    """What the user sets gets there; what it does not understand is named."""
    fsspec.register_implementation("strict", Strict, clobber=True)
    storage = Storage("strict://shop", {"user": "anna"})
    assert storage.filesystem.user == "anna"  # pyright: ignore[reportAttributeAccessIssue]  # ours
    asyncio.run(storage.put("images/a.png", b"x"))
    assert asyncio.run(storage.get("images/a.png")) == b"x"
    assert list(asyncio.run(storage.list("images"))) == ["images/a.png"]
    with pytest.raises(TypeError, match="passwort"):
        Storage("strict://shop", {"user": "anna", "passwort": "x"})
