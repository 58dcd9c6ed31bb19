"""What all verbs have in common: help, statuses, output, completion, and a quick start."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from dagster_imagegen.cli import exit_codes, main
from dagster_imagegen.cli.app import VERBS, verbs
from dagster_imagegen.cli.output import Report, Table, show
from tests.cli.conftest import Shop

COMMAND = [sys.executable, "-m", "dagster_imagegen.cli"]
POOL = "ARROW_DEFAULT_MEMORY_POOL"


def test_the_command_line_starts_without_dagster_and_without_a_verb() -> None:
    """`--help` loads neither Dagster nor Arrow; a run of a verb loads no Dagster."""
    program = """
import sys
from dagster_imagegen.cli import main
assert main(["--help"]) == 0
assert "pyarrow" not in sys.modules
assert main(["plan", "--help"]) == 0
assert main(["verify", "--storage", "/nowhere/at/all"]) == 2
assert "dagster" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb: str) -> None:
    """In 80 columns, and takes no key as an argument."""
    told = CliRunner().invoke(verbs, [verb, "--help"], prog_name="dagster-imagegen")
    assert told.exit_code == 0
    assert max(map(len, told.output.splitlines())) <= 80
    assert "Example" in told.output
    assert f"dagster-imagegen {verb} " in told.output
    assert verb == "serve" or "--api-key" not in told.output


def test_the_statuses_are_in_the_help() -> None:
    """All that a verb can end with, but those of shells and of our own faults."""
    told = CliRunner().invoke(verbs, ["--help"]).output
    named = {int(each) for each in re.findall(r"^ +(\d+)  ", told, re.MULTILINE)}
    known = {value for name, value in vars(exit_codes).items() if name.isupper() and name[0] != "_"}
    assert known - named == {exit_codes.INTERNAL, exit_codes.BROKEN_PIPE}
    assert named <= known


@pytest.mark.parametrize(
    "arguments",
    [["explode"], ["verify"], ["verify", "--explode"], ["plan", "/nowhere.csv", "--storage", "x"]],
)
def test_wrong_usage_is_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """With a sentence on standard error, and nothing on standard output."""
    assert main(arguments) == exit_codes.USAGE
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Error: " in printed.err


def test_a_fault_of_ours_is_told_apart_from_findings(capsys: pytest.CaptureFixture[str]) -> None:
    """Status 70 and a traceback, where Python itself would say 1."""

    @click.command()
    def broken() -> None:
        raise LookupError("a fault")

    verbs.add_command(broken)
    try:
        VERBS["broken"] = "Breaks."
        sys.modules["dagster_imagegen.cli.broken"] = type(sys)("broken")
        sys.modules["dagster_imagegen.cli.broken"].command = broken  # type: ignore[attr-defined]
        assert main(["broken"]) == exit_codes.INTERNAL
    finally:
        del VERBS["broken"], verbs.commands["broken"], sys.modules["dagster_imagegen.cli.broken"]
    assert "LookupError: a fault" in capsys.readouterr().err


def test_the_shell_completes_verbs_and_options() -> None:
    """Click's own completion, under the program's name."""
    for words, count, wanted in (
        ("dagster-imagegen ver", 1, "plain,verify"),
        ("dagster-imagegen verify --rep", 2, "plain,--repair"),
    ):
        environment = {
            **os.environ,
            "COMP_WORDS": words,
            "COMP_CWORD": str(count),
            "_DAGSTER_IMAGEGEN_COMPLETE": "bash_complete",
        }
        told = subprocess.run(COMMAND, env=environment, capture_output=True, text=True, check=True)
        assert told.stdout.splitlines() == [wanted]


@pytest.mark.parametrize(("asked", "taken"), [({}, "system"), ({POOL: "mimalloc"}, "mimalloc")])
def test_arrow_takes_the_memory_of_the_system(asked: dict[str, str], taken: str) -> None:
    """Its own allocators keep some in each thread. Whoever names one gets it."""
    program = (
        "from dagster_imagegen.cli import main; main(['usage', '--help'])\n"
        "import pyarrow; print(pyarrow.default_memory_pool().backend_name)"
    )
    environment = {name: value for name, value in os.environ.items() if name != POOL} | asked
    command = [sys.executable, "-c", program]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert told.stdout.splitlines()[-1] == taken


def test_a_reader_that_has_enough_is_no_fault(shop: Shop) -> None:
    """`| head` ends the command quietly."""
    rows = "".join(f"a mug {number}\n" for number in range(3000))
    file = shop.table("prompts.csv", f"prompt\n{rows}")
    other = shop.table("other.csv", "prompt\nnone\n")
    shop.fill("a mug")
    arguments = [
        *("diff", other, file, "--storage", str(shop.storage)),
        *("--endpoint", "http://localhost/v1", "--model", "m"),
    ]
    process = subprocess.Popen(
        [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    err = process.stderr.read().decode()
    assert process.wait() == exit_codes.BROKEN_PIPE, err
    assert err == ""
    process.stderr.close()


def test_a_terminal_gets_tables_and_no_commands_from_prompts() -> None:
    """Boxes are drawn on a real terminal; control characters of a value are escaped there."""
    program = (
        "from dagster_imagegen.cli.output import *\n"
        "show(Report(facts={'images': 3}, tables=[Table(name='rows', columns=('id', 'prompt'),"
        " rows=[(1, 'red\\x1b[2J\\n[bold]mug')])]), as_json=False)\n"
    )
    leader, follower = pty.openpty()
    try:
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
        command = [sys.executable, "-c", program]
        subprocess.run(command, stdout=follower, env=environment, check=True)
        shown = os.read(leader, 10_000).decode()
    finally:
        os.close(leader)
        os.close(follower)
    assert "│" in shown
    assert "red\\x1b[2J\\n[bold]mug" in shown
    assert "\x1b[2J" not in shown


@pytest.mark.parametrize(("columns", "drawn"), [(14, False), (15, True), (40, True)])
def test_a_narrow_terminal_breaks_headings_and_no_values(
    columns: int, drawn: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where even that is too wide, each value has a line of its own."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(columns))
    table = Table(name="bill", columns=("kept_per_day", "cost_usd"), rows=[(1, "0.25")])
    show(Report(tables=[table, table]), as_json=False)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert any("│ 0.25" in line for line in lines) is drawn
    assert ("  cost usd: 0.25" in lines) is not drawn
    assert any("kept per day" in line for line in lines) is (columns == 40)


def test_errors_and_json_hold_no_commands_to_a_terminal_either(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names in files are anybody's. In JSON they stay the same text, a name without UTF-8 too."""
    names = ["a\x1b]0;owned\x07b", "c\x9b2Jd", "e\udcfff"]
    show(Report(facts=dict.fromkeys("ab", names)), as_json=True)
    out = capsys.readouterr().out
    assert json.loads(out) == dict.fromkeys("ab", str(names))
    show(Report(tables=[Table(name="t", columns=("x",), rows=[(n,) for n in names])]), as_json=True)
    out = capsys.readouterr().out
    assert [row["x"] for row in json.loads(out)["t"]] == names
    assert all(each.isprintable() or each == "\n" for each in out)
    told = shop.send("plan", shop.table("p.csv", "prompt,\x1b[2Jname\n ,x\n"), "--param", "n=2")
    assert told.status == 2
    again = shop.send("plan", shop.table("q.csv", "name\x1b[2J\nx\n"))
    assert "name\\x1b[2J" in again.err
    assert "\x1b" not in told.err + again.err


def test_piped_and_json_output_hold_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    """A tab or a line break in a value breaks no line; JSON keeps it."""
    table = Table(
        name="rows", columns=("id", "prompt"), rows=[("a", "one\ttwo\nthree"), ("b", None)]
    )
    report = Report(facts={"images": 2}, tables=[table])
    show(report, as_json=False)
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert lines == [["images", "2"], ["id", "prompt"], ["a", "one\\ttwo\\nthree"], ["b", ""]]
    show(report, as_json=True)
    assert json.loads(capsys.readouterr().out) == {
        "images": 2,
        "rows": [{"id": "a", "prompt": "one\ttwo\nthree"}, {"id": "b", "prompt": None}],
    }


def test_a_storage_that_cannot_be_read_is_status_3(shop: Shop, tmp_path: Path) -> None:
    """A damaged part stops a plan, which names it; `verify` is what helps."""
    shop.fill("a mug")
    (part,) = shop.storage.glob("usage/*/*.parquet")
    part.write_bytes(b"PAR1")
    file = shop.table("prompts.csv", "prompt\na mug\n")
    told = shop.send("plan", file)
    assert told.status == exit_codes.STORAGE
    assert part.name in told.err
