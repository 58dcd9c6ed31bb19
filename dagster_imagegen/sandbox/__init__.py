"""An image endpoint of the same protocol that runs here: no key, no cost, and its own request log.

    with Sandbox() as sandbox:
        client = openai.OpenAI(base_url=sandbox.base_url, api_key="any")
        ...
        print(sandbox.totals.cost_usd)

Needs `pip install 'dagster-imagegen[sandbox]'`. The names are loaded on first use, so that the
pytest plugin costs nothing where it is not used.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dagster_imagegen.sandbox.faults import Fault
    from dagster_imagegen.sandbox.request_log import ReceivedRequest, Totals
    from dagster_imagegen.sandbox.server import Sandbox, shared_sandbox

__all__ = ["Fault", "ReceivedRequest", "Sandbox", "Totals", "shared_sandbox"]

_HOMES = {
    "Fault": "faults",
    "ReceivedRequest": "request_log",
    "Sandbox": "server",
    "Totals": "request_log",
    "shared_sandbox": "server",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
