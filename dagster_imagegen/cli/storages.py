"""Whether a place is a storage of this package, and one that this version can read."""

import contextlib
import io

import pyarrow as pa
import pyarrow.parquet as pq

from dagster_imagegen.engine.adopted import FOLDER as ADOPTED_FOLDER
from dagster_imagegen.engine.engine import Engine
from dagster_imagegen.engine.errors import ConfigurationError, StorageError
from dagster_imagegen.engine.images import FOLDER as IMAGES_FOLDER
from dagster_imagegen.engine.record.journal import JOURNAL_FOLDER
from dagster_imagegen.engine.record.parts import PARTS_FOLDER, journal_of
from dagster_imagegen.engine.record.schema import check_version
from dagster_imagegen.engine.storage import TEMPORARY_FOLDER, Storage

OURS = {PARTS_FOLDER, IMAGES_FOLDER, JOURNAL_FOLDER, ADOPTED_FOLDER}


def check_storage(engine: Engine, *, may_be_new: bool) -> None:
    """Raise `ConfigurationError` for a place that is no storage, or one of a newer version."""
    usage = engine.usage_storage
    # Temporaries tell nothing: many a folder has some, and a first run that failed leaves them.
    there = _names(usage) - {TEMPORARY_FOLDER}
    if not OURS & there and (there or not may_be_new):
        found = f"it holds {', '.join(sorted(there)[:3])}" if there else "it is empty or absent"
        raise ConfigurationError(
            f"{usage.uri('')} is no storage of dagster-imagegen: it has neither {PARTS_FOLDER}/ "
            f"nor {JOURNAL_FOLDER}/ nor {IMAGES_FOLDER}/, and {found}; correct --storage or --usage"
        )
    if PARTS_FOLDER in there:
        parts = sorted(each for each in usage.list_now(PARTS_FOLDER) if journal_of(each))
        # The newest tells: whoever wrote it had the newest version so far, or this one.
        for path in parts[-1:]:
            _check_schema(usage, path)


def _check_schema(usage: Storage, path: str) -> None:
    """Raise `ConfigurationError` if a newer version has written a part."""
    try:
        schema = pq.read_schema(io.BytesIO(usage.get_now(path)))
    except (pa.ArrowException, OSError, ValueError):
        return  # Damaged: whoever reads its rows says so.
    with contextlib.suppress(StorageError):  # Garbled, which is damage as well.
        check_version(schema.metadata, of=usage.uri(path))


def _names(storage: Storage) -> set[str]:
    """What is in the root of a storage."""
    root = storage.full_path("")

    def names() -> set[str]:
        try:
            found = storage.filesystem.ls(root, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return set()
        return {each["name"].rstrip("/").rpartition("/")[2] for each in found}

    return storage.run_now("list", "", names)
