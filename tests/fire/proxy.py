"""A proxy in front of an object store's server, which breaks what passes through it."""

import contextlib
import http.client
import random
import socket
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal

from typing_extensions import Self

Break = Literal["unavailable", "torn upload", "lost answer", "timeout"]
BREAKS: tuple[Break, ...] = ("unavailable", "torn upload", "lost answer", "timeout")
SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"
RESET = struct.pack("ii", 1, 0)


class BreakingProxy:
    """Passes requests on to a server, and breaks some of them, as a seed says.

    unavailable: 503, and nothing is done. torn upload: the connection is reset when half of the
    body is read, and nothing is done. lost answer: it is done, and the connection is reset.
    timeout: it is done, and no answer comes until the client gives up.
    """

    def __init__(self, target: str, *, rate: float, seed: int) -> None:
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self.rate = rate
        self.broken: list[Break] = []
        host, _, port = target.removeprefix("http://").partition(":")
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                with contextlib.suppress(ConnectionError):
                    super().handle_one_request()

            def pass_on(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                how = proxy.draw(upload=length > 0)
                if how == "torn upload":
                    self.rfile.read(length // 2)
                    self.reset()
                    return
                body = self.rfile.read(length)
                if how == "unavailable":
                    self.answer(503, {"content-type": "application/xml"}, SLOW_DOWN)
                    return
                upstream = http.client.HTTPConnection(host, int(port), timeout=30)
                upstream.request(self.command, self.path, body or None, dict(self.headers))
                response = upstream.getresponse()
                data = response.read()
                upstream.close()
                if how == "lost answer":
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

    def draw(self, *, upload: bool) -> Break | None:
        """How the next request is broken, if it is."""
        with self._lock:
            if self._random.random() >= self.rate:
                return None
            how = BREAKS[len(self.broken) % len(BREAKS)]  # each in its turn
            if how == "torn upload" and not upload:
                return None
            self.broken.append(how)
            return how

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
