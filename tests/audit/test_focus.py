"""The usage table in FOCUS 1.2, against the rules of the specification's columns."""

import csv
import json
import re
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from dagster_imagegen.audit.focus import FOCUS_SCHEMA, Biller, write_focus
from dagster_imagegen.engine.errors import ConfigurationError
from tests.audit.rows import SANDBOX_ROW, row, unknown, usage

# Where the rules are from, and how far each was checked:
# - Which columns must be there, and every column's type, nulls and allowed values: a table of the
#   rules of FOCUS 1.2 by id (CostAndUsage-D-003-C, BilledCost-C-001-M, …), read for each column
#   below. The first presence rules were compared with the model of the foundation's validator,
#   github.com/finopsfoundation/focus_validator, focus_validator/rules/model-1.2.json.
# - What a column means: its text in github.com/FinOps-Open-Cost-and-Usage-Spec/FOCUS_Spec, at
#   commits that are not those of release 1.2. Read were BilledCost, BillingAccountId,
#   BillingAccountType, ChargeClass, ChargeFrequency, ConsumedQuantity, ContractedCost,
#   EffectiveCost, ListUnitPrice, PricingQuantity, ServiceCategory, ServiceSubcategory (in part),
#   SkuId and SkuPriceId; the formats of numbers, times and units; CreationDate and DataType of the
#   metadata. The other columns' texts were not.
# The validator itself was not run on a file of ours.
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
NUMBER = r"-?\d+(\.\d+)?"
TEXT = r"(?s).+"
RULES = {
    "BilledCost": NUMBER,
    "BillingAccountId": TEXT,
    "BillingAccountName": r"(?s).*",
    "BillingCurrency": r"[A-Z]{3}",
    "BillingPeriodEnd": TIME,
    "BillingPeriodStart": TIME,
    "ChargeCategory": r"Usage|Purchase|Tax|Credit|Adjustment",
    "ChargeClass": r"(Correction)?",
    "ChargeDescription": r"(?s).*",
    "ChargeFrequency": r"One-Time|Recurring|Usage-Based",
    "ChargePeriodEnd": TIME,
    "ChargePeriodStart": TIME,
    "ContractedCost": NUMBER,
    "EffectiveCost": NUMBER,
    "ConsumedQuantity": NUMBER,
    "ConsumedUnit": r"[A-Z][A-Za-z0-9/ -]*",
    "InvoiceIssuerName": TEXT,
    "ListCost": NUMBER,
    "PricingQuantity": NUMBER,
    "PricingUnit": r"[A-Z][A-Za-z0-9/ -]*",
    "ProviderName": TEXT,
    "PublisherName": TEXT,
    "ServiceCategory": r"AI and Machine Learning",
    "ServiceName": TEXT,
    "ServiceSubcategory": r"Generative AI",
    "SkuId": TEXT,
    "Tags": r"(\{.*\})?",
}
"""By column, what a value must look like. A column that may be null has an empty one."""

LEFT_OUT = {"ListUnitPrice", "ContractedUnitPrice", "SkuPriceId", "SkuPriceDetails", "SkuMeter"}
"""Required of providers with a price list, and known to them alone."""

ROWS = (
    row(1, asset_tags='{"team": "growth"}', asset_group="shop", asset_owners="team:growth"),
    row(2, cost_usd=Decimal("0.00000005"), cost_basis="reported"),
    unknown(3),
    row(4, cost_usd=None, cost_usd_max=None, cost_basis="unknown", endpoint_id=None, model=None),
    row(5, started_at=datetime(2026, 12, 31, 23, 59, 59, 5, tzinfo=timezone.utc)),
    SANDBOX_ROW,
)


def exported(path: Path) -> list[dict[str, str]]:
    """The rows as CSV."""
    write_focus(usage(*ROWS), path)
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_value_follows_the_rules_of_its_column(tmp_path: Path) -> None:
    """No column is missing, ours begin with x_, and periods are not empty."""
    rows = exported(tmp_path / "focus.csv")
    assert {name for name in rows[0] if not name.startswith("x_")} == set(RULES)
    assert not LEFT_OUT & set(rows[0])
    for each in rows:
        for name, rule in RULES.items():
            assert re.fullmatch(rule, each[name]), f"{name} is {each[name]!r}"
        assert each["ChargePeriodStart"] < each["ChargePeriodEnd"] <= each["BillingPeriodEnd"]
        assert each["BillingPeriodStart"] <= each["ChargePeriodStart"]


def test_the_costs_sum_to_those_of_the_usage_table(tmp_path: Path) -> None:
    """To the last decimal; the sandbox is left out."""
    rows = exported(tmp_path / "focus.csv")
    recorded = sum((each["cost_usd"] or Decimal(0)) for each in ROWS)
    for name in ("BilledCost", "EffectiveCost", "ListCost", "ContractedCost"):
        assert sum(Decimal(each[name]) for each in rows) == recorded
    assert len(rows) == len(ROWS) - 1


def test_a_cost_that_nobody_reported_is_marked_as_an_estimate(tmp_path: Path) -> None:
    """Only one endpoint has said what it charged."""
    rows = exported(tmp_path / "focus.csv")
    assert [each["x_IsEstimate"] for each in rows] == ["true", "false", "true", "true", "true"]


def test_an_unknown_cost_is_nothing_and_has_no_bound(tmp_path: Path) -> None:
    """FOCUS has no null for a cost; ours beside it says that nothing is known. A row from before
    there was a bound has its cost as one."""
    old = row(6, cost_usd_max=None)
    write_focus(usage(ROWS[3], old), tmp_path / "focus.csv")
    with (tmp_path / "focus.csv").open(encoding="utf-8", newline="") as file:
        unpriced, priced = csv.DictReader(file)
    assert Decimal(unpriced["BilledCost"]) == 0
    assert (unpriced["x_CostBasis"], unpriced["x_CostUsdMax"]) == ("unknown", "")
    assert Decimal(priced["x_CostUsdMax"]) == Decimal("0.05")


def test_no_cell_is_a_formula_in_a_spreadsheet(tmp_path: Path) -> None:
    """Text that begins like one gets an apostrophe in CSV; Parquet has it as it is."""
    hostile = '=HYPERLINK("https://evil.example","cheap")'
    ours = usage(row(1, prompt_id=hostile, asset_key="@SUM(1)", cost_usd=Decimal("-0.05")))
    for name in ("focus.csv", "focus.parquet"):
        write_focus(ours, tmp_path / name)
    with (tmp_path / "focus.csv").open(encoding="utf-8", newline="") as file:
        (cells,) = csv.DictReader(file)
    assert (cells["x_PromptId"], cells["x_AssetKey"]) == (f"'{hostile}", "'@SUM(1)")
    assert Decimal(cells["BilledCost"]) == Decimal("-0.05")
    assert pq.read_table(tmp_path / "focus.parquet")["x_PromptId"].to_pylist() == [hostile]


def test_the_last_day_of_a_year_is_billed_in_december(tmp_path: Path) -> None:
    """Periods end where the next one begins."""
    last = exported(tmp_path / "focus.csv")[-1]
    assert last["BillingPeriodStart"] == "2026-12-01T00:00:00Z"
    assert last["BillingPeriodEnd"] == last["ChargePeriodEnd"] == "2027-01-01T00:00:00Z"


def test_the_file_states_the_version(tmp_path: Path) -> None:
    """In Parquet in the schema, and beside either file."""
    for name in ("focus.csv", "focus.parquet"):
        write_focus(usage(*ROWS), tmp_path / name, biller=Biller(provider="Acme"))
        beside = json.loads((tmp_path / f"{name}.metadata.json").read_text("utf-8"))
        assert beside["Schema"]["FocusVersion"] == "1.2"
        assert re.fullmatch(TIME, beside["Schema"]["CreationDate"])
    table = pq.read_table(tmp_path / "focus.parquet")
    assert table.schema.equals(FOCUS_SCHEMA)
    assert (table.schema.metadata or {})[b"FocusVersion"] == b"1.2"
    assert set(table["ProviderName"].to_pylist()) == {"Acme"}


def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    """Of another ending, or in no folder; nothing is written."""
    with pytest.raises(ConfigurationError, match="there is no folder"):
        write_focus(usage(*ROWS), tmp_path / "none" / "focus.csv")
    with pytest.raises(ConfigurationError, match=r"must end in \.csv or \.parquet"):
        write_focus(usage(*ROWS), tmp_path / "focus.xlsx")
    assert not list(tmp_path.iterdir())
