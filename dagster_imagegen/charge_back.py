"""Whom an asset's images are charged to: its owners, its group, and its tags that were chosen."""

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, TypedDict

import dagster as dg


class ChargedTo(TypedDict, total=False):
    """Fields of `Identity` that an asset's definition says."""

    asset_owners: str | None
    asset_group: str | None
    asset_tags: str | None


def charged_to(
    context: Any, step: dg.OpExecutionContext | None, asset_key: str | None, tags: Sequence[str]
) -> ChargedTo:
    """What the definition of the asset says now; nothing for an asset that nobody defines here.

    `context` is any of Dagster's, `step` its step if it has one, `tags` the names that count.
    """
    spec = None if asset_key is None else _spec_of(context, step, asset_key)
    if spec is None:
        return {}
    chosen = {name: spec.tags[name] for name in sorted(set(tags)) if name in spec.tags}
    return {
        # Of one order, so that the same owners are one group.
        "asset_owners": ",".join(sorted(spec.owners)) or None,
        "asset_group": spec.group_name,
        "asset_tags": json.dumps(chosen, ensure_ascii=False) if chosen else None,
    }


def _spec_of(
    context: Any, step: dg.OpExecutionContext | None, asset_key: str
) -> dg.AssetSpec | None:
    key = dg.AssetKey.from_user_string(asset_key)
    if step is not None and step.has_assets_def and key in step.assets_def.keys:
        return step.assets_def.get_asset_spec(key)
    # A check, an op or a sensor can be on behalf of an asset that another step makes. Dagster
    # raises its errors, and those of failed assertions, where a context is in no code location.
    with suppress(Exception):
        definition = context.repository_def.assets_defs_by_key.get(key)
        return None if definition is None else definition.get_asset_spec(key)
    return None
