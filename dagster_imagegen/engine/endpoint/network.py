"""Connections over asyncio itself, with httpx's errors: bytes are written, and read as they come.

httpx reads through anyio, in pieces of 64 KB, each of which costs some ten calls, a timer and two
switches of tasks; an answer with an image has dozens of pieces. Here a read takes all that has
come.
"""

import asyncio
import contextlib
import functools
import select
import socket
import ssl
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar, cast

import httpx

HELD_BYTES = 1024 * 1024
"""How much may have come before it is read; then the other side has to wait."""
HAPPY_EYEBALLS_SECONDS = 0.25
# A request is silent for minutes, and what stands between forgets a silent connection: then the
# answer never arrives, and nobody notices. A probe each half minute is answered by the system.
PROBES = {
    "TCP_KEEPIDLE": 30,  # seconds; macOS calls it
    "TCP_KEEPALIVE": 30,
    "TCP_KEEPINTVL": 30,
    "TCP_KEEPCNT": 6,  # lost in a row: a network may be away for minutes
}
T = TypeVar("T")


class _Late(Exception):
    """The time is over. Not `TimeoutError`, which the system raises too, with a reason."""


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
        """Until something has come, or the other side has closed. Raises `_Late`."""
        while not (self.arrived or self.ended):
            self._reader = asyncio.get_running_loop().create_future()
            await _until(self._reader, seconds)

    async def wait_for_room(self, seconds: float | None) -> None:
        """Until what was written is mostly sent. Raises `_Late`."""
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
            waiting.set_exception(_Late())

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
    """The result of `work`. Raises `_Late`. `in_vain` gets a result that nobody waits for.

    Before Python 3.12 `asyncio.wait_for` can swallow the cancellation of its caller: then a request
    would be sent that nobody waits for.
    """
    task = asyncio.ensure_future(work)
    is_taken = False
    try:
        await asyncio.wait({task}, timeout=seconds)
        is_taken = task.done()
    finally:
        if not is_taken:
            task.cancel()
            # Not after the wait, during which the caller may be cancelled once more.
            task.add_done_callback(functools.partial(_drop, in_vain))
            await asyncio.wait({task})
    if is_taken:
        return task.result()
    raise _Late


def _drop(in_vain: Callable[[T], None] | None, task: "asyncio.Task[T]") -> None:
    if not task.cancelled() and task.exception() is None and in_vain is not None:
        in_vain(task.result())


class Stream:
    """One connection."""

    def __init__(self, received: _Bytes, transport: _Transport) -> None:
        self._received = received
        self._transport = transport

    async def read(self, seconds: float | None) -> bytes:
        """The next bytes, as many as have come; none at the end of the connection.

        Raises `httpx.ReadTimeout` after `seconds`, and `httpx.ReadError`.
        """
        received = self._received
        if not received.arrived:
            try:
                await received.wait_for_bytes(seconds)
            except _Late as error:
                raise httpx.ReadTimeout(f"silent for {seconds:g} s") from error
        if received.arrived:
            return received.take()
        if received.error is not None:
            raise httpx.ReadError(str(received.error)) from received.error
        return b""

    async def write(self, data: bytes, seconds: float | None) -> None:
        """Hand bytes to the system; waits while too many of them are not sent.

        Raises `httpx.WriteTimeout` after `seconds`, and `httpx.WriteError`.
        """
        error = self._received.error
        if error is not None or self._transport.is_closing():
            raise httpx.WriteError(str(error or "the connection is closed")) from error
        self._transport.write(data)
        try:
            await self._received.wait_for_room(seconds)
        except _Late as late:
            raise httpx.WriteTimeout(f"not sent within {seconds:g} s") from late
        error = self._received.error
        if error is not None:
            raise httpx.WriteError(str(error)) from error

    async def aclose(self) -> None:
        """Close it; what is in the buffers is not sent any more."""
        if self._tls is not None:
            self._transport.close()  # With TLS, the other side is told.
        try:
            await asyncio.sleep(0)
        finally:
            self._transport.abort()

    def abort(self) -> None:
        """Break the connection: whoever reads finds its end."""
        self._transport.abort()

    async def start_tls(
        self, context: ssl.SSLContext, *, server_hostname: str, seconds: float | None
    ) -> "Stream":
        """The same connection, encrypted from here on.

        Raises `httpx.ConnectTimeout` after `seconds`, and `httpx.ConnectError`.
        """
        if self._received.arrived or self._received.ended:
            self._transport.abort()
            raise httpx.ConnectError("this is no server of TLS: it spoke first, or hung up")
        received = _Bytes()
        try:
            transport = await _within(
                seconds,
                asyncio.get_running_loop().start_tls(
                    cast("asyncio.Transport", self._transport),
                    received,
                    context,
                    server_hostname=server_hostname,
                ),
            )
        except _Late as error:
            self._transport.abort()
            raise httpx.ConnectTimeout(f"no handshake within {seconds:g} s") from error
        except OSError as error:  # Also those of TLS.
            self._transport.abort()
            raise httpx.ConnectError(str(error)) from error
        except BaseException:
            self._transport.abort()
            raise
        if transport is None:
            raise httpx.ConnectError("the connection was closed")
        received.connection_made(transport)
        return Stream(received, cast("_Transport", transport))

    @property
    def is_silent(self) -> bool:
        """Whether it is open and nothing has come that was not read.

        Of an idle one anything else is its end, or bytes behind an answer, and the next answer
        would be those.
        """
        received = self._received
        return not (
            received.arrived
            or received.ended
            or self._transport.is_closing()
            or _is_readable(self._transport.get_extra_info("socket"))
            or self._has_more_of_tls()
        )

    def _has_more_of_tls(self) -> bool:
        """Whether there is more in a record that was received with what was read."""
        try:
            return self._tls is not None and self._tls.read(1) is not None  # Or the end of it.
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError:
            return True

    @property
    def _tls(self) -> Any:
        return self._transport.get_extra_info("ssl_object")


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


async def connect(host: str, port: int, *, seconds: float | None) -> Stream:
    """Open a connection as browsers do: over IPv6 and IPv4 at nearly the same time.

    Raises `httpx.ConnectTimeout` after `seconds`, and `httpx.ConnectError`.
    """
    try:
        transport, received = await _within(
            seconds,
            asyncio.get_running_loop().create_connection(
                _Bytes, host, port, happy_eyeballs_delay=HAPPY_EYEBALLS_SECONDS
            ),
            in_vain=lambda made: made[0].abort(),
        )
    except _Late as error:
        raise httpx.ConnectTimeout(f"no connection within {seconds:g} s") from error
    except (OSError, UnicodeError, IndexError) as error:  # Also of names that can be none.
        raise httpx.ConnectError(str(error)) from error
    keep_alive(transport.get_extra_info("socket"))
    return Stream(received, cast("_Transport", transport))


def keep_alive(connection: Any) -> None:
    """Have the system probe a socket that is silent."""
    with contextlib.suppress(OSError, AttributeError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in PROBES.items():
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
