"""Calls for images: a prompt or a prompt table in, an image or an image table out."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Protocol, TypeAlias

import dagster as dg
import pyarrow as pa

from dagster_imagegen.engine.attempt import Outcome
from dagster_imagegen.engine.endpoint.response import OnPartial
from dagster_imagegen.engine.engine import Engine
from dagster_imagegen.engine.errors import ConfigurationError, NoImage
from dagster_imagegen.engine.prompts.rows import PromptTable
from dagster_imagegen.engine.request import ImageParams
from dagster_imagegen.engine.run.thread import Generation
from dagster_imagegen.metadata import check_carried

AssetKeyLike: TypeAlias = dg.AssetKey | str | Sequence[str]


class Begin(Protocol):
    """Begins the pass of a call, on whosever behalf it is."""

    def __call__(
        self, prompts: PromptTable, *, on_partial: OnPartial | None = None
    ) -> Generation: ...


@dataclass(frozen=True, kw_only=True)
class StoredImage:
    """The image that `generate` returns, made now (`generated`) or before (`reused`).

    `data` is exactly what the provider sent. `cost_usd` is what the image cost when it was made, as
    far as anybody can tell, and `cost_usd_max` the most that may have been charged for it.
    """

    status: str
    data: bytes = field(repr=False)
    uri: str
    path: str
    sha256: str
    format: str
    width: int | None
    height: int | None
    revised_prompt: str | None
    cost_usd: Decimal | None
    cost_usd_max: Decimal | None
    cost_basis: str
    attempt_id: str


def generate_one(
    engine: Engine,
    begin: Begin,
    prompt: str,
    params: ImageParams,
    *,
    on_partial: OnPartial | None = None,
) -> StoredImage:
    """The image of one prompt. Raises `NoImage` if there is none."""
    n = params.get("n", 1)
    if n != 1:
        raise ConfigurationError(f"n must be 1 for generate(), got {n!r}; use generate_many()")
    if on_partial is not None and not (params.get("stream") and params.get("partial_images")):
        raise ConfigurationError(
            "on_partial needs a stream of partial images; set stream=True and partial_images"
        )
    table = read_table(engine, [prompt], params=params)
    (outcome,) = finished(begin(table, on_partial=on_partial)).outcomes.values()
    if outcome.status not in ("generated", "reused"):
        asked = f" for {prompt!r}" if engine.settings.record_prompts else ""
        told = outcome.error_message or outcome.error_code or "without a message"
        raise NoImage(
            f"no image{asked}: {outcome.status}: {told}",
            status=outcome.status,
            code=outcome.error_code,
        )
    return _stored_image(engine, outcome)


def generate_table(
    engine: Engine,
    begin: Begin,
    prompts: object,
    params: ImageParams,
    *,
    template: str | None = None,
    overrides: Sequence[str] = (),
) -> pa.Table:
    """The image table of a prompt table."""
    table = read_table(engine, prompts, params=params, template=template, overrides=overrides)
    for warning in table.warnings:
        dg.get_dagster_logger("dagster_imagegen").warning(warning)
    generation = finished(begin(table))
    return engine.image_table(generation.plan, generation.outcomes)


def finished(generation: Generation) -> Generation:
    """Wait for every outcome; on an interruption, only for the requests in flight."""
    with generation:
        warnings = generation.plan.warnings
        for warning in (*warnings, *filter(None, [generation.warning])):
            logging.getLogger(__name__).warning(warning)
        generation.wait()
    return generation


def read_table(
    engine: Engine,
    source: object,
    *,
    params: ImageParams,
    template: str | None = None,
    overrides: Sequence[str] = (),
    carry_prefix: str | None = None,
) -> PromptTable:
    """The requests of a prompt table, of an asset and of a call alike.

    Raises `ConfigurationError` for one that cannot be sent, or become an image table.
    """
    table = engine.read_prompts(
        source,
        params=params,
        template=template,
        overrides=overrides,
        carry_prefix=carry_prefix,
    )
    check_carried(table.carried, show_values=engine.settings.record_prompts)
    return table


def _stored_image(engine: Engine, outcome: Outcome) -> StoredImage:
    attempt, image = outcome.attempt, outcome.image
    if attempt is None or attempt.result is None or image is None:
        raise ValueError(f"an outcome without an image: {outcome}")
    return StoredImage(
        status=outcome.status,
        data=engine.read_image(image.path),
        uri=engine.image_uri(image.path),
        path=image.path,
        sha256=image.sha256 or "",
        format=image.format or "",
        width=image.width,
        height=image.height,
        revised_prompt=attempt.result.reply.revised_prompt,
        cost_usd=attempt.result.cost.usd,
        cost_usd_max=attempt.result.cost.most_usd,
        cost_basis=attempt.result.cost.basis,
        attempt_id=attempt.attempt_id,
    )


def key_text(key: AssetKeyLike | None) -> str | None:
    """The text that usage rows name an asset by."""
    if key is None:
        return None
    return (key if isinstance(key, dg.AssetKey) else dg.AssetKey(key)).to_user_string()


def partition_text(key: object) -> str | None:
    """A partition key. Raises `ConfigurationError` unless it is text."""
    if key is not None and not isinstance(key, str):
        raise ConfigurationError(f"partition_key must be text, got {type(key).__name__} {key!r}")
    return key
