"""The connections of httpx's own transport, over asyncio itself.

httpx reads through anyio, in pieces of 64 KB, each of which costs some ten calls, a timer and two
switches of tasks; an answer with an image has dozens of pieces. Here a read takes all that has
come. Everything else stays httpx's and httpcore's: the protocol, TLS, pools, and their errors.
"""

import asyncio
import select
import socket
import ssl
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Protocol, TypeVar, cast

import httpcore
import httpx

HELD_BYTES = 1024 * 1024
"""How much may have come before it is read; then the other side has to wait."""
HAPPY_EYEBALLS_SECONDS = 0.25
T = TypeVar("T")


class _Transport(Protocol):
    """What of asyncio's transports is used; uvloop's are no subclasses of them."""

    def write(self, data: bytes) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def is_closing(self) -> bool: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...
    def get_extra_info(self, name: str) -> Any: ...


class _Bytes(asyncio.Protocol):
    """What has come on a connection and was not read yet."""

    def __init__(self) -> None:
        self.transport: _Transport | None = None
        self.arrived: deque[bytes] = deque()
        self.error: Exception | None = None
        self.ended = False
        self._held = 0
        self._paused = False
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._full = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("_Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.arrived.append(data)
        self._held += len(data)
        if self._held > HELD_BYTES and self.transport is not None:
            self._paused = True
            self.transport.pause_reading()
        _wake(self._reader)

    def eof_received(self) -> bool:
        self.ended = True
        _wake(self._reader)
        # Kept open, for what is being sent; TLS has no half of a connection.
        return self.transport is not None and self.transport.get_extra_info("ssl_object") is None

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = True
        self.error = exc or (
            ConnectionResetError("closed while it was written") if self._full else None
        )
        self._full = False
        _wake(self._reader)
        _wake(self._writer)

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        _wake(self._writer)

    def take(self) -> bytes:
        """The next piece that has come."""
        data = self.arrived.popleft()
        self._held -= len(data)
        if self._paused and self._held <= HELD_BYTES // 2 and self.transport is not None:
            self._paused = False
            self.transport.resume_reading()
        return data

    async def wait_for_bytes(self, seconds: float | None) -> None:
        """Until something has come, or the other side has closed. Raises `TimeoutError`."""
        while not (self.arrived or self.ended):
            self._reader = asyncio.get_running_loop().create_future()
            await _until(self._reader, seconds)

    async def wait_for_room(self, seconds: float | None) -> None:
        """Until what was written is mostly sent. Raises `TimeoutError`."""
        while self._full:
            self._writer = asyncio.get_running_loop().create_future()
            await _until(self._writer, seconds)


def _wake(waiting: "asyncio.Future[None] | None") -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(None)


async def _until(waiting: "asyncio.Future[None]", seconds: float | None) -> None:
    if seconds is None:
        return await waiting

    def late() -> None:
        if not waiting.done():
            waiting.set_exception(TimeoutError())

    timer = asyncio.get_running_loop().call_later(seconds, late)
    try:
        return await waiting
    finally:
        timer.cancel()


async def _within(
    seconds: float | None,
    work: Coroutine[Any, Any, T],
    *,
    in_vain: Callable[[T], None] | None = None,
) -> T:
    """The result of `work`, or `TimeoutError`. `in_vain` gets a result that comes too late.

    Before Python 3.12 `asyncio.wait_for` can swallow the cancellation of its caller: then a request
    would be sent that nobody waits for.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task}, timeout=seconds)
    except asyncio.CancelledError:
        await _given_up(task, in_vain)
        raise
    if task.done():
        return task.result()
    await _given_up(task, in_vain)
    raise TimeoutError


async def _given_up(task: "asyncio.Task[T]", in_vain: Callable[[T], None] | None) -> None:
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled() and task.exception() is None and in_vain is not None:
        in_vain(task.result())


class Stream(httpcore.AsyncNetworkStream):
    """One connection."""

    def __init__(self, received: _Bytes, transport: _Transport) -> None:
        self._received = received
        self._transport = transport

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """The next bytes, also more than `max_bytes`; none at the end of the connection."""
        received = self._received
        if not received.arrived:
            try:
                await received.wait_for_bytes(timeout)
            except TimeoutError as error:
                raise httpcore.ReadTimeout(error) from error
        if received.arrived:
            return received.take()
        if received.error is not None:
            raise httpcore.ReadError(received.error) from received.error
        return b""

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Hand bytes to the system; waits while too many of them are not sent."""
        if not buffer:
            return
        error = self._received.error
        if error is not None or self._transport.is_closing():
            raise httpcore.WriteError(error or "the connection is closed") from error
        self._transport.write(buffer)
        try:
            await self._received.wait_for_room(timeout)
        except TimeoutError as late:
            raise httpcore.WriteTimeout(late) from late
        if self._received.error is not None:
            raise httpcore.WriteError(self._received.error) from self._received.error

    async def aclose(self) -> None:
        """Close it; what is in the buffers is not sent any more."""
        if isinstance(self.get_extra_info("ssl_object"), ssl.SSLObject):
            self._transport.close()  # With TLS, the other side is told.
            await asyncio.sleep(0)
        self._transport.abort()

    def abort(self) -> None:
        """Break the connection: whoever reads finds its end."""
        self._transport.abort()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> "Stream":
        """The same connection, encrypted from here on."""
        if self._received.arrived or self._received.ended:
            self._transport.abort()
            raise httpcore.ConnectError("this is no server of TLS: it spoke first, or hung up")
        received = _Bytes()
        try:
            transport = await _within(
                timeout,
                asyncio.get_running_loop().start_tls(
                    cast("asyncio.Transport", self._transport),
                    received,
                    ssl_context,
                    server_hostname=server_hostname,
                ),
            )
        except TimeoutError as error:
            self._transport.abort()
            raise httpcore.ConnectTimeout(error) from error
        except OSError as error:  # Also those of TLS.
            self._transport.abort()
            raise httpcore.ConnectError(error) from error
        except BaseException:
            self._transport.abort()
            raise
        if transport is None:
            raise httpcore.ConnectError("the connection was closed")
        received.connection_made(transport)
        return Stream(received, cast("_Transport", transport))

    def get_extra_info(self, info: str) -> Any:
        """What httpcore asks for: `is_readable` of an idle one means that it was closed."""
        if info == "is_readable":
            received = self._received
            return bool(received.arrived) or received.ended or _is_readable(self._socket)
        if info == "socket":
            return self._socket
        names = {"client_addr": "sockname", "server_addr": "peername", "ssl_object": "ssl_object"}
        return self._transport.get_extra_info(names[info]) if info in names else None

    @property
    def _socket(self) -> Any:
        return self._transport.get_extra_info("socket")


def _is_readable(connection: Any) -> bool:
    """Whether something has come that was not read, be it the end of the connection."""
    number = -1 if connection is None else connection.fileno()
    if number < 0:
        return True
    if not hasattr(select, "poll"):  # Windows.
        return bool(select.select([number], [], [], 0)[0])
    polled = select.poll()
    polled.register(number, select.POLLIN)
    return bool(polled.poll(0))


class Backend(httpcore.AsyncNetworkBackend):
    """Opens connections, as browsers do: over IPv6 and IPv4 at nearly the same time."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> Stream:
        """A connection. Raises `httpcore.ConnectError` or `ConnectTimeout`."""
        loop = asyncio.get_running_loop()
        try:
            transport, received = await _within(
                timeout,
                loop.create_connection(
                    _Bytes,
                    host,
                    port,
                    local_addr=None if local_address is None else (local_address, 0),
                    happy_eyeballs_delay=HAPPY_EYEBALLS_SECONDS,
                ),
                in_vain=lambda made: made[0].abort(),
            )
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(error) from error
        except OSError as error:
            raise httpcore.ConnectError(error) from error
        for option in socket_options or ():
            cast("socket.socket", transport.get_extra_info("socket")).setsockopt(*option)
        return Stream(received, cast("_Transport", transport))

    async def sleep(self, seconds: float) -> None:
        """Between tries to connect, of which there are none here."""
        await asyncio.sleep(seconds)


class DirectTransport(httpx.AsyncHTTPTransport):
    """httpx's own transport, without a proxy, over `Backend`."""

    def __init__(self, *, tls: ssl.SSLContext, limits: httpx.Limits) -> None:
        super().__init__(verify=tls, limits=limits)
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=tls,
            max_connections=limits.max_connections,
            max_keepalive_connections=limits.max_keepalive_connections,
            keepalive_expiry=limits.keepalive_expiry,
            network_backend=Backend(),
        )
