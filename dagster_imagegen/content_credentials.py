"""Verifying an image's content credentials (C2PA). Needs the extra `c2pa`; imports no Dagster."""

import io
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from dagster_imagegen.engine.errors import ConfigurationError
from dagster_imagegen.engine.image_header import sniff

State: TypeAlias = Literal["none", "invalid", "valid", "trusted"]
_STATES: dict[str, State] = {"Valid": "valid", "Trusted": "trusted"}


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """What the credentials of an image are worth.

    `valid`: they are of exactly these bytes, and signed by whom they name. `trusted`: the signer is
    on a trust list too, of which there is none by default. `problem` says why they are invalid.
    """

    state: State
    signer: str | None = None
    problem: str | None = None


def verify_credentials(image: bytes) -> Credentials:
    """Verify the content credentials in an image's bytes. Asks nothing of any network.

    Raises `ConfigurationError` if the extra is not installed.
    """
    c2pa = _library()
    settings = {"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False}}
    media_type = f"image/{sniff(image) or 'unknown'}".replace("image/svg", "image/svg+xml")
    try:
        with c2pa.Context(c2pa.Settings.from_dict(settings)) as context:
            reader = c2pa.Reader.try_create(media_type, io.BytesIO(image), context=context)
            if reader is None:
                return Credentials(state="none")
            with reader:
                return _credentials(reader)
    except c2pa.C2paError as error:
        if isinstance(error, c2pa.C2paError.ManifestNotFound):
            return Credentials(state="none")
        return Credentials(state="invalid", problem=str(error))


def _credentials(reader: Any) -> Credentials:
    state = _STATES.get(reader.get_validation_state(), "invalid")
    active: dict[str, Any] = reader.get_active_manifest() or {}
    signed: dict[str, Any] = active.get("signature_info") or {}
    found: dict[str, Any] = reader.get_validation_results() or {}
    failures = (found.get("activeManifest") or {}).get("failure") or []
    codes = ", ".join(dict.fromkeys(str(each.get("code")) for each in failures))
    return Credentials(
        state=state,
        signer=signed.get("common_name") or signed.get("issuer"),
        problem=(codes or "no reason is known") if state == "invalid" else None,
    )


def _library() -> Any:
    try:
        import c2pa  # noqa: PLC0415  # an extra  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigurationError(
            "content credentials are verified by a package: pip install 'dagster-imagegen[c2pa]' "
            f"({error})"
        ) from error
    return c2pa
