"""One request for one image, and the table of its parameters.

The table is the fields of `ImageRequest` that are annotated with a `Parameter`. The request body,
the fingerprint, the limits, the columns of the usage table and the checks of asset arguments and
prompt tables all follow from it. A new parameter is one such field, and one line in `ImageParams`.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, replace
from functools import cache, cached_property, lru_cache, wraps
from json.encoder import encode_basestring_ascii
from operator import attrgetter
from typing import Annotated, Any, Literal, TypeAlias, TypedDict, TypeVar, get_type_hints

from dagster_imagegen.engine.errors import InvalidRequest

Kind: TypeAlias = Literal["text", "integer", "boolean", "mapping"]
Column: TypeAlias = Literal["string", "int32", "int64", "bool"]

T = TypeVar("T")
KEPT_CHARACTERS = 4_096
"""Of a parameter, in what is kept to be used for other rows."""
INTEGER_MAX = 2**31 - 1
"""The largest integer parameter: what an int32 column of the usage table holds."""

N_MAX = 10_000
"""The most images of one row, so that a year or a price in the wrong column is an error."""

_UNPRICED_FORMATS = frozenset({"gif", "svg"})
_COLUMNS: Mapping[Kind, Column] = {"integer": "int32", "boolean": "bool"}
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class ImageParams(TypedDict, total=False):
    """The parameters that a user can set, for an asset or (with `overrides`) for a row.

    All but `n`, `revision` and `extra_body` are sent as they are. `n` images are `n` requests of
    one image each. `revision` is not sent; a higher one regenerates the image. `extra_body` is
    merged into the request body, for servers that take further parameters.
    """

    model: str
    n: int
    size: str | None
    quality: str | None
    background: str | None
    output_format: str | None
    output_compression: int | None
    moderation: str | None
    stream: bool | None
    partial_images: int | None
    user: str | None
    extra_body: Mapping[str, Any] | None
    revision: int
    complexity: str | None
    frame_count: int | None
    frame_duration_ms: int | None
    svg: Mapping[str, Any] | None
    safety_identifier: str | None


@dataclass(frozen=True)
class Parameter:
    """One row of the table of parameters: everything that depends on which parameter it is."""

    kind: Kind
    """A mapping is held as canonical JSON of an object, "" where it is not set."""

    _: KW_ONLY
    name: str = ""
    """The name of the annotated field, which `parameters_of` fills in."""

    nullable: bool = True
    """Whether None is allowed, and leaves it out. If not, a text must not be empty either."""

    minimum: int = 0
    maximum: int = INTEGER_MAX
    max_characters: int | None = None
    body: Literal["field", "merged", "no"] = "field"
    """Sent as a field of the body, merged into the body, or not sent."""

    fingerprint: Literal["always", "when_set", "no"] = "when_set"
    """Whether it decides the image. Unset parameters of the first release are in the fingerprint
    as null ("always"). Later ones are "when_set", so that the fingerprints of older images hold."""

    is_priced: bool = True
    """False where no price is published for what it asks for, so that a price by tokens does not
    bound a request that sets it."""

    allowed_in_extra_body: bool = False
    """Whether `extra_body` can have it as well. Earlier releases had no other place for it, and the
    fingerprints of what was made so have to hold."""

    column: Column | Literal["by_kind"] | None = "by_kind"
    description: str = "as sent"
    """Type and description of its column in the usage table; None for no column."""

    repeats_prompt: bool = False
    """Whether it can repeat the prompt, so that it is recorded only where prompts are."""

    @property
    def column_type(self) -> Column | None:
        """The type of its column in the usage table; None for no column."""
        return _COLUMNS.get(self.kind, "string") if self.column == "by_kind" else self.column

    def is_set(self, value: object) -> bool:
        """Whether a value is neither None nor the mapping ""."""
        return value is not None and not (self.kind == "mapping" and value == "")

    def problems(self, value: Any) -> Iterator[InvalidRequest]:
        """The limits that a value of the right type breaks."""
        if value is None:
            if not self.nullable:
                yield InvalidRequest(self.name, None, "must be set")
        elif self.kind == "text":
            yield from self._text_problems(value)
        elif self.kind == "integer" and value < self.minimum:
            yield InvalidRequest(self.name, value, f"must be at least {self.minimum:,}")
        elif self.kind == "integer" and value > self.maximum:
            yield InvalidRequest(self.name, value, f"must be at most {self.maximum:,}")

    def _text_problems(self, value: str) -> Iterator[InvalidRequest]:
        if not self.nullable and not value.strip():
            yield InvalidRequest(self.name, value, "must not be empty")
        if self.max_characters is not None and len(value) > self.max_characters:
            rule = f"must have at most {self.max_characters:,} characters"
            yield InvalidRequest(self.name, value, rule, got=f"{len(value):,}:")
        if has_lone_surrogate(value):
            rule = "must not contain a lone surrogate"
            yield InvalidRequest(self.name, value, rule, remedy="UTF-8 cannot encode it; remove it")


PROMPT = Parameter("text", name="prompt", nullable=False, max_characters=32_000)
"""The rules for a prompt, which comes from the prompt table and not from `ImageParams`."""


@dataclass(frozen=True, kw_only=True)
class ImageRequest:
    """One request for one image.

    None leaves a parameter out of the body. Models, sizes, qualities and other names are the
    endpoint's to judge; `check` judges hard limits alone.
    """

    endpoint_id: str
    prompt: str
    variant: int = 0
    """0 to n-1, for the n images of one prompt row."""

    model: Annotated[str, Parameter("text", nullable=False, fingerprint="always")]
    size: Annotated[str | None, Parameter("text", fingerprint="always")] = "auto"
    quality: Annotated[str | None, Parameter("text", fingerprint="always")] = None
    background: Annotated[str | None, Parameter("text", fingerprint="always")] = None
    output_format: Annotated[str | None, Parameter("text", fingerprint="always")] = None
    output_compression: Annotated[
        int | None, Parameter("integer", maximum=100, fingerprint="always")
    ] = None
    moderation: Annotated[str | None, Parameter("text", fingerprint="no")] = None
    stream: Annotated[bool | None, Parameter("boolean", fingerprint="no")] = None
    partial_images: Annotated[int | None, Parameter("integer", fingerprint="no")] = None
    user: Annotated[str | None, Parameter("text", max_characters=256, fingerprint="no")] = None
    extra_body: Annotated[
        str,
        Parameter(
            "mapping",
            body="merged",
            fingerprint="always",
            repeats_prompt=True,  # A negative_prompt, say.
            description="further body parameters as JSON; null where prompts are not recorded",
        ),
    ] = ""
    revision: Annotated[
        int,
        Parameter(
            "integer",
            nullable=False,
            body="no",
            fingerprint="always",
            column="int64",
            description="raise it to regenerate the image; not sent",
        ),
    ] = 0
    complexity: Annotated[
        str | None, Parameter("text", is_priced=False, allowed_in_extra_body=True)
    ] = None
    frame_count: Annotated[
        int | None,
        Parameter("integer", minimum=2, maximum=16, is_priced=False, allowed_in_extra_body=True),
    ] = None
    frame_duration_ms: Annotated[
        int | None, Parameter("integer", is_priced=False, allowed_in_extra_body=True)
    ] = None
    svg: Annotated[str, Parameter("mapping", is_priced=False, allowed_in_extra_body=True)] = ""
    safety_identifier: Annotated[
        str | None, Parameter("text", fingerprint="no", allowed_in_extra_body=True)
    ] = None

    @cached_property
    def fingerprint(self) -> str:
        """sha256, in hex, of what decides the image.

        `user`, `moderation`, streaming, run and row ids are left out: they do not decide it.
        """
        head, tail = self.around_prompt(self.variant)
        return hashlib.sha256(f"{head}{canonical_text(self.prompt)}{tail}".encode()).hexdigest()

    def around_prompt(self, variant: int) -> tuple[str, str]:
        """What precedes and what follows the prompt in what `fingerprint` is the hash of."""
        return _around_prompt(type(self), self.endpoint_id, variant, *self._parameters)

    def body(self) -> dict[str, Any]:
        """The JSON body: `prompt`, `model`, `n`, and the parameters that are set."""
        return {"prompt": self.prompt, "n": 1, **_body_fields(type(self), *self._parameters)}

    @property
    def unpriced(self) -> tuple[str, ...]:
        """The parameters in its body for which no price is published: `svg`, say."""
        return _unpriced(type(self), self.output_format, *self._parameters)

    def recorded(self, *, prompts: bool) -> Mapping[str, Any]:
        """The parameters that are set, as columns of the usage table; without `prompts` none that
        can repeat a prompt."""
        return _recorded(type(self), prompts, *self._parameters)

    def check(self, *, streaming_needs_partials: bool = False) -> None:
        """Raise `InvalidRequest` for the first of `problems`."""
        for problem in self.problems(streaming_needs_partials=streaming_needs_partials):
            raise problem

    def problems(self, *, streaming_needs_partials: bool = False) -> Iterator[InvalidRequest]:
        """Every hard limit that this request breaks.

        Args:
            streaming_needs_partials: Whether the endpoint streams only with `partial_images` of
                at least 1. The reference endpoint does; OpenAI streams without.
        """
        yield from PROMPT.problems(self.prompt)
        for each, value in self._values():
            yield from each.problems(value)
        yield from self._set_twice()
        background, partials = self.background, self.partial_images
        if background == "transparent" and self.output_format == "jpeg":
            rule = f"must not be transparent with output_format {self.output_format!r}"
            remedy = "use output_format png or webp"
            yield InvalidRequest("background", background, rule, remedy=remedy)
        if self.stream and streaming_needs_partials and not partials:
            rule = "must be at least 1 to stream from this endpoint"
            remedy = "set it, or leave out stream"
            yield InvalidRequest("partial_images", partials, rule, remedy=remedy)

    def _set_twice(self) -> Iterator[InvalidRequest]:
        extra = json.loads(self.extra_body) if self.extra_body else {}
        for each, value in self._values():
            if each.allowed_in_extra_body and each.name in extra and each.is_set(value):
                yield InvalidRequest(each.name, value, "must not be set in extra_body as well")

    @property
    def _parameters(self) -> tuple[Any, ...]:
        return _values_of(type(self))(self)

    def _values(self) -> Iterator[tuple[Parameter, Any]]:
        return zip(parameters_of(type(self)), self._parameters, strict=True)


@cache
def parameters_of(request: type[ImageRequest]) -> tuple[Parameter, ...]:
    """The table of parameters: the rows of a request class, in the order of its fields."""
    hints = get_type_hints(request, include_extras=True)
    return tuple(
        replace(row, name=name)
        for name, hint in hints.items()
        for row in getattr(hint, "__metadata__", ())
        if isinstance(row, Parameter)
    )


@cache
def _values_of(request: type[ImageRequest]) -> Callable[[ImageRequest], tuple[Any, ...]]:
    return attrgetter(*(each.name for each in parameters_of(request)))


def _once_for_each(make: Callable[..., T]) -> Callable[..., T]:
    """A million rows have few different parameters: what follows from them is made once for each.

    Not kept with large texts, such as a picture in `extra_body`, of which each row has its own.
    """
    kept = lru_cache(maxsize=4_096, typed=True)(make)  # Typed: True and 1 differ in JSON.

    @wraps(make)
    def made(*values: Any) -> T:
        large = any(isinstance(value, str) and len(value) > KEPT_CHARACTERS for value in values)
        return make(*values) if large else kept(*values)

    return made


@_once_for_each
def _body_fields(request: type[ImageRequest], *values: Any) -> Mapping[str, Any]:
    """What the body holds beside the prompt and the number of images."""
    body: dict[str, Any] = {}
    for each, value in zip(parameters_of(request), values, strict=True):
        if each.body != "no" and each.is_set(value):
            sent = json.loads(value) if each.kind == "mapping" else value
            body |= sent if each.body == "merged" else {each.name: sent}
    return body


@_once_for_each
def _unpriced(
    request: type[ImageRequest], output_format: str | None, *values: Any
) -> tuple[str, ...]:
    body = _body_fields(request, *values)
    names = [each.name for each in parameters_of(request) if not each.is_priced]
    found = [name for name in names if body.get(name) is not None]
    return (*found, *(["output_format"] if output_format in _UNPRICED_FORMATS else []))


@_once_for_each
def _recorded(request: type[ImageRequest], prompts: bool, *values: Any) -> Mapping[str, Any]:
    return {
        each.name: value
        for each, value in zip(parameters_of(request), values, strict=True)
        if each.column_type and each.is_set(value) and (prompts or not each.repeats_prompt)
    }


@_once_for_each
def _around_prompt(
    request: type[ImageRequest], endpoint_id: str, variant: int, *values: Any
) -> tuple[str, str]:
    """What precedes and what follows the prompt in the canonical JSON of what decides the image."""
    identity = {
        "endpoint_id": endpoint_id,
        "variant": variant,
        **{
            each.name: value
            for each, value in zip(parameters_of(request), values, strict=True)
            if each.fingerprint == "always"
            or (each.fingerprint == "when_set" and each.is_set(value))
        },
    }
    before = {name: value for name, value in identity.items() if name < "prompt"}
    after = {name: value for name, value in identity.items() if name > "prompt"}
    return f'{canonical_json(before)[:-1]},"prompt":', f",{canonical_json(after)[1:]}"


N = Parameter("integer", name="n", nullable=False, minimum=1, maximum=N_MAX, column=None)
"""The number of images of a prompt row. Each is a request of its own, whose body has n = 1."""

PARAMETERS: Mapping[str, Parameter] = {
    each.name: each for each in (N, *parameters_of(ImageRequest))
}
"""Every parameter that a user can set, by name: the keys of `ImageParams`."""


def is_sound_text(text: str, parameter: Parameter) -> bool:
    """Whether a text, which must not be empty, has no `problems`: quicker for a million of them."""
    most = parameter.max_characters
    return (
        (most is None or len(text) <= most)
        and text != ""
        and not text.isspace()
        and not has_lone_surrogate(text)
    )


def has_lone_surrogate(text: str) -> bool:
    """Whether a text cannot be encoded as UTF-8, hence neither sent nor written to Parquet."""
    return not text.isascii() and _LONE_SURROGATE.search(text) is not None


def canonical_json(value: object) -> str:
    """JSON in one spelling: sorted keys, no spaces, ASCII only, no NaN.

    Raises:
        TypeError: JSON cannot hold a value of this type.
        ValueError: A number is NaN or infinite.
    """
    return _CANONICAL.encode(value)


canonical_text = encode_basestring_ascii
"""`canonical_json` of a text, and quicker for a million of them."""

_CANONICAL = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
)
"""Made once: a new encoder takes longer than a prompt."""
