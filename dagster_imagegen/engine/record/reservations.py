"""Reservations: what a pass may spend is on record, so that overlapping passes stay in a budget."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from decimal import Decimal

from dagster_imagegen.engine.record.limits import Limits
from dagster_imagegen.engine.record.reader import Record, RecordReader


class Reservations:
    """What this pass may spend, as it is on record.

    Args:
        reader: reads what others have on record.
        journal_ids: every journal that this writer opened, oldest first; the writer adds to it.
        commit: puts what the pass may spend on record, and refreshes what is known.
    """

    def __init__(
        self,
        reader: RecordReader,
        *,
        journal_ids: Sequence[str],
        commit: Callable[[Decimal], Awaitable[None]],
        limits: Limits,
    ) -> None:
        self._reader = reader
        self._journal_ids = journal_ids
        self._commit = commit
        self._limits = limits
        self._granted_usd = Decimal(0)

    async def reserve(
        self, want_usd: Decimal, *, remaining: Callable[[Record], Decimal]
    ) -> Decimal:
        """Put on record what this pass may spend in all, and return how much of it is granted.

        `remaining` computes what others' record leaves of the budget. As with intents, of two
        writers the second one to reserve sees the first; the younger gives way at once, the older
        waits a little for it. Their first journals tell which is older, so that of two passes that
        have rolled one gives way, and only one. What was granted once stays granted.
        """
        clock = asyncio.get_running_loop().time
        granted = self._granted_usd
        patience_ends = clock() + self._limits.rival_grace
        target = want_usd
        while target > granted:
            await self._commit(target)
            others = await self._reader.read(without=self._journal_ids)
            free = await asyncio.to_thread(remaining, others)
            if target <= free:
                self._granted_usd = target
                return target
            first = self._journal_ids[0]
            older = [r for r in others.reservations if r.first_journal_id < first]
            unrivalled = await asyncio.to_thread(
                remaining, replace(others, reservations=tuple(older))
            )
            if free < unrivalled and clock() < patience_ends:
                # Younger ones hold some of it, and will give way: less than all may be ours, too.
                target = min(target, unrivalled)
                await asyncio.sleep(self._limits.poll / 4)
            else:
                target = free
        await self._commit(granted)
        return granted

    async def release(self, usd: Decimal) -> None:
        """Keep no more than `usd` in all: others may spend what is granted beyond it.

        Only while nothing is in flight: what is spent must not be more.
        """
        if usd < self._granted_usd:
            self._granted_usd = usd
            await self._commit(usd)
