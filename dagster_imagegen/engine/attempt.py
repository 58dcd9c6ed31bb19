"""One attempt: a request that was put on record, and what became of it.

`Attempt` is the one value for this, from the plan to the image table; in Parquet and in journals it
is a row (record/schema.py). All words for status, billing and cost basis are here.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Literal, TypeAlias

from dagster_imagegen.engine.request import ImageRequest

Status: TypeAlias = Literal["succeeded", "refused", "rejected", "rate_limited", "failed", "unknown"]
"""What became of one request. `unknown`: nobody can tell whether it was billed."""

Billing: TypeAlias = Literal["billed", "not_billed", "unknown"]

CostBasis: TypeAlias = Literal["reported", "metered", "estimated", "unknown", "sandbox"]
"""Where a cost comes from: the provider's own bill, the answer's usage times the price list, the
token table or a price per image, nowhere, or the sandbox, which costs nothing."""

OutcomeStatus: TypeAlias = Literal[
    "generated", "reused", "refused", "failed", "unknown", "deferred"
]
"""What became of one wanted image. `deferred`: a later run requests it."""

OUTCOME_OF: Mapping[Status, OutcomeStatus] = {
    "succeeded": "generated",
    "refused": "refused",
    "rejected": "failed",
    "rate_limited": "failed",
    "failed": "failed",
    "unknown": "unknown",
}

SANDBOX = "sandbox"
"""The `endpoint_id` of requests that cost no money."""

# Error codes of ours, beside those of endpoints.
IMAGE_NOT_SAVED = "image_not_saved"
"""The image was made, and the storage did not take it."""
IMAGE_MISSING = "image_missing"
"""The image was stored, and is no longer there."""
OUTCOME_LOST = "outcome_lost"
"""The process ended before the outcome was on record."""


@dataclass(frozen=True, kw_only=True)
class TokenUsage:
    """Token counts as a provider answers them. `None` is "not said", never 0."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    input_text_tokens: int | None = None
    input_image_tokens: int | None = None
    input_cached_tokens: int | None = None
    output_text_tokens: int | None = None
    output_image_tokens: int | None = None


@dataclass(frozen=True, kw_only=True)
class SvgUsage:
    """The tokens of the text model that wrote an svg, billed beside those of the image model."""

    model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What was charged as far as anybody can tell, and where that comes from.

    `usd` is None where nobody can tell, never 0. `max_usd` is the most that it may turn out to be,
    where that may be more.
    """

    usd: Decimal | None
    basis: CostBasis
    source: str | None = None
    as_of: date | None = None
    max_usd: Decimal | None = None

    @property
    def most_usd(self) -> Decimal | None:
        """The most that it may turn out to be; None where nobody can tell."""
        return self.usd if self.max_usd is None else self.max_usd

    def at_most(self, worst_case: "Cost") -> "Cost":
        """The same amount, which may turn out to be as much as the worst case."""
        if self.usd is None or worst_case.usd is None or worst_case.usd <= self.usd:
            return self
        return replace(self, max_usd=worst_case.usd)


UNKNOWN_COST = Cost(usd=None, basis="unknown")
NO_COST = Cost(usd=Decimal(0), basis="estimated")
SANDBOX_COST = Cost(usd=Decimal(0), basis="sandbox")


@dataclass(frozen=True, kw_only=True)
class Identity:
    """On whose behalf requests are sent. Every attempt of one pass has the same.

    `asset_owners`, `asset_group` and `asset_tags` are those of the asset as it was defined then, as
    text that can be grouped by: owners joined with commas, tags as a JSON object.
    """

    run_id: str
    root_run_id: str
    asset_key: str | None = None
    partition_key: str | None = None
    step_key: str | None = None
    asset_owners: str | None = None
    asset_group: str | None = None
    asset_tags: str | None = None


NO_IDENTITY = Identity(run_id="", root_run_id="")
"""Of an attempt of which only its image is left."""


@dataclass(frozen=True, kw_only=True)
class RequestRecord:
    """What is on record about a request. `parameters` are the request's own, by name, as sent.

    Where prompts are not recorded, `prompt` is None and `parameters` lacks what can repeat it.
    """

    fingerprint: str
    variant: int | None = None
    endpoint_id: str | None = None
    prompt_sha256: str | None = None
    prompt: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @classmethod
    def of(cls, request: ImageRequest, *, record_prompt: bool = True) -> "RequestRecord":
        """The record of a request; without `record_prompt` nothing that can repeat the prompt."""
        return cls(
            fingerprint=request.fingerprint,
            variant=request.variant,
            endpoint_id=request.endpoint_id,
            prompt_sha256=hashlib.sha256(request.prompt.encode()).hexdigest(),
            prompt=request.prompt if record_prompt else None,
            parameters=request.recorded(prompts=record_prompt),
        )


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What an answer says of itself, apart from its image and its tokens."""

    http_status: int | None = None
    request_id: str | None = None
    revised_prompt: str | None = None
    answered_at: datetime | None = None
    answered_size: str | None = None
    answered_quality: str | None = None
    answered_background: str | None = None
    answered_format: str | None = None


@dataclass(frozen=True, kw_only=True)
class ImageFile:
    """A stored image: `path` is relative to the storage, width and height are pixels.

    `partial` is whether it is a partial image of a stream that brought no finished one.
    `provenance` is what it says of its origin, as `provenance.provenance` finds it.
    """

    path: str
    sha256: str | None = None
    size_bytes: int | None = None
    format: str | None = None
    width: int | None = None
    height: int | None = None
    partial: bool | None = None
    provenance: str | None = None


NO_REPLY, NO_TOKENS, NO_SVG = Reply(), TokenUsage(), SvgUsage()
"""What a result holds of an answer that says nothing of them; one object for all."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of one request."""

    status: Status
    billing: Billing | None = None
    finished_at: datetime | None = None
    error_code: str | None = None
    error_message: str | None = None
    reply: Reply = NO_REPLY
    tokens: TokenUsage = NO_TOKENS
    svg: SvgUsage = NO_SVG
    cost: Cost = UNKNOWN_COST
    image: ImageFile | None = None


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One request on record. `result` is None while its outcome is not on record.

    `number` is 1 for the first try of an image in a pass. `worst_case` is the most that the
    request could cost, by the price list, before it was sent.
    """

    attempt_id: str
    request: RequestRecord
    identity: Identity
    prompt_id: str | None = None
    number: int | None = None
    worst_case: Cost = UNKNOWN_COST
    started_at: datetime | None = None
    result: Result | None = None

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the image that was requested."""
        return self.request.fingerprint

    @property
    def status(self) -> Status | None:
        """The status of its result, if there is one."""
        return None if self.result is None else self.result.status

    @property
    def bound_usd(self) -> Decimal:
        """What counts against a budget that is not strict: its cost, else its worst case, else 0.

        `record.parts.bound_usd` is the same rule for a table.
        """
        cost = None if self.result is None else self.result.cost.usd
        return (self.worst_case.usd or Decimal(0)) if cost is None else cost

    @property
    def may_be_billed_without_image(self) -> bool:
        """Whether it may have been paid for and left no image: unknown, or made and not saved."""
        result = self.result
        if result is None:
            return False
        if result.status == "unknown":
            return True
        # In the sandbox nothing is billed; a lost image counts there as it would elsewhere.
        return result.status == "failed" and (
            result.billing == "billed" or result.error_code == IMAGE_NOT_SAVED
        )

    @property
    def image(self) -> ImageFile | None:
        """The image that it brought, if it did."""
        return None if self.result is None else self.result.image


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one wanted image.

    `attempt` is the request behind it, where there is one. `error_code` and `error_message` say
    why there is no image.
    """

    fingerprint: str
    status: OutcomeStatus
    attempt: Attempt | None = None
    error_code: str | None = None
    error_message: str | None = None

    @classmethod
    def of(cls, attempt: Attempt, *, reused: bool = False) -> "Outcome":
        """The outcome that an attempt with a result stands for."""
        result = attempt.result
        if result is None:
            raise ValueError(f"attempt {attempt.attempt_id} has no result")
        status = OUTCOME_OF[result.status]
        return cls(
            fingerprint=attempt.fingerprint,
            status="reused" if reused and status == "generated" else status,
            attempt=attempt,
            error_code=result.error_code,
            error_message=result.error_message,
        )

    @property
    def retry_can_help(self) -> bool:
        """Whether the same run, its retries included, would request the image again."""
        if self.status != "failed" or self.error_code == IMAGE_MISSING:
            return False
        return self.attempt is None or not self.attempt.may_be_billed_without_image

    @property
    def image(self) -> ImageFile | None:
        """The image, where this outcome has one."""
        if self.status not in ("generated", "reused") or self.attempt is None:
            return None
        return self.attempt.image
