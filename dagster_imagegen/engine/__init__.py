"""The engine: everything but Dagster. `Engine` wires the parts, and is the only place that does."""

import asyncio
import hashlib
import os
import random
import secrets
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
import pyarrow as pa
import pyarrow.compute as pc
from typing_extensions import Self

from dagster_imagegen.engine.budget import Budget
from dagster_imagegen.engine.endpoint.client import ImageClient
from dagster_imagegen.engine.endpoint.retries import RetryPolicy
from dagster_imagegen.engine.errors import PromptTableError
from dagster_imagegen.engine.generation import Generation, Parts, Pass
from dagster_imagegen.engine.images import Images
from dagster_imagegen.engine.journal import Identity
from dagster_imagegen.engine.ledger import Books, Ledger, Limits, read_books
from dagster_imagegen.engine.manifest import image_table
from dagster_imagegen.engine.money.price_list import ModelPrice, PriceList
from dagster_imagegen.engine.pacing.pacer import Pacer
from dagster_imagegen.engine.planning import Outcome, Plan, Redo, check_prices, make_plan
from dagster_imagegen.engine.prompts.table import PromptTable, read_prompts
from dagster_imagegen.engine.request import ImageParams
from dagster_imagegen.engine.rows import SANDBOX
from dagster_imagegen.engine.storage import Storage
from dagster_imagegen.engine.usage import PARTS_FOLDER, open_parts, part_path, to_table

T = TypeVar("T")

REFERENCE_HOST = "inference.do-ai.run"
"""DigitalOcean's, whose reference streams only with partial images."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Where to ask, where to write, and how fast. `ImageGenResource` describes each."""

    base_url: str
    endpoint_id: str
    model: str
    storage_uri: str
    api_key: str | None = field(default=None, repr=False)
    storage_options: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)
    usage_uri: str | None = None
    timeout_seconds: float = 600.0
    max_concurrency: int = 64
    requests_per_minute: float | None = None
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    prices: Mapping[str, ModelPrice | Mapping[str, object]] = field(
        default_factory=dict[str, "ModelPrice | Mapping[str, object]"]
    )
    extra_headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    extra_body: Mapping[str, Any] = field(default_factory=dict[str, Any])
    record_prompts: bool = True
    budget: Budget | None = None
    drain_seconds: float = 60.0
    aside_folder: str = field(default_factory=lambda: str(_aside_folder()))
    limits: Limits = field(default_factory=Limits)


class Engine:
    """Prompt tables in, images and usage rows out, with these settings.

    Raises `ConfigurationError` at once for settings that cannot work. `transport`, `now` and
    `rng` are seams for tests.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
        rng: random.Random | None = None,
    ) -> None:
        self.settings = settings
        self._transport = transport
        self._now = now
        self._rng = rng or random.Random()  # noqa: S311  # spreads retries; no secret
        self._prices = PriceList.default().with_overrides(settings.prices)
        self._storage = Storage(settings.storage_uri, settings.storage_options)
        # With threads of its own, also in the same place: a heartbeat must not wait for uploads.
        self._usage = Storage(settings.usage_uri or settings.storage_uri, settings.storage_options)
        # One folder a storage: what waits for one must not come to another.
        place = f"{settings.storage_options.get('endpoint_url', '')} {self._storage.uri('')}"
        digest = hashlib.sha256(place.encode()).hexdigest()[:16]
        self._aside = Storage(str(Path(settings.aside_folder) / digest))
        self._images = Images(
            self._storage,
            aside=self._aside,
            prices=self._prices,
            now=self._now,
            limits=settings.limits,
        )

    def close(self) -> None:
        """Let go of threads; whatever was reported is durable long before."""
        self._storage.close()
        self._usage.close()
        self._aside.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # -- a pass --------------------------------------------------------------------------------

    def read_prompts(
        self,
        source: object,
        *,
        params: ImageParams,
        template: str | None = None,
        overrides: Sequence[str] = (),
    ) -> PromptTable:
        """The requests of a prompt table. Raises `PromptTableError` naming every bad row.

        Without `record_prompts` it does not tell what stands there, but for the overrides of the
        reference's own parameters: `extra_body` can hold another prompt.
        """
        settings = self.settings
        try:
            return read_prompts(
                source,
                template=template,
                overrides=overrides,
                params=params,
                endpoint_id=settings.endpoint_id,
                model=settings.model,
                extra_body=settings.extra_body,
                streaming_needs_partials=urlsplit(settings.base_url).hostname == REFERENCE_HOST,
            )
        except PromptTableError as error:
            if settings.record_prompts:
                raise
            raise error.without_values(except_of={*overrides} - {"extra_body"}) from None

    def plan(
        self, prompts: PromptTable, *, identity: Identity, redo: Collection[Redo] = ()
    ) -> Plan:
        """What `generate` would do, given all that is on record. Sends and writes nothing."""

        async def plan() -> Plan:
            books = await read_books(self._usage)
            return await self._plan(prompts, books, identity=identity, redo=redo)

        return _run_apart(plan)

    def generate(
        self,
        prompts: PromptTable,
        *,
        identity: Identity,
        redo: Collection[Redo] = (),
        max_usd: Decimal | None = None,
    ) -> Generation:
        """Begin a pass: what is on record is not asked for again, the rest is sent and recorded.

        `max_usd` tightens the budget for this run.
        """
        budgets = self._budgets(max_usd)

        async def run(generation: Generation) -> None:
            endpoint = ImageClient(
                base_url=self.settings.base_url,
                api_key=self.settings.api_key,
                timeout_seconds=self.settings.timeout_seconds,
                extra_headers=self.settings.extra_headers,
                transport=self._transport,
            )
            ledger = Ledger(
                store=self._usage,
                shelf=self._images,
                identity=identity,
                now=self._now,
                token=lambda: secrets.token_hex(4),
                limits=self.settings.limits,
            )
            try:
                await self._images.bring_back()
                plan = await self._plan_as_writer(
                    ledger, prompts, identity=identity, redo=redo, priced=bool(budgets)
                )
                work = self._pass(ledger, endpoint, budgets, identity, generation)
                generation.begin(work, plan)
                # Twice as many as may be in flight: saving and waiting hold no slot.
                await work.run(plan, workers=2 * self.settings.max_concurrency)
            finally:
                generation.journal_ids.extend(ledger.journal_ids)
                await endpoint.aclose()

        return Generation(run)

    def _pass(
        self,
        ledger: Ledger,
        endpoint: ImageClient,
        budgets: Sequence[Budget],
        identity: Identity,
        generation: Generation,
    ) -> Pass:
        settings = self.settings
        return Pass(
            Parts(
                ledger=ledger,
                images=self._images,
                endpoint=endpoint,
                pacer=Pacer(
                    max_concurrency=settings.max_concurrency,
                    requests_per_minute=settings.requests_per_minute,
                    max_pause_seconds=settings.retry.max_wait_seconds,
                    clock=asyncio.get_running_loop().time,
                    sleep=asyncio.sleep,
                ),
                prices=self._prices,
                room=self._room(budgets, identity) if budgets else None,
                defers=bool(budgets) and budgets[0].when_exhausted == "defer",
            ),
            identity=identity,
            retry=settings.retry,
            record_prompts=settings.record_prompts,
            sandbox=settings.endpoint_id == SANDBOX,
            drain_seconds=settings.drain_seconds,
            now=self._now,
            rng=self._rng,
            report=generation.report,
            totals=generation.totals,
        )

    async def _plan_as_writer(
        self,
        ledger: Ledger,
        prompts: PromptTable,
        *,
        identity: Identity,
        redo: Collection[Redo],
        priced: bool,
    ) -> Plan:
        """The plan, once dead writers are closed; `priced`: all that is sent has to have a price.

        On object stores only a writer can tell who is dead, so where somebody left an attempt open
        this one opens first and then plans again. Otherwise what was in flight when a run died
        would be asked for again by that run's own retry. With nothing to send it opens where
        anything is left, to publish what the dead had on record.
        """
        books = await ledger.start()
        plan = await self._plan(prompts, books, identity=identity, redo=redo)
        if priced:
            check_prices(plan, self._prices)
        if plan.to_send:
            left = any(row.get("status") is None for row in books.open_rows)
        else:
            left = bool(books.journals)
        if not left:
            return plan
        try:
            await ledger.open()
            books = await read_books(self._usage, without=ledger.journal_ids)
            return await self._plan(prompts, books, identity=identity, redo=redo)
        except BaseException:
            await ledger.close()
            raise

    def _budgets(self, max_usd: Decimal | None) -> tuple[Budget, ...]:
        budget = self.settings.budget
        given = () if budget is None else (budget,)
        if max_usd is None:
            return given
        this_run = Budget(max_usd=max_usd, per="run", scope="asset")
        return (*given, replace(budget or this_run, max_usd=max_usd, per="run", scope="asset"))

    def _room(self, budgets: Sequence[Budget], identity: Identity) -> Callable[[Books], Decimal]:
        def room(books: Books) -> Decimal:
            now = self._now()
            return min(
                budget.max_usd - budget.spent(books, identity, storage=self._usage, now=now)
                for budget in budgets
            )

        return room

    async def _plan(
        self,
        prompts: PromptTable,
        books: Books,
        *,
        identity: Identity,
        redo: Collection[Redo],
    ) -> Plan:
        return await make_plan(
            prompts,
            books,
            storage=self._usage,
            images=self._images,
            prices=self._prices,
            root_run_id=identity.root_run_id,
            redo=redo,
            resend_unknown=self.settings.retry.resend_unknown,
        )

    # -- what is there -------------------------------------------------------------------------

    @property
    def storage_uri(self) -> str:
        return self._storage.uri("")

    @property
    def usage_uri(self) -> str:
        """The folder of the usage table's parts."""
        return self._usage.uri(PARTS_FOLDER)

    def image_uri(self, path: str) -> str:
        """The absolute address of an image whose path is below the storage."""
        return self._storage.uri(path)

    def read_image(self, path: str) -> bytes:
        """The stored bytes. Raises `FileNotFoundError`."""
        return self._storage.get_now(path)

    def image_table(self, plan: Plan, outcomes: Mapping[str, Outcome]) -> pa.Table:
        """The carried columns, then ours: one row for each prompt row and variant."""
        return image_table(plan, outcomes, uri=self.image_uri)

    def usage_of(self, journal_ids: Sequence[str]) -> pa.Table:
        """The rows of these journals: what one pass caused."""
        there = self._usage.list_now(PARTS_FOLDER)
        return self._read_parts([path for jid in journal_ids if (path := part_path(jid)) in there])

    def usage(self, *, asset_key: str | None = None) -> pa.Table:
        """Every row on record, published or not yet; of one asset if told."""
        books = _run_apart(lambda: read_books(self._usage))
        open_rows = [row for row in books.open_rows if row.get("status") is not None]
        rows = pa.concat_tables([self._read_parts(books.parts), to_table(open_rows)])
        return rows if asset_key is None else rows.filter(pc.field("asset_key") == asset_key)

    def latest_usage(self, *, asset_key: str, partition_key: str | None) -> pa.Table:
        """The rows of the newest run that sent anything for this asset (and partition)."""
        rows = self.usage(asset_key=asset_key)
        if partition_key is not None:
            rows = rows.filter(pc.field("partition_key") == partition_key)
        if not rows.num_rows:
            return rows
        newest = rows.sort_by([("started_at", "descending")])["run_id"][0]
        return rows.filter(pc.field("run_id") == newest)

    def _read_parts(self, paths: Sequence[str]) -> pa.Table:
        if not paths:
            return to_table([])
        full = [self._usage.full_path(path) for path in paths]
        return open_parts(full, filesystem=self._usage.filesystem).to_table()


def _aside_folder() -> Path:
    """Below the user's state folder (XDG Base Directory Specification)."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "dagster-imagegen" / "unsaved"


def _run_apart(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine to its end on a thread of its own: the caller may be inside a loop."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(work())).result()
