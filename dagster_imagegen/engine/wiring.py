"""What the engine is made of: the only place that wires the parts."""

import asyncio
import hashlib
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from dagster_imagegen.engine.attempt import SANDBOX, Identity
from dagster_imagegen.engine.filesystems import same_kind
from dagster_imagegen.engine.images import Images
from dagster_imagegen.engine.machine import Share
from dagster_imagegen.engine.money.budget import Budget
from dagster_imagegen.engine.money.price_list import PriceList
from dagster_imagegen.engine.pacing.pacer import Pacer
from dagster_imagegen.engine.pacing.process import OF_THIS_PROCESS
from dagster_imagegen.engine.patience import PatientStore
from dagster_imagegen.engine.publishing.copies import PublishedCopies
from dagster_imagegen.engine.publishing.manifests import Manifests
from dagster_imagegen.engine.publishing.names import Publication
from dagster_imagegen.engine.publishing.publisher import Publisher
from dagster_imagegen.engine.record import Record, RecordWriter
from dagster_imagegen.engine.run.breaker import Breaker
from dagster_imagegen.engine.run.context import PassContext, Stop
from dagster_imagegen.engine.run.gate import Gate
from dagster_imagegen.engine.run.progress import PassTotals
from dagster_imagegen.engine.run.spending import Spending
from dagster_imagegen.engine.settings import Settings
from dagster_imagegen.engine.storage import Storage

if TYPE_CHECKING:  # Loading it takes long.
    import httpx

    from dagster_imagegen.engine.endpoint.client import ImageClient


class Watch(TypedDict):
    """The parts of a context that watch over one pass."""

    stop: Stop
    gate: Gate
    breaker: Breaker


class Wiring:
    """The parts that all passes with these settings share, and the parts of each pass.

    Raises `ConfigurationError` for settings that cannot work.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        now: Callable[[], datetime],
        transport: "httpx.AsyncBaseTransport | None" = None,
        rng: random.Random | None = None,
    ) -> None:
        self._settings = settings
        self._transport = transport
        self._rng = rng or random.Random()  # noqa: S311  # spreads retries; not a secret
        self.now = now
        self.prices = PriceList.default().with_overrides(settings.prices)
        patience = replace(settings.limits.patience, seconds=settings.patience_seconds)
        self._patience = patience
        self._limits = limits = replace(settings.limits, patience=patience)
        self.storage = Storage(
            settings.storage_uri, settings.storage_options, deadline_seconds=limits.call_seconds
        )
        # With threads and connections of its own, also in the same place: a heartbeat must not
        # wait for uploads.
        self.usage = Storage(
            settings.usage_uri or settings.storage_uri,
            settings.storage_options,
            deadline_seconds=limits.record_call_seconds,
            apart=True,
        )
        # One folder for each storage: what is spilled from one must not be restored to another.
        place = f"{settings.storage_options.get('endpoint_url', '')} {self.storage.uri('')}"
        digest = hashlib.sha256(place.encode()).hexdigest()[:16]
        self.images = Images(
            self.storage,
            spill=Storage(str(Path(settings.spill_folder) / digest)),
            prices=self.prices,
            now=now,
            patience=patience,
        )

    def publisher(self, publication: Publication, *, asset: str) -> Publisher:
        """What publishes the images of an asset."""
        return Publisher(
            publication,
            asset=asset,
            target=self.target(publication.folder),
            images=self.storage,
            records=self.usage,
            patience=self._patience,
        )

    def published_copies(
        self, read_image: Callable[[str], Awaitable[bytes | None]]
    ) -> PublishedCopies:
        """The published copies of all assets. `read_image` gives the image with a sha256."""
        return PublishedCopies(
            Manifests(PatientStore(self.usage, self._patience), asset=""),
            target=self.target,
            read_image=read_image,
        )

    def target(self, folder: str) -> Storage:
        """A place that images are published to."""
        settings = self._settings
        options = settings.publish_storage_options
        if not options and same_kind(folder, settings.storage_uri):
            options = settings.storage_options
        return Storage(folder, options, deadline_seconds=self._limits.call_seconds)

    def client(self) -> "ImageClient":
        """A client of the endpoint, to be closed by the caller."""
        from dagster_imagegen.engine.endpoint.client import ImageClient  # noqa: PLC0415

        settings = self._settings
        return ImageClient(
            base_url=settings.base_url,
            api_key=settings.api_key,
            timeout_seconds=settings.timeout_seconds,
            extra_headers=settings.extra_headers,
            transport=self._transport,
        )

    def context(
        self, budgets: Sequence[Budget], identity: Identity, *, totals: PassTotals, share: Share
    ) -> PassContext:
        """The parts of one pass; to be called inside its event loop."""

        spending = Spending(self.usage)

        def remaining(record: Record) -> Decimal:
            return spending.remaining_usd(budgets, record, identity, now=self.now())

        settings = self._settings
        pacer = self._pacer(share)
        return PassContext(
            record=self.record_writer(identity),
            images=self.images,
            endpoint=self.client(),
            pacer=pacer,
            **self.watch(pacer),
            prices=self.prices,
            identity=identity,
            retry=settings.retry,
            record_prompts=settings.record_prompts,
            sandbox=settings.endpoint_id == SANDBOX,
            drain_seconds=settings.drain_seconds,
            now=self.now,
            rng=self._rng,
            totals=totals,
            remaining=remaining if budgets else None,
            defers=bool(budgets) and budgets[0].when_exhausted == "defer",
            strict=any(budget.strict for budget in budgets),
        )

    def watch(self, pacer: Pacer) -> Watch:
        """What of a context watches over one pass alone: when it pauses, and when it ends."""
        settings, stop, gate = self._settings, Stop(), Gate(self._rng)
        breaker = Breaker(
            gate,
            endpoint=settings.endpoint_id,
            patience_seconds=settings.patience_seconds,
            in_flight=lambda: pacer.in_flight,
            end=stop.fail,
            with_messages=settings.record_prompts,
        )
        return {"stop": stop, "gate": gate, "breaker": breaker}

    def _pacer(self, share: Share) -> Pacer:
        from dagster_imagegen.engine.endpoint.base_url import (  # noqa: PLC0415  # loads httpx
            endpoint_name,
        )

        settings = self._settings
        return Pacer(
            max_concurrency=share.max_concurrency,
            requests_per_minute=settings.requests_per_minute,
            pace=OF_THIS_PROCESS.of(endpoint_name(settings.base_url), settings.api_key),
            max_pause_seconds=settings.retry.max_wait_seconds,
            timeout_seconds=settings.timeout_seconds,
            clock=asyncio.get_running_loop().time,
            sleep=asyncio.sleep,
            worked=time.process_time,
        )

    def record_writer(self, identity: Identity) -> RecordWriter:
        """A writer of the attempts that are made on behalf of `identity`."""
        return RecordWriter(
            store=self.usage,
            images=self.images,
            identity=identity,
            now=self.now,
            token=lambda: secrets.token_hex(4),
            limits=self._limits,
        )
