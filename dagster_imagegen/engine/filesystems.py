"""Opening fsspec's filesystems, and the part of their interface that is used here."""

import hashlib
import os
import re
from collections.abc import Mapping
from typing import Any, Protocol, cast
from urllib.parse import quote

from fsspec.core import url_to_fs  # pyright: ignore[reportUnknownVariableType]  # fsspec has no types

from dagster_imagegen.engine.errors import ConfigurationError, holds_password, without_secrets

EXTRAS = {
    "s3": "s3",
    "s3a": "s3",
    "gs": "gcs",
    "gcs": "gcs",
    "abfs": "azure",
    "abfss": "azure",
    "az": "azure",
    "adl": "azure",
}
NARROWS = {"s3", "gs", "gcs"}
"""Schemes whose `find` can leave the rest of a folder out of its listing."""

PART_CHARACTERS_MAX = 200
"""Of text as one part of a path. File names end at 255 bytes."""


class FileSystem(Protocol):
    """The part of fsspec's interface that is used here; fsspec itself carries no types."""

    protocol: str | tuple[str, ...]

    def pipe_file(self, path: str, value: bytes, **options: Any) -> None:
        """Write a file."""
        ...

    def cat_file(self, path: str, **options: Any) -> bytes:
        """Read a file."""
        ...

    def find(self, path: str, *, detail: bool, **options: Any) -> dict[str, dict[str, Any]]:
        """List files, recursively."""
        ...

    def ls(self, path: str, *, detail: bool, **options: Any) -> list[dict[str, Any]]:
        """List what is in a folder itself."""
        ...

    def cp_file(self, path1: str, path2: str, **options: Any) -> None:
        """Copy a file; an object store does so without sending its bytes here."""
        ...

    def rm_file(self, path: str, **options: Any) -> None:
        """Delete a file."""
        ...

    def unstrip_protocol(self, name: str) -> str:
        """A path with its scheme."""
        ...


SECRET_IN_QUERY = re.compile(
    r"^[^?]*\?(.*&)?[\w-]*(sig|signature|token|key|secret|password|credential)=", re.IGNORECASE
)
"""As in the signed address of a container: `?sv=2024&sig=…`."""
_APART: dict[FileSystem, FileSystem] = {}
"""By the filesystem that fsspec gives to everybody, which is equal for equal options."""


def open_filesystem(
    uri: str, options: Mapping[str, Any], *, apart: bool = False
) -> tuple[FileSystem, str]:
    """The filesystem of an address, and the path in it.

    With `apart` it has connections of its own. Raises `ConfigurationError` for a scheme that
    nothing here can serve.
    """
    scheme = uri.split("://", 1)[0] if "://" in uri else "file"
    shown = without_secrets(uri)
    if holds_password(uri) or SECRET_IN_QUERY.search(uri):
        # Not shown here either: addresses are in logs, metadata and image tables.
        raise ConfigurationError(
            f"the storage {shown!r} must not contain a password or key, which logs and tables "
            'would show; set it in storage_options, e.g. {"key": …, "secret": …}'
        )
    try:
        if scheme in ("s3", "s3a"):
            options = _checksums_when_required(options)
        filesystem, path = _url_to_fs(uri, options)
    except ImportError as error:
        extra = EXTRAS.get(scheme)
        install = (
            f"pip install 'dagster-imagegen[{extra}]'"
            if extra
            else f"install the fsspec implementation of {scheme}://"
        )
        raise ConfigurationError(
            f"storage {shown!r} needs a package: {install} ({error})"
        ) from error
    except ValueError as error:
        raise ConfigurationError(
            f"storage {shown!r}: no filesystem serves {scheme}://; use a folder, s3://, gs://, "
            f"abfs:// or another scheme of fsspec ({error})"
        ) from error
    if apart and not EXTRAS.keys().isdisjoint(protocols_of(filesystem)):
        filesystem = _APART.setdefault(filesystem, _another(filesystem))
    return filesystem, path


def _url_to_fs(uri: str, options: Mapping[str, Any]) -> tuple[FileSystem, str]:
    try:
        # A cached listing would hide what another writer wrote.
        opened: Any = url_to_fs(uri, **{"use_listings_cache": False, **options})
    except TypeError as error:
        if "use_listings_cache" not in str(error):
            raise
        # sftp:// and others hand what they are given to their client; they cache no listings.
        opened = url_to_fs(uri, **options)
    return cast("tuple[FileSystem, str]", opened)


def _another(filesystem: Any) -> FileSystem:
    """The same without fsspec's cache. Kept for ever, as fsspec does: sessions are not closed."""
    return type(filesystem)(
        *filesystem.storage_args, **{**filesystem.storage_options, "skip_instance_cache": True}
    )


def same_kind(uri: str, other: str) -> bool:
    """Whether two addresses are of one kind of store, so that the same options open both."""
    one, two = (each.split("://", 1)[0] if "://" in each else "file" for each in (uri, other))
    return EXTRAS.get(one, one) == EXTRAS.get(two, two)


def escaped(text: str) -> str:
    """Text as one part of a path: `a/b` as `a%2Fb`, `..` as `%2E%2E`.

    Only letters and digits of ASCII, `-`, `_` and `~` stand for themselves, so that nothing leads
    out of the folder or means something to a filesystem. Long text is cut, with its digest.
    """
    text = quote(text, safe="", errors="surrogatepass").replace(".", "%2E") or "%"
    if len(text) <= PART_CHARACTERS_MAX:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"{text[: PART_CHARACTERS_MAX - len(digest)]}~{digest}"


def protocols_of(filesystem: FileSystem) -> set[str]:
    """The schemes that a filesystem serves."""
    names = filesystem.protocol
    return {names} if isinstance(names, str) else set(names)


def _checksums_when_required(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """For a store with an address of its own: no checksums but those that S3's protocol requires.

    botocore sends CRCs with every upload since 1.36, which stores other than AWS's, DigitalOcean
    Spaces among them, did not all understand. What the user sets takes precedence.
    """
    client: Mapping[str, Any] = options.get("client_kwargs") or {}
    named = (os.environ.get(name) for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"))
    if not any((options.get("endpoint_url"), client.get("endpoint_url"), *named)):
        return options
    from botocore.config import Config  # noqa: PLC0415  # comes with s3fs, which is an extra

    names = ("request_checksum_calculation", "response_checksum_validation")
    known = {name: "when_required" for name in names if name in Config.OPTION_DEFAULTS}
    return {**options, "config_kwargs": {**known, **(options.get("config_kwargs") or {})}}
