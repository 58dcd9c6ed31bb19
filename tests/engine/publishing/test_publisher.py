"""Images under readable names: what is copied, what is stale, and whose a name is."""

import contextlib
import io
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pytest
from PIL import Image

from dagster_imagegen.engine.engine import Engine
from dagster_imagegen.engine.errors import ConfigurationError, PromptTableError, StorageError
from dagster_imagegen.engine.publishing.names import Publication
from dagster_imagegen.engine.publishing.publisher import Published
from dagster_imagegen.sandbox import Fault, Sandbox
from tests.engine.conftest import Run, table_of
from tests.fire.proxy import Break, Proxy

pytestmark = pytest.mark.imagegen_sandbox(paint=False)


@dataclass
class Shop:
    """Runs of assets on one storage, whose images are published below one folder."""

    run: Run
    folder: str
    settings: dict[str, Any] = field(default_factory=dict[str, Any])

    def publish(
        self,
        *skus: str,
        asset: str = "hero",
        template: str = "{sku}.{ext}",
        stale: str = "list",
        prompt: str = "a {look} {sku}",
        **options: Any,
    ) -> Published:
        """Run the rows of these products, and publish their images."""
        rows = [{"sku": sku, "look": "red", "revision": 0, **options.pop(sku, {})} for sku in skus]
        return self.publish_partitions(
            {None: rows}, asset=asset, template=template, stale=stale, prompt=prompt, **options
        )[None]

    def publish_partitions(
        self,
        rows: dict[str | None, list[dict[str, Any]]],
        *,
        asset: str = "hero",
        template: str = "{sku}.{ext}",
        stale: str = "list",
        prompt: str = "a {look} {sku}",
        **options: Any,
    ) -> dict[str | None, Published]:
        publication = Publication.parse(f"{self.folder}/{template}", stale=stale)
        images: dict[str | None, Any] = {}
        tables: dict[str | None, Any] = {}
        engine: Any = None
        for key, each in rows.items():
            generation: Any = self.run(
                each, template=prompt, overrides=("revision",), **self.settings, **options
            )
            engine = generation.engine
            tables[key] = generation.plan.prompts
            images[key] = table_of(generation)
        names = engine.claim_names(publication, tables, asset=asset)
        return engine.publish(publication, names, images, asset=asset)

    @property
    def there(self) -> dict[str, bytes]:
        """What lies below the folder, by name."""
        fs, root = fsspec.url_to_fs(self.folder, **self.settings.get("storage_options", {}))
        fs.invalidate_cache()
        return {path[len(root) + 1 :]: fs.cat_file(path) for path in fs.find(root)}

    def put(self, name: str, data: bytes) -> None:
        """What somebody else does there."""
        fs, root = fsspec.url_to_fs(self.folder, **self.settings.get("storage_options", {}))
        fs.makedirs(root, exist_ok=True)
        fs.pipe_file(f"{root}/{name}", data)

    def remove(self, name: str) -> None:
        fs, root = fsspec.url_to_fs(self.folder, **self.settings.get("storage_options", {}))
        fs.rm_file(f"{root}/{name}")


@pytest.fixture
def local(run: Run, tmp_path: Path) -> Shop:
    return Shop(run, str(tmp_path / "public"))


@pytest.fixture
def on_s3(run: Run, s3_options: dict[str, Any]) -> Shop:
    bucket = f"published-{uuid4().hex}"
    fsspec.filesystem("s3", **s3_options).mkdir(bucket)
    return Shop(
        run,
        f"s3://{bucket}/cdn",
        {"storage_uri": f"s3://{bucket}/shop", "storage_options": s3_options},
    )


@pytest.fixture(params=["local", "on_s3"])
def shop(request: pytest.FixtureRequest) -> Shop:
    return request.getfixturevalue(request.param)


# -- what is copied --------------------------------------------------------------------------------


def test_each_image_is_there_under_its_name(shop: Shop) -> None:
    """The provider's bytes, and its address in the place of its row."""
    done = shop.publish("mug", "bowl", template="{sku}/main-{variant}.{ext}")
    assert done.addresses == (
        f"{shop.folder}/mug/main-0.png",
        f"{shop.folder}/bowl/main-0.png",
    )
    assert set(shop.there) == {"mug/main-0.png", "bowl/main-0.png"}
    for data in shop.there.values():
        assert Image.open(io.BytesIO(data)).format == "PNG"


def test_only_changes_are_copied(shop: Shop) -> None:
    """A new row, an image that was made again; everything else stays as it is."""
    assert shop.publish("mug", "bowl").copied == 2
    before = shop.there
    assert shop.publish("mug", "bowl").copied == 0
    assert shop.publish("mug", "bowl", "cup", mug={"look": "blue"}).copied == 2
    after = shop.there
    assert after["bowl.png"] == before["bowl.png"]
    assert after["mug.png"] != before["mug.png"]
    assert set(after) == {"mug.png", "bowl.png", "cup.png"}


def test_a_file_that_somebody_deleted_or_cut_is_published_again(shop: Shop) -> None:
    """One listing of each folder tells."""
    shop.publish("mug", "bowl", "cup")
    whole = shop.there
    shop.remove("mug.png")
    shop.put("bowl.png", b"cut")
    assert shop.publish("mug", "bowl", "cup").copied == 2
    assert shop.there == whole


def test_an_image_of_another_format_has_another_extension(local: Shop) -> None:
    """The old file is stale, for the bytes decide its name."""
    local.publish("mug", params={"quality": "low", "output_format": "jpeg"})
    assert set(local.there) == {"mug.jpg"}
    done = local.publish("mug", stale="remove", params={"quality": "low", "output_format": "webp"})
    assert set(local.there) == {"mug.webp"}
    assert done.removed == (f"{local.folder}/mug.jpg",)


class RecordingProxy(Proxy):
    """Notes which requests come."""

    def __init__(self, target: str) -> None:
        self.requests: list[tuple[str, str]] = []
        super().__init__(target)

    def befalls(self, method: str, path: str, *, upload: bool) -> Break | None:
        self.requests.append((method, path))
        return None


def test_the_store_copies_by_itself(on_s3: Shop) -> None:
    """No bytes come here if storage and target are in one; each file says its media type."""
    options = on_s3.settings["storage_options"]
    with RecordingProxy(options["endpoint_url"]) as proxy:
        on_s3.settings["storage_options"] = {**options, "endpoint_url": proxy.url}
        on_s3.publish("mug", "bowl")
        read = [path for method, path in proxy.requests if method == "GET" and "/images/" in path]
    assert [path for path in read if "list-type" not in path] == []
    assert set(on_s3_files(on_s3, options)) == {"mug.png", "bowl.png"}
    fs = fsspec.filesystem("s3", **options)
    info = fs.info(f"{on_s3.folder}/mug.png", refresh=True)
    assert info["ContentType"] == "image/png"


def on_s3_files(shop: Shop, options: dict[str, Any]) -> list[str]:
    shop.settings["storage_options"] = options
    return list(shop.there)


def test_from_a_disk_to_a_bucket_with_options_of_its_own(on_s3: Shop, storage: Path) -> None:
    """`publish_storage_options` open what the options of the storage do not."""
    options = on_s3.settings["storage_options"]
    on_s3.settings = {"publish_storage_options": options}
    done = on_s3.publish("mug")
    (image,) = (storage / "images").rglob("*.png")
    fs = fsspec.filesystem("s3", **options)
    assert fs.cat_file(str(done.addresses[0])) == image.read_bytes()
    assert fs.info(str(done.addresses[0]), refresh=True)["ContentType"] == "image/png"


def test_nothing_else_is_left_in_the_folder(local: Shop) -> None:
    """Neither temporary files nor their folder."""
    local.publish("mug")
    assert [path.name for path in Path(local.folder).rglob("*")] == ["mug.png"]


# -- stale files -----------------------------------------------------------------------------------


def test_stale_files_are_listed_until_they_are_removed(shop: Shop) -> None:
    """Those of rows that left the table, or whose name changed."""
    shop.publish("mug", "bowl")
    for _ in range(2):
        done = shop.publish("mug", "cup")
        assert done.stale == (f"{shop.folder}/bowl.png",)
        assert set(shop.there) == {"mug.png", "bowl.png", "cup.png"}
    done = shop.publish("mug", "cup", stale="remove")
    assert (done.stale, done.removed) == ((), (f"{shop.folder}/bowl.png",))
    assert set(shop.there) == {"mug.png", "cup.png"}
    assert shop.publish("mug", "cup", stale="remove").removed == ()


def test_a_file_of_somebody_else_is_never_removed(shop: Shop) -> None:
    """One that was never published, or that now holds what was not."""
    shop.put("logo.png", b"theirs")
    shop.publish("mug", "bowl")
    shop.put("bowl.png", b"a photograph")
    done = shop.publish("mug", stale="remove")
    assert done.removed == ()
    assert shop.there["logo.png"] == b"theirs"
    assert shop.there["bowl.png"] == b"a photograph"


def test_a_stale_file_that_is_gone_is_forgotten(local: Shop) -> None:
    """Nothing is left to say of it."""
    local.publish("mug", "bowl")
    local.remove("bowl.png")
    assert local.publish("mug").stale == ()


def test_a_stale_name_that_is_wanted_again_is_copied_again(local: Shop) -> None:
    """Another asset may have had the name in between, with other bytes of the same size."""
    local.publish("mug", "bowl")
    whole = local.there
    local.publish("mug")
    local.put("bowl.png", bytes(len(whole["bowl.png"])))
    done = local.publish("mug", "bowl")
    assert (done.copied, done.stale) == (1, ())
    assert local.there == whole


def test_a_link_in_the_place_of_a_file_is_replaced(local: Shop, tmp_path: Path) -> None:
    """What it leads to stays as it is."""
    local.publish("mug")
    elsewhere = tmp_path / "elsewhere.png"
    elsewhere.write_bytes(b"theirs")
    mug = Path(local.folder) / "mug.png"
    mug.unlink()
    mug.symlink_to(elsewhere)
    assert local.publish("mug").copied == 1
    assert not mug.is_symlink()
    assert elsewhere.read_bytes() == b"theirs"


def change_manifest(storage: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Write what a process left behind that was killed, or what somebody forged."""
    path = storage / "_published" / "hero.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def test_a_stale_file_that_was_about_to_be_replaced_is_removed(local: Shop, storage: Path) -> None:
    """A killed process leaves the bytes of before or of after; both are ours."""
    local.publish("mug", "bowl")
    pending = {f"{local.folder}/bowl.png": {"sha256": "of after", "size_bytes": 1}}
    change_manifest(storage, lambda manifest: manifest.update(pending=pending))
    done = local.publish("mug", stale="remove")
    assert done.removed == (f"{local.folder}/bowl.png",)
    assert set(local.there) == {"mug.png"}


def test_a_kept_file_that_was_about_to_be_replaced_is_copied_in_the_end(
    local: Shop, storage: Path, imagegen_sandbox: Sandbox
) -> None:
    """Until then nobody knows which bytes it holds, whatever its size."""
    local.publish("mug")
    whole = local.there
    pending = {f"{local.folder}/mug.png": {"sha256": "of after", "size_bytes": 1}}
    change_manifest(storage, lambda manifest: manifest.update(pending=pending))
    local.put("mug.png", bytes(len(whole["mug.png"])))
    imagegen_sandbox.script(Fault("server_error", prompt="mug", times=None))
    assert local.publish("mug", mug={"revision": 1}).stale == ()
    assert local.publish("mug").copied == 1
    assert local.there == whole


def test_a_name_that_changed_in_case_alone_is_not_removed(local: Shop) -> None:
    """On a disk that ignores case it would be the new file."""
    local.publish("Mug")
    done = local.publish("mug", stale="remove")
    assert done.removed == ()
    assert "mug.png" in local.there


def test_what_an_earlier_template_published_elsewhere_is_listed_alone(local: Shop) -> None:
    """A manifest never leads to a file outside of the template's folder."""
    first = Shop(local.run, f"{local.folder}/old")
    first.publish("mug")
    done = Shop(local.run, f"{local.folder}/new").publish("mug", stale="remove")
    assert done.stale == (f"{local.folder}/old/mug.png",)
    assert set(local.there) == {"old/mug.png", "new/mug.png"}


def test_a_forged_manifest_removes_nothing_outside(
    local: Shop, storage: Path, tmp_path: Path
) -> None:
    """Not even with the right sha256."""
    local.publish("mug")
    path = storage / "_published" / "hero.json"
    manifest = json.loads(path.read_text())
    (facts,) = manifest["published"].values()
    outside = tmp_path / "outside.png"
    outside.write_bytes(local.there["mug.png"])
    for address in (f"{local.folder}/../outside.png", str(outside)):
        manifest["stale"][address] = facts
    path.write_text(json.dumps(manifest))
    assert local.publish("mug", stale="remove").removed == ()
    assert outside.exists()


# -- rows without an image -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "stays"), [("server_error", True), ("moderation_blocked", False)]
)
def test_rows_without_an_image(
    local: Shop, imagegen_sandbox: Sandbox, fault: str, stays: bool
) -> None:
    """A failed row keeps what is published for it until it has a new image; a refused one does
    not, because no run will make one."""
    local.publish("mug", "bowl")
    imagegen_sandbox.script(Fault(fault, prompt="mug", times=None))
    done = local.publish("mug", "bowl", stale="remove", mug={"revision": 1})
    assert done.addresses == (None, f"{local.folder}/bowl.png")
    assert set(local.there) == ({"mug.png", "bowl.png"} if stays else {"bowl.png"})
    assert done.removed == (() if stays else (f"{local.folder}/mug.png",))


# -- whose a name is -------------------------------------------------------------------------------


def test_two_assets_cannot_publish_the_same_name(local: Shop) -> None:
    """Whatever the case, the folder of the template, or the format."""
    local.publish("mug")
    with pytest.raises(PromptTableError) as caught:
        Shop(local.run, str(Path(local.folder).parent)).publish(
            "MUG",
            asset="banner",
            template="public/{sku}.{ext}",
            params={"quality": "low", "output_format": "webp"},
        )
    assert "MUG'" in str(caught.value)
    assert "this one is published by hero" in str(caught.value)
    assert "delete _published/hero.json" in str(caught.value)


def test_a_name_is_claimed_before_anything_is_sent(
    local: Shop, imagegen_sandbox: Sandbox, open_engine: Callable[..., Engine], storage: Path
) -> None:
    """Also of a run that made nothing yet; looking alone claims nothing."""
    engine = open_engine(imagegen_sandbox)
    publication = Publication.parse(f"{local.folder}/{{sku}}.{{ext}}")
    table = engine.read_prompts([{"prompt": "a mug", "sku": "mug"}], params={})

    def claim(asset: str, *, keep: bool) -> None:
        engine.claim_names(publication, {None: table}, asset=asset, keep=keep)

    claim("hero", keep=False)
    assert not (storage / "_published").exists()
    claim("banner", keep=True)
    claim("banner", keep=True)
    with pytest.raises(ConfigurationError, match="published by banner"):
        claim("hero", keep=True)
    assert [path.name for path in (storage / "_published").iterdir()] == ["banner.json"]
    assert imagegen_sandbox.requests == []


def test_a_claim_of_another_asset_does_not_disturb_what_is_published(
    local: Shop, storage: Path
) -> None:
    """A run whose template is wrong claims names for a moment, until it is refused."""
    local.publish("mug")
    address = f"{local.folder}/mug"
    claim = {"version": 1, "asset": "banner", "partition": None, "claimed": [address]}
    forged = storage / "_published" / "banner.json"
    forged.write_text(json.dumps({**claim, "published": {}, "pending": {}, "stale": {}}))
    assert local.publish("mug").copied == 0
    with pytest.raises(PromptTableError, match="published by hero"):
        local.publish("mug", asset="banner")


def test_partitions_of_one_asset_share_no_name(local: Shop) -> None:
    """Each has a manifest; a product that moves to another in the same run keeps its file."""
    rows: dict[str | None, Any] = {
        "bonn": [{"sku": "mug", "look": "red", "revision": 0}],
        "o/s lo": [{"sku": "bowl", "look": "red", "revision": 0}],
    }
    local.publish_partitions(rows)
    with pytest.raises(PromptTableError, match="published by hero, partition o/s lo"):
        local.publish_partitions({"rome": rows["o/s lo"]})
    moved: dict[str | None, Any] = {"bonn": rows["o/s lo"], "o/s lo": rows["bonn"]}
    done = local.publish_partitions(moved, stale="remove")
    assert {key: each.removed for key, each in done.items()} == {"bonn": (), "o/s lo": ()}
    assert set(local.there) == {"mug.png", "bowl.png"}


def test_a_stale_name_may_be_taken_by_another_asset(local: Shop) -> None:
    """From then on it is that one's, and is not removed."""
    local.publish("mug", "bowl")
    local.publish("mug")
    local.publish("bowl", asset="banner")
    done = local.publish("mug", stale="remove")
    assert (done.removed, done.stale) == ((), ())
    assert set(local.there) == {"mug.png", "bowl.png"}


@pytest.mark.parametrize("folder", ["images", "usage/date=2026-11-25", "_published"])
def test_nothing_is_published_into_the_storages_own_folders(
    run: Run, storage: Path, folder: str, imagegen_sandbox: Sandbox
) -> None:
    """Also if a value leads there."""
    with pytest.raises(PromptTableError, match="a folder that the storage has for itself"):
        Shop(run, f"{storage}/{folder}").publish("mug")
    with pytest.raises(PromptTableError, match="a folder that the storage has for itself"):
        Shop(run, f"{storage.parent}").publish(storage.name, template="{sku}/Usage/{variant}.{ext}")


def test_without_prompts_no_name_is_shown(local: Shop) -> None:
    """Names hold what the table does."""
    local.settings["record_prompts"] = False
    with pytest.raises(PromptTableError) as caught:
        local.publish("secret", "SECRET")
    assert "secret" not in str(caught.value).lower()
    assert "(not shown)" in str(caught.value)


# -- manifests -------------------------------------------------------------------------------------


def test_a_lost_manifest_costs_one_more_copy(local: Shop, storage: Path) -> None:
    """And the memory of stale files."""
    local.publish("mug", "bowl")
    (storage / "_published" / "hero.json").unlink()
    done = local.publish("mug")
    assert (done.copied, done.stale) == (1, ())


@pytest.mark.parametrize("text", ["", "[]", '{"version": 2}', '{"version": 1, "published": 7}'])
def test_a_manifest_that_cannot_be_read_is_an_error(local: Shop, storage: Path, text: str) -> None:
    """It names the file, and what deleting it means."""
    local.publish("mug")
    (storage / "_published" / "hero.json").write_text(text)
    with pytest.raises(StorageError, match=r"_published/hero\.json .*delete the file"):
        local.publish("mug")


def test_a_manifest_of_another_asset_is_an_error(local: Shop, storage: Path) -> None:
    """One that was moved or forged, or whose names differ in case on a disk that ignores it."""
    local.publish("mug")
    change_manifest(storage, lambda manifest: manifest.update(asset="Hero"))
    with pytest.raises(StorageError, match=r"_published/hero\.json .*that of Hero"):
        local.publish("mug")


def test_publishing_reads_the_manifests_of_others_for_stale_files_alone(
    run: Run, local: Shop, storage: Path
) -> None:
    """There can be thousands; one that cannot be read shows whether it was."""
    local.publish("mug")
    publication = Publication.parse(f"{local.folder}/{{sku}}.{{ext}}")
    for prompts, fails in (([{"sku": "mug"}, {"sku": "cup"}], False), ([{"sku": "cup"}], True)):
        generation: Any = run(prompts, template="a {sku}")
        tables, images = {None: generation.plan.prompts}, {None: table_of(generation)}
        engine: Any = generation.engine
        names = engine.claim_names(publication, tables, asset="hero")
        broken = storage / "_published" / "banner.json"
        broken.write_text("")
        with pytest.raises(StorageError) if fails else contextlib.nullcontext():
            engine.publish(publication, names, images, asset="hero")
        broken.unlink()


def test_a_partition_without_images_has_no_manifest(local: Shop, storage: Path) -> None:
    """Every run that claims names reads all there are."""
    done = local.publish_partitions({"bonn": []})
    assert done["bonn"].addresses == ()
    assert not (storage / "_published").exists()


def test_manifests_are_where_the_record_is(local: Shop, tmp_path: Path, storage: Path) -> None:
    """Not among images that are public."""
    local.settings["usage_uri"] = str(tmp_path / "private")
    local.publish("mug")
    assert os.listdir(tmp_path / "private" / "_published") == ["hero.json"]  # noqa: PTH208
    assert not (storage / "_published").exists()
