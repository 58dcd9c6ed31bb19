"""Connections that are taken and given back, so that a request costs the same among thousands.

A pool of httpx looks at every connection it has, with a system call for each idle one, whenever a
request begins and whenever one ends. So here each client has a pool to itself, and serves one
request at a time.
"""

import contextlib
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable

import httpx

# Far shorter than the 5 s after which common servers hang up, also on a machine that is busy: a
# request that meets a connection being closed is lost in a way that nobody can tell from one that
# was billed. A handshake more costs little beside an image.
KEEPALIVE_SECONDS = 1.0
# One client asks one host at a time, but a host of linked images can have a few addresses.
LIMITS = httpx.Limits(
    max_connections=None, max_keepalive_connections=4, keepalive_expiry=KEEPALIVE_SECONDS
)


class Connections:
    """A stack of clients of `make`, which has to give them `LIMITS`.

    The client last used is the next one used, for its connection is the least likely to be closed
    by now. httpx looks whether it is before every use; those that nobody used for
    `KEEPALIVE_SECONDS` are closed when any client is given back.
    """

    def __init__(
        self, make: Callable[[], httpx.AsyncClient], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._make = make
        self._clock = clock
        self._closed = False
        # Made at once: what a client cannot be made with, such as a proxy that is no address, is
        # found before there is a request that it could be taken for the fate of.
        first = make()
        self._open = {first}
        self._idle = deque([(clock(), first)])

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncGenerator[httpx.AsyncClient, None]:
        """A client for one request; closed if that is broken off, and with it its connection."""
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
        now = self._clock()
        self._idle.append((now, client))
        while self._idle and now - self._idle[0][0] > KEEPALIVE_SECONDS:
            with contextlib.suppress(Exception):  # It is somebody else's; this request is done.
                await self._close(self._idle.popleft()[1])

    async def aclose(self) -> None:
        """Close all, also those in use."""
        self._closed = True
        self._idle.clear()
        while self._open:
            await self._close(next(iter(self._open)))

    async def _close(self, client: httpx.AsyncClient) -> None:
        self._open.discard(client)
        await client.aclose()
