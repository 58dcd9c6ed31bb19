"""What the parts of one pass share."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Protocol

from dagster_imagegen.engine.attempt import Identity
from dagster_imagegen.engine.endpoint.response import Answer
from dagster_imagegen.engine.endpoint.retries import RetryPolicy
from dagster_imagegen.engine.images import Images
from dagster_imagegen.engine.money.price_list import PriceList
from dagster_imagegen.engine.pacing.pacer import Pacer
from dagster_imagegen.engine.record import Record, RecordWriter
from dagster_imagegen.engine.request import ImageRequest
from dagster_imagegen.engine.run.breaker import Breaker
from dagster_imagegen.engine.run.progress import Totals


class Endpoint(Protocol):
    """Answers requests."""

    async def send(self, request: ImageRequest) -> Answer:
        """Send one request. Failures are answers, not exceptions."""
        ...

    async def aclose(self) -> None:
        """Close its connections."""
        ...


class Stop:
    """Whether a pass sends nothing more, and the error that ended it, if one did."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.error: Exception | None = None

    def set(self, error: Exception | None = None) -> None:
        """Send nothing more. Of several errors the first is kept."""
        self.error = self.error or error
        self._event.set()

    @property
    def is_set(self) -> bool:
        """Whether nothing more is sent."""
        return self._event.is_set()

    async def wait(self) -> None:
        """Wait until nothing more is sent."""
        await self._event.wait()


@dataclass(frozen=True, kw_only=True)
class PassContext:
    """The parts and settings of one pass, made inside its event loop by the engine."""

    record: RecordWriter
    images: Images
    endpoint: Endpoint
    pacer: Pacer
    breaker: Breaker
    prices: PriceList
    identity: Identity
    retry: RetryPolicy
    record_prompts: bool
    sandbox: bool
    drain_seconds: float
    now: Callable[[], datetime]
    rng: random.Random
    totals: Totals
    stop: Stop
    remaining: Callable[[Record], Decimal] | None = None
    """What others' record leaves of the budget; None: there is no budget."""
    defers: bool = False
    """Whether what the budget does not cover is left to a later run instead of failing."""
