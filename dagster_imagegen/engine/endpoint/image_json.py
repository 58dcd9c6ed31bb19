"""Where in a JSON document the image is: under the names that servers give it, the best first."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from dagster_imagegen.engine.endpoint.image_text import spells_image
from dagster_imagegen.engine.endpoint.wire import load_json

DEPTH_MAX = 12
# Names are compared in lower case without underscores: imageURL is image_url.
ENCODED = (
    "b64json b64 base64 imagebase64 imageb64 b64image base64image base64data imagebase64data "
    "bytesbase64encoded imagebytes partialimageb64 imagedatauri datauri"
)
LINKS = "url imageurl uri imageuri fileuri signedurl downloadurl"
# An object or a list to look into, or a text that counts if it looks like an image or a link.
CONTAINERS = (
    "data images image output outputs result results artifacts predictions generatedimages "
    "candidates choices message content parts inlinedata response items item files file svg body"
)
NAMES = tuple(f"{ENCODED} {LINKS} {CONTAINERS}".split())
RANKS = {name: rank for rank, name in enumerate(NAMES)}
LINK_NAMES = frozenset(LINKS.split())
TEXT_NAMES = LINK_NAMES.union(ENCODED.split())
_IN_BROKEN_JSON = re.compile(
    rb"[\"'](?:b64_?json|b64|base64|image_?base64|image_?b64|bytesBase64Encoded|image_?bytes|image"
    rb"|data)[\"']\s{0,20}:\s{0,20}[\"']((?:data:[\w/+.;=-]{0,100},)?[\w+/=\\\s-]{64,})[\"']",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class Found:
    """A text that is an image or a link to one, and the objects around it, the outermost first."""

    text: str
    is_link: bool
    places: tuple[Mapping[str, Any], ...]


def images_in(value: object) -> Iterator[Found]:
    """Everything in a document that can be its image, in the order in which to try it."""
    return _walk(value, "", ())


def image_in_broken_json(body: bytes | bytearray) -> str | None:
    """Base64 of an image that is whole in JSON that is not."""
    for found in _IN_BROKEN_JSON.finditer(body):
        try:
            text = load_json(b'"' + found.group(1) + b'"')
        except ValueError:
            continue
        if spells_image(text):
            return text
    return None


def _walk(
    value: object, name: str, places: tuple[Mapping[str, Any], ...], depth: int = 0
) -> Iterator[Found]:
    if isinstance(value, str):
        yield from _texts(value.strip(), name, places, depth)
    elif depth == DEPTH_MAX:
        return
    elif isinstance(value, list):
        for item in cast("list[object]", value):
            yield from _walk(item, name, places, depth + 1)
    elif isinstance(value, dict):
        inside = cast("dict[str, object]", value)
        named = [(RANKS.get(key.lower().replace("_", ""), -1), key) for key in inside]
        for rank, key in sorted(pair for pair in named if pair[0] >= 0):
            yield from _walk(inside[key], NAMES[rank], (*places, inside), depth + 1)


def _texts(
    text: str, name: str, places: tuple[Mapping[str, Any], ...], depth: int
) -> Iterator[Found]:
    is_href = text[:8].lower().startswith(("http://", "https://"))
    if not text:
        return
    if spells_image(text):
        yield Found(text=text, is_link=False, places=places)
    elif name in TEXT_NAMES or is_href:
        yield Found(text=text, is_link=is_href or name in LINK_NAMES, places=places)
    elif text[0] in "{[" and depth <= DEPTH_MAX - 6:  # JSON in a text
        try:
            inside = load_json(text)
        except ValueError:
            return
        yield from _walk(inside, name, places, depth + 6)
