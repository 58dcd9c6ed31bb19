"""The price of one model, by tokens or by the image: `ModelPrice`."""

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from decimal import Decimal
from typing import Annotated, TypeAlias, TypeVar

from pydantic import ConfigDict, Field, PositiveInt, model_validator
from pydantic.dataclasses import dataclass
from typing_extensions import Self

from dagster_imagegen.engine.attempt import TokenUsage

PARTIAL_IMAGE_TOKENS = 100
"""The output tokens of each partial image of a stream."""

PROMPT_OVERHEAD_TOKENS = 64
"""Allowed in a worst case for tokens that servers add to a prompt. No figure is published."""

ANY = "*"
"""Stands for every size or quality that a price does not name."""

_SIZE = re.compile(r"([0-9]{1,5})x([0-9]{1,5})")
_STRICT = ConfigDict(extra="forbid")
# Four decimals per million tokens are ten per token, as many as the usage table has.
_Rate: TypeAlias = Annotated[Decimal, Field(ge=0, max_digits=12, decimal_places=4)]
_Price: TypeAlias = Annotated[Decimal, Field(ge=0, max_digits=16, decimal_places=10)]
_Value = TypeVar("_Value")
_ELSE = {
    "cached_text_input": "text_input",
    "cached_image_input": "image_input",
    "text_output": "image_output",
}


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class TokenRates:
    """USD per million tokens of each kind. Usage of a kind without a rate has no known cost."""

    text_input: _Rate | None = None
    cached_text_input: _Rate | None = None
    image_input: _Rate | None = None
    cached_image_input: _Rate | None = None
    image_output: _Rate | None = None
    text_output: _Rate | None = None

    def of(self, kind: str) -> Decimal | None:
        """The rate of a kind, so that nothing is free for lack of one: cached input without a rate
        costs what other input does, output text what an image does."""
        rate = getattr(self, kind)
        return getattr(self, _ELSE[kind]) if rate is None and kind in _ELSE else rate


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class ModelPrice:
    """The price of a model: by tokens, or by the image for servers that report no tokens.

    `output_tokens` has the tokens of an image by size and quality, `usd_per_image` its whole
    price, whatever usage an answer reports; "*" is any other size or quality. Without one of
    them there is no estimate and no worst case, and so no budget. `source` and `as_of` say where
    the price comes from and when it was checked.

    `size_notes` say of sizes that their tokens come from elsewhere. `between` is for models that
    take any size: one that is not in `output_tokens` is bounded by the next larger one that is.
    """

    usd_per_million_tokens: TokenRates | None = None
    output_tokens: Mapping[str, Mapping[str, PositiveInt]] = Field(
        default_factory=dict[str, Mapping[str, int]]
    )
    usd_per_image: Mapping[str, Mapping[str, _Price]] = Field(
        default_factory=dict[str, Mapping[str, Decimal]]
    )
    source: str | None = None
    as_of: date | None = None
    size_notes: Mapping[str, str] = Field(default_factory=dict[str, str])
    between: bool = False

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if self.usd_per_image and (self.usd_per_million_tokens or self.output_tokens):
            raise ValueError("must be either by the image or by tokens, not both")
        if not (self.usd_per_image or self.usd_per_million_tokens or self.output_tokens):
            raise ValueError("must have a price; set usd_per_million_tokens or usd_per_image")
        return self

    def over(self, listed: "ModelPrice") -> "ModelPrice":
        """This price, completed from `listed`. A price by the image replaces the listed one."""
        if self.usd_per_image or listed.usd_per_image:
            return self
        rates, known = self.usd_per_million_tokens, listed.usd_per_million_tokens
        if rates is not None and known is not None:
            set_here = {name: rate for name, rate in vars(rates).items() if rate is not None}
            rates = replace(known, **set_here)
        return replace(
            self,
            usd_per_million_tokens=rates or known,
            output_tokens={**listed.output_tokens, **self.output_tokens},
            size_notes={
                size: note
                for size, note in listed.size_notes.items()
                if size not in self.output_tokens
            },
            between=listed.between,
            source=f"{self.source}, else {listed.source}",
            as_of=self.as_of or listed.as_of,
        )

    def estimates(self, size: str | None, quality: str | None, partials: int) -> list[Decimal]:
        """The possible costs of an image without its prompt, in USD; empty if unknown.

        There is one where size and quality are named, and one for each choice of None or `auto`.
        """
        if self.usd_per_image:
            return _choices(self.usd_per_image, size, quality)
        rates = self.usd_per_million_tokens
        rate = None if rates is None else rates.image_output
        if rate is None:
            return []
        return [
            _per_million(rate, tokens + PARTIAL_IMAGE_TOKENS * partials)
            for tokens in _choices(self.output_tokens, size, quality)
        ]

    def bound_of_size(self, size: str | None) -> "SizeBound | None":
        """What bounds a size that is not in the table: the next larger one; None if nothing does.

        Tokens do not always grow with the area (a square of 1024 takes more than 1536x1024), so no
        table entry up to that size may be dearer.
        """
        asked = _sides(size)
        if not self.between or asked is None or {size, ANY} & set(self.output_tokens):
            return None
        sizes = {name: sides for name in self.output_tokens if (sides := _sides(name)) is not None}
        larger = [n for n, s in sizes.items() if asked[0] <= s[0] and asked[1] <= s[1]]
        if not larger:
            return None
        bound = min(larger, key=lambda name: math.prod(sizes[name]))
        area = math.prod(sizes[bound])
        counted = tuple(name for name, sides in sizes.items() if math.prod(sides) <= area)
        return SizeBound(size=bound, counted=counted)

    def source_of(self, size: str | None) -> str | None:
        """`source`, and what else there is to say of a size."""
        bound = self.bound_of_size(size)
        note = self.size_notes.get(size or "")
        if bound is not None:
            note = f"{size} is not published: bounded by the sizes up to {bound.size}"
        return f"{self.source} ({note})" if note else self.source

    def prompt_bound(self, prompt: str) -> Decimal | None:
        """The worst-case cost of a prompt, at one token per byte; None if unknown."""
        if self.usd_per_image:
            return Decimal(0)
        rates = self.usd_per_million_tokens
        if rates is None or rates.text_input is None:
            return None
        # A price list may have a cached rate that is higher.
        rate = max(rates.text_input, rates.cached_text_input or rates.text_input)
        size = len(prompt.encode("utf-8", "surrogatepass"))
        return _per_million(rate, size + PROMPT_OVERHEAD_TOKENS)

    def metered(self, tokens: TokenUsage, *, image_made: bool = True) -> Decimal | None:
        """The cost in USD of the tokens that an answer reports; None if unknown.

        If it has an image (`image_made`), a count without image tokens is unknown.
        """
        rates, counts = self.usd_per_million_tokens, _billed(tokens)
        # An image without image tokens: the server does not count.
        if rates is None or not counts or (image_made and not counts["image_output"]):
            return None
        total = Decimal(0)
        for kind, count in counts.items():
            if count:
                rate = rates.of(kind)
                if rate is None:
                    return None
                total += _per_million(rate, count)
        return total


@dataclass(frozen=True, kw_only=True)
class SizeBound:
    """The published size that bounds another one, and all whose tokens count for it."""

    size: str
    counted: tuple[str, ...]


def _billed(tokens: TokenUsage) -> dict[str, int]:
    """All tokens of an answer by the kind that they are billed as.

    Empty if the input or the output is not reported, or all counts are 0.
    """
    if any(count is not None and count < 0 for count in vars(tokens).values()):
        return {}
    text_in, image_in = tokens.input_text_tokens, tokens.input_image_tokens
    text_out = tokens.output_text_tokens or 0
    given = _sum_of(tokens.input_tokens, text_in, image_in)
    made = _sum_of(tokens.output_tokens, tokens.output_text_tokens, tokens.output_image_tokens)
    if tokens.total_tokens is not None:
        if given is None and made is not None:
            given = max(tokens.total_tokens - made, 0)
        elif made is None and given is not None:
            made = max(tokens.total_tokens - given, 0)
    if given is None or made is None or given + made == 0:
        return {}
    # Without details, input is text and output is image.
    if image_in is None:
        image_in = 0 if text_in is None else given - text_in
    text_in = given - image_in
    # Cached tokens are not reported by kind; text first gives the smallest discount.
    cached = tokens.input_cached_tokens or 0
    cached_text = min(cached, text_in)
    cached_image = min(cached - cached_text, image_in)
    return {
        "text_input": text_in - cached_text,
        "image_input": image_in - cached_image,
        "cached_text_input": cached_text,
        "cached_image_input": cached_image,
        "image_output": made - text_out,
        "text_output": text_out,
    }


def _sides(size: str | None) -> tuple[int, int] | None:
    """The longer and the shorter side of `WIDTHxHEIGHT`; None for any other text."""
    match = _SIZE.fullmatch(size or "")
    if match is None:
        return None
    width, height = int(match[1]), int(match[2])
    return max(width, height), min(width, height)


def _sum_of(total: int | None, *details: int | None) -> int | None:
    """The larger of the reported total and the sum of its reported details; None without any."""
    reported = [detail for detail in details if detail is not None]
    if total is None:
        return sum(reported) if reported else None
    return max(total, sum(reported))


def _choices(
    table: Mapping[str, Mapping[str, _Value]], size: str | None, quality: str | None
) -> list[_Value]:
    """The entries for a size and a quality; "*" applies where neither is named."""
    # The endpoint chooses what is left out or `auto`, so it can be any.
    size, quality = (None if each == "auto" else each for each in (size, quality))
    rows = list(table.values())
    if size is not None:
        rows = [table[key] for key in (size, ANY) if key in table]
    if quality is None:
        return [entry for row in rows for entry in row.values()]
    nearest = [
        row[quality] if quality in row else row[ANY] for row in rows if {quality, ANY} & set(row)
    ]
    return nearest if size is None else nearest[:1]


def _per_million(rate: Decimal, tokens: int) -> Decimal:
    return (rate * tokens).scaleb(-6)
