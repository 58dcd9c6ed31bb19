"""What the endpoint's tests share."""

import pytest

from dagster_imagegen.engine.endpoint import connections


@pytest.fixture
def lasting_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long a test takes on a busy machine, no connection grows old between its requests."""
    monkeypatch.setattr(connections, "KEEPALIVE_SECONDS", 3600.0)
