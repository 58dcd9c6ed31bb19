"""An endpoint's answer as a result for the record: what it says, what it cost, what it means for
pacing."""

from dataclasses import replace
from datetime import datetime, timezone
from decimal import Decimal

from dagster_imagegen.engine.attempt import (
    NO_COST,
    NO_SVG,
    NO_TOKENS,
    SANDBOX_COST,
    UNKNOWN_COST,
    Cost,
    Reply,
    Result,
    SvgUsage,
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
    tokens, svg = said.tokens or NO_TOKENS, said.svg or NO_SVG
    cost = SANDBOX_COST if sandbox else cost
    if isinstance(said, Failure):
        return Result(
            status=said.status,
            billing="not_billed" if sandbox else said.billing,
            finished_at=finished_at,
            error_code=said.code if with_texts else said.code_without_text,
            error_message=said.message if with_texts else said.own_message,
            reply=Reply(http_status=answer.http_status, request_id=answer.request_id),
            tokens=tokens,
            svg=svg,
            cost=cost,
        )
    return Result(
        status="succeeded",
        billing="not_billed" if sandbox else "billed",
        finished_at=finished_at,
        reply=Reply(
            http_status=answer.http_status,
            request_id=answer.request_id,
            revised_prompt=said.revised_prompt if with_texts else None,
            answered_at=_created(said.created),
            answered_size=said.size,
            answered_quality=said.quality,
            answered_background=said.background,
            answered_format=said.output_format,
        ),
        tokens=tokens,
        svg=svg,
        cost=cost,
    )


def _created(created: int | None) -> datetime | None:
    try:
        return None if created is None else datetime.fromtimestamp(created, timezone.utc)
    except (ValueError, OverflowError, OSError):
        return None  # A server's clock in milliseconds, say; the rest of its answer is good.


def cost_of_answer(
    prices: PriceList, request: ImageRequest, answer: Answer, *, worst_case: Cost
) -> Cost:
    """What an answer cost, and the most that may have been charged for it.

    0 where it was not billed; also 0, and at most the worst case, where a whole 5xx or a refusal
    may have been billed. The worst case where no answer came, or a broken one.
    """
    said = answer.result
    size, quality = request.size, request.quality
    if isinstance(said, GeneratedImage):
        # What the answer says of itself shows what an `auto` was billed as; where it says nothing,
        # the picture does, unless a size was named: that is what is charged for.
        pixels = f"{said.width}x{said.height}" if said.width and said.height else None
        size = _chosen(said.size) or _chosen(size) or pixels
        quality = _chosen(said.quality) or quality
    elif said.billing == "unknown":
        # An error within a 2xx, such as the last event of a stream, comes after work was done.
        said_so = said.status == "refused" or (
            said.status == "failed" and (said.http_status or 0) >= 500
        )
        if not said_so or worst_case.usd is None:
            return worst_case
        return replace(worst_case, usd=Decimal(0), max_usd=worst_case.usd)
    elif said.billing == "not_billed":
        return NO_COST
    made = isinstance(said, GeneratedImage) or said.kind.rules.billing == "billed"
    cost = prices.cost(
        request.model,
        tokens=said.tokens,
        reported_usd=said.reported_cost_usd,
        size=size,
        quality=quality,
        partial_images=request.partial_images or 0,
        image_made=made,
    )
    if cost.basis == "estimated":  # of the image: nobody told how many tokens the prompt came to
        cost = cost.at_most(worst_case)
    return cost if said.svg is None else _with_svg(cost, said.svg, prices)


def _with_svg(cost: Cost, svg: SvgUsage, prices: PriceList) -> Cost:
    """The cost together with that of the model that wrote the svg; unknown if either is.

    What the provider reports is its whole bill.
    """
    if cost.basis == "reported":
        return cost
    price = prices.find(svg.model or "")
    tokens = TokenUsage(
        input_tokens=svg.input_tokens,
        input_text_tokens=svg.input_tokens,
        output_text_tokens=svg.output_tokens,
        total_tokens=svg.total_tokens,
    )
    usd = None if price is None else price.metered(tokens, image_made=False)
    if price is None or usd is None or cost.usd is None:
        return UNKNOWN_COST
    return replace(
        cost,
        usd=cost.usd + usd,
        max_usd=None if cost.max_usd is None else cost.max_usd + usd,
        source=f"{cost.source}; {svg.model}: {price.source}",
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
