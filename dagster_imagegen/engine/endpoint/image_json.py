"""Where in a JSON document the image is: under the names that servers give it, the best first."""

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from dagster_imagegen.engine.endpoint.image_text import spells_image
from dagster_imagegen.engine.endpoint.wire import load_json

SEARCH_DEPTH_MAX = 12
TEXTS_MAX = 10_000  # how many texts are looked at
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
    for text in itertools.islice(_texts(value, "", ()), TEXTS_MAX):
        yield from _found(text)


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


class _Text(NamedTuple):
    text: str
    name: str
    places: tuple[Mapping[str, Any], ...]


def _texts(
    value: object, name: str, places: tuple[Mapping[str, Any], ...], depth: int = 0
) -> Iterator[_Text]:
    """The texts under the names above."""
    if isinstance(value, str):
        yield _Text(value.strip(), name, places)
    elif depth == SEARCH_DEPTH_MAX:
        return
    elif isinstance(value, list):
        for item in cast("list[object]", value):
            yield from _texts(item, name, places, depth + 1)
    elif isinstance(value, dict):
        inside = cast("dict[str, object]", value)
        named = [(RANKS.get(key.lower().replace("_", ""), -1), key) for key in inside]
        for rank, key in sorted(pair for pair in named if pair[0] >= 0):
            yield from _texts(inside[key], NAMES[rank], (*places, inside), depth + 1)


def _found(given: _Text, *, is_inner: bool = False) -> Iterator[Found]:
    text, name, places = given
    is_href = text[:8].lower().startswith(("http://", "https://"))
    if not text:
        return
    if spells_image(text):
        yield Found(text=text, is_link=False, places=places)
    elif name in TEXT_NAMES or is_href:
        yield Found(text=text, is_link=is_href or name in LINK_NAMES, places=places)
    elif text[0] in "{[" and not is_inner:  # JSON in a text
        try:
            inside = load_json(text)
        except ValueError:
            return
        for each in itertools.islice(_texts(inside, name, places), TEXTS_MAX):
            yield from _found(each, is_inner=True)
