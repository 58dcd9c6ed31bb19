"""The URL and the headers of requests, and the secrets in them that no text may repeat."""

import base64
import html
import json
import re
from collections.abc import Iterator, Mapping
from urllib.parse import quote

import httpx

from dagster_imagegen.engine.errors import ConfigurationError

PATH = "/images/generations"
WORD_CHARACTERS = 8  # a shorter value of an extra header is a word, not a secret
TELLING_CHARACTERS = 12  # the beginning of a secret, from this length on, is secret as well


class Secrets:
    """The key and the values of extra headers, to be cut from texts.

    Each is found as it is, and as a server may write it in a URL, in JSON, in HTML or in base64.
    """

    def __init__(self, api_key: str | None, extra_headers: Mapping[str, str]) -> None:
        values = [value for value in extra_headers.values() if len(value) >= WORD_CHARACTERS]
        given = dict.fromkeys(secret for secret in ((api_key or "").strip(), *values) if secret)
        self._secrets = list(dict.fromkeys(text for each in given for text in _spellings(each)))

    def __repr__(self) -> str:
        return "<Secrets>"

    def cut_from(self, text: str) -> str:
        """`text` with *** for each secret, and for its beginning where the text was truncated."""
        for secret in self._secrets:
            if secret[:TELLING_CHARACTERS] not in text:
                continue
            for length in range(len(secret), min(len(secret), TELLING_CHARACTERS) - 1, -1):
                text = text.replace(secret[:length], "***")
        return text


def _spellings(secret: str) -> Iterator[str]:
    yield secret
    yield quote(secret, safe="")
    yield json.dumps(secret)[1:-1]
    yield html.escape(secret)
    if len(secret) < TELLING_CHARACTERS:
        return  # its base64 is a few letters, which any text can contain
    for before in range(3):  # the number of bytes before it, modulo 3, decides how it is encoded
        encoded = base64.b64encode(bytes(before) + secret.encode(errors="replace")).decode()
        # Without the ends, which share bits with its neighbours.
        yield encoded[-(-before * 4 // 3) : (before + len(secret)) // 3 * 4]


def endpoint_url(base_url: str) -> httpx.URL:
    """`{base_url}/images/generations`; a query (Azure's `api-version`) stays after the path.

    Raises ConfigurationError if `base_url` is not an http(s) URL, or contains a user or password.
    """
    base, mark, query = base_url.strip().partition("#")[0].partition("?")
    try:
        url = httpx.URL(base.rstrip("/") + PATH + mark + query)
        url.host  # noqa: B018  # httpx decodes it here, and raises if it cannot
    except (httpx.InvalidURL, UnicodeError) as error:
        raise ConfigurationError(f"base_url must be a URL: {error}") from error
    if url.userinfo:
        raise ConfigurationError(
            "base_url must not contain a user or password; set api_key, or a header in "
            "extra_headers"
        )
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigurationError(
            f"base_url must be an http(s) URL, e.g. https://inference.do-ai.run/v1, got "
            f"{base.rpartition('@')[2]!r}"
        )
    return url


def request_headers(api_key: str | None, extra: Mapping[str, str]) -> httpx.Headers:
    """The headers of a request. Raises ConfigurationError if one is not valid."""
    headers = httpx.Headers({"content-type": "application/json", "accept": "*/*"})
    if api_key and api_key.strip():
        if not re.fullmatch("[!-~]+", api_key.strip()):
            raise ConfigurationError("api_key must be ASCII without spaces; copy it again")
        headers["authorization"] = f"Bearer {api_key.strip()}"
    for name, value in extra.items():
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
            raise ConfigurationError(f"extra_headers: invalid header name {name!r}")
        if not re.fullmatch(r"[\t -~]*", value):
            raise ConfigurationError(f"extra_headers: value of {name!r} must be printable ASCII")
        headers[name] = value
    return headers


def is_local(url: httpx.URL) -> bool:
    """Whether the endpoint is on this machine, and therefore reached without a proxy."""
    return url.host in ("localhost", "::1") or url.host.startswith("127.")
