"""`image_asset` and `build_image_asset`: a prompt table becomes an image table."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias, cast, overload

import dagster as dg
from typing_extensions import Unpack

from dagster_imagegen.definition import (
    ImageAssetDefinition,
    PromptFunction,
    PromptSource,
    check_names,
    named,
)
from dagster_imagegen.engine.attempt import OutcomeStatus
from dagster_imagegen.engine.errors import ConfigurationError
from dagster_imagegen.engine.prompts.template import PromptTemplate
from dagster_imagegen.engine.request import ImageParams
from dagster_imagegen.execution import PROMPT_TABLE
from dagster_imagegen.resource import AssetKeyLike

Upstream: TypeAlias = (
    AssetKeyLike | dg.AssetSpec | dg.AssetsDefinition | dg.SourceAsset | dg.AssetDep
)


class ImageAssetArguments(ImageParams, total=False):
    """For type checkers: the request's parameters, ours, and what `dg.asset` takes.

    At run time everything that the installed `dg.asset` takes is passed on to it.
    """

    overrides: Sequence[str]
    fail_on: Sequence[OutcomeStatus]
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
    The run config of its step has `max_usd` and `redo`.

    Args:
        function: Takes what an asset's function does (`context`, upstream assets, resources, and
            a `config` whose fields are added to the run config), and may be async. It returns
            anything that speaks Arrow, a list of dicts, or a list of prompts; in a run over
            several partitions, a dict of those by partition key.
        **arguments: The request's parameters (`quality`, `size`, …), everything that `dg.asset`
            takes but `config_schema`, and:
            `overrides`, the columns that override a parameter for their row;
            `fail_on`, the image statuses that fail the step once the table is stored
            (`["failed", "unknown"]`);
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
    dep = prompt_table if isinstance(prompt_table, dg.AssetDep) else dg.AssetDep(prompt_table)
    asset_in = dg.AssetIn(key=dep.asset_key, partition_mapping=dep.partition_mapping)
    with named(name):
        columns = ("prompt",) if prompt is None else PromptTemplate.parse(prompt).columns

    def given_table(prompt_table: Any) -> object:
        return prompt_table

    definition = given.get("definition", ImageAssetDefinition)
    return definition.of(
        name,
        PromptSource.of(given_table),
        {**given, "ins": {PROMPT_TABLE: asset_in}},
        template=prompt,
        prompt_columns=columns,
    ).to_assets_definition()
