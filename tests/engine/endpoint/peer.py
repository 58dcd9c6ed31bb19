"""A server that sends exactly the bytes it is told to, a client of it, and names it goes by."""

import asyncio
import base64
import contextlib
import fcntl
import json
import socket
import ssl
import struct
import termios
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from dagster_imagegen.engine.endpoint.client import ImageClient
from dagster_imagegen.engine.endpoint.response import Answer
from dagster_imagegen.engine.request import ImageRequest

KEY = "sk-test-0123456789abcdef"
REQUEST = ImageRequest(endpoint_id="e", model="openai-gpt-image-1", prompt="a red mug")


def png() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"\0\0")), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


PNG = png()
ANSWER = json.dumps({"created": 1, "data": [{"b64_json": base64.b64encode(PNG).decode()}]}).encode()


class Act(Protocol):
    """What a peer does to one connection after it has read a request from it."""

    def __call__(self, writer: asyncio.StreamWriter) -> Awaitable[None]: ...


def http(
    body: bytes = ANSWER, status: int = 200, *, length: int | None = None, **headers: str
) -> bytes:
    """An answer, complete unless `length` says otherwise; underscores in names are hyphens."""
    named = {"content_type": "application/json", **headers}
    lines = [f"HTTP/1.1 {status} X", f"content-length: {len(body) if length is None else length}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in named.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def says(*pieces: bytes, pause: float = 0.0) -> Act:
    """Send these bytes, then keep the connection."""

    async def act(writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)

    return act


def says_and_closes(*pieces: bytes) -> Act:
    async def act(writer: asyncio.StreamWriter) -> None:
        await says(*pieces)(writer)
        writer.close()

    return act


def resets(*pieces: bytes) -> Act:
    """Send these bytes and then a reset."""

    async def act(writer: asyncio.StreamWriter) -> None:
        await says(*pieces)(writer)
        connection: socket.socket = writer.get_extra_info("socket")
        while not _has_arrived(connection):  # noqa: ASYNC110  # the system tells nobody
            await asyncio.sleep(0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    return act


def _has_arrived(connection: socket.socket) -> bool:
    """Whether the other side has all that was sent, which a reset would overtake otherwise."""
    (unsent,) = struct.unpack("i", fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4)))
    return unsent == 0


async def hangs(writer: asyncio.StreamWriter) -> None:
    """Say nothing."""


def drips(head: bytes, piece: bytes, *, seconds: float) -> Act:
    """Go on and on, a little at a time."""

    async def act(writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        with contextlib.suppress(ConnectionError):
            while not writer.is_closing():
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(seconds)

    return act


@dataclass
class Received:
    target: str
    headers: dict[str, str]
    body: bytes
    connection: int


@dataclass
class Peer:
    """A server on this machine that answers by script; the last act is repeated."""

    acts: list[Act]
    received: list[Received] = field(default_factory=list[Received])
    tls: ssl.SSLContext | None = None
    connections: int = 0
    closed: int = 0
    root: str = ""

    @contextlib.asynccontextmanager
    async def serve(self) -> "AsyncGenerator[Peer, None]":
        server = await asyncio.start_server(self._handle, "127.0.0.1", 0, ssl=self.tls)
        scheme = "https" if self.tls else "http"
        self.root = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        try:
            while not writer.is_closing():
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                pairs = [line.partition(": ") for line in head[1:] if line]
                headers = {name.lower(): value for name, _, value in pairs}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                self.received.append(Received(head[0].split()[1], headers, body, number))
                act = self.acts.pop(0) if len(self.acts) > 1 else self.acts[0]
                await act(writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client has left, or the test is over
        finally:
            self.closed += 1
            writer.close()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what the other end is about to do; the minute only ends a test that hangs."""

    async def wait() -> None:
        while not condition():  # noqa: ASYNC110  # what the other end does sets no event
            await asyncio.sleep(0.001)

    await asyncio.wait_for(wait(), 60)


async def no_sleep(seconds: float) -> None:
    """What waits of the client come to in tests."""


def client_of(peer: Peer, **options: Any) -> ImageClient:
    settings: dict[str, Any] = {"base_url": f"{peer.root}/v1", "api_key": KEY, "sleep": no_sleep}
    return ImageClient(**{**settings, **options})


def ask(*acts: Act, request: ImageRequest = REQUEST, **options: Any) -> tuple[Answer, Peer]:
    """One request to a peer with that script."""

    async def run() -> tuple[Answer, Peer]:
        async with Peer(list(acts)).serve() as peer:
            async with client_of(peer, **options) as client:
                answer = await client.send(request)
            # A client that gave up can be ahead of a peer that has yet to read its request.
            await until(lambda: bool(peer.received))
            return answer, peer

    return asyncio.run(run())


Lookup: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]


def names(**addresses: str) -> Lookup:
    """A look-up of names that knows these, with underscores for dots."""

    async def resolve(host: str, port: int) -> Sequence[str]:
        known = addresses.get(host.replace(".", "_"))
        if known is None:
            raise OSError("name or service not known")
        return known.split()

    return resolve
