"""The endpoint's own list of models, `GET /models`, as far as this package uses it."""

import contextlib
from dataclasses import dataclass
from datetime import date, datetime, timezone
from typing import cast

import httpx

from dagster_imagegen.engine.endpoint.base_url import PATH
from dagster_imagegen.engine.endpoint.wire import list_of, load_json, mapping_of
from dagster_imagegen.engine.errors import EndpointMisconfigured


@dataclass(frozen=True, kw_only=True)
class ListedModel:
    """A model that the account can use. `shutdown_on` is None where the list does not say when it
    ends."""

    id: str
    shutdown_on: date | None


def models_url(url: httpx.URL) -> httpx.URL:
    """The address of the list, for the one of image requests. The query stays."""
    return url.copy_with(path=f"{url.path.removesuffix(PATH)}/models")


def read_models(body: bytes, *, http_status: int, place: str) -> tuple[ListedModel, ...]:
    """The models that `place` answered. Raises `EndpointMisconfigured` if that is no list."""
    entries: object = None
    if httpx.codes.is_success(http_status):
        with contextlib.suppress(ValueError):
            answer = load_json(body)
            entries = mapping_of(answer).get("data") if isinstance(answer, dict) else answer
    if not isinstance(entries, list):
        raise EndpointMisconfigured(
            f"{place} answered {http_status} and no list of models; check "
            "base_url and api_key, or look the models up on the provider's own pages",
            http_status=http_status,
        )
    models = map(mapping_of, list_of(cast("object", entries)))
    return tuple(
        ListedModel(id=each["id"], shutdown_on=_date(each.get("shutdown_date")))
        for each in models
        if isinstance(each.get("id"), str)
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
