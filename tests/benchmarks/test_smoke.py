"""The benchmarks run: ours and the bare loop, with a few images."""

import json
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.single import run_single


def test_contestants_take_turns_and_are_compared(tmp_path: Path):
    """Each run is measured, and the table, the JSON and the chart have it."""
    main(
        [
            *("--case", "small", "--rounds", "2", "--scale", "0.005"),
            *("--only", "generate_many,bare", "--output", str(tmp_path), "--no-environments"),
        ]
    )
    results = json.loads((tmp_path / "results.json").read_text())
    assert {each["contestant"]: len(each["runs"]) for each in results} == {
        "generate_many": 2,
        "bare": 2,
    }
    assert not [each["failed"] for each in results if each["failed"]]
    assert "| generate_many |" in (tmp_path / "results.md").read_text()
    assert ">generate_many</text>" in (tmp_path / "small.svg").read_text()


@pytest.mark.parametrize(
    ("case", "measures"),
    [("history", {"seconds", "calls"}), ("beside_writers", {"seconds"})],
)
def test_a_case_of_this_project_alone_runs(case: str, measures: set[str]):
    """It is measured without a history or others, and with them."""
    results = run_single(case, rounds=1, scale=0.01)
    assert [set(run) for each in results for run in each.runs] == [measures, measures]
