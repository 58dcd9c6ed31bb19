"""The fixture `imagegen_sandbox`, registered by installing the package.

Nothing is imported before a test asks for it. `@pytest.mark.imagegen_sandbox(...)`, on a test, a
class or a module, takes the arguments of `Sandbox`.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from dagster_imagegen.sandbox.server import Sandbox


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, so that `--strict-markers` accepts it."""
    config.addinivalue_line(
        "markers", "imagegen_sandbox(**options): arguments of Sandbox for imagegen_sandbox"
    )


@pytest.fixture
def imagegen_sandbox(request: pytest.FixtureRequest) -> "Iterator[Sandbox]":
    """A running image endpoint for this test alone; `base_url` is its address."""
    try:
        from dagster_imagegen.sandbox.server import Sandbox  # noqa: PLC0415  # only when used
    except ModuleNotFoundError as exc:
        pytest.fail(f"{exc}; install it with: pip install 'dagster-imagegen[sandbox]'")
    options: dict[str, object] = {}
    for marker in request.node.iter_markers("imagegen_sandbox"):
        options = {**marker.kwargs, **options}  # the closest marker comes first
    with Sandbox(**options) as sandbox:  # pyright: ignore[reportArgumentType]  # checked at run time
        yield sandbox
