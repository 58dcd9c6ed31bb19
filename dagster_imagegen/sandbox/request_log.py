"""The provider's own record: what was received, how it ended, and what it would have cost."""

import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.requests import Request

    from dagster_imagegen.sandbox.orders import ImageOrder

KEY_HEADERS = ("authorization", "api-key")


@dataclass(frozen=True, kw_only=True)
class ReceivedRequest:
    """One request as the server saw it; of its key only the digest is kept.

    `status` is None until there is an answer, and stays so where the connection was cut before one.
    `body` is the parsed JSON, or the text where it is not JSON; None for requests other than
    generations. `received_at` is a Unix time.
    """

    sequence: int
    received_at: float
    method: str
    path: str
    headers: Mapping[str, str]
    key_sha256: str | None
    body: Any
    request_id: str
    status: int | None = None
    fault: str | None = None
    billed: bool = False
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: Decimal = Decimal(0)

    @property
    def key_sent(self) -> bool:
        """Whether the request carried a key."""
        return self.key_sha256 is not None

    def as_json(self) -> dict[str, Any]:
        """The row of `GET /sandbox/requests`; money is a string, exact."""
        return {
            **vars(self),
            "headers": dict(self.headers),
            "key_sent": self.key_sent,
            "cost_usd": str(self.cost_usd),
        }


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Sums over the generation requests since the start or the last `clear`."""

    requests: int
    billed: int
    input_tokens: int
    output_tokens: int
    cost_usd: Decimal
    max_in_flight: int

    def as_json(self) -> dict[str, Any]:
        """The totals of `GET /sandbox/requests`; money is a string, exact."""
        return {**vars(self), "cost_usd": str(self.cost_usd)}


class RequestLog:
    """Every request received. Safe to read from any thread while the server works."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._generations: dict[int, ReceivedRequest] = {}
        self._others: list[ReceivedRequest] = []
        self._sequence = 0
        self._in_flight = 0
        self._max_in_flight = 0
        self.spent_usd = Decimal(0)  # since the start

    def receive(self, request: "Request", *, at: float, request_id: str, body: object) -> int:
        """Log a generation request before anything is decided about it.

        Returns its sequence number. It counts as in flight until `leave`.
        """
        with self._lock:
            self._in_flight += 1
            self._max_in_flight = max(self._max_in_flight, self._in_flight)
            row = self._row(request, received_at=at, request_id=request_id, body=body)
            self._generations[row.sequence] = row
            return row.sequence

    def note(self, request: "Request", *, at: float, request_id: str, status: int) -> None:
        """Log any other request, with its answer: the model list, a download, a wrong address."""
        with self._lock:
            row = self._row(request, received_at=at, request_id=request_id, body=None)
            self._others.append(replace(row, status=status))

    def _row(self, request: "Request", **fields: Any) -> ReceivedRequest:
        self._sequence += 1
        key = key_in(request.headers)
        return ReceivedRequest(
            sequence=self._sequence,
            method=request.method,
            path=request.url.path,
            headers={k: v for k, v in request.headers.items() if k.lower() not in KEY_HEADERS},
            key_sha256=None if key is None else hashlib.sha256(key.encode()).hexdigest(),
            **fields,
        )

    def bill(self, sequence: int, order: "ImageOrder") -> None:
        """Charge for the work, whether or not its answer arrives."""
        with self._lock:
            self.spent_usd += order.cost_usd
        self._update(
            sequence,
            billed=True,
            input_tokens=order.input_tokens,
            output_tokens=order.output_tokens,
            cost_usd=order.cost_usd,
        )

    def answer(self, sequence: int, *, status: int | None, fault: str | None) -> None:
        """Log how the request was answered; a `status` of None means not at all."""
        self._update(sequence, status=status, fault=fault)

    def leave(self) -> None:
        """One request fewer is in flight."""
        with self._lock:
            self._in_flight -= 1

    def _update(self, sequence: int, **changes: Any) -> None:
        with self._lock:
            known = self._generations.get(sequence)
            if known is not None:  # `clear` may have come in between
                self._generations[sequence] = replace(known, **changes)

    def clear(self) -> None:
        """Forget what was received. Sequence numbers go on, and spent credit stays spent."""
        with self._lock:
            self._generations.clear()
            self._others.clear()
            self._max_in_flight = self._in_flight

    @property
    def generations(self) -> list[ReceivedRequest]:
        """The generation requests, in the order received."""
        with self._lock:
            return list(self._generations.values())

    @property
    def others(self) -> list[ReceivedRequest]:
        """All other requests, in the order received."""
        with self._lock:
            return list(self._others)

    @property
    def totals(self) -> Totals:
        """Sums over `generations`."""
        rows = self.generations
        return Totals(
            requests=len(rows),
            billed=sum(row.billed for row in rows),
            input_tokens=sum(row.input_tokens for row in rows),
            output_tokens=sum(row.output_tokens for row in rows),
            cost_usd=sum((row.cost_usd for row in rows), Decimal(0)),
            max_in_flight=self._max_in_flight,
        )


def key_in(headers: Mapping[str, str]) -> str | None:
    """The key that was sent: a bearer token, or Azure's `api-key`."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token:
        return token.strip()
    return headers.get("api-key")
