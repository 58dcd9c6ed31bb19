"""Reservations: what a pass may spend is on record, so that overlapping passes stay in a budget."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from decimal import Decimal

from dagster_imagegen.engine.record.limits import Limits
from dagster_imagegen.engine.record.reader import Record, read_record
from dagster_imagegen.engine.storage import ObjectStore


class Reservations:
    """What this pass has reserved, and what its settled attempts took of that.

    Args:
        store: where the record is.
        journal_ids: every journal that this writer opened, oldest first; the writer adds to it.
        commit: puts `usd_for` of the newest journal on record, and refreshes what is known.
    """

    def __init__(
        self,
        store: ObjectStore,
        *,
        journal_ids: Sequence[str],
        commit: Callable[[], Awaitable[None]],
        limits: Limits,
    ) -> None:
        self._store = store
        self._journal_ids = journal_ids
        self._commit = commit
        self._limits = limits
        self._allowed_usd = Decimal(0)
        self._settled_usd: dict[str, Decimal] = {}

    def settled(self, journal_id: str, usd: Decimal) -> None:
        """Note what a settled attempt of a journal counts against the budget."""
        self._settled_usd[journal_id] = self._settled_usd.get(journal_id, Decimal(0)) + usd

    def usd_for(self, journal_id: str) -> Decimal:
        """What the newest journal may spend: all that the pass may, less what older ones settled.

        Unsettled attempts of older journals are not subtracted, because they may settle for less.
        """
        older = sum((v for k, v in self._settled_usd.items() if k != journal_id), Decimal(0))
        return max(self._allowed_usd - older, Decimal(0))

    async def reserve(
        self, want_usd: Decimal, *, remaining: Callable[[Record], Decimal]
    ) -> Decimal:
        """Put on record what this pass may spend in all, and return how much of it is granted.

        `remaining` computes what others' record leaves of the budget. As with intents, of two
        writers the second one to reserve sees the first; the younger gives way at once, the older
        waits a little for it. What was granted once stays granted.
        """
        clock = asyncio.get_running_loop().time
        granted = self._allowed_usd
        patience_ends = clock() + self._limits.rival_grace
        target = want_usd
        while target > granted:
            self._allowed_usd = target
            await self._commit()
            others = await read_record(self._store, without=self._journal_ids)
            free = await asyncio.to_thread(remaining, others)
            if target <= free:
                return target
            older = [r for r in others.reservations if r.journal_id < self._journal_ids[0]]
            unrivalled = await asyncio.to_thread(
                remaining, replace(others, reservations=tuple(older))
            )
            if target <= unrivalled and clock() < patience_ends:
                await asyncio.sleep(self._limits.poll / 4)
            else:
                target = free
        self._allowed_usd = granted
        await self._commit()
        return granted
