"""Text → the bytes of the image that it spells: base64 of any kind, a `data:` URL, or an svg."""

import re
from urllib.parse import unquote, unquote_to_bytes

import pybase64

from dagster_imagegen.engine.image_header import read_header

SAMPLE_CHARACTERS = 4096  # enough of a text to recognize an image by
AROUND = " \t\r\n\\\"'"  # what stands around base64 that was quoted once more than it should be
BEFORE_BASE64 = re.compile(r"[^,]{0,200}base64,", re.IGNORECASE)


def bytes_of_text(text: str) -> bytes | None:
    """The bytes that base64, a `data:` URL or an svg stands for; None if it is none of these."""
    text = text.strip(AROUND)
    if text.startswith("<"):
        return text.encode("utf-8", "replace")
    if prefix := BEFORE_BASE64.match(text):
        return _decode(_clean(_without_end(text[prefix.end() :])))
    if text[:5].lower() == "data:":
        content = text.partition(",")[2]
        data = unquote_to_bytes(content)
        return data if read_header(data) else _decode(_clean(content)) or data
    return _decode(text) or _decode(_clean(text))


def spells_image(text: str) -> bool:
    """Whether a text begins as an image does."""
    start = text.lstrip(AROUND)[:SAMPLE_CHARACTERS]
    if start[:11].lower() == "data:image/":
        return True
    if start.startswith("<"):
        return read_header(start.encode("utf-8", "replace")) is not None
    prefix = BEFORE_BASE64.match(start)
    sample = _without_end(start[prefix.end() :]) if prefix else start
    # Nearly all of it is clean, and to clean it takes longer than all the rest.
    return _begins_image(sample) or _begins_image(_clean(sample))


def _without_end(text: str) -> str:
    """A link in Markdown, as chats have it, ends with a bracket."""
    return text.partition(")")[0]


def _begins_image(sample: str) -> bool:
    return read_header(_decode(sample[: len(sample) // 4 * 4]) or b"") is not None


def _decode(text: str) -> bytes | None:
    try:
        return pybase64.b64decode(text, validate=True)
    except ValueError:
        return None


def _clean(text: str) -> str:
    """Base64 in the usual alphabet, padded and without line ends."""
    text = text.strip(AROUND)
    if text[:2] in ("b'", 'b"'):  # the repr of bytes in Python
        text = text[2:]
    if "%" in text:
        text = unquote(text)
    text = _with_plus(re.sub(r"\\[nrt]|[\r\n\t\u200b-\u200d\ufeff]", "", text)).rstrip("=")
    text = text.replace("-", "+").replace("_", "/")
    return text + "=" * (-len(text) % 4)


def _with_plus(text: str) -> str:
    """A space is a `+` that was decoded as in a form, or it stands between lines of one length."""
    lines = text.split(" ")
    joined = "".join(lines)
    equal = len({len(line) for line in lines[:-1]}) <= 1 and len(joined) % 4 == 0
    return joined if "+" in text or equal else text.replace(" ", "+")
