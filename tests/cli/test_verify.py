"""`verify` on planted damage: it names each, changes nothing unasked, repairs without buying."""

import contextlib
import io
import json
import os
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dagster_imagegen.engine.attempt import Identity
from dagster_imagegen.sandbox import Sandbox
from tests.cli.conftest import ENDPOINT_ID, MODEL, Plant, Shop

PROMPTS = ("a mug", "a lamp", "a chair")


def truncated(shop: Shop, images: dict[str, Path]) -> str:
    path = images["a mug"]
    path.write_bytes(path.read_bytes()[:-20])
    return relative(shop, path)


def flipped(shop: Shop, images: dict[str, Path]) -> str:
    path = images["a mug"]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return relative(shop, path)


def deleted(shop: Shop, images: dict[str, Path]) -> str:
    images["a mug"].unlink()
    return relative(shop, images["a mug"])


def zero_byte_part(shop: Shop, images: dict[str, Path]) -> str:
    (part,) = shop.storage.glob("usage/*/*.parquet")
    part.write_bytes(b"")
    return relative(shop, part)


def lost_part(shop: Shop, images: dict[str, Path]) -> str:
    (part,) = shop.storage.glob("usage/*/*.parquet")
    part.unlink()
    return relative(shop, images["a mug"])


def part_with_other_values(shop: Shop, images: dict[str, Path]) -> str:
    """A flipped byte that leaves a readable file with other rows, of those that checksums cover.

    They cover the pages, not their headers nor the footer.
    """
    import pyarrow.parquet as pq

    (part,) = shop.storage.glob("usage/*/*.parquet")
    data, rows = part.read_bytes(), pq.read_table(part).to_pylist()
    for at in range(4, len(data)):
        flipped = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        with contextlib.suppress(Exception):
            if pq.read_table(io.BytesIO(flipped)).to_pylist() == rows:
                continue
            try:
                pq.read_table(io.BytesIO(flipped), page_checksum_verification=True)
            except OSError:
                part.write_bytes(flipped)
                return relative(shop, part)
    raise AssertionError


def part_without_utf8(shop: Shop, images: dict[str, Path]) -> str:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (part,) = shop.storage.glob("usage/*/*.parquet")
    table = pq.read_table(part)
    at = table.schema.get_field_index("prompt")
    cells = pa.array([b"\xff"] * table.num_rows, pa.binary()).view(pa.string())
    pq.write_table(table.set_column(at, table.schema.field(at), cells), part)
    return relative(shop, part)


def part_at_wrong_level(shop: Shop, images: dict[str, Path]) -> str:
    (part,) = shop.storage.glob("usage/*/*.parquet")
    moved = shop.storage / "usage" / part.name
    part.rename(moved)
    return relative(shop, moved)


def part_of_another_day(shop: Shop, images: dict[str, Path]) -> str:
    (part,) = shop.storage.glob("usage/*/*.parquet")
    moved = shop.storage / "usage" / "date=2020-01-01" / part.name
    moved.parent.mkdir()
    part.rename(moved)
    return relative(shop, moved)


def abandoned_journal(shop: Shop, images: dict[str, Path]) -> str:
    return relative(shop, journal_of_part(shop))


def torn_journal(shop: Shop, images: dict[str, Path]) -> str:
    folder = journal_of_part(shop)
    (folder / "000002.jsonl").write_bytes(b'{"record":"intent","attem')
    return relative(shop, folder)


def torn_header(shop: Shop, images: dict[str, Path]) -> str:
    folder = journal_of_part(shop)
    (folder / "000000.jsonl").write_bytes(b"\x00\xff")
    return relative(shop, folder)


def torn_header_of_newer_version(shop: Shop, images: dict[str, Path]) -> str:
    folder = journal_of_part(shop)
    header = (folder / "000000.jsonl").read_text().replace('"schema": 1', '"schema": 9')
    header = header.replace('"schema":1', '"schema":9')
    (folder / "000000.jsonl").write_text(header + "a record of a later kind\n")
    return relative(shop, folder)


def spilled(shop: Shop, images: dict[str, Path]) -> str:
    path = images["a mug"]
    target = spill_folder(shop) / relative(shop, path)
    target.parent.mkdir(parents=True)
    path.rename(target)
    return relative(shop, path)


def stale_temporary(shop: Shop, images: dict[str, Path]) -> str:
    path = shop.storage / "_tmp" / "left.tmp"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"half")
    old = time.time() - 100_000
    os.utime(path, (old, old))
    return relative(shop, path)


def unreadable_orphan(shop: Shop, images: dict[str, Path]) -> str:
    orphan = shop.storage / "images" / "ab" / f"ab{'c' * 62}.20261122T110000000000Z-gone-0.png"
    orphan.parent.mkdir(exist_ok=True)
    orphan.write_bytes(images["a mug"].read_bytes()[:-20])
    return relative(shop, orphan)


def enormous_orphan(shop: Shop, images: dict[str, Path]) -> str:
    path = shop.storage / "images" / "ab" / f"ab{'d' * 62}.20261122T110000000000Z-gone-0.png"
    path.parent.mkdir(exist_ok=True)
    data = images["a mug"].read_bytes()
    path.write_bytes(data[:16] + struct.pack(">II", 40_000, 40_000) + data[24:])
    return relative(shop, path)


def foreign_file(shop: Shop, images: dict[str, Path]) -> str:
    path = shop.storage / "images" / "README.txt"
    path.write_bytes(b"somebody's own")
    return relative(shop, path)


def foreign_part(shop: Shop, images: dict[str, Path]) -> str:
    path = shop.storage / "usage" / "report.parquet"
    path.write_bytes(b"no table at all")
    return relative(shop, path)


def relative(shop: Shop, path: Path) -> str:
    return str(path.relative_to(shop.storage))


def spill_folder(shop: Shop) -> Path:
    """Where this storage's images are spilled to on this machine."""
    images = shop.engine()._wiring.images  # pyright: ignore[reportPrivateUsage]  # has no other name
    return Path(images._spill.uri(""))  # pyright: ignore[reportPrivateUsage]  # likewise


def journal_of_part(shop: Shop) -> Path:
    """Turn the part back into the journal that it was before: a writer died before publishing."""
    import pyarrow.parquet as pq

    from dagster_imagegen.engine.record.journal import (
        Header,
        intent_line,
        label_path,
        result_line,
        tag_of,
        tags_in_name,
    )
    from dagster_imagegen.engine.record.schema import attempt_of

    (part,) = shop.storage.glob("usage/*/*.parquet")
    attempts = [attempt_of(row) for row in pq.read_table(part).to_pylist()]
    folder = shop.storage / "_journal" / part.stem
    folder.mkdir(parents=True)
    identity = Identity(run_id="fill", root_run_id="fill")
    header = Header(journal_id=part.stem, schema=1, identity=identity)
    (folder / "000000.jsonl").write_text(f"{header.line()}\n")
    lines = [intent_line(each) for each in attempts]
    # The last request has no result: its image is in storage all the same.
    lines += [result_line(each, each.result) for each in attempts[:-1] if each.result]
    (folder / "000001.jsonl").write_text("\n".join(lines) + "\n")
    tags = tags_in_name({tag_of(each.fingerprint): None for each in attempts})
    (shop.storage / label_path(part.stem, 1, tags or "")).write_text("\n")
    part.unlink()
    return folder


DAMAGE: list[tuple[Plant, str, int, int]] = [
    # planted, its kind, what is left after --repair, what the next run has to buy
    (truncated, "damaged_image", 1, 0),
    (flipped, "damaged_image", 1, 0),
    (deleted, "missing_image", 1, 0),
    (lost_part, "orphaned_image", 0, 0),
    (zero_byte_part, "damaged_part", 0, 0),
    (part_with_other_values, "damaged_part", 0, 0),
    (part_without_utf8, "damaged_part", 0, 0),
    (part_at_wrong_level, "misplaced_part", 0, 0),
    (part_of_another_day, "misplaced_part", 0, 0),
    (abandoned_journal, "abandoned_journal", 0, 0),
    (torn_journal, "torn_journal", 0, 0),
    (torn_header, "torn_journal", 0, 0),
    (spilled, "spilled_image", 0, 0),
    (stale_temporary, "stale_temporary", 0, 0),
    (unreadable_orphan, "damaged_image", 0, 0),
    (enormous_orphan, "orphaned_image", 0, 0),
    (foreign_file, "foreign_file", 0, 0),
    (foreign_part, "foreign_file", 0, 0),
]


@pytest.mark.parametrize(
    ("plant", "kind", "left", "bought"), DAMAGE, ids=[each[0].__name__ for each in DAMAGE]
)
def test_planted_damage_is_named_and_repaired_without_buying(
    shop: Shop, plant: Plant, kind: str, left: int, bought: int
) -> None:
    """The report names it; nothing changes without --repair; then the next run buys nothing."""
    place = plant(shop, shop.fill(*PROMPTS))
    shop.sent()
    before = shop.state()

    told = shop.run("verify", "--json")
    harm = kind != "foreign_file"
    assert told.status == (1 if harm else 0)
    assert (kind, place) in {(each["kind"], each["path"]) for each in told.found["findings"]}
    assert shop.state() == before

    repaired = shop.run("verify", "--repair", "--json")
    assert repaired.status == (1 if left else 0)
    again = shop.run("verify", "--json")
    assert again.status == repaired.status
    assert shop.sent() == 0
    shop.fill_again(*PROMPTS)
    assert shop.sent() == bought


def test_a_label_is_part_of_its_journal(shop: Shop) -> None:
    """It is no finding of its own, and goes with its journal."""
    abandoned_journal(shop, shop.fill(*PROMPTS))
    assert list(shop.storage.glob("_journal/*/*.label"))
    kinds = [each["kind"] for each in shop.run("verify", "--json").found["findings"]]
    assert kinds == ["abandoned_journal"]
    shop.run("verify", "--repair", "--json")
    assert not list(shop.storage.glob("_journal/*/*"))


def test_what_is_moved_aside_is_kept(shop: Shop) -> None:
    """No byte is destroyed: a damaged image is in `_damaged/` under its own path."""
    place = flipped(shop, shop.fill(*PROMPTS))
    data = (shop.storage / place).read_bytes()
    shop.run("verify", "--repair")
    assert not (shop.storage / place).exists()
    assert (shop.storage / "_damaged" / place).read_bytes() == data


def test_a_repaired_journal_counts_every_request(shop: Shop) -> None:
    """The torn journal's readable requests are in the usage table, the one without a result too."""
    torn_journal(shop, shop.fill(*PROMPTS))
    shop.run("verify", "--repair")
    rows = shop.engine().usage.read(columns=["status", "cost_usd"]).to_pylist()
    assert [row["status"] for row in rows] == ["succeeded"] * 3
    assert all(row["cost_usd"] > 0 for row in rows)


def test_a_sound_storage_has_no_findings(shop: Shop) -> None:
    """Status 0, all images read; with --quick none."""
    shop.fill(*PROMPTS)
    assert shop.run("verify", "--json").found["images_read"] == 3
    told = shop.run("verify", "--json", "--quick")
    assert (told.status, told.found["images_read"], told.found["findings"]) == (0, 0, [])


def test_quick_finds_all_but_flipped_bytes(shop: Shop) -> None:
    """Sizes tell of truncated images; only reading tells of the rest."""
    images = shop.fill(*PROMPTS)
    flipped(shop, images)
    assert shop.run("verify", "--quick").status == 0
    truncated(shop, images)
    assert shop.run("verify", "--quick").status == 1


def test_piped_output_is_lines_of_tabs(shop: Shop) -> None:
    """Each finding is a line whose first fields are its kind and its path."""
    place = deleted(shop, shop.fill(*PROMPTS))
    lines = [line.split("\t") for line in shop.run("verify").out.splitlines()]
    assert ["missing_image", place] in [line[:2] for line in lines]


def test_a_folder_that_is_no_storage_is_refused(shop: Shop) -> None:
    """Status 2, one sentence with the place and what is there, and nothing is changed."""
    shop.storage.mkdir()
    (shop.storage / "holiday.jpg").write_bytes(b"\xff\xd8\xff")
    before = shop.state()
    told = shop.run("verify", "--repair")
    assert told.status == 2
    assert "no storage of dagster-imagegen" in told.err
    assert "holiday.jpg" in told.err
    assert shop.state() == before
    assert shop.run("verify", storage=shop.folder / "nowhere").status == 2


def test_a_newer_usage_table_is_refused(shop: Shop) -> None:
    """A newer version's rows may mean something else: nothing is read or repaired."""
    import pyarrow.parquet as pq

    shop.fill(*PROMPTS)
    (part,) = shop.storage.glob("usage/*/*.parquet")
    table = pq.read_table(part)
    newer = {**table.schema.metadata, b"dagster_imagegen.usage_schema": b"7"}
    pq.write_table(table.replace_schema_metadata(newer), part)
    before = shop.state()
    told = shop.run("verify", "--repair")
    assert told.status == 2
    assert "schema 7" in told.err
    assert shop.state() == before


def test_a_garbled_schema_version_is_damage(shop: Shop) -> None:
    """It is a finding like any other, and the rest is compared."""
    import pyarrow.parquet as pq

    shop.fill(*PROMPTS)
    (part,) = shop.storage.glob("usage/*/*.parquet")
    table = pq.read_table(part)
    garbled = {**table.schema.metadata, b"dagster_imagegen.usage_schema": b"1\xff"}
    pq.write_table(table.replace_schema_metadata(garbled), part)
    told = shop.run("verify")
    assert told.status == 1
    assert "has a garbled schema version: b'1\\xff'" in told.out


def test_an_image_that_was_bought_again_is_not_missed(shop: Shop) -> None:
    """Once a run has redone what was missing, the old row is no finding."""
    images = shop.fill(*PROMPTS)
    deleted(shop, images)
    shop.fill_again(*PROMPTS, redo=("missing",))
    assert shop.run("verify").status == 0
    assert json.loads(shop.run("verify", "--json").out)["images"] == 3


def test_the_storage_and_the_usage_table_may_be_apart(shop: Shop) -> None:
    """With --usage, the record is looked for there."""
    shop.fill(*PROMPTS)
    usage = shop.folder / "records"
    usage.mkdir()
    shutil.move(shop.storage / "usage", usage / "usage")
    assert shop.run("verify", "--usage", str(usage)).status == 0
    assert shop.run("verify", "--quick").status == 1


def test_a_repair_leaves_a_running_pass_alone(shop: Shop) -> None:
    """Its journal is open and is no finding; the pass goes on, and all is on record."""
    with Sandbox(paint=False, latency_seconds=(0.3, 0.3)) as shop.sandbox:
        engine = shop.engine()
        table = engine.read_prompts([f"mug {n}" for n in range(200)], params={"quality": "low"})
        identity = Identity(run_id="long", root_run_id="long")
        with engine.generate(table, identity=identity) as generation:
            next(generation)
            told = shop.run("verify", "--repair", "--json")
            rest = list(generation)
        assert (told.status, told.found["open_journals"]) == (0, 1)
        assert len(rest) == 199
        assert shop.sent() == 200
    told = shop.run("verify", "--json")
    assert (told.status, told.found["requests_on_record"]) == (0, 200)


@pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
def test_what_a_killed_run_left_is_closed(shop: Shop) -> None:
    """Its journal is named; the repair publishes it, and nothing that has an image is bought."""
    rows = "".join(f"mug {number}\n" for number in range(30))
    file = shop.table("prompts.csv", f"prompt\n{rows}")
    with Sandbox(paint=False, latency_seconds=(0.3, 0.3)) as shop.sandbox:
        arguments = [
            *("generate", file, "--storage", str(shop.storage), "--param", "quality=low"),
            *("--endpoint", shop.sandbox.base_url, "--endpoint-id", ENDPOINT_ID),
            *("--model", MODEL, "--max-concurrency", "4"),
        ]
        process = subprocess.Popen(
            [sys.executable, "-m", "dagster_imagegen.cli", *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            while len(list(shop.storage.glob("images/*/*.png"))) < 5 and process.poll() is None:
                time.sleep(0.05)
        finally:
            process.kill()
            process.wait()
        assert shop.sent() >= 5
        kinds = {each["kind"] for each in shop.run("verify", "--json").found["findings"]}
        assert kinds == {"abandoned_journal"}
        assert shop.run("verify", "--repair").status == 0
        assert shop.run("verify").status == 0
        plan = shop.send("plan", file, "--param", "quality=low", "--json").found
        assert plan["already_paid"] == len(list(shop.storage.glob("images/*/*.png"))) >= 5
        assert shop.sent() == 0


def test_only_temporaries_of_ours_are_deleted(shop: Shop) -> None:
    """A link in `_tmp/` to a folder elsewhere, and what is not named like ours, are left alone."""
    shop.fill("a mug")
    elsewhere = shop.folder / "elsewhere"
    elsewhere.mkdir()
    temporaries = shop.storage / "_tmp"
    temporaries.mkdir(exist_ok=True)
    files = [elsewhere / "letters.txt", elsewhere / "x.tmp", temporaries / "notes.txt"]
    for path in files:
        path.write_bytes(b"somebody's own")
        os.utime(path, (1, 1))
    (temporaries / "link").symlink_to(elsewhere, target_is_directory=True)
    told = shop.run("verify", "--repair", "--json")
    assert told.status == 0
    assert {each["kind"] for each in told.found["findings"]} == {"foreign_file"}
    assert all(path.exists() for path in files)


def test_a_folder_with_temporaries_alone_is_no_storage(shop: Shop) -> None:
    """Many a folder has a `_tmp`; a first run that failed leaves one, and can be repeated."""
    temporary = shop.storage / "_tmp" / "half.tmp"
    temporary.parent.mkdir(parents=True)
    temporary.write_bytes(b"half")
    os.utime(temporary, (1, 1))
    assert shop.run("verify", "--repair").status == 2
    assert temporary.exists()
    assert shop.send("plan", shop.table("p.csv", "prompt\na mug\n")).status == 0


def test_a_journal_of_a_newer_version_is_refused(shop: Shop) -> None:
    """What cannot be read of it may be what this version does not know: it is not repaired."""
    folder = torn_header_of_newer_version(shop, shop.fill(*PROMPTS))
    before = shop.state()
    told = shop.run("verify", "--repair")
    assert (told.status, shop.state()) == (2, before)
    assert folder in told.err
    assert "upgrade" in told.err


def test_what_was_spilled_by_a_dead_writer_is_on_record_as_an_image(shop: Shop) -> None:
    """It is stored before the journal is closed: no request becomes `unknown` that has an image."""
    images = shop.fill(*PROMPTS)
    journal_of_part(shop)
    path = max(images.values(), key=lambda each: each.name.split(".")[1])
    target = spill_folder(shop) / relative(shop, path)
    target.parent.mkdir(parents=True)
    path.rename(target)
    told = shop.run("verify", "--repair", "--json")
    assert {each["kind"] for each in told.found["findings"]} == {
        "abandoned_journal",
        "spilled_image",
    }
    assert told.status == 0
    rows = shop.engine().usage.read(columns=["status"]).to_pylist()
    assert [row["status"] for row in rows] == ["succeeded"] * 3


def test_rows_that_name_a_path_outside_of_the_storage_are_findings(shop: Shop) -> None:
    """Such a path is never opened, and hides no other damage."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    images = shop.fill(*PROMPTS)
    (part,) = shop.storage.glob("usage/*/*.parquet")
    table = pq.read_table(part)
    paths = ["../outside.png", *table["image_path"].to_pylist()[1:]]
    at = table.schema.get_field_index("image_path")
    pq.write_table(table.set_column(at, table.schema.field(at), pa.array(paths)), part)
    outside = shop.folder / "outside.png"
    outside.write_bytes(images["a mug"].read_bytes())
    told = shop.run("verify", "--json", "--repair")
    assert told.status == 1
    found = {(each["kind"], each["path"]) for each in told.found["findings"]}
    assert ("missing_image", "../outside.png") in found
    assert outside.exists()


def test_damage_on_s3_is_repaired_as_well(
    shop: Shop, s3_options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The secret comes from the environment; a part and an image are damaged in the bucket."""
    import s3fs

    bucket = s3fs.S3FileSystem(**s3_options)
    bucket.mkdir("damaged-shop")
    monkeypatch.setenv("SHOP_SECRET", s3_options["secret"])
    given = {
        "key": s3_options["key"],
        "secret": "env:SHOP_SECRET",
        "endpoint_url": s3_options["endpoint_url"],
        "config_kwargs": json.dumps(s3_options["config_kwargs"]),
    }
    options = [
        word for name, value in given.items() for word in ("--storage-option", f"{name}={value}")
    ]
    place = "s3://damaged-shop/store"
    file = shop.table("prompts.csv", "prompt\na mug\na lamp\n")
    assert shop.send("generate", file, *options, storage=place).status == 0
    shop.sent()
    assert shop.run("verify", *options, storage=place).status == 0
    (part,) = bucket.glob("damaged-shop/store/usage/*/*.parquet")
    image = sorted(bucket.glob("damaged-shop/store/images/*/*.png"))[0]
    bucket.pipe_file(part, b"")
    bucket.pipe_file(image, bucket.cat_file(image)[:40])
    told = shop.run("verify", "--repair", "--json", *options, storage=place)
    assert {each["kind"] for each in told.found["findings"]} >= {"damaged_part", "damaged_image"}
    assert told.status == 0
    plan = shop.send("plan", file, "--json", *options, storage=place).found
    assert (plan["already_paid"], plan["to_request"], shop.sent()) == (1, 1, 0)
