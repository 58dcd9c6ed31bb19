"""Reads the body of a request and checks it against the reference's hard limits."""

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, TypeVar

from dagster_imagegen.sandbox import metering
from dagster_imagegen.sandbox.errors import ApiError, Dialect

Shape = Literal["openai", "together", "xai", "sglang", "vllm", "localai", "litellm", "bare", "raw"]

T = TypeVar("T")
TYPE_NAMES: Mapping[type, str] = {
    str: "a string", bool: "a boolean", int: "an integer", dict: "an object",
}  # fmt: skip
DEFAULT_MODEL = "openai-gpt-image-1"
JPEG_BY_DEFAULT = ("together", "xai")
URL_BY_DEFAULT = ("xai", "sglang", "localai")
AUTO_SIZES = ("1024x1024", "1536x1024", "1024x1536")
SMALLEST_SIDE, LARGEST_SIDE = 16, 4096
MOST_IMAGES = 10
# More may be asked for; like OpenAI, the sandbox then sends fewer.
MOST_PARTIALS = 3
ALL_FORMATS = ("png", "webp", "jpeg", "gif", "svg")
DIGITALOCEAN_FORMATS = ALL_FORMATS[:3]
COMPLEXITIES = ("low", "medium", "high")
FRAMES, FRAME_MS = 9, 200  # unless told


@dataclass(frozen=True, kw_only=True)
class ImageOrder:
    """A request that can be answered: every `auto` is resolved to what will be made and billed."""

    model: str
    prompt: str
    n: int
    width: int
    height: int
    quality: str
    background: str
    output_format: str
    output_compression: int | None
    partial_images: int
    stream: bool
    as_url: bool
    frames: int = 1
    frame_ms: int = FRAME_MS

    @property
    def size(self) -> str:
        """`WIDTHxHEIGHT`."""
        return f"{self.width}x{self.height}"

    @property
    def input_tokens(self) -> int:
        """Tokens of the prompt."""
        return metering.input_tokens(self.prompt)

    @property
    def output_tokens(self) -> int:
        """Tokens of all images. No price of a GIF is published; here each frame is an image."""
        return (
            self.n
            * self.frames
            * metering.output_tokens(
                self.model,
                width=self.width,
                height=self.height,
                quality=self.quality,
                partials=self.partial_images,
            )
        )

    @property
    def cost_usd(self) -> Decimal:
        """The bill at list price."""
        return metering.cost_usd(
            self.model, input_count=self.input_tokens, output_count=self.output_tokens
        )


def read_order(
    body: Mapping[str, Any], *, shape: Shape, strict_sizes: bool, dialect: Dialect = "openai"
) -> ImageOrder:
    """What `body` asks for. A bad value raises an `ApiError` that names the parameter."""
    reference = dialect == "digitalocean"
    prompt = _text(body, "prompt", at_most=32_000)
    if not prompt:
        message = "Missing required parameter: 'prompt'."
        raise ApiError(400, "missing_required_parameter", message, param="prompt")
    if re.search(r"[\ud800-\udfff]", prompt):
        raise _invalid("prompt", "a lone surrogate is not text")
    model = _text(body, "model") or DEFAULT_MODEL
    _text(body, "user", at_most=256)
    _text(body, "safety_identifier")
    _choice(body, "moderation", ("auto", "low"))
    _choice(body, "complexity", COMPLEXITIES)
    stream = _typed(body, "stream", bool) or False
    partials = _integer(body, "partial_images", at_least=0) or 0
    if stream and not partials and reference:
        raise _invalid("partial_images", "must be greater than 0 when stream is true")
    width, height = _read_size(body, model, prompt, shape=shape, strict=strict_sizes)
    default_format = "jpeg" if shape in JPEG_BY_DEFAULT else "png"
    formats = DIGITALOCEAN_FORMATS if reference else ALL_FORMATS
    output_format = _choice(body, "output_format", formats) or default_format
    frames, frame_ms = _read_frames(body, output_format, moving=stream or bool(partials))
    n = _read_count(body, model, stream=stream, reference=reference)
    _check_svg(body, output_format, n=n, stream=stream)
    return ImageOrder(
        model=model,
        prompt=prompt,
        n=n,
        width=width,
        height=height,
        quality=_read_quality(body, model, prompt),
        background=_read_background(body, prompt, output_format),
        output_format=output_format,
        output_compression=_read_compression(body, output_format),
        partial_images=min(partials, MOST_PARTIALS) if stream else 0,
        stream=stream,
        as_url=_read_response_format(body, model, shape=shape) and not stream,
        frames=frames,
        frame_ms=frame_ms,
    )


def _read_frames(body: Mapping[str, Any], output_format: str, *, moving: bool) -> tuple[int, int]:
    """How many frames, and how long each is shown. `moving`: with streaming or partial images."""
    frames = _integer(body, "frame_count", at_least=2, at_most=16)
    frame_ms = _integer(body, "frame_duration_ms", at_least=1)
    if output_format != "gif":
        for name, value in (("frame_count", frames), ("frame_duration_ms", frame_ms)):
            if value is not None:
                raise _invalid(name, "needs output_format gif")
        return 1, FRAME_MS
    if moving:
        raise _invalid("output_format", "a gif has no stream and no partial images", value="gif")
    return frames or FRAMES, frame_ms or FRAME_MS


def _check_svg(body: Mapping[str, Any], output_format: str, *, n: int, stream: bool) -> None:
    if _typed(body, "svg", dict) is not None and output_format != "svg":
        raise _invalid("svg", "needs output_format svg")
    if output_format == "svg" and (n > 1 or stream):
        raise _invalid("n" if n > 1 else "stream", "an svg is one image without a stream")


def _read_count(body: Mapping[str, Any], model: str, *, stream: bool, reference: bool) -> int:
    n = _integer(body, "n", at_least=1, at_most=MOST_IMAGES) or 1
    if n > 1 and reference and metering.family_of(model).only_one_image:
        raise _invalid("n", f"must be 1 for {model}")
    if n > 1 and stream:
        raise _invalid("n", "must be 1 when stream is true")
    return n


def _read_size(
    body: Mapping[str, Any], model: str, prompt: str, *, shape: Shape, strict: bool
) -> tuple[int, int]:
    size = _text(body, "size")
    if size and shape == "xai":
        raise ApiError(400, None, "Argument not supported: size", param="size")
    if size is None or size == "auto":
        size = _pick(AUTO_SIZES, prompt, "size")
    match = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", size)
    allowed = metering.family_of(model).tokens
    if match is None or (strict and size not in allowed):
        raise _invalid("size", f"supported values are: {', '.join([*allowed, 'auto'])}", value=size)
    width, height = int(match[1]), int(match[2])
    if not all(SMALLEST_SIDE <= side <= LARGEST_SIDE for side in (width, height)):
        raise _invalid("size", f"a side is {SMALLEST_SIDE} to {LARGEST_SIDE} pixels", value=size)
    return width, height


def _read_quality(body: Mapping[str, Any], model: str, prompt: str) -> str:
    qualities = metering.family_of(model).qualities
    if metering.is_known(model):
        quality = _choice(body, "quality", (*qualities, "auto"))
    else:
        quality = _text(body, "quality")
    # Some requests for `auto` turn out expensive, as with the provider.
    return _pick(qualities, prompt, "quality") if quality in (None, "auto") else quality


def _read_background(body: Mapping[str, Any], prompt: str, output_format: str) -> str:
    background = _choice(body, "background", ("transparent", "opaque", "auto")) or "auto"
    if background == "transparent" and output_format == "jpeg":
        raise _invalid("background", "transparent needs output_format png or webp")
    if background == "auto":
        wanted = "transparent background" in prompt.lower() and output_format != "jpeg"
        return "transparent" if wanted else "opaque"
    return background


def _read_compression(body: Mapping[str, Any], output_format: str) -> int | None:
    compression = _integer(body, "output_compression", at_least=0, at_most=100)
    if output_format not in ("webp", "jpeg"):
        if compression not in (None, 100):
            raise _invalid("output_compression", "less than 100 needs output_format webp or jpeg")
        return None
    return compression


def _read_response_format(body: Mapping[str, Any], model: str, *, shape: Shape) -> bool:
    wanted = _text(body, "response_format")
    if wanted is None:
        return shape in URL_BY_DEFAULT
    if shape == "openai" and metering.is_known(model):
        message = "Unknown parameter: 'response_format'."
        raise ApiError(400, "unknown_parameter", message, param="response_format")
    return wanted == "url"


def _pick(choices: tuple[str, ...], prompt: str, salt: str) -> str:
    """The same one of `choices` for the same prompt."""
    digest = hashlib.sha256(f"{salt}:{prompt}".encode()).digest()
    return choices[digest[0] % len(choices)]


def _text(body: Mapping[str, Any], name: str, *, at_most: int | None = None) -> str | None:
    value = _typed(body, name, str)
    if value is not None and at_most is not None and len(value) > at_most:
        message = f"Invalid '{name}': string too long. Expected at most {at_most} characters"
        raise ApiError(400, "string_above_max_length", f"{message}, got {len(value)}.", param=name)
    return value


def _choice(body: Mapping[str, Any], name: str, choices: tuple[str, ...]) -> str | None:
    value = _typed(body, name, str)
    if value is not None and value not in choices:
        raise _invalid(name, f"supported values are: {', '.join(choices)}", value=value)
    return value


def _integer(
    body: Mapping[str, Any], name: str, *, at_least: int, at_most: float = math.inf
) -> int | None:
    value = _typed(body, name, int)
    if value is None or at_least <= value <= at_most:
        return value
    bound, limit = ("least", at_least) if value < at_least else ("most", at_most)
    code = "integer_below_min_value" if value < at_least else "integer_above_max_value"
    message = f"Invalid '{name}': expected a value of at {bound} {limit}, got {value}."
    raise ApiError(400, code, message, param=name)


def _typed(body: Mapping[str, Any], name: str, kind: type[T]) -> T | None:
    value = body.get(name)
    if value is None or type(value) is kind:  # not isinstance: to Python, true is an integer
        return value
    message = f"Invalid type for '{name}': expected {TYPE_NAMES[kind]}."
    raise ApiError(400, "invalid_type", message, param=name)


def _invalid(name: str, remedy: str, *, value: str | None = None) -> ApiError:
    shown = "" if value is None else f": '{value}'"
    return ApiError(400, "invalid_value", f"Invalid '{name}'{shown}; {remedy}.", param=name)
