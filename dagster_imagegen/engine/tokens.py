"""Token counts, as a provider's answer reports them."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class TokenUsage:
    """The token counts of one answer. A count that it does not report is None, never 0."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    input_text_tokens: int | None = None
    input_image_tokens: int | None = None
    input_cached_tokens: int | None = None
    output_text_tokens: int | None = None
    output_image_tokens: int | None = None
