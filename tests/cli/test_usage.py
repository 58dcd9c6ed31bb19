"""`usage` at other prices and in FOCUS, on a storage that the sandbox has filled."""

import csv
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from dagster_imagegen.audit.reconciliation import COLUMNS
from tests.cli.conftest import MODEL, Shop

DEARER = "{usd_per_million_tokens: {text_input: 1000, image_output: 1000}}"


def recorded(shop: Shop) -> Decimal:
    """What is on record, in all."""
    rows: list[dict[str, Any]] = shop.engine().usage.read(columns=COLUMNS).to_pylist()
    return sum((each["cost_usd"] for each in rows), Decimal(0))


def test_other_prices_stand_beside_what_is_on_record(shop: Shop) -> None:
    """In all, by group, and for each request in a file; nothing on record is changed."""
    shop.fill("a red mug", "a blue mug")
    before = shop.state()
    prices = shop.table("prices.yaml", f"{MODEL}: {DEARER}\n")
    found = shop.run("usage", "--prices", prices, "--by", "day,model", "--json").found
    assert found["repriced_requests"] == 2
    assert Decimal(found["recorded_usd"]) == recorded(shop)
    assert Decimal(found["repriced_usd"]) > 2 * recorded(shop)
    difference = Decimal(found["repriced_usd"]) - Decimal(found["recorded_usd"])
    assert Decimal(found["difference_usd"]) == difference
    assert [each["model"] for each in found["usage"]] == [MODEL]
    assert found["not_repriced"] == []
    file = shop.folder / "repriced.parquet"
    assert shop.run("usage", "--prices", prices, "--output", str(file)).status == 0
    rows: list[dict[str, Any]] = pq.read_table(file).to_pylist()
    assert sum(each["repriced_usd"] for each in rows) == Decimal(found["repriced_usd"])
    assert shop.state() == before


def test_the_focus_file_sums_to_the_bill(shop: Shop) -> None:
    """To the last decimal, filtered like the bill, and with the biller that was named."""
    shop.fill("a red mug", "a blue mug")
    file = shop.folder / "focus.csv"
    who = ("--provider", "Acme", "--billing-account", "acct-7")
    assert shop.run("usage", "--focus", str(file), *who).status == 0
    with file.open(encoding="utf-8", newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert sum(Decimal(each["BilledCost"]) for each in rows) == recorded(shop)
    assert {(each["ProviderName"], each["BillingAccountId"]) for each in rows} == {
        ("Acme", "acct-7")
    }
    assert shop.run("usage", "--focus", str(file), "--model", "none").status == 0
    assert len(file.read_text("utf-8").splitlines()) == 1


def test_what_cannot_work_ends_with_status_2_and_writes_nothing(shop: Shop) -> None:
    """Files of another ending or in no folder, options against one another, and wrong prices."""
    shop.fill("a red mug")
    prices = shop.table("prices.yaml", f"{MODEL}: {DEARER}\n")
    wrong = shop.table("wrong.yaml", f"{MODEL}: {{usd_per_million_tokens: many}}\n")
    before = set(shop.folder.iterdir())
    focus, page = str(shop.folder / "focus.csv"), str(shop.folder / "bill.html")
    for arguments in (
        ("--focus", str(shop.folder / "focus.xlsx")),
        ("--focus", str(shop.folder / "none" / "focus.csv")),
        ("--focus", focus, "--prices", prices),
        ("--provider", "Acme"),
        ("--prices", prices, "--output", page),
        ("--prices", prices, "--by", "cause"),
        ("--prices", wrong),
        ("--output", str(shop.folder / "none" / "bill.csv")),
    ):
        assert shop.run("usage", *arguments).status == 2, arguments
    assert set(shop.folder.iterdir()) == before


def test_the_bill_as_csv_has_exact_amounts(shop: Shop) -> None:
    """Without exponents, and the file is whole or not there."""
    shop.fill("a red mug")
    file: Path = shop.folder / "bill.csv"
    assert shop.run("usage", "--output", str(file)).status == 0
    with file.open(encoding="utf-8", newline="") as opened:
        (row,) = csv.DictReader(opened)
    assert Decimal(row["cost_usd"]) == recorded(shop)
    assert "E" not in row["cost_usd"]
    assert not list(shop.folder.glob(".*.tmp"))
