"""Asking the sandbox as any client would."""

from typing import Any

import httpx

from dagster_imagegen.sandbox import Sandbox

MUG = {"prompt": "a red mug", "size": "1024x1024", "quality": "low"}


def post(sandbox: Sandbox, *, timeout: float | httpx.Timeout = 60, **body: Any) -> httpx.Response:
    """One generation request over a connection of its own; `body` goes on top of MUG."""
    url = f"{sandbox.base_url}/images/generations"
    # Plain HTTP: without `verify=False` each call would read the certificates of the system.
    return httpx.post(url, json={**MUG, **body}, timeout=timeout, verify=False)


def get(url: str) -> httpx.Response:
    return httpx.get(url, verify=False, timeout=60)  # plain HTTP, see `post`
