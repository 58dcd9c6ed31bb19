"""What is to be done for a prompt table, given all that is on record: known before any money."""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal, TypeAlias

import pyarrow as pa

from dagster_imagegen.engine.errors import ConfigurationError
from dagster_imagegen.engine.images import Images
from dagster_imagegen.engine.ledger import Books
from dagster_imagegen.engine.money.price_list import PriceList
from dagster_imagegen.engine.prompts.table import PromptTable
from dagster_imagegen.engine.request import ImageRequest
from dagster_imagegen.engine.rows import IMAGE_NOT_SAVED, SANDBOX
from dagster_imagegen.engine.storage import Storage
from dagster_imagegen.engine.usage import Row, open_parts, rows_about, to_table

UNKNOWN_RESENDS = 2
"""How often later runs, all together, ask again for what nobody can tell was billed."""

Redo: TypeAlias = Literal["refused", "unknown", "missing"]
OutcomeStatus: TypeAlias = Literal[
    "generated", "reused", "refused", "failed", "unknown", "deferred"
]

_COLUMNS = (
    "attempt_id",
    "root_run_id",
    "fingerprint",
    "moderation",
    "status",
    "billing",
    "error_code",
    "error_message",
    "finished_at",
    "revised_prompt",
    "cost_usd",
    "cost_basis",
    "image_path",
    "image_sha256",
    "image_size_bytes",
    "image_format",
    "image_width",
    "image_height",
)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one image that was wanted. `row` is the usage row that says so."""

    fingerprint: str
    status: OutcomeStatus
    row: Row = field(default_factory=dict[str, Any])


@dataclass(frozen=True, kw_only=True)
class Job:
    """One distinct image that is wanted. `known` is its outcome where nothing is to be sent.

    `doubtful` counts the requests for it on record that may have been billed and left no image.
    """

    request: ImageRequest
    prompt_id: str
    known: Outcome | None = None
    doubtful: int = 0

    @property
    def resends(self) -> int:
        """How often it may be sent once more in this pass when nobody can tell what came of it."""
        return max(0, UNKNOWN_RESENDS - self.doubtful) if self.doubtful else 0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a pass will do. Counts are of images, one for each prompt row and variant."""

    prompts: PromptTable
    jobs: tuple[Job, ...]
    images: int
    reused: int
    refused: int
    unknown: int
    missing: int
    cost_range_usd: tuple[Decimal, Decimal] | None
    """Least and most that what is sent costs by the price list; None: it knows no price."""
    sandbox: bool

    @property
    def rows(self) -> int:
        """Rows of the prompt table."""
        return len(self.prompts.rows)

    @property
    def to_send(self) -> int:
        """Requests that will be sent, if each succeeds at once."""
        return sum(job.known is None for job in self.jobs)

    @property
    def again(self) -> int:
        """Of those, the ones that were asked for before, and may have been billed."""
        return sum(job.known is None and job.doubtful > 0 for job in self.jobs)

    @property
    def duplicates(self) -> int:
        """Images that another row of the table asks for as well."""
        return self.images - len(self.jobs)

    def describe(self) -> str:
        """One line for a log."""
        parts = [f"{self.rows:,} rows", f"{self.images:,} images", f"{self.to_send:,} to request"]
        for count, what in (
            (self.again, "of them once more, for nobody can tell whether they were billed before"),
            (self.reused, "already in storage"),
            (self.duplicates, "asked for twice in this table"),
            (self.refused, "refused before"),
            (self.unknown, "left alone, their outcome being unknown"),
            (self.missing, "paid for and gone from storage"),
        ):
            if count:
                parts.append(f"{count:,} {what}")
        return f"plan: {', '.join(parts)}; {self._cost()}"

    def _cost(self) -> str:
        if not self.to_send:
            return "nothing to pay"
        if self.cost_range_usd is None:
            return "no price is known for this model"
        low, high = self.cost_range_usd
        amount = (
            f"${low:,.2f}" if round(low, 2) == round(high, 2) else f"${low:,.2f} to ${high:,.2f}"
        )
        return f"$0.00 in the sandbox ({amount} at list price)" if self.sandbox else amount


async def make_plan(
    prompts: PromptTable,
    books: Books,
    *,
    storage: Storage,
    images: Images,
    prices: PriceList,
    root_run_id: str,
    redo: Collection[Redo] = (),
    resend_unknown: bool = False,
) -> Plan:
    """Look up every image that is wanted in what is on record, and price what is left.

    `storage` is where the parts of `books` lie.
    """
    wanted: dict[str, tuple[ImageRequest, str]] = {}
    asked: Counter[str] = Counter()
    for row in prompts.rows:
        for request in row.requests:
            wanted.setdefault(request.fingerprint, (request, row.prompt_id))
            asked[request.fingerprint] += 1
    on_record = _on_record(books, list(wanted), storage=storage)
    made = [row for rows in on_record.values() for row in _successes(rows)]
    gone = await images.missing([row["image_path"] for row in made])
    await _add_what_arrived_later(on_record, images)
    verdicts = _Verdicts(
        root_run_id=root_run_id, redo=redo, resend_unknown=resend_unknown, gone=gone
    )
    jobs = tuple(
        Job(
            request=request,
            prompt_id=prompt_id,
            known=verdicts.of(request, on_record.get(fingerprint, [])),
            doubtful=len(_doubtful(on_record.get(fingerprint, []))),
        )
        for fingerprint, (request, prompt_id) in wanted.items()
    )
    counts = Counter(_kind(job.known) for job in jobs)
    return Plan(
        prompts=prompts,
        jobs=jobs,
        images=asked.total(),
        reused=counts["reused"],
        refused=counts["refused"],
        unknown=counts["unknown"],
        missing=counts["missing"],
        cost_range_usd=_cost_range([job.request for job in jobs if job.known is None], prices),
        sandbox=any(job.request.endpoint_id == SANDBOX for job in jobs),
    )


def check_prices(plan: Plan, prices: PriceList) -> None:
    """Raise `ConfigurationError` if something is to be sent whose worst case nobody knows."""
    for job in plan.jobs:
        request = job.request
        if job.known is None and prices.worst_case(request).usd is None:
            raise ConfigurationError(
                f"a budget is set, and model {request.model!r} at size {request.size!r}, quality "
                f"{request.quality!r} has no price that bounds its cost; give one in `prices`, or "
                "run without a budget"
            )


def _on_record(
    books: Books, fingerprints: list[str], *, storage: Storage
) -> Mapping[str, list[Row]]:
    """The rows of each fingerprint, published or not, oldest first."""
    tables = [to_table(books.open_rows).select(_COLUMNS)]
    if books.parts and fingerprints:
        parts = open_parts(
            [storage.full_path(p) for p in books.parts], filesystem=storage.filesystem
        )
        tables.append(rows_about(parts, fingerprints, columns=_COLUMNS))
    rows = pa.concat_tables(tables).sort_by("attempt_id").to_pylist()
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["fingerprint"], []).append(row)
    return found


async def _add_what_arrived_later(on_record: Mapping[str, list[Row]], images: Images) -> None:
    """Images of attempts that are on record as doubtful, and that came to the storage all the same.

    A save that ended after its process was given up, or one that was set aside and brought back.
    """
    for fingerprint, rows in on_record.items():
        if not _doubtful(rows):
            continue
        for attempt_id, path in sorted((await images.arrived(fingerprint)).items()):
            on_its_row = next((row for row in rows if row["attempt_id"] == attempt_id), None)
            rows.append(await images.adopt(attempt_id, path, row=on_its_row))
            break


@dataclass(frozen=True, kw_only=True)
class _Verdicts:
    root_run_id: str
    redo: Collection[Redo]
    resend_unknown: bool
    gone: Collection[str]

    def of(self, request: ImageRequest, rows: list[Row]) -> Outcome | None:
        """The outcome that is on record, or None: it has to be asked for."""
        fingerprint = request.fingerprint
        if made := _successes(rows):
            # The oldest that is there, so that every reader names the same image.
            there = next((row for row in made if row["image_path"] not in self.gone), None)
            if there is not None:
                return Outcome(fingerprint=fingerprint, status="reused", row=there)
            if "missing" not in self.redo:
                return _missing(fingerprint, made[0])
            # It is asked for anew: only what came of that in this run counts, once more or not.
            rows = [
                row
                for row in rows
                if row["root_run_id"] == self.root_run_id and row["status"] != "succeeded"
            ]
        refusal = _refusal(request, rows)
        if refusal is not None and not self._again("refused", [refusal]):
            return Outcome(fingerprint=fingerprint, status="refused", row=refusal)
        doubtful = _doubtful(rows)
        if not doubtful or self._again("unknown", doubtful):
            return None
        # What an earlier run left in doubt is this one's to settle, its retries included.
        its_own = doubtful[0]["root_run_id"] == self.root_run_id
        if (its_own and not self.resend_unknown) or len(doubtful) > UNKNOWN_RESENDS:
            return Outcome(fingerprint=fingerprint, status="unknown", row=doubtful[-1])
        return None

    def _again(self, kind: Redo, rows: list[Row]) -> bool:
        """Whether it is to be asked for once more on request: once in a run, retries included."""
        here = any(row["root_run_id"] == self.root_run_id for row in rows)
        return kind in self.redo and not here


def _kind(outcome: Outcome | None) -> str:
    if outcome is None:
        return "to send"
    return "missing" if outcome.row.get("error_code") == "image_missing" else outcome.status


def _successes(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row["status"] == "succeeded"]


def _refusal(request: ImageRequest, rows: list[Row]) -> Row | None:
    """A refusal that still stands: at the same moderation level, or at the lower one."""
    levels = {request.moderation or "auto", "low"}
    return next(
        (
            row
            for row in reversed(rows)
            if row["status"] == "refused" and (row["moderation"] or "auto") in levels
        ),
        None,
    )


def _doubtful(rows: list[Row]) -> list[Row]:
    """The requests that may have been billed and left no image, oldest first."""
    return [] if _successes(rows) else [row for row in rows if _perhaps_billed(row)]


def _perhaps_billed(row: Row) -> bool:
    """Unknown; or made, and its image could not be saved. In the sandbox, were it not one."""
    return row["status"] == "unknown" or (
        row["status"] == "failed"
        and (row["billing"] == "billed" or row["error_code"] == IMAGE_NOT_SAVED)
    )


def _missing(fingerprint: str, best: Row) -> Outcome:
    message = (
        f"the image was paid for and is no longer at {best['image_path']}; bring it back, raise "
        "the row's revision to buy another, or have a run redo what is missing"
    )
    row = {**best, "error_code": "image_missing", "error_message": message}
    return Outcome(fingerprint=fingerprint, status="failed", row=row)


def _cost_range(requests: list[ImageRequest], prices: PriceList) -> tuple[Decimal, Decimal] | None:
    """Summed over all; None as soon as one has no price."""
    low = high = Decimal(0)
    for request in requests:
        estimate = prices.estimate_range(request)
        if estimate is None:
            return None
        low, high = low + estimate[0], high + estimate[1]
    return low, high
