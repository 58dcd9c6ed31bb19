"""A small run on an object store that has seen so many before: `history.py 200 --base-url …`.

The store is in memory. The earlier runs take no time for their calls of it, the measured one takes
so long for each.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

from dagster_imagegen import ImageGenResource

IMAGES = 10
CALLS = ("pipe_file", "cat_file", "find", "ls", "rm_file")
"""What a storage calls."""


class SlowStore(MemoryFileSystem):
    """fsspec's `memory://`, each of whose calls is counted and takes `seconds_per_call`."""

    protocol = "slow"
    seconds_per_call = 0.0
    calls = 0


def _slow(call: Callable[..., Any]) -> Callable[..., Any]:
    def slow(*args: Any, **options: Any) -> Any:
        SlowStore.calls += 1
        time.sleep(SlowStore.seconds_per_call)
        return call(*args, **options)

    return slow


def resource_for(base_url: str, name: str) -> ImageGenResource:
    """One storage of the store."""
    return ImageGenResource(
        base_url=base_url,
        api_key="bench",
        model="gpt-image-1-mini",
        storage_uri=f"slow://{name}",
    )


def run(resource: ImageGenResource, number: int) -> None:
    """Request some images that nobody has requested before."""
    prompts = [{"prompt": f"picture {image} of run {number}"} for image in range(IMAGES)]
    images = resource.generate_many(prompts, quality="low")
    assert set(images["image_status"].to_pylist()) == {"generated"}  # noqa: S101


def measure(base_url: str, *, earlier: int, seconds_per_call: float) -> dict[str, float]:
    """What the last run takes."""
    fsspec.register_implementation("slow", SlowStore)
    for name in CALLS:
        setattr(SlowStore, name, _slow(getattr(SlowStore, name)))
    run(resource_for(base_url, "another"), 0)  # It loads what a first call loads.
    resource = resource_for(base_url, "measured")
    for number in range(earlier):
        run(resource, number)
    SlowStore.calls, SlowStore.seconds_per_call = 0, seconds_per_call
    began = time.perf_counter()
    run(resource, earlier)
    return {"seconds": time.perf_counter() - began, "calls": SlowStore.calls}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("earlier", type=int)
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--seconds-per-call", type=float, default=0.02)
    given = parser.parse_args()
    measured = measure(
        given.base_url, earlier=given.earlier, seconds_per_call=given.seconds_per_call
    )
    sys.stdout.write(f"\n{json.dumps(measured)}\n")
