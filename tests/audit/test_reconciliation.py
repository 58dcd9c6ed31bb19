"""The usage table against a provider's export."""

from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagster_imagegen.audit.provider_export import read_export
from dagster_imagegen.audit.reconciliation import Tolerance, reconcile
from dagster_imagegen.engine.errors import ConfigurationError
from tests.audit.rows import MODEL, SANDBOX_ROW, row, unknown, usage

DAY = datetime(2026, 11, 24, 12, tzinfo=timezone.utc)


def test_a_doctored_export_shows_each_planted_difference(tmp_path: Path) -> None:
    """A changed sum, a line left out, a line added, and one that unknown requests explain."""
    ours = usage(
        row(1),
        row(2, model="dearer"),
        row(3, model="left-out"),
        row(4, model="explained"),
        unknown(5, model="explained"),
        row(6, model="too-much"),
        unknown(7, model="too-much"),
        row(8, started_at=DAY - timedelta(days=1)),
        row(9, model="rejected", billing="not_billed", cost_usd=Decimal(0)),
        SANDBOX_ROW,
    )
    file = tmp_path / "export.csv"
    file.write_text(
        "day,model,cost_usd\n"
        f"2026-11-24,{MODEL},0.05\n"
        "2026-11-24,dearer,0.90\n"
        "2026-11-24,explained,0.05\n"
        "2026-11-24,too-much,0.50\n"
        "2026-11-24,added,3\n"
    )
    found = reconcile(ours, read_export(file))
    assert {line.model: line.verdict for line in found.lines} == {
        MODEL: "matched",
        "dearer": "different",
        "left-out": "ours_only",
        "explained": "may_be_unknown",
        "too-much": "different",
        "added": "theirs_only",
    }
    assert [each["attempt_id"] for each in found.unknown] == ["journal-5", "journal-7"]
    assert not found.agrees
    assert found.to_table().num_rows == len(found.lines)
    differences = {line.model: line.difference for line in found.lines}
    assert differences["dearer"] == Decimal("0.85")
    assert differences["explained"] == Decimal("-0.07")


def test_tokens_and_requests_are_compared_where_the_export_has_them() -> None:
    """Each figure has its own line and verdict."""
    table = pa.table(
        {"day": [date(2026, 11, 24)], "model": [MODEL], "requests": [2], "tokens": [2000]}
    )
    found = reconcile(usage(row(1), row(2)), read_export(table))
    assert {line.figure: line.verdict for line in found.lines} == {
        "requests": "matched",
        "tokens": "different",
    }


def test_a_day_is_one_of_utc() -> None:
    """A time with a zone is converted, and a request late in the evening belongs to its UTC day."""
    late = datetime(2026, 11, 24, 23, 59, tzinfo=timezone(timedelta(hours=-5)))
    table = pa.table({"day": ["2026-11-24T21:00:00-05:00"], "model": [MODEL], "cost_usd": ["0.05"]})
    found = reconcile(usage(row(1, started_at=late)), read_export(table))
    assert [(line.day, line.verdict) for line in found.lines] == [(date(2026, 11, 25), "matched")]


def test_the_costs_export_of_openai_is_summed_by_model(tmp_path: Path) -> None:
    """Its line items name the model before a comma; its times are seconds."""
    file = tmp_path / "costs.csv"
    file.write_text(
        "start_time,end_time,amount_value,amount_currency,line_item,project_id\n"
        f'1763942400,1764028800,0.01,usd,"{MODEL}, text input",p\n'
        f'1763942400,1764028800,0.04,usd,"{MODEL}, image output",p\n'
    )
    at = datetime(2025, 11, 24, 5, tzinfo=timezone.utc)
    found = reconcile(usage(row(1, started_at=at)), read_export(file))
    assert [(line.theirs, line.verdict) for line in found.lines] == [(Decimal("0.05"), "matched")]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("date,amount\n1,2\n", "has the columns date, amount; needed are day and model"),
        ("", "has the columns none; needed are day and model"),
        ("day,model,cost_usd\n2026-11-24,m,much\n", "row 1: cost_usd must be a plain number"),
        ('day,model,cost_usd\n2026-11-24,m,"1,234.50"\n', "a plain number such as 1234.50"),
        ("day;model;cost_usd\n2026-11-24;m;0,05\n", "has semicolons between its fields"),
        ("day,model,cost_usd\nMonday,m,1\n", "row 1: the day must be a date"),
        ("day,model,cost_usd\n2026-11-24,,1\n", "row 1: no model is named"),
        ("day,model,cost_usd\n", "has no rows"),
        ("day,model,cost_usd\n2026-11-24,m\n", "row 1: there are fewer fields than columns"),
        ("day,model,cost_usd\n2026-11-24,m,1,000\n", "row 1: there are more fields than columns"),
        (
            "day,model,cost_usd\n2026-11-24,m,1e999999\n",
            "number such as 1234.50, below 1000000000000000",
        ),
        (
            "start_time,amount_value,amount_currency,line_item\n1763942400,1,eur,m\n",
            "amount_currency must be usd, got eur",
        ),
    ],
)
def test_another_file_is_an_error_that_names_it(tmp_path: Path, text: str, complaint: str) -> None:
    """The file, what was found, and what is needed."""
    file = tmp_path / "other.csv"
    file.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        read_export(file)
    assert str(file) in str(caught.value)
    assert complaint in str(caught.value)


def test_amounts_are_added_up_exactly_and_digits_of_floats_do_no_harm() -> None:
    """Ten thousand tenths of a cent are 10 dollars, not nearly so; an amount may be tiny."""
    costs = ["0.001"] * 10_000 + ["0.06000000000000000388578058618804789", "1e-999999", "0e99999"]
    models = [MODEL] * 10_000 + ["float", "tiny", "tiny"]
    table = pa.table({"day": ["2026-11-24T23:59:59Z"] * 10_003, "model": models, "cost_usd": costs})
    found = reconcile(usage(row(1, cost_usd=Decimal(10))), read_export(table))
    theirs = {line.model: line.theirs for line in found.lines}
    assert theirs == {MODEL: 10, "float": Decimal("0.06"), "tiny": 0}
    assert found.to_table()["theirs"].to_pylist() == list(theirs.values())
    assert all(len(f"{each:f}") < 40 for each in theirs.values())


def test_rows_that_could_explain_a_difference_are_listed_up_to_a_limit() -> None:
    """Also those that say nothing of their billing."""
    ours = usage(*(unknown(number) for number in range(5)), unknown(5, billing=None))
    table = pa.table({"day": ["2026-11-24"], "model": [MODEL], "cost_usd": ["9"]})
    found = reconcile(ours, read_export(table), unknown_max=2)
    assert (len(found.unknown), found.unknown_left_out) == (2, 4)


cents = st.integers(0, 500).map(lambda each: Decimal(each) / 100)


@given(known=cents, bounds=st.lists(cents, max_size=4), theirs=cents)
def test_a_difference_is_explained_only_within_the_bounds(
    known: Decimal, bounds: list[Decimal], theirs: Decimal
) -> None:
    """Whatever the provider charged: beyond what unknown requests can have cost, it is told."""
    lost = [unknown(n, cost_usd=most, cost_usd_max=most) for n, most in enumerate(bounds, 1)]
    ours = usage(row(0, cost_usd=known, cost_usd_max=known), *lost)
    table = pa.table({"day": ["2026-11-24"], "model": [MODEL], "cost_usd": [str(theirs)]})
    found = reconcile(ours, read_export(table), tolerance=Tolerance(usd=Decimal(0)))
    assert found.agrees == (known <= theirs <= known + sum(bounds))
