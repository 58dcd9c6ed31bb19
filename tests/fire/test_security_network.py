"""What leaves for whom, and what comes in: other hosts, TLS, downloads, bodies.

Over real sockets where the network itself is the point; elsewhere over a transport that shows which
address was connected to. tests/fire/test_security.py says where the rest of security is tested.
"""

import asyncio
import base64
import datetime
import functools
import gzip
import ipaddress
import json
import ssl
import tracemalloc
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from dagster_imagegen.engine.endpoint.client import ImageClient
from dagster_imagegen.engine.endpoint.download import Resolve, resolve_name
from dagster_imagegen.engine.endpoint.response import Answer, Failure, FailureKind, GeneratedImage
from tests.engine.endpoint.peer import (
    ANSWER,
    KEY,
    PNG,
    REQUEST,
    Act,
    Peer,
    ask,
    client_of,
    drips,
    http,
    no_sleep,
    says,
)

OTHER_SECRET = "gateway-0123456789"
PICTURE = http(PNG, content_type="image/png")


def linked(url: str) -> bytes:
    return json.dumps({"data": [{"url": url}]}).encode()


def failed(answer: Answer) -> Failure:
    assert isinstance(answer.result, Failure), answer.result
    return answer.result


# -- requests to another host ----------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_whoever_an_endpoint_redirects_to_hears_nothing(status: int) -> None:
    """Neither the request nor the key in it: what would follow is a purchase at a stranger's."""

    async def run() -> None:
        async with Peer([says(http())]).serve() as other, Peer([]).serve() as peer:
            peer.acts[:] = [says(http(b"", status, location=f"{other.root}/v1/images"))]
            async with client_of(peer, extra_headers={"x-gateway": OTHER_SECRET}) as client:
                assert failed(await client.send(REQUEST)).kind is FailureKind.MISCONFIGURED
            assert len(peer.received) == 1
            assert other.connections == 0

    asyncio.run(run())


@pytest.mark.parametrize("redirected", [False, True])
def test_whoever_keeps_the_picture_gets_neither_keys_nor_cookies(redirected: bool) -> None:
    """On the same machine, behind another port, where a browser would send its cookies along."""

    async def run() -> None:
        async with Peer([says(PICTURE)]).serve() as other, Peer([]).serve() as peer:
            elsewhere, cookie = f"{other.root}/a.png", "session=1; Path=/"
            link = "/hop" if redirected else elsewhere
            peer.acts[:] = [
                says(http(linked(link), set_cookie=cookie)),
                *([says(http(b"", 302, location=elsewhere, set_cookie=cookie))] * redirected),
                says(http(linked(elsewhere))),
            ]
            async with client_of(peer, extra_headers={"x-gateway": OTHER_SECRET}) as client:
                for _ in range(2):
                    answer = await client.send(REQUEST)
                    assert isinstance(answer.result, GeneratedImage), answer.result
            assert len(other.received) == 2
            for received in other.received:
                assert received.headers.keys().isdisjoint({"authorization", "x-gateway", "cookie"})
                assert KEY not in repr(received)
            assert all("cookie" not in received.headers for received in peer.received)

    asyncio.run(run())


# -- TLS -------------------------------------------------------------------------------------------


def certificate(folder: Path, *names: x509.GeneralName) -> tuple[ssl.SSLContext, Path]:
    """A server's TLS with a certificate that it signed itself, and the certificate's file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "images")])
    now = datetime.datetime.now(datetime.timezone.utc)
    signed = (
        x509.CertificateBuilder(issuer_name=name, subject_name=name, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    file, secret = folder / "certificate.pem", folder / "key.pem"
    file.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(file, secret)
    return context, file


async def ask_over_tls(context: ssl.SSLContext) -> tuple[Answer, Peer]:
    async with Peer([says(http())], tls=context).serve() as peer, client_of(peer) as client:
        return await client.send(REQUEST), peer


LOOPBACK = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))


def test_a_certificate_that_nobody_vouches_for_gets_no_request(tmp_path: Path) -> None:
    """It was not delivered, so nothing is billed; and it is said what can be done."""
    context, _ = certificate(tmp_path, LOOPBACK)
    answer, peer = asyncio.run(ask_over_tls(context))
    assert (failed(answer).kind, failed(answer).billing) == (FailureKind.UNREACHABLE, "not_billed")
    assert "self-signed certificate" in failed(answer).message
    assert "SSL_CERT_FILE" in failed(answer).message
    assert peer.received == []


def test_a_certificate_of_another_host_gets_no_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However trusted."""
    context, file = certificate(tmp_path, x509.DNSName("other.example"))
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    answer, peer = asyncio.run(ask_over_tls(context))
    assert failed(answer).kind is FailureKind.UNREACHABLE
    assert peer.received == []


def test_an_authority_of_ones_own_is_trusted_where_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In SSL_CERT_FILE, also for an endpoint on this machine."""
    context, file = certificate(tmp_path, LOOPBACK)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    answer, _ = asyncio.run(ask_over_tls(context))
    assert isinstance(answer.result, GeneratedImage)


# -- downloads -------------------------------------------------------------------------------------


class Internet(httpx.AsyncBaseTransport):
    """An endpoint that answers with a link; every other request is answered alike, and kept."""

    def __init__(self, link: str, picture: httpx.Response | None = None) -> None:
        self._link = link
        self._picture = picture or httpx.Response(200, content=PNG)
        self.asked: list[httpx.Request] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            return httpx.Response(200, content=linked(self._link))
        self.asked.append(request)
        return self._picture


def fetch(internet: Internet, resolve: Resolve = resolve_name) -> Answer:
    async def run() -> Answer:
        async with ImageClient(
            base_url="https://93.184.216.30/v1",
            api_key=KEY,
            transport=internet,
            resolve=resolve,
            sleep=no_sleep,
        ) as client:
            return await client.send(REQUEST)

    return asyncio.run(run())


@pytest.mark.parametrize(
    "url",
    [
        "http://2130706433/a.png",
        "http://0x7f000001/a.png",
        "http://0x7f.0.0.1/a.png",
        "http://0177.0.0.1/a.png",
        "http://127.1/a.png",
        "http://0/a.png",
        "http://127。0。0。1/a.png",
        "http://localhost/a.png",
        "http://[::]/a.png",
        "http://[::1%25lo]/a.png",
        "http://[::127.0.0.1]/a.png",
        "http://[::ffff:a00:1]/a.png",
        "http://[64:ff9b::a9fe:a9fe]/a.png",
        "http://[fd00::1]/a.png",
        "http://93.184.216.34@127.0.0.1/a.png",
        "http://2852039166/latest/meta-data",
        "//127.0.0.1/a.png",
        "gopher://93.184.216.34/",
        "javascript:alert(1)",
        "http:///a.png",
        # No name of any host: an error of the link, not of the pass.
        "http://a..b/a.png",
        f"http://{'a' * 64}.example/a.png",
        "http://xn--/a.png",
        "http://[/a.png",
        "http://a:b:c/",
        "http://\ud800/",
        "h" * 100_000,
    ],
)
def test_however_a_private_address_is_written_nothing_is_fetched_from_it(url: str) -> None:
    """The system reads numbers as it likes; what counts is the address that comes of it."""
    internet = Internet(url)
    failure = failed(fetch(internet))
    assert (failure.kind, failure.billing) == (FailureKind.SAVING_FAILED, "billed")
    assert internet.asked == []


def test_a_name_that_changes_its_address_is_not_followed_inside() -> None:
    """It is connected to at the address that was looked at, and looked at anew each time."""
    answers = iter([["93.184.216.34"], ["127.0.0.1"], ["127.0.0.1"]])

    async def rebinding(host: str, port: int) -> Sequence[str]:
        return next(answers)

    internet = Internet("http://a.example/a.png", httpx.Response(503))
    assert "private network (loopback)" in failed(fetch(internet, rebinding)).message
    assert [request.url.host for request in internet.asked] == ["93.184.216.34"]
    assert [request.headers["host"] for request in internet.asked] == ["a.example"]


# -- bodies ----------------------------------------------------------------------------------------


@functools.cache
def zeros(*, packed: int) -> bytes:
    """60 MB of nothing, compressed, and that again."""
    pack = zlib.compressobj(9, wbits=31)
    data = b"".join(pack.compress(bytes(1 << 20)) for _ in range(60)) + pack.flush()
    for _ in range(packed - 1):
        data = gzip.compress(data)
    return data


def endless(content_type: str, piece: bytes, status: int = 200) -> Act:
    """Chunked, so that no length tells how long it is: it has no end."""
    head = f"HTTP/1.1 {status} X\r\ncontent-type: {content_type}\r\n"
    head += "transfer-encoding: chunked\r\n\r\n"
    return drips(head.encode(), b"%x\r\n%b\r\n" % (len(piece), piece), seconds=0)


BOMBS: dict[str, tuple[Callable[[], Act], FailureKind]] = {
    "gzip": (
        lambda: says(http(zeros(packed=1), content_encoding="gzip")),
        FailureKind.AMBIGUOUS,
    ),
    "gzip of gzip": (
        lambda: says(http(zeros(packed=2), content_encoding="gzip, gzip")),
        FailureKind.AMBIGUOUS,
    ),
    "gzip in an error": (
        lambda: says(http(zeros(packed=1), 500, content_encoding="gzip")),
        FailureKind.SERVER_ERROR,
    ),
    "an endless object": (
        lambda: endless("application/json", b'{"a":1,' * 9000),
        FailureKind.AMBIGUOUS,
    ),
    "an endless event": (
        lambda: endless("text/event-stream", b"data: x" * 9000),
        FailureKind.AMBIGUOUS,
    ),
    "endless events": (
        lambda: endless("text/event-stream", (b"data: {%s}\n\n" % (b" " * 4000)) * 15),
        FailureKind.AMBIGUOUS,
    ),
    "an endless error": (
        lambda: endless("text/html", b"<title>" * 9000, 500),
        FailureKind.SERVER_ERROR,
    ),
}


@pytest.mark.parametrize("where", ["answer", "picture"])
@pytest.mark.parametrize("bomb", BOMBS)
def test_no_body_takes_more_than_its_share_of_memory(bomb: str, where: str) -> None:
    """Compressed, though we ask for none that is, or without an end; of an answer, or of a link."""
    make, kind = BOMBS[bomb]
    acts = [says(http(linked("/a.png"))), make()] if where == "picture" else [make()]
    tracemalloc.start()
    try:
        answer, _ = ask(*acts, max_body_bytes=2_000_000)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert failed(answer).kind is (FailureKind.SAVING_FAILED if where == "picture" else kind)
    assert most < 20_000_000, f"{most:,} bytes for a body of at most 2 MB"


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "deflate", "raw deflate", "identity", ""])
def test_what_a_server_compresses_unasked_is_read_all_the_same(coding: str) -> None:
    """Also where it unpacks to more than is unpacked at once."""
    padded = json.loads(ANSWER) | {"padding": base64.b64encode(bytes(1_500_000)).decode()}
    data = json.dumps(padded).encode()
    bits = {"gzip": 31, "x-gzip": 31, "deflate": 15, "raw deflate": -15}.get(coding)
    if bits is not None:
        pack = zlib.compressobj(wbits=bits)
        data = pack.compress(data) + pack.flush()
    answer, _ = ask(says(http(data, content_encoding=coding.rpartition(" ")[2])))
    assert isinstance(answer.result, GeneratedImage), answer.result
    assert answer.result.data == PNG
