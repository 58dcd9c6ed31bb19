"""Streams are sent as they come, not when they are done."""

import asyncio
from collections.abc import AsyncIterator

from starlette.types import Message

from dagster_imagegen.sandbox.delivery import EventStream


def test_each_event_leaves_before_the_next_is_made() -> None:
    """A partial image is of use only while the picture is being made; the place is freed before
    the last event, and once."""
    log: list[str] = []

    async def events() -> AsyncIterator[tuple[bytes, bool]]:
        for name in ("one", "two", "last"):
            log.append(f"make {name}")
            yield name.encode(), name == "last"

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            log.append(f"send {message['body'].decode() or 'end'}")

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    stream = EventStream(events(), leave=lambda: log.append("leave"))
    asyncio.run(stream({"type": "http"}, receive, send))
    assert ", ".join(log) == (
        "make one, send one, make two, send two, make last, leave, send last, send end"
    )
