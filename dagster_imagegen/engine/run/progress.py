"""How far a pass has come, and what it has cost so far."""

from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal

from dagster_imagegen.engine.attempt import Cost, Result


@dataclass(kw_only=True)
class Totals:
    """What a pass has caused so far. `requests` counts what was sent; money counts every answer.

    `list_price_usd` is what it costs at list price; outside the sandbox the same as `cost_usd`.
    `unpriced` counts answers whose cost is unknown; `statuses` counts answers by status; `by_basis`
    has the number of answers and their cost by cost basis.
    """

    requests: int = 0
    succeeded: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    cost_usd: Decimal = Decimal(0)
    list_price_usd: Decimal = Decimal(0)
    unpriced: int = 0
    statuses: Counter[str] = field(default_factory=Counter[str])
    by_basis: dict[str, tuple[int, Decimal]] = field(default_factory=dict[str, tuple[int, Decimal]])

    def add(self, result: Result, *, list_price: Cost) -> None:
        """Count an answer."""
        self.input_tokens += result.tokens.input_tokens or 0
        self.output_tokens += result.tokens.output_tokens or 0
        self.total_tokens += result.tokens.total_tokens or 0
        self.list_price_usd += list_price.usd or 0
        self.cost_usd += result.cost.usd or 0
        self.unpriced += result.cost.usd is None
        self.statuses[result.status] += 1
        answers, usd = self.by_basis.get(result.cost.basis, (0, Decimal(0)))
        self.by_basis[result.cost.basis] = (answers + 1, usd + (result.cost.usd or 0))


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a pass stands. `done` and `total` count distinct images."""

    done: int
    total: int
    in_flight: int
    images_per_minute: float | None
    cost_usd: Decimal
    list_price_usd: Decimal
    seconds_left: float | None
    sandbox: bool
    unpriced: int = 0
    paused: str | None = None
    """Why nothing but probes is sent at the moment, if so."""

    def __str__(self) -> str:
        parts = [f"{self.done:,} of {self.total:,} images", f"{self.in_flight} in flight"]
        if self.images_per_minute is not None:
            parts.append(f"{self.images_per_minute:,.0f} a minute")
        parts.append(self.cost)
        if self.paused is not None:
            parts.append(self.paused)
        elif self.seconds_left is not None and self.done < self.total:
            minutes, seconds = divmod(round(self.seconds_left), 60)
            parts.append(f"{minutes}:{seconds:02d} left")
        return ", ".join(parts)

    @property
    def cost(self) -> str:
        """What it has cost so far, and how many requests have an unknown cost."""
        return cost_text(
            self.cost_usd, self.list_price_usd, sandbox=self.sandbox, unpriced=self.unpriced
        )


def cost_text(
    cost_usd: Decimal, list_price_usd: Decimal, *, sandbox: bool, unpriced: int = 0
) -> str:
    """`$1.23`, in the sandbox `$0.00 (sandbox; $1.23 at list price)`.

    With `unpriced` requests `$1.23 and 3 requests of unknown cost`: unknown is not 0.
    """
    if sandbox:
        return f"$0.00 (sandbox; ${list_price_usd:,.2f} at list price)"
    known = f"${cost_usd:,.2f}"
    if not unpriced:
        return known
    return f"{known} and {unpriced:,} request{'s'[: unpriced != 1]} of unknown cost"
