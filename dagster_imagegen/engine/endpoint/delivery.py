"""One exchange over HTTP: how far it has got, and its answer within a size and a time."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from typing import Any, TypeVar

import httpx

from dagster_imagegen.engine.endpoint.body import unpacked
from dagster_imagegen.engine.endpoint.connections import sent
from dagster_imagegen.engine.endpoint.http11 import DirectTransport
from dagster_imagegen.engine.endpoint.network import keep_alive

MAX_ERROR_BYTES = 1024 * 1024
LATE = "the answer did not end in time"
T = TypeVar("T")


class TooLarge(Exception):
    """The body is longer than allowed."""


class Delivery:
    """One request, sent once, and its answer.

    When writing fails, an answer is read all the same, and what is raised is an error of reading,
    after which the request could have been billed: `failed` says that it was not sent completely.

    Args:
        timeout_seconds: How long the answer may take in all.
        max_body_bytes: The largest answer that is read. An error may have `MAX_ERROR_BYTES`.
    """

    def __init__(self, *, timeout_seconds: float, max_body_bytes: int) -> None:
        self.failed = False
        self._timeout_seconds = timeout_seconds
        self._max_body_bytes = max_body_bytes
        self._loop = asyncio.get_running_loop()
        self._connecting = False  # which has a limit of its own
        self._connected_at = self._loop.time()
        self._abort: Callable[[], None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._late = False

    @contextlib.asynccontextmanager
    async def send(
        self,
        http: httpx.AsyncBaseTransport,
        method: str,
        url: httpx.URL,
        *,
        headers: httpx.Headers,
        timeout: httpx.Timeout,
        content: bytes | None = None,
    ) -> AsyncGenerator[httpx.Response, None]:
        """Send the request; its answer is open within the block.

        Raises what httpx raises if no head comes.
        """
        extensions = {"timeout": timeout.as_dict(), "trace": self._trace}
        request = httpx.Request(
            method, url, content=content, headers=headers, extensions=extensions
        )
        self._abort = http.abort if isinstance(http, DirectTransport) else None
        try:
            with self._telling_late():
                response = await self._in_time(sent(http, request))
            try:
                yield response
            finally:
                await response.aclose()
        finally:
            if self._timer is not None:
                self._timer.cancel()

    async def chunks(self, response: httpx.Response) -> AsyncGenerator[bytes, None]:
        """The body, up to a size and a time; `TooLarge` or `ReadTimeout` beyond them."""
        limit = self._max_body_bytes if response.is_success else MAX_ERROR_BYTES
        seen = 0
        async with contextlib.aclosing(unpacked(response)) as chunks:
            with self._telling_late(), contextlib.suppress(StopAsyncIteration):
                while True:
                    chunk = await self._in_time(anext(chunks))
                    seen += len(chunk)
                    if seen > limit:
                        raise TooLarge(f"the answer is larger than {limit:,} bytes")
                    yield chunk

    @contextlib.contextmanager
    def _telling_late(self) -> Generator[None, None, None]:
        """Raise `ReadTimeout` if the connection was broken off within, be it an error or an end."""
        try:
            yield
        except (httpx.HTTPError, OSError):
            if not self._late:
                raise
        if self._late:
            raise httpx.ReadTimeout(LATE)

    async def _trace(self, event: str, info: Mapping[str, Any]) -> None:
        """What httpcore, and `DirectTransport`, call before and after each of their steps."""
        if event.endswith(("send_request_headers.failed", "send_request_body.failed")):
            self.failed = True
        if event.endswith("connect_tcp.complete"):
            keep_alive(info["return_value"].get_extra_info("socket"))
        self._connecting = event.startswith(("connection.", "proxy.", "socks."))
        if self._connecting:
            self._connected_at = self._loop.time()
        elif self._abort is not None and self._timer is None:
            self._timer = self._loop.call_later(max(0, self._remaining()), self._break_off)

    def _break_off(self) -> None:
        """Costs one timer for an answer, and not a task for each of its pieces."""
        self._late = True
        if self._abort is not None:
            self._abort()

    async def _in_time(self, work: Awaitable[T]) -> T:
        """The result of `work`; `ReadTimeout` if the time for the whole answer is over before.

        A head can come in drips too, each of them in time. A connection of ours is broken off.
        Before Python 3.12 `asyncio.wait_for` can swallow the cancellation of its caller.
        """
        if self._abort is not None:
            return await work
        task = asyncio.ensure_future(work)
        try:
            while not task.done() and (seconds := self._remaining()) > 0:
                await asyncio.wait({task}, timeout=seconds)
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task})
        if task.cancelled():
            raise httpx.ReadTimeout(LATE)
        return task.result()

    def _remaining(self) -> float:
        if self._connecting:
            return self._timeout_seconds
        return self._connected_at + self._timeout_seconds - self._loop.time()
