"""Links to images: from which networks they are fetched, and what the log says of them."""

import asyncio
import logging
from collections.abc import Sequence

import httpx
import pytest

from dagster_imagegen.engine.endpoint.client import ImageClient
from dagster_imagegen.engine.endpoint.response import Answer, Failure, GeneratedImage
from tests.engine.endpoint.peer import (
    PNG,
    REQUEST,
    Lookup,
    Peer,
    client_of,
    http,
    names,
    no_sleep,
    says,
)
from tests.engine.endpoint.test_client import Elsewhere, fetch
from tests.virtual_time import run_virtual


class Slow(Elsewhere):
    """A network on which each request takes some seconds."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(3.0)
        return await super().handle_async_request(request)


def failing(times: int, resolve: Lookup) -> tuple[Lookup, list[str]]:
    """A look-up that fails so often for the endpoint, and what it was asked for."""
    asked: list[str] = []

    async def look_up(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        if host == "ai.lan" and asked.count(host) <= times:
            raise OSError("Temporary failure in name resolution")
        return await resolve(host, port)

    return look_up, asked


LAN = names(ai_lan="192.168.1.5", files_lan="192.168.1.7")
LAN_FILES = {"http://192.168.1.7/a.png": httpx.Response(200, content=PNG)}


def test_a_look_up_that_fails_is_repeated_before_the_first_answer() -> None:
    """One failure at the start does not close the private network for the whole run."""
    look_up, asked = failing(1, LAN)
    network = Slow("http://files.lan/a.png", LAN_FILES)
    assert isinstance(fetch(network, look_up, "http://ai.lan/v1", run=run_virtual), GeneratedImage)
    assert asked.count("ai.lan") == 2


def test_a_look_up_begins_anew_with_the_first_request_that_is_delivered() -> None:
    """The name was not found for longer; then all works, and links lead where they may."""
    look_up, _ = failing(4, LAN)
    network = Slow("http://files.lan/a.png", LAN_FILES)

    async def main() -> Answer:
        down = httpx.MockTransport(unreachable)
        async with ImageClient(
            base_url="http://ai.lan/v1", transport=OneAfterTheOther(down, network), resolve=look_up
        ) as client:
            first = (await client.send(REQUEST)).result
            assert isinstance(first, Failure)
            await asyncio.sleep(60)
            return await client.send(REQUEST)

    assert isinstance(run_virtual(main()).result, GeneratedImage)


def test_after_an_answer_no_look_up_opens_a_private_network() -> None:
    """Whoever answers may rule the name too: what it leads to from then on is not trusted."""
    look_up, asked = failing(4, LAN)
    network = Elsewhere("http://files.lan/a.png", LAN_FILES)

    async def main() -> Answer:
        async with ImageClient(
            base_url="http://ai.lan/v1", transport=network, resolve=look_up, sleep=no_sleep
        ) as client:
            for _ in range(4):
                await client.send(REQUEST)
                await asyncio.sleep(60)
            return await client.send(REQUEST)

    result = run_virtual(main()).result
    assert isinstance(result, Failure)
    assert "private network" in result.message
    assert asked.count("ai.lan") == 1


def unreachable(_: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("name not found")


class OneAfterTheOther(httpx.AsyncBaseTransport):
    """The first request goes to the first network, all others to the second."""

    def __init__(self, first: httpx.AsyncBaseTransport, second: httpx.AsyncBaseTransport) -> None:
        self._networks = [first, second]

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        network = self._networks.pop(0) if len(self._networks) > 1 else self._networks[0]
        return await network.handle_async_request(request)


@pytest.mark.parametrize(("elsewhere", "proxied"), [(True, False), (False, False), (False, True)])
def test_a_signed_link_is_not_logged(
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    elsewhere: bool,
    proxied: bool,
) -> None:
    """Whoever has it has the image. On another host, and at the endpoint itself."""
    caplog.set_level(logging.DEBUG)

    async def run() -> tuple[Answer, list[str]]:
        async with Peer([says(http(PNG))]).serve() as files, Peer([]).serve() as peer:
            root = files.root if elsewhere else ""
            link = f'{{"data": [{{"url": "{root}/a.png?signature=s3cr3t"}}]}}'
            peer.acts[:] = [says(http(link.encode())), says(http(PNG))]
            async with client_of(peer, base_url=asked(peer, monkeypatch, proxied)) as client:
                answer = await client.send(REQUEST)
            targets = [each.target for each in (*peer.received, *files.received)]
            return answer, targets

    answer, targets = asyncio.run(run())
    assert isinstance(answer.result, GeneratedImage)
    assert any(target.endswith("/a.png?signature=s3cr3t") for target in targets)
    assert "/a.png " in caplog.text
    assert "s3cr3t" not in caplog.text


def asked(peer: Peer, monkeypatch: pytest.MonkeyPatch, proxied: bool) -> str:
    """The base URL of a peer; or another's, for which the peer is the proxy."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    if not proxied:
        return f"{peer.root}/v1"
    monkeypatch.setenv("http_proxy", peer.root)
    return "http://0.0.0.0:1/v1"


@pytest.mark.parametrize("proxied", [True, False])
def test_the_link_of_a_redirect_is_not_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, proxied: bool
) -> None:
    """httpcore logs the headers of each answer at DEBUG; all of them but this query stay."""
    caplog.set_level(logging.DEBUG)

    async def run() -> tuple[Answer, list[str]]:
        async with Peer([]).serve() as peer:
            there = "/a.png?by=o'hara&signature=s3cr3t"
            link = b'{"data": [{"url": "/link"}]}'
            moved = http(b"", 302, location=there, x_after="seen")
            peer.acts[:] = [says(http(link)), says(moved), says(http(PNG))]
            async with client_of(peer, base_url=asked(peer, monkeypatch, proxied)) as client:
                answer = await client.send(REQUEST)
            return answer, [each.target for each in peer.received]

    answer, targets = asyncio.run(run())
    assert isinstance(answer.result, GeneratedImage)
    assert any("s3cr3t" in target for target in targets)
    assert "/a.png" in caplog.text
    assert ("b'seen'" in caplog.text) == proxied
    assert "s3cr3t" not in caplog.text
