"""Medians and spread, as a table, as JSON and as charts."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path

UNITS = {
    "images_per_second": "images/s",
    "cpu_ms_per_image": "ms of CPU per image",
    "seconds": "s",
    "journal_objects_read": "objects read per image",
    "cpu_seconds": "s of CPU",
    "peak_rss_mb": "MB",
}
BAR, GAP, LEFT, WIDTH = 22, 10, 150, 760


@dataclass(frozen=True)
class Result:
    """All runs of one contestant in one case; `failed` says why there is none."""

    case: str
    title: str
    contestant: str
    measure: str
    runs: Sequence[Mapping[str, float]]
    failed: str | None = None

    def values(self, measure: str) -> list[float]:
        """Of one measure, one for each run."""
        return [run[measure] for run in self.runs if measure in run]

    @property
    def median(self) -> float:
        """Of what its case is about."""
        return statistics.median(self.values(self.measure))


def write(results: Sequence[Result], folder: Path) -> str:
    """Write all of it to a folder; returns the table."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps([asdict(each) for each in results], indent=1))
    text = "\n\n".join(_table(case, results) for case in dict.fromkeys(r.case for r in results))
    (folder / "results.md").write_text(f"{text}\n")
    for case in dict.fromkeys(each.case for each in results):
        of_case = [each for each in results if each.case == case and each.runs]
        if of_case:
            (folder / f"{case}.svg").write_text(chart(of_case))
    return text


def _table(case: str, results: Sequence[Result]) -> str:
    of_case = [each for each in results if each.case == case]
    others = [name for name in ("cpu_ms_per_image", "peak_rss_mb") if name != of_case[0].measure]
    units = [UNITS.get(name, name) for name in (of_case[0].measure, *others)]
    lines = [f"## {case}: {of_case[0].title}", ""]
    lines.append(
        f"| contestant | {units[0]}: median | smallest to largest | {' | '.join(units[1:])} |"
    )
    lines.append("|---" * (3 + len(others)) + "|")
    for each in of_case:
        if not each.runs:
            lines.append(
                f"| {each.contestant} | failed: {_last_line(each.failed)} |"
                + " |" * (1 + len(others))
            )
            continue
        values = each.values(each.measure)
        found = [each.values(name) for name in others]
        cells = [
            each.contestant,
            _number(each.median),
            f"{_number(min(values))} to {_number(max(values))}",
            *(_number(statistics.median(more)) if more else "" for more in found),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _last_line(text: str | None) -> str:
    return ((text or "").splitlines() or [""])[-1].replace("|", "\\|")[:200]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def chart(results: Sequence[Result]) -> str:
    """One case as an SVG: a bar for each median, a line from the smallest to the largest value."""
    most = max(max(each.values(each.measure)) for each in results)
    height = 60 + len(results) * (BAR + GAP)
    scale = (WIDTH - LEFT - 110) / most
    unit = UNITS.get(results[0].measure, results[0].measure)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="10" y="24" font-size="15">{escape(results[0].title)}: {escape(unit)}</text>',
    ]
    for place, each in enumerate(results):
        top = 44 + place * (BAR + GAP)
        values = each.values(each.measure)
        ours = each.contestant in ("generate_many", "asset")
        middle, end = top + BAR / 2, LEFT + scale * max(values)
        parts += [
            f'<text x="{LEFT - 8}" y="{top + 16}" text-anchor="end">'
            f"{escape(each.contestant)}</text>",
            f'<rect x="{LEFT}" y="{top}" width="{scale * each.median:.1f}" height="{BAR}" '
            f'fill="{"#2a6fbb" if ours else "#b8c4d0"}"/>',
            f'<line x1="{LEFT + scale * min(values):.1f}" x2="{end:.1f}" '
            f'y1="{middle}" y2="{middle}" stroke="#222"/>',
            f'<text x="{end + 8:.1f}" y="{top + 16}">{_number(each.median)}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])
