"""Connections for thousands of requests at once, each of which costs no more than a single one.

The pool of an httpx client checks all of its connections, with a system call for each idle one,
whenever a request begins or ends. So here each transport serves one request at a time.
"""

import contextlib
import logging
import re
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable

import httpx

# Far less than the 5 s after which common servers close a connection: a request sent at that moment
# is lost, and nobody can tell whether it was billed. Another handshake costs little.
KEEPALIVE_SECONDS = 1.0


def _without_query(record: logging.LogRecord) -> bool:
    location = r"(?i)(\(b'location', b(['\"])[^?'\"]*)\?.*?(?=\2\))"
    record.msg = re.sub(location, r"\1", str(record.msg))
    return True


# At DEBUG, httpcore logs the headers of each answer. Who has the signed link of a redirect has the
# image, so its query is not shown; httpx's own line is that of `QuietURL`.
for _name in ("httpcore.http11", "httpcore.http2"):
    logging.getLogger(_name).addFilter(_without_query)


class Connections:
    """A stack of transports.

    The one that was used last is used next, because its connection is the least likely to be
    closed. One that is idle for `KEEPALIVE_SECONDS` is not used any more, and closed when another
    is given back.

    Args:
        make: Makes a transport, for one request at a time.
        clock: Gives seconds.
    """

    def __init__(
        self,
        make: Callable[[], httpx.AsyncBaseTransport],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._make = make
        self._clock = clock
        self._closed = False
        # Made now, so that a setting that none can be made with, such as an invalid proxy, is
        # found before the first request.
        first = make()
        self._open = {first}
        self._idle = deque([(clock(), first)])

    @contextlib.asynccontextmanager
    async def transport(self) -> AsyncGenerator[httpx.AsyncBaseTransport, None]:
        """A transport for one request; if that raises or is cancelled, it is closed.

        Raises RuntimeError after `aclose`.
        """
        if self._closed:
            raise RuntimeError("the connections are closed")
        now = self._clock()
        if self._idle and now - self._idle[-1][0] <= KEEPALIVE_SECONDS:
            _, transport = self._idle.pop()
        else:
            transport = self._make()
            self._open.add(transport)
        try:
            yield transport
        except BaseException:
            await self._close(transport)
            raise
        now = self._clock()
        self._idle.append((now, transport))
        while self._idle and now - self._idle[0][0] > KEEPALIVE_SECONDS:
            with contextlib.suppress(Exception):  # This request has succeeded already.
                await self._close(self._idle.popleft()[1])

    async def aclose(self) -> None:
        """Close all transports, also those in use."""
        self._closed = True
        self._idle.clear()
        while self._open:
            await self._close(next(iter(self._open)))

    async def _close(self, transport: httpx.AsyncBaseTransport) -> None:
        self._open.discard(transport)
        await transport.aclose()
