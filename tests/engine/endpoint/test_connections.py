"""How connections are kept: used again, closed in time, the same for one request or thousands."""

import asyncio
import datetime
import gc
import ipaddress
import ssl
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from dagster_imagegen.engine.endpoint import connections as connections_module
from dagster_imagegen.engine.endpoint.client import ImageClient
from dagster_imagegen.engine.endpoint.connections import KEEPALIVE_SECONDS, Connections
from dagster_imagegen.engine.endpoint.response import Failure, FailureKind, GeneratedImage
from tests.engine.endpoint.peer import (
    ANSWER,
    PNG,
    REQUEST,
    Peer,
    client_of,
    hangs,
    http,
    names,
    says,
    says_and_closes,
    until,
)

pytestmark = pytest.mark.usefixtures("lasting_connections")

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


async def together(client: ImageClient, count: int) -> None:
    """That many requests at once, all of which succeed."""
    answers = await asyncio.gather(*(client.send(REQUEST) for _ in range(count)))
    assert all(isinstance(answer.result, GeneratedImage) for answer in answers)


# -- what a request costs --------------------------------------------------------------------------


def calls_of_one_request(others: int, *, in_flight: bool) -> int:
    """How many functions are called for a request while there are `others`."""

    async def run() -> int:
        async with Peer([hangs if in_flight else says(http())]).serve() as peer:
            client = client_of(peer)
            sent = [asyncio.create_task(client.send(REQUEST)) for _ in range(others)]
            await until(lambda: len(peer.received) == others)
            peer.acts[:] = [says(http())]
            if not in_flight:
                await asyncio.gather(*sent)
            await together(client, 1)
            # The least of a few: the first can do what is done only once.
            calls = min([await counted(client) for _ in range(3)])
            assert peer.connections == others + in_flight
            await client.aclose()
            await asyncio.gather(*sent)
            return calls

    return asyncio.run(run())


async def counted(client: ImageClient) -> int:
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    before = sys.getprofile()
    gc.disable()  # what it finalizes is not this request's
    sys.setprofile(count)
    try:
        await client.send(REQUEST)
    finally:
        sys.setprofile(before)
        gc.enable()
    return calls


@pytest.mark.parametrize("in_flight", [False, True])
def test_a_request_costs_the_same_among_many(in_flight: bool) -> None:
    """Whether there are 5 other connections or 100, idle or waiting for their answers."""
    few = calls_of_one_request(5, in_flight=in_flight)
    many = calls_of_one_request(100, in_flight=in_flight)
    assert many < 1.05 * few


# -- which connection ------------------------------------------------------------------------------


def test_the_connection_last_used_is_the_next_one() -> None:
    """The others of a burst may grow old and be closed, while one serves what comes singly."""

    async def run() -> list[int]:
        async with Peer([says(http())]).serve() as peer, client_of(peer) as client:
            await together(client, 8)
            for _ in range(4):
                await together(client, 1)
            assert peer.connections == 8
            return [received.connection for received in peer.received[8:]]

    assert len(set(asyncio.run(run()))) == 1


SOMEWHERE = httpx.URL("https://api.example/v1")


class Nowhere(httpx.AsyncBaseTransport):
    """Sends nothing, and knows whether it is closed."""

    is_closed = False

    def __init__(self, _: str | None = None) -> None:
        pass

    async def aclose(self) -> None:
        self.is_closed = True


@pytest.mark.parametrize(("more_seconds", "is_same"), [(-0.1, True), (0.1, False)])
def test_an_idle_connection_is_used_for_a_second(
    more_seconds: float, is_same: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Common servers hang up after five; a request that met that would be lost."""
    monkeypatch.setattr(connections_module, "KEEPALIVE_SECONDS", KEEPALIVE_SECONDS)
    now = 0.0

    async def run() -> None:
        nonlocal now
        connections = Connections(Nowhere, clock=lambda: now)
        async with connections.transport(SOMEWHERE) as first:
            now += 60.0  # An answer takes its time.
        now += KEEPALIVE_SECONDS + more_seconds
        async with connections.transport(SOMEWHERE) as second:
            assert (second is first) == is_same

    asyncio.run(run())


def test_what_nobody_used_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only passed over: after a burst its connections do not stay open."""
    monkeypatch.setattr(connections_module, "KEEPALIVE_SECONDS", KEEPALIVE_SECONDS)
    now = 0.0
    made: list[Nowhere] = []

    def make(_: str | None) -> Nowhere:
        made.append(Nowhere())
        return made[-1]

    async def burst(connections: Connections, size: int) -> None:
        if size:
            async with connections.transport(SOMEWHERE):
                await burst(connections, size - 1)

    async def run() -> None:
        nonlocal now
        connections = Connections(make, clock=lambda: now)
        await burst(connections, 4)
        now = KEEPALIVE_SECONDS
        await burst(connections, 2)
        assert [each.is_closed for each in made] == [False] * 4
        now += 0.1
        await burst(connections, 1)
        assert sum(each.is_closed for each in made) == 2
        await connections.aclose()
        assert all(each.is_closed for each in made)

    asyncio.run(run())
    assert len(made) == 4


def test_what_is_too_old_is_closed_before_another_is_opened(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise they would use up the files that the process may open."""
    monkeypatch.setattr(connections_module, "KEEPALIVE_SECONDS", KEEPALIVE_SECONDS)
    now, made = 0.0, list[Nowhere]()

    def make(_: str | None) -> Nowhere:
        assert all(each.is_closed for each in made if now)
        made.append(Nowhere())
        return made[-1]

    async def run() -> None:
        nonlocal now
        connections = Connections(make, clock=lambda: now)
        async with connections.transport(SOMEWHERE), connections.transport(SOMEWHERE):
            pass
        now = KEEPALIVE_SECONDS + 0.1
        async with connections.transport(httpx.URL("https://cdn.example/a.png")):
            assert [each.is_closed for each in made] == [True, True, False]

    asyncio.run(run())


def test_links_to_another_host_keep_both_connections() -> None:
    """An answer that is a link takes two requests, to two hosts, in turns."""

    async def run() -> None:
        async with Peer([says(http(PNG))]).serve() as files, Peer([]).serve() as peer:
            link = f'{{"data": [{{"url": "{files.root}/a.png"}}]}}'
            peer.acts[:] = [says(http(link.encode()))]
            async with client_of(peer) as client:
                for _ in range(5):
                    await together(client, 1)
            assert (peer.connections, files.connections) == (1, 1)

    asyncio.run(run())


def test_what_was_broken_off_is_closed() -> None:
    """Whatever state its connection is in, nobody gets it after the one who left it."""
    made: list[Nowhere] = []

    def make(_: str | None) -> Nowhere:
        made.append(Nowhere())
        return made[-1]

    async def run() -> None:
        connections = Connections(make)
        with pytest.raises(asyncio.CancelledError):
            async with connections.transport(SOMEWHERE):
                raise asyncio.CancelledError
        assert made[0].is_closed
        async with connections.transport(SOMEWHERE) as transport:
            assert transport is made[1]
        await connections.aclose()

    asyncio.run(run())


def has_ended(client: ImageClient) -> bool:
    """Whether the client's side of its only connection could see that it is closed."""
    kept = client._connections._idle  # pyright: ignore[reportPrivateUsage]  # what is waited for
    if not kept:
        return True
    _, idle = next(iter(kept.values()))[-1]
    connection: Any = getattr(idle, "_connection")  # noqa: B009  # a transport of any kind
    return not connection.is_free


def test_a_connection_that_was_closed_while_idle_loses_no_request() -> None:
    """The server hung up early: that is seen before the connection is used again."""

    async def run() -> int:
        acts = [says_and_closes(http()), says(http())]
        async with Peer(acts).serve() as peer, client_of(peer) as client:
            await together(client, 1)
            await until(lambda: peer.closed == 1)
            await until(lambda: has_ended(client))
            await together(client, 1)
            return peer.connections

    assert asyncio.run(run()) == 2


def test_a_cancelled_request_closes_its_connection() -> None:
    """Nobody would read the answer. The next request is sent on another, and gets its own."""

    async def run() -> None:
        async with Peer([hangs]).serve() as peer, client_of(peer) as client:
            sent = [asyncio.create_task(client.send(REQUEST)) for _ in range(3)]
            await until(lambda: len(peer.received) == 3)
            for task in sent[:2]:
                task.cancel()
            await asyncio.gather(*sent[:2], return_exceptions=True)
            assert all(task.cancelled() for task in sent[:2])
            await until(lambda: peer.closed == 2)
            assert not sent[2].done()
            peer.acts[:] = [says(http())]
            await together(client, 2)
            assert peer.connections == 5
            await together(client, 2)
            assert peer.connections == 5

    asyncio.run(run())


def test_closing_closes_everything() -> None:
    """Idle or in use; what was in use has an unknown outcome, and nothing is sent any more."""

    async def run() -> None:
        async with Peer([says(http())]).serve() as peer:
            client = client_of(peer)
            await together(client, 3)
            peer.acts[:] = [hangs]
            sent = asyncio.create_task(client.send(REQUEST))
            await until(lambda: len(peer.received) == 4)
            await client.aclose()
            result = (await sent).result
            assert isinstance(result, Failure)
            assert result.kind is FailureKind.AMBIGUOUS
            await until(lambda: peer.closed == 3)
            with pytest.raises(RuntimeError, match="closed"):
                await client.send(REQUEST)
            assert (peer.connections, peer.closed) == (3, 3)

    asyncio.run(run())


def test_nothing_is_sent_after_closing() -> None:
    """Also not by a request that was still looking for its host."""

    async def run() -> None:
        async with Peer([says(http())]).serve() as peer:
            client = client_of(peer)
            sent = asyncio.create_task(client.send(REQUEST))
            await asyncio.sleep(0)
            await client.aclose()
            result = (await sent).result
            assert isinstance(result, Failure)
            assert (result.kind, result.billing) == (FailureKind.UNREACHABLE, "not_billed")
            await until(lambda: peer.closed == peer.connections)
            assert not peer.received

    asyncio.run(run())


def test_a_transport_of_the_caller_is_closed_once_with_the_client() -> None:
    """A request that breaks closes its connection, and not what all the others are sent by."""

    class Breaking(httpx.AsyncBaseTransport):
        requests = closed = 0

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            self.requests += 1
            if self.requests == 1:
                raise httpx.ReadError("lost")
            assert not self.closed
            return httpx.Response(200, content=ANSWER)

        async def aclose(self) -> None:
            self.closed += 1

    async def run() -> None:
        transport = Breaking()
        async with ImageClient(base_url="https://api.example", transport=transport) as client:
            assert isinstance((await client.send(REQUEST)).result, Failure)
            await together(client, 3)
            assert transport.closed == 0
        assert transport.closed == 1

    asyncio.run(run())


# -- proxies ---------------------------------------------------------------------------------------


@pytest.fixture
def proxied(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the proxies of the environment, and no others."""

    def put(**variables: str) -> None:
        for name in PROXIES:
            monkeypatch.delenv(name, raising=False)
            monkeypatch.delenv(name.lower(), raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    put()
    return put


@pytest.mark.parametrize(
    ("variable", "base_url", "asked_for"),
    [
        ("http_proxy", "http://api.example/v1", "http://api.example/v1/images/generations"),
        ("ALL_PROXY", "http://api.example/v1", "http://api.example/v1/images/generations"),
        ("HTTPS_PROXY", "https://api.example/v1", "api.example:443"),
        ("ALL_PROXY", "https://api.example/v1", "api.example:443"),
    ],
)
def test_a_proxy_of_the_environment_is_asked(
    proxied: Callable[..., None], variable: str, base_url: str, asked_for: str
) -> None:
    """For http it is sent the request; for https it is to connect, and refusing delivers none."""

    async def run() -> None:
        async with Peer([says(http(b"no", 403))]).serve() as proxy:
            proxied(**{variable: proxy.root})
            async with client_of(proxy, base_url=base_url) as client:
                result = (await client.send(REQUEST)).result
            assert [received.target for received in proxy.received] == [asked_for]
            assert isinstance(result, Failure)
            if base_url.startswith("https"):
                assert result.kind is FailureKind.UNREACHABLE

    asyncio.run(run())


@pytest.mark.parametrize(
    ("host", "no_proxy"),
    [("0.0.0.0", "0.0.0.0"), ("0.0.0.0", "0.0.0.0:{port}"), ("0.0.0.0", "*"), ("127.0.0.1", "")],
)
def test_a_host_that_no_proxy_is_asked_for(
    proxied: Callable[..., None], host: str, no_proxy: str
) -> None:
    """Listed in NO_PROXY, or on this machine: its connections are used again."""

    async def run() -> None:
        async with Peer([says(http())]).serve() as peer, Peer([hangs]).serve() as proxy:
            listed = no_proxy.format(port=peer.root.rpartition(":")[2])
            proxied(HTTP_PROXY="", http_proxy=proxy.root, ALL_PROXY=proxy.root, NO_PROXY=listed)
            base_url = peer.root.replace("127.0.0.1", host)
            async with client_of(peer, base_url=base_url) as client:
                await together(client, 3)
                await together(client, 3)
            assert (peer.connections, proxy.connections) == (3, 0)

    asyncio.run(run())


def test_a_proxy_that_is_no_address_is_found_at_once(proxied: Callable[..., None]) -> None:
    """Before there is a request, which it would otherwise be counted against."""
    proxied(ALL_PROXY="gopher://proxy.example")
    with pytest.raises(ValueError, match="gopher"):
        ImageClient(base_url="https://api.example/v1")


def link_fetched(proxied: Callable[..., None], no_proxy: str) -> tuple[Peer, Peer]:
    """A proxy and a host of images, after an answer with a link, with only ALL_PROXY set."""

    async def run() -> tuple[Peer, Peer]:
        picture = says(http(PNG, content_type="image/png"))
        async with Peer([]).serve() as proxy, Peer([picture]).serve() as files:
            port = files.root.rpartition(":")[2]
            link = f'{{"data": [{{"url": "http://cdn.example:{port}/a.png"}}]}}'
            proxy.acts[:] = [says(http(link.encode())), picture]
            proxied(ALL_PROXY=proxy.root, NO_PROXY=no_proxy)
            async with client_of(
                proxy,
                base_url="http://api.example/v1",
                resolve=names(cdn_example="127.0.0.1", api_example="127.0.0.1"),
            ) as client:
                await together(client, 1)
            return proxy, files

    return asyncio.run(run())


def test_a_linked_image_is_fetched_through_the_proxy_by_its_name(
    proxied: Callable[..., None],
) -> None:
    """ALL_PROXY is a proxy for images too: it looks the name up, so it is told the name."""
    proxy, files = link_fetched(proxied, "")
    assert proxy.received[1].target.startswith("http://cdn.example:")
    assert not files.received


def test_a_linked_image_is_fetched_directly_where_no_proxy_is_asked(
    proxied: Callable[..., None],
) -> None:
    """At the address that was looked at, which NO_PROXY does not list; its name it does."""
    proxy, files = link_fetched(proxied, "cdn.example")
    assert [received.target for received in files.received] == ["/a.png"]
    assert files.received[0].headers["host"].startswith("cdn.example:")
    assert len(proxy.received) == 1


# -- TLS -------------------------------------------------------------------------------------------


def certificate(folder: Path) -> Path:
    """A certificate for 0.0.0.0, signed by itself, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "0.0.0.0")])
    here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("0.0.0.0"))])
    now = datetime.datetime.now(datetime.timezone.utc)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(here, critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "certificate.pem"
    path.write_bytes(
        signed.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path


@pytest.mark.parametrize("trusted", [True, False])
def test_every_connection_verifies_who_answers(
    trusted: bool, tmp_path: Path, proxied: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first and the later ones alike; to a stranger nothing is delivered."""
    path = certificate(tmp_path)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(path)
    proxied()
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(path))

    async def run() -> tuple[Peer, list[Any]]:
        async with Peer([says(http())], tls=tls).serve() as peer:
            # This machine, and not by a name for which the environment is not asked.
            base_url = peer.root.replace("127.0.0.1", "0.0.0.0")
            async with client_of(peer, base_url=base_url) as client:
                answers = await asyncio.gather(*(client.send(REQUEST) for _ in range(3)))
            return peer, [answer.result for answer in answers]

    peer, results = asyncio.run(run())
    if trusted:
        assert [type(result) for result in results] == [GeneratedImage] * 3
        assert peer.connections == 3
    else:
        assert [result.kind for result in results] == [FailureKind.UNREACHABLE] * 3
        assert not peer.received


def test_the_server_is_told_which_protocol_is_spoken(
    tmp_path: Path, proxied: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that would choose HTTP/2 chooses what is understood here."""
    path = certificate(tmp_path)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(path)
    tls.set_alpn_protocols(["h2", "http/1.1"])
    proxied()
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    chosen: list[str | None] = []

    async def tells(writer: asyncio.StreamWriter) -> None:
        chosen.append(writer.get_extra_info("ssl_object").selected_alpn_protocol())
        await says(http())(writer)

    async def run() -> None:
        async with Peer([tells], tls=tls).serve() as peer:
            base_url = peer.root.replace("127.0.0.1", "0.0.0.0")
            async with client_of(peer, base_url=base_url) as client:
                await together(client, 1)

    asyncio.run(run())
    assert chosen == ["http/1.1"]
