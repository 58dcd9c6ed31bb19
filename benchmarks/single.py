"""Cases of this project alone: without an endpoint, and without others to compare it with."""

import sys
import tempfile
from collections.abc import Callable, Mapping

from benchmarks.machine import HERE, endpoint, run_program
from benchmarks.report import Result

PROGRAMS = HERE / "contestants"


def _record(folder: str, what: str, rows: int, parts: int) -> Mapping[str, float]:
    program = [sys.executable, str(PROGRAMS / "record.py"), what, "--folder", folder]
    return run_program([*program, "--rows", str(rows), "--parts", str(parts)])


def _planning(case: str, *, rounds: int, wanted: Mapping[str, tuple[int, int]]) -> list[Result]:
    """Plans of some rows, all paid, on records of so many rows in so many parts."""
    results: list[Result] = []
    for name, (rows, parts) in wanted.items():
        with tempfile.TemporaryDirectory(prefix="imagegen-bench-") as folder:
            _record(folder, "make", rows, parts)
            runs = [_record(folder, "plan", min(rows, 1_000_000), parts) for _ in range(rounds)]
        results.append(Result(case, "a run that sends nothing", name, "seconds", runs))
    return results


def planning(*, rounds: int, scale: float) -> list[Result]:
    """Whether the time and the memory of a plan grow in proportion to its rows."""
    sizes = [round(rows * scale) for rows in (10_000, 100_000, 1_000_000)]
    wanted = {f"{rows:,} rows": (rows, max(1, rows // 5_000)) for rows in sizes}
    return _planning("planning", rounds=rounds, wanted=wanted)


def many_parts(*, rounds: int, scale: float) -> list[Result]:
    """Whether a run costs more after a year of runs: 2,000 rows in one part, or in 2,000."""
    rows = max(2, round(2_000 * scale))
    wanted = {"1 part": (rows, 1), f"{rows:,} parts": (rows, rows)}
    return _planning("many_parts", rounds=rounds, wanted=wanted)


def imports(*, rounds: int, scale: float) -> list[Result]:
    """The time of `import dagster_imagegen` beside that of Dagster."""
    program = [sys.executable, str(PROGRAMS / "imports.py")]
    run_program(program)  # Compiles what was never imported.
    runs = [run_program(program) for _ in range(rounds)]
    title = "importing all public names after dagster"
    return [Result("imports", title, "dagster_imagegen", "seconds", runs)]


def many_writers(*, rounds: int, scale: float) -> list[Result]:
    """Whether each image costs more reads, the more writers there are on one storage."""
    program = [sys.executable, str(PROGRAMS / "many_writers.py")]
    images = ["--images", str(max(1, round(20 * scale)))]
    results: list[Result] = []
    for writers in (2, 5, 10, 20):
        runs = [run_program([*program, str(writers), *images]) for _ in range(rounds)]
        title = "objects that writers of one storage read of each other"
        name = f"{writers} writers"
        results.append(Result("many_writers", title, name, "journal_objects_read", runs))
    return results


def beside_writers(*, rounds: int, scale: float) -> list[Result]:
    """How long a pass of one image takes, alone and beside ten that have been at it for a while."""
    busy = ["--beside-busy-seconds", str(30 * scale)]
    results: list[Result] = []
    for others in (0, 10):
        program = [sys.executable, str(PROGRAMS / "many_writers.py"), str(others), *busy]
        program += ["--images", "1", "--in-flight", "4"]
        runs = [run_program(program) for _ in range(rounds)]
        title = "a pass of one image on a store with 0.05 s per call"
        results.append(Result("beside_writers", title, f"{others} others", "seconds", runs))
    return results


def history(*, rounds: int, scale: float) -> list[Result]:
    """Whether a small run costs more after many: ten images on a store with 0.02 s per call."""
    results: list[Result] = []
    with endpoint() as address:
        for earlier in (0, round(200 * scale)):
            program = [sys.executable, str(PROGRAMS / "history.py"), str(earlier)]
            program += ["--base-url", f"{address}/20000/100/v1"]
            runs = [run_program(program) for _ in range(rounds)]
            title = "a run of ten images on a store with 0.02 s per call"
            results.append(Result("history", title, f"{earlier} before", "seconds", runs))
    return results


def usage(*, rounds: int, scale: float) -> list[Result]:
    """The bill of ten million requests beside DuckDB's sums of the same files, in turns."""
    rows = max(1, round(10_000_000 * scale))
    parts = max(1, round(200 * scale))
    runs: dict[str, list[Mapping[str, float]]] = {
        name: [] for name in ("bill", "duckdb", "waste", "duckdb_waste")
    }
    program = [sys.executable, str(PROGRAMS / "usage.py")]
    with tempfile.TemporaryDirectory(prefix="imagegen-bench-") as folder:
        size = ["--rows", str(rows), "--parts", str(parts)]
        run_program([*program, "make", "--folder", folder, *size])
        for _ in range(rounds):
            for name, found in runs.items():
                found.append(run_program([*program, name, "--folder", folder]))
    title = f"the bill of {rows:,} requests in {parts:,} parts"
    return [Result("usage", title, name, "cpu_seconds", found) for name, found in runs.items()]


SINGLES: Mapping[str, Callable[..., list[Result]]] = {
    "imports": imports,
    "planning": planning,
    "many_parts": many_parts,
    "many_writers": many_writers,
    "beside_writers": beside_writers,
    "history": history,
    "usage": usage,
}


def run_single(name: str, *, rounds: int, scale: float) -> list[Result]:
    """All runs of one case."""
    return SINGLES[name](rounds=rounds, scale=scale)
