"""The endpoint's own list of models, `GET /models`, as far as this package uses it."""

from dataclasses import dataclass
from datetime import date, datetime, timezone
from typing import Any, cast

import httpx

from dagster_imagegen.engine.endpoint.base_url import PATH
from dagster_imagegen.engine.endpoint.wire import load_json


@dataclass(frozen=True, kw_only=True)
class ListedModel:
    """A model that the account can use. `shutdown_on` is None where the list does not say when it
    ends."""

    id: str
    shutdown_on: date | None


def models_url(url: httpx.URL) -> httpx.URL:
    """The address of the list, for the one of image requests. The query stays."""
    return url.copy_with(path=f"{url.path.removesuffix(PATH)}/models")


def read_models(body: bytes) -> tuple[ListedModel, ...] | None:
    """The models in an answer, in its order; None if it is no list of models."""
    try:
        answer = load_json(body)
    except ValueError:
        return None
    entries = answer.get("data") if isinstance(answer, dict) else answer  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]  # JSON
    if not isinstance(entries, list):
        return None
    named = [
        cast("dict[str, Any]", each)
        for each in cast("list[object]", entries)
        if isinstance(each, dict) and isinstance(cast("dict[str, Any]", each).get("id"), str)
    ]
    return tuple(
        ListedModel(id=each["id"], shutdown_on=_date(each.get("shutdown_date"))) for each in named
    )


def _date(value: object) -> date | None:
    """A date, or a Unix time or a time in ISO's form, both as the date in UTC."""
    try:
        if isinstance(value, str):
            return date.fromisoformat(value[:10])
        if isinstance(value, int) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, timezone.utc).date()
    except (ValueError, OverflowError, OSError):
        pass
    return None
