"""`build_cost_report_asset`: the bill as an asset, with a table of costs, charts and a report."""

import base64
import io
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dagster_imagegen.assets import Upstream
from dagster_imagegen.audit.bars import bars_by, bars_by_time, bars_of_waste, money
from dagster_imagegen.audit.charts import columns_chart, rows_chart
from dagster_imagegen.audit.cost_table import COST_SCHEMA, PER_IMAGE, cost_table, summed
from dagster_imagegen.audit.report import report_html
from dagster_imagegen.event_size import room
from dagster_imagegen.metadata import column_schema
from dagster_imagegen.resource import ImageGenResource, resource_of
from dagster_imagegen.usage_asset import asset_names, check_arguments, cost, figures

FOLDER = "reports"
"""In the storage of the usage table."""


def build_cost_report_asset(
    name: str = "cost_report",
    *,
    image_assets: Sequence[Upstream],
    resource_key: str = "imagegen",
    **arguments: Any,
) -> dg.AssetsDefinition:
    """Make an asset of the bill: what the image assets have cost, explained and drawn.

        build_cost_report_asset(image_assets=[hero, product_shots], group_name="costs")

    It is downstream of the image assets and sends nothing. A materialization writes two files
    beside the usage table, in `reports/<asset>/`: `costs.parquet`, a tidy table of costs by day,
    asset, partition, model, quality, size, status and cause, and `report.html`, one file without
    scripts that opens from disk. Its metadata has the charts, what was charged (`cost_usd`) and the
    most that may have been (`cost_usd_max`). Requests to the sandbox are rows of their own, without
    money. The usage table is scanned and never loaded, however long it is.

    The asset has no value.

    Args:
        name: The asset's name, unless `key` is given.
        image_assets: The image assets, by key or definition.
        resource_key: The key of the `ImageGenResource` whose storage they use.
        **arguments: What `dg.asset` takes, without `deps`, `ins` and `config_schema`.

    Raises:
        ConfigurationError: At definition time, for an argument that cannot work.
    """
    check_arguments(name, image_assets, arguments, of="build_cost_report_asset")
    own: dict[str, Any] = {"kinds": {"parquet", "html"}, **arguments}
    if "key" not in own:
        own["name"] = name
    schema = column_schema(COST_SCHEMA)
    own["metadata"] = {"dagster/column_schema": schema, **(own.get("metadata") or {})}
    own["required_resource_keys"] = {resource_key, *own.get("required_resource_keys", ())}

    def report(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        imagegen = resource_of(context, resource_key)
        keys = [key.to_user_string() for key in context.assets_def.dependency_keys]
        folder = f"{FOLDER}/{context.asset_key.to_user_string()}"
        metadata = _written(imagegen, keys, folder)
        context.log.info(f"cost of {', '.join(keys)}: {metadata['imagegen/cost']}")
        return dg.MaterializeResult(value=None, metadata=metadata)

    report.__doc__ = f"What {asset_names(image_assets)} cost, by cause, with charts."
    return dg.asset(deps=image_assets, **own)(report)


def _written(imagegen: ImageGenResource, keys: Sequence[str], folder: str) -> dict[str, Any]:
    """Write both files; returns the metadata of the materialization."""
    of_these = pc.field("asset_key").isin(list(keys))
    with imagegen.open_engine() as engine:
        costs = engine.usage.scan(lambda usage: cost_table(usage, where=of_these))
        html = report_html(
            costs,
            made_at=datetime.now(timezone.utc),
            source=engine.usage_uri,
            title=f"Cost of {', '.join(keys)}",
        )
        table = io.BytesIO()
        pq.write_table(costs, table, compression="zstd")
        store = engine.usage_storage
        table_path, html_path = f"{folder}/costs.parquet", f"{folder}/report.html"
        store.put_now(table_path, table.getvalue())
        store.put_now(html_path, html.encode())
        places = {
            "dagster/uri": store.uri(table_path),
            "imagegen/costs": dg.MetadataValue.path(store.uri(table_path)),
            "imagegen/report": dg.MetadataValue.path(store.uri(html_path)),
            "dagster/row_count": costs.num_rows,
        }
    metadata = {**report_metadata(costs), **places}
    return metadata | _charts(money(costs), max_bytes=room(metadata))


def report_metadata(costs: pa.Table) -> dict[str, Any]:
    """The figures of a cost table that is grouped by all of `DIMENSIONS`, without those of the
    sandbox; what is not known has none."""
    paid, all_rows = summed(money(costs), []).to_pylist()[0], summed(costs, []).to_pylist()[0]
    sandbox = (all_rows["requests"] or 0) - (paid["requests"] or 0)
    names = ("requests", "images", "unpriced_requests", "cost_usd", "cost_usd_max")
    totals = {**{each: paid[each] or 0 for each in names}, "sandbox_requests": sandbox}
    shown: dict[str, Any] = {"imagegen/cost": cost(totals)}
    plotted = {**figures(totals), "images_kept": paid["images_kept"] or 0}
    plotted["waste_usd"] = float(paid["waste_usd"] or 0)
    plotted[PER_IMAGE] = None if paid[PER_IMAGE] is None else float(paid[PER_IMAGE])
    return shown | {f"imagegen/{each}": it for each, it in plotted.items() if it is not None}


def _charts(paid: pa.Table, *, max_bytes: int) -> dict[str, Any]:
    """The charts that an event has room for, the most telling first."""
    if not paid.num_rows:
        return {}
    waste = bars_of_waste(paid)
    drawn = {
        "by_time": columns_chart(bars_by_time(paid), alone=True),
        "by_asset": rows_chart(bars_by(paid, "asset_key"), alone=True),
        **({"of_waste": rows_chart(waste, alone=True)} if waste else {}),
        "by_model": rows_chart(bars_by(paid, "model"), alone=True),
    }
    shown: dict[str, Any] = {}
    for name, svg in drawn.items():
        picture = base64.b64encode(svg.encode()).decode()
        value = f"![cost](data:image/svg+xml;base64,{picture})"
        max_bytes -= len(value) + 200
        if max_bytes > 0:
            shown[f"imagegen/chart_{name}"] = dg.MetadataValue.md(value)
    return shown
