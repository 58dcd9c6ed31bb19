"""`plan` and `diff`: what a file of prompts would send, and what a change of it affects."""

from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dagster_imagegen.cli.options import StorageChoice
from tests.cli.conftest import MODEL, Shop

LOW = ("--param", "quality=low", "--param", "size=1024x1024")


def test_a_plan_tells_what_is_paid_and_what_is_to_be_sent(shop: Shop) -> None:
    """One of three images is there: two are to be requested, at their price; nothing is sent."""
    shop.fill("a mug")
    shop.sent()
    before = shop.state()
    file = shop.table("prompts.csv", "prompt\na mug\na lamp\na chair\na chair\n")
    told = shop.send("plan", file, "--param", "quality=low", "--rate", "4", "--json")
    assert told.status == 0
    found = told.found
    counts = ("rows", "images", "already_paid", "duplicates", "to_request", "minutes")
    assert [found[each] for each in counts] == [4, 4, 1, 1, 2, 0.5]
    assert 0 < Decimal(found["cost_usd_least"]) < Decimal(found["cost_usd_most"])
    assert [(each["model"], each["requests"]) for each in found["requests"]] == [(MODEL, 2)]
    assert (shop.sent(), shop.state()) == (0, before)


def test_a_plan_reads_parquet_and_jsonl_too(shop: Shop) -> None:
    """The same rows in each format are the same plan."""
    pq.write_table(pa.table({"prompt": ["a mug", "a lamp"]}), shop.folder / "prompts.parquet")
    files = [
        shop.table("prompts.csv", "prompt\na mug\na lamp\n"),
        shop.table("prompts.jsonl", '{"prompt": "a mug"}\n\n{"prompt": "a\\u0020lamp"}\n'),
        str(shop.folder / "prompts.parquet"),
    ]
    told = [shop.send("plan", file, *LOW, "--json") for file in files]
    assert told[0].found["to_request"] == 2
    assert told[0].out == told[1].out == told[2].out


def test_a_plan_takes_a_template_overrides_and_a_limit(shop: Shop) -> None:
    """As an asset does."""
    file = shop.table("p.csv", "name,size\nmug,1024x1024\nlamp,1536x1024\nchair,1024x1024\n")
    options = ("--template", "a {name}", "--override", "size", "--limit", "2")
    told = shop.send("plan", file, *options, "--json")
    assert [each["size"] for each in told.found["requests"]] == ["1024x1024", "1536x1024"]


def test_your_own_prices_count(shop: Shop) -> None:
    """A price file has the prices of the resource's setting."""
    file = shop.table("prompts.csv", "prompt\na mug\n")
    prices = shop.table("prices.yaml", f"{MODEL}:\n  usd_per_image: {{'*': {{'*': 0.5}}}}\n")
    told = shop.send("plan", file, "--prices", prices, "--json")
    assert told.found["cost_usd_most"] == "0.5"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("p.csv", "name,colour\nmug,red\n", 'no column "prompt"'),
        ("p.csv", 'prompt\n"never closed\n', "cannot be read"),
        ("p.csv", "prompt\n   \n", "row 0"),
        ("p.jsonl", '{"prompt": "a mug"}\n[1]\n', "line 2"),
        ("p.jsonl", '{"prompt": "a mug"}\n{"prom', "line 2"),
        ("p.parquet", "no Parquet", "cannot be read"),
        ("p.xlsx", "PK", ".csv or .parquet or .jsonl"),
    ],
)
def test_a_file_that_cannot_be_sent_is_refused(shop: Shop, name: str, text: str, said: str) -> None:
    """Status 2, with the place and the remedy, and nothing is written."""
    told = shop.send("plan", shop.table(name, text))
    assert told.status == 2
    assert said in told.err
    assert "Traceback" not in told.err
    assert not shop.storage.exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a list", "must map model names to prices"),
        ("m: 3", "must be a model name with a price below it"),
        ("m: {usd_per_picture: 3}", "is not part of a price"),
        ("m: {usd_per_image: {'*': {'*': -1}}}", "must"),
        ("{", "cannot be read"),
    ],
)
def test_a_wrong_price_file_is_refused(shop: Shop, text: str, said: str) -> None:
    """Status 2, with what is wrong in it."""
    file = shop.table("prompts.csv", "prompt\na mug\n")
    told = shop.send("plan", file, "--prices", shop.table("prices.yaml", text))
    assert told.status == 2
    assert said in told.err
    assert "Traceback" not in told.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--param", "sise=1"), 'did you mean "size"'),
        (("--param", "size"), "is not NAME=VALUE"),
        (("--param", "n=many"), "n must be"),
        (("--storage-option", "secret=abc"), "env:VARIABLE"),
        (("--storage-option", 'client_kwargs={"a": [{"aws_secret": "abc"}]}'), "env:VARIABLE"),
        (("--storage-option", "sftp_pass=abc"), "env:VARIABLE"),
        (("--storage-option", "secret=env:NOT_THERE_AT_ALL"), "NOT_THERE_AT_ALL is not set"),
        (("--header", "x-gateway"), "--header must be NAME=VALUE"),
        (("--header", "Authorization: Bearer c2VjcmV0=="), "--header must be NAME=VALUE"),
        (("--header", "X-Auth=abc"), "X-Auth=env:VARIABLE"),
        (("--header", "api-key=abc"), "api-key=env:VARIABLE"),
        (("--header", "Cookie=abc"), "Cookie=env:VARIABLE"),
        (("--header", "x-gateway=Bearer c2VjcmV0"), "x-gateway=env:VARIABLE"),
    ],
)
def test_options_that_cannot_work_are_refused(
    shop: Shop, options: tuple[str, ...], said: str
) -> None:
    """Status 2, with the option and the remedy; a secret is not taken from the command line."""
    told = shop.send("plan", shop.table("prompts.csv", "prompt\na mug\n"), *options)
    assert told.status == 2
    assert said in told.err
    assert "c2VjcmV0" not in told.err


def test_storage_options_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A password of digits stays text; options within an option are JSON."""
    monkeypatch.setenv("SHOP_SECRET", "0123")
    monkeypatch.setenv("SHOP_CLIENT", '{"aws_secret_access_key": "abc"}')
    given = ("secret=env:SHOP_SECRET", "client_kwargs=env:SHOP_CLIENT", "use_ssl=false")
    assert StorageChoice(storage="s3://shop", storage_option=given).options == {
        "secret": "0123",
        "client_kwargs": {"aws_secret_access_key": "abc"},
        "use_ssl": False,
    }


def test_a_diff_tells_rows_pictures_and_dollars(shop: Shop) -> None:
    """One row is changed, one added, one removed: two pictures are to be bought, one was paid."""
    shop.fill("a mug", "a lamp", "a chair")
    shop.sent()
    old = shop.table("old.csv", "prompt_id,prompt\n1,a mug\n2,a lamp\n3,a chair\n")
    new = shop.table("new.csv", "prompt_id,prompt\n1,a mug\n2,a red lamp\n4,a table\n")
    told = shop.send("diff", old, new, "--param", "quality=low", "--json")
    assert told.status == 1
    found = told.found
    rows = [found[f"rows_{each}"] for each in ("added", "changed", "removed", "same")]
    assert rows == [1, 1, 1, 1]
    assert (found["pictures_new"], found["new_to_request"]) == (2, 2)
    assert found["pictures_no_longer_used"] == 2
    assert Decimal(found["paid_for_those_usd_max"]) >= Decimal(found["paid_for_those_usd"]) > 0
    assert Decimal(found["new_list_usd_most"]) > Decimal(found["new_list_usd_least"]) > 0
    assert [(each["change"], each["prompt_id"]) for each in found["changes"]] == [
        ("changed", "2"),
        ("added", "4"),
        ("removed", "3"),
    ]
    assert shop.sent() == 0


def test_a_row_put_on_top_is_one_row(shop: Shop) -> None:
    """Without prompt_id, positions do not matter, and neither does the order."""
    old = shop.table("old.csv", "prompt\na mug\na lamp\na lamp\n")
    new = shop.table("new.csv", "prompt\na table\na lamp\na mug\na lamp\n")
    found = shop.send("diff", old, new, "--json").found
    assert [found[f"rows_{each}"] for each in ("added", "removed", "same")] == [1, 0, 3]


def test_equal_tables_have_status_0(shop: Shop) -> None:
    """As with `diff` itself."""
    file = shop.table("old.csv", "prompt\na mug\n")
    assert shop.send("diff", file, file).status == 0
