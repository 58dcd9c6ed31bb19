"""Responses that Starlette does not have: no answer, half an answer, server-sent events."""

from collections.abc import AsyncIterator, Callable

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

# Ends the connection under a request.
Cut = Callable[[Scope], None]


class Unanswered(Response):
    """Closes the connection without an answer; the client cannot tell whether it was billed."""

    def __init__(self, cut: Cut) -> None:
        super().__init__()
        self._cut = cut

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._cut(scope)
        await until_gone(receive)


class CutShort(Response):
    """Sends the headers and half of the body, then ends the connection."""

    def __init__(self, whole: Response, cut: Cut) -> None:
        super().__init__(status_code=whole.status_code)
        self.body = whole.body
        self.raw_headers = whole.raw_headers
        self._cut = cut

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send(_start(self))
        half = self.body[: len(self.body) // 2]
        await send({"type": "http.response.body", "body": bytes(half), "more_body": True})
        self._cut(scope)
        await until_gone(receive)


# Each event as it is ready, and whether it is the last.
Events = AsyncIterator[tuple[bytes, bool]]


class EventStream(Response):
    """Sends each server-sent event the moment it is ready.

    `leave` is called once: before the last event is sent, or when the stream breaks off.
    With `cut`, half of the last event is sent, and then the connection ends.
    """

    media_type = "text/event-stream"

    def __init__(
        self, events: Events, *, leave: Callable[[], None], cut: Cut | None = None
    ) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._events = events
        self._leave = leave
        self._cut = cut

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        left = False
        try:
            await send(_start(self))
            async for event, last in self._events:
                if last:
                    left = True
                    self._leave()
                body = event[: len(event) // 2] if last and self._cut is not None else event
                await send({"type": "http.response.body", "body": body, "more_body": True})
        finally:
            if not left:
                self._leave()
        if self._cut is None:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        else:
            self._cut(scope)
            await until_gone(receive)


async def until_gone(receive: Receive) -> None:
    """Wait until either side has ended the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _start(response: Response) -> Message:
    return {
        "type": "http.response.start",
        "status": response.status_code,
        "headers": response.raw_headers,
    }
