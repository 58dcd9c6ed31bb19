"""One image, as it is asked for: `ImageRequest`, its hard limits, its body and its fingerprint."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypedDict

from dagster_imagegen.engine.errors import InvalidRequest

PROMPT_MAX_CHARACTERS = 32_000
USER_MAX_CHARACTERS = 256
TRANSPARENT_FORMATS = ("png", "webp")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class ImageParams(TypedDict, total=False):
    """The parameters of a request that a user can set, for an asset or (`overrides`) for a row.

    All but `n`, `revision` and `extra_body` are the reference's own, sent as set. `n` images are
    `n` requests of one image each. `revision` is not sent: raising it asks for the image anew.
    `extra_body` is merged into the request body for servers that need more.
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


@dataclass(frozen=True, kw_only=True)
class ImageRequest:
    """One request for one image.

    `None` leaves a parameter out of the body. `extra_body` is canonical JSON of an object, or "".
    Strings of the endpoint (sizes, models, qualities) are not judged here; hard limits are, by
    `check`.
    """

    endpoint_id: str
    model: str
    prompt: str
    size: str | None = "auto"
    quality: str | None = None
    background: str | None = None
    output_format: str | None = None
    output_compression: int | None = None
    moderation: str | None = None
    stream: bool | None = None
    partial_images: int | None = None
    user: str | None = None
    extra_body: str = ""
    revision: int = 0
    variant: int = 0

    @cached_property
    def fingerprint(self) -> str:
        """sha256, in hex, of what decides the image.

        Not in it: `user`, `moderation`, streaming, and whatever names the run or the row.
        """
        identity = {
            "endpoint_id": self.endpoint_id,
            "model": self.model,
            "prompt": self.prompt,
            "size": self.size,
            "quality": self.quality,
            "background": self.background,
            "output_format": self.output_format,
            "output_compression": self.output_compression,
            "extra_body": self.extra_body,
            "revision": self.revision,
            "variant": self.variant,
        }
        return hashlib.sha256(canonical_json(identity).encode()).hexdigest()

    def body(self) -> dict[str, Any]:
        """The JSON body: `prompt`, `model`, `n`, and nothing else that was not set."""
        optional = {
            "size": self.size,
            "quality": self.quality,
            "background": self.background,
            "output_format": self.output_format,
            "output_compression": self.output_compression,
            "moderation": self.moderation,
            "stream": self.stream,
            "partial_images": self.partial_images,
            "user": self.user,
        }
        return {
            "model": self.model,
            "prompt": self.prompt,
            "n": 1,
            **{name: value for name, value in optional.items() if value is not None},
            **(json.loads(self.extra_body) if self.extra_body else {}),
        }

    def check(self, *, streaming_needs_partials: bool = False) -> None:
        """Raise `InvalidRequest` for the first hard limit of the reference that this breaks.

        `streaming_needs_partials` is the reference's own rule, which OpenAI does not have.
        """
        for problem in self.problems(streaming_needs_partials=streaming_needs_partials):
            raise problem

    def problems(self, *, streaming_needs_partials: bool = False) -> Iterator[InvalidRequest]:
        """Every hard limit of the reference that this breaks, as `check` would raise it."""
        yield from self._text_problems()
        if self.output_compression is not None and not 0 <= self.output_compression <= 100:
            yield InvalidRequest("output_compression", self.output_compression, "is 0 to 100")
        if self.background == "transparent" and self.output_format not in (
            None,
            *TRANSPARENT_FORMATS,
        ):
            yield InvalidRequest(
                "background", self.background, "needs output_format png or webp, which hold alpha"
            )
        if self.partial_images is not None and self.partial_images < 0:
            yield InvalidRequest("partial_images", self.partial_images, "is at least 0")
        if self.stream and streaming_needs_partials and not self.partial_images:
            yield InvalidRequest(
                "partial_images",
                self.partial_images,
                "this endpoint streams only with partial_images of at least 1; set it, or "
                "leave stream out",
            )
        if self.revision < 0:
            yield InvalidRequest("revision", self.revision, "is at least 0")

    def _text_problems(self) -> Iterator[InvalidRequest]:
        if not self.prompt.strip():
            yield InvalidRequest("prompt", self.prompt, "a prompt cannot be empty")
        if len(self.prompt) > PROMPT_MAX_CHARACTERS:
            yield InvalidRequest(
                "prompt",
                self.prompt,
                f"has {len(self.prompt):,} characters; at most {PROMPT_MAX_CHARACTERS:,} are taken",
            )
        if has_lone_surrogate(self.prompt):
            yield InvalidRequest(
                "prompt", self.prompt, "holds a lone surrogate, which UTF-8 cannot carry; remove it"
            )
        if not self.model:
            yield InvalidRequest("model", self.model, "a model has to be named")
        if self.user is not None and len(self.user) > USER_MAX_CHARACTERS:
            yield InvalidRequest(
                "user", self.user, f"at most {USER_MAX_CHARACTERS} characters are taken"
            )


def has_lone_surrogate(text: str) -> bool:
    """Whether UTF-8, hence JSON on the wire and Parquet, cannot carry the text."""
    return not text.isascii() and _LONE_SURROGATE.search(text) is not None


def canonical_json(value: object) -> str:
    """JSON of one spelling: sorted keys, no spaces, ASCII only, no NaN."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )
