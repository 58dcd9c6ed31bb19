"""An answer's JSON → the image in it, a link to it, or a classified failure.

    JSON ──> GeneratedImage      as base64, as a `data:` URL, or as svg
         ──> ImageLink           a URL that the client has to fetch
         ──> Failure             (failures.py)

The bytes decide what an image is; what the answer declares is recorded and not relied on.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, TypeAlias

from dagster_imagegen.engine.attempt import SvgUsage, TokenUsage
from dagster_imagegen.engine.endpoint.error_body import error_of_json
from dagster_imagegen.engine.endpoint.failures import AnswerHead, Failure, failure_of, refusal_in
from dagster_imagegen.engine.endpoint.image_json import Found, images_in
from dagster_imagegen.engine.endpoint.image_text import bytes_of_text
from dagster_imagegen.engine.endpoint.kinds import FailureKind
from dagster_imagegen.engine.endpoint.waits import RateHeadroom
from dagster_imagegen.engine.endpoint.wire import (
    cost_in_headers,
    cost_of,
    count_of,
    first,
    mapping_of,
    message_of,
    svg_usage_of,
    text_of,
    tokens_of,
)
from dagster_imagegen.engine.image_header import read_header

PARAMETER_CHARACTERS = 100
NOTHING: Mapping[str, bytes] = {}
TRIES_MAX = 100  # how many texts of an answer are tried as its image


@dataclass(frozen=True, kw_only=True)
class AnswerFacts:
    """What an answer says about its image; None where it is absent or null."""

    revised_prompt: str | None = None
    created: int | None = None
    size: str | None = None
    quality: str | None = None
    background: str | None = None
    output_format: str | None = None
    tokens: TokenUsage | None = None
    svg: SvgUsage | None = None
    reported_cost_usd: Decimal | None = None
    partial: bool = False  # the last partial image of a stream that brought no finished one


@dataclass(frozen=True, kw_only=True)
class GeneratedImage(AnswerFacts):
    """An image: `data` are the exact bytes; format, width and height are read from them."""

    data: bytes
    format: str
    width: int | None
    height: int | None

    def __repr__(self) -> str:
        return f"<GeneratedImage {self.format} {self.width}x{self.height}, {len(self.data)} bytes>"


@dataclass(frozen=True, kw_only=True)
class ImageLink:
    """An image that is made and paid for, and has to be fetched: `url`, absolute or relative."""

    url: str
    facts: AnswerFacts


OnPartial: TypeAlias = Callable[[int, bytes], None]
"""Gets the index and the bytes of each partial image as it comes; it must not raise."""

AnswerContent: TypeAlias = GeneratedImage | ImageLink | Failure
"""What the body of an answer comes to, before a link in it is followed."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The image or failure of one request, and what the head of its answer says.

    `headroom` is what is left of the rate limit, where headers announce it.
    """

    result: GeneratedImage | Failure
    http_status: int | None = None
    request_id: str | None = None
    headroom: RateHeadroom | None = None


def image_of(data: bytes, facts: AnswerFacts) -> GeneratedImage | Failure:
    """The image that these bytes are; if they are none, an ambiguous failure."""
    header = read_header(data)
    if header is None:
        start = message_of(repr(data[:16]), limit=80)
        own = f"the answer's {len(data)} bytes are not an image"
        return ambiguous("not_an_image", own, facts, detail=f": {start}")
    size = {"width": header.width, "height": header.height}
    return GeneratedImage(data=data, format=header.format, **size, **vars(facts))


def ambiguous(
    code: str, own_message: str, facts: AnswerFacts | None = None, *, detail: str = ""
) -> Failure:
    """A failure after which nobody can tell whether the work was done and billed.

    Its message is ours, and a `detail` after it that the endpoint wrote.
    """
    facts = facts or AnswerFacts()
    return Failure(
        kind=FailureKind.AMBIGUOUS,
        code=code,
        message=f"{own_message}{detail}",
        own_message=own_message,
        tokens=facts.tokens,
        svg=facts.svg,
        reported_cost_usd=facts.reported_cost_usd,
    )


def saving_failed(problem: str, facts: AnswerFacts) -> Failure:
    """The failure of an image that was made and billed, and cannot be downloaded.

    A problem that names a link counts as the endpoint's: some links are made of the prompt.
    """
    own = "the image was made and cannot be downloaded"
    failure = ambiguous("download_failed", own, facts, detail=f": {problem}")
    return replace(failure, kind=FailureKind.SAVING_FAILED)


def read_answer(
    answer: object, head: AnswerHead, *, decoded: Mapping[str, bytes] = NOTHING
) -> AnswerContent:
    """What parsed JSON holds: the first image that is one, or else the first link to one.

    `decoded` has the bytes of texts that stand for longer ones.
    """
    failure = link = None
    for found in itertools.islice(images_in(answer), TRIES_MAX):
        result = read_found(found, decoded.get(found.text))
        if isinstance(result, GeneratedImage):
            return result
        if isinstance(result, ImageLink):
            link = link or result
        else:
            failure = failure or result
    return link or failure or _no_image(answer, head)


def read_found(found: Found, decoded: bytes | None = None) -> AnswerContent:
    """The image that a text is, or the link to it; `decoded` are its bytes, if they are known."""
    facts = _facts(found.places)
    if found.is_link:
        return ImageLink(url=found.text, facts=facts)
    data = bytes_of_text(found.text) if decoded is None else decoded
    if data is None:
        return ambiguous("broken_base64", "the image is broken base64", facts)
    return image_of(data, facts)


def with_bill(result: AnswerContent, head: AnswerHead) -> AnswerContent:
    """The same with the cost that the head of the answer reports, where the body reports none."""
    said = result.facts if isinstance(result, ImageLink) else result
    cost = cost_in_headers(head.headers)
    if cost is None or said.reported_cost_usd is not None:
        return result
    if isinstance(result, ImageLink):
        return replace(result, facts=replace(result.facts, reported_cost_usd=cost))
    return replace(result, reported_cost_usd=cost)


def _facts(places: Sequence[Mapping[str, Any]]) -> AnswerFacts:
    """What the objects around an image, the outermost first, say of it."""

    def parameter(name: str) -> str | None:
        return first(*(message_of(each.get(name), limit=PARAMETER_CHARACTERS) for each in places))

    usages = [place.get("usage") for place in places]
    return AnswerFacts(
        revised_prompt=first(*(text_of(each.get("revised_prompt")) for each in reversed(places))),
        created=first(
            *(count_of(each.get(name)) for each in places for name in ("created", "created_at"))
        ),
        size=parameter("size"),
        quality=parameter("quality"),
        background=parameter("background"),
        output_format=parameter("output_format"),
        tokens=first(*map(tokens_of, usages)),
        svg=first(*(svg_usage_of(each.get("svg_usage")) for each in places)),
        reported_cost_usd=first(*map(cost_of, usages)),
    )


def _no_image(answer: object, head: AnswerHead) -> Failure:
    """A 2xx answer without an image: a refusal, the error that it holds, or an ambiguous one."""
    top = mapping_of(answer)
    refusal = refusal_in(answer)
    if refusal is not None:
        return failure_of(refusal, head)
    failure = failure_of(error_of_json(answer), head, otherwise=FailureKind.AMBIGUOUS)
    if top.get("error") is not None or failure.kind is not FailureKind.AMBIGUOUS:
        return failure
    keys = message_of(", ".join(sorted(map(str, top))), limit=200)
    what = f"an object with {keys}" if keys else f"{type(answer).__name__}"
    own = "the answer holds no image"
    return ambiguous("no_image", own, _facts([top]), detail=f" but {what}")
