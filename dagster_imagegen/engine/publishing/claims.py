"""Claims names for an asset before anything is sent: one name, one image."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from dagster_imagegen.engine.errors import PromptTableError, RowProblem
from dagster_imagegen.engine.publishing.manifests import Manifest, Manifests, without_extension
from dagster_imagegen.engine.publishing.names import (
    ImageName,
    Names,
    Partition,
    collisions,
    key_of,
)
from dagster_imagegen.engine.storage import TEMPORARY_FOLDER, Storage

OWN_FOLDERS = ("images", "usage", "_journal", "_adopted", "_published", TEMPORARY_FOLDER)
"""Of a storage. Nothing is published into them."""


class Claims:
    """Claims names below the folder of `target`, though not in the own folders of `storages`."""

    def __init__(
        self, manifests: Manifests, *, target: Storage, storages: Collection[Storage]
    ) -> None:
        self._manifests = manifests
        self._target = target
        own = [storage.uri(folder) for storage in storages for folder in OWN_FOLDERS]
        self._reserved = tuple(f"{key_of(each)}/" for each in own)

    async def claim(self, names: Names, *, keep: bool = True) -> None:
        """Make sure that each name is that of one image alone, before anything is sent.

        With `keep` the names are claimed as well: before the others' manifests are read, so that
        of two assets that begin at the same time at least one sees the other. Without, nothing is
        written.

        Raises:
            PromptTableError: Names meet one another, or those of another asset or partition.
        """
        _raise_any([*collisions(names), *self._in_own_folders(names)])
        before = await self._manifests.own(names)
        claims = {key: self._claimed(old, names[key]) for key, old in before.items()}
        changed = [key for key, each in claims.items() if keep and each != before[key]]
        await self._manifests.save(claims[key] for key in changed)
        others = await self._manifests.others(names)
        try:
            _raise_any(self._taken(names, claims, others))
        except PromptTableError:
            await self._manifests.restore(before[key] for key in changed)
            raise

    def _claimed(self, old: Manifest, names: Iterable[ImageName]) -> Manifest:
        published = set(map(without_extension, old.files))
        return replace(old, claimed=tuple(sorted({*map(self._address, names)} - published)))

    def _in_own_folders(self, names: Names) -> list[RowProblem]:
        return [
            _problem(each, "is in a folder that the storage has for itself")
            for each in _each(names)
            if key_of(self._address(each)).startswith(self._reserved)
        ]

    def _taken(
        self, names: Names, claims: Mapping[Partition, Manifest], others: Iterable[Manifest]
    ) -> list[RowProblem]:
        """Names that another asset or partition has published or claimed.

        What is published precedes a claim, which may be of a run that is about to be refused.
        """
        published: dict[str, Manifest] = {}
        claimed: dict[str, Manifest] = {}
        for other in others:
            published |= {key_of(without_extension(address)): other for address in other.files}
            claimed |= {key_of(address): other for address in other.claimed}
        new = {key_of(address) for each in claims.values() for address in each.claimed}
        problems: list[RowProblem] = []
        for each in _each(names):
            key = key_of(self._address(each))
            if other := published.get(key) or (claimed.get(key) if key in new else None):
                remedy = (
                    f"change the template, or what it names; if {other.owner} does not exist any "
                    f"more, delete {other.path} in the storage"
                )
                problems.append(_problem(each, f"is published by {other.owner}", remedy))
        return problems

    def _address(self, name: ImageName) -> str:
        return self._target.uri(name.text)


def _each(names: Names) -> Iterator[ImageName]:
    return (each for of_partition in names.values() for each in of_partition)


def _raise_any(problems: Sequence[RowProblem]) -> None:
    if problems:
        raise PromptTableError(problems)


def _problem(name: ImageName, why: str, remedy: str = "choose another folder") -> RowProblem:
    return RowProblem(
        position=name.position,
        prompt_id=name.prompt_id,
        column="publish",
        value=name.text,
        rule=f"must make a name of its own for each image, and this one {why}",
        remedy=remedy,
    )
