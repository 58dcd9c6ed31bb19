"""What the endpoint's tests share."""

import httpx
import pytest

from dagster_imagegen.engine.endpoint import client, connections


@pytest.fixture
def lasting_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long a test takes on a busy machine, no connection grows old between its requests."""
    monkeypatch.setattr(connections, "KEEPALIVE_SECONDS", 3600.0)
    lasting = httpx.Limits(max_connections=None, max_keepalive_connections=4, keepalive_expiry=3600)
    monkeypatch.setattr(client, "LIMITS", lasting)
