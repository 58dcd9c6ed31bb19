"""What a pass is to do for a prompt table, given all that is on record: known before any money."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc

from dagster_imagegen.engine.attempt import (
    IMAGE_MISSING,
    SANDBOX,
    Attempt,
    Outcome,
)
from dagster_imagegen.engine.errors import ConfigurationError
from dagster_imagegen.engine.images import Images
from dagster_imagegen.engine.money.amounts import usd_text
from dagster_imagegen.engine.money.price_list import PriceList
from dagster_imagegen.engine.prompts.rows import Column, PromptTable
from dagster_imagegen.engine.record import Record, RecordWriter
from dagster_imagegen.engine.request import ImageRequest
from dagster_imagegen.engine.run.jobs import Job, Jobs
from dagster_imagegen.engine.run.lookup import OnRecord, Wanted, former_endpoints, give_back
from dagster_imagegen.engine.run.outcomes import PaidImages
from dagster_imagegen.engine.run.verdict import (
    Judge,
    Redo,
    Verdict,
    left_unresolved,
    successes,
)
from dagster_imagegen.engine.storage import Storage


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a pass will do. Counts are of images, one for each prompt row and variant."""

    prompts: PromptTable
    paid: PaidImages
    """The distinct images that are paid for and in storage."""
    jobs: Jobs
    """The other distinct images: those to request, and those that somebody should look at."""
    images: int
    reused: int
    refused: int
    unknown: int
    missing: int
    cost_range_usd: tuple[Decimal, Decimal] | None
    """Least and most that what is sent costs by the price list; None: it has no price."""
    sandbox: bool
    warnings: tuple[str, ...] = ()
    """What whoever starts the pass should know of its models: when one ends."""

    @property
    def rows(self) -> int:
        """Rows of the prompt table."""
        return self.prompts.num_rows

    @property
    def distinct(self) -> int:
        """The distinct images, each of which comes to one outcome."""
        return len(self.paid) + len(self.jobs)

    @property
    def to_send(self) -> int:
        """Requests that will be sent, if each succeeds at once."""
        return len(self.jobs) - len(self.jobs.known)

    def to_request(self) -> Iterator[Job]:
        """The images that a request will be sent for."""
        return (job for job in self.jobs if job.known is None)

    def fingerprints(self) -> Iterator[str]:
        """Those of its distinct images."""
        yield from map(str, self.paid.fingerprints.to_pylist())
        yield from map(str, self.jobs.fingerprints.to_pylist())

    @property
    def retried(self) -> int:
        """How many of them follow an earlier request that may have been billed."""
        return self.jobs.retried

    @property
    def duplicates(self) -> int:
        """Images that another row of the table requests as well."""
        return self.images - self.distinct

    def describe(self) -> str:
        """One line for a log."""
        parts = [f"{self.rows:,} rows", f"{self.images:,} images", f"{self.to_send:,} to request"]
        for count, what in (
            (self.retried, "of them retried (an earlier attempt may have been billed)"),
            (self.reused, "already in storage"),
            (self.duplicates, "duplicates within this table"),
            (self.refused, "refused before"),
            (self.unknown, "skipped because their outcome is unknown"),
            (self.missing, "paid for and missing from storage"),
        ):
            if count:
                parts.append(f"{count:,} {what}")
        return f"plan: {', '.join(parts)}; {self._cost()}"

    def _cost(self) -> str:
        if not self.to_send:
            return "nothing to pay"
        if self.cost_range_usd is None:
            return "the price of this model is unknown"
        low, high = (usd_text(each) for each in self.cost_range_usd)
        if not self.cost_range_usd[0]:
            amount = f"at most {high}"
        else:
            amount = low if low == high else f"{low} to {high}"
        if not self.sandbox:
            return amount
        return f"{usd_text(Decimal(0))} in the sandbox ({amount} at list price)"


async def make_plan(
    prompts: PromptTable,
    record: Record,
    *,
    storage: Storage,
    images: Images,
    prices: PriceList,
    root_run_id: str,
    today: date,
    redo: Collection[Redo],
    resend_unknown: bool,
    had_query: bool,
) -> Plan:
    """Look up every wanted image in the record, and price what is left to request.

    `storage` holds the parts of `record`. `today` decides which models are about to end.
    `had_query`: version 0.1 made the query of `base_url` a part of `endpoint_id`; what is on
    record under such a name is found as well.
    """
    # On threads: large tables take seconds, in which a writer that is open must be heard of.
    former = (
        await asyncio.to_thread(former_endpoints, record, prompts, storage=storage)
        if had_query
        else ()
    )
    wanted = await asyncio.to_thread(Wanted.of, prompts, former)
    on_record = await asyncio.to_thread(OnRecord, wanted, record, storage=storage)
    gone = await images.missing(on_record.image_paths)
    paid, attempts = await asyncio.to_thread(on_record.settle, gone)
    del on_record  # It can be as large as the image table.
    adopted = await images.adopted()
    open_ones, on_record = await asyncio.to_thread(
        _not_paid, prompts, wanted, paid, attempts, adopted
    )
    await _add_what_arrived_later(on_record.values(), images, adopted)
    judge = Judge(root_run_id=root_run_id, redo=redo, resend_unknown=resend_unknown, gone=gone)

    def judged() -> Plan:
        verdicts = {at: _verdict(each, judge) for at, each in on_record.items()}
        jobs = Jobs(prompts, open_ones, judged=verdicts, prices=prices)
        plan = _counted(prompts, paid, jobs, warnings=_model_warnings(jobs, prices, today))
        give_back()
        return plan

    return await asyncio.to_thread(judged)


@dataclass(kw_only=True)
class _Image:
    """A distinct image that is not known to be paid for and there, and its attempts on record."""

    request: ImageRequest
    attempts: list[Attempt]


def _not_paid(
    prompts: PromptTable,
    wanted: Wanted,
    paid: PaidImages,
    attempts: Mapping[int, list[Attempt]],
    adopted: Collection[str],
) -> tuple[Column, dict[int, _Image]]:
    """Which images a judge has to look at, and as objects those of which there is something on
    record or in storage, by their place among them."""
    open_ones = pc.invert(pc.is_in(wanted.fingerprints, paid.fingerprints.combine_chunks()))
    # Not `indices_nonzero`: it has crashed in pyarrow 18.
    places: Column = pa.array(range(len(open_ones)), pa.int64()).filter(open_ones)
    images = wanted.images.take(places)
    stored: Column = pc.is_in(wanted.fingerprints, pa.array(sorted(adopted), pa.string())).take(
        places
    )
    tried: Column = pc.is_in(places, pa.array(attempts, pa.int64()))
    there: Column = pc.or_(stored, tried)
    at: Column = pa.array(range(len(places)), pa.int64()).filter(there)
    found = zip(at.to_pylist(), places.take(at).to_pylist(), strict=True)
    rows = prompts.wanted(images.take(at))
    return images, {
        here: _Image(request=row.requests[0], attempts=attempts.get(place, []))
        for (here, place), row in zip(found, rows, strict=True)
    }


def _counted(
    prompts: PromptTable, paid: PaidImages, jobs: Jobs, *, warnings: tuple[str, ...]
) -> Plan:
    counts = Counter(map(_kind, jobs.known))
    return Plan(
        prompts=prompts,
        paid=paid,
        jobs=jobs,
        images=prompts.images.num_rows,
        reused=len(paid) + counts["reused"],
        refused=counts["refused"],
        unknown=counts["unknown"],
        missing=counts["missing"],
        cost_range_usd=_cost_range(jobs),
        sandbox=any(each.request.endpoint_id == SANDBOX for each in prompts.settings),
        warnings=warnings,
    )


def _verdict(image: _Image, judge: Judge) -> Verdict:
    verdict = judge.verdict(image.request, image.attempts)
    known, fingerprint = verdict.known, image.request.fingerprint
    if known is None or known.fingerprint == fingerprint:
        return verdict
    # It is on record under a former one.
    return replace(verdict, known=replace(known, fingerprint=fingerprint))


async def plan_as_writer(
    writer: RecordWriter,
    plan_of: Callable[[Record], Awaitable[Plan]],
    *,
    priced: bool,
) -> Plan:
    """The plan, once dead writers are closed; `priced`: all that is sent has to have a price.

    On object stores only a writer can tell who is dead, so where an attempt was left open, this
    one opens first and then plans again. Otherwise what was in flight when a run died would be
    requested again by that run's own retry. With nothing to send it opens where anything is left,
    to publish what the dead had on record, and to delete journals that they never used. A writer
    that has opened for an earlier pass finds who has died since when an image of theirs is wanted.
    """
    was_open = writer.is_open
    record = await (writer.read() if was_open else writer.start())
    plan = await plan_of(record)
    if priced:
        _check_prices(plan)
    if was_open:
        return plan
    if plan.to_send:
        left = any(attempt.result is None for attempt in record.open_attempts)
    else:
        # Where nothing may be deleted, it would itself leave a journal that it never used.
        left = any(used or writer.deletes for used in record.unpublished.values())
    if not left:
        return plan
    try:
        await writer.open()
        return await plan_of(await writer.read_again())
    except BaseException:
        await writer.close()
        raise


def _check_prices(plan: Plan) -> None:
    """Raise `ConfigurationError` if something is to be sent whose worst case is unknown."""
    for job, _ in plan.jobs.kinds:
        request = job.request
        if job.worst_case.usd is None:
            body = request.body()
            unpriced = "".join(f", {name} {body[name]!r}" for name in request.unpriced)
            raise ConfigurationError(
                f"a budget is set, and model {request.model!r} at size {request.size!r}, quality "
                f"{request.quality!r}{unpriced} has no price that bounds its cost; set one in "
                "`prices`, or run without a budget"
            )


async def _add_what_arrived_later(
    wanted: Iterable[_Image], images: Images, adopted: Collection[str]
) -> None:
    """Add images that are in storage though no attempt on record brought them.

    A save ended after its process was given up, the image was spilled and restored, or an earlier
    pass found it without any record.
    """
    for each in wanted:
        attempts, fingerprint = each.attempts, each.request.fingerprint
        if successes(attempts) or not (left_unresolved(attempts) or fingerprint in adopted):
            continue
        found: dict[str, str] = {}
        for name in {fingerprint, *(attempt.fingerprint for attempt in attempts)}:
            found |= await images.find(name)
        for attempt_id, path in sorted(found.items())[:1]:
            attempt = next((one for one in attempts if one.attempt_id == attempt_id), None)
            each.attempts = [*attempts, await images.adopt(attempt_id, path, attempt)]


def _model_warnings(jobs: Jobs, prices: PriceList, today: date) -> tuple[str, ...]:
    """One for each model that ends, of those that are to be asked; the sandbox serves any."""
    models = dict.fromkeys(
        job.request.model for job, _ in jobs.kinds if job.request.endpoint_id != SANDBOX
    )
    lives = ((model, prices.life(model)) for model in models)
    warnings = (life.warning(model, today) for model, life in lives if life is not None)
    return tuple(warning for warning in warnings if warning is not None)


def _kind(outcome: Outcome) -> str:
    return "missing" if outcome.error_code == IMAGE_MISSING else outcome.status


def _cost_range(jobs: Jobs) -> tuple[Decimal, Decimal] | None:
    """Summed over all that is to be sent; None as soon as one of it has no price."""
    low = high = Decimal(0)
    for job, count in jobs.kinds:
        if job.least.usd is None or job.worst_case.usd is None:
            return None
        low, high = low + count * job.least.usd, high + count * job.worst_case.usd
    return low, high
