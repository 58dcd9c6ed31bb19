"""The files of a gallery: what they say, hide, link to and keep. Without a browser."""

import json
import re
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dagster_imagegen import ImageGenResource
from dagster_imagegen.cli import main
from dagster_imagegen.engine.errors import ConfigurationError
from dagster_imagegen.gallery import BuiltGallery, build_gallery
from dagster_imagegen.gallery.building import gallery_folder
from dagster_imagegen.sandbox import Sandbox

NOON = datetime(2026, 11, 26, 12, tzinfo=timezone.utc)
HOSTILE = "</script><script>document.title='owned'</script><img onerror=alert(1)>\u2028'\"`${1}"


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(paint=False, refuse=["forbidden"], credentials=True) as sandbox:
        yield sandbox


def resource(sandbox: Sandbox, folder: Path, **settings: Any) -> ImageGenResource:
    return ImageGenResource(
        base_url=sandbox.base_url,
        model="openai-gpt-image-1",
        storage_uri=str(folder),
        **settings,
    )


def build(imagegen: ImageGenResource, **options: Any) -> BuiltGallery:
    with imagegen.open_engine() as engine:
        return build_gallery(engine, **options)


def shown(built: BuiltGallery) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The manifest and the entries of a gallery, as its page reads them."""
    data = Path(built.uri).parent / "data"
    (text,) = re.findall(r"gallery\.manifest\((.*)\);\n", (data / "manifest.js").read_text())
    manifest = json.loads(text)
    entries: list[dict[str, Any]] = []
    for chunk in manifest["chunks"]:
        script = (data / f"{chunk['name']}.js").read_text()
        (rows,) = re.findall(r'gallery\.chunk\("[^"]+",(.*)\);\n', script, re.DOTALL)
        entries += [dict(zip(manifest["fields"], row, strict=True)) for row in json.loads(rows)]
    return manifest, entries


def test_each_image_has_prompt_parameters_cost_and_links_that_are_relative(
    sandbox: Sandbox, tmp_path: Path
):
    imagegen = resource(sandbox, tmp_path)
    imagegen.generate_many([{"prompt_id": "mug", "prompt": "a mug"}], quality="low")
    imagegen.generate_many([{"prompt_id": "bad", "prompt": "a forbidden mug"}])
    built = build(imagegen)
    assert (built.entries, built.images, built.thumbnails_made) == (2, 1, 1)
    manifest, (mug, bad) = shown(built)
    assert (mug["prompt"], mug["row"], mug["status"]) == ("a mug", "mug", "succeeded")
    assert mug["parameters"]["quality"] == "low"
    assert mug["provenance"] == "c2pa iptc:trainedAlgorithmicMedia"
    (row,) = [each for each in imagegen.usage().to_pylist() if each["image_path"]]
    assert float(mug["cost"]) == float(row["cost_usd"]) > 0
    assert (bad["status"], bad["path"], bad["thumb"]) == ("refused", None, None)
    page = Path(built.uri).parent
    assert (page / manifest["root"] / mug["path"]).read_bytes() == (
        tmp_path / row["image_path"]
    ).read_bytes()
    with Image.open(page / manifest["thumbs"] / mug["thumb"]) as thumbnail:
        assert thumbnail.format == "JPEG"


def test_a_rebuild_makes_only_thumbnails_that_are_new(sandbox: Sandbox, tmp_path: Path):
    imagegen = resource(sandbox, tmp_path)
    imagegen.generate_many([f"picture {n}" for n in range(3)])
    first = build(imagegen)
    (thumbnail, *_) = sorted(tmp_path.glob("gallery/thumbs/*/*.jpg"))
    before = thumbnail.stat().st_mtime_ns
    imagegen.generate("one more")
    second = build(imagegen)
    assert (first.thumbnails_made, second.thumbnails_made, second.thumbnails_kept) == (3, 1, 3)
    assert thumbnail.stat().st_mtime_ns == before
    assert len(shown(second)[1]) == 4


def chunks_of(folder: Path) -> set[Path]:
    return set(folder.glob("gallery/data/*.js")) - {folder / "gallery/data/manifest.js"}


def test_of_two_builds_at_once_whichever_is_last_names_only_what_is_there(
    sandbox: Sandbox, tmp_path: Path
):
    """No build names the chunks of another, or removes those of the last hours."""
    imagegen = resource(sandbox, tmp_path)
    imagegen.generate_many([f"picture {n}" for n in range(3)])
    manifest = tmp_path / "gallery/data/manifest.js"
    for minutes, entries in ((0, 3), (30, 3), (330, 2)):
        one = build(imagegen, now=lambda: NOON)
        written_last, its_chunks = manifest.read_bytes(), chunks_of(tmp_path)
        later = NOON + timedelta(minutes=minutes)
        build(imagegen, now=lambda at=later: at, max_entries=entries)
        manifest.write_bytes(written_last)
        assert its_chunks <= chunks_of(tmp_path)
        assert len(shown(one)[1]) == 3


def test_a_build_after_hours_shares_no_chunk_with_an_old_one_and_removes_it(
    sandbox: Sandbox, tmp_path: Path
):
    """It could be about to be removed by yet another build."""
    imagegen = resource(sandbox, tmp_path)
    imagegen.generate_many(["a mug", "a bowl"])
    build(imagegen, now=lambda: NOON)
    old = chunks_of(tmp_path)
    built = build(imagegen, now=lambda: NOON + timedelta(hours=7))
    assert not old & chunks_of(tmp_path)
    assert len(shown(built)[1]) == 2


def test_a_hostile_prompt_is_data_in_ascii_and_not_in_the_page(sandbox: Sandbox, tmp_path: Path):
    imagegen = resource(sandbox, tmp_path)
    imagegen.generate_many([{"prompt_id": HOSTILE, "prompt": HOSTILE}])
    built = build(imagegen)
    assert shown(built)[1][0]["prompt"] == HOSTILE
    for script in tmp_path.glob("gallery/data/*.js"):
        assert script.read_bytes().isascii()
    page = Path(built.uri).read_text()
    assert "owned" not in page
    assert "default-src 'none'" in page


def test_the_script_makes_no_html_of_data():
    """Neither does it fetch anything, which `file://` would refuse."""
    source = Path(__file__).parents[2] / "dagster_imagegen/gallery/site/gallery.js"
    for word in (
        "innerHTML",
        "outerHTML",
        "insertAdjacent",
        "document.write",
        "eval(",
        "fetch(",
    ):
        assert word not in source.read_text()
    for site in source.parent.iterdir():
        assert "http" not in re.sub(r"http-equiv", "", site.read_text())


def test_a_prompt_that_is_not_recorded_is_null(sandbox: Sandbox, tmp_path: Path):
    imagegen = resource(sandbox, tmp_path, record_prompts=False)
    imagegen.generate("a secret mug")
    built = build(imagegen)
    assert shown(built)[1][0]["prompt"] is None
    assert not any("secret" in each.read_text() for each in tmp_path.glob("gallery/data/*"))


def test_a_record_that_is_kept_apart_is_not_shown_by_accident(sandbox: Sandbox, tmp_path: Path):
    imagegen = resource(sandbox, tmp_path / "public", usage_uri=str(tmp_path / "private"))
    imagegen.generate_many(["a secret mug", "a forbidden secret"])
    with pytest.raises(ConfigurationError, match="hide_record"):
        build(imagegen)
    assert not (tmp_path / "public" / "gallery").exists()
    manifest, entries = shown(build(imagegen, hide_record=True))
    assert manifest["hidden"]
    assert {each["prompt"] for each in entries} == {each["cost"] for each in entries} == {None}
    assert {each["error"] for each in entries} == {None, "moderation_blocked"}
    shown_now = shown(build(imagegen, hide_record=False))[1]
    assert "a secret mug" in {each["prompt"] for each in shown_now}
    data = tmp_path / "public" / "gallery" / "data"
    build(imagegen, hide_record=True)
    assert not any("a secret mug" in each.read_text() for each in data.iterdir())


def test_the_newest_are_shown_and_the_rest_is_counted(sandbox: Sandbox, tmp_path: Path):
    imagegen = resource(sandbox, tmp_path)
    for n in range(5):
        imagegen.generate(f"picture {n}")
    built = build(imagegen, max_entries=2)
    assert (built.entries, built.left_out) == (2, 3)
    assert [each["prompt"] for each in shown(built)[1]] == ["picture 3", "picture 4"]


def test_attempts_at_one_image_are_one_entry_that_cost_all_of_them(
    sandbox: Sandbox, tmp_path: Path
):
    """The failed attempt comes before the one that brought the image."""
    imagegen = resource(sandbox, tmp_path)
    sandbox.script("server_error")
    imagegen.generate("a mug")
    manifest, (entry,) = shown(build(imagegen))
    rows = imagegen.usage().to_pylist()
    assert (entry["status"], entry["requests"], len(rows)) == ("succeeded", 2, 2)
    assert float(entry["cost"]) == sum(float(each["cost_usd"]) for each in rows)
    assert manifest["statuses"] == ["succeeded"]


def test_damaged_missing_and_svg_images_have_no_thumbnail(sandbox: Sandbox, tmp_path: Path):
    imagegen = resource(sandbox, tmp_path)
    images = imagegen.generate_many(["damaged", "missing", "whole"])
    damaged, missing, _ = (str(each) for each in images["image_path"].to_pylist())
    (tmp_path / damaged).write_bytes(b"\x89PNG\r\n\x1a\n broken")
    (tmp_path / missing).unlink()
    built = build(imagegen)
    assert (built.images, built.thumbnails_made, built.without_thumbnail) == (3, 1, 2)


def test_a_row_that_names_a_path_outside_of_the_storage_shows_no_picture(
    sandbox: Sandbox, tmp_path: Path
):
    """The rest of the gallery is built; nothing outside of `gallery/thumbs/` is read or written."""
    imagegen = resource(sandbox, tmp_path / "storage")
    imagegen.generate_many(["a", "b", "c", "whole"])
    (part,) = (tmp_path / "storage").glob("usage/*/*.parquet")
    table = pq.read_table(part)
    paths = ["../../secret.png", "images/../x.png", "secret.png", *table["image_path"].to_pylist()]
    image = (tmp_path / "storage" / str(paths[-1])).read_bytes()
    for name in ("secret.png", "storage/secret.png", "storage/x.png"):
        (tmp_path / name).write_bytes(image)
    at = table.schema.get_field_index("image_path")
    hostile = pa.array([*paths[:3], paths[-1]])
    pq.write_table(table.set_column(at, table.schema.field(at), hostile), part)
    built = build(imagegen)
    assert (built.entries, built.images, built.thumbnails_made) == (4, 1, 1)
    assert len([*tmp_path.rglob("*.jpg")]) == 1
    _, entries = shown(built)
    assert sorted(str(each["path"]) for each in entries) == ["None"] * 3 + [str(paths[-1])]


def test_an_asset_has_a_folder_of_its_own_and_shares_thumbnails(sandbox: Sandbox, tmp_path: Path):
    imagegen = resource(sandbox, tmp_path)
    imagegen.generate("of no asset")
    with pytest.raises(ConfigurationError, match="no rows of the asset 'shop/hero'"):
        build(imagegen, asset_key="shop/hero")
    assert gallery_folder("shop/hero") != gallery_folder("shop-hero")
    assert gallery_folder("../..").count("/") == 1


def test_the_verb_writes_it(sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    resource(sandbox, tmp_path).generate("a mug")
    assert main(["gallery", "--storage", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["images"], Path(told["uri"]).is_file()) == (1, True)
    assert main(["gallery", "--storage", str(tmp_path / "none")]) == 2
    assert main(["gallery", "--storage", str(tmp_path), "--asset", "other"]) == 2
