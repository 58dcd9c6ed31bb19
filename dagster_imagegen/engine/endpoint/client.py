"""One request: sent once, its answer read to the end, returned as an image or a `Failure`.

Nothing is sent twice here, neither after a redirect nor by the transport: every request has to be
on record first, so `RetryPolicy` decides about the next one and the caller sends it.
"""

import asyncio
import contextlib
import functools
import json
import os
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace

import httpx
from typing_extensions import Self

from dagster_imagegen.engine.endpoint.base_url import (
    Secrets,
    endpoint_url,
    is_local,
    request_headers,
)
from dagster_imagegen.engine.endpoint.body import read_body, read_cut_off
from dagster_imagegen.engine.endpoint.connections import Connections, Proxies
from dagster_imagegen.engine.endpoint.delivery import Delivery, TooLarge
from dagster_imagegen.engine.endpoint.download import (
    HomeNetworks,
    ImageDownloader,
    Resolve,
    resolve_name,
    shown,
)
from dagster_imagegen.engine.endpoint.events import begins_events, read_stream
from dagster_imagegen.engine.endpoint.failures import CONNECTION_LOST, AnswerHead, Failure
from dagster_imagegen.engine.endpoint.http11 import DirectTransport
from dagster_imagegen.engine.endpoint.kinds import FailureKind
from dagster_imagegen.engine.endpoint.models import ListedModel, models_url, read_models
from dagster_imagegen.engine.endpoint.response import (
    Answer,
    AnswerContent,
    GeneratedImage,
    ImageLink,
    OnPartial,
    ambiguous,
    with_bill,
)
from dagster_imagegen.engine.endpoint.waits import read_headroom
from dagster_imagegen.engine.endpoint.wire import message_of
from dagster_imagegen.engine.errors import EndpointUnreachable
from dagster_imagegen.engine.machine import OUT_OF_FILES, SCARCE_SECONDS, is_out_of_files
from dagster_imagegen.engine.request import ImageRequest

MAX_BODY_BYTES = 64 * 1024 * 1024
CONNECT_SECONDS = 10.0
WRITE_SECONDS = 60.0
REQUEST_ID_HEADERS = ("x-request-id", "request-id", "apim-request-id", "x-amzn-requestid")


class ImageClient:
    """Sends requests to one endpoint. No text that it returns contains the key.

    Proxies from the environment are used, except for an endpoint on this machine; `.netrc` is not.

    Args:
        base_url: The address before `/images/generations`.
        api_key: Sent as a bearer token; None: no token is sent.
        timeout_seconds: How long an answer may take in all, and how long it may be silent.
        extra_headers: Sent with every request, and hidden in texts like the key.
        max_body_bytes: The largest answer and the largest linked image that are read.
        transport: Replaces the network; it is closed with the client.
        wall_clock: Gives the Unix time.
        sleep: Waits between tries to connect, and to fetch a linked image.
        resolve: Looks up the host names of linked images.

    Raises:
        ConfigurationError: The address, the key or a header cannot be used.
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
        self._secrets = Secrets(api_key, extra_headers or {}, self._url.query)
        self._timeout_seconds = timeout_seconds
        self._max_body_bytes = max_body_bytes
        self._wall_clock = wall_clock
        self._transport = transport
        self._sleep = sleep
        certificates = [os.environ.get(name) for name in ("SSL_CERT_FILE", "SSL_CERT_DIR")]
        tls = _tls(*certificates)
        self._timeout = httpx.Timeout(
            timeout_seconds, connect=CONNECT_SECONDS, write=WRITE_SECONDS, pool=None
        )
        self._proxies = Proxies(of_environment=not is_local(self._url))
        make = functools.partial(_transport, tls)
        if transport is not None:
            make = functools.partial(_SharedTransport, transport)
        for proxy in self._proxies.all:
            make(proxy)  # One that is no address is found before the first request.
        self._connections = Connections(make)
        self._home = HomeNetworks(self._url, resolve)
        self._downloader = ImageDownloader(
            connections=self._connections,
            proxies=self._proxies,
            endpoint=self._url,
            endpoint_headers=self._headers,
            max_body_bytes=max_body_bytes,
            home=self._home,
            resolve=resolve,
            sleep=sleep,
        )

    def __repr__(self) -> str:
        return f"<ImageClient {shown(self._url)}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._home.aclose()
        await self._connections.aclose()
        if self._transport is not None:
            await self._transport.aclose()

    async def send(self, request: ImageRequest, *, on_partial: OnPartial | None = None) -> Answer:
        """Send one POST, and fetch the image where the answer is a link to it.

        `on_partial` gets the partial images of a stream.

        Whatever goes wrong at the endpoint or in the network is a `Failure` in the answer, never
        an exception.
        """
        self._home.look_up()
        answered = await self._answered(request, on_partial)
        if isinstance(answered, Failure):
            return Answer(result=self._without_secrets(answered))
        head, result = answered
        result = with_bill(result, head)
        if isinstance(result, ImageLink):
            # After the connection is given back, so that it can serve the next request.
            result = await self._downloader.fetch(result)
        return self._answer(head, result)

    async def models(self) -> tuple[ListedModel, ...]:
        """The endpoint's list of models.

        Raises `EndpointUnreachable`, or `EndpointMisconfigured` if it answers something else.
        """
        url = models_url(self._url)
        delivery = self._delivery()
        try:
            async with (
                self._connections.transport(self._url, proxy=self._proxies.of(self._url)) as http,
                delivery.send(
                    http, "GET", url, headers=self._headers, timeout=self._timeout
                ) as response,
            ):
                body = b"".join([chunk async for chunk in delivery.chunks(response)])
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError, TooLarge) as error:
            raise EndpointUnreachable(f"{shown(url)}: {self._text_of(error)}") from error
        return read_models(body, http_status=response.status_code, place=shown(url))

    def _delivery(self) -> Delivery:
        return Delivery(timeout_seconds=self._timeout_seconds, max_body_bytes=self._max_body_bytes)

    async def _answered(
        self, request: ImageRequest, on_partial: OnPartial | None
    ) -> tuple[AnswerHead, AnswerContent] | Failure:
        """The answer to a request that is sent once: when this process can open a connection."""
        left_seconds = self._timeout_seconds
        while True:
            delivery = self._delivery()
            try:
                return await self._exchange(request, delivery, on_partial)
            except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError) as error:
                if left_seconds <= 0 or not (
                    isinstance(error, httpx.ConnectError) and is_out_of_files(error)
                ):
                    return self._without_answer(error, delivery)
            # Nothing was sent. What is open are mostly other requests, and those end.
            left_seconds -= SCARCE_SECONDS
            await self._sleep(SCARCE_SECONDS)

    async def _exchange(
        self, request: ImageRequest, delivery: Delivery, on_partial: OnPartial | None
    ) -> tuple[AnswerHead, AnswerContent]:
        """Send a request and read its answer. Raises what httpx raises if no head comes."""
        content = json.dumps(request.body(), separators=(",", ":")).encode()
        async with (
            self._connections.transport(self._url, proxy=self._proxies.of(self._url)) as http,
            delivery.send(
                http,
                "POST",
                self._url,
                headers=self._headers,
                timeout=self._timeout,
                content=content,
            ) as response,
        ):
            self._home.answered()
            head = AnswerHead(
                http_status=response.status_code,
                headers=dict(response.headers),
                now=self._wall_clock(),
            )
            return head, await self._result(response, head, delivery, on_partial)

    def _answer(self, head: AnswerHead, result: GeneratedImage | Failure) -> Answer:
        named = (head.headers.get(name) for name in REQUEST_ID_HEADERS)
        request_id = message_of(next(filter(None, named), None), limit=200)
        if isinstance(result, Failure):
            result = replace(result, http_status=head.http_status)
            request_id = request_id or result.request_id
        return Answer(
            result=self._without_secrets(result),
            http_status=head.http_status,
            request_id=request_id and self._secrets.cut_from(request_id),
            headroom=read_headroom(head.headers, now=head.now),
        )

    async def _result(
        self,
        response: httpx.Response,
        head: AnswerHead,
        delivery: Delivery,
        on_partial: OnPartial | None,
    ) -> AnswerContent:
        body = bytearray()
        content_type = head.headers.get("content-type", "")
        try:
            async with contextlib.aclosing(delivery.chunks(response)) as chunks:
                async for chunk in chunks:
                    # What is sent before an answer to keep its connection open is not kept.
                    body += chunk if body else chunk.lstrip()
                    if head.is_success and begins_events(body, content_type):
                        events = _with_start(body, chunks)
                        return await read_stream(events, head, on_partial=on_partial)
        except TooLarge as error:
            if head.is_success:
                return read_cut_off(body, head) or ambiguous("body_too_large", str(error))
        except (httpx.HTTPError, OSError) as error:
            if head.is_success:
                return read_cut_off(body, head) or self._cut_off(error)
        return read_body(body, head)  # An error is read although the connection was cut.

    def _cut_off(self, error: Exception) -> Failure:
        """The failure of a connection that broke after the request was sent."""
        if isinstance(error, httpx.TimeoutException):
            said = f"no complete answer within {self._timeout_seconds:g} s"
            return ambiguous("read_timeout", said)
        text = self._text_of(error)
        # Of what the endpoint sent against the protocol, h11 repeats the bytes.
        own, repeated, sent = text.partition(": bytearray(")
        return ambiguous(
            CONNECTION_LOST, f"the connection was lost: {own}", detail=f"{repeated}{sent}"
        )

    def _without_answer(self, error: Exception, delivery: Delivery) -> Failure:
        """The failure for an exception that came before any answer."""
        if isinstance(error, (httpx.UnsupportedProtocol, httpx.LocalProtocolError)):
            kind, code = FailureKind.MISCONFIGURED, "cannot_be_sent"
        elif isinstance(error, UNDELIVERED) or delivery.failed:
            kind, code = FailureKind.UNREACHABLE, "unreachable"
        else:
            return self._cut_off(error)
        message = f"{self._url.host}: {self._text_of(error)}"
        if is_out_of_files(error):
            message = f"{self._url.host}: {OUT_OF_FILES}"
        if "CERTIFICATE_VERIFY_FAILED" in message:
            message += "; to trust your own certificate authority, set SSL_CERT_FILE to its file"
        return Failure(kind=kind, code=code, message=message, own_message=message)

    def _text_of(self, error: Exception) -> str:
        return message_of(self._secrets.cut_from(str(error))) or type(error).__name__

    def _without_secrets(self, result: GeneratedImage | Failure) -> GeneratedImage | Failure:
        texts = {name: value for name, value in vars(result).items() if isinstance(value, str)}
        return replace(
            result, **{name: self._secrets.cut_from(text) for name, text in texts.items()}
        )


async def _with_start(
    start: bytes | bytearray, chunks: AsyncIterator[bytes]
) -> AsyncIterator[bytes]:
    yield bytes(start)
    async for chunk in chunks:
        yield chunk


@functools.cache
def _tls(*certificates: str | None) -> ssl.SSLContext:
    """The trusted certificates; cached, because reading them takes a tenth of a second."""
    context = httpx.create_ssl_context()
    context.set_alpn_protocols(["http/1.1"])  # Otherwise some servers speak HTTP/2 at once.
    return context


UNDELIVERED = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.WriteError,
    httpx.WriteTimeout,
)


def _transport(tls: ssl.SSLContext, proxy: str | None) -> httpx.AsyncBaseTransport:
    """Through a proxy it is httpx's own, and no connection is used twice.

    Of bytes behind an answer, which would be the next one, httpx tells nothing.
    """
    if proxy is None:
        return DirectTransport(tls=tls)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    return httpx.AsyncHTTPTransport(verify=tls, limits=limits, proxy=proxy)


class _SharedTransport(httpx.AsyncBaseTransport):
    """The caller's transport, which stays open when a client that uses it is closed."""

    def __init__(self, transport: httpx.AsyncBaseTransport, _: str | None) -> None:
        self._transport = transport

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self._transport.handle_async_request(request)
