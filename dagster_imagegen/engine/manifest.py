"""The image table: what the prompt table asked for, and what became of it."""

from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa

from dagster_imagegen.engine.planning import Outcome, Plan
from dagster_imagegen.engine.usage import MONEY, TIME

_ALWAYS = {
    "image_revised_prompt": "revised_prompt",
    "image_cost_usd": "cost_usd",
    "image_cost_basis": "cost_basis",
    "image_error_code": "error_code",
    "image_error_message": "error_message",
    "image_attempt_id": "attempt_id",
}
_WITH_IMAGE = {
    "image_path": "image_path",
    "image_sha256": "image_sha256",
    "image_size_bytes": "image_size_bytes",
    "image_format": "image_format",
    "image_width": "image_width",
    "image_height": "image_height",
    "image_generated_at": "finished_at",
}

SCHEMA_METADATA: dict[bytes | str, bytes | str] = {"dagster_imagegen.image_table_schema": "1"}

OUR_COLUMNS: pa.Schema = pa.schema(
    [
        pa.field(name, kind, metadata={"description": text})
        for name, kind, text in (
            ("prompt_id", pa.string(), "the row's, or its position and a digest of its prompt"),
            ("prompt", pa.string(), "as sent"),
            ("image_variant", pa.int32(), "0 to n-1"),
            ("image_revision", pa.int64(), "raised to ask anew"),
            ("image_fingerprint", pa.string(), "sha256 of what was asked for"),
            (
                "image_status",
                pa.string(),
                "generated, reused, refused, failed, unknown or deferred",
            ),
            ("image_uri", pa.string(), "absolute, ready to open; null without an image"),
            ("image_path", pa.string(), "below the storage"),
            ("image_sha256", pa.string(), "of the stored bytes, which are the provider's"),
            ("image_size_bytes", pa.int64(), "of the stored bytes"),
            ("image_format", pa.string(), "as sniffed from the bytes"),
            ("image_width", pa.int32(), "pixels"),
            ("image_height", pa.int32(), "pixels"),
            ("image_revised_prompt", pa.string(), "as answered"),
            ("image_cost_usd", MONEY, "what the request behind it cost, whenever that was"),
            ("image_cost_basis", pa.string(), "how the cost is known"),
            ("image_error_code", pa.string(), "why there is no image"),
            ("image_error_message", pa.string(), "why there is no image"),
            ("image_generated_at", TIME, "when the image was answered"),
            ("image_attempt_id", pa.string(), "the row of the usage table"),
        )
    ],
)


def image_table(
    plan: Plan, outcomes: Mapping[str, Outcome], *, uri: Callable[[str], str]
) -> pa.Table:
    """One row for each prompt row and variant, in the prompt table's order.

    The carried columns come first, then ours. Raises `KeyError` where an image has no outcome: a
    table of a part of what was asked for is never made.
    """
    positions: list[int] = []
    ours: list[dict[str, Any]] = []
    for index, row in enumerate(plan.prompts.rows):
        for request in row.requests:
            positions.append(index)
            outcome = outcomes[request.fingerprint]
            ours.append(
                {
                    "prompt_id": row.prompt_id,
                    "prompt": request.prompt,
                    "image_variant": request.variant,
                    "image_revision": request.revision,
                    "image_fingerprint": request.fingerprint,
                    "image_status": outcome.status,
                    **_outcome_columns(outcome, uri=uri),
                }
            )
    carried = plan.prompts.carried.take(pa.array(positions, pa.int64()))
    table = pa.Table.from_pylist(ours, schema=OUR_COLUMNS)
    fields = pa.schema([*carried.schema, *OUR_COLUMNS])
    return pa.Table.from_arrays(
        [*carried.columns, *table.columns], schema=fields.with_metadata(SCHEMA_METADATA)
    )


def _outcome_columns(outcome: Outcome, *, uri: Callable[[str], str]) -> dict[str, Any]:
    row = outcome.row
    columns = {ours: row.get(theirs) for ours, theirs in _ALWAYS.items()}
    if outcome.status in ("generated", "reused"):
        columns |= {ours: row.get(theirs) for ours, theirs in _WITH_IMAGE.items()}
        columns["image_uri"] = uri(row["image_path"])
    return columns
