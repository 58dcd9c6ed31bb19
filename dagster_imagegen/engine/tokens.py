"""Token counts as a provider answers them."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class TokenUsage:
    """What an answer says it counted. `None` is "not said", never 0."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    input_text_tokens: int | None = None
    input_image_tokens: int | None = None
    input_cached_tokens: int | None = None
    output_text_tokens: int | None = None
    output_image_tokens: int | None = None
