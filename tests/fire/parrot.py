"""An endpoint that says whatever a test makes of a request, over real HTTP."""

import json
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeAlias

from tests.engine.endpoint.peer import ANSWER

Answer: TypeAlias = tuple[int, Mapping[str, str], bytes]


@dataclass(frozen=True)
class Heard:
    """A request as a server got it."""

    path: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]

    @property
    def prompt(self) -> str:
        return self.body["prompt"]


@dataclass
class Parrot:
    """An endpoint that says what a function makes of each request."""

    answer: Callable[[Heard], Answer]
    heard: list[Heard] = field(default_factory=list[Heard])
    base_url: str = ""

    @contextmanager
    def serve(self) -> "Generator[Parrot]":
        parrot = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                names = {name.lower(): value for name, value in self.headers.items()}
                heard = Heard(self.path, names, json.loads(body))
                parrot.heard.append(heard)
                status, headers, data = parrot.answer(heard)
                self.send_response_only(status)
                for name, value in {**headers, "content-length": str(len(data))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # its name
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        self.base_url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


def error(status: int, **said: object) -> Answer:
    return status, {"content-type": "application/json"}, json.dumps({"error": said}).encode()


def success(**said: object) -> Answer:
    answer = json.loads(ANSWER)
    answer["data"][0] |= said
    return 200, {"content-type": "application/json"}, json.dumps({**answer, **said}).encode()


def files_below(folder: Path) -> dict[str, bytes]:
    """Every file, by its path from there. One that is gone by the time it is read is left out."""
    found: dict[str, bytes] = {}
    for path in folder.rglob("*"):
        try:
            if path.is_file():
                found[path.relative_to(folder).as_posix()] = path.read_bytes()
        except FileNotFoundError:
            pass
    return found
