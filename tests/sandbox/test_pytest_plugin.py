"""The fixture as a user's own test suite meets it."""

import subprocess
import sys
from pathlib import Path

SUITE = """
import urllib.error
import urllib.request
import pytest

pytestmark = pytest.mark.imagegen_sandbox(paint=False, refuse=["cup"])

def ask(sandbox, prompt):
    url = sandbox.base_url + "/images/generations"
    body = ('{"prompt": "%s"}' % prompt).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body)) as response:
            return response.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code

@pytest.mark.parametrize("again", [1, 2])
def test_the_log_is_new_for_each_test(imagegen_sandbox, again):
    assert ask(imagegen_sandbox, "mug") == 200
    assert len(imagegen_sandbox.requests) == 1

@pytest.mark.imagegen_sandbox(api_key="secret")
def test_the_closest_marker_adds_to_the_others(imagegen_sandbox):
    assert ask(imagegen_sandbox, "mug") == 401

@pytest.mark.imagegen_sandbox(refuse=["mug"])
def test_the_closest_marker_wins(imagegen_sandbox):
    assert ask(imagegen_sandbox, "cup") == 200
    assert ask(imagegen_sandbox, "mug") == 400
"""


def test_the_fixture_is_there_without_a_conftest(tmp_path: Path) -> None:
    """Installing the package registers fixture and marker; warnings and unknown markers fail."""
    (tmp_path / "test_suite.py").write_text(SUITE)
    command = [sys.executable, "-m", "pytest", "-q", "--strict-markers", "-W", "error"]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", "."],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "4 passed" in done.stdout, done.stdout + done.stderr
