"""The gallery's page in Chromium: from a folder, and from an object store over HTTP."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import pytest

from dagster_imagegen import ImageGenResource
from dagster_imagegen.gallery import build_gallery
from dagster_imagegen.sandbox import Sandbox

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

HOSTILE = '<img src=x onerror="document.title=\'owned\'"><script>document.title="owned"</script>'
LONG_NAME = f"hostile-{'x' * 80}"
"""Wider than a telephone, without a place to break it."""
IMAGES = 130
"""Three pages."""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[ImageGenResource, Path]:
    """A storage with its gallery: many rows, a refusal, a hostile prompt, a row of two versions."""
    folder = tmp_path_factory.mktemp("gallery")
    with Sandbox(paint=False, refuse=["forbidden"]) as sandbox:
        imagegen = ImageGenResource(
            base_url=sandbox.base_url, model="openai-gpt-image-1", storage_uri=str(folder)
        )
        rows = [
            {"prompt_id": f"row-{n}", "prompt": f"a picture of number {n}"} for n in range(IMAGES)
        ]
        imagegen.generate_many(rows)
        # Sent one after the other, so that it is known which is the newest.
        imagegen.generate_many([{"prompt_id": "bad", "prompt": "a forbidden mug"}])
        imagegen.generate_many([{"prompt_id": LONG_NAME, "prompt": HOSTILE}])
        again = {"prompt_id": "row-7", "prompt": "a picture of number 7"}
        imagegen.generate_many([again], revision=1)
    with imagegen.open_engine() as engine:
        build_gallery(engine)
    return imagegen, folder


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Page]":
    from tests.browser.dagster_ui import browser_tab

    with browser_tab("", tmp_path_factory.mktemp("profile")) as ui:
        yield ui.page


@pytest.fixture
def opened(page: "Page", built: tuple[ImageGenResource, Path]) -> "Page":
    """The page from the folder, with all that it has loaded."""
    from playwright.sync_api import expect

    page.goto(f"file://{built[1]}/gallery/index.html")
    total = IMAGES + 3
    expect(page.locator("#count")).to_have_text(f"{total} of {total}")
    return page


def test_pages_turn_and_thumbnails_load(opened: "Page"):
    from playwright.sync_api import expect

    cards = opened.locator(".card")
    expect(cards).to_have_count(60)
    expect(opened.locator("#page")).to_have_text("Page 1 of 3")
    loaded = "() => document.querySelector('.card img').naturalWidth > 0"
    opened.wait_for_function(loaded)
    # The sandbox's small pictures are twice as high as wide, and cards are alike all the same.
    box = opened.locator(".card .open").first.bounding_box()
    assert box is not None
    assert abs(box["width"] - box["height"]) < 2
    opened.click("#next")
    opened.click("#next")
    expect(cards).to_have_count(13)
    expect(opened.locator("#next")).to_be_disabled()


def test_filters_by_text_status_date_and_cost(opened: "Page"):
    from playwright.sync_api import expect

    count = opened.locator("#count")
    total = f"of {IMAGES + 3}"
    opened.fill("#text", "NUMBER 12 picture")
    expect(count).to_have_text(f"12 {total}")  # 12, 112, 120 to 129; words in any order.
    opened.click("button[type=reset]")
    opened.select_option("#status", "refused")
    expect(count).to_have_text(f"1 {total}")
    expect(opened.locator(".card .none")).to_contain_text("no image: moderation_blocked")
    opened.click("button[type=reset]")
    opened.fill("#from", "2999-01-01")
    expect(count).to_have_text(f"0 {total}")
    opened.fill("#from", "2020-01-01")
    opened.fill("#cost-to", "0")
    expect(count).to_have_text(f"1 {total}")  # The refusal cost nothing.
    opened.click("button[type=reset]")
    expect(count).to_have_text(f"{IMAGES + 3} {total}")


def test_the_original_is_one_click_away_and_versions_are_side_by_side(
    opened: "Page", built: tuple[ImageGenResource, Path]
):
    from playwright.sync_api import expect

    first = opened.locator(".card").first
    href = first.locator("a").get_attribute("href") or ""
    assert (built[1] / "gallery" / href).resolve().is_relative_to(built[1] / "images")
    first.locator(".open").click()
    expect(opened.locator("#one-title")).to_have_text("row-7, revision 1")
    opened.wait_for_function("() => document.querySelector('#picture img').naturalWidth > 0")
    assert "../images/" in (opened.locator("#picture img").get_attribute("src") or "")
    versions = opened.locator("#versions-list li")
    expect(versions).to_have_count(2)
    tops = "all => all.map(each => each.getBoundingClientRect().top)"
    assert len(set(versions.evaluate_all(tops))) == 1
    expect(versions.nth(0)).to_contain_text("revision 0")
    expect(versions.nth(1)).to_contain_text("revision 1")
    opened.keyboard.press("Escape")
    expect(opened.locator("#one")).not_to_be_visible()


def test_a_hostile_prompt_is_text(opened: "Page"):
    from playwright.sync_api import expect

    opened.fill("#text", "onerror")
    card = opened.locator(".card")
    expect(card).to_have_count(1)
    expect(card.locator(".prompt")).to_have_text(HOSTILE)
    card.locator(".open").click()
    expect(opened.locator("#one-prompt")).to_have_text(HOSTILE)
    assert opened.title() == "Gallery"
    assert opened.locator("img[onerror]").count() == 0


def test_nothing_overflows_in_either_width_and_scheme(opened: "Page"):
    for scheme in ("light", "dark"):
        opened.emulate_media(color_scheme=scheme)
        for width in (1280, 400):
            opened.set_viewport_size({"width": width, "height": 800})
            wide = opened.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, (scheme, width)
    opened.set_viewport_size({"width": 1280, "height": 800})


def test_a_long_name_leaves_room_for_the_button_that_closes(opened: "Page"):
    opened.set_viewport_size({"width": 400, "height": 800})
    opened.fill("#text", LONG_NAME)
    opened.locator(".card .open").first.click()
    wide = "each => each.scrollWidth - each.clientWidth"
    assert opened.locator("#one").evaluate(wide) == 0
    opened.click("#close")
    opened.set_viewport_size({"width": 1280, "height": 800})


def test_it_opens_from_an_object_store(page: "Page", s3_options: dict[str, Any], sandbox: Sandbox):
    """S3 serves each file with its media type, so that a browser shows the page."""
    from playwright.sync_api import expect

    fsspec.filesystem("s3", **s3_options).mkdir("gallery-bucket")
    imagegen = ImageGenResource(
        base_url=sandbox.base_url,
        model="openai-gpt-image-1",
        storage_uri="s3://gallery-bucket/shop",
        storage_options={**s3_options, "s3_additional_kwargs": {"ACL": "public-read"}},
    )
    imagegen.generate("a mug")
    with imagegen.open_engine() as engine:
        build_gallery(engine)
    page.goto(f"{s3_options['endpoint_url']}/gallery-bucket/shop/gallery/index.html")
    expect(page.locator("#count")).to_have_text("1 of 1")
    page.wait_for_function("() => document.querySelector('.card img').naturalWidth > 0")
