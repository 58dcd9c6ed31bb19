"""The URL and the headers of requests, and the secrets in them that no text may repeat."""

import base64
import html
import json
import re
from collections.abc import Iterator, Mapping
from urllib.parse import parse_qsl, quote, urlsplit

import httpx

from dagster_imagegen.engine.errors import ConfigurationError, holds_password, without_secrets

PATH = "/images/generations"
WORD_CHARACTERS = 8  # a shorter value of an extra header is a word, not a secret
DEFAULT_PORTS = {"http": 80, "https": 443}
HEADERS = {
    "accept": "*/*",
    "accept-encoding": "identity",
    "connection": "keep-alive",
    "user-agent": "dagster-imagegen",
}
"""Of each request."""
TELLING_CHARACTERS = 12  # the beginning of a secret, from this length on, is secret as well


class Secrets:
    """The key, the values of extra headers and those of the URL's query, to be cut from texts.

    Each is found as it is, and as a server may write it in a URL, in JSON, in HTML or in base64.
    """

    def __init__(
        self, api_key: str | None, extra_headers: Mapping[str, str], query: bytes = b""
    ) -> None:
        in_query = [value for _, value in parse_qsl(query.decode(errors="replace"))]
        given_values = (*extra_headers.values(), *in_query)
        values = [value for value in given_values if len(value) >= WORD_CHARACTERS]
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
    url, told = _parsed(base.rstrip("/") + PATH + mark + query)
    if url is None:
        # Not the error of a query, nor that of its decoding: they can repeat it.
        told = "its query is invalid" if mark and _parsed(base)[0] is not None else told
        if not holds_password(base_url.strip()):
            raise ConfigurationError(f"base_url must be a URL: {told}")
    if url is None or url.userinfo:
        raise ConfigurationError(
            "base_url must not contain a user or password; set api_key, or a header in "
            "extra_headers"
        )
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigurationError(
            f"base_url must be an http(s) URL, e.g. https://inference.do-ai.run/v1, got "
            f"{without_secrets(base_url.strip()).rpartition('@')[2]!r}"
        )
    return url


def _parsed(text: str) -> tuple[httpx.URL | None, str]:
    """The URL; or None, and what is wrong with it."""
    try:
        url = httpx.URL(text)
        url.host  # noqa: B018  # httpx decodes it here, and raises if it cannot
    except (httpx.InvalidURL, UnicodeError) as error:
        return None, str(error)
    return url, ""


def endpoint_name(base_url: str) -> str:
    """The base URL in one spelling: lower-case scheme and host, no default port, no last slash.

    Images are identified by it, so that all spellings of one address share them. The query is not
    in it: it can contain a key, and Azure's `api-version` does not decide what is drawn.

    Raises ConfigurationError for what `endpoint_url` does not take, and for ports beyond TCP's.
    """
    endpoint_url(base_url)
    try:
        parts = urlsplit(base_url.strip())
        port = "" if parts.port in (None, DEFAULT_PORTS.get(parts.scheme)) else f":{parts.port}"
    except ValueError as error:  # httpx accepts ports that TCP does not have, and half an IPv6.
        raise ConfigurationError(f"base_url has no such port or host: {error}") from None
    host = parts.hostname or ""
    if ":" in host:
        host = f"[{host}]"
    return f"{parts.scheme}://{host}{port}{parts.path.rstrip('/')}"


def origin(url: httpx.URL) -> tuple[str, str, int]:
    """Scheme, host and port of a URL, which decide who answers."""
    return url.scheme, url.host, url.port or DEFAULT_PORTS[url.scheme]


class QuietURL(httpx.URL):
    """A URL that shows itself without its query, as in the line that is logged of an answer."""

    def __str__(self) -> str:
        return str(httpx.URL(self, query=None))


def request_headers(api_key: str | None, extra: Mapping[str, str]) -> httpx.Headers:
    """The headers of a request. Raises ConfigurationError if one is not valid."""
    headers = httpx.Headers({**HEADERS, "content-type": "application/json"})
    if api_key and api_key.strip():
        if problem := _problem_of_key(api_key.strip()):
            raise ConfigurationError(
                f"api_key must be ASCII without spaces or line breaks, and has {problem}; "
                "copy it again"
            )
        headers["authorization"] = f"Bearer {api_key.strip()}"
    for name, value in extra.items():
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
            # A whole header may stand there, with its value: `Authorization: Bearer …`.
            start = re.split(r"[^\w-]", name, maxsplit=1)[0]
            raise ConfigurationError(f"extra_headers: invalid header name {f'{start}…'!r}")
        if not re.fullmatch(r"[\t -~]*", value):
            raise ConfigurationError(f"extra_headers: value of {name!r} must be printable ASCII")
        headers[name] = value
    return headers


def _problem_of_key(key: str) -> str | None:
    """Which character cannot be sent, and where, without showing any of the key."""
    found = re.search("[^!-~]", key)
    if found is None:
        return None
    names = {"\n": "a line break", "\r": "a line break", " ": "a space", "\t": "a tab"}
    what = names.get(found[0], "another character")
    return f"{what} at position {found.start() + 1} of {len(key)}"


def is_local(url: httpx.URL) -> bool:
    """Whether the endpoint is on this machine, and therefore reached without a proxy."""
    return url.host in ("localhost", "::1") or url.host.startswith("127.")
