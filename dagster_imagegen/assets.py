"""`image_asset` and `build_image_asset`: a prompt table becomes an image table."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias, cast, overload

import dagster as dg
from typing_extensions import Unpack

from dagster_imagegen.calls import AssetKeyLike
from dagster_imagegen.definition import (
    ImageAssetDefinition,
    PromptFunction,
    PromptSource,
    check_names,
    named,
)
from dagster_imagegen.engine.attempt import OutcomeStatus
from dagster_imagegen.engine.errors import ConfigurationError
from dagster_imagegen.engine.prompts.source import concatenated
from dagster_imagegen.engine.prompts.template import PromptTemplate
from dagster_imagegen.engine.publishing.names import StaleNames
from dagster_imagegen.engine.request import ImageParams
from dagster_imagegen.step import PROMPT_TABLE, OnIncomplete
from dagster_imagegen.table_types import TableType

Upstream: TypeAlias = (
    AssetKeyLike | dg.AssetSpec | dg.AssetsDefinition | dg.SourceAsset | dg.AssetDep
)


class ImageAssetArguments(ImageParams, total=False):
    """For type checkers: the request's parameters, ours, and what `dg.asset` takes.

    At run time everything that the installed `dg.asset` takes is passed on to it.
    """

    overrides: Sequence[str]
    on_incomplete: OnIncomplete
    fail_on: Sequence[OutcomeStatus]
    table_type: TableType
    carry_prefix: str
    publish: str
    publish_stale: StaleNames
    resource_key: str
    definition: type[ImageAssetDefinition]

    key: AssetKeyLike
    key_prefix: str | Sequence[str]
    deps: Iterable[Upstream]
    metadata: Mapping[str, Any]
    tags: Mapping[str, str]
    description: str
    required_resource_keys: set[str]
    resource_defs: Mapping[str, object]
    hooks: set[dg.HookDefinition]
    io_manager_def: object
    io_manager_key: str
    dagster_type: dg.DagsterType
    partitions_def: dg.PartitionsDefinition[Any]
    op_tags: Mapping[str, Any]
    group_name: str
    output_required: bool
    automation_condition: dg.AutomationCondition[Any]
    freshness_policy: dg.FreshnessPolicy
    backfill_policy: dg.BackfillPolicy
    retry_policy: dg.RetryPolicy
    code_version: str
    check_specs: Sequence[dg.AssetCheckSpec]
    owners: Sequence[str]
    kinds: set[str]
    pool: str
    is_virtual: bool


class FunctionAssetArguments(ImageAssetArguments, total=False):
    """Those of an asset with a function."""

    name: str
    ins: Mapping[str, dg.AssetIn]


@overload
def image_asset(function: PromptFunction, /) -> dg.AssetsDefinition: ...
@overload
def image_asset(
    **arguments: Unpack[FunctionAssetArguments],
) -> Callable[[PromptFunction], dg.AssetsDefinition]: ...
def image_asset(
    function: PromptFunction | None = None, /, **arguments: Unpack[FunctionAssetArguments]
) -> dg.AssetsDefinition | Callable[[PromptFunction], dg.AssetsDefinition]:
    """Make an asset of a function that returns a prompt table.

        @image_asset(quality="medium", size="1536x1024", group_name="marketing")
        def hero(products: pa.Table):
            return products.select(["prompt", "sku"])

    The asset's value is the image table: one row for each prompt row and variant, in their order.
    The run config of its step has `max_usd`, `redo`, `limit` and `plan_only`.

    Args:
        function: Takes what an asset's function does (`context`, upstream assets, resources, and
            a `config` whose fields are added to the run config), and may be async. It returns
            anything that speaks Arrow, a list of dicts, or a list of prompts; in a run over
            several partitions, a dict of those by partition key. Any of them can be the value of a
            `dg.MaterializeResult` or `dg.Output`, whose metadata, tags, data version and check
            results are added to ours.
        **arguments: The request's parameters (`quality`, `size`, …), everything that `dg.asset`
            takes but `config_schema`, and:
            `overrides`, the columns that override a parameter for their row;
            `on_incomplete`, what becomes of an image table with rows that have no image: `fail`,
            which fails the step and materializes nothing, or `materialize`, which adds the check
            `complete` that warns of them;
            `fail_on`, the image statuses that make a table incomplete (`["failed", "unknown"]`);
            `table_type`, the library of the value: `arrow`, `pandas` or `polars`;
            `carry_prefix`, what is put before the columns of an image table that is the prompt
            table, so that they can be carried beside those of the new one;
            `publish`, a template of the addresses that images are copied to, e.g.
            `s3://cdn/products/{sku}.{ext}`, and `publish_stale`, what becomes of published files
            that no row wants any more: `list` or `remove`;
            `resource_key`, the key of the `ImageGenResource` (`imagegen`);
            `definition`, a subclass of `ImageAssetDefinition` that overrides `get_asset_spec` or
            `execute`.

    Returns:
        The asset, or without `function` a decorator that makes it.

    Raises:
        ConfigurationError: At definition time, for an argument that cannot work. A misspelt one
            is named with the nearest name that there is.
    """
    if function is not None and not callable(function):
        raise ConfigurationError(
            f"@image_asset({function!r}): arguments must be named, e.g. @image_asset(quality="
            f"{function!r})"
        )
    given = cast("Mapping[str, Any]", arguments)
    check_names("image_asset", given)

    def decorate(function: PromptFunction) -> dg.AssetsDefinition:
        name = given.get("name") or getattr(function, "__name__", "images")
        definition = given.get("definition", ImageAssetDefinition)
        return definition.of(name, PromptSource.of(function), given).to_assets_definition()

    return decorate if function is None else decorate(function)


def build_image_asset(
    name: str,
    *,
    prompt_table: Upstream,
    prompt: str | None = None,
    **arguments: Unpack[ImageAssetArguments],
) -> dg.AssetsDefinition:
    """Make an image asset without a function: its prompt table is an upstream asset.

        build_image_asset(
            "product_shots", prompt_table="products",
            prompt="A studio photo of {name}, {colour}, on white",
            overrides=["size"], quality="medium",
        )

    Args:
        name: The asset's name, unless `key` is given.
        prompt_table: The upstream asset, by key or definition.
        prompt: A template with the table's columns in braces; by default its column `prompt`.
        **arguments: As of `image_asset`, without `ins`.

    Raises:
        ConfigurationError: At definition time, for an argument that cannot work.
    """
    given = cast("Mapping[str, Any]", arguments)
    check_names("build_image_asset", given, without=["name", "ins"])
    dep = as_dep(prompt_table)
    asset_in = dg.AssetIn(key=dep.asset_key, partition_mapping=dep.partition_mapping)
    with named(name):
        columns = prompt_columns(prompt)
    definition = given.get("definition", ImageAssetDefinition)
    return definition.of(
        name,
        upstream_source(),
        {**given, "ins": {PROMPT_TABLE: asset_in}},
        template=prompt,
        prompt_columns=columns,
    ).to_assets_definition()


def as_dep(upstream: Upstream) -> dg.AssetDep:
    """An upstream asset as Dagster's own dependency."""
    return upstream if isinstance(upstream, dg.AssetDep) else dg.AssetDep(upstream)


def upstream_source() -> PromptSource:
    """The value of an upstream asset as the prompt table; the step's input is `PROMPT_TABLE`."""

    def given_table(context: dg.AssetExecutionContext, prompt_table: Any) -> object:
        return _of_partitions(context, prompt_table)

    return PromptSource.of(given_table)


def prompt_columns(template: str | None) -> Sequence[str]:
    """The columns of an upstream asset that make the prompt."""
    return ("prompt",) if template is None else PromptTemplate.parse(template).columns


def _of_partitions(context: dg.AssetExecutionContext, prompt_table: object) -> object:
    """The prompt table, joined of those of several partitions if they are not the asset's own."""
    if not isinstance(prompt_table, Mapping):
        return prompt_table
    tables = cast("Mapping[str, object]", prompt_table)
    partitioned = context.assets_def.partitions_def is not None
    own = set(context.partition_keys) if partitioned else set[str]()
    theirs = _upstream_partitions(context)
    return concatenated(tables) if set(tables) == theirs != own else tables


def _upstream_partitions(context: dg.AssetExecutionContext) -> set[str]:
    """Those of the upstream asset that this run reads; none if it has no partitions."""
    try:
        context.asset_partitions_def_for_input(PROMPT_TABLE)
    except dg.DagsterError:  # There are none, or the asset is called directly.
        return set()
    return set(context.asset_partition_keys_for_input(PROMPT_TABLE))
