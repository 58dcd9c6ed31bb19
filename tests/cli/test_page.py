"""The page about the command line shows what its commands print."""

import os
import re
from pathlib import Path

import pytest

from dagster_imagegen.cli import main
from dagster_imagegen.cli.app import VERBS
from tests.pages import Page

PAGE = Page("docs/command-line.md")
CHANGES = re.compile(r"\d{8}T\d+Z-[0-9a-f]+")
"""What is another one in each run: its id."""


def test_the_page_shows_what_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a terminal of 100 columns, with the files that it shows, in the sandbox."""
    for name in [each for each in os.environ if each.startswith("IMAGEGEN_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    for name, code in zip(("products.csv", "tomorrow.csv"), PAGE.code("csv"), strict=True):
        (tmp_path / name).write_text(code)
    for name, value in {"FORCE_COLOR": "1", "COLUMNS": "100", "XDG_STATE_HOME": "state"}.items():
        monkeypatch.setenv(name, value)
    shown = 0
    for block in PAGE.blocks:
        if block.language == "sh" and block.output is not None:
            printed = output_of(block.code, monkeypatch, capsys)
            assert CHANGES.sub("ID", printed) == CHANGES.sub("ID", block.output)
            shown += 1
    assert shown == 3


def output_of(
    code: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    """What the commands of a block print, without colours and spaces at the ends of lines."""
    capsys.readouterr()
    for line in code.splitlines():
        program, *words = line.split()
        if program == "export":
            for word in words:
                monkeypatch.setenv(*word.split("=", 1))
        else:
            assert program == "dagster-imagegen"
            assert main(words) in (0, 1)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    return "".join(f"{line.rstrip()}\n" for line in plain.splitlines())


def test_the_page_names_every_verb() -> None:
    """In the order of `--help`."""
    told = re.findall(r"^\| `(\w+)` \|", PAGE.text.partition("## Where")[0], re.MULTILINE)
    assert told == list(VERBS)
