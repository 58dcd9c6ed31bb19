"""An endpoint's answer as a result for the record: what it says, what it cost, what it means for
pacing."""

from dataclasses import replace
from datetime import datetime, timezone

from dagster_imagegen.engine.attempt import (
    NO_COST,
    SANDBOX_COST,
    Cost,
    Reply,
    Result,
    TokenUsage,
)
from dagster_imagegen.engine.endpoint.response import Answer, Failure, GeneratedImage
from dagster_imagegen.engine.money.price_list import PriceList
from dagster_imagegen.engine.pacing.pacer import Signal
from dagster_imagegen.engine.request import ImageRequest


def result_of_answer(
    answer: Answer, cost: Cost, *, sandbox: bool, finished_at: datetime, with_texts: bool = True
) -> Result:
    """What an answer says, apart from where its image goes.

    Without `with_texts` it lacks the provider's texts, which can repeat the prompt: the revised
    prompt and the error message. What of that is ours stays, and the error code, unless it is a
    text itself.
    """
    said = answer.result
    reply = Reply(http_status=answer.http_status, request_id=answer.request_id)
    result = Result(
        status="succeeded",
        billing="not_billed" if sandbox else "billed",
        finished_at=finished_at,
        tokens=said.tokens or TokenUsage(),
        cost=SANDBOX_COST if sandbox else cost,
    )
    if isinstance(said, Failure):
        return replace(
            result,
            status=said.status,
            billing="not_billed" if sandbox else said.billing,
            error_code=said.code if with_texts else said.code_without_text,
            error_message=said.message if with_texts else said.own_message,
            reply=reply,
        )
    return replace(
        result,
        reply=replace(
            reply,
            revised_prompt=said.revised_prompt if with_texts else None,
            answered_at=_created(said.created),
            answered_size=said.size,
            answered_quality=said.quality,
            answered_background=said.background,
            answered_format=said.output_format,
        ),
    )


def _created(created: int | None) -> datetime | None:
    try:
        return None if created is None else datetime.fromtimestamp(created, timezone.utc)
    except (ValueError, OverflowError, OSError):
        return None  # A server's clock in milliseconds, say; the rest of its answer is good.


def cost_of_answer(
    prices: PriceList, request: ImageRequest, answer: Answer, *, worst_case: Cost
) -> Cost:
    """What an answer cost: 0 where it cannot have been billed, the worst case where it may have."""
    said = answer.result
    size, quality = request.size, request.quality
    if isinstance(said, GeneratedImage):
        # What the answer says of itself shows what an `auto` was billed as; where it says nothing,
        # the picture does, unless a size was named: that is what is charged for.
        pixels = f"{said.width}x{said.height}" if said.width and said.height else None
        size = _chosen(said.size) or _chosen(size) or pixels
        quality = _chosen(said.quality) or quality
    elif said.billing == "unknown":
        return worst_case
    elif said.billing == "not_billed":
        return NO_COST
    made = isinstance(said, GeneratedImage) or said.kind.rules.billing == "billed"
    return prices.cost(
        request.model,
        tokens=said.tokens,
        reported_usd=said.reported_cost_usd,
        size=size,
        quality=quality,
        partial_images=request.partial_images or 0,
        image_made=made,
    )


def _chosen(answered: str | None) -> str | None:
    return None if answered == "auto" else answered


def signal_of(answer: Answer) -> Signal:
    """What an answer means for how fast to send."""
    said, headroom = answer.result, answer.headroom
    failure = said if isinstance(said, Failure) else None
    timed_out = failure is not None and failure.code == "read_timeout"
    return Signal(
        outcome="timed_out" if timed_out else failure.admission if failure else "accepted",
        wait_seconds=failure.wait_seconds if failure else None,
        remaining=headroom.remaining if headroom else None,
        limit=headroom.limit if headroom else None,
        reset_seconds=headroom.reset_seconds if headroom else None,
        names_concurrency=failure.names_concurrency if failure else False,
    )
