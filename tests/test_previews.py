"""Small pictures as markdown: few, small, safe, and never the reason why an asset fails."""

import base64
import io
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dagster_imagegen.previews import (
    SHEET_BYTES,
    STRIP_CHARACTERS,
    Picture,
    contact_sheet,
    literal,
    pictures,
    strip,
)
from tests.test_metadata import image_table


def picture(width: int = 300, height: int = 200, *, mode: str = "RGB", form: str = "PNG") -> bytes:
    """A picture that compresses badly."""
    noise = Image.effect_noise((width, height), 80)
    buffer = io.BytesIO()
    Image.merge(mode, [noise] * len(mode)).save(buffer, form)
    return buffer.getvalue()


def shown(markdown: str) -> list[Image.Image]:
    """The pictures in a preview."""
    found = re.findall(r"data:image/webp;base64,([A-Za-z0-9+/=]+)", markdown)
    return [Image.open(io.BytesIO(base64.b64decode(each))) for each in found]


def noise() -> Picture:
    """A picture that takes as many bytes as any, with a prompt that does so too."""
    image = Image.effect_noise((224, 224), 80).convert("RGB")
    return Picture(image=image, prompt="😀日本" * 400)


@pytest.mark.parametrize(
    ("mode", "form"),
    [("RGB", "PNG"), ("RGBA", "PNG"), ("RGB", "JPEG"), ("RGBA", "WEBP"), ("L", "GIF")],
)
def test_every_usual_kind_of_image_is_shown_small(mode: str, form: str) -> None:
    """With the proportions that it has."""
    data = picture(mode=mode, form=form)
    found = pictures(image_table({}), lambda _: data)
    (small,) = shown(contact_sheet(found))
    assert small.size == (224, 149)
    (small,) = shown(strip(found))
    assert small.height == 48


def test_a_sheet_fits_any_event_log() -> None:
    """However busy the pictures, and whatever the prompts are written in; fewer if need be."""
    twelve = [noise()] * 12
    sheet = contact_sheet(twelve)
    assert len(shown(sheet)) == 12
    assert len(json.dumps(sheet)) <= SHEET_BYTES
    fewer = contact_sheet(twelve, max_bytes=4_000)
    assert 0 < len(shown(fewer)) < 12
    assert len(json.dumps(fewer)) <= 4_000
    assert contact_sheet(twelve, max_bytes=100) == ""


def test_a_strip_is_short_enough_to_be_shown_at_once() -> None:
    """One picture of several; of fewer and coarser ones where they are busy."""
    plain = Picture(image=Image.new("RGB", (224, 149), "red"), prompt="red")
    busy = strip([noise()] * 12)
    assert len(busy) <= STRIP_CHARACTERS
    assert len(shown(busy)) == len(shown(strip([plain] * 12))) == 1
    assert shown(busy)[0].width < shown(strip([plain] * 12))[0].width
    assert strip([plain], max_characters=50) == strip([]) == ""


def test_new_images_are_shown_before_old_ones() -> None:
    """What one looks for after a run over a large table."""
    old = [{"image_status": "reused"}] * 20
    table = image_table(
        *old, {"prompt": "new one"}, {"image_status": "refused", "image_path": None}
    )
    data = picture()
    found = pictures(table, lambda _: data)
    assert [each.prompt for each in found[:2]] == ["new one", "prompt 0"]
    assert len(found) == 12


def test_what_cannot_be_shown_is_left_out() -> None:
    """Broken, gone, vector, absurdly large and decompression bombs; the asset does not fail."""
    good = picture()
    bomb = io.BytesIO()
    Image.new("1", (9_000, 9_000)).save(bomb, "PNG")
    files = {
        "images/0.png": good,
        "images/1.png": good[:200],
        "images/2.png": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "images/3.png": bomb.getvalue(),
    }
    table = image_table({}, {}, {}, {}, {}, {"image_size_bytes": 10**9, "image_path": "images/0"})
    assert len(pictures(table, files.__getitem__)) == 1


def test_no_images_no_preview() -> None:
    """An empty table has none, nor has one of refusals."""
    assert pictures(image_table(), lambda _: b"") == []
    assert pictures(image_table({"image_status": "refused"}), lambda _: b"") == []
    assert contact_sheet([]) == ""


@given(st.text())
def test_a_prompt_cannot_inject_anything_into_its_caption(prompt: str) -> None:
    """One line of inline code, which nothing in it ends, in a cell that nothing in it ends."""
    code = literal(prompt)
    assert code[0] == code[-1] == "`"
    assert "`" not in code[1:-1]
    assert "|" not in code
    assert code.isprintable()
    assert len(code) <= 67
