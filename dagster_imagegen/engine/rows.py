"""Requests and answers as columns of the usage table."""

import hashlib
import html
import json
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

from dagster_imagegen.engine.endpoint.response import Answer, Failure, FailureKind, GeneratedImage
from dagster_imagegen.engine.endpoint.wire import one_line
from dagster_imagegen.engine.errors import StorageError
from dagster_imagegen.engine.image_header import read_header
from dagster_imagegen.engine.journal import Identity
from dagster_imagegen.engine.money.price_list import Cost, PriceList
from dagster_imagegen.engine.request import ImageRequest
from dagster_imagegen.engine.tokens import TokenUsage
from dagster_imagegen.engine.usage import Row

IMAGE_NOT_SAVED = "image_not_saved"
OUTCOME_LOST = "outcome_lost"
"""The `error_code` of an image that was made and that the storage did not take."""

SANDBOX = "sandbox"
"""The `endpoint_id` of requests that cost no money."""
PROMPT_MARK = "[prompt]"
BEGINNING_CHARACTERS = 12  # of a prompt, the beginning that already counts as one
PIECE_CHARACTERS = 20  # of a prompt, what counts as one wherever in it that stands

_TOKENS = tuple(TokenUsage.__dataclass_fields__)


def intent_columns(
    request: ImageRequest,
    *,
    identity: Identity,
    prompt_id: str,
    attempt: int,
    worst_case: Cost,
    record_prompt: bool,
) -> Row:
    """What is on record before a request is sent."""
    return {
        **{name: getattr(identity, name) for name in Identity.__dataclass_fields__},
        "prompt_id": prompt_id,
        "prompt_sha256": hashlib.sha256(request.prompt.encode()).hexdigest(),
        "prompt": request.prompt if record_prompt else None,
        "endpoint_id": request.endpoint_id,
        "variant": request.variant,
        "fingerprint": request.fingerprint,
        **request.recorded(prompts=record_prompt),
        "attempt": attempt,
        "worst_case_usd": worst_case.usd,
        "price_source": worst_case.source,
        "price_as_of": worst_case.as_of,
    }


def answer_columns(answer: Answer, cost: Cost, *, sandbox: bool, finished_at: datetime) -> Row:
    """What an answer says, apart from where its image went."""
    result = answer.result
    common: Row = {
        "http_status": answer.http_status,
        "request_id": answer.request_id,
        "finished_at": finished_at,
        **_token_columns(result.tokens),
        **cost_columns(cost, sandbox=sandbox),
    }
    if isinstance(result, Failure):
        return {
            **common,
            "status": result.status,
            "billing": "not_billed" if sandbox else result.billing,
            "error_code": result.code,
            "error_message": result.message,
        }
    return {
        **common,
        "status": "succeeded",
        "billing": "not_billed" if sandbox else "billed",
        "revised_prompt": result.revised_prompt,
        "answered_at": _created(result.created),
        "answered_size": result.size,
        "answered_quality": result.quality,
        "answered_background": result.background,
        "answered_format": result.output_format,
    }


def without_prompt(row: Row, prompt: str) -> Row:
    """The same columns without what the endpoint repeats of the prompt."""
    said = {name: row[name] for name in ("error_code", "error_message") if row.get(name)}
    redacted = {name: redact_prompt(text, prompt) for name, text in said.items()}
    return {**row, "revised_prompt": None, **redacted}


def redact_prompt(text: str, prompt: str) -> str:
    """`text` with [prompt] for what it repeats of the prompt, in whatever spelling.

    That is all of it, its beginning from 12 characters on, or any 20 of it in a row: messages cut
    a prompt short, or leave out its middle.
    """
    spellings = _spellings(prompt)
    kept: list[str] = []
    at = 0
    while at < len(text):
        end = max((_end_of_repetition(text, at, each) for each in spellings), default=at)
        kept.append(PROMPT_MARK if end > at else text[at])
        at = max(end, at + 1)
    return "".join(kept)


def _spellings(prompt: str) -> list[str]:
    """As it was sent, as in JSON and as in HTML; each also on one line, as in a `Failure`."""
    written = (
        prompt,
        json.dumps(prompt)[1:-1],
        json.dumps(prompt, ensure_ascii=False)[1:-1],
        html.escape(prompt),
    )
    both = dict.fromkeys((*written, *map(one_line, written)))
    return [spelling for spelling in both if one_line(spelling)]


def _end_of_repetition(text: str, at: int, spelling: str) -> int:
    """How far `text` repeats the prompt from `at` on; `at` where it does not."""
    beginning = spelling[:BEGINNING_CHARACTERS]
    piece = text[at : at + PIECE_CHARACTERS]
    end = at
    if text.startswith(beginning, at):
        end += len(beginning)
    elif len(piece) == PIECE_CHARACTERS and piece in spelling:
        end += len(piece)
    else:
        return at
    while end < len(text) and text[at : end + 1] in spelling:
        end += 1
    return end


def image_columns(image: GeneratedImage, *, path: str) -> Row:
    """Where an answered image went, and what it is."""
    return {
        "image_path": path,
        "image_sha256": hashlib.sha256(image.data).hexdigest(),
        "image_size_bytes": len(image.data),
        "image_format": image.format,
        "image_width": image.width,
        "image_height": image.height,
    }


def stored_image_columns(data: bytes, *, path: str) -> Row:
    """The same of an image that is in storage and of which no answer is on record."""
    header = read_header(data)
    if header is None:
        raise StorageError(f"{path} is not an image of a known format")
    return {
        "image_path": path,
        "image_sha256": hashlib.sha256(data).hexdigest(),
        "image_size_bytes": len(data),
        "image_format": header.format,
        "image_width": header.width,
        "image_height": header.height,
    }


def charge(prices: PriceList, request: ImageRequest, result: GeneratedImage | Failure) -> Cost:
    """What an answer cost; 0 where it cannot have been billed, the worst case where it may have."""
    size, quality = request.size, request.quality
    if isinstance(result, GeneratedImage):
        # What the answer says of itself tells what an `auto` was billed as; where it says
        # nothing, the picture does, unless a size was named: that is what is charged for.
        pixels = f"{result.width}x{result.height}" if result.width and result.height else None
        size = _chosen(result.size) or _chosen(size) or pixels
        quality = _chosen(result.quality) or quality
    elif result.billing == "unknown":
        return prices.worst_case(request)
    elif result.billing == "not_billed":
        return Cost(usd=Decimal(0), basis="estimated")
    made = isinstance(result, GeneratedImage) or result.kind is FailureKind.SAVING_FAILED
    return prices.cost(
        request.model,
        tokens=result.tokens,
        reported_usd=result.reported_cost_usd,
        size=size,
        quality=quality,
        partial_images=request.partial_images or 0,
        image_made=made,
    )


def _chosen(answered: str | None) -> str | None:
    return None if answered == "auto" else answered


def cost_columns(cost: Cost, *, sandbox: bool) -> Row:
    """Money that was spent, which in the sandbox is none, whatever the price list says."""
    if sandbox:
        return {
            "cost_usd": Decimal(0),
            "cost_basis": SANDBOX,
            "price_source": None,
            "price_as_of": None,
        }
    return {
        "cost_usd": cost.usd,
        "cost_basis": cost.basis,
        "price_source": cost.source,
        "price_as_of": cost.as_of,
    }


def lost_columns(intent: Row, *, finished_at: datetime, code: str, message: str) -> Row:
    """The outcome of an attempt of which nobody can tell whether it was billed."""
    sandbox = intent.get("endpoint_id") == SANDBOX
    worst_case = intent.get("worst_case_usd")
    return {
        "status": "unknown",
        "billing": "not_billed" if sandbox else "unknown",
        "error_code": code,
        "error_message": message,
        "finished_at": finished_at,
        "cost_usd": Decimal(0) if sandbox else worst_case,
        "cost_basis": SANDBOX if sandbox else "unknown" if worst_case is None else "estimated",
    }


def _token_columns(tokens: TokenUsage | None) -> dict[str, Any]:
    return {} if tokens is None else {name: getattr(tokens, name) for name in _TOKENS}


def _created(created: int | None) -> datetime | None:
    try:
        return None if created is None else datetime.fromtimestamp(created, timezone.utc)
    except (ValueError, OverflowError, OSError):
        return None  # A server's clock in milliseconds, say; the rest of its answer is good.
