"""Tables between assets, as Parquet files that other programs can read too."""

from pathlib import Path

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq


class ParquetTables(dg.ConfigurableIOManager):
    """Keeps the newest table of each asset as `{folder}/{asset}.parquet`."""

    folder: str

    def path(self, key: dg.AssetKey) -> Path:
        return Path(self.folder, *key.path).with_suffix(".parquet").absolute()

    def handle_output(self, context: dg.OutputContext, obj: pa.Table) -> None:
        path = self.path(context.asset_key)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".tmp")
        pq.write_table(obj, unfinished)
        unfinished.replace(path)
        context.add_output_metadata({"path": dg.MetadataValue.path(path)})

    def load_input(self, context: dg.InputContext) -> pa.Table:
        return pq.read_table(self.path(context.asset_key))
