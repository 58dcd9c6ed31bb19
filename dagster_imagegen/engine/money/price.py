"""What one model costs: `ModelPrice`, in tokens or by the image."""

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
"""Output tokens of each partial image of a stream."""

PROMPT_OVERHEAD_TOKENS = 64
"""What a worst case allows for the tokens that servers put around a prompt; not published."""

ANY = "*"

_STRICT = ConfigDict(extra="forbid")
# Four decimals a million tokens are ten decimals a token: what the usage table's money holds.
_Rate: TypeAlias = Annotated[Decimal, Field(ge=0, max_digits=12, decimal_places=4)]
_Price: TypeAlias = Annotated[Decimal, Field(ge=0, max_digits=16, decimal_places=10)]
_Value = TypeVar("_Value")


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class TokenRates:
    """USD per million tokens of each kind. A kind without a rate cannot be priced."""

    text_input: _Rate | None = None
    cached_text_input: _Rate | None = None
    image_input: _Rate | None = None
    cached_image_input: _Rate | None = None
    image_output: _Rate | None = None
    text_output: _Rate | None = None


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class ModelPrice:
    """The price of a model: by tokens, or by the image for servers that report no tokens.

    Tables go from size to quality; "*" stands for every size or quality that is not named.
    `output_tokens` says how many an image has, without which there is no estimate and no worst
    case, hence no budget. `usd_per_image` is the whole price, whatever usage an answer reports.
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

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if self.usd_per_image and (self.usd_per_million_tokens or self.output_tokens):
            raise ValueError("is either usd_per_image, or by tokens, not both")
        if not (self.usd_per_image or self.usd_per_million_tokens or self.output_tokens):
            raise ValueError("has no price; set usd_per_million_tokens or usd_per_image")
        return self

    def over(self, listed: "ModelPrice") -> "ModelPrice":
        """This price, and what it leaves out as listed; a price by the image replaces it all."""
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
            source=f"{self.source}, else {listed.source}",
            as_of=self.as_of or listed.as_of,
        )

    def estimates(self, size: str | None, quality: str | None, partials: int) -> list[Decimal]:
        """What an image of this size and quality can cost without its prompt; `[]` if unknown.

        One price where both are named, each possible one where one is None or `auto`.
        """
        if self.usd_per_image:
            return _choices(self.usd_per_image, size, quality)
        rates = self.usd_per_million_tokens
        if rates is None or rates.image_output is None:
            return []
        rate = rates.image_output
        return [
            _per_million(rate, tokens + PARTIAL_IMAGE_TOKENS * partials)
            for tokens in _choices(self.output_tokens, size, quality)
        ]

    def prompt_at_most(self, prompt: str) -> Decimal | None:
        """The most that the prompt itself costs: a tokenizer makes at most one token a byte."""
        if self.usd_per_image:
            return Decimal(0)
        rates = self.usd_per_million_tokens
        if rates is None or rates.text_input is None:
            return None
        # The cached rate too: nothing says that it is the lower one.
        rate = max(rates.text_input, rates.cached_text_input or rates.text_input)
        size = len(prompt.encode("utf-8", "surrogatepass"))
        return _per_million(rate, size + PROMPT_OVERHEAD_TOKENS)

    def metered(self, tokens: TokenUsage, *, image_made: bool = True) -> Decimal | None:
        """The price of the tokens that an answer counted; None if it cannot be told."""
        rates = self.usd_per_million_tokens
        counts = _Counts.of(tokens)
        if rates is None or counts is None:
            return None
        if image_made and not counts.image_output:
            return None  # an image of no tokens was not counted
        total = Decimal(0)
        for count, rate in counts.at(rates):
            if count and rate is None:
                return None
            total += _per_million(rate or Decimal(0), count)
        return total


@dataclass(frozen=True, kw_only=True)
class _Counts:
    """An answer's tokens by the kind that they are billed as."""

    text_input: int
    image_input: int
    cached_text_input: int
    cached_image_input: int
    image_output: int
    text_output: int

    @classmethod
    def of(cls, tokens: TokenUsage) -> "_Counts | None":
        """None where input or output is not told, or nothing was counted at all."""
        if any(count is not None and count < 0 for count in vars(tokens).values()):
            return None
        image_in, text_in = tokens.input_image_tokens, tokens.input_text_tokens
        image_out, text_out = tokens.output_image_tokens, tokens.output_text_tokens
        given = _sum_of(tokens.input_tokens, text_in, image_in)
        made = _sum_of(tokens.output_tokens, text_out, image_out)
        if given is None and made is not None and tokens.total_tokens is not None:
            given = max(tokens.total_tokens - made, 0)
        if made is None and given is not None and tokens.total_tokens is not None:
            made = max(tokens.total_tokens - given, 0)
        if given is None or made is None or given + made == 0:
            return None
        # What no detail names is text going in, unless text was named, and image coming out.
        text_out = text_out or 0
        image_in = (
            image_in if image_in is not None else given - (given if text_in is None else text_in)
        )
        text_in = given - image_in
        # The cache is not told by kind: text first, which spares least.
        cached_text = min(tokens.input_cached_tokens or 0, text_in)
        cached_image = min((tokens.input_cached_tokens or 0) - cached_text, image_in)
        return cls(
            text_input=text_in - cached_text,
            image_input=image_in - cached_image,
            cached_text_input=cached_text,
            cached_image_input=cached_image,
            image_output=made - text_out,
            text_output=text_out,
        )

    def at(self, rates: TokenRates) -> list[tuple[int, Decimal | None]]:
        """Each count with its rate. Without a rate of its own, the cache costs what fresh input
        costs, and text coming out what an image does, so that nothing goes free."""
        cached_text, cached_image = rates.cached_text_input, rates.cached_image_input
        return [
            (self.text_input, rates.text_input),
            (self.image_input, rates.image_input),
            (self.cached_text_input, rates.text_input if cached_text is None else cached_text),
            (self.cached_image_input, rates.image_input if cached_image is None else cached_image),
            (self.image_output, rates.image_output),
            (
                self.text_output,
                rates.image_output if rates.text_output is None else rates.text_output,
            ),
        ]


def _sum_of(total: int | None, *details: int | None) -> int | None:
    """The total as told, or more if its details say more; their sum where it is not told."""
    told = [detail for detail in details if detail is not None]
    if total is None:
        return sum(told) if told else None
    return max(total, sum(told))


def is_open(choice: str | None) -> bool:
    """Whether the endpoint chooses, among sizes or qualities."""
    return choice in (None, "auto")


def _choices(
    table: Mapping[str, Mapping[str, _Value]], size: str | None, quality: str | None
) -> list[_Value]:
    """The entries that a size and a quality can come to; "*" is what nothing nearer names."""
    rows = list(table.values())
    if size is not None and not is_open(size):
        rows = [table[key] for key in (size, ANY) if key in table]
    if quality is None or is_open(quality):
        return [entry for row in rows for entry in row.values()]
    nearest = [
        row[quality] if quality in row else row[ANY] for row in rows if {quality, ANY} & set(row)
    ]
    return nearest if is_open(size) else nearest[:1]


def _per_million(rate: Decimal, tokens: int) -> Decimal:
    return (rate * tokens).scaleb(-6)
