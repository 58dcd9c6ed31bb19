"""HTTP/1.1 over a connection of its own, by h11, as a transport of httpx.

httpx's client and its own transport take four times as much time for a request as h11 and asyncio.
That transport is used where there is a proxy.
"""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, NamedTuple

import h11
import httpx

from dagster_imagegen.engine.endpoint.base_url import DEFAULT_PORTS
from dagster_imagegen.engine.endpoint.network import Stream, connect

MAX_HEAD_BYTES = 100 * 1024


class DirectTransport(httpx.AsyncBaseTransport):
    """Sends one request at a time, each once.

    The connection of the request before is used again if that has the same origin, was answered
    to the end, and nothing has come behind the answer. Of httpx's extensions, "timeout" and
    "sni_hostname" are obeyed, and "trace" is called before connecting, with a new connection,
    before sending, and if that fails.

    Raises what httpx's own transport raises. Nothing is sent after `aclose`.
    """

    def __init__(self, *, tls: ssl.SSLContext) -> None:
        self._tls = tls
        self._connection: _Connection | None = None
        self._closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The head of the answer; its body is read from the response's stream."""
        origin = _Origin.of(request)
        connection = self._connection
        if connection is None or connection.origin != origin or not connection.is_free:
            await self._disconnect()
            connection = await self._connect(origin, request)
            if self._closed:
                await connection.aclose()
                raise httpx.ConnectError("it was closed before the request was sent")
            self._connection = connection
        try:
            return await connection.exchange(request)
        except BaseException:
            connection.abort()
            raise

    async def _connect(self, origin: "_Origin", request: httpx.Request) -> "_Connection":
        trace, seconds = _trace_of(request), _timeouts_of(request).get("connect")
        await trace("connection.started", {})
        stream = await connect(origin.host, origin.port, seconds=seconds)
        if origin.tls_name is not None:
            stream = await stream.start_tls(
                self._tls, server_hostname=origin.tls_name, seconds=seconds
            )
        await trace("connection.complete", {})
        return _Connection(stream, origin)

    def abort(self) -> None:
        """Break the connection off: whoever waits for an answer finds its end."""
        if self._connection is not None:
            self._connection.abort()

    async def aclose(self) -> None:
        """Close the connection. Nothing is sent any more."""
        self._closed = True
        await self._disconnect()

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.aclose()


class _Origin(NamedTuple):
    host: str
    port: int
    tls_name: str | None
    """Whom a certificate has to name; None without TLS."""

    @classmethod
    def of(cls, request: httpx.Request) -> "_Origin":
        url = request.url
        # As it is sent: `host` would be decoded for people to read.
        host = url.raw_host.decode("ascii")
        name = request.extensions.get("sni_hostname") or host
        return cls(
            host, url.port or DEFAULT_PORTS[url.scheme], name if url.scheme == "https" else None
        )


def _trace_of(request: httpx.Request) -> Callable[[str, Mapping[str, Any]], Awaitable[None]]:
    return request.extensions.get("trace") or _no_trace


async def _no_trace(_: str, __: Mapping[str, Any]) -> None:
    pass


def _timeouts_of(request: httpx.Request) -> Mapping[str, float | None]:
    return request.extensions.get("timeout") or {}


class _Connection:
    """One connection, and how far the exchange on it has got."""

    def __init__(self, stream: Stream, origin: _Origin) -> None:
        self.origin = origin
        self._stream = stream
        self._state = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)

    @property
    def is_free(self) -> bool:
        """Whether the next answer on it would be that of the next request."""
        state = self._state
        return (
            state.our_state is state.their_state is h11.IDLE
            and not state.trailing_data[0]
            and self._stream.is_silent
        )

    async def exchange(self, request: httpx.Request) -> httpx.Response:
        """Send a request and read the head of its answer."""
        await self._send(request)
        seconds = _timeouts_of(request).get("read")
        head = await self.next_event(seconds)
        while not isinstance(head, h11.Response):  # Others come before it: 103 Early Hints.
            head = await self.next_event(seconds)
        return httpx.Response(
            head.status_code,
            headers=head.headers.raw_items(),
            stream=_Body(self, seconds),
            extensions={"http_version": b"HTTP/" + head.http_version, "reason_phrase": head.reason},
        )

    async def _send(self, request: httpx.Request) -> None:
        trace, url = _trace_of(request), request.url
        content = await request.aread()
        await trace("send_request_headers.started", {})
        try:
            head = h11.Request(
                method=request.method, target=url.raw_path, headers=request.headers.raw
            )
            pieces = [self._state.send(each) for each in (head, h11.Data(content))]
            pieces.append(self._state.send(h11.EndOfMessage()))
        except h11.LocalProtocolError as error:
            raise httpx.LocalProtocolError(str(error)) from error
        try:
            await self._stream.write(
                b"".join(filter(None, pieces)), _timeouts_of(request).get("write")
            )
        except BaseException as error:
            await trace("send_request_body.failed", {})
            # A server that hangs up early may have answered before.
            if not isinstance(error, httpx.WriteError):
                raise

    async def next_event(self, seconds: float | None) -> h11.Event:
        """What comes next of an answer. Raises `httpx.ReadTimeout`, if silent for so long."""
        while True:
            try:
                event = self._state.next_event()
                if event is not h11.NEED_DATA:
                    break
                data = await self._stream.read(seconds)
                if not data and self._state.their_state is h11.SEND_RESPONSE:
                    raise httpx.RemoteProtocolError("the server hung up without an answer")
                self._state.receive_data(data)
            except h11.RemoteProtocolError as error:
                raise httpx.RemoteProtocolError(str(error)) from error
        if isinstance(event, h11.Event):
            return event
        raise httpx.RemoteProtocolError("the server has switched to another protocol")  # Paused.

    def end(self) -> None:
        """The answer is not read any further: the connection is free if it was read to its end."""
        try:
            self._state.start_next_cycle()
        except h11.LocalProtocolError:  # It was not, or one side wants to close.
            self.abort()

    def abort(self) -> None:
        """Break it off."""
        self._stream.abort()

    async def aclose(self) -> None:
        """Close it."""
        await self._stream.aclose()


class _Body(httpx.AsyncByteStream):
    """The body of an answer."""

    def __init__(self, connection: _Connection, seconds: float | None) -> None:
        self._connection = connection
        self._seconds = seconds
        self._ended = self._closed = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        event = None if self._ended else await self._connection.next_event(self._seconds)
        if isinstance(event, h11.Data):
            return bytes(event.data)
        self._ended = True
        raise StopAsyncIteration

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            self._connection.end()
