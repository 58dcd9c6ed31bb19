"""The bill as one HTML file: no scripts, nothing loaded, for screens, telephones and paper."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from html import escape
from importlib.resources import files
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dagster_imagegen.audit.bars import (
    CAUSE_NAMES,
    NOTHING,
    bars_by,
    bars_by_time,
    bars_of_waste,
    money,
    ranked,
)
from dagster_imagegen.audit.charts import columns_chart, rows_chart
from dagster_imagegen.audit.cost_table import KEPT, PER_IMAGE, summed
from dagster_imagegen.engine.money.amounts import usd_text

ROWS_MAX = 50
_TABLES = {
    "asset_key": "asset",
    "partition_key": "partition",
    "model": "model",
    "quality": "quality",
    "size": "size",
    "asset_group": "group",
    "asset_owners": "owners",
    "asset_tags": "tags",
    "endpoint_id": "endpoint",
    "cause": "what was paid for",
}
_TERMS = (
    ("charged", "what was charged as far as anybody can tell: the sum of cost_usd"),
    (
        "at most",
        "the most that may have been charged, if every doubtful request was billed: the sum of "
        "cost_usd_max",
    ),
    ("kept", "images that are in use: neither made again nor replaced by a revision since"),
    ("waste", "what was charged for no image that is in use"),
    ("per image kept", "what was charged, waste included, divided by the images kept"),
)


def report_html(
    costs: pa.Table, *, made_at: datetime, source: str, title: str = "Cost of images"
) -> str:
    """The report of a cost table that is grouped by all of `DIMENSIONS`, as one HTML document.

    `source` says where the figures come from, e.g. the usage table's address. Every text is
    escaped. Requests to the sandbox are counted in a section of their own.
    """
    paid = money(costs)
    sandbox = costs.filter(pc.field("sandbox"))
    body = [
        _head(paid, title=title, made_at=made_at, source=source),
        _charts(paid) if paid.num_rows else "<p>No request has cost money yet.</p>",
        *(_table(paid, by, name) for by, name in _TABLES.items() if _tells(paid, by)),
        _table(paid, "day", "day", latest_first=True),
        _sandbox(sandbox),
        _terms(),
    ]
    style = files("dagster_imagegen.audit").joinpath("report.css").read_text("utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{style}</style></head>\n<body><main>"
        + "\n".join(body)
        + "</main></body></html>\n"
    )


def _head(paid: pa.Table, *, title: str, made_at: datetime, source: str) -> str:
    total = summed(paid, []).to_pylist()[0]
    facts = [
        ("charged", _usd(total["cost_usd"])),
        ("at most", _most(total)),
        ("waste", _waste(total)),
        ("per image kept", _usd(total[PER_IMAGE])),
        ("images kept", _count(total["images_kept"])),
        ("requests", _count(total["requests"])),
    ]
    tiles = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts)
    return (
        f"<header><h1>{escape(title)}</h1><p>{escape(_period(paid))} "
        f"Made {made_at:%Y-%m-%d %H:%M} UTC from <code>{escape(source)}</code>.</p>"
        f'<dl class="tiles">{tiles}</dl>{_unpriced(total)}</header>'
    )


def _period(paid: pa.Table) -> str:
    days = sorted(each for each in paid["day"].to_pylist() if each is not None)
    return f"Requests of {days[0]} to {days[-1]}, days of UTC." if days else "No requests."


def _unpriced(total: dict[str, Any]) -> str:
    count = total["unpriced_requests"] or 0
    if not count:
        return ""
    plural = "s" if count != 1 else ""
    return (
        f'<p class="warning">{count:,} request{plural} of unknown cost: no price is known, so they '
        "are in no sum, and there is no upper bound.</p>"
    )


def _charts(paid: pa.Table) -> str:
    charts = [
        ("Cost over time", columns_chart(bars_by_time(paid))),
        ("By asset", rows_chart(bars_by(paid, "asset_key"))),
        ("By model", rows_chart(bars_by(paid, "model"))),
    ]
    if waste := bars_of_waste(paid):
        charts.append(("Waste by cause", rows_chart(waste)))
    key = (
        '<p class="key"><span class="kept">images kept</span> <span class="waste">waste</span> '
        '<span class="most">may have been charged</span></p>'
    )
    drawn = "".join(
        f"<figure><figcaption>{name}</figcaption>{svg}</figure>" for name, svg in charts
    )
    return f'<section>{key}<div class="charts">{drawn}</div></section>'


def _tells(paid: pa.Table, by: str) -> bool:
    """Whether a table by this column would say anything."""
    return by in paid.column_names and paid.num_rows > paid[by].null_count


# -- tables ----------------------------------------------------------------------------------------

_HEADS = ("requests", "images kept", "charged", "at most", "waste", "per image kept")


def _table(paid: pa.Table, by: str, name: str, *, latest_first: bool = False) -> str:
    rows = ranked(paid, by)
    if not rows:
        return ""
    if latest_first:
        rows = sorted(rows, key=lambda row: str(row[by]), reverse=True)
    lines = [_line(_name(row[by]), _cells(row)) for row in rows[:ROWS_MAX]]
    if rest := rows[ROWS_MAX:]:
        lines.append(_line(f"{len(rest):,} more", _cells(_total(rest))))
    if len(rows) > 1:
        lines.append(_line("all", _cells(_total(rows)), kind=' class="all"'))
    heads = "".join(f'<th scope="col">{each}</th>' for each in (name, *_HEADS))
    return (
        f"<section><h2>By {name}</h2><table><thead><tr>{heads}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></section>"
    )


def _name(value: object) -> str:
    if value == KEPT:
        return "images kept"
    return NOTHING if value is None else CAUSE_NAMES.get(str(value), str(value))


def _line(name: str, cells: Sequence[str], *, kind: str = "") -> str:
    named = zip(_HEADS, cells, strict=True)
    values = "".join(f'<td data-head="{head}">{value}</td>' for head, value in named)
    return f'<tr{kind}><th scope="row">{escape(name)}</th>{values}</tr>'


def _cells(row: dict[str, Any]) -> list[str]:
    return [
        _count(row["requests"]),
        _count(row["images_kept"]),
        _usd(row["cost_usd"]) + _and_unknown(row),
        _most(row),
        _waste(row),
        _usd(row[PER_IMAGE]),
    ]


def _total(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    names = (
        "requests",
        "images_kept",
        "unpriced_requests",
        "cost_usd",
        "cost_usd_max",
        "waste_usd",
    )
    total: dict[str, Any] = {name: sum(row[name] or 0 for row in rows) for name in names}
    kept = total["images_kept"]
    return {**total, PER_IMAGE: Decimal(total["cost_usd"]) / kept if kept else None}


def _count(value: int | None) -> str:
    return f"{value or 0:,}"


def _usd(value: Decimal | None) -> str:
    return "–" if value is None else usd_text(Decimal(value))


def _most(row: dict[str, Any]) -> str:
    return "not known" if row["unpriced_requests"] else _usd(row["cost_usd_max"] or Decimal(0))


def _and_unknown(row: dict[str, Any]) -> str:
    return f" + {row['unpriced_requests']:,} unknown" if row["unpriced_requests"] else ""


def _waste(row: dict[str, Any]) -> str:
    cost, waste = row["cost_usd"] or Decimal(0), row["waste_usd"] or Decimal(0)
    return f"{usd_text(Decimal(waste))} ({waste / cost:.0%})" if cost else usd_text(Decimal(waste))


# -- what is no money ------------------------------------------------------------------------------


def _sandbox(rows: pa.Table) -> str:
    if not rows.num_rows:
        return ""
    total = summed(rows, []).to_pylist()[0]
    return (
        f"<section><h2>Sandbox</h2><p>{total['requests']:,} requests to the sandbox brought "
        f"{total['images']:,} images. They cost nothing and are in none of the figures above."
        "</p></section>"
    )


def _terms() -> str:
    terms = "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in _TERMS)
    return f'<section><h2>The words</h2><dl class="terms">{terms}</dl></section>'
