"""`python -m benchmarks`: runs the cases, and writes what they took."""

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.cases import CONTESTANTS, LOADS, Load
from benchmarks.machine import HERE, Failed, endpoint, run_contestant
from benchmarks.report import Result, write
from benchmarks.single import SINGLES, run_single


def say(text: str) -> None:
    """Tell how far it has got."""
    sys.stderr.write(f"{text}\n")


def run_load(
    load: Load, *, rounds: int, only: Sequence[str], environments: bool = True
) -> list[Result]:
    """All contestants of a case, in turns."""
    contestants = {
        name: each if environments else replace(each, packages=())
        for name, each in CONTESTANTS.items()
    }
    names = [name for name in load.contestants if name in only]
    runs: dict[str, list[Mapping[str, float]]] = {name: [] for name in names}
    failed: dict[str, str] = {}
    with endpoint() as address, tempfile.TemporaryDirectory(prefix="imagegen-bench-") as folder:
        for turn in range(rounds):
            for name in names:
                if name in failed:
                    continue
                try:
                    measured = run_contestant(contestants[name], load, address, Path(folder))
                except Failed as error:
                    failed[name] = str(error)
                    say(f"{load.name} {turn + 1}/{rounds} {name}: failed: {error}")
                    continue
                runs[name].append(measured)
                say(f"{load.name} {turn + 1}/{rounds} {name}: {measured[load.measure]:.4g}")
    return [
        Result(load.name, load.title, name, load.measure, runs[name], failed.get(name))
        for name in names
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what was asked for; everything by default."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--case", action="append", choices=[*LOADS, *SINGLES])
    parser.add_argument("--only", default=",".join(CONTESTANTS), help="contestants, with commas")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="of the images and rows")
    parser.add_argument(
        "--no-environments", action="store_true", help="run all contestants with this Python"
    )
    parser.add_argument("--output", type=Path, default=HERE / "output")
    given = parser.parse_args(arguments)
    results: list[Result] = []
    table = ""
    for name in given.case or [*LOADS, *SINGLES]:
        if name in SINGLES:
            results += run_single(name, rounds=given.rounds, scale=given.scale)
        else:
            load = LOADS[name]
            load = replace(load, images=max(1, round(load.images * given.scale)))
            results += run_load(
                load,
                rounds=given.rounds,
                only=given.only.split(","),
                environments=not given.no_environments,
            )
        # After each case: what was measured is not lost if a later one fails.
        table = write(results, given.output)
    sys.stdout.write(f"{table}\n")


if __name__ == "__main__":
    main()
