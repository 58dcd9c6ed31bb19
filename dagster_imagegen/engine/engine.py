"""`Engine`: prompt tables in, images and usage rows out."""

import random
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from datetime import datetime, timezone
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pyarrow as pa
from typing_extensions import Self

from dagster_imagegen.engine.apart import run_apart
from dagster_imagegen.engine.attempt import Identity
from dagster_imagegen.engine.endpoint.response import OnPartial
from dagster_imagegen.engine.errors import PromptTableError
from dagster_imagegen.engine.image_table import image_table
from dagster_imagegen.engine.money.budget import budgets_of
from dagster_imagegen.engine.prompts.rows import PromptTable
from dagster_imagegen.engine.prompts.table import read_prompts
from dagster_imagegen.engine.publishing.names import Names, Partition, Publication, names_of
from dagster_imagegen.engine.publishing.publisher import Published
from dagster_imagegen.engine.record import Record, read_record
from dagster_imagegen.engine.record.parts import PARTS_FOLDER
from dagster_imagegen.engine.request import PARAMETERS, ImageParams
from dagster_imagegen.engine.run.outcomes import Outcomes
from dagster_imagegen.engine.run.plan import Plan, make_plan
from dagster_imagegen.engine.run.progress import PassTotals, Totals
from dagster_imagegen.engine.run.recorded import run_totals
from dagster_imagegen.engine.run.thread import Generation
from dagster_imagegen.engine.run.verdict import Redo
from dagster_imagegen.engine.session import Block, Session
from dagster_imagegen.engine.settings import Settings
from dagster_imagegen.engine.storage import Storage
from dagster_imagegen.engine.upkeep import Upkeep
from dagster_imagegen.engine.usage_table import UsageTable
from dagster_imagegen.engine.wiring import Wiring

if TYPE_CHECKING:  # Loading it takes long.
    import httpx

    from dagster_imagegen.engine.endpoint.models import ListedModel

REFERENCE_HOST = "inference.do-ai.run"
"""DigitalOcean's, whose reference streams only with partial images."""


class Engine:
    """Prompt tables in, images and usage rows out, with these settings.

    Raises `ConfigurationError` at once for settings that cannot work. `now`, `transport` and
    `rng` are seams for tests.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
        transport: "httpx.AsyncBaseTransport | None" = None,
        rng: random.Random | None = None,
    ) -> None:
        self.settings = settings
        self._wiring = Wiring(settings, now=now, transport=transport, rng=rng)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        """Nothing is held open but idle threads, which end with the engine."""

    # -- a pass --------------------------------------------------------------------------------

    def read_prompts(
        self,
        source: object,
        *,
        params: ImageParams,
        template: str | None = None,
        overrides: Sequence[str] = (),
        carry_prefix: str | None = None,
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
                carry_prefix=carry_prefix,
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
            without_values = error.without_values(except_of=shown)
        # Outside of the block: the first error, which holds the values, must not come along.
        raise without_values

    def plan(
        self, prompts: PromptTable, *, identity: Identity, redo: Collection[Redo] = ()
    ) -> Plan:
        """What `generate` would do, given all that is on record. Sends and writes nothing."""
        plan_of = self._planner(prompts, identity, redo)

        async def plan() -> Plan:
            return await plan_of(await read_record(self._wiring.usage))

        return run_apart(plan)

    def review(
        self, prompts: PromptTable, *, identity: Identity, redo: Collection[Redo] = ()
    ) -> tuple[Plan, Totals]:
        """`plan` when a run has done its work, and all that the run has caused.

        The totals are of all passes of the run and its retries for the asset and the partition of
        `identity`. Sends and writes nothing.
        """
        plan_of = self._planner(prompts, identity, redo)

        async def review() -> tuple[Plan, Totals]:
            record = await read_record(self._wiring.usage)
            totals = run_totals(
                record, identity, storage=self._wiring.usage, prices=self._wiring.prices
            )
            return await plan_of(record), totals

        return run_apart(review)

    def generate(
        self,
        prompts: PromptTable,
        *,
        identity: Identity,
        redo: Collection[Redo] = (),
        max_usd: Decimal | None = None,
        on_partial: OnPartial | None = None,
    ) -> Generation:
        """Begin a pass: what is on record is not requested again, the rest is sent and recorded.

        `max_usd` tightens the budget for this run. `on_partial` gets the index and the bytes of
        each partial image, on the thread that iterates over the pass.
        """
        plan_of = self._planner(prompts, identity, redo)

        async def run(generation: Generation) -> None:
            totals = generation.pass_totals
            async with self._session(identity, totals=totals, max_usd=max_usd) as session:
                await session.run(generation, plan_of, last=True)

        return Generation(run, on_partial=on_partial)

    def block(self, identity: Identity) -> Block:
        """Passes on behalf of `identity` that share one writer, for a `with` block."""
        session = self._session(identity, totals=PassTotals())
        return Block(session, planner=lambda prompts: self._planner(prompts, identity, ()))

    def _session(
        self, identity: Identity, *, totals: PassTotals, max_usd: Decimal | None = None
    ) -> Session:
        budgets = budgets_of(self.settings.budget, max_usd=max_usd)
        return Session(self._wiring, self.settings, identity, budgets=budgets, totals=totals)

    def _planner(
        self, prompts: PromptTable, identity: Identity, redo: Collection[Redo]
    ) -> Callable[[Record], Coroutine[Any, Any, Plan]]:
        settings, wiring = self.settings, self._wiring
        return partial(
            make_plan,
            prompts,
            storage=wiring.usage,
            images=wiring.images,
            prices=wiring.prices,
            today=wiring.now().date(),
            root_run_id=identity.root_run_id,
            redo=redo,
            resend_unknown=settings.retry.resend_unknown,
            had_query=bool(urlsplit(settings.base_url).query),
        )

    # -- published images ----------------------------------------------------------------------

    def claim_names(
        self,
        publication: Publication,
        tables: Mapping[Partition, PromptTable],
        *,
        asset: str,
        keep: bool = True,
    ) -> Names:
        """The names that the images of an asset's prompt tables are published under.

        With `keep` they are claimed, so that no other asset takes one. Raises
        `ConfigurationError` for names that cannot be; without `record_prompts` it shows none.
        """
        publisher = self._wiring.publisher(publication, asset=asset)
        try:
            names = {key: names_of(publication, each, key) for key, each in tables.items()}
            run_apart(lambda: publisher.claims.claim(names, keep=keep))
        except PromptTableError as error:
            if self.settings.record_prompts:
                raise
            without_values = error.without_values(except_of=())
        else:
            return names
        raise without_values

    def publish(
        self,
        publication: Publication,
        names: Names,
        images: Mapping[Partition, pa.Table],
        *,
        asset: str,
    ) -> dict[Partition, Published]:
        """Publish the images of image tables under the names that were claimed for them.

        Raises `StorageError`. An interruption stops it at once, and the next call goes on.
        """
        publisher = self._wiring.publisher(publication, asset=asset)
        return run_apart(lambda: publisher.publish(names, images))

    @property
    def upkeep(self) -> Upkeep:
        """Verification, repair and adoption of what is stored."""
        return Upkeep(self._wiring, self.settings)

    def read_published(self, address: str) -> bytes:
        """The bytes of a published copy. Raises `FileNotFoundError`."""
        folder, _, name = address.rpartition("/")
        return self._wiring.target(folder).get_now(name)

    # -- what is there -------------------------------------------------------------------------

    @property
    def storage_uri(self) -> str:
        """The root of the storage, absolute."""
        return self._wiring.storage.uri("")

    @property
    def usage_uri(self) -> str:
        """The folder of the usage table's parts, absolute."""
        return self._wiring.usage.uri(PARTS_FOLDER)

    @property
    def usage(self) -> UsageTable:
        """The rows of the usage table."""
        return UsageTable(self._wiring.usage)

    @property
    def image_storage(self) -> Storage:
        """The storage of the images, for what belongs beside them."""
        return self._wiring.storage

    @property
    def usage_storage(self) -> Storage:
        """The storage of the usage table, for what belongs beside it."""
        return self._wiring.usage

    def image_uri(self, path: str) -> str:
        """The absolute address of an image whose path is relative to the storage."""
        return self._wiring.storage.uri(path)

    def read_image(self, path: str) -> bytes:
        """The stored bytes. Raises `FileNotFoundError`."""
        return self._wiring.storage.get_now(path)

    def image_table(
        self, plan: Plan, outcomes: Outcomes, *, prompts: PromptTable | None = None
    ) -> pa.Table:
        """The image table: one row for each prompt row and variant.

        Of a plan that is joined of several partitions, `prompts` is the table of one.
        """
        return image_table(prompts or plan.prompts, outcomes, uri=self.image_uri)

    def models(self) -> "tuple[ListedModel, ...]":
        """The endpoint's list of models. Raises `EndpointError` if it answers none."""

        async def models() -> "tuple[ListedModel, ...]":
            async with self._wiring.client() as client:
                return await client.models()

        return run_apart(models)
