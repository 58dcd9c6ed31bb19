"""Servers that announce nothing: they queue, refuse or time out, on a virtual clock."""

import asyncio
import itertools
import math
import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from dagster_imagegen.engine.pacing.pacer import Pacer, PauseTooLong, Signal

Counting = Literal["fixed", "sliding", "bucket"]
TIMED_OUT = Signal(outcome="timed_out")


@dataclass(kw_only=True)
class SilentServer:
    """Makes images on so many lanes, first come, first served, and announces nothing.

    Attributes:
        lanes: How many images it makes at a time; more wait in a queue.
        mean_seconds: Of an image.
        spread: The part of it by which images differ at most.
        round_trip: From the client and back: after so long a refusal is there.
        hangs: How many requests are never answered.
        at_once: How many requests it admits; more are refused.
        a_minute: How many requests it admits a minute, by `counting`.
        at_random: The part of all requests that is refused for no reason.
        asks_to_wait: What each refusal asks for.
        absurd: The requests that are told to wait for a day, counted from 1.
        timeout: When the client gives up. The server makes the image all the same.
    """

    lanes: int = 10_000
    mean_seconds: float = 0.5
    spread: float = 0.02
    round_trip: float = 0.02
    hangs: float = 0.0
    at_once: float = math.inf
    a_minute: int | None = None
    counting: Counting = "sliding"
    at_random: float = 0.0
    asks_to_wait: float | None = None
    timeout: float = math.inf
    absurd: frozenset[int] = frozenset()
    chance: random.Random = field(default_factory=lambda: random.Random(1))
    made: list[float] = field(default_factory=list[float])
    received: int = 0
    refused: int = 0
    timed_out: int = 0
    open: int = 0
    most_open: int = 0
    _lane: asyncio.Semaphore | None = None
    _window: deque[float] = field(default_factory=deque[float])
    _tokens: float = math.inf
    _tokens_at: float = 0.0

    async def ask(self) -> Signal:
        """One request, there and back."""
        await asyncio.sleep(self.round_trip / 2)
        self.received += 1
        if self.received in self.absurd:
            return Signal(outcome="refused", wait_seconds=86_400.0)
        by_chance = self.at_random > 0 and self.chance.random() < self.at_random
        if by_chance or self.open >= self.at_once or not self._admits():
            self.refused += 1
            await asyncio.sleep(self.round_trip / 2)
            return Signal(outcome="refused", wait_seconds=self.asks_to_wait)
        making = asyncio.ensure_future(self._make())
        done, _ = await asyncio.wait(
            {making}, timeout=self.timeout if self.timeout < math.inf else None
        )
        if not done:
            self.timed_out += 1
            return TIMED_OUT
        self.made.append(asyncio.get_running_loop().time())
        await asyncio.sleep(self.round_trip / 2)
        return Signal(outcome="accepted")

    async def _make(self) -> None:
        if self._lane is None:
            self._lane = asyncio.Semaphore(self.lanes)
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        async with self._lane:
            hangs = self.chance.random() < self.hangs
            spread = self.chance.uniform(1 - self.spread, 1 + self.spread)
            await asyncio.sleep(1000.0 if hangs else self.mean_seconds * spread)
        self.open -= 1

    def _admits(self) -> bool:
        """Whether the rate limit admits one more; if so, counts it."""
        if self.a_minute is None:
            return True
        now = asyncio.get_running_loop().time()
        if self.counting == "bucket":
            earned = (now - self._tokens_at) * self.a_minute / 60
            self._tokens, self._tokens_at = min(self.a_minute, self._tokens + earned), now
            admits = self._tokens >= 1 - 1e-9
            self._tokens -= admits
            return admits
        start = now // 60 * 60 - 1e-9 if self.counting == "fixed" else now - 60
        while self._window and self._window[0] <= start:
            self._window.popleft()
        admits = len(self._window) < self.a_minute
        if admits:
            self._window.append(now)
        return admits


@dataclass(kw_only=True)
class Work:
    """What a run does: workers that take prompts, and send again what was refused."""

    server: SilentServer
    prompts: int
    workers: int = 64
    starts: float = 0.0
    until: float = math.inf
    max_pause_seconds: float = 300.0
    unknown: int = 0
    deferred: int = 0
    all_open_at: float = math.inf
    pacer: Pacer | None = None

    async def run(self) -> None:
        """Send until all is done, or it is late."""
        await asyncio.sleep(self.starts)
        clock = asyncio.get_running_loop().time
        self.pacer = Pacer(
            max_concurrency=self.workers,
            max_pause_seconds=self.max_pause_seconds,
            timeout_seconds=self.server.timeout,
            clock=clock,
        )
        todo = iter(range(self.prompts))
        await asyncio.gather(*(self._worker(todo, self.pacer) for _ in range(self.workers)))

    async def _worker(self, todo: Iterator[int], pacer: Pacer) -> None:
        for number in todo:
            chance = random.Random(number)
            for attempt in itertools.count(1):
                try:
                    slot = await pacer.acquire()
                except PauseTooLong:
                    self.deferred += 1
                    break
                if slot.open_then == self.workers:
                    self.all_open_at = min(self.all_open_at, slot.sent_at)
                if asyncio.get_running_loop().time() >= self.until:
                    pacer.release(slot, Signal(outcome="unclear"))
                    return
                signal = await self.server.ask()
                pacer.release(slot, signal)
                if signal.outcome == "accepted":
                    break
                if signal.outcome == "timed_out":
                    self.unknown += 1
                    break
                if (signal.wait_seconds or 0) > self.max_pause_seconds:
                    self.deferred += 1
                    break
                wait = signal.wait_seconds or chance.uniform(0, min(60, 0.5 * 2**attempt))
                await asyncio.sleep(wait)
