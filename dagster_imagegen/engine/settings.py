"""The engine's settings."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dagster_imagegen.engine.endpoint.retries import RetryPolicy
from dagster_imagegen.engine.money.budget import Budget
from dagster_imagegen.engine.money.price_list import ModelPrice
from dagster_imagegen.engine.record import Limits


def spill_folder() -> str:
    """The folder for spilled images: in the user's state folder (XDG Base Directory).

    A process without a home folder, as in some containers, spills to the temporary folder.
    """
    state = os.environ.get("XDG_STATE_HOME")
    if not state:
        try:
            state = Path.home() / ".local" / "state"
        except RuntimeError:  # Neither HOME is set, nor does the system know this user.
            state = tempfile.gettempdir()
    return str(Path(state) / "dagster-imagegen" / "unsaved")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Where to send requests, where to write, and how fast. `ImageGenResource` describes each."""

    base_url: str = field(repr=False)  # Its query can contain a key.
    endpoint_id: str
    model: str
    storage_uri: str
    api_key: str | None = field(default=None, repr=False)
    storage_options: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)
    usage_uri: str | None = None
    publish_storage_options: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)
    timeout_seconds: float = 600.0
    patience_seconds: float = 600.0
    max_concurrency: int = 64
    requests_per_minute: float | None = None
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    prices: Mapping[str, ModelPrice | Mapping[str, object]] = field(
        default_factory=dict[str, "ModelPrice | Mapping[str, object]"]
    )
    extra_headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    extra_body: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)
    record_prompts: bool = True
    previews: bool = True
    usage_tags: Sequence[str] = ()
    budget: Budget | None = None
    drain_seconds: float = 20.0  # Kubernetes kills after 30 s, and publishing takes some.
    spill_folder: str = field(default_factory=spill_folder)
    limits: Limits = field(default_factory=Limits)
