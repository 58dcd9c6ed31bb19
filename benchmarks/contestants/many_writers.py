"""Writers of one storage at once, each of which requests images of its own.

    python many_writers.py 20 --images 20 --in-flight 1 --seconds-per-call 0.05

The record is the real one, on a store in memory that counts its calls and takes so long for each.
Nothing is sent: an image is there after some seconds.
"""

import argparse
import asyncio
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone

from dagster_imagegen.engine.attempt import (
    NO_IDENTITY,
    Attempt,
    Identity,
    ImageFile,
    RequestRecord,
    Result,
)
from dagster_imagegen.engine.record import Granted, RecordWriter
from dagster_imagegen.engine.storage import StoredObject, WriterLock

SECONDS_PER_IMAGE = 2.0
PROMPT = "a red enamel mug on a wooden table, " * 40

_tokens = itertools.count()


@dataclass(kw_only=True)
class CountingStore:
    """An object store in memory; `calls` counts, a call takes `seconds_per_call`."""

    seconds_per_call: float = 0.0
    objects: dict[str, tuple[bytes, StoredObject]] = field(
        default_factory=dict[str, tuple[bytes, StoredObject]]
    )
    calls: Counter[str] = field(default_factory=Counter[str])
    begins: datetime = field(default_factory=lambda: datetime.now(timezone.utc))

    def now(self) -> datetime:
        """The time of day, by the clock of the event loop."""
        return self.begins + timedelta(seconds=asyncio.get_running_loop().time())

    async def _call(self, kind: str, path: str) -> None:
        what = "label" if path.endswith(".label") else path.partition("/")[0]
        self.calls[f"{kind} {what}"] += 1
        await asyncio.sleep(self.seconds_per_call)

    async def put(self, path: str, data: bytes) -> None:
        """Write one object."""
        await self._call("put", path)
        at = self.now().timestamp()
        self.objects[path] = (data, StoredObject(path=path, size_bytes=len(data), modified=at))

    async def put_locked(self, path: str, data: bytes) -> WriterLock | None:
        """`put`; like object stores, it has no locks."""
        await self.put(path, data)
        return None

    async def is_locked(self, path: str) -> bool | None:
        """It cannot tell, and needs no call for that."""
        return None

    async def get(self, path: str) -> bytes:
        """The object's bytes."""
        await self._call("get", path)
        if path not in self.objects:
            raise FileNotFoundError(path)
        return self.objects[path][0]

    async def list(self, folder: str, *, prefix: str = "") -> dict[str, StoredObject]:
        """Every object below a folder."""
        await self._call("list", folder)
        wanted = f"{folder}/{prefix}"
        found = {path: each for path, (_, each) in self.objects.items()}
        return {path: each for path, each in found.items() if path.startswith(wanted)}

    async def folders(self, folder: str) -> Sequence[str]:
        """The names of the folders in a folder."""
        await self._call("list", folder)
        below = (path[len(folder) + 1 :] for path in self.objects if path.startswith(f"{folder}/"))
        return sorted({path.split("/")[0] for path in below if "/" in path})

    async def delete(self, paths: Iterable[str]) -> None:
        """Delete objects in one call."""
        await self._call("delete", "")
        for path in paths:
            self.objects.pop(path, None)


class _Images:
    """The images in a store, as `images/<fingerprint>/<attempt>`."""

    def __init__(self, store: CountingStore) -> None:
        self._store = store

    async def find(self, fingerprint: str) -> Mapping[str, str]:
        listed = await self._store.list(f"images/{fingerprint}")
        return {path.rpartition("/")[2]: path for path in listed}

    async def recover(self, attempt: Attempt, path: str) -> Result:
        return Result(status="succeeded", image=ImageFile(path=path))

    def lost(self, attempt: Attempt) -> Result:
        return Result(status="unknown")


def new_writer(store: CountingStore, name: str) -> RecordWriter:
    """A writer that has not begun."""
    return RecordWriter(
        store=store,
        images=_Images(store),
        identity=Identity(run_id=name, root_run_id=name),
        now=store.now,
        token=lambda: f"{next(_tokens):06d}",
    )


async def write(store: CountingStore, name: str, *, images: int, in_flight: int) -> None:
    """One pass: plan, request so many images, publish."""
    writer = new_writer(store, name)
    await writer.start()
    await writer.open()
    todo = [f"{name}-{number}" for number in range(images)]

    async def work() -> None:
        while todo:
            await _make(writer, store, todo.pop())

    await asyncio.gather(*(work() for _ in range(in_flight)))
    await writer.close()


async def _make(writer: RecordWriter, store: CountingStore, fingerprint: str) -> None:
    request = RequestRecord(
        fingerprint=fingerprint, prompt=PROMPT, parameters={"model": "gpt-image-1"}
    )
    decision = await writer.intend(Attempt(attempt_id="", identity=NO_IDENTITY, request=request))
    if not isinstance(decision, Granted):
        raise RuntimeError(f"{fingerprint} is nobody else's, but {decision}")  # noqa: TRY004
    await asyncio.sleep(SECONDS_PER_IMAGE)
    path = f"images/{fingerprint}/{decision.attempt_id}"
    await store.put(path, b"image")
    image = ImageFile(path=path)
    await writer.settle(decision.attempt_id, Result(status="succeeded", image=image))


async def many_writers(
    writers: int, *, images: int, in_flight: int, seconds_per_call: float
) -> Mapping[str, float]:
    """What the writers did with their store, for each image."""
    store = CountingStore(seconds_per_call=seconds_per_call)

    async def one(number: int) -> None:
        await asyncio.sleep(number * SECONDS_PER_IMAGE / writers)
        await write(store, f"w{number}", images=images, in_flight=in_flight)

    began = asyncio.get_running_loop().time()
    await asyncio.gather(*map(one, range(writers)))
    made = writers * images
    return {
        "journal_objects_read": store.calls["get _journal"] / made,
        "journal_objects_written": store.calls["put _journal"] / made,
        "labels_written": store.calls["put label"] / made,
        "listings": (store.calls["list _journal"] + store.calls["list images"]) / made,
        "seconds": asyncio.get_running_loop().time() - began,
    }


async def beside_others(
    others: int, *, images: int, in_flight: int, seconds_per_call: float, busy_seconds: float
) -> Mapping[str, float]:
    """How long a pass takes beside others that have been at it for so long."""
    store = CountingStore(seconds_per_call=seconds_per_call)
    busy = [
        asyncio.create_task(write(store, f"other{number}", images=10_000, in_flight=in_flight))
        for number in range(others)
    ]
    await asyncio.sleep(busy_seconds)
    began = asyncio.get_running_loop().time()
    await write(store, "last", images=images, in_flight=in_flight)
    seconds = asyncio.get_running_loop().time() - began
    for task in busy:
        task.cancel()
    await asyncio.gather(*busy, return_exceptions=True)
    return {"seconds": seconds}


def main() -> None:
    """Print the numbers as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("writers", type=int)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--in-flight", type=int, default=1)
    parser.add_argument("--seconds-per-call", type=float, default=0.05)
    parser.add_argument(
        "--beside-busy-seconds", type=float, help="one more, beside those who began so long ago"
    )
    args = parser.parse_args()
    if args.beside_busy_seconds is None:
        counted = many_writers(
            args.writers,
            images=args.images,
            in_flight=args.in_flight,
            seconds_per_call=args.seconds_per_call,
        )
    else:
        counted = beside_others(
            args.writers,
            images=args.images,
            in_flight=args.in_flight,
            seconds_per_call=args.seconds_per_call,
            busy_seconds=args.beside_busy_seconds,
        )
    print(json.dumps(asyncio.run(counted)))  # noqa: T201  # the program's answer


if __name__ == "__main__":
    main()
