"""The sandbox on a port: a uvicorn server in a thread of its own."""

import asyncio
import atexit
import contextlib
import os
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from functools import partial

import uvicorn
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send
from typing_extensions import Self

from dagster_imagegen.sandbox.app import SandboxApp
from dagster_imagegen.sandbox.errors import Dialect
from dagster_imagegen.sandbox.faults import Fault, FaultPlan
from dagster_imagegen.sandbox.limits import Gate
from dagster_imagegen.sandbox.orders import Shape
from dagster_imagegen.sandbox.pictures import Pictures
from dagster_imagegen.sandbox.request_log import ReceivedRequest, RequestLog, Totals

HOST = "127.0.0.1"
BACKLOG = 2048
# l_onoff=1, l_linger=0: closing such a socket sends a reset.
LINGER_ZERO = struct.pack("ii", 1, 0)


class Sandbox:
    """An image endpoint on this machine, for a `with` block or between `start()` and `stop()`.

    Args:
        port: 0 takes a free one.
        api_key: The only key that is accepted; by default any key is, and none.
        error_dialect: Whose error bodies it answers.
        answer_shape: Whose answers it gives.
        strict_sizes: Reject sizes that are not in the model's published list.
        latency_seconds: How long an image takes, or a range to draw from with `seed`.
        requests_per_minute: More are answered 429, with the headers of real servers.
        max_concurrency: Likewise, for requests at the same time.
        rate_window_seconds: How long that minute is.
        credit_usd: What the account may spend before `insufficient_quota`.
        refuse: Phrases, or a predicate; matching prompts are blocked by moderation.
        faults: A script, see `FaultPlan`; `script()` adds to it later.
        fault_rates: Random faults, by kind.
        seed: For random latencies and faults.
        paint: False makes images of a few pixels at once, for tests.
        credentials: True puts marks of origin into png, jpeg and webp: unsigned content credentials
            (C2PA) and IPTC's digital source type.
        clock: The time in Unix seconds.

    Example:
        with Sandbox(refuse=["gory"]) as sandbox:
            client = openai.OpenAI(base_url=sandbox.base_url, api_key="any")
    """

    def __init__(
        self,
        *,
        port: int = 0,
        api_key: str | None = None,
        error_dialect: Dialect = "openai",
        answer_shape: Shape = "openai",
        strict_sizes: bool = False,
        latency_seconds: float | tuple[float, float] = 0.0,
        requests_per_minute: int | None = None,
        max_concurrency: int | None = None,
        rate_window_seconds: float = 60.0,
        credit_usd: Decimal | float | None = None,
        refuse: Callable[[str], bool] | Sequence[str] = (),
        faults: Iterable[Fault | str | None] = (),
        fault_rates: Mapping[str, float] | None = None,
        seed: int = 0,
        paint: bool = True,
        credentials: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._port = port
        self._make_pictures = partial(Pictures, paint=paint, credentials=credentials)
        self._log = RequestLog()
        self._faults = FaultPlan(faults, rates=fault_rates, seed=seed)
        gate = Gate(
            requests_per_minute=requests_per_minute,
            max_concurrency=max_concurrency,
            window_seconds=rate_window_seconds,
            clock=clock,
        )
        is_range = isinstance(latency_seconds, tuple)
        latencies = latency_seconds if is_range else (latency_seconds, latency_seconds)
        self._make_app = partial(
            SandboxApp,
            api_key=api_key,
            error_dialect=error_dialect,
            answer_shape=answer_shape,
            strict_sizes=strict_sizes,
            refuses=_refuser(refuse),
            draw_latency=partial(random.Random(seed).uniform, *latencies),  # noqa: S311  # repeatable
            credit_usd=None if credit_usd is None else Decimal(str(credit_usd)),
            log=self._log,
            gate=gate,
            faults=self._faults,
            clock=clock,
        )
        self._running: _Running | None = None

    @property
    def base_url(self) -> str:
        """The `base_url` for clients: `http://127.0.0.1:PORT/v1`."""
        return f"{self.root_url}/v1"

    @property
    def root_url(self) -> str:
        """The address that `/sandbox/requests` is below."""
        if self._running is None:
            raise RuntimeError("the sandbox is not running; use it in a `with` block")
        return f"http://{HOST}:{self._port}"

    @property
    def requests(self) -> list[ReceivedRequest]:
        """Every generation request received, in order, also those without an answer."""
        return self._log.generations

    @property
    def other_requests(self) -> list[ReceivedRequest]:
        """All other requests: the model list, downloads of a `url`, wrong addresses."""
        return self._log.others

    @property
    def totals(self) -> Totals:
        """Sums over `requests`."""
        return self._log.totals

    def clear(self) -> None:
        """Forget `requests`. The credit that was spent stays spent."""
        self._log.clear()

    def script(self, *faults: Fault | str | None) -> None:
        """Put faults at the end of the script; a bare name is `Fault(name)`, None a success."""
        self._faults.add(faults)

    def start(self) -> Self:
        """Listen. Returns when requests are answered.

        Raises:
            OSError: The port is taken.
            RuntimeError: The sandbox is running already, or its server failed to start.
        """
        if self._running is not None:
            raise RuntimeError("the sandbox is already running")
        listener = _listen(self._port)
        self._port = listener.getsockname()[1]
        self._running = _Running(listener, self._make_app, self._make_pictures())
        self._running.wait_until_started()
        return self

    def stop(self) -> None:
        """Drop every connection, whatever it waits for, and free the port."""
        if self._running is not None:
            self._running.stop()
            self._running = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_exception: object) -> None:
        self.stop()


class _Running:
    """A uvicorn server in a thread of its own, from one start to its stop."""

    def __init__(
        self, listener: socket.socket, make_app: Callable[..., SandboxApp], pictures: Pictures
    ) -> None:
        self._listener = listener
        self._pid = os.getpid()
        self._pictures = pictures
        self._app = make_app(
            pictures=self._pictures,
            close=partial(self._cut, reset=False),
            reset=partial(self._cut, reset=True),
        ).build()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._uvicorn = uvicorn.Server(
            uvicorn.Config(
                self._asgi,
                interface="asgi3",
                lifespan="off",
                ws="none",
                loop="asyncio",
                log_config=None,
                access_log=False,
                proxy_headers=False,  # `_cut` finds a connection by the client's own address
                server_header=False,
                headers=[("server", "dagster-imagegen-sandbox"), ("x-sandbox", "dagster-imagegen")],
            )
        )
        port = listener.getsockname()[1]
        self._thread = threading.Thread(
            target=self._run, name=f"imagegen-sandbox-{port}", daemon=True
        )
        self._thread.start()

    def wait_until_started(self) -> None:
        self._ready.wait()
        if self._failure is not None:
            raise RuntimeError("the sandbox's server did not start") from self._failure

    def stop(self) -> None:
        if os.getpid() == self._pid:  # a forked child has the socket, but none of the threads
            if self._loop is not None:
                with contextlib.suppress(RuntimeError):  # the loop has ended already
                    self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()
            self._pictures.close()
        self._listener.close()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as exc:  # noqa: BLE001  # told to whoever waits for the start
            self._failure = exc
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        """Serve until `stop`, then drop every connection.

        uvicorn's own shutdown would wait for requests that hang. Instead the listener is closed and
        connections are cut here; `asyncio.run` then cancels uvicorn's main loop and the requests.
        """
        self._loop = asyncio.get_running_loop()
        serving = asyncio.create_task(self._uvicorn.serve(sockets=[self._listener]))
        while not self._uvicorn.started:  # it sets its default headers before it lets go again
            if serving.done():
                return serving.result()
            await asyncio.sleep(0)
        self._ready.set()
        await self._stop.wait()
        for server in self._uvicorn.servers:
            server.close()
        for connection in list(self._uvicorn.server_state.connections):
            connection.transport.abort()
        return None

    def _cut(self, scope: Scope, *, reset: bool) -> None:
        """End the connection that `scope` came over."""
        for connection in list(self._uvicorn.server_state.connections):
            if getattr(connection, "client", None) == tuple(scope["client"]):
                if reset:
                    raw = connection.transport.get_extra_info("socket")
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ZERO)
                    connection.transport.abort()
                else:
                    connection.transport.close()

    async def _asgi(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except asyncio.CancelledError:
            if not self._stop.is_set():
                raise
            # Swallowed while stopping: uvicorn would log it as an error of the app.
        except ClientDisconnect:
            pass  # the client left in the middle of sending its request; nothing was received


def _listen(port: int) -> socket.socket:
    # The protocol is named so that asyncio knows it for TCP and turns Nagle's algorithm off;
    # without that each answer takes 40 ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":  # elsewhere it would allow two servers on one port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _refuser(refuse: Callable[[str], bool] | Sequence[str]) -> Callable[[str], bool]:
    if callable(refuse):
        return refuse
    phrases = [refuse.lower()] if isinstance(refuse, str) else [text.lower() for text in refuse]
    return lambda prompt: any(phrase in prompt.lower() for phrase in phrases)


_shared: Sandbox | None = None
_shared_lock = threading.Lock()


def shared_sandbox() -> Sandbox:
    """The sandbox of this process, started on first use and stopped at exit.

    `base_url="sandbox"` sends requests to it. A forked child starts its own.
    """
    global _shared  # noqa: PLW0603  # one a process is the point
    with _shared_lock:
        if _shared is None:
            _shared = Sandbox().start()
            atexit.register(_shared.stop)
        return _shared


def _forget_after_fork() -> None:
    """The child has the parent's listening socket, in which nobody would answer, and no thread."""
    global _shared, _shared_lock  # noqa: PLW0603  # one a process is the point
    _shared_lock = threading.Lock()
    if _shared is not None:
        atexit.unregister(_shared.stop)
        _shared.stop()
        _shared = None


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_forget_after_fork)
