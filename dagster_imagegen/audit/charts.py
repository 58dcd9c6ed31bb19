"""Bar charts of money as SVG: in an HTML report, and alone as a picture."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from html import escape

from dagster_imagegen.engine.money.amounts import usd_text

WIDTH = 360
"""In units that are about a pixel on a telephone, where text must still be readable."""

_ROW, _BAR, _PLOT_HEIGHT, _LEFT = 34, 10, 150, 52
_LABEL_CHARACTERS = 30
_TICKS = 4

# Readable on white and on black, for a picture that knows nothing of the page it is on.
_ALONE = (
    ".kept{fill:#2f7fd1}.waste{fill:#d9822b}.most{fill:#8b96a5;opacity:.45}"
    "text{font:11px system-ui,sans-serif;fill:#76818f}line{stroke:#8b96a5;stroke-width:.5}"
)


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One bar: what was paid for images in use, what was wasted, and the most that both may be."""

    label: str
    kept_usd: Decimal
    waste_usd: Decimal
    most_usd: Decimal

    @property
    def usd(self) -> Decimal:
        """What was charged."""
        return self.kept_usd + self.waste_usd

    @property
    def title(self) -> str:
        """All of it in words."""
        text = f"{self.label}: {usd_text(self.usd)}"
        if self.waste_usd:
            text += f", of it {usd_text(self.waste_usd)} wasted"
        return f"{text}, at most {usd_text(self.most_usd)}" if self.most_usd > self.usd else text


def rows_chart(bars: Sequence[Bar], *, alone: bool = False) -> str:
    """A bar in a row of its own for each, with its name and amount above it."""
    scale = (WIDTH - 2) / float(max([_end(each) for each in bars], default=Decimal(1)) or 1)
    drawn: list[str] = []
    for index, bar in enumerate(bars):
        top = index * _ROW
        amount = usd_text(bar.usd)
        if (most := usd_text(bar.most_usd)) != amount:
            amount += f" to {most}"
        drawn.append(f"<g><title>{escape(bar.title)}</title>")
        drawn.append(f'<text x="0" y="{top + 14}">{escape(_short(bar.label))}</text>')
        drawn.append(f'<text x="{WIDTH}" y="{top + 14}" text-anchor="end">{amount}</text>')
        at = 0.0
        for name, usd in _segments(bar):
            width = float(usd) * scale
            drawn.append(_rect(name, at, top + 19, width, _BAR))
            at += width
        drawn.append("</g>")
    return _svg(drawn, height=max(len(bars), 1) * _ROW, alone=alone, says="cost by name")


def columns_chart(bars: Sequence[Bar], *, alone: bool = False) -> str:
    """A column for each, with amounts at the left and the first and last name below."""
    step = _step(max([_end(each) for each in bars], default=Decimal(0)))
    scale = _PLOT_HEIGHT / (step * _TICKS)
    each_width = (WIDTH - _LEFT) / max(len(bars), 1)
    drawn = [_tick(number, step) for number in range(_TICKS + 1)]
    for index, bar in enumerate(bars):
        left, bottom = _LEFT + index * each_width, float(_PLOT_HEIGHT + 10)
        width = min(each_width * 0.8, 36.0)
        drawn.append(f"<g><title>{escape(bar.title)}</title>")
        for name, usd in _segments(bar):
            height = float(usd) * scale
            bottom -= height
            drawn.append(_rect(name, left, bottom, width, height))
        drawn.append("</g>")
    below = _PLOT_HEIGHT + 28
    if bars:
        drawn.append(f'<text x="{_LEFT}" y="{below}">{escape(bars[0].label)}</text>')
    if len(bars) > 1:
        last = escape(bars[-1].label)
        drawn.append(f'<text x="{WIDTH}" y="{below}" text-anchor="end">{last}</text>')
    return _svg(drawn, height=_PLOT_HEIGHT + 34, alone=alone, says="cost by day")


def _end(bar: Bar) -> Decimal:
    return max(bar.usd, bar.most_usd)


def _segments(bar: Bar) -> list[tuple[str, Decimal]]:
    parts = [
        ("kept", bar.kept_usd),
        ("waste", bar.waste_usd),
        ("most", max(bar.most_usd - bar.usd, Decimal(0))),
    ]
    return [(name, usd) for name, usd in parts if usd > 0]


def _step(most: Decimal) -> float:
    """A round amount, so that a few of them reach the highest bar."""
    if most <= 0:
        return 0.25
    least = float(most) / _TICKS
    power = 10.0 ** math.floor(math.log10(least))
    return next(each * power for each in (1, 2, 2.5, 5, 10) if each * power >= least * 0.9999)


def _tick(number: int, step: float) -> str:
    y = _PLOT_HEIGHT + 10 - number * _PLOT_HEIGHT / _TICKS
    text = f"${step * number:,.10g}"
    return (
        f'<line x1="{_LEFT}" x2="{WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'
    )


def _rect(name: str, x: float, y: float, width: float, height: float) -> str:
    return (
        f'<rect class="{name}" x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.8):.1f}" '
        f'height="{max(height, 0.8):.1f}"/>'
    )


def _short(label: str) -> str:
    if len(label) <= _LABEL_CHARACTERS:
        return label
    return f"{label[: _LABEL_CHARACTERS - 1]}…"


def _svg(drawn: Sequence[str], *, height: float, alone: bool, says: str) -> str:
    # A picture without a size of its own is not seen in a cell of a table.
    size = f' width="{WIDTH}" height="{height}"' if alone else ""
    style = f"<style>{_ALONE}</style>" if alone else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"{size} role="img" '
        f'aria-label="{says}">{style}{"".join(drawn)}</svg>'
    )
