"""Processes on cores of their own: the endpoint, and the contestants one after the other."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Mapping
from pathlib import Path

from benchmarks.cases import Contestant, Load

HERE = Path(__file__).parent
ENVIRONMENTS = HERE / ".environments"
TIMEOUT_SECONDS = 900
NOT_OF_OURS = ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "DAGSTER_HOME")


class Failed(Exception):
    """A contestant did not get to its end."""


def cores() -> tuple[int, int]:
    """The core of the client and that of the endpoint; one for both if there is no other."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[0], usable[-1]


def pinned(core: int) -> Callable[[], None]:
    """For `preexec_fn`: stay on a core."""
    return lambda: os.sched_setaffinity(0, {core})


def environment() -> dict[str, str]:
    """Ours, without what belongs to our own Python."""
    kept = {name: value for name, value in os.environ.items() if name not in NOT_OF_OURS}
    return kept | {"NEMO_TELEMETRY_ENABLED": "false", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}


def python_of(contestant: Contestant) -> Path:
    """The Python of a contestant's environment, which is made if it is not there."""
    if not contestant.packages:
        return Path(sys.executable)
    folder = ENVIRONMENTS / "-".join(contestant.packages)
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        uv = shutil.which("uv") or "uv"
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        commands = (
            [uv, "venv", "--clear", "--quiet", "--python", version, str(folder)],
            [uv, "pip", "install", "--quiet", "--python", str(python), *contestant.packages],
        )
        for command in commands:
            subprocess.run(command, check=True, env=environment())  # noqa: S603  # ours
        (folder / "complete").touch()
    return python


@contextlib.contextmanager
def endpoint() -> Generator[str]:
    """An endpoint on its own core; its address up to the port."""
    command = [sys.executable, "-m", "benchmarks.endpoint"]
    with subprocess.Popen(  # noqa: S603  # ours
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=HERE.parent,
        env=environment(),
        preexec_fn=pinned(cores()[1]),  # noqa: PLW1509  # no threads are running here
        text=True,
    ) as process:
        assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        process.stdin.close()


def run_program(command: list[str]) -> Mapping[str, float]:
    """What a program on the client's core prints as its last line, which is JSON."""
    done = subprocess.run(  # noqa: S603  # ours
        command,
        check=False,
        capture_output=True,
        cwd=HERE.parent,
        env=environment(),
        preexec_fn=pinned(cores()[0]),  # no threads are running here
        text=True,
        timeout=TIMEOUT_SECONDS,
    )
    if done.returncode:
        raise Failed((done.stderr or done.stdout).strip()[-2000:])
    return json.loads(done.stdout.strip().splitlines()[-1])


def run_contestant(
    contestant: Contestant, load: Load, address: str, folder: Path
) -> Mapping[str, float]:
    """One run of a contestant, into a new folder in `folder`; its files are emptied afterwards.

    They are not deleted: for minutes after that some filesystems (ext4 without a journal) search
    long for each new file, and whose turn is next would pay for it.
    """
    name, *arguments = contestant.command
    base_url = f"{address}/{load.size_bytes}/{load.milliseconds}/v1"
    images = Path(tempfile.mkdtemp(dir=folder)) / "images"
    try:
        measured = run_program(
            [
                str(python_of(contestant)),
                str(HERE / "contestants" / name),
                *arguments,
                *("--base-url", base_url),
                *("--images", str(load.images)),
                *("--in-flight", str(load.in_flight)),
                *("--folder", str(images)),
                *("--size-bytes", str(load.size_bytes)),
            ]
        )
    finally:
        for file in images.rglob("*"):
            if file.is_file():
                os.truncate(file, 0)
    return {
        **measured,
        "images_per_second": load.images / measured["seconds"],
        "cpu_ms_per_image": 1000 * measured["cpu_seconds"] / load.images,
    }
