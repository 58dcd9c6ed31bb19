"""What the parts of one pass share."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from dagster_imagegen.engine.attempt import Identity
from dagster_imagegen.engine.endpoint.response import OnPartial
from dagster_imagegen.engine.endpoint.retries import RetryPolicy
from dagster_imagegen.engine.images import Images
from dagster_imagegen.engine.money.price_list import PriceList
from dagster_imagegen.engine.pacing.pacer import Pacer
from dagster_imagegen.engine.record import Record, RecordWriter
from dagster_imagegen.engine.run.breaker import Breaker
from dagster_imagegen.engine.run.gate import Gate
from dagster_imagegen.engine.run.progress import PassTotals

if TYPE_CHECKING:  # Loading it takes long.
    from dagster_imagegen.engine.endpoint.client import ImageClient


class Stop(asyncio.Event):
    """Set once a pass sends nothing more; `error` is why, unless it was asked to stop."""

    error: Exception | None = None

    def fail(self, error: Exception) -> None:
        """Send nothing more because of an error. Of several the first is kept."""
        self.error = self.error or error
        self.set()


@dataclass(frozen=True, kw_only=True)
class PassContext:
    """The parts and settings of one pass, made inside its event loop by the engine."""

    record: RecordWriter
    images: Images
    endpoint: "ImageClient"
    pacer: Pacer
    gate: Gate
    breaker: Breaker
    prices: PriceList
    identity: Identity
    retry: RetryPolicy
    record_prompts: bool
    sandbox: bool
    drain_seconds: float
    now: Callable[[], datetime]
    rng: random.Random
    totals: PassTotals
    stop: Stop
    remaining: Callable[[Record], Decimal] | None = None
    """What others' record leaves of the budget; None: there is no budget."""
    defers: bool = False
    """Whether what the budget does not cover is left to a later run instead of failing."""
    strict: bool = False
    """Whether a request counts against the budget at the most that may have been charged."""
    spent_usd: Decimal = Decimal(0)
    """What earlier passes of the same writer have spent of the budget."""
    on_partial: OnPartial | None = None
    """Gets the partial images of streams, in the event loop."""
