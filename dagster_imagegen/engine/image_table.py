"""The image table: what the prompt table asked for, and what became of it."""

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dagster_imagegen.engine.attempt import Outcome
from dagster_imagegen.engine.prompts.rows import Column, PromptTable, rows_taken, taken
from dagster_imagegen.engine.record.schema import MONEY, TIME
from dagster_imagegen.engine.run.outcomes import Outcomes, PaidImages

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


def image_table(prompts: PromptTable, outcomes: Outcomes, *, uri: Callable[[str], str]) -> pa.Table:
    """One row for each prompt row and variant, in the prompt table's order.

    The carried columns come first, then `OUR_COLUMNS`. `uri` makes an absolute address of a path.
    Raises `KeyError` where an image has no outcome: the table is never made of a part of it.
    """
    images = prompts.images
    asked = {
        "prompt_id": prompts.of_images("prompt_id"),
        "prompt": prompts.of_images("prompt"),
        "image_variant": images["variant"],
        "image_revision": _revisions(prompts),
        "image_fingerprint": images["fingerprint"],
    }
    came = _came(images["fingerprint"], outcomes)
    came["image_uri"] = _uris(came["image_path"], uri)
    carried = prompts.carried
    if images.num_rows != prompts.num_rows:
        carried = rows_taken(carried, images["row"])
    fields = pa.schema([*carried.schema, *OUR_COLUMNS])
    ours = [asked[name] if name in asked else came[name] for name in OUR_COLUMNS.names]
    return pa.Table.from_arrays(
        [*carried.columns, *ours], schema=fields.with_metadata(SCHEMA_METADATA)
    )


def _revisions(prompts: PromptTable) -> Column:
    each = pa.array([settings.request.revision for settings in prompts.settings], pa.int64())
    return pc.take(each, prompts.of_images("settings"))


def _came(
    fingerprints: Column,
    outcomes: Outcomes,
) -> dict[str, Column]:
    """The columns that say what became of each image."""
    found = [
        {"image_fingerprint": fingerprint, **_outcome_columns(outcome)}
        for fingerprint, outcome in outcomes.found.items()
    ]
    rows = [_paid_columns(images) for images in (outcomes.paid, outcomes.made)]
    came = pa.concat_tables([*rows, pa.Table.from_pylist(found, schema=_CAME)])
    # As a rule all are paid for and none is wanted twice: then nothing has to be looked up.
    if fingerprints.equals(came["image_fingerprint"]):
        return dict(zip(came.column_names, came.columns, strict=True))
    at = pc.index_in(fingerprints, came["image_fingerprint"].combine_chunks())
    if at.null_count:
        raise KeyError(fingerprints.filter(at.is_null())[0].as_py())
    columns: dict[str, Column] = {}
    for name in came.column_names:
        # One after the other: Arrow makes a whole copy of each column that it takes from.
        columns[name] = taken(came[name], at)
        pa.default_memory_pool().release_unused()
    return columns


_CAME = pa.schema(
    [
        field
        for field in OUR_COLUMNS
        if field.name not in ("prompt_id", "prompt", "image_variant", "image_revision", "image_uri")
    ]
)


def _paid_columns(paid: PaidImages) -> pa.Table:
    """The same as `_outcome_columns` of each of them."""
    rows = paid.rows
    columns: dict[str, Column] = {
        **{f"image_{name}": rows[name] for name in rows.column_names if f"image_{name}" in _PLAIN},
        **{name: rows[name] for name in rows.column_names if name in _CAME.names},
        "image_status": paid.statuses,
        "image_cost_usd_max": pc.coalesce(rows["cost_usd_max"], rows["cost_usd"]),
        "image_cost_basis": pc.coalesce(rows["cost_basis"], pa.scalar("unknown")),
        "image_generated_at": rows["finished_at"],
    }
    return pa.Table.from_arrays([columns[name] for name in _CAME.names], schema=_CAME)


_PLAIN = (
    *("image_fingerprint", "image_error_code", "image_error_message", "image_attempt_id"),
    *("image_revised_prompt", "image_cost_usd"),
)
"""What the usage table calls by the same name, without `image_`."""


def _uris(paths: Column, uri: Callable[[str], str]) -> Column:
    """The address of each path: all begin alike, but for paths that no storage would make."""
    if pc.any(pc.match_substring_regex(paths, r"(^|/)\.{0,2}(/|$)")).as_py():
        each = [None if path is None else uri(path) for path in paths.to_pylist()]
        return pa.chunked_array([each], pa.string())
    beginning = uri("x").removesuffix("x")
    return pc.binary_join_element_wise(beginning, paths, "")


def with_published(images: pa.Table, addresses: Sequence[str | None]) -> pa.Table:
    """The image table with the column `image_published_uri`."""
    return images.append_column(PUBLISHED_URI, pa.array(addresses, pa.string()))


def _outcome_columns(outcome: Outcome) -> dict[str, Any]:
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
        columns["image_generated_at"] = attempt.result.finished_at
    return columns
