"""The image table: what the prompt table asked for, and what became of it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from dagster_imagegen.engine.attempt import Outcome
from dagster_imagegen.engine.prompts.table import PromptTable
from dagster_imagegen.engine.record.schema import MONEY, TIME

SCHEMA_METADATA: dict[bytes | str, bytes | str] = {"dagster_imagegen.image_table_schema": "1"}

OUR_COLUMNS: pa.Schema = pa.schema(
    [
        pa.field(name, kind, metadata={"description": text})
        for name, kind, text in (
            ("prompt_id", pa.string(), "the row's, or its position and a digest of its prompt"),
            ("prompt", pa.string(), "as sent"),
            ("image_variant", pa.int32(), "0 to n-1"),
            ("image_revision", pa.int64(), "raised to regenerate an image"),
            ("image_fingerprint", pa.string(), "sha256 of what decides the image"),
            (
                "image_status",
                pa.string(),
                "generated, reused, refused, failed, unknown or deferred",
            ),
            ("image_uri", pa.string(), "absolute, ready to open; null without an image"),
            ("image_path", pa.string(), "relative to the storage"),
            ("image_sha256", pa.string(), "of the stored bytes, which are the provider's"),
            ("image_size_bytes", pa.int64(), "of the stored bytes"),
            ("image_format", pa.string(), "as detected from the bytes"),
            ("image_width", pa.int32(), "pixels"),
            ("image_height", pa.int32(), "pixels"),
            ("image_revised_prompt", pa.string(), "as answered"),
            ("image_partial", pa.bool_(), "whether it is a partial image of a broken stream"),
            (
                "image_provenance",
                pa.string(),
                "marks of origin: none, c2pa, iptc:<type>; null: not looked for, or before 0.2",
            ),
            ("image_cost_usd", MONEY, "what the request behind it cost, whenever it was sent"),
            ("image_cost_usd_max", MONEY, "the most that may have been charged for it"),
            ("image_cost_basis", pa.string(), "where the cost comes from"),
            ("image_error_code", pa.string(), "why there is no image"),
            ("image_error_message", pa.string(), "why there is no image"),
            ("image_generated_at", TIME, "when the image was answered"),
            ("image_attempt_id", pa.string(), "the row of the usage table"),
        )
    ],
)

PUBLISHED_URI = pa.field(
    "image_published_uri",
    pa.string(),
    metadata={"description": "where the image is published; null without an image"},
)
"""The last column of an asset that publishes its images."""


def image_table(
    prompts: PromptTable, outcomes: Mapping[str, Outcome], *, uri: Callable[[str], str]
) -> pa.Table:
    """One row for each prompt row and variant, in the prompt table's order.

    The carried columns come first, then `OUR_COLUMNS`. `uri` makes an absolute address of a path.
    Raises `KeyError` where an image has no outcome: the table is never made of a part of it.
    """
    positions: list[int] = []
    ours: list[dict[str, Any]] = []
    for index, row in enumerate(prompts.rows):
        for request in row.requests:
            positions.append(index)
            ours.append(
                {
                    "prompt_id": row.prompt_id,
                    "prompt": request.prompt,
                    "image_variant": request.variant,
                    "image_revision": request.revision,
                    "image_fingerprint": request.fingerprint,
                    **_outcome_columns(outcomes[request.fingerprint], uri=uri),
                }
            )
    carried = prompts.carried.take(pa.array(positions, pa.int64()))
    table = pa.Table.from_pylist(ours, schema=OUR_COLUMNS)
    fields = pa.schema([*carried.schema, *OUR_COLUMNS])
    return pa.Table.from_arrays(
        [*carried.columns, *table.columns], schema=fields.with_metadata(SCHEMA_METADATA)
    )


def with_published(images: pa.Table, addresses: Sequence[str | None]) -> pa.Table:
    """The image table with the column `image_published_uri`."""
    return images.append_column(PUBLISHED_URI, pa.array(addresses, pa.string()))


def _outcome_columns(outcome: Outcome, *, uri: Callable[[str], str]) -> dict[str, Any]:
    columns: dict[str, Any] = {
        "image_status": outcome.status,
        "image_error_code": outcome.error_code,
        "image_error_message": outcome.error_message,
    }
    attempt = outcome.attempt
    if attempt is None or attempt.result is None:
        return columns
    columns |= {
        "image_attempt_id": attempt.attempt_id,
        "image_revised_prompt": attempt.result.reply.revised_prompt,
        "image_cost_usd": attempt.result.cost.usd,
        "image_cost_usd_max": attempt.result.cost.most_usd,
        "image_cost_basis": attempt.result.cost.basis,
    }
    if (image := outcome.image) is not None:
        columns |= {f"image_{name}": value for name, value in vars(image).items()}
        columns["image_uri"] = uri(image.path)
        columns["image_generated_at"] = attempt.result.finished_at
    return columns
