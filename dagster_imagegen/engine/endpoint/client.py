"""One request: sent once, read whole, and told as an image or as a failure of a known kind.

Whether to send again is `RetryPolicy`'s to say and the caller's to do, for every request has to be
on record first. So there are no redirects here and no retries in the transport.
"""

import asyncio
import contextlib
import functools
import json
import os
import ssl
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import replace
from http.cookiejar import CookieJar, DefaultCookiePolicy
from types import TracebackType
from typing import Any

import httpx
from typing_extensions import Self

from dagster_imagegen.engine.endpoint.base_url import (
    Secrets,
    endpoint_url,
    is_local,
    request_headers,
)
from dagster_imagegen.engine.endpoint.connections import LIMITS, Connections
from dagster_imagegen.engine.endpoint.download import ImageDownloader, Resolve, resolve_name, shown
from dagster_imagegen.engine.endpoint.response import (
    Answer,
    Failure,
    FailureKind,
    GeneratedImage,
    ImageLink,
    ambiguous,
    read_body,
    read_headroom,
    read_stream,
    unpacked,
)
from dagster_imagegen.engine.endpoint.retries import RetryPolicy
from dagster_imagegen.engine.endpoint.wire import message_of
from dagster_imagegen.engine.request import ImageRequest

__all__ = ["ImageClient", "RetryPolicy"]

MAX_BODY_BYTES = 64 * 1024 * 1024
MAX_ERROR_BYTES = 1024 * 1024
CONNECT_SECONDS = 10.0
WRITE_SECONDS = 60.0
REQUEST_ID_HEADERS = ("x-request-id", "request-id", "apim-request-id", "x-amzn-requestid")


class ImageClient:
    """Sends requests to one endpoint. The key is in its headers and in no text it returns.

    `timeout_seconds` is how long an answer may take in all and how long it may be silent.
    `transport` replaces the network; `resolve` looks names up. Proxies of the environment are
    used, except for an endpoint on this machine; a `.netrc` is not.
    """

    def __init__(
        self,
        *,
        base_url: str,
        api_key: str | None = None,
        timeout_seconds: float = 600.0,
        extra_headers: Mapping[str, str] | None = None,
        max_body_bytes: int = MAX_BODY_BYTES,
        transport: httpx.AsyncBaseTransport | None = None,
        wall_clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        resolve: Resolve = resolve_name,
    ) -> None:
        self._url = endpoint_url(base_url)
        self._headers = request_headers(api_key, extra_headers or {})
        self._secrets = Secrets(api_key, extra_headers or {})
        self._timeout_seconds = timeout_seconds
        self._max_body_bytes = max_body_bytes
        self._wall_clock = wall_clock
        self._transport = transport
        trust_env = not is_local(self._url)
        certificates = [os.environ.get(name) for name in ("SSL_CERT_FILE", "SSL_CERT_DIR")]
        connect = functools.partial(
            httpx.AsyncClient,
            transport=transport and _Lent(transport),
            verify=_tls(*certificates),
            # A cookie goes to a host, whatever its port and whoever else lives at its address.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            timeout=httpx.Timeout(
                timeout_seconds, connect=CONNECT_SECONDS, write=WRITE_SECONDS, pool=None
            ),
            limits=LIMITS,
            headers={"user-agent": "dagster-imagegen", "accept-encoding": "identity"},
        )
        self._direct = Connections(functools.partial(connect, trust_env=False))
        self._connections = Connections(connect) if trust_env else self._direct
        self._downloader = ImageDownloader(
            self._connections,
            direct=self._direct,
            endpoint=self._url,
            endpoint_headers=self._headers,
            max_body_bytes=max_body_bytes,
            resolve=resolve,
            sleep=sleep,
        )

    @property
    def url(self) -> str:
        """Where requests go, without the query, which can hold a secret."""
        return shown(self._url)

    def __repr__(self) -> str:
        return f"<ImageClient {self.url}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._connections.aclose()
        await self._direct.aclose()
        if self._transport is not None:
            await self._transport.aclose()

    async def send(self, request: ImageRequest) -> Answer:
        """Send one POST, and fetch the image where the answer is a link to it.

        Raises nothing that the endpoint or the network does: that is a `Failure` in the answer.
        """
        delivery = _Delivery()
        deadline = asyncio.get_running_loop().time() + self._timeout_seconds
        try:
            async with (
                self._connections.client() as http,
                http.stream(
                    "POST",
                    self._url,
                    content=json.dumps(request.body(), separators=(",", ":")).encode(),
                    headers=self._headers,
                    extensions={"trace": delivery.trace},
                ) as response,
            ):
                now = self._wall_clock()
                result = await self._result(response, now=now, deadline=deadline)
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError) as error:
            return Answer(result=self._without_secrets(self._without_answer(error, delivery)))
        if isinstance(result, ImageLink):
            # The connection has been given back, and serves the next request.
            result = await self._downloader.fetch(result)
        return self._answer(response, result, now=now)

    def _answer(
        self, response: httpx.Response, result: GeneratedImage | Failure, *, now: float
    ) -> Answer:
        """What came of a request, with what else the answer's head told."""
        if isinstance(result, Failure):
            result = replace(result, http_status=response.status_code)
        named = (response.headers.get(name) for name in REQUEST_ID_HEADERS)
        request_id = message_of(next(filter(None, named), None), limit=200)
        if isinstance(result, Failure):
            request_id = request_id or result.request_id
        return Answer(
            result=self._without_secrets(result),
            http_status=response.status_code,
            request_id=request_id and self._secrets.cut_from(request_id),
            headroom=read_headroom(response.headers, now=now),
        )

    async def _result(
        self, response: httpx.Response, *, now: float, deadline: float
    ) -> GeneratedImage | ImageLink | Failure:
        status, headers = response.status_code, response.headers
        body = _Body(response, preallocated=self._max_body_bytes)
        try:
            async with contextlib.aclosing(self._chunks(response, deadline)) as chunks:
                if "text/event-stream" in headers.get("content-type", "") and response.is_success:
                    return await read_stream(chunks, http_status=status, headers=headers, now=now)
                async for chunk in chunks:
                    body.add(chunk)
        except _TooLarge as error:
            if response.is_success:
                return ambiguous("body_too_large", str(error))
        except (httpx.HTTPError, OSError) as error:
            if response.is_success and not body.is_whole_json():
                return ambiguous(*self._cut_off(error))
        # Of an error, and of JSON that is whole, the missing rest says nothing more.
        return read_body(http_status=status, headers=headers, body=body.data, now=now)

    async def _chunks(
        self, response: httpx.Response, deadline: float
    ) -> AsyncGenerator[bytes, None]:
        """The body, up to a size and a time."""
        loop = asyncio.get_running_loop()
        limit = self._max_body_bytes if response.is_success else MAX_ERROR_BYTES
        seen = 0
        async with contextlib.aclosing(unpacked(response)) as chunks:
            async for chunk in chunks:
                seen += len(chunk)
                if seen > limit:
                    raise _TooLarge(f"the answer is larger than {limit:,} bytes")
                yield chunk
                if loop.time() > deadline:
                    raise httpx.ReadTimeout("the answer does not end")

    def _cut_off(self, error: Exception) -> tuple[str, str]:
        """Code and message of a connection that broke after the request was sent."""
        if isinstance(error, httpx.TimeoutException):
            return "read_timeout", f"no whole answer within {self._timeout_seconds:g} s"
        return "connection_lost", f"the connection was lost: {self._said(error)}"

    def _without_answer(self, error: Exception, delivery: "_Delivery") -> Failure:
        """The failure that an exception before any answer is."""
        if isinstance(error, (httpx.UnsupportedProtocol, httpx.LocalProtocolError)):
            kind, code = FailureKind.MISCONFIGURED, "cannot_be_sent"
        elif isinstance(error, UNDELIVERED) or delivery.failed:
            kind, code = FailureKind.UNREACHABLE, "unreachable"
        else:
            return ambiguous(*self._cut_off(error))
        message = f"{self._url.host}: {self._said(error)}"
        if "CERTIFICATE_VERIFY_FAILED" in message:
            message += "; an authority of your own is trusted where SSL_CERT_FILE names its file"
        return Failure(kind=kind, code=code, message=message)

    def _said(self, error: Exception) -> str:
        return message_of(self._secrets.cut_from(str(error))) or type(error).__name__

    def _without_secrets(self, result: GeneratedImage | Failure) -> GeneratedImage | Failure:
        texts = {name: value for name, value in vars(result).items() if isinstance(value, str)}
        return replace(
            result, **{name: self._secrets.cut_from(text) for name, text in texts.items()}
        )


@functools.cache
def _tls(*certificates: str | None) -> ssl.SSLContext:
    """What connections are verified by. Reading all certificates takes a tenth of a second."""
    return httpx.create_ssl_context()


UNDELIVERED = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.WriteError,
    httpx.WriteTimeout,
)


class _Lent(httpx.AsyncBaseTransport):
    """A caller's transport, which outlives the clients that use it."""

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self._transport = transport

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self._transport.handle_async_request(request)


class _TooLarge(Exception):
    """An answer goes on for longer than it may."""


class _Delivery:
    """Whether a request is known not to have left whole.

    httpx goes on to read an answer when writing fails, so the error that comes out is one of
    reading, which alone would have to be taken for a request that may be billed.
    """

    def __init__(self) -> None:
        self.failed = False

    async def trace(self, event: str, info: Mapping[str, Any]) -> None:
        if event.endswith(("send_request_headers.failed", "send_request_body.failed")):
            self.failed = True


class _Body:
    """A body in one buffer, allocated at once where the answer says its length."""

    def __init__(self, response: httpx.Response, *, preallocated: int) -> None:
        length = response.headers.get("content-length", "")
        sane = length.isascii() and length.isdigit() and int(length) <= preallocated
        self._buffer = bytearray(int(length) if sane else 0)
        self._end = 0

    def add(self, chunk: bytes) -> None:
        end = self._end + len(chunk)
        self._buffer[self._end : end] = chunk
        self._end = end

    @property
    def data(self) -> bytearray:
        del self._buffer[self._end :]
        return self._buffer

    def is_whole_json(self) -> bool:
        """Whether the end was lost, and nothing of the answer."""
        return self.data.startswith(b"{") and self.data.rstrip().endswith(b"}")
