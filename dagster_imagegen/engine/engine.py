"""`Engine`: prompt tables in, images and usage rows out. The only place that wires the parts."""

import asyncio
import hashlib
import random
import secrets
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
import pyarrow as pa
import pyarrow.compute as pc
from typing_extensions import Self

from dagster_imagegen.engine.attempt import SANDBOX, Identity, Outcome
from dagster_imagegen.engine.endpoint.client import ImageClient
from dagster_imagegen.engine.endpoint.models import ListedModel
from dagster_imagegen.engine.errors import PromptTableError
from dagster_imagegen.engine.image_table import image_table
from dagster_imagegen.engine.images import Images
from dagster_imagegen.engine.machine import Share, Threads, take_share
from dagster_imagegen.engine.money.budget import Budget, budgets_of
from dagster_imagegen.engine.money.price_list import PriceList
from dagster_imagegen.engine.pacing.pacer import Pacer
from dagster_imagegen.engine.prompts.table import PromptTable, read_prompts
from dagster_imagegen.engine.record import Record, RecordWriter, read_record
from dagster_imagegen.engine.record.parts import PARTS_FOLDER, read_rows
from dagster_imagegen.engine.request import PARAMETERS, ImageParams
from dagster_imagegen.engine.run.breaker import Breaker
from dagster_imagegen.engine.run.context import PassContext, Stop
from dagster_imagegen.engine.run.plan import Plan, make_plan, plan_as_writer
from dagster_imagegen.engine.run.spending import remaining_usd
from dagster_imagegen.engine.run.thread import Generation
from dagster_imagegen.engine.run.verdict import Redo
from dagster_imagegen.engine.run.workers import Pass
from dagster_imagegen.engine.settings import Settings
from dagster_imagegen.engine.storage import Storage

T = TypeVar("T")

REFERENCE_HOST = "inference.do-ai.run"
"""DigitalOcean's, whose reference streams only with partial images."""


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
        self._rng = rng or random.Random()  # noqa: S311  # spreads retries; not a secret
        self._prices = PriceList.default().with_overrides(settings.prices)
        patience = replace(settings.limits.patience, seconds=settings.patience_seconds)
        self._limits = limits = replace(settings.limits, patience=patience)
        self._storage = Storage(
            settings.storage_uri, settings.storage_options, deadline_seconds=limits.call_seconds
        )
        # With threads and connections of its own, also in the same place: a heartbeat must not
        # wait for uploads.
        self._usage = Storage(
            settings.usage_uri or settings.storage_uri,
            settings.storage_options,
            deadline_seconds=limits.record_call_seconds,
            apart=True,
        )
        # One folder for each storage: what is spilled from one must not be restored to another.
        place = f"{settings.storage_options.get('endpoint_url', '')} {self._storage.uri('')}"
        digest = hashlib.sha256(place.encode()).hexdigest()[:16]
        self._spill = Storage(str(Path(settings.spill_folder) / digest))
        self._images = Images(
            self._storage,
            spill=self._spill,
            prices=self._prices,
            now=self._now,
            patience=patience,
        )

    def close(self) -> None:
        """Nothing is held open but idle threads, which end with the engine."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
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

        Without `record_prompts` the error shows no values but those of parameters that cannot
        repeat the prompt.
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
            shown = {name for name in overrides if not PARAMETERS[name].repeats_prompt}
            raise error.without_values(except_of=shown) from None

    def plan(
        self, prompts: PromptTable, *, identity: Identity, redo: Collection[Redo] = ()
    ) -> Plan:
        """What `generate` would do, given all that is on record. Sends and writes nothing."""
        plan_of = self._planner(prompts, identity, redo)

        async def plan() -> Plan:
            return await plan_of(await read_record(self._usage))

        return _run_apart(plan)

    def generate(
        self,
        prompts: PromptTable,
        *,
        identity: Identity,
        redo: Collection[Redo] = (),
        max_usd: Decimal | None = None,
    ) -> Generation:
        """Begin a pass: what is on record is not requested again, the rest is sent and recorded.

        `max_usd` tightens the budget for this run.
        """
        budgets = budgets_of(self.settings.budget, max_usd=max_usd)

        async def run(generation: Generation) -> None:
            share = take_share(
                self.settings.max_concurrency,
                # The sandbox is in this process, which has both ends of each connection.
                files_per_request=2 if self.settings.endpoint_id == SANDBOX else 1,
            )
            generation.warning = share.warning
            context = self._context(budgets, identity, generation, share)
            try:
                await self._images.restore_spilled()
                plan = await plan_as_writer(
                    context.record,
                    self._usage,
                    self._planner(prompts, identity, redo),
                    priced=bool(budgets),
                )
                work = Pass(context, report=generation.report)
                generation.begin(work, plan)
                # Twice as many as may be in flight: saving and waiting hold no slot.
                await work.run(plan, workers=2 * share.max_concurrency)
            finally:
                await context.endpoint.aclose()

        return Generation(run)

    def _context(
        self,
        budgets: Sequence[Budget],
        identity: Identity,
        generation: Generation,
        share: Share,
    ) -> PassContext:
        settings = self.settings
        stop = Stop()
        pacer = Pacer(
            max_concurrency=share.max_concurrency,
            requests_per_minute=settings.requests_per_minute,
            max_pause_seconds=settings.retry.max_wait_seconds,
            clock=asyncio.get_running_loop().time,
            sleep=asyncio.sleep,
        )
        return PassContext(
            record=RecordWriter(
                store=self._usage,
                images=self._images,
                identity=identity,
                now=self._now,
                token=lambda: secrets.token_hex(4),
                limits=self._limits,
            ),
            images=self._images,
            endpoint=self._client(),
            pacer=pacer,
            breaker=Breaker(
                patience_seconds=settings.patience_seconds,
                in_flight=lambda: pacer.in_flight,
                end=stop.fail,
                rng=self._rng,
                with_messages=settings.record_prompts,
            ),
            prices=self._prices,
            identity=identity,
            retry=settings.retry,
            record_prompts=settings.record_prompts,
            sandbox=settings.endpoint_id == SANDBOX,
            drain_seconds=settings.drain_seconds,
            now=self._now,
            rng=self._rng,
            totals=generation.totals,
            stop=stop,
            remaining=(
                lambda record: remaining_usd(
                    budgets, record, identity, storage=self._usage, now=self._now()
                )
            )
            if budgets
            else None,
            defers=bool(budgets) and budgets[0].when_exhausted == "defer",
            strict=any(budget.strict for budget in budgets),
        )

    def _client(self) -> ImageClient:
        settings = self.settings
        return ImageClient(
            base_url=settings.base_url,
            api_key=settings.api_key,
            timeout_seconds=settings.timeout_seconds,
            extra_headers=settings.extra_headers,
            transport=self._transport,
        )

    def _planner(
        self, prompts: PromptTable, identity: Identity, redo: Collection[Redo]
    ) -> Callable[[Record], Coroutine[Any, Any, Plan]]:
        return partial(
            make_plan,
            prompts,
            storage=self._usage,
            images=self._images,
            prices=self._prices,
            today=self._now().date(),
            root_run_id=identity.root_run_id,
            redo=redo,
            resend_unknown=self.settings.retry.resend_unknown,
            had_query=bool(urlsplit(self.settings.base_url).query),
        )

    # -- what is there -------------------------------------------------------------------------

    @property
    def storage_uri(self) -> str:
        """The root of the storage, absolute."""
        return self._storage.uri("")

    @property
    def usage_uri(self) -> str:
        """The folder of the usage table's parts, absolute."""
        return self._usage.uri(PARTS_FOLDER)

    def image_uri(self, path: str) -> str:
        """The absolute address of an image whose path is relative to the storage."""
        return self._storage.uri(path)

    def read_image(self, path: str) -> bytes:
        """The stored bytes. Raises `FileNotFoundError`."""
        return self._storage.get_now(path)

    def image_table(self, plan: Plan, outcomes: Mapping[str, Outcome]) -> pa.Table:
        """The image table: one row for each prompt row and variant."""
        return image_table(plan, outcomes, uri=self.image_uri)

    def models(self) -> tuple[ListedModel, ...]:
        """The endpoint's list of models. Raises `EndpointError` if it answers none."""

        async def models() -> tuple[ListedModel, ...]:
            async with self._client() as client:
                return await client.models()

        return _run_apart(models)

    def usage(self, *, asset_key: str | None = None) -> pa.Table:
        """Every row on record, published or not yet; with `asset_key` of that asset only."""
        record = _run_apart(lambda: read_record(self._usage))
        settled = [each for each in record.open_attempts if each.result is not None]
        rows = read_rows(record.parts, settled, storage=self._usage)
        return rows if asset_key is None else rows.filter(pc.field("asset_key") == asset_key)


def _run_apart(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine to its end on a thread of its own: the caller may be inside a loop."""
    with Threads(1, name="imagegen-apart") as pool:
        return pool.submit(lambda: asyncio.run(work())).result()
