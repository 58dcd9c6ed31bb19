"""Connections for thousands of requests at once, each of which costs no more than a single one.

The pool of an httpx client checks all of its connections, with a system call for each idle one,
whenever a request begins or ends. So here each client serves one request at a time.
"""

import contextlib
import logging
import re
import socket
import ssl
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import Any

import httpx

# Far less than the 5 s after which common servers close a connection: a request sent at that moment
# is lost, and nobody can tell whether it was billed. Another handshake costs little.
KEEPALIVE_SECONDS = 1.0
# A client sends one request at a time, but a linked image can redirect to a few other hosts.
LIMITS = httpx.Limits(
    max_connections=None, max_keepalive_connections=4, keepalive_expiry=KEEPALIVE_SECONDS
)

# A request is silent for minutes, and what stands between forgets a silent connection: then the
# answer never arrives, and nobody notices. A probe each half minute is answered by the system.
PROBES = {
    "TCP_KEEPIDLE": 30,  # seconds; macOS calls it
    "TCP_KEEPALIVE": 30,
    "TCP_KEEPINTVL": 30,
    "TCP_KEEPCNT": 6,  # lost in a row: a network may be away for minutes
}


def _without_query(record: logging.LogRecord) -> bool:
    location = r"(?i)(\(b'location', b(['\"])[^?'\"]*)\?.*?(?=\2\))"
    record.msg = re.sub(location, r"\1", str(record.msg))
    return True


# At DEBUG, httpcore logs the headers of each answer. Who has the signed link of a redirect has the
# image, so its query is not shown; httpx's own line is that of `QuietURL`.
for _name in ("httpcore.http11", "httpcore.http2"):
    logging.getLogger(_name).addFilter(_without_query)


class Connections:
    """A stack of clients.

    The client that was used last is used next, because its connection is the least likely to be
    closed. A client that is idle for `KEEPALIVE_SECONDS` is closed when another is given back.

    Args:
        make: Makes a client, with `LIMITS`.
        clock: Gives seconds.
    """

    def __init__(
        self, make: Callable[[], httpx.AsyncClient], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._make = make
        self._clock = clock
        self._closed = False
        # Made now, so that a setting that no client can be made with, such as an invalid proxy, is
        # found before the first request.
        first = make()
        self._open = {first}
        self._idle = deque([(clock(), first)])

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncGenerator[httpx.AsyncClient, None]:
        """A client for one request; if that raises or is cancelled, the client is closed.

        It is not used again either if the request has closed it.

        Raises RuntimeError after `aclose`.
        """
        if self._closed:
            raise RuntimeError("the connections are closed")
        if self._idle:
            _, client = self._idle.pop()
        else:
            client = self._make()
            self._open.add(client)
        try:
            yield client
        except BaseException:
            await self._close(client)
            raise
        if client.is_closed:
            self._open.discard(client)
            return
        now = self._clock()
        self._idle.append((now, client))
        while self._idle and now - self._idle[0][0] > KEEPALIVE_SECONDS:
            with contextlib.suppress(Exception):  # This request has succeeded already.
                await self._close(self._idle.popleft()[1])

    async def aclose(self) -> None:
        """Close all clients, also those in use."""
        self._closed = True
        self._idle.clear()
        while self._open:
            await self._close(next(iter(self._open)))

    async def _close(self, client: httpx.AsyncClient) -> None:
        self._open.discard(client)
        await client.aclose()


def keep_alive(connection: Any) -> None:
    """Have the system probe a connection that is silent. `connection` is httpcore's stream."""
    tcp = connection.get_extra_info("socket")
    with contextlib.suppress(OSError, AttributeError):
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in PROBES.items():
            if hasattr(socket, name):
                tcp.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def has_more(response: httpx.Response) -> bool:
    """Whether bytes came after the end of an answer: the next one on its connection would be them.

    They are in the buffer of h11, or in that of TLS, and neither httpx nor httpcore looks there.
    True as well if the buffer is not found, because another version keeps it elsewhere.
    """
    stream = response.extensions.get("network_stream")
    if stream is None:
        return False  # no network, but the transport of a caller
    layer: Any = response.stream
    for name in ("_stream", "_httpcore_stream", "_stream", "_connection", "_h11_state"):
        layer = getattr(layer, name, None)
    if layer is None or layer.trailing_data[0] or stream.get_extra_info("is_readable"):
        return True
    tls = stream.get_extra_info("ssl_object")
    try:
        return tls is not None and tls.read(1) is not None  # also at the end of the connection
    except ssl.SSLWantReadError:
        return False
    except ssl.SSLError:
        return True
