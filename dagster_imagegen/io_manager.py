"""`ParquetIOManager`: passes tables between assets as Parquet files, on any fsspec filesystem."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, cast, get_args, get_origin

import dagster as dg
import pyarrow as pa
from pydantic import ConfigDict, Field, model_validator

from dagster_imagegen.engine.errors import ConfigurationError, StorageError, abbreviate
from dagster_imagegen.engine.filesystems import escaped
from dagster_imagegen.engine.prompts.source import without_views
from dagster_imagegen.engine.storage import Storage
from dagster_imagegen.metadata import column_schema
from dagster_imagegen.partition_tables import Partition, by_partition
from dagster_imagegen.setting_values import as_written, resolved, secret_free, validated
from dagster_imagegen.table_types import convert_table

DEADLINE_SECONDS = 600.0
"""For one file. A table can be large, and nothing waits behind it."""

READS_AT_ONCE = 8


class ParquetIOManager(dg.ConfigurableIOManager):
    """Passes tables between assets as Parquet files, in a folder or on any fsspec filesystem.

        dg.Definitions(
            assets=[products, hero, thumbnails],
            resources={
                "io_manager": ParquetIOManager(uri="s3://bucket/tables"),
                "imagegen": ImageGenResource(...),
            },
        )

    It stores pyarrow tables, pandas and polars frames, and whatever else has the Arrow PyCapsule
    protocol. An input is what its annotation says: `pa.Table` (also without an annotation),
    `pd.DataFrame` or `pl.DataFrame`.

    Each partition is a file of its own. Several partitions are stored from a dict of a table by
    partition key. They are loaded as one table, or as that dict if the input has no annotation or
    is annotated as `dict[str, pa.Table]`. With
    `dg.AssetIn(metadata={"allow_missing_partitions": True})` partitions that were never stored are
    left out of both.

    Files are replaced as a whole: who reads sees the table before or after, never a part.
    """

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    uri: str = Field(
        description="Where the tables are stored: a folder, s3://…, gs://…, abfs://…. A relative "
        "folder is one of the working directory."
    )
    storage_options: dict[str, Any] = Field(
        default_factory=dict,
        repr=False,
        description="Options of fsspec's filesystem, e.g. key, secret, endpoint_url. "
        "Dagster stores literal ones with every run.",
    )

    if not TYPE_CHECKING:  # It would hide the types of the settings.

        def __init__(self, **given: Any) -> None:
            if "storage_options" in given:
                given["storage_options"] = as_written(given["storage_options"])
            super().__init__(**given)

    @model_validator(mode="wrap")
    @classmethod
    def _valid(cls, given: Any, validate: Callable[[Any], Any]) -> Any:
        return validated(cls, given, validate)

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        return secret_free(super().__repr_args__())

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Store a table, or a dict of tables by partition key.

        The materialization gets the file's path, and the row count and column schema unless the
        asset gave them.

        Raises:
            ConfigurationError: The value is no table.
            StorageError: It cannot be stored.
        """
        name = _name(context)
        storage = self._open()
        values = by_partition(obj, _partitions(context), what=f"the value of {name}")
        tables = {
            partition: _to_table(table, _of(name, partition)) for partition, table in values.items()
        }
        # All are encoded before the first is stored, so that what cannot be leaves no half.
        files = {
            partition: _encode(table, _of(name, partition)) for partition, table in tables.items()
        }
        for partition, data in files.items():
            _put(storage, _path(context, partition), data, _of(name, partition))
        context.add_output_metadata(_metadata(storage, context, tables))

    def load_input(self, context: dg.InputContext) -> Any:
        """The stored table, as the type that the input is annotated with.

        Raises:
            ConfigurationError: For an annotation that is no table.
            StorageError: A file is missing, or is not Parquet.
        """
        kind = context.dagster_type.typing_type
        says_dict = get_origin(kind) in (dict, Mapping)
        convert = _converter(get_args(kind)[1] if says_dict else kind, context)
        tables = self._load(context)
        # Without an annotation as Dagster's own IO managers do it, and the inputs of
        # `build_image_asset` and of asset checks have none.
        if says_dict or (kind is Any and len(_partitions(context)) > 1):
            return {partition: convert(table) for partition, table in tables.items()}
        return convert(_joined(tables, _name(context)))

    def _load(self, context: dg.InputContext) -> dict[Partition, pa.Table]:
        """The tables of all partitions that the input takes, by partition."""
        storage = self._open()
        name, partitions = _name(context), _partitions(context)
        may_miss = bool((context.definition_metadata or {}).get("allow_missing_partitions"))

        def load(partition: Partition) -> pa.Table | None:
            path = _path(context, partition)
            try:
                return _get(storage, path, _of(name, partition))
            except FileNotFoundError as error:
                if may_miss and partition is not None:
                    return None
                raise StorageError(
                    f"{_of(name, partition)} is not stored: there is no file {storage.uri(path)}. "
                    "Materialize it first, with this IO manager",
                    can_pass=False,
                ) from error

        # Each file in a bucket is a round trip.
        with ThreadPoolExecutor(READS_AT_ONCE, thread_name_prefix="imagegen-tables") as pool:
            tables = zip(partitions, pool.map(load, partitions), strict=True)
            return {partition: table for partition, table in tables if table is not None}

    def _open(self) -> Storage:
        given = resolved(self, ParquetIOManager)
        if not given.uri.strip():
            raise ConfigurationError("uri of ParquetIOManager is empty; set it")
        return Storage(given.uri, given.storage_options, deadline_seconds=DEADLINE_SECONDS)


# -- names and paths -------------------------------------------------------------------------------


def _key(context: dg.OutputContext | dg.InputContext) -> Sequence[str]:
    """The asset key; of the output of an op: run, step and output."""
    return context.asset_key.path if context.has_asset_key else context.get_identifier()


def _partitions(context: dg.OutputContext | dg.InputContext) -> list[Partition]:
    """Those stored or loaded; of what is not partitioned, None."""
    if context.has_asset_key and context.has_asset_partitions:
        return [str(each) for each in context.asset_partition_keys]
    return [None]


def _path(context: dg.OutputContext | dg.InputContext, partition: Partition) -> str:
    """`shop/hero.parquet`, or of a partition `shop/hero.partitions/2026-11-25.parquet`.

    No two keys share a path, whatever they contain: dots of a key are escaped.
    """
    path = "/".join(escaped(part) for part in _key(context))
    return (
        f"{path}.parquet" if partition is None else f"{_folder(path)}/{escaped(partition)}.parquet"
    )


def _folder(path: str) -> str:
    return f"{path}.partitions"


def _name(context: dg.OutputContext | dg.InputContext) -> str:
    """What errors call it."""
    return "/".join(_key(context))


def _of(name: str, partition: Partition) -> str:
    return name if partition is None else f"{name}, partition {abbreviate(partition)}"


# -- storing ---------------------------------------------------------------------------------------


def _to_table(value: object, name: str) -> pa.Table:
    """A table of any library as an Arrow table."""
    if isinstance(value, pa.Table):
        return value
    if not hasattr(value, "__arrow_c_stream__") and not hasattr(value, "__arrow_c_array__"):
        raise ConfigurationError(
            f"the value of {name} must be a pyarrow, pandas or polars table, or anything else with "
            f"the Arrow PyCapsule protocol, got {type(value).__qualname__}; {_remedy(value)}"
        )
    try:
        # pyarrow 18 writes no views to Parquet, which polars has for text.
        return without_views(pa.table(cast("Any", value)))
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise ConfigurationError(
            f"the value of {name}, a {type(value).__qualname__}, cannot become an Arrow table: "
            f"{error}; give each column one type"
        ) from error


def _remedy(value: object) -> str:
    if value is None:
        return "return one, or annotate the function with `-> None` if it has no value"
    if isinstance(value, Mapping):
        return "return pa.table(...) of its columns; the keys of a dict of tables are partitions"
    if isinstance(value, list | tuple):
        return "return pa.Table.from_pylist(...) of it"
    if type(value).__name__ == "LazyFrame":
        return "call .collect() on it"
    return "convert it, or give the asset another IO manager with io_manager_key"


def _encode(table: pa.Table, name: str) -> bytes:
    import pyarrow.parquet as pq  # noqa: PLC0415

    buffer = io.BytesIO()
    try:
        pq.write_table(table, buffer, compression="zstd")
    except pa.ArrowException as error:
        raise ConfigurationError(
            f"the value of {name} cannot be stored as Parquet: {error}; convert the column or "
            "leave it out"
        ) from error
    return buffer.getvalue()


def _put(storage: Storage, path: str, data: bytes, name: str) -> None:
    try:
        storage.put_now(path, data)
    except Exception as error:  # fsspec passes on whatever its hundred backends raise
        raise StorageError(
            f"cannot store {name} as {storage.uri(path)}: {type(error).__name__}: {error}"
        ) from error


def _metadata(
    storage: Storage, context: dg.OutputContext, tables: Mapping[Partition, pa.Table]
) -> dict[str, Any]:
    """Of several partitions only the folder: Dagster gives them all the same metadata."""
    if len(tables) != 1:
        folder = _folder("/".join(escaped(part) for part in _key(context)))
        return {"path": dg.MetadataValue.path(storage.uri(folder))}
    ((partition, table),) = tables.items()
    found: dict[str, Any] = {
        "dagster/row_count": table.num_rows,
        "dagster/column_schema": column_schema(table.schema),
    }
    given = context.output_metadata or {}
    return {
        "path": dg.MetadataValue.path(storage.uri(_path(context, partition))),
        **{name: value for name, value in found.items() if name not in given},
    }


# -- loading ---------------------------------------------------------------------------------------


def _get(storage: Storage, path: str, name: str) -> pa.Table:
    """The table in a file. Raises `FileNotFoundError`."""
    import pyarrow.parquet as pq  # noqa: PLC0415

    try:
        return pq.read_table(io.BytesIO(storage.get_now(path)))
    except FileNotFoundError:
        raise
    except Exception as error:
        raise StorageError(
            f"cannot load {name} from {storage.uri(path)}: {type(error).__name__}: {error}"
        ) from error


def _joined(tables: Mapping[Partition, pa.Table], name: str) -> pa.Table:
    """One table of all partitions. Columns that some lack are null there."""
    if not tables:
        raise StorageError(f"no partition of {name} is stored; materialize one", can_pass=False)
    try:
        # Types too: the decimals of one partition can be wider than those of another.
        return pa.concat_tables(tables.values(), promote_options="permissive")
    except pa.ArrowException as error:
        raise StorageError(
            f"the partitions of {name} do not fit together as one table: {error}; annotate the "
            "input as dict[str, pa.Table], or materialize them with the same columns",
            can_pass=False,
        ) from error


def _converter(kind: Any, context: dg.InputContext) -> Callable[[pa.Table], Any]:
    """How a table becomes what an input is annotated with."""
    if kind is Any or kind is pa.Table:
        return lambda table: table
    # By name, so that neither library has to be there.
    name = (str(getattr(kind, "__module__", "")).partition(".")[0], getattr(kind, "__name__", ""))
    if name == ("pandas", "DataFrame"):
        return _to_pandas
    if name == ("polars", "DataFrame"):
        return lambda table: convert_table(table, "polars")
    raise ConfigurationError(
        f'the input "{context.name}", which loads {_name(context)}, is annotated as '
        f"{_type_text(kind)}; annotate it as pa.Table, pd.DataFrame or pl.DataFrame, or for "
        "several partitions as a dict of one of these, e.g. dict[str, pa.Table]"
    )


def _to_pandas(table: pa.Table) -> object:
    """As pandas stored it, with its index; what others stored, or had Arrow's types, with those.

    Nothing of the latter is lost, decimals and integers beside nulls included. pandas cannot read
    back all names of those types, which it notes in the metadata.
    """
    noted = (table.schema.metadata or {}).get(b"pandas", b"[pyarrow]")
    return convert_table(table, "pandas") if b"[pyarrow]" in noted else table.to_pandas()


def _type_text(kind: Any) -> str:
    plain = isinstance(kind, type) and get_origin(kind) is None
    return kind.__qualname__ if plain else str(kind)
