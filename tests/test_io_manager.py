"""`ParquetIOManager`: tables that assets pass on, as Parquet files on disks and in buckets."""

import datetime
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import dagster as dg
import fsspec
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from upath import UPath

from dagster_imagegen import ImageGenError, ParquetIOManager
from tests.conftest import Project, materialized, of_rows, shared_instance

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")

DAYS = dg.StaticPartitionsDefinition(["mon", "tue", "wed"])
SINGLE_RUN = dg.BackfillPolicy.single_run()

ODD = pa.table(
    {
        "price": pa.array([Decimal("1.5000000001"), None], pa.decimal128(20, 10)),
        "count": pa.array([None, 2**62], pa.int64()),
        "tags": pa.array([["a", None], None], pa.list_(pa.string())),
        "size": pa.array([{"w": 1, "h": None}, None]),
        "at": pa.array([datetime.datetime(2026, 1, 1), None], pa.timestamp("us", tz="UTC")),
        "kind": pa.array(["x", None]).dictionary_encode(),
        "nothing": pa.nulls(2),
        "naïve name / with .. in it": ["a", "b"],
    }
)


@pytest.fixture
def manager(tmp_path: Path) -> ParquetIOManager:
    """One on local disk."""
    return ParquetIOManager(uri=str(tmp_path / "tables"))


@pytest.fixture(params=["local", "s3", "memory"])
def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> ParquetIOManager:
    """One on local disk, in a bucket of a real server, and in memory."""
    if request.param == "local":
        return ParquetIOManager(uri=str(tmp_path / "tables"))
    if request.param == "memory":
        return ParquetIOManager(uri=f"memory://{uuid4().hex}/tables")
    options = request.getfixturevalue("s3_options")
    bucket = f"tables-{uuid4().hex}"
    fsspec.filesystem("s3", **options).mkdir(bucket)
    return ParquetIOManager(uri=f"s3://{bucket}/tables", storage_options=options)


def files(manager: ParquetIOManager) -> list[str]:
    """The files of a manager, below its `uri`."""
    root = UPath(manager.uri, **manager.storage_options)  # pyright: ignore[reportUnknownVariableType]
    found = (each.path for each in root.rglob("*") if each.is_file())
    return sorted(path.partition("/tables/")[2] for path in found)


def source(value: Any, name: str = "source", **arguments: Any) -> dg.AssetsDefinition:
    """An asset with this value; of several partitions, what `value` makes of their keys."""

    def asset(context: dg.AssetExecutionContext) -> Any:
        return value(list(context.partition_keys)) if callable(value) else value

    return dg.asset(name=name, **arguments)(asset)


def reader(kind: Any, seen: list[Any], **arguments: Any) -> dg.AssetsDefinition:
    """An asset that takes `source` as this type, and shows what it got."""

    def asset(source: Any) -> None:
        seen.append(source)

    asset.__annotations__ = {"source": kind, "return": None}
    return dg.asset(name="reader", **arguments)(asset)


def run(
    assets: Sequence[Any], *, manager: ParquetIOManager, **options: Any
) -> dg.ExecuteInProcessResult:
    """Materialize assets on an empty instance."""
    instance = shared_instance()
    instance.wipe()
    return dg.materialize(assets, resources={"io_manager": manager}, instance=instance, **options)


def passed(value: Any, kind: Any, manager: ParquetIOManager) -> Any:
    """What a downstream asset gets of a value."""
    seen: list[Any] = []
    result = run([source(value), reader(kind, seen)], manager=manager)
    assert result.success
    return seen[0]


def failure(assets: Sequence[Any], manager: ParquetIOManager, **options: Any) -> str:
    """The message of the error that ends a run."""
    with pytest.raises(ImageGenError) as error:
        run(assets, manager=manager, **options)
    return str(error.value)


# -- one table -------------------------------------------------------------------------------------


def test_a_table_arrives_as_it_was(anywhere: ParquetIOManager) -> None:
    """Decimals, nulls, times, nested and encoded columns included, wherever it is stored."""
    assert passed(ODD, pa.Table, anywhere).equals(ODD)
    assert files(anywhere) == ["source.parquet"]


@pytest.mark.parametrize("kind", [pa.Table, Any, pd.DataFrame, pl.DataFrame])
def test_an_empty_table_keeps_its_columns(manager: ParquetIOManager, kind: Any) -> None:
    """There is nothing to infer their types from."""
    empty = ODD.slice(0, 0)
    loaded = passed(empty, kind, manager)
    assert len(loaded) == 0
    assert list(getattr(loaded, "column_names", loaded.columns)) == ODD.column_names
    if kind in (pa.Table, Any):
        assert loaded.schema == empty.schema


def test_pandas_frames_pass(manager: ParquetIOManager) -> None:
    """With their index, decimals and nulls."""
    frame = pd.DataFrame(
        {"price": [Decimal("1.10"), None], "name": ["a", None]}, index=pd.Index([7, 9], name="sku")
    )
    loaded = passed(frame, pd.DataFrame, manager)
    pd.testing.assert_frame_equal(loaded, frame)
    assert passed(frame, pa.Table, manager)["price"].to_pylist() == [Decimal("1.10"), None]


def test_polars_frames_pass(manager: ParquetIOManager) -> None:
    """With their own layouts of text, decimals and nulls."""
    frame = pl.DataFrame(
        {"price": [Decimal("1.10"), None], "name": ["a", None], "tags": [["x"], []]}
    )
    assert passed(frame, pl.DataFrame, manager).equals(frame)
    assert passed(frame, pa.Table, manager)["name"].to_pylist() == ["a", None]


def test_whatever_speaks_arrow_is_stored(manager: ParquetIOManager) -> None:
    """By the PyCapsule protocol: a stream, a batch, a relation of DuckDB."""
    import duckdb

    batch = pa.record_batch({"a": [1, 2]})
    stream = pa.RecordBatchReader.from_batches(batch.schema, [batch])
    for value in (batch, stream, duckdb.sql("select 1 as a union all select 2 order by a")):
        assert passed(value, pa.Table, manager)["a"].to_pylist() == [1, 2]


def test_other_tools_read_the_files(manager: ParquetIOManager) -> None:
    """A partitioned asset is a folder of Parquet files."""
    asset = source(by_key, partitions_def=DAYS)
    for key in ("mon", "tue"):
        run([asset], manager=manager, partition_key=key)
    folder = f"{manager.uri}/source.partitions"
    days: Any = ds.dataset(folder).to_table()["day"].to_pylist()
    assert sorted(days) == ["mon", "tue"]


def test_an_image_table_passes_as_every_kind(project: Project, manager: ParquetIOManager) -> None:
    """With its decimals and with rows that have no image."""
    project.settings = {"max_concurrency": 1}
    project.sandbox.script(None, "moderation_blocked")
    seen: list[Any] = []
    readers: list[dg.AssetsDefinition] = []
    for number, kind in enumerate((pa.Table, pd.DataFrame, pl.DataFrame)):

        def taking(hero: Any) -> None:
            seen.append(hero)

        taking.__annotations__ = {"hero": kind, "return": None}
        readers.append(dg.asset(name=f"reader_{number}")(taking))
    resources = {"imagegen": project.resource(), "io_manager": manager}
    result = project.run(of_rows(["a", "b"], quality="low"), *readers, resources=resources)
    by_kind = {type(each): each for each in seen}
    table, frame, polars = (by_kind[each] for each in (pa.Table, pd.DataFrame, pl.DataFrame))
    costs = table["image_cost_usd"].to_pylist()
    assert [type(cost) for cost in costs] == [Decimal, Decimal]
    assert frame["image_cost_usd"].to_list() == polars["image_cost_usd"].to_list() == costs
    assert frame["image_path"].isna().to_list() == polars["image_path"].is_null().to_list()
    assert polars["image_path"].is_null().to_list() == [False, True]
    metadata = materialized(result)["hero"].metadata
    assert metadata["path"].value == f"{manager.uri}/hero.parquet"
    columns: Any = metadata["dagster/column_schema"].value
    assert {each.name: each.description for each in columns.columns}["image_path"]


@pytest.mark.parametrize("table_type", ["arrow", "pandas", "polars"])
@pytest.mark.parametrize("kind", [pa.Table, pd.DataFrame, pl.DataFrame])
def test_an_image_asset_of_every_table_type_is_stored(
    project: Project, manager: ParquetIOManager, table_type: str, kind: Any
) -> None:
    """And loaded as every kind, with the same decimals, lists and nulls."""
    seen: list[Any] = []
    rows = [{"prompt": "a", "price": Decimal("1.10"), "tags": ["x"], "n": 2**62 + 1}]
    rows += [{"prompt": "b", "price": None, "tags": None, "n": None}]

    def taking(hero: Any) -> None:
        seen.append(hero)

    taking.__annotations__ = {"hero": kind, "return": None}
    resources = {"imagegen": project.resource(), "io_manager": manager}
    hero = of_rows(rows, quality="low", table_type=table_type)
    project.run(hero, dg.asset(name="taking")(taking), resources=resources)
    assert isinstance(seen[0], kind)
    table = pa.table(seen[0])
    assert table["price"].to_pylist() == [Decimal("1.10"), None]
    assert table["tags"].to_pylist() == [["x"], None]
    assert table["n"].to_pylist() == [2**62 + 1, None]


def test_a_materialization_says_where_how_many_and_which_columns(
    manager: ParquetIOManager,
) -> None:
    """Unless the asset says so itself."""

    @dg.asset
    def own() -> dg.MaterializeResult[pa.Table]:
        return dg.MaterializeResult(value=pa.table({"a": [1]}), metadata={"dagster/row_count": 40})

    result = run([source(ODD), own], manager=manager)
    shown = {name: each.metadata for name, each in materialized(result).items()}
    assert shown["source"]["path"].value == f"{manager.uri}/source.parquet"
    assert shown["source"]["dagster/row_count"].value == 2
    columns: Any = shown["source"]["dagster/column_schema"].value
    assert [each.name for each in columns.columns] == ODD.column_names
    assert shown["own"]["dagster/row_count"].value == 40


def test_the_outputs_of_ops_pass_too(manager: ParquetIOManager) -> None:
    """Each run has its own files."""
    seen: list[pa.Table] = []

    @dg.op
    def make() -> pa.Table:
        return ODD

    @dg.op
    def take(table: pa.Table) -> None:
        seen.append(table)

    @dg.job(resource_defs={"io_manager": manager})
    def job() -> None:
        take(make())

    for _ in range(2):
        assert job.execute_in_process(instance=shared_instance()).success
    assert all(each.equals(ODD) for each in seen)
    assert len(files(manager)) == 2


def test_a_file_is_replaced_whole(manager: ParquetIOManager) -> None:
    """An open file shows the old table to its end, and nothing temporary stays behind."""
    passed(pa.table({"a": [1, 2, 3]}), pa.Table, manager)
    with Path(f"{manager.uri}/source.parquet").open("rb") as old:
        passed(pa.table({"a": [1, 2]}), pa.Table, manager)
        assert pq.read_table(old).num_rows == 3
    assert files(manager) == ["source.parquet"]


# -- partitions ------------------------------------------------------------------------------------


def by_key(keys: list[str]) -> Any:
    """One table, or of several partitions a dict of them."""
    tables = {key: pa.table({"day": [key], "n": [keys.index(key)]}) for key in keys}
    return tables if len(tables) > 1 else tables[keys[0]]


def of_first_key(tables: dict[str, Any]) -> Callable[[list[str]], Any]:
    """The table of the run's first partition."""
    return lambda keys: tables[keys[0]]


def all_days(manager: ParquetIOManager) -> dg.ExecuteInProcessResult:
    """Store all partitions in one run."""
    asset = source(by_key, partitions_def=DAYS, backfill_policy=SINGLE_RUN)
    tags = {
        "dagster/asset_partition_range_start": "mon",
        "dagster/asset_partition_range_end": "wed",
    }
    return run([asset], manager=manager, tags=tags)


def loaded(kind: Any, manager: ParquetIOManager, **arguments: Any) -> Any:
    """What an asset without partitions gets of all partitions."""
    seen: list[Any] = []
    upstream = dg.AssetSpec("source", partitions_def=DAYS)
    downstream = reader(kind, seen, **arguments)
    run([upstream, downstream], manager=manager)
    return seen[0]


def test_partitions_of_one_run_are_files_of_their_own(anywhere: ParquetIOManager) -> None:
    """Stored from a dict, loaded as one table or as a dict, and one by one."""
    result = all_days(anywhere)
    assert files(anywhere) == [f"source.partitions/{day}.parquet" for day in ("mon", "tue", "wed")]
    paths = {
        str(each.materialization.metadata["path"].value)
        for each in result.get_asset_materialization_events()
    }
    assert {path.rpartition("/")[2] for path in paths} == {"source.partitions"}
    assert sorted(loaded(pa.Table, anywhere)["day"].to_pylist()) == ["mon", "tue", "wed"]
    assert len(loaded(pd.DataFrame, anywhere)) == 3
    tables = loaded(dict[str, pl.DataFrame], anywhere)
    assert {key: frame["day"].to_list() for key, frame in tables.items()} == {
        day: [day] for day in ("mon", "tue", "wed")
    }
    unannotated = loaded(Any, anywhere)
    assert {key: each["day"].to_pylist() for key, each in unannotated.items()} == {
        day: [day] for day in ("mon", "tue", "wed")
    }
    seen: list[pa.Table] = []
    upstream = dg.AssetSpec("source", partitions_def=DAYS)
    downstream = reader(pa.Table, seen, partitions_def=DAYS)
    run([upstream, downstream], manager=anywhere, partition_key="tue")
    assert seen[0]["day"].to_pylist() == ["tue"]


def test_partitions_with_other_types_are_one_table(manager: ParquetIOManager) -> None:
    """A column that only some have, all nulls in one, and decimals of another width."""
    tables = {
        "mon": pa.table({"price": pa.array([Decimal("1.5")]), "note": pa.nulls(1)}),
        "tue": pa.table({"price": pa.array([Decimal("100.25")]), "note": ["late"], "more": [1]}),
        "wed": pa.table({"price": pa.array([None], pa.decimal128(3, 1))}),
    }
    asset = source(of_first_key(tables), partitions_def=DAYS)
    for key in tables:
        run([asset], manager=manager, partition_key=key)
    rows = loaded(pa.Table, manager).sort_by("price").to_pylist()
    assert rows == [
        {"price": Decimal("1.5"), "note": None, "more": None},
        {"price": Decimal("100.25"), "note": "late", "more": 1},
        {"price": None, "note": None, "more": None},
    ]


def test_partitions_that_do_not_fit_together_can_be_a_dict(manager: ParquetIOManager) -> None:
    """The error says so."""
    tables = {
        "mon": pa.table({"a": [1]}),
        "tue": pa.table({"a": ["x"]}),
        "wed": pa.table({"a": [[1]]}),
    }
    asset = source(of_first_key(tables), partitions_def=DAYS)
    for key in tables:
        run([asset], manager=manager, partition_key=key)
    upstream = dg.AssetSpec("source", partitions_def=DAYS)
    text = failure([upstream, reader(pa.Table, [])], manager)
    assert "the partitions of source do not fit together as one table" in text
    assert "annotate the input as dict[str, pa.Table]" in text
    assert set(loaded(dict[str, pa.Table], manager)) == set(tables)


def test_a_partition_that_is_not_stored_is_named(manager: ParquetIOManager) -> None:
    """Unless the input says that some may be missing."""
    asset = source(by_key, partitions_def=DAYS)
    run([asset], manager=manager, partition_key="mon")
    upstream = dg.AssetSpec("source", partitions_def=DAYS)
    assert failure([upstream, reader(pa.Table, [])], manager) == (
        f"source, partition 'tue' is not stored: there is no file {manager.uri}/source.partitions/"
        "tue.parquet. Materialize it first, with this IO manager"
    )
    some = {"source": dg.AssetIn(metadata={"allow_missing_partitions": True})}
    assert loaded(pa.Table, manager, ins=some)["day"].to_pylist() == ["mon"]
    assert list(loaded(dict[str, pa.Table], manager, ins=some)) == ["mon"]


def test_an_asset_can_become_partitioned(manager: ParquetIOManager) -> None:
    """Its files do not stand in each other's way."""
    passed(ODD, pa.Table, manager)
    all_days(manager)
    passed(ODD, pa.Table, manager)
    assert len(files(manager)) == 4


def test_an_image_asset_stores_several_partitions(
    project: Project, manager: ParquetIOManager
) -> None:
    """Of one run, each with its images; the next image asset and the checks load them."""
    from dagster_imagegen import build_image_asset, build_image_checks, image_asset

    @image_asset(partitions_def=DAYS, backfill_policy=SINGLE_RUN)
    def hero(context: dg.AssetExecutionContext) -> dict[str, list[str]]:
        return {key: [f"a mug on {key}"] for key in context.partition_keys}

    large = build_image_asset(
        "large",
        prompt_table=hero,
        carry_prefix="hero_",
        partitions_def=DAYS,
        backfill_policy=SINGLE_RUN,
    )
    week = build_image_asset("week", prompt_table=hero, carry_prefix="hero_")
    tags = {
        "dagster/asset_partition_range_start": "mon",
        "dagster/asset_partition_range_end": "wed",
    }
    resources = {"imagegen": project.resource(), "io_manager": manager}
    checks = build_image_checks(large)
    result = project.run(hero, large, *checks, resources=resources, tags=tags)
    assert all(each.passed for each in result.get_asset_check_evaluations())
    for name in ("hero", "large"):
        stored = pq.read_table(f"{manager.uri}/{name}.partitions/tue.parquet")
        assert stored["prompt"].to_pylist() == ["a mug on tue"]
    project.run(hero, week, select=["week"], resources=resources)
    stored = pq.read_table(f"{manager.uri}/week.parquet")
    assert stored["prompt"].to_pylist() == [f"a mug on {day}" for day in ("mon", "tue", "wed")]


# -- names -----------------------------------------------------------------------------------------

HOSTILE = [
    "mon",
    "..",
    ".",
    "",
    "/etc/passwd",
    "../../x",
    "a/b",
    "a\\b",
    "a%2Fb",
    "%",
    "~root",
    "*",
    "a\x00b",
    "a\nb",
    "q?versionId=1",
    "s3://other/bucket",
    "hero.parquet",
    "hero.partitions",
    "naïve",
    "日" * 100,
    "x" * 200,
    "x" * 201,
    "x" * 5000,
    "\ud800",
]


def test_no_partition_key_leads_out_of_its_folder(tmp_path: Path) -> None:
    """Each has a file of its own there, whatever it contains."""
    manager = ParquetIOManager(uri=str(tmp_path / "tables"))
    # Dagster refuses three of them, and takes the empty one for no partition.
    keys = [key for key in HOSTILE if key and not set(key) & {"\0", "\n", "\ud800"}]
    every = dg.StaticPartitionsDefinition(keys)
    asset = source(lambda chosen: pa.table({"key": [repr(chosen[0])]}), partitions_def=every)  # pyright: ignore[reportUnknownLambdaType]  # a list of keys
    for key in keys:
        run([asset], manager=manager, partition_key=key)
    stored = files(manager)
    assert len(stored) == len(keys)
    assert {path.rpartition("/")[0] for path in stored} == {"source.partitions"}
    assert [each.name for each in tmp_path.iterdir()] == ["tables"]
    seen: list[dict[str, pa.Table]] = []
    upstream = dg.AssetSpec("source", partitions_def=every)
    run([upstream, reader(dict[str, pa.Table], seen)], manager=manager)
    assert {key: table["key"].to_pylist() for key, table in seen[0].items()} == {
        key: [repr(key)] for key in keys
    }


def test_no_two_asset_keys_share_a_file(tmp_path: Path) -> None:
    """Nor do an asset and a partition of another. The contexts are those that Dagster makes for
    tests, because its decorators do not take all of these keys."""
    manager = ParquetIOManager(uri=str(tmp_path / "tables"))
    keys = [*([key] for key in HOSTILE), *(["source", key] for key in HOSTILE)]
    keys += [["..", "x"], ["source.partitions", "mon"]]
    all_days(manager)
    with dg.DagsterInstance.ephemeral() as instance:  # or each context makes its own
        for key in keys:
            written = dg.build_output_context(asset_key=dg.AssetKey(key))
            manager.handle_output(written, pa.table({"key": [repr(key)]}))
        assert len(files(manager)) == len(keys) + 3
        assert [each.name for each in tmp_path.iterdir()] == ["tables"]
        for key in keys:
            read = dg.build_input_context(
                asset_key=dg.AssetKey(key),
                dagster_type=dg.PythonObjectDagsterType(pa.Table),
                instance=instance,
            )
            assert manager.load_input(read)["key"].to_pylist() == [repr(key)]


# -- what cannot work ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (None, "got NoneType; return one, or annotate the function with `-> None`"),
        ([{"a": 1}], "got list; return pa.Table.from_pylist(...) of it"),
        (pl.LazyFrame({"a": [1]}), "got LazyFrame; call .collect() on it"),
        (3, "got int; convert it, or give the asset another IO manager with io_manager_key"),
        ({"a": [1]}, "got dict; return pa.table(...) of its columns"),
        (pd.DataFrame({"a": [1, "x"]}), "cannot become an Arrow table"),
        (pa.table({"a": pa.array([{}], pa.struct([]))}), "cannot be stored as Parquet"),
    ],
)
def test_what_is_no_table_is_named(manager: ParquetIOManager, value: Any, told: str) -> None:
    """With the asset and what to do."""
    text = failure([source(value)], manager)
    assert "the value of source" in text
    assert told in text
    assert files(manager) == []


@pytest.mark.parametrize("kind", [list[dict[str, Any]], list, str, pa.Table | None])
def test_an_annotation_that_is_no_table_is_named(manager: ParquetIOManager, kind: Any) -> None:
    """With the input, and the ones that work."""
    text = failure([source(ODD), reader(kind, [])], manager)
    assert text.startswith('the input "source", which loads source, is annotated as ')
    assert "annotate it as pa.Table, pd.DataFrame or pl.DataFrame" in text


def test_a_run_over_several_partitions_needs_a_dict(manager: ParquetIOManager) -> None:
    """With exactly the partitions of the run; nothing is stored otherwise."""
    tags = {
        "dagster/asset_partition_range_start": "mon",
        "dagster/asset_partition_range_end": "tue",
    }
    for value in (ODD, {"mon": ODD}, {"mon": ODD, "tue": 3}):
        asset = source(value, partitions_def=DAYS, backfill_policy=SINGLE_RUN)
        assert "the value of source" in failure([asset], manager, tags=tags)
    assert files(manager) == []


def test_a_file_that_is_not_there_or_is_damaged_is_named(manager: ParquetIOManager) -> None:
    """With its path."""
    upstream = dg.AssetSpec("source")
    path = f"{manager.uri}/source.parquet"
    text = failure([upstream, reader(pa.Table, [])], manager)
    assert f"source is not stored: there is no file {path}. Materialize it first" in text
    passed(ODD, pa.Table, manager)
    Path(path).write_bytes(b"PAR1 torn")
    text = failure([upstream, reader(pa.Table, [])], manager)
    assert f"cannot load source from {path}: ArrowInvalid" in text


def test_a_place_that_takes_nothing_is_named(tmp_path: Path, s3_options: dict[str, Any]) -> None:
    """A file where a folder should be, a bucket that there is not."""
    (tmp_path / "file").write_text("")
    text = failure([source(ODD)], ParquetIOManager(uri=str(tmp_path / "file")))
    assert f"cannot store source as {tmp_path}/file/source.parquet" in text
    nowhere = ParquetIOManager(uri="s3://no-such-bucket/x", storage_options=s3_options)
    assert "cannot store source as s3://no-such-bucket/x" in failure([source(ODD)], nowhere)


# -- settings --------------------------------------------------------------------------------------


def test_settings_can_be_environment_variables(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also among the storage options; what they hold is in no repr."""
    monkeypatch.setenv("TABLES", str(tmp_path / "tables"))
    monkeypatch.setenv("AUTO", "1")
    manager = ParquetIOManager(
        uri=dg.EnvVar("TABLES"), storage_options={"auto_mkdir": dg.EnvVar.int("AUTO")}
    )
    assert passed(ODD, pa.Table, manager).equals(ODD)
    assert (tmp_path / "tables" / "source.parquet").is_file()
    secret = ParquetIOManager(uri="x", storage_options={"secret": "hunter2"})
    assert "hunter2" not in repr(secret)


def test_a_relative_uri_is_a_folder_of_the_working_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As that of the resource; the metadata has the whole path."""
    monkeypatch.chdir(tmp_path)
    result = run([source(ODD)], manager=ParquetIOManager(uri="out"))
    path = materialized(result)["source"].metadata["path"].value
    assert path == str(tmp_path / "out" / "source.parquet")


SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({"url": "x"}, '"url" is not a setting; did you mean "uri"'),
    ({}, "uri must be set"),
    ({"uri": 3}, "uri must be text, got 3"),
]


@pytest.mark.parametrize(("given", "told"), SETTINGS)
def test_settings_that_cannot_work_are_errors(given: dict[str, Any], told: str) -> None:
    """At once, by name."""
    with pytest.raises(ImageGenError) as error:
        ParquetIOManager(**given)
    assert str(error.value).startswith(told)


def test_an_empty_uri_is_an_error() -> None:
    """Whatever the variable holds that it comes from."""
    assert "uri of ParquetIOManager is empty" in failure([source(ODD)], ParquetIOManager(uri=" "))


def test_a_key_in_the_address_is_not_shown() -> None:
    """It is refused when the address is opened."""
    assert "secret" not in repr(ParquetIOManager(uri="s3://key:secret@bucket"))
    assert "abfs://pictures@shop" in repr(ParquetIOManager(uri="abfs://pictures@shop"))
