"""Fetching the `url` of an answer: without the key, bounded, and never into a private network.

The address was chosen by whoever answered, so it is not trusted: it gets the key only if it has
the endpoint's own origin, every address of its name is checked, and the connection goes to the
address that was checked.
"""

import asyncio
import base64
import contextlib
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

import httpx

from dagster_imagegen.engine.endpoint.base_url import HEADERS, origin
from dagster_imagegen.engine.endpoint.body import unpacked
from dagster_imagegen.engine.endpoint.connections import Connections, Proxies, sent
from dagster_imagegen.engine.endpoint.failures import Failure
from dagster_imagegen.engine.endpoint.response import (
    GeneratedImage,
    ImageLink,
    image_of,
    saving_failed,
)
from dagster_imagegen.engine.machine import SCARCE_SECONDS, is_out_of_files

Resolve: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]
IPAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

WAITS_SECONDS = (0.5, 1.0, 2.0, 4.0)  # a new image can be a moment late
LOOK_UP_WAITS_SECONDS = (0.5, 1.0, 2.0)
MAX_REDIRECTS = 5
ADDRESSES_MAX = 6  # of one host, tried one after the other
TIMEOUT = httpx.Timeout(60.0, connect=10.0)
TRY_SECONDS = 120.0  # a whole try: a body that arrives in drips never runs into TIMEOUT
NAT64 = ipaddress.ip_network("64:ff9b::/96")


async def resolve_name(host: str, port: int) -> Sequence[str]:
    """The addresses of a host name. Raises OSError if there are none."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[4][0]) for address in found]


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class ImageDownloader:
    """Fetches the image where an endpoint answers with a link.

    It goes through a proxy where `proxies` has one for it.
    """

    connections: Connections
    proxies: Proxies
    endpoint: httpx.URL  # to which a link can be relative
    endpoint_headers: Mapping[str, str]  # with the key
    max_body_bytes: int
    home: "HomeNetworks"
    resolve: Resolve
    sleep: Callable[[float], Awaitable[None]]

    async def fetch(self, link: ImageLink) -> GeneratedImage | Failure:
        """The image behind a link; after a few tries, a failure that says it was billed."""
        try:
            url = self.endpoint.join(link.url)
        except (httpx.InvalidURL, ValueError):
            return saving_failed("the link is not a valid URL", link.facts)
        problem = ""
        for wait in (*WAITS_SECONDS, None):
            try:
                data = await asyncio.wait_for(self._get(url), TRY_SECONDS)
                image = image_of(data, link.facts)
                if isinstance(image, GeneratedImage):
                    return image
                problem = image.message
            except _NotThereYet as error:
                problem = str(error)
            except asyncio.TimeoutError:  # before Python 3.11 not the built-in one
                problem = f"no whole image within {TRY_SECONDS:g} s"
            except _Forbidden as error:
                problem = str(error)
                break
            except UnicodeError:  # raised by the look-up, or by httpx when it decodes the host
                problem = "invalid host name"
                break
            if wait is not None:
                await self.sleep(wait)
        return saving_failed(f"{shown(url)}: {problem}", link.facts)

    async def _get(self, url: httpx.URL) -> bytes:
        for _ in range(MAX_REDIRECTS + 1):
            found = await self._with_a_free_file(url)
            if isinstance(found, bytes):
                return found
            url = found
        raise _Forbidden(f"more than {MAX_REDIRECTS} redirects")

    async def _with_a_free_file(self, url: httpx.URL) -> bytes | httpx.URL:
        """`_body_or_redirect`, once this process can open another file: the image is paid for."""
        while True:
            try:
                return await self._body_or_redirect(url)
            except _NotThereYet as error:
                if not is_out_of_files(error):
                    raise
            await self.sleep(SCARCE_SECONDS)

    async def _body_or_redirect(self, url: httpx.URL) -> bytes | httpx.URL:
        """What is at `url`, from the first of its addresses at which somebody answers."""
        problem: Exception = OSError("no address")
        for route in await self._routes_to(url):
            try:
                return await self._ask(route, url)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                problem = error
            except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
                problem = error
                break
        raise _NotThereYet(f"{type(problem).__name__} {problem}".strip()) from problem

    async def _ask(self, route: "_Route", url: httpx.URL) -> bytes | httpx.URL:
        asked = httpx.Request(
            "GET",
            route.url.copy_with(userinfo=b""),
            headers={**HEADERS, **route.headers, **_login_of(route.url)},
            extensions={"timeout": TIMEOUT.as_dict(), **route.extensions},
        )
        async with (
            self.connections.transport(asked.url, proxy=route.proxy) as http,
            contextlib.aclosing(await sent(http, asked)) as response,
        ):
            if response.has_redirect_location:
                return url.join(response.headers["location"])
            return await self._body(response)

    async def _routes_to(self, url: httpx.URL) -> "Sequence[_Route]":
        """How to get `url`: with the key from the endpoint itself, without it from anybody else."""
        if url.scheme not in ("http", "https") or not url.host:
            raise _Forbidden(f"the scheme must be http or https, got {url.scheme or 'none'}")
        if origin(url) == origin(self.endpoint):
            return [_Route(url, self.endpoint_headers, proxy=self.proxies.of(url))]
        addresses = await self._allowed_addresses(url)
        if addresses is None:
            return [_Route(url, {"accept": "image/*"}, proxy=self.proxies.of(url))]
        # By address, because a second look-up of the name could give another one.
        return [
            _Route(
                url.copy_with(host=address),
                {"accept": "image/*", "host": url.netloc.decode("ascii")},
                {"sni_hostname": url.host},
            )
            for address in addresses
        ]

    async def _allowed_addresses(self, url: httpx.URL) -> Sequence[str] | None:
        """The addresses to connect to; None where a proxy connects, and looks names up."""
        proxied = self.proxies.of(url) is not None
        try:
            addresses = await addresses_of(url, self.resolve)
        except OSError as error:
            if proxied:
                return None
            raise _NotThereYet(f"{url.host} is not found: {error}") from error
        networks = {address: network_of(address) for address in addresses}
        private = {name for name in networks.values() if name is not None}
        if private and not private <= await self.home.networks():
            raise _Forbidden(f"{url.host} is in a private network ({', '.join(sorted(private))})")
        return None if proxied else list(networks)[:ADDRESSES_MAX]

    async def _body(self, response: httpx.Response) -> bytes:
        if response.status_code != 200:
            raise _NotThereYet(f"answered {response.status_code}")
        data = bytearray()
        async with contextlib.aclosing(unpacked(response)) as chunks:
            async for chunk in chunks:
                data += chunk
                if len(data) > self.max_body_bytes:
                    raise _Forbidden(f"is larger than {self.max_body_bytes:,} bytes")
        return bytes(data)


class HomeNetworks:
    """The networks in which the endpoint was before its first answer. Links may lead into them.

    Whoever answers may also decide what the endpoint's name is, so a later look-up does not count.
    """

    def __init__(self, endpoint: httpx.URL, resolve: Resolve) -> None:
        self._endpoint = endpoint
        self._resolve = resolve
        self._has_answered = False
        self._look_up: asyncio.Task[frozenset[str | None] | None] | None = None

    def look_up(self) -> None:
        """Begin to look the endpoint up, unless that has succeeded or an answer has come."""
        task = self._look_up
        failed = task is None or (task.done() and task.result() is None)
        if failed and not self._has_answered:
            self._look_up = asyncio.create_task(self._networks())

    def answered(self) -> None:
        """Begin no more look-ups: somebody has answered."""
        self._has_answered = True

    async def networks(self) -> frozenset[str | None]:
        """The networks, of which None is the internet; none if no look-up has succeeded."""
        found = None if self._look_up is None else await asyncio.shield(self._look_up)
        return found or frozenset()

    async def aclose(self) -> None:
        """Stop the look-up."""
        if self._look_up is not None:
            self._look_up.cancel()
            await asyncio.wait([self._look_up])

    async def _networks(self) -> frozenset[str | None] | None:
        """What a look-up finds; None if it and those that follow fail, before an answer comes."""
        waits = iter(LOOK_UP_WAITS_SECONDS)
        while True:
            with contextlib.suppress(OSError, UnicodeError):
                addresses = await addresses_of(self._endpoint, self._resolve)
                return frozenset(map(network_of, addresses))
            wait = next(waits, None)
            if wait is None:
                return None
            await asyncio.sleep(wait)
            if self._has_answered:
                return None


async def addresses_of(url: httpx.URL, resolve: Resolve) -> Sequence[str]:
    """The addresses of a URL's host. Raises OSError if there are none."""
    with contextlib.suppress(ValueError):
        return [str(ipaddress.ip_address(url.host))]
    addresses = await resolve(url.host, origin(url)[2])
    if not addresses:
        raise OSError("no address")
    return addresses


class _Route(NamedTuple):
    """The URL and the headers with which an image is requested, and through which proxy."""

    url: httpx.URL
    headers: Mapping[str, str]
    extensions: Mapping[str, str] = MappingProxyType({})
    proxy: str | None = None


def _login_of(url: httpx.URL) -> Mapping[str, str]:
    """The header for the user and the password in a URL, if there are any."""
    if not url.userinfo:
        return {}
    login = base64.b64encode(f"{url.username}:{url.password}".encode()).decode("ascii")
    return {"authorization": f"Basic {login}"}


class _NotThereYet(Exception):
    """The image did not come, and may do so a moment later."""


class _Forbidden(Exception):
    """The image will not be fetched."""


def shown(url: httpx.URL) -> str:
    """A URL without what may be secret in it: query, fragment, user and password."""
    return str(url.copy_with(query=None, fragment=None, userinfo=b""))[:300]


def network_of(address: str) -> str | None:
    """The kind of network that an address belongs to, such as "loopback"; None: the internet."""
    ip = _embedded(ipaddress.ip_address(address.partition("%")[0]))
    kinds = {
        "loopback": ip.is_loopback,
        "link-local": ip.is_link_local,
        "multicast": ip.is_multicast,
        "reserved": ip.is_reserved or ip.is_unspecified,
        "private": not ip.is_global,
    }
    return next((kind for kind, holds in kinds.items() if holds), None)


def _embedded(ip: IPAddress) -> IPAddress:
    """The IPv4 address inside an IPv6 address, where there is one."""
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    if ip in NAT64:
        return ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)
    return ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else ip)
