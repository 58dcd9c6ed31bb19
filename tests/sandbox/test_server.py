"""The server's life: starting, stopping whatever hangs, sharing, forking."""

import asyncio
import logging
import socket
import subprocess
import sys
import textwrap
import threading

import httpx
import pytest

from dagster_imagegen.sandbox import Sandbox, shared_sandbox
from tests.sandbox.asking import MUG, get, post


def run(script: str) -> str:
    """What a fresh interpreter, to which warnings are errors, prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_it_listens_for_as_long_as_the_block() -> None:
    """The port is open within, and free and without an address after."""
    with Sandbox(paint=False) as sandbox:
        url = sandbox.base_url
        name = f"imagegen-sandbox-{httpx.URL(url).port}"
        assert name in [thread.name for thread in threading.enumerate()]
        assert url.startswith("http://127.0.0.1:")
        assert url.endswith("/v1")
        assert get(f"{url}/models").status_code == 200
    with pytest.raises(httpx.ConnectError):
        get(f"{url}/models")
    with pytest.raises(RuntimeError, match="not running"):
        _ = sandbox.base_url
    sandbox.stop()
    assert name not in [thread.name for thread in threading.enumerate()]


def test_it_can_be_started_again_on_its_port() -> None:
    """A port of one's own choice works, twice in a row; a taken one is an OSError."""
    sandbox = Sandbox(paint=False)
    with sandbox:
        url = sandbox.base_url
        port = httpx.URL(url).port or 0
        with pytest.raises(OSError, match="in use"):
            Sandbox(port=port).start()
    with sandbox:
        assert sandbox.base_url == url
        assert post(sandbox).status_code == 200


def test_stopping_does_not_wait_for_what_hangs(caplog: pytest.LogCaptureFixture) -> None:
    """Hung, slow and idle connections are dropped at once, without a word in the log."""
    caplog.set_level(logging.WARNING)
    faults = ["hang", None]
    with Sandbox(faults=faults, latency_seconds=(0, 3600), seed=3, paint=False) as sandbox:
        port = httpx.URL(sandbox.base_url).port or 0
        body = b'{"prompt": "a mug"}'
        head = b"POST /v1/images/generations HTTP/1.1\r\nhost: x\r\ncontent-length: 19\r\n\r\n"
        idle, *busy = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
        for connection in busy:
            connection.sendall(head + body)
        while len(sandbox.requests) < 2:
            pass
    for connection in (idle, *busy):
        connection.settimeout(60)
        assert connection.recv(1) == b""
        connection.close()
    assert caplog.records == []


def test_it_starts_inside_a_running_event_loop() -> None:
    """Blocking for the moment of its start, it then serves the loop that started it."""

    async def ask() -> int:
        async with httpx.AsyncClient(verify=False, timeout=60) as client:
            with Sandbox(paint=False) as sandbox:
                url = f"{sandbox.base_url}/images/generations"
                return (await client.post(url, json=MUG)).status_code

    assert asyncio.run(ask()) == 200


def test_the_shared_sandbox_is_one() -> None:
    """Whoever asks, from whichever thread, gets the same running server."""
    found: list[Sandbox] = []
    threads = [threading.Thread(target=lambda: found.append(shared_sandbox())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, found))) == 1
    assert get(f"{found[0].base_url}/models").status_code == 200


def test_the_shared_sandbox_ends_quietly_with_its_process() -> None:
    """Nothing is printed at exit, and nothing keeps the process."""
    script = """
        from dagster_imagegen.sandbox import shared_sandbox
        print(shared_sandbox().base_url)
    """
    assert run(script).startswith("http://127.0.0.1:")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not fork")
def test_a_forked_child_starts_its_own() -> None:
    """The child's has another address and serves; the parent's goes on and ends last."""
    script = """
        import os, sys, urllib.request, warnings
        from dagster_imagegen.sandbox import shared_sandbox
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of forks beside threads
        def check(sandbox):
            assert urllib.request.urlopen(sandbox.base_url + "/models").status == 200
        parents = shared_sandbox()
        pid = os.fork()
        if pid == 0:
            childs = shared_sandbox()
            assert childs is not parents and childs.base_url != parents_url
            check(childs)
            sys.exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        check(parents)
        print("both")
    """.replace(
        "parents = shared_sandbox()", "parents = shared_sandbox(); parents_url = parents.base_url"
    )
    assert run(script) == "both\n"


def test_importing_the_package_and_the_plugin_costs_nothing() -> None:
    """Neither the engine nor Dagster nor the server's libraries load with the pytest plugin."""
    script = """
        import sys
        import dagster_imagegen.sandbox, dagster_imagegen.sandbox.pytest_plugin
        dear = {"starlette", "uvicorn", "PIL", "dagster", "httpx", "dagster_imagegen.engine"}
        print(sorted(dear & set(sys.modules)))
        import dagster_imagegen.sandbox.server
        print(sorted({"dagster", "dagster_imagegen.engine"} & set(sys.modules)))
    """
    assert run(script) == "[]\n[]\n"
