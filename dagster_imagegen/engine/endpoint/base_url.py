"""Where requests go and what they carry: the URL, the headers, and what no text may repeat."""

import base64
import html
import json
import re
from collections.abc import Iterator, Mapping
from urllib.parse import quote

import httpx

from dagster_imagegen.engine.errors import ConfigurationError

PATH = "/images/generations"
WORD_CHARACTERS = 8  # extra headers with values shorter than this hold words, not secrets
TELLING_CHARACTERS = 12  # of a secret, the start that already counts as one


class Secrets:
    """What is in the headers and must be in no text: the key, and the values of extra headers.

    Neither as it is nor as a server may spell it in a URL, in JSON, in HTML or in base64.
    """

    def __init__(self, api_key: str | None, extra_headers: Mapping[str, str]) -> None:
        values = [value for value in extra_headers.values() if len(value) >= WORD_CHARACTERS]
        given = dict.fromkeys(secret for secret in ((api_key or "").strip(), *values) if secret)
        self._secrets = list(dict.fromkeys(text for each in given for text in _spellings(each)))

    def __repr__(self) -> str:
        return "<Secrets>"

    def cut_from(self, text: str) -> str:
        """`text` with *** for each secret, and for the start of one where a text was cut short."""
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
        return  # its base64 is a few letters, which any text can have
    for before in range(3):  # what stands before it decides which of three ways it looks
        encoded = base64.b64encode(bytes(before) + secret.encode(errors="replace")).decode()
        # Without the ends, in which bits of its neighbours are.
        yield encoded[-(-before * 4 // 3) : (before + len(secret)) // 3 * 4]


def endpoint_url(base_url: str) -> httpx.URL:
    """`{base_url}/images/generations`; a query (Azure's `api-version`) stays behind the path."""
    base, mark, query = base_url.strip().partition("#")[0].partition("?")
    try:
        url = httpx.URL(base.rstrip("/") + PATH + mark + query)
        url.host  # noqa: B018  # is decoded when it is asked for, which not every name can be
    except (httpx.InvalidURL, UnicodeError) as error:
        raise ConfigurationError(f"base_url cannot be read as a URL: {error}") from error
    if url.userinfo:
        raise ConfigurationError(
            "base_url holds a user or password; give the key as api_key, or a header of your own "
            "in extra_headers"
        )
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigurationError(
            f"base_url {base.rpartition('@')[2]!r} is no http(s) address, e.g. "
            "https://inference.do-ai.run/v1"
        )
    return url


def request_headers(api_key: str | None, extra: Mapping[str, str]) -> httpx.Headers:
    """The headers of a request; ConfigurationError where one cannot be sent."""
    headers = httpx.Headers({"content-type": "application/json", "accept": "*/*"})
    if api_key and api_key.strip():
        if not re.fullmatch("[!-~]+", api_key.strip()):
            raise ConfigurationError("api_key holds characters that no key has; copy it again")
        headers["authorization"] = f"Bearer {api_key.strip()}"
    for name, value in extra.items():
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
            raise ConfigurationError(f"extra_headers: {name!r} is no name of a header")
        if not re.fullmatch(r"[\t -~]*", value):
            raise ConfigurationError(f"extra_headers: the value of {name!r} is not printable ASCII")
        headers[name] = value
    return headers


def is_local(url: httpx.URL) -> bool:
    """Whether the endpoint is on this machine, where no proxy is asked for it."""
    return url.host in ("localhost", "::1") or url.host.startswith("127.")
