"""The provider's request log: what was received, what was done, what it would have cost."""

import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ReceivedRequest:
    """One request, as the server saw it. The key itself is never kept.

    `status` is None while there is no answer, and stays so where the connection was cut before
    one. `body` is the parsed JSON, or the text where it is none.
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
        return self.key_sha256 is not None

    def as_json(self) -> dict[str, Any]:
        """The row of `GET /sandbox/requests`; money is a string, exact."""
        row = dict(vars(self))
        return {
            **row,
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
        self._spent_usd = Decimal(0)

    def receive(
        self,
        *,
        received_at: float,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: Any,
        request_id: str,
    ) -> int:
        """Enter a generation request, before anything is decided about it; who enters it has to
        `leave`. Returns its sequence number."""
        with self._lock:
            self._sequence += 1
            self._in_flight += 1
            self._max_in_flight = max(self._max_in_flight, self._in_flight)
            self._generations[self._sequence] = ReceivedRequest(
                sequence=self._sequence,
                received_at=received_at,
                method=method,
                path=path,
                headers=without_key(headers),
                key_sha256=digest_of_key(headers),
                body=body,
                request_id=request_id,
            )
            return self._sequence

    def note(
        self,
        *,
        received_at: float,
        method: str,
        path: str,
        headers: Mapping[str, str],
        status: int,
        request_id: str,
    ) -> None:
        """Enter a request that asks for no image: the model list, a download, a wrong address."""
        with self._lock:
            self._sequence += 1
            self._others.append(
                ReceivedRequest(
                    sequence=self._sequence,
                    received_at=received_at,
                    method=method,
                    path=path,
                    headers=without_key(headers),
                    key_sha256=digest_of_key(headers),
                    body=None,
                    request_id=request_id,
                    status=status,
                )
            )

    def bill(self, sequence: int, *, input_tokens: int, output_tokens: int, cost: Decimal) -> None:
        """The work is done: it is paid for, whether or not its answer arrives."""
        with self._lock:
            self._spent_usd += cost
        self._update(
            sequence,
            billed=True,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            cost_usd=cost,
        )

    def answer(self, sequence: int, *, status: int | None, fault: str | None) -> None:
        self._update(sequence, status=status, fault=fault)

    def leave(self) -> None:
        with self._lock:
            self._in_flight -= 1

    def _update(self, sequence: int, **changes: Any) -> None:
        with self._lock:
            known = self._generations.get(sequence)
            if known is not None:  # `clear` may have come in between
                self._generations[sequence] = replace(known, **changes)

    def clear(self) -> None:
        """Forget what was received. Sequence numbers go on."""
        with self._lock:
            self._generations.clear()
            self._others.clear()
            self._max_in_flight = self._in_flight

    @property
    def spent_usd(self) -> Decimal:
        """What the account has paid since the start; `clear` gives nothing back."""
        with self._lock:
            return self._spent_usd

    @property
    def generations(self) -> list[ReceivedRequest]:
        with self._lock:
            return list(self._generations.values())

    @property
    def others(self) -> list[ReceivedRequest]:
        with self._lock:
            return list(self._others)

    @property
    def totals(self) -> Totals:
        with self._lock:
            rows = list(self._generations.values())
            most = self._max_in_flight
        return Totals(
            requests=len(rows),
            billed=sum(row.billed for row in rows),
            input_tokens=sum(row.input_tokens for row in rows),
            output_tokens=sum(row.output_tokens for row in rows),
            cost_usd=sum((row.cost_usd for row in rows), Decimal(0)),
            max_in_flight=most,
        )


KEY_HEADERS = ("authorization", "api-key")


def without_key(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in KEY_HEADERS}


def key_in(headers: Mapping[str, str]) -> str | None:
    """The key that was sent: a bearer token, or Azure's `api-key`."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token:
        return token.strip()
    return headers.get("api-key")


def digest_of_key(headers: Mapping[str, str]) -> str | None:
    key = key_in(headers)
    return None if key is None else hashlib.sha256(key.encode()).hexdigest()
