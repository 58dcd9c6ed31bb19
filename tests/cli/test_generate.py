"""`generate`, `adopt` and `models`: real requests, real files, real signals."""

import csv
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from dagster_imagegen.cli import main
from dagster_imagegen.cli.generate import _cell  # pyright: ignore[reportPrivateUsage]
from dagster_imagegen.sandbox import Sandbox
from tests.cli.conftest import ENDPOINT_ID, MODEL, Shop
from tests.fire.parrot import Parrot, success

LOW = ("--param", "quality=low", "--param", "size=1024x1024")


def test_generate_pays_once_and_tells_both_figures(shop: Shop) -> None:
    """The second run sends nothing; costs are those on record; the image table is written."""
    file = shop.table("prompts.csv", "prompt,sku\na mug,7\na lamp,8\n")
    output = shop.folder / "images.parquet"
    first = shop.send("generate", file, *LOW, "--output", str(output), "--json")
    assert first.status == 0
    found = first.found
    assert (found["generated"], found["requests"], shop.sent()) == (2, 2, 2)
    usage = shop.engine().usage.read(columns=["run_id", "cost_usd", "cost_usd_max"]).to_pylist()
    assert {row["run_id"] for row in usage} == {found["run_id"]}
    for name in ("cost_usd", "cost_usd_max"):
        assert Decimal(found[name]) == sum(row[name] for row in usage) > 0
    table = pq.read_table(output)
    assert table["sku"].to_pylist() == ["7", "8"]
    assert all(Path(str(each)).is_file() for each in table["image_uri"].to_pylist())
    assert "2 to request" in first.err

    again = shop.send("generate", file, *LOW, "--json")
    assert (again.status, again.found["reused"], shop.sent()) == (0, 2, 0)


def test_with_a_request_of_unknown_cost_there_is_no_upper_bound(shop: Shop) -> None:
    """A sum of the known bounds would read as one. The bill says the same."""
    shop.fill("a red mug")
    file = shop.table("prompts.csv", "prompt\na lamp\n")
    unpriced = ("--param", "model=nobody-knows-its-price")
    found = shop.send("generate", file, *LOW, *unpriced, "--json").found
    assert (found["generated"], found["requests_of_unknown_cost"]) == (1, 1)
    bill = shop.run("usage", "--by", "status", "--json").found
    (both,) = bill["usage"]
    assert (both["requests"], both["unpriced_requests"]) == (2, 1)
    for unbounded in (found, bill, both):
        assert unbounded["cost_usd_max"] is None
    assert Decimal(bill["cost_usd"]) == Decimal(both["cost_usd"]) > 0


def test_generate_writes_csv(shop: Shop) -> None:
    """A header, and a row for each image."""
    output = shop.folder / "images.csv"
    shop.send("generate", shop.table("p.csv", "prompt\na mug\n"), *LOW, "--output", str(output))
    lines = output.read_text().splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("prompt_id,prompt,")


def test_a_row_without_an_image_is_status_1(shop: Shop) -> None:
    """The row is named, with the endpoint's reason."""
    with Sandbox(paint=False, refuse=["cup"]) as shop.sandbox:
        file = shop.table("prompts.csv", "prompt_id,prompt\na,a mug\nb,a cup\n")
        told = shop.send("generate", file, *LOW, "--json")
    assert told.status == 1
    assert (told.found["generated"], told.found["refused"]) == (1, 1)
    assert [(each["prompt_id"], each["status"]) for each in told.found["without_image"]] == [
        ("b", "refused")
    ]


def test_what_ends_a_run_has_its_own_status(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """4 where the key is not accepted, 5 where the budget does not cover the next request."""
    file = shop.table("prompts.csv", "prompt\na mug\na lamp\n")
    poor = shop.send("generate", file, *LOW, "--max-usd", "0.0001", "--json")
    assert poor.status == 5
    assert poor.found["not_reached"] == 2
    with Sandbox(paint=False, api_key="right") as shop.sandbox:
        monkeypatch.setenv("IMAGEGEN_API_KEY", "wrong")
        assert shop.send("generate", file, *LOW).status == 4
        monkeypatch.setenv("SHOP_KEY", "right")
        assert shop.send("generate", file, *LOW, "--key-env", "SHOP_KEY").status == 0


def test_headers_and_extra_body_are_sent(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of the resource are: a header's value can be a variable's, a body's is JSON."""
    monkeypatch.setenv("GATEWAY_SECRET", "abc=")
    file = shop.table("prompts.csv", "prompt\na mug\n")
    headers = ("--header", "x-team=shop", "--header", "x-gateway-key=env:GATEWAY_SECRET")
    extra = ("--param", 'extra_body={"seed": 7}')
    with Parrot(lambda _: success()).serve() as peer:
        address = ("--endpoint", peer.base_url, "--model", MODEL)
        told = shop.run("generate", file, *LOW, *address, *headers, *extra, "--json")
    assert told.found["generated"] == 1
    (heard,) = peer.heard
    assert (heard.headers["x-team"], heard.headers["x-gateway-key"]) == ("shop", "abc=")
    assert heard.body["seed"] == 7


def test_an_output_that_cannot_be_written_is_refused_before_paying(shop: Shop) -> None:
    """Status 2, and no request."""
    file = shop.table("prompts.csv", "prompt\na mug\n")
    for output in ("images.xlsx", str(shop.folder / "nowhere" / "images.csv")):
        assert shop.send("generate", file, "--output", output).status == 2
    assert shop.sent() == 0


def test_the_sandbox_costs_nothing(shop: Shop) -> None:
    """`--endpoint sandbox` needs no server; the list price stands beside 0."""
    file = shop.table("prompts.csv", "prompt\na mug\n")
    told = shop.run("generate", file, *LOW, "--endpoint", "sandbox", "--model", MODEL, "--json")
    assert told.status == 0
    assert Decimal(told.found["cost_usd"]) == 0
    assert Decimal(told.found["list_price_usd"]) > 0


@pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_drains(shop: Shop, ending: signal.Signals) -> None:
    """What is in flight is kept and recorded, nothing more is sent, and the next run goes on."""
    prompts = "".join(f"mug {number}\n" for number in range(40))
    file = shop.table("prompts.csv", f"prompt\n{prompts}")
    with Sandbox(paint=False, latency_seconds=(0.5, 0.5)) as shop.sandbox:
        arguments = [
            *("generate", file, *LOW, "--storage", str(shop.storage), "--json"),
            *("--endpoint", shop.sandbox.base_url, "--endpoint-id", ENDPOINT_ID),
            *("--model", MODEL, "--max-concurrency", "2"),
        ]
        process = subprocess.Popen(
            [sys.executable, "-m", "dagster_imagegen.cli", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # As in a terminal, also where these tests run in the background, which ignores SIGINT.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
        )
        try:
            while len(shop.sandbox.requests) < 3 and process.poll() is None:
                time.sleep(0.05)
            process.send_signal(ending)
            out, err = process.communicate(timeout=120)
        finally:
            process.kill()
            process.communicate()
        assert process.returncode == 130, err
        found = json.loads(out)
        assert "Traceback" not in err
        assert 0 < found["generated"] < 40
        assert found["generated"] == found["requests"] == shop.sent()
        assert found["not_reached"] == 40 - found["generated"]
    assert shop.run("verify").status == 0


@pytest.mark.parametrize("amount", ["abc", "NaN", "-1", "Infinity"])
def test_a_budget_is_an_amount(shop: Shop, amount: str) -> None:
    """Anything else is status 2, before anything is sent."""
    told = shop.send("generate", shop.table("p.csv", "prompt\na mug\n"), f"--max-usd={amount}")
    assert (told.status, shop.sent()) == (2, 0)
    assert "--max-usd" in told.err


def test_an_output_that_cannot_be_written_loses_no_report(shop: Shop) -> None:
    """What was made is told, then status 3 with the remedy."""
    (shop.folder / "taken.csv").symlink_to(shop.folder / "gone" / "x.csv")
    file = shop.table("p.csv", "prompt\na mug\n")
    told = shop.send("generate", file, *LOW, "--output", str(shop.folder / "taken.csv"), "--json")
    assert (told.status, told.found["generated"]) == (3, 1)
    assert "taken.csv" in told.err
    assert "Traceback" not in told.err
    shop.sent()
    told = shop.run("usage", "--output", str(shop.folder / "gone" / "bill.csv"))
    assert told.status == 2
    assert f"there is no folder {shop.folder / 'gone'}; create it" in told.err


def test_what_an_endpoint_wrote_is_no_formula_in_a_csv(shop: Shop) -> None:
    """A spreadsheet would run it. The columns of the prompt table stay as they were."""
    file = shop.table("p.csv", "prompt_id,prompt\n=1+1,=a forbidden mug\n")
    output = shop.folder / "images.csv"
    with Sandbox(paint=False, refuse=["forbidden"]) as shop.sandbox:
        shop.send("generate", file, *LOW, "--output", str(output))
    (row,) = csv.DictReader(output.read_text("utf-8").splitlines())
    assert (row["prompt_id"], row["prompt"]) == ("=1+1", "=a forbidden mug")
    assert _cell("image_error_message", "=cmd()") == "'=cmd()"
    assert _cell("image_revised_prompt", "\t@SUM(1)") == "'\t@SUM(1)"
    assert _cell("image_cost_usd", Decimal(-1)) == Decimal(-1)


def test_a_bill_in_csv_has_no_formulas(shop: Shop) -> None:
    """Names of assets and partitions may come from elsewhere."""
    file = shop.table("p.csv", "prompt\na mug\n")
    shop.send("generate", file, *LOW, "--asset", "=cmd()")
    output = shop.folder / "bill.csv"
    assert shop.run("usage", "--output", str(output)).status == 0
    (row,) = csv.DictReader(output.read_text("utf-8").splitlines())
    assert row["asset_key"] == "'=cmd()"


def adoptable(shop: Shop, count: int) -> tuple[Path, str]:
    """A folder of images from elsewhere, and the file of their prompts."""
    source = next(iter(shop.fill("a model to copy").values())).read_bytes()
    folder = shop.folder / "old"
    folder.mkdir()
    rows = ["prompt,file"]
    for number in range(count):
        (folder / f"{number}.png").write_bytes(source)
        rows.append(f"old picture {number},{number}.png")
    shop.sent()
    return folder, shop.table("old.csv", "\n".join(rows) + "\n")


def test_adopted_images_are_not_bought_again(shop: Shop) -> None:
    """2,000 files: no request in the next run, which has all of them in its image table."""
    folder, file = adoptable(shop, 2000)
    told = shop.send("adopt", str(folder), file, *LOW, "--json")
    assert (told.status, told.found["adopted"], told.err) == (0, 2000, "")
    plan = shop.send("plan", file, *LOW, "--json").found
    assert (plan["already_paid"], plan["to_request"]) == (2000, 0)
    output = shop.folder / "images.parquet"
    made = shop.send("generate", file, *LOW, "--output", str(output), "--json")
    assert (made.status, made.found["reused"], shop.sent()) == (0, 2000, 0)
    uri = pq.read_table(output)["image_uri"][0].as_py()
    assert Path(str(uri)).read_bytes() == (folder / "0.png").read_bytes()
    again = shop.send("adopt", str(folder), file, *LOW, "--json")
    assert (again.found["adopted"], again.found["already_there"]) == (0, 2000)
    assert shop.run("verify", "--quick").status == 0


def test_adopt_stores_nothing_unless_all_can_be_used(shop: Shop) -> None:
    """Every missing, foreign or truncated file is named."""
    folder, file = adoptable(shop, 4)
    (folder / "0.png").unlink()
    (folder / "1.png").write_bytes(b"no image")
    (folder / "2.png").write_bytes((folder / "3.png").read_bytes()[:-30])
    before = shop.state()
    told = shop.send("adopt", str(folder), file, *LOW, "--json")
    assert told.status == 2
    named = [Path(each["file"]).name for each in told.found["unusable"]]
    assert named == ["0.png", "1.png", "2.png"]
    assert shop.state() == before


def test_adopt_goes_on_where_it_was_interrupted(shop: Shop) -> None:
    """What is stored and was not noted is noted, so that a plan before the next run is right."""
    folder, file = adoptable(shop, 3)
    shop.send("adopt", str(folder), file, *LOW)
    shutil.rmtree(shop.storage / "_adopted")
    (folder / "more.png").write_bytes((folder / "0.png").read_bytes())
    with Path(file).open("a") as table:
        table.write("one more,more.png\n")
    again = shop.send("adopt", str(folder), file, *LOW, "--json").found
    assert (again["adopted"], again["already_there"]) == (1, 3)
    plan = shop.send("plan", file, *LOW, "--json").found
    assert (plan["already_paid"], plan["to_request"], shop.sent()) == (4, 0, 0)
    noted = shop.state()
    shop.send("adopt", str(folder), file, *LOW)
    assert shop.state() == noted


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prompt,picture\na mug,0.png\n", 'no column "file"'),
        ("prompt,file\na mug,../prompts.csv\n", "is not below"),
        ("prompt,file\na mug,\n", "names no file"),
        ("prompt,file\na mug,/etc/hostname\n", "is not below"),
        ("prompt,file\na mug,link.png\n", "is not below"),
        # Until Python 3.11, the csv module refuses it.
        ("prompt,file\na mug,0\x00.png\n", "is no name of a file|line contains NUL"),
        ("prompt,file\na mug,0.png\na mug,1.png\n", "answers the same request"),
    ],
)
def test_adopt_refuses_a_table_that_cannot_be(shop: Shop, text: str, said: str) -> None:
    """Status 2, with the row and the remedy, and nothing is stored."""
    folder, _ = adoptable(shop, 2)
    (folder / "link.png").symlink_to(shop.folder / "elsewhere.png")
    before = shop.state()
    told = shop.send("adopt", str(folder), shop.table("p.csv", text), *LOW)
    assert told.status == 2
    assert re.search(said, told.err)
    assert shop.state() == before


def test_models_lists_prices_and_ends(shop: Shop) -> None:
    """What the endpoint lists, with the price of an image where it is known."""
    status = main(["models", "--endpoint", shop.sandbox.base_url, "--json"])
    found = json.loads(shop.capture.readouterr().out)
    assert status == 0
    by_id = {each["model"]: each for each in found["models"]}
    assert found["listed"] == len(by_id)
    priced = by_id[MODEL]
    assert 0 < Decimal(priced["usd_least"]) < Decimal(priced["usd_most"])
    main(["models", "--endpoint", shop.sandbox.base_url, "--json", "--priced"])
    assert all(each["usd_least"] for each in json.loads(shop.capture.readouterr().out)["models"])
