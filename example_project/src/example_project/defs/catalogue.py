"""The prompt table: a shop's catalogue, checked in beside this file."""

from pathlib import Path

import dagster as dg
import pyarrow as pa
from pyarrow import csv

CATALOGUE = Path(__file__).parent / "catalogue.csv"
COLUMN_TYPES = {
    "price_eur": pa.decimal128(8, 2),
    "size": pa.string(),
    "quality": pa.string(),
    "revision": pa.int64(),
}


@dg.asset(group_name="shop", kinds={"csv"})
def catalogue(context: dg.AssetExecutionContext) -> pa.Table:
    """One row for each product. An empty size, quality or revision leaves it to `hero`."""
    options = csv.ConvertOptions(column_types=COLUMN_TYPES, strings_can_be_null=True)
    table = csv.read_csv(CATALOGUE, convert_options=options)
    # By this name the usage table tells its rows apart.
    table = table.append_column("prompt_id", table["sku"])
    context.add_output_metadata({"dagster/row_count": table.num_rows})
    return table
