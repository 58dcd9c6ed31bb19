"""`reconcile` on a storage that the sandbox has filled."""

from typing import Any

from dagster_imagegen.audit.reconciliation import COLUMNS
from tests.cli.conftest import MODEL, Shop


def test_an_export_of_the_recorded_sums_matches_and_a_doctored_one_does_not(shop: Shop) -> None:
    """Status 0 and 1, and nothing in the storage is changed."""
    shop.fill("a red mug", "a blue mug")
    rows: list[dict[str, Any]] = shop.engine().usage.read(columns=COLUMNS).to_pylist()
    day = rows[0]["started_at"].date()
    cost = sum(each["cost_usd"] for each in rows)
    before = shop.state()
    good = shop.table("good.csv", f"day,model,cost_usd,requests\n{day},{MODEL},{cost},2\n")
    ran = shop.run("reconcile", good, "--json")
    assert (ran.status, ran.found["matched"]) == (0, 2)
    bad = shop.table("bad.csv", f"day,model,cost_usd,requests\n{day},{MODEL},{cost + 1},2\n")
    ran = shop.run("reconcile", bad, "--json")
    assert (ran.status, ran.found["different"]) == (1, 1)
    assert [line["difference"] for line in ran.found["lines"]] == ["1", "0"]
    assert shop.run("reconcile", bad, "--tolerance-usd", "1").status == 0
    assert shop.state() == before


def test_a_file_with_other_columns_ends_with_status_2(shop: Shop) -> None:
    """The message names the file, the columns found, and those needed."""
    shop.fill("a red mug")
    other = shop.table("other.csv", "date,amount\n1,2\n")
    ran = shop.run("reconcile", other)
    assert ran.status == 2
    assert f"{other} has the columns date, amount; needed are day and model" in ran.err
    good = shop.table("good.csv", "day,model,cost_usd\n2026-11-24,m,1\n")
    assert shop.run("reconcile", good, "--tolerance-usd", "much").status == 2
    assert shop.run("reconcile", good, "--rename", "m").status == 2
