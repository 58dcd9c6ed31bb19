"""One request over real HTTP: what leaves, what comes back, and what is said when it breaks.

`Peer` is a server that sends exactly the bytes it is told to; the sandbox is one that behaves.
"""

import asyncio
import base64
import json
import socket
import struct
import zlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import httpx
import pytest

from dagster_imagegen.engine.endpoint import download
from dagster_imagegen.engine.endpoint.client import ImageClient
from dagster_imagegen.engine.endpoint.download import network_of
from dagster_imagegen.engine.endpoint.response import Answer, Failure, FailureKind, GeneratedImage
from dagster_imagegen.engine.errors import ConfigurationError
from dagster_imagegen.engine.request import ImageRequest
from dagster_imagegen.sandbox import Sandbox
from tests.engine.endpoint.peer import (
    ANSWER,
    KEY,
    PNG,
    REQUEST,
    Act,
    Lookup,
    Peer,
    Received,
    ask,
    client_of,
    drips,
    hangs,
    http,
    names,
    no_sleep,
    resets,
    says,
    says_and_closes,
    until,
)
from tests.virtual_time import run_virtual

STREAMED = ImageRequest(
    endpoint_id="e", model="openai-gpt-image-1", prompt="a mug", stream=True, partial_images=2
)


USAGE = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}


def failure_of(*acts: Act, **options: Any) -> Failure:
    answer, _ = ask(*acts, **options)
    assert isinstance(answer.result, Failure), answer.result
    return answer.result


def image_of(*acts: Act, **options: Any) -> GeneratedImage:
    answer, _ = ask(*acts, **options)
    assert isinstance(answer.result, GeneratedImage), answer.result
    return answer.result


# -- what is sent ----------------------------------------------------------------------------------


def test_one_post_with_the_key_and_what_was_set() -> None:
    """The body holds prompt, model, n and what the user set; the key is in Authorization."""
    answer, peer = ask(says(http(x_request_id="req-1")))
    (received,) = peer.received
    assert received.target == "/v1/images/generations"
    assert received.headers["authorization"] == f"Bearer {KEY}"
    assert json.loads(received.body) == {
        "model": "openai-gpt-image-1", "prompt": "a red mug", "n": 1, "size": "auto",
    }  # fmt: skip
    assert (answer.http_status, answer.request_id) == (200, "req-1")
    assert isinstance(answer.result, GeneratedImage)
    assert answer.result.data == PNG


@pytest.mark.parametrize(
    ("suffix", "target"),
    [
        ("", "/images/generations"),
        ("/", "/images/generations"),
        ("/v1/", "/v1/images/generations"),
        ("/openai/d?api-version=1&x=a%2Fb", "/openai/d/images/generations?api-version=1&x=a%2Fb"),
        ("/v1#part", "/v1/images/generations"),
    ],
)
def test_how_the_address_is_put_together(suffix: str, target: str) -> None:
    """With and without a trailing slash, and with Azure's query behind the path."""

    async def run() -> str:
        async with Peer([says(http())]).serve() as peer:
            async with client_of(peer, base_url=peer.root + suffix) as client:
                await client.send(REQUEST)
            return peer.received[0].target

    assert asyncio.run(run()) == target


def test_servers_with_a_header_of_their_own() -> None:
    """Without a key there is no Authorization, and extra headers go along."""
    _, peer = ask(says(http()), api_key=None, extra_headers={"api-key": "azure-0123456789"})
    assert "authorization" not in peer.received[0].headers
    assert peer.received[0].headers["api-key"] == "azure-0123456789"


@pytest.mark.usefixtures("lasting_connections")
def test_connections_are_used_again() -> None:
    """Five requests, one connection."""

    async def run() -> int:
        async with Peer([says(http())]).serve() as peer, client_of(peer) as client:
            for _ in range(5):
                assert isinstance((await client.send(REQUEST)).result, GeneratedImage)
            return peer.connections

    assert asyncio.run(run()) == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"base_url": "inference.do-ai.run/v1"},
        {"base_url": "ftp://example.com"},
        {"base_url": "http://"},
        {"base_url": "http://[::1"},
        {"base_url": "https://user:pass@example.com/v1"},
        {"api_key": "sk 123"},
        {"api_key": "sk-ü"},
        {"extra_headers": {"a b": "c"}},
        {"extra_headers": {"a": "b\nc: d"}},
    ],
)
def test_settings_that_cannot_work(settings: dict[str, Any]) -> None:
    """They are refused before anything is sent, and a secret in them is not repeated."""
    options: dict[str, Any] = {"base_url": "https://example.com", **settings}
    with pytest.raises(ConfigurationError) as caught:
        ImageClient(**options)
    assert not any(secret in str(caught.value) for secret in ("pass@", "sk 123", "sk-ü"))


def test_a_key_with_a_line_end_is_that_key() -> None:
    """Keys read from files end in one."""
    _, peer = ask(says(http()), api_key=KEY + "\n")
    assert peer.received[0].headers["authorization"] == f"Bearer {KEY}"


# -- what comes back -------------------------------------------------------------------------------


def test_headers_tell_what_is_left() -> None:
    """Successes announce it too, and the pacer wants to know."""
    answer, _ = ask(says(http(
        x_ratelimit_remaining_requests="3", x_ratelimit_limit_requests="5",
        x_ratelimit_reset_requests="12s",
    )))  # fmt: skip
    assert answer.headroom is not None
    assert (answer.headroom.remaining, answer.headroom.reset_seconds) == (3, 12.0)


def test_a_body_in_small_pieces_without_a_length() -> None:
    """Chunked transfer is put together as any."""
    head = b"HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n"
    chunks = [b"%x\r\n%s\r\n" % (1, ANSWER[i : i + 1]) for i in range(len(ANSWER))]
    assert image_of(says(head, b"".join(chunks), b"0\r\n\r\n")).data == PNG


def test_a_raw_image() -> None:
    """The body is the image."""
    assert image_of(says(http(PNG, content_type="image/png"))).data == PNG


def test_a_compressed_answer() -> None:
    """Asked not to, a server may compress all the same; the length is then not the body's."""
    packed = zlib.compress(ANSWER)
    assert image_of(says(http(packed, content_encoding="deflate"))).data == PNG


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(status: int) -> None:
    """The key would follow along; the message says where to."""
    answer, peer = ask(says(http(b"", status, location="https://other.example/v1?k=1")))
    assert isinstance(answer.result, Failure)
    assert answer.result.kind is FailureKind.MISCONFIGURED
    assert "other.example" in answer.result.message
    assert len(peer.received) == 1


LOST: list[tuple[Act, str]] = [
    (hangs, "read_timeout"),
    (says_and_closes(), "connection_lost"),
    (resets(), "connection_lost"),
    (says_and_closes(http(ANSWER[:50], length=len(ANSWER))), "connection_lost"),
    (resets(http(ANSWER[:50], length=len(ANSWER))), "connection_lost"),
    (says_and_closes(http(PNG, length=len(PNG) + 9, content_type="image/png")), "connection_lost"),
    (says(http(ANSWER[:50], length=len(ANSWER))), "read_timeout"),
    (drips(http(b"", length=10**6), b" ", seconds=0.02), "read_timeout"),
    (
        drips(http(b"", length=10**6, content_type="text/event-stream"), b": hi\n\n", seconds=0.02),
        "read_timeout",
    ),
    (says(http(ANSWER[:50])), "broken_json"),
    (says_and_closes(b"garbage\r\n\r\n"), "connection_lost"),
    (says(http(ANSWER, content_encoding="gzip")), "connection_lost"),
]


@pytest.mark.parametrize(("act", "code"), LOST)
def test_an_answer_that_is_lost_leaves_the_outcome_unknown(act: Act, code: str) -> None:
    """The request was sent; whether it was done and billed, nobody can tell. It is sent once.

    The short timeout is for peers that never finish: nothing else in those requests can reach it.
    """
    answer, peer = ask(act, timeout_seconds=0.3 if code == "read_timeout" else 60)
    assert isinstance(answer.result, Failure)
    assert (answer.result.kind, answer.result.code) == (FailureKind.AMBIGUOUS, code)
    assert len(peer.received) == 1


def test_an_image_that_arrived_whole_is_not_lost_with_its_connection() -> None:
    """The JSON is complete, so the end that is missing says nothing."""
    assert image_of(resets(http(ANSWER, length=len(ANSWER) + 1))).data == PNG


def test_an_error_counts_although_its_end_is_lost() -> None:
    """The status was the answer."""
    failure = failure_of(resets(http(b'{"error', 429, length=99, retry_after="2")))
    assert (failure.kind, failure.wait_seconds) == (FailureKind.RATE_LIMITED, 2.0)


def test_nobody_there() -> None:
    """A refused connection was never a request: nothing is billed, and it may be tried again."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        base_url = f"http://127.0.0.1:{taken.getsockname()[1]}"

        async def run() -> Answer:
            async with ImageClient(base_url=base_url) as client:
                return await client.send(REQUEST)

        result = asyncio.run(run()).result
    assert isinstance(result, Failure)
    assert (result.kind, result.billing) == (FailureKind.UNREACHABLE, "not_billed")
    assert "127.0.0.1" in result.message


@pytest.mark.parametrize("host", ["a..b", f"{'a' * 64}.example"])
def test_a_name_that_can_be_none(host: str) -> None:
    """It is not found, and nothing is sent."""

    async def run() -> Answer:
        async with ImageClient(base_url=f"http://{host}/v1") as client:
            return await client.send(REQUEST)

    result = asyncio.run(run()).result
    assert isinstance(result, Failure)
    assert (result.kind, result.billing) == (FailureKind.UNREACHABLE, "not_billed")


def test_no_tls() -> None:
    """A handshake that fails delivers nothing either."""

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 X\r\n\r\n")
        writer.close()

    async def run() -> Answer:
        server = await asyncio.start_server(plain, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server, ImageClient(base_url=f"https://127.0.0.1:{port}") as client:
            return await client.send(REQUEST)

    result = asyncio.run(run()).result
    assert isinstance(result, Failure)
    assert result.kind is FailureKind.UNREACHABLE


def test_a_request_that_did_not_leave_whole_was_not_accepted() -> None:
    """A server that hangs up in the middle of a large body cannot have done the work."""

    async def run() -> Answer:
        async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            connection: socket.socket = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.bind(("127.0.0.1", 0))
        server = await asyncio.start_server(hang_up, sock=listener, limit=4096)
        huge = ImageRequest(
            endpoint_id="e", model="m", prompt="p", extra_body=json.dumps({"x": "y" * 20_000_000})
        )
        async with (
            server,
            ImageClient(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}") as client,
        ):
            return await client.send(huge)

    result = asyncio.run(run()).result
    assert isinstance(result, Failure)
    assert (result.kind, result.billing) == (FailureKind.UNREACHABLE, "not_billed")


def test_bodies_are_bounded() -> None:
    """An answer without an end is left; what was announced is not allocated."""
    failure = failure_of(says(http(b"x" * 5000)), max_body_bytes=1000)
    assert (failure.kind, failure.code) == (FailureKind.AMBIGUOUS, "body_too_large")
    failure = failure_of(
        drips(http(b"", length=10**15, content_type="text/event-stream"), b"x" * 900, seconds=0),
        max_body_bytes=10_000,
    )
    assert failure.code == "body_too_large"
    failure = failure_of(drips(http(b"", 500, length=10**15), b"x" * 90_000, seconds=0))
    assert failure.kind is FailureKind.SERVER_ERROR


def test_a_stream_over_the_wire() -> None:
    """Events are read as they come, and reading stops with the image."""
    event = {"type": "image_generation.completed", **json.loads(ANSWER)["data"][0]}
    partial = b'event: image_generation.partial_image\ndata: {"b64_json": "AAAA"}\n\n'
    completed = f"event: image_generation.completed\ndata: {json.dumps(event)}\n\n".encode()
    head = b"HTTP/1.1 200 X\r\ncontent-type: text/event-stream; charset=utf-8\r\n\r\n"
    assert image_of(says(head, partial, completed), request=STREAMED).data == PNG
    assert image_of(resets(head, completed), request=STREAMED).data == PNG
    failure = failure_of(says_and_closes(head, partial), request=STREAMED)
    assert failure.code == "stream_ended"
    failure = failure_of(resets(head, partial), request=STREAMED)
    assert failure.code == "connection_lost"


# -- links -----------------------------------------------------------------------------------------


def linked(url: str, **more: object) -> Act:
    return says(http(json.dumps({"data": [{"url": url}], "usage": USAGE, **more}).encode()))


PICTURE = says(http(PNG, content_type="image/png"))


@pytest.mark.parametrize("url", ["/files/a.png", "a.png", "{root}/files/a.png?sig=1"])
def test_a_link_of_the_endpoint_is_fetched_with_the_key(url: str) -> None:
    """Relative or absolute, it is the same origin, and may want the key."""

    async def run() -> tuple[Answer, Peer]:
        async with Peer([]).serve() as peer, client_of(peer) as client:
            peer.acts[:] = [linked(url.format(root=peer.root)), PICTURE]
            return await client.send(REQUEST), peer

    answer, peer = asyncio.run(run())
    assert isinstance(answer.result, GeneratedImage)
    assert answer.result.data == PNG
    assert answer.result.tokens is not None
    assert peer.received[1].headers["authorization"] == f"Bearer {KEY}"


def test_a_link_with_a_login() -> None:
    """It is sent as a browser sends it, and shown nowhere."""
    picture = says(http(PNG))

    async def run() -> list[Received]:
        async with Peer([]).serve() as peer:
            root = peer.root.replace("://", "://ann:s3cr%20t@").replace("127.0.0.1", "localhost")
            peer.acts[:] = [
                says(http(f'{{"data": [{{"url": "{root}/a.png"}}]}}'.encode())),
                picture,
            ]
            async with client_of(peer) as client:
                assert isinstance((await client.send(REQUEST)).result, GeneratedImage)
            return peer.received

    fetched = asyncio.run(run())[1]
    assert fetched.headers["authorization"] == f"Basic {base64.b64encode(b'ann:s3cr t').decode()}"


def test_a_link_that_is_not_there_yet() -> None:
    """Missing for a moment, or a page in its place: asked for again, and never generated again."""
    page = says(http(b"<html>soon", content_type="text/html"))
    answer, peer = ask(linked("/a.png"), says(http(b"", 404)), page, PICTURE)
    assert isinstance(answer.result, GeneratedImage)
    targets = [received.target for received in peer.received]
    assert targets == ["/v1/images/generations", *["/a.png"] * 3]


def test_a_link_that_stays_away() -> None:
    """The image is paid for: the failure says so, with its tokens and where it was."""
    answer, peer = ask(linked("/a.png?signature=secret"), says(http(b"", 404)))
    failure = answer.result
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.status) == (FailureKind.SAVING_FAILED, "failed")
    assert failure.billing == "billed"
    assert failure.tokens is not None
    assert f"{peer.root}/a.png" in failure.message
    assert "404" in failure.message
    assert "secret" not in failure.message
    assert len(peer.received) == 6


class Elsewhere(httpx.AsyncBaseTransport):
    """A network: the endpoint, and files on other hosts, by the address connected to."""

    def __init__(self, link: str, files: dict[str, httpx.Response]) -> None:
        self.link = link
        self.files = files
        self.requests: list[httpx.Request] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if request.method == "POST":
            return httpx.Response(200, json={"data": [{"url": self.link}], "usage": USAGE})
        return self.files.get(str(request.url), httpx.Response(404))


def fetch(
    transport: Elsewhere,
    resolve: Lookup,
    base_url: str = "https://api.example/v1",
    *,
    run: Callable[[Coroutine[Any, Any, Answer]], Answer] = asyncio.run,
) -> Any:
    async def main() -> Answer:
        async with ImageClient(
            base_url=base_url,
            api_key=KEY,
            extra_headers={"api-key": "other-secret"},
            transport=transport,
            resolve=resolve,
            sleep=no_sleep,
            max_body_bytes=10_000,
        ) as client:
            return await client.send(REQUEST)

    return run(main()).result


def test_another_host_never_gets_the_key() -> None:
    """It is connected to at the address that was looked at, under its name, without our headers."""
    image = httpx.Response(200, content=PNG)
    network = Elsewhere(
        "https://cdn.example:8443/a.png", {"https://93.184.216.34:8443/a.png": image}
    )
    result = fetch(network, names(cdn_example="93.184.216.34"))
    assert isinstance(result, GeneratedImage)
    request = network.requests[1]
    assert request.headers["host"] == "cdn.example:8443"
    assert request.extensions["sni_hostname"] == "cdn.example"
    assert "authorization" not in request.headers
    assert "api-key" not in request.headers


def test_the_same_host_on_another_port_is_another_origin() -> None:
    """Scheme, host and port make the origin; any other does not get the key."""
    image = httpx.Response(200, content=PNG)
    network = Elsewhere("http://api.example/a.png", {"http://93.184.216.34/a.png": image})
    fetch(network, names(api_example="93.184.216.34"))
    assert "authorization" not in network.requests[1].headers


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/a.png",
        "http://[::1]/a.png",
        "http://[::ffff:127.0.0.1]/a.png",
        "http://169.254.169.254/latest/meta-data",
        "http://10.1.2.3/a.png",
        "http://0.0.0.0/a.png",
        "http://inside.example/a.png",
        "http://both.example/a.png",
        "file:///etc/passwd",
        "ftp://cdn.example/a.png",
        "http://hop.example/a.png",
    ],
)
def test_nothing_is_fetched_from_a_private_network(url: str) -> None:
    """Whatever its name and however it is got to, also by a redirect; and it is said why."""
    hop = httpx.Response(302, headers={"location": "http://169.254.169.254/latest/meta-data"})
    network = Elsewhere(url, {"http://93.184.216.34/a.png": hop})
    resolve = names(
        api_example="93.184.216.30",
        inside_example="192.168.1.1",
        both_example="93.184.216.34 127.0.0.1",
        hop_example="93.184.216.34",
    )
    result = fetch(network, resolve)
    assert isinstance(result, Failure)
    assert result.kind is FailureKind.SAVING_FAILED
    assert result.billing == "billed"
    asked = {request.url.host for request in network.requests}
    assert asked <= {"api.example", "93.184.216.34"}
    assert len(network.requests) <= 2


def test_an_endpoint_in_a_private_network_may_link_into_it() -> None:
    """A server at home serves its files from home, and still not from this machine."""
    files = {"http://192.168.1.7:9000/a.png": httpx.Response(200, content=PNG)}
    resolve = names(ai_lan="192.168.1.5", files_lan="192.168.1.7", me_lan="127.0.0.1")
    network = Elsewhere("http://files.lan:9000/a.png", files)
    assert isinstance(fetch(network, resolve, "http://ai.lan/v1"), GeneratedImage)
    network = Elsewhere("http://me.lan/a.png", {})
    assert isinstance(fetch(network, resolve, "http://ai.lan/v1"), Failure)


def test_redirects_of_a_link_are_few_and_lose_the_key() -> None:
    """From the endpoint's own file to a CDN: followed, without the key. In circles: not."""
    files = {
        "https://api.example/a": httpx.Response(302, headers={"location": "https://cdn.example/b"}),
        "https://93.184.216.34/b": httpx.Response(200, content=PNG),
    }
    network = Elsewhere("/a", files)
    assert isinstance(fetch(network, names(cdn_example="93.184.216.34")), GeneratedImage)
    assert [("authorization" in request.headers) for request in network.requests] == [
        True,
        True,
        False,
    ]
    network = Elsewhere(
        "/a", {"https://api.example/a": httpx.Response(302, headers={"location": "/a"})}
    )
    result = fetch(network, names())
    assert isinstance(result, Failure)
    assert "redirects" in result.message


def test_a_download_is_bounded() -> None:
    """More than an image can be is not read on."""
    network = Elsewhere("/a", {"https://api.example/a": httpx.Response(200, content=PNG * 1000)})
    result = fetch(network, names())
    assert isinstance(result, Failure)
    assert "larger than" in result.message


class Dripping(Elsewhere):
    """A network on which so many pictures drip in, a byte a second, for longer than a try lasts."""

    def __init__(self, drips: int) -> None:
        super().__init__("/a", {"https://api.example/a": httpx.Response(200, content=PNG)})
        self.drips = drips

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        whole = await super().handle_async_request(request)
        if request.method == "POST" or len(self.requests) > 1 + self.drips:
            return whole

        async def drip() -> AsyncIterator[bytes]:
            for _ in range(3600):
                await asyncio.sleep(1)
                yield b"x"

        return httpx.Response(200, content=drip())


def test_a_picture_that_drips_in_is_asked_for_again() -> None:
    """Never silent for long, it would hold its slot for ever; each try has an end."""
    network = Dripping(1)
    assert isinstance(fetch(network, names(), run=run_virtual), GeneratedImage)
    assert len(network.requests) == 3
    failure = fetch(Dripping(100), names(), run=run_virtual)
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.billing) == (FailureKind.SAVING_FAILED, "billed")
    assert f"{download.TRY_SECONDS:g} s" in failure.message


@pytest.mark.parametrize(
    ("base_url", "host"),
    [("http://127.0.0.1:9/v1", "93.184.216.34"), ("https://api.example/v1", "cdn.example")],
)
def test_who_connects_to_a_linked_host(
    base_url: str, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy, by its name; but for an endpoint on this machine no proxy is asked, so we do,
    at the address that was looked at.
    """
    for name in ("NO_PROXY", "no_proxy", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
    files = {f"http://{host}/a.png": httpx.Response(200, content=PNG)}
    network = Elsewhere("http://cdn.example/a.png", files)
    assert isinstance(fetch(network, names(cdn_example="93.184.216.34"), base_url), GeneratedImage)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("93.184.216.34", None),
        ("2606:2800:220:1::1", None),
        ("127.1.2.3", "loopback"),
        ("10.0.0.1", "private"),
        ("100.64.0.1", "private"),
        ("172.16.0.1", "private"),
        ("fd00::1", "private"),
        ("169.254.169.254", "link-local"),
        ("fe80::1%eth0", "link-local"),
        ("0.0.0.0", "reserved"),
        ("224.0.0.1", "multicast"),
        ("::ffff:10.0.0.1", "private"),
        ("64:ff9b::7f00:1", "loopback"),
        ("2002:7f00:1::", "loopback"),
    ],
)
def test_which_network_an_address_is_in(address: str, network: str | None) -> None:
    """Also where an IPv6 address only wraps an IPv4 one."""
    assert network_of(address) == network


# -- the key ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "act",
    [
        says(
            http(json.dumps({"error": {"message": f"Bad key {KEY}!", "code": KEY}}).encode(), 401)
        ),
        says(http(json.dumps({"error": {"message": "x" * 480 + KEY}}).encode(), 401)),
        says(http(f"<html><title>{KEY}</title>".encode(), 502)),
        says(http(KEY.encode(), 200)),
        says(http(b"", 302, location=f"https://{KEY}.example/")),
        says(http(b"{}", 400, x_request_id=KEY)),
        linked(f"/{KEY}.png?k={KEY}"),
    ],
)
def test_the_key_is_in_no_text(act: Act) -> None:
    """A server that repeats the key, whole or cut short, does not get it into our records."""
    answer, _ = ask(act)
    assert isinstance(answer.result, Failure)
    assert KEY[:12] not in repr(answer)


def test_the_key_is_in_no_repr() -> None:
    """Neither the key nor a header, nor a query that may hold one."""
    client = ImageClient(
        base_url="https://a.example/v1?key=hidden",
        api_key=KEY,
        extra_headers={"api-key": "secret77"},
    )
    assert repr(client) == "<ImageClient https://a.example/v1/images/generations>"
    asyncio.run(client.aclose())


def test_a_revised_prompt_does_not_repeat_the_key() -> None:
    """Texts of a success are cleaned like those of a failure."""
    body = json.loads(ANSWER)
    body["data"][0]["revised_prompt"] = f"a mug with {KEY} on it"
    assert image_of(says(http(json.dumps(body).encode()))).revised_prompt == "a mug with *** on it"


def test_no_netrc_is_read(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxies of the environment are a company's; credentials of a home folder are nobody's."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    _, peer = ask(says(http()), api_key=None)
    assert "authorization" not in peer.received[0].headers


# -- the sandbox -----------------------------------------------------------------------------------


def send(sandbox: Sandbox, request: ImageRequest = REQUEST, **options: Any) -> Answer:
    async def run() -> Answer:
        async with ImageClient(
            base_url=sandbox.base_url, api_key="k" * 20, sleep=no_sleep, **options
        ) as client:
            answer = await client.send(request)
        await until(lambda: bool(sandbox.requests))  # which a client that gave up can be ahead of
        return answer

    return asyncio.run(run())


FAULTS = {
    FailureKind.RATE_LIMITED: "rate_limited too_many_concurrent",
    FailureKind.UNAVAILABLE: "unavailable unavailable_unannounced",
    FailureKind.SERVER_ERROR: "server_error image_generation_failed bad_gateway",
    FailureKind.AMBIGUOUS: (
        "request_timeout gateway_timeout origin_timeout closed reset truncated hang broken_json "
        "broken_base64 no_image empty_data"
    ),
    FailureKind.REFUSED: (
        "moderation_blocked moderation_blocked_output content_policy_violation content_filter "
        "responsible_ai_policy_violation legal_reasons"
    ),
    FailureKind.REJECTED: "invalid_value",
    FailureKind.MISCONFIGURED: (
        "unknown_parameter invalid_api_key organization_not_verified not_found model_not_found "
        "unprocessable redirect html"
    ),
    FailureKind.OUT_OF_CREDIT: (
        "payment_required insufficient_quota credit_balance_exhausted "
        "organization_spend_limit_exceeded project_spend_limit_exceeded "
        "organization_usage_limit_exceeded billing_hard_limit_reached"
    ),
    FailureKind.SAVING_FAILED: "url_gone",
}


@pytest.mark.parametrize(
    ("kind", "fault"),
    [(kind, fault) for kind, faults in FAULTS.items() for fault in faults.split()],
)
@pytest.mark.imagegen_sandbox(paint=False)
def test_every_fault_of_the_sandbox(
    imagegen_sandbox: Sandbox, kind: FailureKind, fault: str
) -> None:
    """Its kind is known, it was asked once, and our billing never contradicts the provider's."""
    imagegen_sandbox.script(fault)
    result = send(imagegen_sandbox, timeout_seconds=0.5 if fault == "hang" else 60).result
    assert isinstance(result, Failure), result
    assert result.kind is kind
    (row,) = imagegen_sandbox.requests
    assert result.billing in ("unknown", "billed" if row.billed else "not_billed")


@pytest.mark.parametrize(
    "oddity",
    [
        *("url", "url_relative", "url_data", "url_late", "raw_image", "other_format", "nulls"),
        *("zero_usage", "no_usage"),
    ],
)
@pytest.mark.imagegen_sandbox(paint=False)
def test_every_oddity_of_the_sandbox(imagegen_sandbox: Sandbox, oddity: str) -> None:
    """A good image in a form of its own is an image; made-up or missing usage is unknown."""
    imagegen_sandbox.script(oddity)
    result = send(imagegen_sandbox).result
    assert isinstance(result, GeneratedImage), result
    counted = oddity not in ("zero_usage", "no_usage", "raw_image", "nulls")
    assert (result.tokens is not None) is counted
    if counted:
        assert result.tokens is not None
        assert result.tokens.output_tokens == imagegen_sandbox.totals.output_tokens


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (None, None),
        ("stream_completed_first", None),
        ("stream_cut", None),
        ("stream_error", FailureKind.SERVER_ERROR),
    ],
)
@pytest.mark.imagegen_sandbox(paint=False)
def test_streams_of_the_sandbox(
    imagegen_sandbox: Sandbox, fault: str | None, expected: FailureKind | None
) -> None:
    """Real partial images pass by on the way to the image, or to what went wrong."""
    imagegen_sandbox.script(fault)
    result = send(imagegen_sandbox, STREAMED).result
    kind = result.kind if isinstance(result, Failure) else None
    assert kind is expected
