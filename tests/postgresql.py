"""A PostgreSQL server for tests, made of the programs of Debian's package, and gone afterwards."""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Generator, Sequence
from pathlib import Path

USER = "postgres"


@contextlib.contextmanager
def postgresql() -> Generator[str]:
    """A new server on a free port. Yields the URL of its database."""
    programs = _programs()
    folder = Path(tempfile.mkdtemp(prefix="postgresql_"))
    # It refuses to run as root.
    owner = USER if os.geteuid() == 0 else None
    if owner:
        os.chown(folder, pwd.getpwnam(USER).pw_uid, -1)
    data = folder / "data"

    def run(program: str, arguments: Sequence[str]) -> None:
        subprocess.run(
            [programs / program, *arguments],
            user=owner,
            cwd=folder,
            check=True,
            timeout=600,
            stdout=subprocess.DEVNULL,
        )

    try:
        run("initdb", ["-D", str(data), "-U", USER, "-A", "trust", "--no-locale", "-E", "UTF8"])
        port = _free_port()
        options = f"-h 127.0.0.1 -p {port} -k {folder} -c fsync=off"
        log = str(folder / "log")
        run("pg_ctl", ["-D", str(data), "-l", log, "-o", options, "-w", "-t", "300", "start"])
        try:
            yield f"postgresql://{USER}@127.0.0.1:{port}/postgres"
        finally:
            run("pg_ctl", ["-D", str(data), "-m", "immediate", "-w", "-t", "300", "stop"])
    finally:
        shutil.rmtree(folder)


def _programs() -> Path:
    """The folder of its programs, which Debian keeps out of the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    if not found and on_path is None:
        raise FileNotFoundError("there is no PostgreSQL; install Debian's package postgresql")
    return found[-1].parent if found else Path(on_path or "").parent


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
