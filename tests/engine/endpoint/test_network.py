"""What a network does to an answer: bytes too many, heads in drips, dead addresses, false sizes."""

import asyncio
import base64
import contextlib
import gc
import json
import os
import socket
import ssl
import sys
import tracemalloc
import zlib
from collections.abc import Sequence
from pathlib import Path

import pytest

from dagster_imagegen.engine.endpoint.client import ImageClient
from dagster_imagegen.engine.endpoint.failures import Failure
from dagster_imagegen.engine.endpoint.kinds import FailureKind
from dagster_imagegen.engine.endpoint.network import connect
from dagster_imagegen.engine.endpoint.response import Answer, GeneratedImage
from tests.engine.endpoint.peer import (
    ANSWER,
    PNG,
    REQUEST,
    Act,
    Peer,
    ask,
    client_of,
    drips,
    hangs,
    http,
    names,
    says,
    says_and_closes,
    until,
)
from tests.engine.endpoint.test_connections import certificate

CHUNKED = b"HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (
    len(ANSWER),
    ANSWER,
)
# -- bytes behind an answer ------------------------------------------------------------------------


async def one_after_the_other(client: ImageClient, count: int) -> None:
    for _ in range(count):
        assert isinstance((await client.send(REQUEST)).result, GeneratedImage)


@pytest.mark.usefixtures("lasting_connections")
@pytest.mark.parametrize("answer", [CHUNKED, http()])
@pytest.mark.parametrize("more", [b"\r\n", b"GARBAGE", b"0\r\n\r\n", http(b"{}"), b"HTTP/1.1 200"])
def test_bytes_behind_an_answer_are_not_the_next_one(answer: bytes, more: bytes) -> None:
    """Their connection is closed, so that the next request is answered by its own answer."""

    async def run() -> Peer:
        async with Peer([says(answer + more)]).serve() as peer, client_of(peer) as client:
            await one_after_the_other(client, 5)
            return peer

    assert asyncio.run(run()).connections == 5


@pytest.mark.usefixtures("lasting_connections")
def test_a_chunked_answer_without_more_keeps_its_connection() -> None:
    """Only what has more behind it is closed."""

    async def run() -> Peer:
        async with Peer([says(CHUNKED)]).serve() as peer, client_of(peer) as client:
            await one_after_the_other(client, 5)
            return peer

    assert asyncio.run(run()).connections == 1


@pytest.mark.usefixtures("lasting_connections")
def test_bytes_behind_a_linked_image_are_not_the_next_answer() -> None:
    """The image comes from the endpoint itself, on a connection that serves requests too."""
    link = says(http(b'{"data":[{"url":"/a.png"}]}'))

    async def run() -> Peer:
        async with Peer([]).serve() as peer, client_of(peer) as client:
            for _ in range(3):
                peer.acts[:] = [link, says(http(PNG) + b"MORE"), says(http())]
                await one_after_the_other(client, 2)
            return peer

    assert asyncio.run(run()).connections == 4


@pytest.mark.usefixtures("lasting_connections")
def test_bytes_behind_an_answer_over_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They can wait in a record that was received with the answer's and not read."""
    path = certificate(tmp_path)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(path)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    monkeypatch.setenv("NO_PROXY", "*")

    async def answers_twice(writer: asyncio.StreamWriter) -> None:
        writer.writelines([CHUNKED])
        writer.write(b"HTTP/1.1 200 X\r\ncontent-length: 2\r\n\r\n{}")
        await writer.drain()

    async def run() -> Peer:
        async with Peer([answers_twice], tls=tls).serve() as peer:
            base_url = peer.root.replace("127.0.0.1", "0.0.0.0")
            async with client_of(peer, base_url=base_url) as client:
                await one_after_the_other(client, 5)
            return peer

    assert asyncio.run(run()).connections == 5


# -- time ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "act",
    [
        drips(b"HTTP/1.1 200 X\r\n", b"x-a: %s\r\n" % (b"b" * 200), seconds=0.02),
        drips(b"", b"HTTP/1.1 103 X\r\n\r\n", seconds=0.02),
        drips(http(b"", length=10**6), b" ", seconds=0.02),
        drips(CHUNKED[:-2], b"x-a: %s\r\n" % (b"b" * 200), seconds=0.02),
    ],
)
def test_an_answer_has_to_end_in_time_in_all_its_parts(act: Act) -> None:
    """Head, body or trailer: what comes in drips is never silent, and never ends."""
    answer, _ = ask(act, timeout_seconds=0.3)
    if isinstance(answer.result, GeneratedImage):
        assert answer.result.data == PNG  # the image was whole, only the trailer was not
        return
    assert answer.result.kind is FailureKind.AMBIGUOUS
    assert answer.result.code == "read_timeout"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_a_silent_connection_is_probed() -> None:
    """For minutes nothing is said; whatever stands between must not forget the connection."""

    async def run() -> dict[str, int]:
        async with Peer([hangs]).serve() as peer, client_of(peer) as client:
            sent = asyncio.create_task(client.send(REQUEST))
            await until(lambda: bool(peer.received))
            options = options_of_connection_to(int(peer.root.rpartition(":")[2]))
            sent.cancel()
            await asyncio.wait([sent])
            return options

    options = asyncio.run(run())
    assert options["SO_KEEPALIVE"] == 1
    assert options["TCP_KEEPIDLE"] <= 60
    assert options["TCP_KEEPINTVL"] <= 60


def options_of_connection_to(port: int) -> dict[str, int]:
    """The options of this process's own end of a connection."""
    for path in Path("/proc/self/fd").iterdir():
        try:
            with socket.socket(fileno=os.dup(int(path.name))) as end:
                if end.getpeername()[1] == port:
                    level = socket.IPPROTO_TCP
                    return {
                        "SO_KEEPALIVE": end.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
                        "TCP_KEEPIDLE": end.getsockopt(level, socket.TCP_KEEPIDLE),
                        "TCP_KEEPINTVL": end.getsockopt(level, socket.TCP_KEEPINTVL),
                    }
        except (OSError, IndexError):
            continue  # no socket, or not connected
    raise AssertionError("no connection")


# -- links -----------------------------------------------------------------------------------------


def linked(addresses: str) -> tuple[Answer, list[str]]:
    """An answer with a link to a name with these addresses, on the endpoint's port."""

    async def run() -> tuple[Answer, list[str]]:
        async with Peer([]).serve() as peer:
            port = peer.root.rpartition(":")[2]
            body = json.dumps({"data": [{"url": f"http://cdn.example:{port}/a.png"}]}).encode()
            peer.acts[:] = [says(http(body)), says(http(PNG, content_type="image/png"))]
            resolve = names(cdn_example=addresses)
            async with client_of(peer, resolve=resolve) as client:
                answer = await client.send(REQUEST)
            return answer, [received.headers["host"] for received in peer.received[1:]]

    return asyncio.run(run())


def test_a_dead_address_of_a_linked_host_is_passed_over() -> None:
    """The next one is tried, under the same name."""
    answer, hosts = linked("127.0.0.2 127.0.0.3 127.0.0.1")
    assert isinstance(answer.result, GeneratedImage)
    assert len(hosts) == 1
    assert hosts[0].startswith("cdn.example:")


def test_only_dead_addresses() -> None:
    """The failure says that nobody was there."""
    answer, hosts = linked("127.0.0.2 127.0.0.3")
    assert isinstance(answer.result, Failure)
    assert answer.result.kind is FailureKind.SAVING_FAILED
    assert "ConnectError" in answer.result.message
    assert hosts == []


@pytest.mark.parametrize("first", ["93.184.216.34", ""])
def test_an_endpoint_cannot_move_into_a_private_network(first: str) -> None:
    """Where its name led before the first answer counts; what it leads to later opens nothing."""
    inside = Peer([says(http(PNG, content_type="image/png"))])
    peer = Peer([])

    async def resolve(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.1"] if peer.received else first.split()

    async def run() -> list[Answer]:
        async with inside.serve(), peer.serve():
            body = json.dumps({"data": [{"url": f"{inside.root}/latest/meta-data"}]}).encode()
            peer.acts[:] = [says(http(body))]
            base_url = peer.root.replace("127.0.0.1", "localhost")
            async with client_of(peer, base_url=base_url, resolve=resolve) as client:
                return [await client.send(REQUEST) for _ in range(3)]

    for answer in asyncio.run(run()):
        assert isinstance(answer.result, Failure)
        assert "private network (loopback)" in answer.result.message
    assert inside.received == []


# -- memory ----------------------------------------------------------------------------------------


def most_memory(act: Act, *, count: int) -> int:
    """The most bytes that were in use while so many requests were answered like this."""

    async def run() -> None:
        async with Peer([act]).serve() as peer, client_of(peer) as client:
            answers = await asyncio.gather(*(client.send(REQUEST) for _ in range(count)))
            assert all(isinstance(answer.result, Failure) for answer in answers)

    tracemalloc.start()
    try:
        asyncio.run(run())
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


HEAD = b"HTTP/1.1 200 X\r\ncontent-type: %s\r\n"
SIZE = 64_000_000  # less than may be read


@pytest.mark.parametrize("label", [b"application/json", b"text/event-stream"])
@pytest.mark.parametrize(
    "claim",
    [
        b"content-length: %d\r\n\r\nx" % SIZE,
        b"transfer-encoding: chunked\r\n\r\n%x\r\nx" % SIZE,
        b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n\x1f" % SIZE,
    ],
)
def test_memory_does_not_grow_with_what_an_answer_claims(label: bytes, claim: bytes) -> None:
    """64 answers of which a byte arrives take what 64 connections take."""
    assert most_memory(says_and_closes(HEAD % label + claim), count=64) < SIZE / 2


@pytest.mark.parametrize("label", ["application/json", "text/event-stream"])
def test_memory_does_not_grow_with_what_an_answer_unpacks_to(label: str) -> None:
    """64 MB of zeros are 64 KB of gzip: no image is packed like that."""
    pack = zlib.compressobj(wbits=31)
    start = b"data: " if "event" in label else b'{"data": "'
    packed = pack.compress(start + bytes(SIZE)) + pack.flush()
    act = says(http(packed, content_encoding="gzip", content_type=label))
    assert most_memory(act, count=4) < SIZE


def test_memory_of_many_empty_values() -> None:
    """JSON of nothing but brackets would take 30 times its bytes."""
    body = b'{"data":[' + b"[]," * 4_000_000 + b"[]]}"
    assert most_memory(says(http(body)), count=1) < 6 * len(body)


def test_memory_of_a_stream_of_partial_images() -> None:
    """Only the latest is kept."""
    encoded = base64.b64encode(PNG + bytes(1_000_000)).decode()
    event = f'data: {{"type": "partial_image", "b64_json": "{encoded}"}}\n\n'.encode()
    failed = b'data: {"error": {"message": "no"}}\n\n'
    head = b"HTTP/1.1 200 X\r\ncontent-type: text/event-stream\r\n\r\n"
    count = 20
    act = says(head, *[event] * count, failed)
    assert most_memory(act, count=1) < count / 2 * len(event)


# -- an end before the beginning -------------------------------------------------------------------


# asyncio leaves the sockets of a race that is cancelled open.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("times", [1, 2])
def test_a_cancelled_connection_is_cancelled(times: int) -> None:
    """At whatever moment, and however often: its request would be sent for nobody."""
    servers: list[tuple[str, int]] = []
    accepted: list[asyncio.StreamWriter] = []

    async def ignore(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Leave the connection open."""
        accepted.append(writer)

    async def run() -> list[int]:
        server = await asyncio.start_server(ignore, "127.0.0.1", 0)
        servers.append(server.sockets[0].getsockname())
        ignored: list[int] = []
        for moment in range(30):
            task = asyncio.create_task(connect(*servers[0], seconds=60))
            for _ in range(moment):
                await asyncio.sleep(0)
            in_time = task.cancel()
            for _ in range(times - 1):
                await asyncio.sleep(0)
                task.cancel()
            await asyncio.wait({task})
            if not task.cancelled():
                await task.result().aclose()
                ignored += [moment] if in_time else []
        await asyncio.sleep(0)
        connected = [
            each
            for each in gc.get_objects()
            if isinstance(each, asyncio.Transport) and each.get_extra_info("peername") in servers
        ]
        assert all(each.is_closing() for each in connected)
        server.close()
        for writer in accepted:
            writer.transport.abort()
        await asyncio.sleep(0)
        return ignored

    assert asyncio.run(run()) == []
    for each in gc.get_objects():
        if type(each) is socket.socket and each.type == socket.SOCK_STREAM:
            with contextlib.suppress(OSError):  # Not connected.
                if each.getpeername() in servers:
                    each.close()
