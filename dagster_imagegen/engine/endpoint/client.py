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
)
from dagster_imagegen.engine.endpoint.retries import RetryPolicy
from dagster_imagegen.engine.endpoint.wire import message_of
from dagster_imagegen.engine.request import ImageRequest

__all__ = ["ImageClient", "RetryPolicy"]

MAX_BODY_BYTES = 64 * 1024 * 1024
MAX_ERROR_BYTES = 1024 * 1024
CONNECT_SECONDS = 10.0
WRITE_SECONDS = 60.0
# Shorter than the 5 s after which common servers hang up: a request that meets a connection being
# closed is lost in a way that nobody can tell from one that was billed.
KEEPALIVE_SECONDS = 3.0
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
        max_concurrency: int = 64,
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
        trust_env = not is_local(self._url)
        certificates = [os.environ.get(name) for name in ("SSL_CERT_FILE", "SSL_CERT_DIR")]
        self._http = httpx.AsyncClient(
            transport=transport,
            trust_env=trust_env,
            verify=_tls(trust_env, *certificates),
            timeout=httpx.Timeout(
                timeout_seconds, connect=CONNECT_SECONDS, write=WRITE_SECONDS, pool=None
            ),
            limits=httpx.Limits(
                max_connections=None,
                max_keepalive_connections=max_concurrency,
                keepalive_expiry=KEEPALIVE_SECONDS,
            ),
            headers={"user-agent": "dagster-imagegen", "accept-encoding": "identity"},
        )
        self._downloader = ImageDownloader(
            self._http,
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
        await self._http.aclose()

    async def send(self, request: ImageRequest) -> Answer:
        """Send one POST, and fetch the image where the answer is a link to it.

        Raises nothing that the endpoint or the network does: that is a `Failure` in the answer.
        """
        delivery = _Delivery()
        deadline = asyncio.get_running_loop().time() + self._timeout_seconds
        try:
            async with self._http.stream(
                "POST",
                self._url,
                content=json.dumps(request.body(), separators=(",", ":")).encode(),
                headers=self._headers,
                extensions={"trace": delivery.trace},
            ) as response:
                answer = await self._read(response, deadline)
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError) as error:
            answer = Answer(result=self._without_answer(error, delivery))
        return replace(answer, result=self._without_secrets(answer.result))

    async def _read(self, response: httpx.Response, deadline: float) -> Answer:
        """Read an answer to its end, and what it links to."""
        now = self._wall_clock()
        result = await self._result(response, now=now, deadline=deadline)
        if isinstance(result, ImageLink):
            # The answer is not needed any more, and its connection serves the next request.
            await response.aclose()
            result = await self._downloader.fetch(result)
        if isinstance(result, Failure):
            result = replace(result, http_status=response.status_code)
        named = (response.headers.get(name) for name in REQUEST_ID_HEADERS)
        request_id = message_of(next(filter(None, named), None), limit=200)
        if isinstance(result, Failure):
            request_id = request_id or result.request_id
        return Answer(
            result=result,
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
        chunks: AsyncGenerator[bytes, None] = response.aiter_bytes()  # pyright: ignore[reportAssignmentType]  # it is one
        async with contextlib.aclosing(chunks):
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
        return Failure(kind=kind, code=code, message=f"{self._url.host}: {self._said(error)}")

    def _said(self, error: Exception) -> str:
        return message_of(self._secrets.cut_from(str(error))) or type(error).__name__

    def _without_secrets(self, result: GeneratedImage | Failure) -> GeneratedImage | Failure:
        texts = {name: value for name, value in vars(result).items() if isinstance(value, str)}
        return replace(
            result, **{name: self._secrets.cut_from(text) for name, text in texts.items()}
        )


@functools.cache
def _tls(trust_env: bool, *certificates: str | None) -> ssl.SSLContext:
    """What connections are verified by. Reading all certificates takes a tenth of a second."""
    return httpx.create_ssl_context(trust_env=trust_env)


UNDELIVERED = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.WriteError,
    httpx.WriteTimeout,
)


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
