"""The command line: `dagster-imagegen serve`."""

import re
import signal
import subprocess
import sys

import httpx
import pytest

from dagster_imagegen.cli import main

COMMAND = [sys.executable, "-m", "dagster_imagegen.cli", "serve"]


@pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_serve_says_where_it_is_and_ends_on_a_signal(ending: signal.Signals) -> None:
    """The address is printed at once and works; Ctrl+C and SIGTERM end it with status 0."""
    process = subprocess.Popen(
        [*COMMAND, "--refuse", "cup", "--no-paint", "--latency", "0-0.01"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        found = re.fullmatch(r"Sandbox image endpoint: (\S+)\n", process.stdout.readline())
        assert found is not None
        url = f"{found[1]}/images/generations"
        for prompt, status in [("mug", 200), ("cup", 400)]:
            answer = httpx.post(url, json={"prompt": prompt}, verify=False, timeout=60)
            assert answer.status_code == status
        shown = list(iter(process.stdout.readline, "Ctrl+C stops it.\n"))
        assert f'base_url="{found[1]}"' in "".join(shown)
        process.send_signal(ending)
        _, complaints = process.communicate(timeout=60)
        assert process.returncode == 0
        assert complaints == ""
    finally:
        process.kill()
        process.communicate()


def test_serve_refuses_what_cannot_be(capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown fault is named with those that exist, and nothing is started."""
    assert main(["serve", "--fault", "explode=0.5"]) == 2
    told = capsys.readouterr().err
    assert "unknown fault 'explode'; known faults: rate_limited" in told
    assert "port" not in told
    assert main(["serve", "--fault", "bogus"]) == 2
    assert "'--fault': 'bogus' is not KIND=RATE" in capsys.readouterr().err


def test_serve_refuses_a_port_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    """In one line, with its number."""
    assert main(["serve", "--port", "99999"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("dagster-imagegen serve: port 99999: ")
    assert told.count("\n") == 1


@pytest.mark.parametrize("library", ["starlette", "uvicorn"])
def test_serve_without_its_extra_says_what_to_install(library: str) -> None:
    """A missing library is one line that names the extra, not a traceback."""
    script = (
        f"import sys; sys.modules[{library!r}] = None\n"
        "from dagster_imagegen.cli import main; sys.exit(main(['serve']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert "pip install 'dagster-imagegen[sandbox]'" in done.stderr
    assert "Traceback" not in done.stderr
