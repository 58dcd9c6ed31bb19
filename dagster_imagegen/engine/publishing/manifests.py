"""What an asset has published: a manifest for each of its partitions, beside the usage table.

A manifest is written before files are copied, so that no published file is unknown, and after it.
What a killed process was copying is copied again. It may be deleted: then all files are copied once
more, and nobody knows the stale ones of before.
"""

import asyncio
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

from dagster_imagegen.engine.errors import StorageError
from dagster_imagegen.engine.filesystems import escaped
from dagster_imagegen.engine.patience import PatientStore
from dagster_imagegen.engine.publishing.names import Partition

FOLDER = "_published"
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class FileFacts:
    """What a published file holds."""

    sha256: str | None
    size_bytes: int | None


Files: TypeAlias = Mapping[str, FileFacts]
"""By address."""


def _no_files() -> Files:
    return {}


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The addresses of one asset's partition.

    `claimed` are those, without extension, of rows that have no published file yet. `pending`
    files were about to be copied, and may be there. No row wants the `stale` ones any more.
    """

    asset: str
    partition: Partition
    claimed: tuple[str, ...] = ()
    published: Files = field(default_factory=_no_files)
    pending: Files = field(default_factory=_no_files)
    stale: Files = field(default_factory=_no_files)

    @property
    def path(self) -> str:
        """Where it is kept."""
        asset = f"{FOLDER}/{escaped(self.asset)}"
        return asset + (".json" if self.partition is None else f"/{escaped(self.partition)}.json")

    @property
    def is_empty(self) -> bool:
        """Whether it says nothing."""
        return not (self.claimed or self.published or self.pending or self.stale)

    @property
    def files(self) -> Files:
        """Those that its rows want, there or about to be."""
        return {**self.published, **self.pending}

    def sha256s(self, address: str) -> set[str | None]:
        """What may have been published at an address."""
        kinds = (self.published, self.pending, self.stale)
        return {files[address].sha256 for files in kinds if address in files}

    @property
    def owner(self) -> str:
        """What errors call it."""
        return self.asset if self.partition is None else f"{self.asset}, partition {self.partition}"

    def encode(self) -> bytes:
        """As it is stored."""
        return json.dumps({"version": VERSION, **asdict(self)}, sort_keys=True).encode()


def without_extension(address: str) -> str:
    """The address as it is claimed before the image's format is known."""
    return address.rpartition(".")[0]


class Manifests:
    """Those of a storage, as one asset sees them.

    Raises `StorageError` for one that cannot be read.
    """

    def __init__(self, store: PatientStore, asset: str) -> None:
        self._store = store
        self._asset = asset

    async def own(self, partitions: Iterable[Partition]) -> dict[Partition, Manifest]:
        """The asset's of these partitions; an empty one where there is none."""
        empty = [Manifest(asset=self._asset, partition=each) for each in partitions]
        read = await asyncio.gather(*(self._read(each.path) for each in empty))
        return {each.partition: found or each for each, found in zip(empty, read, strict=True)}

    async def others(self, partitions: Iterable[Partition]) -> list[Manifest]:
        """All but the asset's of these partitions. There can be thousands."""
        own = {Manifest(asset=self._asset, partition=each).path for each in partitions}
        return [each for each in await self.all() if each.path not in own]

    async def all(self) -> list[Manifest]:
        """Those of all assets."""
        read = await asyncio.gather(*(self._read(path) for path in await self._store.list(FOLDER)))
        return [each for each in read if each is not None]

    async def save(self, manifests: Iterable[Manifest]) -> None:
        """Write some, each whole."""
        await asyncio.gather(*(self._store.put(each.path, each.encode()) for each in manifests))

    async def restore(self, before: Iterable[Manifest]) -> None:
        """Put back what `own` gave."""
        before = list(before)
        await self.save(each for each in before if not each.is_empty)
        await self._store.delete(each.path for each in before if each.is_empty)

    async def _read(self, path: str) -> Manifest | None:
        try:
            return _decoded(json.loads(await self._store.get(path)), path)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise StorageError(
                f"{path} in the storage is not a manifest that this version can read ({error!r}); "
                "update dagster_imagegen, or delete the file: then its asset publishes all files "
                "once more",
                can_pass=False,
            ) from error


def _decoded(data: Any, path: str) -> Manifest:
    if data["version"] != VERSION:
        raise ValueError(f"version {data['version']}")
    files = {
        kind: {str(name): FileFacts(**facts) for name, facts in data[kind].items()}
        for kind in ("published", "pending", "stale")
    }
    claimed = tuple(str(each) for each in data["claimed"])
    manifest = Manifest(asset=data["asset"], partition=data["partition"], claimed=claimed, **files)
    if manifest.path != path:
        raise ValueError(f"it is that of {manifest.owner}")
    return manifest
