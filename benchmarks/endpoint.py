"""An image endpoint that costs as little as possible: its answers are made once, at its start.

It is a separate process, so that it takes nothing from the client's core. The size and the delay of
an answer are in the address: `/<bytes>/<milliseconds>/v1/images/generations`.

    python -m benchmarks.endpoint

prints its port, and serves until its input ends.
"""

import asyncio
import base64
import functools
import json
import random
import struct
import sys
import threading
import zlib
from typing import cast

HEAD_END = b"\r\n\r\n"


def png(size_bytes: int) -> bytes:
    """A valid PNG of about so many bytes: noise, stored without compression."""
    side = max(1, round((size_bytes / 3) ** 0.5))
    noise = random.Random(size_bytes)  # noqa: S311  # a picture, not a secret
    rows = b"".join(b"\0" + noise.randbytes(3 * side) for _ in range(side))
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows, 0)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


@functools.cache
def answer(size_bytes: int) -> bytes:
    """A whole answer, head and body, with an image of so many bytes."""
    details = {"text_tokens": 10, "image_tokens": 0}
    usage = {"input_tokens": 10, "output_tokens": 272, "total_tokens": 282}
    body = json.dumps(
        {
            "created": 1764000000,
            "data": [{"b64_json": base64.b64encode(png(size_bytes)).decode()}],
            "usage": usage | {"input_tokens_details": details},
        }
    ).encode()
    head = (
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nx-request-id: bench\r\n\r\n"
    )
    return head.encode() + body


class Exchange(asyncio.Protocol):
    """One connection: reads a request to its end, and answers it after its delay."""

    in_flight = 0
    peak = 0

    def __init__(self) -> None:
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(HEAD_END)
        if not end or len(body) < _length(bytes(head)):
            return
        self._received.clear()
        _, size_bytes, milliseconds, *_ = head.split(b" ", 2)[1].split(b"/")
        Exchange.in_flight += 1
        Exchange.peak = max(Exchange.peak, Exchange.in_flight)
        whole = answer(int(size_bytes))
        asyncio.get_running_loop().call_later(int(milliseconds) / 1000, self._answer, whole)

    def _answer(self, whole: bytes) -> None:
        Exchange.in_flight -= 1
        if self._transport is not None:
            self._transport.write(whole)


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name == b"content-length":
            return int(value)
    return 0


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    server = await loop.create_server(Exchange, "127.0.0.1", 0, backlog=4096)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()

    def wait_for_end() -> None:
        sys.stdin.read()
        loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=wait_for_end, daemon=True).start()
    await ended.wait()


def _loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop  # noqa: PLC0415  # not on every machine
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


if __name__ == "__main__":
    _loop().run_until_complete(_serve())
