"""What an image costs at the provider: the published token table and price list.

Written apart from the engine's price list on purpose: tests hold one against the other.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

PARTIAL_IMAGE_TOKENS = 100
CHARACTERS_PER_TOKEN = 4


_TOKENS = {
    "1024x1024": (272, 1056, 4160),
    "1024x1536": (408, 1584, 6240),
    "1536x1024": (400, 1568, 6208),
}


@dataclass(frozen=True)
class ModelFamily:
    """Models whose names begin alike: USD per million tokens, and output tokens per image."""

    text_in: int
    image_out: int
    qualities: tuple[str, ...] = ("low", "medium", "high")
    tokens: Mapping[str, tuple[int, ...]] = field(default_factory=lambda: _TOKENS)  # by size
    only_one_image: bool = False  # in DigitalOcean's dialect; elsewhere every model makes more
    any_size: bool = False  # one between those of the table costs what the next larger does


_GPT_IMAGE_1_5 = ModelFamily(5, 32, only_one_image=True)
_GPT_IMAGE_2_5 = ModelFamily(
    5,
    30,
    ("low", "medium", "high", "xhigh", "max"),
    {
        "1024x1024": (196, 439, 1756, 3122, 7024),
        "1536x1024": (158, 343, 1372, 2459, 5488),
    },
    any_size=True,
)
FAMILIES = {
    "gpt-image-1-mini": ModelFamily(2, 8, only_one_image=True),
    "gpt-image-1.5": _GPT_IMAGE_1_5,
    "chatgpt-image-latest": _GPT_IMAGE_1_5,
    "gpt-image-1": ModelFamily(5, 40, only_one_image=True),
    "gpt-image-2.5": _GPT_IMAGE_2_5,
    "gpt-image-2.6": _GPT_IMAGE_2_5,
    "gpt-image-2": ModelFamily(
        5,
        30,
        tokens={
            "1024x1024": (196, 1756, 7024),
            "1536x1024": (158, 1372, 5488),
            "1024x1536": (158, 1372, 5488),
            "3840x2160": (371, 3336, 13342),
            "2160x3840": (371, 3336, 13342),
        },
        any_size=True,
    ),
}
_ANY = ModelFamily(5, 40)  # any model is served; others are billed like this


def family_of(model: str) -> ModelFamily:
    """The family of a model, with or without `openai-` or `openai/` before its name."""
    name = model.removeprefix("openai-").removeprefix("openai/")
    for prefix, family in FAMILIES.items():
        if name.startswith(prefix):
            return family
    return _ANY


def is_known(model: str) -> bool:
    """Whether the sandbox has this model's own prices and qualities."""
    return family_of(model) is not _ANY


def input_tokens(prompt: str) -> int:
    """One token for every four characters, rounded up; not OpenAI's tokenizer."""
    return math.ceil(len(prompt) / CHARACTERS_PER_TOKEN)


def output_tokens(model: str, *, width: int, height: int, quality: str, partials: int) -> int:
    """Tokens of one image: the table's, or for other sizes the square's in proportion to area.

    Models that take any size bill one that lies within a size of the table like that one. A quality
    that is not in the table counts as the most expensive one.
    """
    family = family_of(model)
    column = family.qualities.index(quality) if quality in family.qualities else -1
    row = family.tokens.get(f"{width}x{height}")
    if row is None and family.any_size:
        row = _next_larger(family.tokens, width, height)
    square = family.tokens["1024x1024"][column]
    image = row[column] if row else math.ceil(square * width * height / (1024 * 1024))
    return image + PARTIAL_IMAGE_TOKENS * partials


def _next_larger(
    table: Mapping[str, tuple[int, ...]], width: int, height: int
) -> tuple[int, ...] | None:
    """The row of the smallest size that the picture fits in, upright or lying."""
    for size in sorted(table, key=lambda size: math.prod(map(int, size.split("x")))):
        sides = sorted(map(int, size.split("x")))
        if min(width, height) <= sides[0] and max(width, height) <= sides[1]:
            return table[size]
    return None


def cost_usd(model: str, *, input_count: int, output_count: int) -> Decimal:
    """The bill for these tokens."""
    family = family_of(model)
    return Decimal(family.text_in * input_count + family.image_out * output_count) / 1_000_000
