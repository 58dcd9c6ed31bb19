"""What every contestant shares: its arguments, and the measurement around its work.

Imported by programs in other environments, so it needs nothing but Python.
"""

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Job:
    """How many images to make, how many at a time, where from and where to."""

    base_url: str
    images: int
    in_flight: int
    folder: Path
    size_bytes: int

    @property
    def prompts(self) -> list[str]:
        """One for each image."""
        return [f"picture {number}" for number in range(self.images)]


def run(work: Callable[[Job], object]) -> None:
    """Run a contestant, and print what it took as one line of JSON.

    Its imports are over by then, and its CPU time counts from here; the files that it has written
    are counted afterwards, so that no contestant wins by writing less.
    """
    job = _job()
    before, began = _cpu_seconds(), time.perf_counter()
    beside = work(job)
    seconds, cpu_seconds = time.perf_counter() - began, _cpu_seconds() - before
    sizes = [each.stat().st_size for each in job.folder.rglob("*") if _is_image(each)]
    if len(sizes) != job.images or any(abs(size - job.size_bytes) > 0.05 * size for size in sizes):
        raise SystemExit(f"{len(sizes)} whole images were written, {job.images} were wanted")
    measured = {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        **(beside if isinstance(beside, dict) else {}),
    }
    sys.stdout.write(f"\n{json.dumps(measured)}\n")


def _is_image(path: Path) -> bool:
    return path.suffix in (".png", ".webp", ".jpg") and "_tmp" not in path.parts


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _job() -> Job:
    parser = argparse.ArgumentParser()
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--images", type=int, required=True)
    parser.add_argument("--in-flight", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--size-bytes", type=int, required=True)
    given = parser.parse_args()
    return Job(given.base_url, given.images, given.in_flight, given.folder, given.size_bytes)
