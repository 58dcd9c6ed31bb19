"""How far a pass has come, and what it has cost so far."""

from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal

from dagster_imagegen.engine.attempt import Cost, Result
from dagster_imagegen.engine.money.amounts import usd_text


@dataclass(kw_only=True)
class Totals:
    """What a pass has caused so far. `requests` counts what was sent; the rest is of results on
    record.

    `cost_usd` is what was charged as far as anybody can tell, `cost_usd_max` the most that may have
    been. `list_price_usd` and `list_price_usd_max` are the same at list price, and differ from them
    in the sandbox only. `unpriced` counts results whose cost is unknown, which are in none of the
    sums; `statuses` counts results by status; `by_basis` has the number of results and their cost
    by cost basis.
    """

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    cost_usd: Decimal = Decimal(0)
    cost_usd_max: Decimal = Decimal(0)
    list_price_usd: Decimal = Decimal(0)
    list_price_usd_max: Decimal = Decimal(0)
    unpriced: int = 0
    statuses: Counter[str] = field(default_factory=Counter[str])
    by_basis: dict[str, tuple[int, Decimal]] = field(default_factory=dict[str, tuple[int, Decimal]])

    @property
    def succeeded(self) -> int:
        """How many images are stored."""
        return self.statuses["succeeded"]

    def add(self, result: Result, *, list_price: Cost) -> None:
        """Count a result that is on record."""
        self.input_tokens += result.tokens.input_tokens or 0
        self.output_tokens += result.tokens.output_tokens or 0
        self.total_tokens += result.tokens.total_tokens or 0
        self.list_price_usd += list_price.usd or 0
        self.list_price_usd_max += list_price.most_usd or 0
        self.cost_usd += result.cost.usd or 0
        self.cost_usd_max += result.cost.most_usd or 0
        self.unpriced += result.cost.usd is None
        self.statuses[result.status] += 1
        answers, usd = self.by_basis.get(result.cost.basis, (0, Decimal(0)))
        self.by_basis[result.cost.basis] = (answers + 1, usd + (result.cost.usd or 0))


@dataclass(kw_only=True)
class PassTotals:
    """The totals of a whole pass, and of each partition in it."""

    whole: Totals = field(default_factory=Totals)
    by_partition: dict[str | None, Totals] = field(default_factory=dict[str | None, Totals])

    def sent(self, partition: str | None) -> None:
        """Count a request that is sent."""
        for each in self._both(partition):
            each.requests += 1

    def add(self, partition: str | None, result: Result, *, list_price: Cost) -> None:
        """Count a result that is on record."""
        for each in self._both(partition):
            each.add(result, list_price=list_price)

    def _both(self, partition: str | None) -> tuple[Totals, Totals]:
        return self.whole, self.by_partition.setdefault(partition, Totals())


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a pass stands. `done` and `total` count distinct images; `cost` is a text."""

    done: int
    total: int
    in_flight: int
    images_per_minute: float | None
    cost: str
    seconds_left: float | None
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


def cost_text(*passes: Totals, sandbox: bool, unanswered: int = 0) -> str:
    """`$1.23, at most $1.89`, in the sandbox `$0.00 (sandbox; $1.23 at list price)`.

    With requests of which no cost is known, or that are `unanswered`, `$1.23 and 3 requests of
    unknown cost`: unknown is not 0.
    """
    if sandbox:
        price = _range_text(
            sum((each.list_price_usd for each in passes), Decimal(0)),
            sum((each.list_price_usd_max for each in passes), Decimal(0)),
        )
        return f"{usd_text(Decimal(0))} (sandbox; {price} at list price)"
    known = _range_text(
        sum((each.cost_usd for each in passes), Decimal(0)),
        sum((each.cost_usd_max for each in passes), Decimal(0)),
    )
    unpriced = unanswered + sum(each.unpriced for each in passes)
    if not unpriced:
        return known
    return f"{known} and {unpriced:,} request{'s'[: unpriced != 1]} of unknown cost"


def _range_text(usd: Decimal, most_usd: Decimal) -> str:
    """One figure, and the upper bound where it reads differently."""
    text, most = usd_text(usd), usd_text(most_usd)
    return text if most_usd <= usd or most == text else f"{text}, at most {most}"
