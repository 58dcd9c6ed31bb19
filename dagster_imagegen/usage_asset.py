"""`build_usage_asset`: the usage table as an asset, with what its image assets have cost."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, cast

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc

from dagster_imagegen.assets import Upstream
from dagster_imagegen.definition import dagster_arguments
from dagster_imagegen.engine.attempt import SANDBOX
from dagster_imagegen.engine.errors import ConfigurationError, did_you_mean
from dagster_imagegen.engine.record.schema import MONEY, SCHEMA
from dagster_imagegen.engine.run.progress import Totals, cost_text
from dagster_imagegen.event_size import cut
from dagster_imagegen.metadata import column_schema
from dagster_imagegen.resource import resource_of

compute: Any = pc
"""pyarrow's stubs know no arrays beside scalars."""

COLUMNS = (
    "asset_key",
    "asset_group",
    "asset_owners",
    "asset_tags",
    "root_run_id",
    "model",
    "status",
    "started_at",
    "cost_usd",
    "cost_usd_max",
    "cost_basis",
)
FIGURES = (
    "requests",
    "images",
    "sandbox_requests",
    "unpriced_requests",
    "cost_usd",
    "cost_usd_max",
)
ROWS_MAX = 40
"""A table shows this many rows, and the rest as one: an event must stay small."""

CHARGED_ROWS_MAX = 10
"""The same of a table by group, owners or tags."""

NAME_CHARACTERS = 100
NAME_BYTES = 150

_ONE_ASSET = (str, dg.AssetKey, dg.AssetSpec, dg.AssetsDefinition, dg.SourceAsset, dg.AssetDep)
"""Several of these classes are tuples."""


def build_usage_asset(
    name: str = "usage",
    *,
    image_assets: Sequence[Upstream],
    resource_key: str = "imagegen",
    **arguments: Any,
) -> dg.AssetsDefinition:
    """Make an asset of the usage table: every request of the image assets, and what it cost.

        build_usage_asset(image_assets=[hero, product_shots], group_name="costs")

    It is downstream of the image assets and sends nothing. A materialization shows the cost by
    asset, by model and by day, by the groups, owners and chosen tags of the assets if there are
    any, and as numbers that Dagster plots: the totals, and those of its own
    run. `cost_usd` is what was charged as far as anybody can tell, `cost_usd_max` the most that may
    have been; where the cost of a request is unknown, the second is left out. Requests to the
    sandbox are counted and cost nothing.

    The asset has no value, because the table is in storage already: read it with
    `ImageGenResource.usage`, or as Parquet from the asset's URI.

    Args:
        name: The asset's name, unless `key` is given.
        image_assets: The image assets, by key or definition.
        resource_key: The key of the `ImageGenResource` whose storage they use.
        **arguments: What `dg.asset` takes, without `deps`, `ins` and `config_schema`.

    Raises:
        ConfigurationError: At definition time, for an argument that cannot work.
    """
    check_arguments(name, image_assets, arguments, of="build_usage_asset")
    own: dict[str, Any] = {"kinds": {"parquet"}, **arguments}
    if "key" not in own:
        own["name"] = name
    own["metadata"] = {
        "dagster/column_schema": column_schema(SCHEMA),
        **(own.get("metadata") or {}),
    }
    own["required_resource_keys"] = {resource_key, *own.get("required_resource_keys", ())}

    def usage(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        imagegen = resource_of(context, resource_key)
        # An image asset can be renamed after it was defined.
        keys = [key.to_user_string() for key in context.assets_def.dependency_keys]
        with imagegen.open_engine() as engine:
            of_these = pc.field("asset_key").isin(keys)
            rows = measured(engine.usage.read(columns=COLUMNS, where=of_these))
            uri = engine.usage_uri
        run = context.run.root_run_id or context.run.run_id
        return dg.MaterializeResult(value=None, metadata=usage_metadata(rows, run=run, uri=uri))

    usage.__doc__ = f"Every request that was sent for {asset_names(image_assets)}, and its cost."
    return dg.asset(deps=image_assets, **own)(usage)


def check_arguments(
    name: str, image_assets: Sequence[Upstream], arguments: Mapping[str, object], *, of: str
) -> None:
    """Raise `ConfigurationError` for arguments of the builder `of` that cannot work."""
    if isinstance(image_assets, _ONE_ASSET) or not image_assets:
        raise ConfigurationError(
            f"{name}: image_assets must be a list of image assets, got {image_assets!r}; e.g. "
            "image_assets=[hero]"
        )
    if "deps" in arguments:
        raise ConfigurationError(f"{name}: has no argument deps; name the assets in image_assets")
    # It has no inputs and no function that could read a run config.
    known = dagster_arguments() - {"deps", "ins", "config_schema"}
    for each in arguments:
        if each not in known:
            raise ConfigurationError(
                f'{of} has no argument "{each}"' + did_you_mean(each, sorted(known))
            )


def asset_names(image_assets: Sequence[Upstream]) -> str:
    """The keys of assets, as text in a description."""
    keys = [
        each.asset_key if isinstance(each, dg.AssetDep) else dg.AssetDep(each).asset_key
        for each in image_assets
    ]
    return ", ".join(f"`{key.to_user_string()}`" for key in keys)


# -- figures ---------------------------------------------------------------------------------------


def measured(usage: pa.Table) -> pa.Table:
    """Usage rows with `COLUMNS` as rows of `FIGURES`, by asset, whom it is charged to, model, day
    and root run."""
    sandbox = compute.equal(compute.fill_null(usage["cost_basis"], "unknown"), SANDBOX)
    nothing = pa.scalar(Decimal(0), MONEY)
    most = compute.coalesce(usage["cost_usd_max"], usage["cost_usd"], nothing)
    columns: dict[str, Any] = {
        "asset": usage["asset_key"],
        **{name: usage[f"asset_{name}"] for name in _CHARGED},
        "model": usage["model"],
        "day": usage["started_at"].cast(pa.date32(), safe=False),
        "root_run_id": usage["root_run_id"],
        "requests": pa.repeat(1, usage.num_rows),
        "images": _count(compute.equal(usage["status"], "succeeded")),
        "sandbox_requests": _count(sandbox),
        "unpriced_requests": _count(compute.and_not(compute.is_null(usage["cost_usd"]), sandbox)),
        "cost_usd": compute.if_else(
            sandbox, nothing, compute.fill_null(usage["cost_usd"], nothing)
        ),
        "cost_usd_max": compute.if_else(sandbox, nothing, most),
    }
    return _summed(pa.table(columns), ["asset", *_CHARGED, "model", "day", "root_run_id"])


def _count(is_one: Any) -> Any:  # Any: the stubs type arrays by their values
    return compute.cast(compute.fill_null(is_one, False), pa.int64())


def _summed(table: pa.Table, by: list[str]) -> pa.Table:
    sums = table.group_by(by).aggregate([(name, "sum") for name in FIGURES])
    return sums.rename_columns([name.removesuffix("_sum") for name in sums.column_names])


def usage_metadata(rows: pa.Table, *, run: str, uri: str) -> dict[str, Any]:
    """What a materialization shows of rows that are `measured`; `run` is the root run's id."""
    all_rows = totals(rows)
    by = {name: _by(rows, name) for name in ("asset", "model", "day")}
    by |= {name: _by(rows, name) for name in _CHARGED if rows[name].null_count < rows.num_rows}
    return {
        "imagegen/cost": cost(all_rows),
        **{f"imagegen/cost_by_{name}": table for name, table in by.items()},
        **_plotted(all_rows),
        **_plotted(totals(rows.filter(pc.field("root_run_id") == run)), prefix="run_"),
        "dagster/row_count": all_rows["requests"],
        # Dagster shows the first on an asset's definition only, the second on a materialization.
        "dagster/uri": uri,
        "imagegen/usage": dg.MetadataValue.path(uri),
    }


_CHARGED = ("group", "owners", "tags")
"""What whoever is charged is known by; `asset_group` and so on in the usage table."""


def _order(name: str) -> list[tuple[str, str]]:
    if name == "day":
        return [("day", "descending")]
    return [("cost_usd_max", "descending"), ("requests", "descending"), (name, "ascending")]


def totals(rows: pa.Table) -> dict[str, Any]:
    """The sum of each figure over rows that are `measured`."""
    return {name: pc.sum(rows[name]).as_py() or 0 for name in FIGURES}


def cost(totals: Mapping[str, Any]) -> str:
    """`$1.23, at most $1.89; 3 requests to the sandbox cost nothing`."""
    known = Totals(
        cost_usd=Decimal(totals["cost_usd"]),
        cost_usd_max=Decimal(totals["cost_usd_max"]),
        unpriced=totals["unpriced_requests"],
    )
    text = cost_text(known, sandbox=False)
    if count := totals["sandbox_requests"]:
        text += f"; {count:,} request{'s'[: count != 1]} to the sandbox cost nothing"
    return text


def _plotted(totals: Mapping[str, Any], *, prefix: str = "") -> dict[str, float | int]:
    """Numbers, which Dagster plots. What is not known has none."""
    return {
        f"imagegen/{prefix}{name}": value
        for name, value in figures(totals).items()
        if value is not None
    }


def figures(totals: Mapping[str, Any]) -> dict[str, float | int | None]:
    """The figures, with None for a sum of nothing known, and for a bound that is none."""
    counts = {name: int(totals[name]) for name in FIGURES[:4]}
    unpriced = counts["unpriced_requests"]
    nothing_known = unpriced > 0 and unpriced + counts["sandbox_requests"] == counts["requests"]
    return {
        **counts,
        "cost_usd": None if nothing_known else float(totals["cost_usd"]),
        "cost_usd_max": None if unpriced else float(totals["cost_usd_max"]),
    }


def _name(value: object) -> str:
    return cut(str(value), characters=NAME_CHARACTERS, max_bytes=NAME_BYTES)


def _by(rows: pa.Table, name: str) -> dg.TableMetadataValue:
    groups = _summed(rows, [name]).sort_by(cast("Any", _order(name)))
    most = CHARGED_ROWS_MAX if name in _CHARGED else ROWS_MAX
    records = [
        {name: _name(row[name]), **figures(row)} for row in groups.slice(0, most).to_pylist()
    ]
    if more := groups.slice(most).num_rows:
        records.append({name: f"{more:,} more", **figures(totals(groups.slice(most)))})
    kinds = {name: "string", **dict.fromkeys(FIGURES, "int"), **dict.fromkeys(FIGURES[4:], "float")}
    return dg.MetadataValue.table(
        [dg.TableRecord(record) for record in records],
        schema=dg.TableSchema(
            columns=[dg.TableColumn(name=each, type=kind) for each, kind in kinds.items()]
        ),
    )
