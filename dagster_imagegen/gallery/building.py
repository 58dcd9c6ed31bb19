"""`build_gallery`: writes the site of a gallery into the storage of its images."""

import hashlib
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from importlib.resources import files

from dagster_imagegen.engine.engine import Engine
from dagster_imagegen.engine.errors import ConfigurationError
from dagster_imagegen.engine.storage import Storage
from dagster_imagegen.gallery import thumbnails
from dagster_imagegen.gallery.entries import COLUMNS, Entries, Entry
from dagster_imagegen.gallery.index import (
    Chunk,
    chunk_made_at,
    chunks,
    index_row,
    manifest,
    shows_record,
)
from dagster_imagegen.gallery.thumbnails import Thumbnails

FOLDER = "gallery"
MAX_ENTRIES = 50_000
"""A browser holds the index of as many with ease; of far more, it does not."""

SITE = {
    "index.html": "text/html; charset=utf-8",
    "gallery.css": "text/css; charset=utf-8",
    "gallery.js": "text/javascript; charset=utf-8",
}
SCRIPT = SITE["gallery.js"]
KEPT = timedelta(hours=6)
"""How long chunks stay that the manifest does not name: another build may be about to name them,
and a page that was opened before may still load them."""


@dataclass(frozen=True, kw_only=True)
class BuiltGallery:
    """A gallery that was written.

    `uri` is that of its page. `entries` are the images that were requested, and `images` those of
    them that there are; of these, `without_thumbnail` have none. `left_out` are rows of the usage
    table about images beyond the limit.
    """

    uri: str
    entries: int
    images: int
    thumbnails_made: int
    thumbnails_kept: int
    without_thumbnail: int
    left_out: int


def build_gallery(
    engine: Engine,
    *,
    asset_key: str | None = None,
    hide_record: bool | None = None,
    max_entries: int = MAX_ENTRIES,
    now: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> BuiltGallery:
    """Write the gallery of an asset, or of the whole storage, into the storage of the images.

    Sends nothing and changes nothing else. Thumbnails that are there are kept, so that a rebuild
    costs only what is new. Everything it links to is relative, so that it works from a folder as
    from a store's address.

    Args:
        asset_key: As usage rows name it, e.g. `shop/hero`.
        hide_record: Leave prompts, costs and the texts of errors out. It must be said for a
            storage whose usage table is kept elsewhere, because images there may be public.
        max_entries: The newest so many images are shown.
        on_progress: Called with how many entries are done, and of how many.

    Raises `ConfigurationError` for arguments that cannot work, and `StorageError`.
    """
    hidden = _is_hidden(engine, hide_record)
    if max_entries < 1:
        raise ConfigurationError(f"max_entries must be at least 1, got {max_entries}")
    found = Entries(limit=max_entries)
    entries = found.read(engine.usage.backwards(asset_key=asset_key, columns=COLUMNS))
    if asset_key is not None and not entries:
        raise ConfigurationError(
            f"the usage table {engine.usage_uri} has no rows of the asset {asset_key!r}; "
            "an asset key is written as a/b"
        )
    site = _Site(engine.image_storage, asset_key)
    thumbs = Thumbnails(site.storage, FOLDER)
    made = list(thumbs.ensure([each.row for each in entries], on_progress=on_progress))
    rows = [
        index_row(entry, path, hidden=hidden) for entry, path in zip(entries, made, strict=True)
    ]
    made_at = now()
    site.write(
        list(chunks(rows, made_at=made_at, hidden=hidden)),
        {
            "title": asset_key or "Gallery",
            "made_at": made_at.isoformat(),
            "entries": len(entries),
            "left_out": found.left_out,
            "hidden": hidden,
            "statuses": _statuses(entries),
            "root": site.root,
            "thumbs": f"{site.to_gallery}{thumbnails.FOLDER}/",
        },
        made_at,
    )
    images = sum(each.row["image_path"] is not None for each in entries)
    return BuiltGallery(
        uri=site.storage.uri(f"{site.folder}/index.html"),
        entries=len(entries),
        images=images,
        thumbnails_made=thumbs.made,
        thumbnails_kept=thumbs.kept,
        without_thumbnail=images - thumbs.made - thumbs.kept,
        left_out=found.left_out,
    )


def gallery_folder(asset_key: str | None) -> str:
    """Where a gallery is below the storage. Keys that look alike in a path do not meet."""
    if asset_key is None:
        return FOLDER
    readable = re.sub(r"[^A-Za-z0-9_]+", "-", asset_key)[:80]
    return f"{FOLDER}/{readable}-{hashlib.sha256(asset_key.encode()).hexdigest()[:8]}"


class _Site:
    """The files of one gallery, except its thumbnails, which all galleries of a storage share."""

    def __init__(self, storage: Storage, asset_key: str | None) -> None:
        self.storage = storage
        self.folder = gallery_folder(asset_key)
        self.to_gallery = "" if asset_key is None else "../"
        self.root = f"{self.to_gallery}../"
        """From the page to the storage."""

    def write(self, parts: Collection[Chunk], facts: dict[str, object], made_at: datetime) -> None:
        """Write what the manifest names before the manifest, then remove old chunks.

        A build writes all its chunks and names no others, and removes none of the last hours. So of
        two builds at once, whichever writes its manifest last, all that it names is there.
        """
        data = f"{self.folder}/data"
        for each in parts:
            self.storage.put_now(f"{data}/{each.name}.js", each.script, media_type=SCRIPT)
        for name, media_type in SITE.items():
            content = files("dagster_imagegen.gallery").joinpath("site").joinpath(name).read_bytes()
            self.storage.put_now(f"{self.folder}/{name}", content, media_type=media_type)
        self.storage.put_now(f"{data}/manifest.js", manifest(list(parts), facts), media_type=SCRIPT)
        there = self.storage.list_now(data)
        old = {path for path in there if _is_old(path, made_at)}
        if facts["hidden"]:  # What is hidden from now on stays in no file of an earlier build.
            old |= {path for path in there if shows_record(path.rpartition("/")[2])}
        self.storage.delete_now(sorted(old))


def _is_old(path: str, now: datetime) -> bool:
    made_at = chunk_made_at(path.rpartition("/")[2])
    return made_at is not None and made_at < now - KEPT


def _is_hidden(engine: Engine, hide_record: bool | None) -> bool:
    apart = engine.settings.usage_uri is not None
    if apart and hide_record is None:
        raise ConfigurationError(
            "the usage table of this storage is kept elsewhere (usage_uri), and a gallery beside "
            "the images would show prompts and costs to whoever can read them; set hide_record to "
            "True to leave them out, or to False to show them"
        )
    return bool(hide_record)


def _statuses(entries: Collection[Entry]) -> list[str]:
    return sorted({str(each.row["status"]) for each in entries})
