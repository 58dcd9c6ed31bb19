"""Publishes what a step has made: names before it sends, copies after, and what Dagster shows."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import dagster as dg
from typing_extensions import Self

from dagster_imagegen.engine.errors import StorageError
from dagster_imagegen.engine.image_table import with_published
from dagster_imagegen.engine.prompts.rows import PromptTable
from dagster_imagegen.engine.publishing.names import Names, Partition, Publication
from dagster_imagegen.engine.publishing.publisher import Published
from dagster_imagegen.execution import Execution
from dagster_imagegen.metadata import FinishedPass

SHOWN = 20
"""Stale files that are named; the manifest has them all."""


@dataclass(frozen=True, kw_only=True)
class Publishing:
    """The images of one run, each with the name that it is published under."""

    execution: Execution
    publication: Publication
    names: Names

    @classmethod
    def claim(
        cls,
        execution: Execution,
        publication: Publication | None,
        tables: Mapping[Partition, PromptTable],
        *,
        keep: bool,
    ) -> Self | None:
        """Claim the names of all images, before anything is sent; None if nothing is published.

        Without `keep` they are checked only. Raises `ConfigurationError` for names that cannot be.
        """
        if publication is None:
            return None
        names = execution.engine.claim_names(
            publication, tables, asset=_asset(execution), keep=keep
        )
        return cls(execution=execution, publication=publication, names=names)

    def publish(self, done: Mapping[Partition, FinishedPass]) -> dict[Partition, FinishedPass]:
        """Publish the images of a pass; the image tables get their column of addresses.

        Raises `StorageError`, which says that no image is lost.
        """
        try:
            published = self.execution.engine.publish(
                self.publication,
                self.names,
                {key: each.images for key, each in done.items()},
                asset=_asset(self.execution),
            )
        except StorageError as error:
            raise StorageError(
                f"not all images could be published: {error}. All of them are in storage; the "
                "next run publishes the rest, and requests none of them again",
                can_pass=error.can_pass,
            ) from error
        self._log(published)
        return {
            key: replace(
                each,
                images=with_published(each.images, published[key].addresses),
                publishing=self._metadata(published[key]),
            )
            for key, each in done.items()
        }

    def _log(self, published: Mapping[Partition, Published]) -> None:
        name, log = self.execution.name, self.execution.log
        there = sum(_count(each) for each in published.values())
        copied = sum(each.copied for each in published.values())
        log.info(f"{name}: {there:,} images in {self.publication.folder}, {copied:,} copied now")
        removed = [address for each in published.values() for address in each.removed]
        if removed:
            log.info(f"{name}: {len(removed):,} stale files removed: {_listed(removed)}")
        stale = [address for each in published.values() for address in each.stale]
        if stale:
            log.warning(
                f"{name}: {len(stale):,} published files are wanted by no row any more: "
                f"{_listed(stale)}"
            )

    def _metadata(self, published: Published) -> dict[str, Any]:
        stale, removed = published.stale, published.removed
        return {
            "imagegen/published": _count(published),
            "imagegen/published_now": published.copied,
            "imagegen/published_to": dg.MetadataValue.path(self.publication.folder),
            **({"imagegen/stale": len(stale)} if stale else {}),
            **({"imagegen/stale_files": dg.MetadataValue.text(_listed(stale))} if stale else {}),
            **({"imagegen/stale_removed": len(removed)} if removed else {}),
        }


def _asset(execution: Execution) -> str:
    return execution.identity.asset_key or ""


def _count(published: Published) -> int:
    return sum(address is not None for address in published.addresses)


def _listed(addresses: "tuple[str, ...] | list[str]") -> str:
    more = len(addresses) - SHOWN
    return "\n".join([*addresses[:SHOWN], *([f"and {more:,} more"] if more > 0 else [])])
