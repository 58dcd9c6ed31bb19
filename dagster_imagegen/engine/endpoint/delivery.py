"""One exchange over HTTP: how far it has got, and its answer within a size and a time."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from typing import Any, TypeVar

import httpx

from dagster_imagegen.engine.endpoint.base_url import QuietURL
from dagster_imagegen.engine.endpoint.body import unpacked
from dagster_imagegen.engine.endpoint.connections import keep_alive

MAX_ERROR_BYTES = 1024 * 1024
LATE = "the answer did not end in time"
T = TypeVar("T")


class TooLarge(Exception):
    """The body is longer than allowed."""


class Delivery:
    """One request, sent once, and its answer.

    When writing fails, httpx still tries to read an answer and raises an error of reading, after
    which the request could have been billed: `failed` says that it was not sent completely.

    Args:
        timeout_seconds: How long the answer may take in all.
        max_body_bytes: The largest answer that is read. An error may have `MAX_ERROR_BYTES`.
    """

    def __init__(self, *, timeout_seconds: float, max_body_bytes: int) -> None:
        self.failed = False
        self._timeout_seconds = timeout_seconds
        self._max_body_bytes = max_body_bytes
        self._clock = asyncio.get_running_loop().time
        self._connecting = False  # for which httpx has a limit
        self._connected_at = self._clock()

    @contextlib.asynccontextmanager
    async def send(
        self,
        http: httpx.AsyncClient,
        method: str,
        url: httpx.URL,
        *,
        headers: Mapping[str, str],
        content: bytes | None = None,
    ) -> AsyncGenerator[httpx.Response, None]:
        """Send the request; its answer is open within the block.

        Raises what httpx raises if no head comes.
        """
        request = http.build_request(
            method, url, content=content, headers=headers, extensions={"trace": self._trace}
        )
        request.url = QuietURL(request.url)
        # A head can come in drips too, each of them in time.
        response = await self._in_time(http.send(request, stream=True))
        try:
            yield response
        finally:
            await response.aclose()

    async def chunks(self, response: httpx.Response) -> AsyncGenerator[bytes, None]:
        """The body, up to a size and a time; `TooLarge` or `ReadTimeout` beyond them."""
        limit = self._max_body_bytes if response.is_success else MAX_ERROR_BYTES
        seen = 0
        async with contextlib.aclosing(self._in_time_chunks(response)) as chunks:
            async for chunk in chunks:
                seen += len(chunk)
                if seen > limit:
                    raise TooLarge(f"the answer is larger than {limit:,} bytes")
                yield chunk

    async def _in_time_chunks(self, response: httpx.Response) -> AsyncGenerator[bytes, None]:
        abort = getattr(response.extensions.get("network_stream"), "abort", None)
        async with contextlib.aclosing(unpacked(response)) as chunks:
            if abort is not None:
                with self._aborting(abort):
                    async for chunk in chunks:
                        yield chunk
                return
            with contextlib.suppress(StopAsyncIteration):
                while True:
                    yield await self._in_time(anext(chunks))

    @contextlib.contextmanager
    def _aborting(self, abort: Callable[[], None]) -> Generator[None, None, None]:
        """Break the connection when the time is over; costs one timer, not a task for each piece.

        What is being read then ends or fails, and `ReadTimeout` is raised instead.
        """
        late = False

        def end() -> None:
            nonlocal late
            late = True
            abort()

        timer = asyncio.get_running_loop().call_later(max(0, self._remaining()), end)
        try:
            yield
        except (httpx.HTTPError, OSError):
            if not late:
                raise
        finally:
            timer.cancel()
        if late:
            raise httpx.ReadTimeout(LATE)

    async def _trace(self, event: str, info: Mapping[str, Any]) -> None:
        """What httpcore calls before and after each of its steps."""
        if event.endswith(("send_request_headers.failed", "send_request_body.failed")):
            self.failed = True
        if event.endswith("connect_tcp.complete"):
            keep_alive(info["return_value"])
        self._connecting = event.startswith(("connection.", "proxy.", "socks."))
        if self._connecting:
            self._connected_at = self._clock()

    async def _in_time(self, work: Awaitable[T]) -> T:
        """The result of `work`; `ReadTimeout` if the time for the whole answer is over before.

        Before Python 3.12 `asyncio.wait_for` can swallow the cancellation of its caller.
        """
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
        return self._connected_at + self._timeout_seconds - self._clock()
