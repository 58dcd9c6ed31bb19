"""A proxy in front of an object store's server, which breaks what passes through it."""

import contextlib
import http.client
import random
import socket
import struct
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal

from typing_extensions import Self

Break = Literal["unavailable", "torn upload", "lost answer", "timeout", "stopped"]
BREAKS: tuple[Break, ...] = ("unavailable", "torn upload", "lost answer", "timeout")
SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"
RESET = struct.pack("ii", 1, 0)


class Proxy:
    """Passes requests on to a server, for a `with` block; what befalls them is up to subclasses.

    unavailable: 503, and nothing is done. torn upload: the connection is reset when half of the
    body is read, and nothing is done. lost answer: it is done, and the connection is reset.
    timeout: it is done, and no answer comes until the client gives up. stopped: the connection is
    reset at once.
    """

    def __init__(self, target: str) -> None:
        host, _, port = target.removeprefix("http://").partition(":")
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                with contextlib.suppress(ConnectionError):
                    super().handle_one_request()

            def pass_on(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                how = proxy.befalls(self.command, self.path, upload=length > 0)
                if how == "stopped":
                    self.reset()
                    return
                if how == "torn upload":
                    self.rfile.read(length // 2)
                    self.reset()
                    return
                body = self.rfile.read(length)
                if how == "unavailable":
                    self.answer(503, {"content-type": "application/xml"}, SLOW_DOWN)
                    return
                with contextlib.closing(
                    http.client.HTTPConnection(host, int(port), timeout=30)
                ) as upstream:
                    upstream.request(self.command, self.path, body or None, dict(self.headers))
                    response = upstream.getresponse()
                    data = response.read()
                if how == "lost answer":
                    proxy.answer_is_lost()
                    self.reset()
                elif how == "timeout":
                    self.connection.settimeout(30)
                    self.rfile.read(1)  # until the client hangs up
                    self.close_connection = True
                else:
                    self.answer(response.status, dict(response.getheaders()), data)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = pass_on  # noqa: N815  # their names

            def answer(self, status: int, headers: dict[str, str], data: bytes) -> None:
                self.send_response_only(status)
                for name, value in headers.items():
                    if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                        self.send_header(name, value)
                length = headers.get("Content-Length", str(len(data)))
                self.send_header(
                    "content-length", length if self.command == "HEAD" else str(len(data))
                )
                self.end_headers()
                self.wfile.write(data)

            def reset(self) -> None:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                self.close_connection = True

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # its name
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def befalls(self, method: str, path: str, *, upload: bool) -> Break | None:
        """How this request is broken, if it is. Called by many threads."""
        return None

    def answer_is_lost(self) -> None:
        """A request is done, and nobody is told."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class BreakingProxy(Proxy):
    """Breaks some of the requests, as a seed says, each time in another way."""

    def __init__(self, target: str, *, rate: float, seed: int) -> None:
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._rate = rate
        self.broken: list[Break] = []
        super().__init__(target)

    def befalls(self, method: str, path: str, *, upload: bool) -> Break | None:
        with self._lock:
            if self._random.random() >= self._rate:
                return None
            how = BREAKS[len(self.broken) % len(BREAKS)]  # each in its turn
            if how == "torn upload" and not upload:
                return None
            self.broken.append(how)
            return how


class StoppableProxy(Proxy):
    """A server that can be stopped, or stalled: then it takes requests, and answers them later."""

    def __init__(self, target: str) -> None:
        self._is_stopped = False
        self._goes_on = threading.Event()
        self._goes_on.set()
        self.held_up = 0
        """Requests that met a server that was stopped or stalled."""
        super().__init__(target)

    def stop(self) -> None:
        self._is_stopped = True

    def stall(self) -> None:
        self._goes_on.clear()

    def go_on(self) -> None:
        self._is_stopped = False
        self._goes_on.set()

    def befalls(self, method: str, path: str, *, upload: bool) -> Break | None:
        if self._is_stopped:
            self.held_up += 1
            return "stopped"
        if not self._goes_on.is_set():
            self.held_up += 1
            self._goes_on.wait()
        return None


class StrikingProxy(Proxy):
    """Calls `strike` at the nth change below a folder, before it is made or when it is.

    `removal` is a folder too: what is removed from journals.
    """

    def __init__(
        self,
        target: str,
        *,
        folder: str,
        nth: int,
        after: bool,
        strike: Callable[[], None],
    ) -> None:
        self._method, place = ("DELETE", "_journal") if folder == "removal" else ("PUT", folder)
        self._place = f"/{place}/"
        self._left = nth
        self._after = after
        self._strike = strike
        self._lock = threading.Lock()
        super().__init__(target)

    def befalls(self, method: str, path: str, *, upload: bool) -> Break | None:
        if method != self._method or self._place not in path:
            return None
        with self._lock:
            self._left -= 1
            if self._left != 0:
                return None
        if self._after:
            return "lost answer"
        self._strike()
        return "unavailable"

    def answer_is_lost(self) -> None:
        self._strike()
