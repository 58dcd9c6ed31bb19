"""Connections for thousands of requests at once, each of which costs no more than a single one.

The pool of an httpx client checks all of its connections, with a system call for each idle one,
whenever a request begins or ends. So here each transport serves one request at a time.
"""

import contextlib
import logging
import re
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection, Hashable
from urllib.request import getproxies, proxy_bypass

import httpx

from dagster_imagegen.engine.endpoint.base_url import QuietURL, origin

# Far less than the 5 s after which common servers close a connection: a request sent at that moment
# is lost, and nobody can tell whether it was billed. Another handshake costs little.
KEEPALIVE_SECONDS = 1.0

_log = logging.getLogger(__name__)


def _without_query(record: logging.LogRecord) -> bool:
    location = r"(?i)(\(b'location', b(['\"])[^?'\"]*)\?.*?(?=\2\))"
    record.msg = re.sub(location, r"\1", str(record.msg))
    return True


# At DEBUG, httpcore, which serves proxies, logs the headers of each answer. Who has the signed link
# of a redirect has the image, so its query is not shown.
logging.getLogger("httpcore.http11").addFilter(_without_query)


async def sent(transport: httpx.AsyncBaseTransport, request: httpx.Request) -> httpx.Response:
    """The answer to a request. Who has a signed link has the image, so no query is logged."""
    request.url = QuietURL(request.url)
    response = await transport.handle_async_request(request)
    status = response.status_code
    _log.debug("%s %s was answered with HTTP %d", request.method, request.url, status)
    return response


class Proxies:
    """The proxies that the environment names, as Python knows them, by scheme; or none."""

    def __init__(self, *, of_environment: bool = True) -> None:
        named = getproxies() if of_environment else {}
        self._named = {
            scheme: proxy if "://" in proxy else f"http://{proxy}"
            for scheme, proxy in named.items()
            if scheme in ("http", "https", "all") and proxy
        }

    @property
    def all(self) -> Collection[str]:
        """The address of each."""
        return self._named.values()

    def of(self, url: httpx.URL) -> str | None:
        """The proxy for a URL; None if it is reached without one."""
        proxy = self._named.get(url.scheme) or self._named.get("all")
        # With the port, where it has one: NO_PROXY may name it.
        return None if proxy is None or proxy_bypass(url.netloc.decode("ascii")) else proxy


class Connections:
    """Transports with a connection each, by where they lead.

    Of those to one place, the one that was used last is used next, because its connection is the
    least likely to be closed. One that is idle for `KEEPALIVE_SECONDS` is closed before another is
    opened.

    Args:
        make: Makes a transport, for one request at a time, through a proxy or (None) without.
        clock: Gives seconds.
    """

    def __init__(
        self,
        make: Callable[[str | None], httpx.AsyncBaseTransport],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._make = make
        self._clock = clock
        self._closed = False
        self._open: set[httpx.AsyncBaseTransport] = set()
        self._idle: dict[Hashable, deque[tuple[float, httpx.AsyncBaseTransport]]] = {}

    @contextlib.asynccontextmanager
    async def transport(
        self, url: httpx.URL, *, proxy: str | None = None
    ) -> AsyncGenerator[httpx.AsyncBaseTransport, None]:
        """A transport for one request to `url`; if that raises or is cancelled, it is closed.

        Raises RuntimeError after `aclose`.
        """
        await self._close_old()
        if self._closed:
            raise RuntimeError("the connections are closed")
        place = (*origin(url), proxy)
        if idle := self._idle.get(place):
            _, transport = idle.pop()
        else:
            transport = self._make(proxy)
            self._open.add(transport)
        try:
            yield transport
        except BaseException:
            await self._close(transport)
            raise
        if transport in self._open:
            self._idle.setdefault(place, deque()).append((self._clock(), transport))

    async def _close_old(self) -> None:
        oldest = self._clock() - KEEPALIVE_SECONDS
        for place, idle in [*self._idle.items()]:
            while idle and idle[0][0] < oldest:
                with contextlib.suppress(Exception):  # Nothing depends on it.
                    await self._close(idle.popleft()[1])
            if not idle and self._idle.get(place) is idle:
                del self._idle[place]

    async def aclose(self) -> None:
        """Close all transports, also those in use."""
        self._closed = True
        self._idle.clear()
        while self._open:
            await self._close(next(iter(self._open)))

    async def _close(self, transport: httpx.AsyncBaseTransport) -> None:
        self._open.discard(transport)
        await transport.aclose()
