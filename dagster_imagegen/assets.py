"""`image_asset` and `build_image_asset`: prompt tables to an image table and a usage table."""

import asyncio
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast, get_args, overload

import dagster as dg
from typing_extensions import Unpack

from dagster_imagegen.engine.attempt import OutcomeStatus
from dagster_imagegen.engine.errors import ConfigurationError, did_you_mean
from dagster_imagegen.engine.prompts.parameters import check_overrides, check_params
from dagster_imagegen.engine.prompts.template import PromptTemplate
from dagster_imagegen.engine.request import ImageParams
from dagster_imagegen.materialization import ImageAssetSpec, Results, materialize_images
from dagster_imagegen.metadata import Lineage
from dagster_imagegen.resource import ImageGenResource
from dagster_imagegen.run_config import ImageRunConfig, own_config, with_run_config

KeyLike: TypeAlias = dg.AssetKey | str | Sequence[str]
Upstream: TypeAlias = KeyLike | dg.AssetSpec | dg.AssetsDefinition | dg.SourceAsset | dg.AssetDep
PromptFunction: TypeAlias = Callable[..., object]

FAIL_ON: tuple[OutcomeStatus, ...] = ("failed", "unknown")
IMAGE_KINDS = frozenset({"image"})
USAGE_KINDS = frozenset({"parquet"})
CONTEXT_NAMES = ("context", "_context", "_", "context_")  # Dagster's own set.


class ImageAssetArguments(ImageParams, total=False):
    """What an image asset takes: the request's parameters, and what `dg.asset` takes.

    `description`, `metadata`, `kinds` and `code_version` are the image asset's; everything else
    holds for its usage asset as well.
    """

    key: KeyLike
    key_prefix: str | Sequence[str]
    group_name: str
    description: str
    tags: Mapping[str, str]
    owners: Sequence[str]
    kinds: set[str]
    metadata: Mapping[str, Any]
    partitions_def: dg.PartitionsDefinition[Any]
    backfill_policy: dg.BackfillPolicy
    automation_condition: dg.AutomationCondition[Any]
    retry_policy: dg.RetryPolicy
    op_tags: Mapping[str, Any]
    pool: str
    io_manager_key: str
    deps: Iterable[Upstream]
    code_version: str
    overrides: Sequence[str]
    fail_on: Sequence[OutcomeStatus]
    resource_key: str


class _FunctionAssetArguments(ImageAssetArguments, total=False):
    name: str
    ins: Mapping[str, dg.AssetIn]


@overload
def image_asset(function: PromptFunction, /) -> dg.AssetsDefinition: ...
@overload
def image_asset(
    **arguments: Unpack[_FunctionAssetArguments],
) -> Callable[[PromptFunction], dg.AssetsDefinition]: ...
def image_asset(
    function: PromptFunction | None = None, /, **arguments: Unpack[_FunctionAssetArguments]
) -> dg.AssetsDefinition | Callable[[PromptFunction], dg.AssetsDefinition]:
    """Make two assets of a function that returns a prompt table.

        @image_asset(quality="medium", size="1536x1024")
        def hero(products: pa.Table):
            return ["a red enamel mug on a wooden table", "the same mug in the snow"]

    `hero` is the image table: a row for each prompt row and variant, in their order. `hero_usage`
    has the usage rows that the materialization caused. Either can be selected alone; the usage
    alone sends nothing and does not run the function.

    The function takes what an asset's does (`context`, upstream assets, resources, `config`), and
    may be async. It returns anything that speaks Arrow, a list of dicts, or a list of prompts. In
    a run over several partitions it returns a dict of those by partition key.

    The run config of the step has `max_usd` and `redo`, beside the fields of the function's own
    config class if it takes one.

    Arguments are the request's parameters (`quality`, `size`, …), what `dg.asset` takes, and:
    `overrides`, the columns that override a parameter for their row; `fail_on`, the statuses
    after which the step fails once both assets are stored (`failed` and `unknown` by default);
    `resource_key`, under which the `ImageGenResource` is found (`imagegen`).

    Raises `ConfigurationError` where it is written for what cannot work, such as a misspelt
    parameter.
    """
    if function is not None and not callable(function):
        raise ConfigurationError(
            f"@image_asset({function!r}): arguments have names, e.g. @image_asset(quality="
            f"{function!r})"
        )
    everything = cast("Mapping[str, Any]", arguments)
    _check_names("image_asset", everything, _FunctionAssetArguments)

    def decorate(function: PromptFunction) -> dg.AssetsDefinition:
        given = dict(everything)  # Of its own: what decorates one function may decorate another.
        name = given.pop("name", None) or getattr(function, "__name__", "images")
        _check_function(name, function)
        source = _Source.of_function(function, ins=given.pop("ins", {}))
        return _define(name, source, given)

    return decorate if function is None else decorate(function)


def build_image_asset(
    name: str,
    *,
    prompt_table: Upstream,
    prompt: str | None = None,
    **arguments: Unpack[ImageAssetArguments],
) -> dg.AssetsDefinition:
    """The same two assets without a function: their prompt table is an upstream asset.

        build_image_asset(
            "product_shots", prompt_table="products",
            prompt="A studio photo of {name}, {colour}, on white",
            overrides=["size"], quality="medium",
        )

    `prompt` is a template with named columns of the table; without one, its column `prompt` is
    taken. Arguments are those of `image_asset`.
    """
    given = cast("dict[str, Any]", arguments)
    _check_names("build_image_asset", given, ImageAssetArguments)
    dep = prompt_table if isinstance(prompt_table, dg.AssetDep) else dg.AssetDep(prompt_table)
    columns = ("prompt",) if prompt is None else PromptTemplate.parse(prompt).columns
    return _define(
        name,
        _Source.of_asset(dep),
        given,
        template=prompt,
        lineage=Lineage(prompt_table=dep.asset_key, prompt_columns=columns),
    )


# -- the one definition behind both ----------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Source:
    """Where a prompt table comes from: a function, and what Dagster has to know of it."""

    call: Callable[[dg.AssetExecutionContext, dict[str, Any]], object]
    parameters: tuple[inspect.Parameter, ...]
    """Those after the context."""
    ins: Mapping[str, dg.AssetIn]
    module: str
    doc: str | None

    @classmethod
    def of_function(cls, function: PromptFunction, *, ins: Mapping[str, dg.AssetIn]) -> "_Source":
        parameters = _parameters(function)
        context = parameters.pop(0) if _is_context(parameters) else None

        def call(own: dg.AssetExecutionContext, inputs: dict[str, Any]) -> object:
            plain = context is not None and context.annotation is dg.OpExecutionContext
            first = () if context is None else (own.op_execution_context if plain else own,)
            result = function(*first, **inputs)
            # A coroutine runs here to its end, as the step of an async asset does.
            return asyncio.run(_awaited(result)) if inspect.isawaitable(result) else result

        return cls(
            call=call,
            parameters=tuple(parameters),
            ins=ins,
            module=function.__module__,
            doc=inspect.getdoc(function),
        )

    @classmethod
    def of_asset(cls, dep: dg.AssetDep) -> "_Source":
        return cls(
            call=lambda _, inputs: inputs["prompt_table"],
            parameters=(
                inspect.Parameter("prompt_table", inspect.Parameter.POSITIONAL_OR_KEYWORD),
            ),
            ins={
                "prompt_table": dg.AssetIn(
                    key=dep.asset_key, partition_mapping=dep.partition_mapping
                )
            },
            module=__name__,
            doc=None,
        )


def _define(
    name: str,
    source: _Source,
    given: dict[str, Any],
    *,
    template: str | None = None,
    lineage: Lineage | None = None,
) -> dg.AssetsDefinition:
    """Both assets, from what was given by name; `given` is used up."""
    key = _asset_key(name, given)
    params = {each: given.pop(each) for each in ImageParams.__annotations__ if each in given}
    spec = ImageAssetSpec(
        key=key,
        params=check_params(params),
        template=template,
        overrides=_overrides(given.pop("overrides", ())),
        fail_on=_fail_on(given.pop("fail_on", FAIL_ON)),
        resource_key=_resource_key(given.pop("resource_key", "imagegen")),
        io_manager_key=given.pop("io_manager_key", "io_manager"),
        lineage=lineage,
    )
    output, usage_output = (each.to_python_identifier() for each in (key, spec.usage_key))
    outs = dict(zip((output, usage_output), _outs(spec, given, doc=source.doc), strict=True))
    step = _step_function(spec, source)

    def build(internal_asset_deps: Mapping[str, set[dg.AssetKey]] | None) -> dg.AssetsDefinition:
        return dg.multi_asset(
            name=output,
            outs=outs,
            internal_asset_deps=internal_asset_deps,
            ins=source.ins,
            can_subset=True,
            **given,
        )(step)

    # Built once to let Dagster say, by its own rules, which assets the function takes.
    upstream = set(build(None).dependency_keys)
    return build({output: upstream, usage_output: {key}})


def _outs(
    spec: ImageAssetSpec, given: dict[str, Any], *, doc: str | None
) -> tuple[dg.AssetOut, dg.AssetOut]:
    """Takes out of `given` what is said of an asset, not of the step that makes both."""
    shared = {
        name: given.pop(name)
        for name in ("tags", "owners", "automation_condition")
        if name in given
    }
    images = {name: given.pop(name) for name in ("metadata", "code_version") if name in given}
    shared |= {"io_manager_key": spec.io_manager_key, "is_required": False}
    return (
        dg.AssetOut(
            key=spec.key,
            description=given.pop("description", doc),
            kinds=given.pop("kinds", set(IMAGE_KINDS)),
            **shared,
            **images,
        ),
        dg.AssetOut(
            key=spec.usage_key,
            description=f"The requests that a materialization of {spec.name} sent, with outcome, "
            "tokens and cost.",
            kinds=set(USAGE_KINDS),
            **shared,
        ),
    )


def _step_function(spec: ImageAssetSpec, source: _Source) -> Callable[..., Results]:
    """The step as Dagster is to see it: the source's own parameters, and the resource, typed.

    Neither `functools.wraps` nor `required_resource_keys`: Dagster reads the signature, and would
    clash with resources among the source's own parameters.
    """
    own = {parameter.name: parameter for parameter in source.parameters}
    takes_resource = spec.resource_key in own
    if takes_resource and not _is_image_resource(own[spec.resource_key].annotation):
        raise ConfigurationError(
            f'{spec.name}: the argument "{spec.resource_key}" has the name of the resource and is '
            "not annotated as ImageGenResource; rename it, or set resource_key"
        )
    own_class = _config_class(spec.name, own.get("config"))
    config_class = with_run_config(own_class, asset=spec.name) if own_class else ImageRunConfig

    def step(context: dg.AssetExecutionContext, **inputs: Any) -> Results:
        resource = inputs[spec.resource_key]
        if not takes_resource:
            del inputs[spec.resource_key]
        run_config = inputs.pop("config")

        def read_source() -> object:
            if own_class is not None:
                given = context.op_execution_context.op_config
                return source.call(context, {**inputs, "config": own_config(own_class, given)})
            return source.call(context, inputs)

        yield from materialize_images(context, spec, resource, run_config, read_source)

    signature = inspect.Signature(
        _arguments(spec, source, config=config_class, add_resource=not takes_resource)
    )
    step.__signature__ = signature  # pyright: ignore[reportFunctionMemberAccess]  # inspect reads it
    step.__annotations__ = {
        each.name: each.annotation
        for each in signature.parameters.values()
        if each.annotation is not inspect.Parameter.empty
    }
    step.__name__ = step.__qualname__ = spec.key.to_python_identifier()
    step.__module__ = source.module
    step.__doc__ = source.doc
    return step


def _arguments(
    spec: ImageAssetSpec, source: _Source, *, config: type[ImageRunConfig], add_resource: bool
) -> list[inspect.Parameter]:
    """All are passed by name. Dagster takes keyword-only ones for no inputs, so none stays one."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    rest = [each for each in source.parameters if each.kind is inspect.Parameter.VAR_KEYWORD]
    named = [
        each.replace(kind=kind)
        for each in source.parameters
        if each not in rest and each.name != "config"
    ]
    named.append(inspect.Parameter("config", kind, annotation=config))
    if add_resource:
        named.append(inspect.Parameter(spec.resource_key, kind, annotation=ImageGenResource))
    # In a signature those with a default come last.
    named.sort(key=lambda each: each.default is not inspect.Parameter.empty)
    context = inspect.Parameter("context", kind, annotation=dg.AssetExecutionContext)
    return [context, *named, *rest]


# -- what is given -------------------------------------------------------------------------------


def _check_names(where: str, given: Mapping[str, Any], known: type) -> None:
    for name in given:
        if name not in known.__annotations__:
            raise ConfigurationError(
                f'{where} has no argument "{name}", and an image request no such parameter'
                + did_you_mean(name, known.__annotations__)
            )


def _check_function(name: str, function: PromptFunction) -> None:
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigurationError(
            f"image_asset {name}: the function yields; return the whole prompt table, e.g. a list"
        )


def _asset_key(name: str, given: dict[str, Any]) -> dg.AssetKey:
    key, prefix = given.pop("key", None), given.pop("key_prefix", None)
    if key is None:
        folder = [prefix] if isinstance(prefix, str) else [*(prefix or ())]
        return dg.AssetKey([*folder, name])
    if prefix is not None:
        raise ConfigurationError(f"image asset {name}: give key or key_prefix, not both")
    return key if isinstance(key, dg.AssetKey) else dg.AssetKey(key)


def _overrides(names: Sequence[str]) -> tuple[str, ...]:
    if isinstance(names, str):
        raise ConfigurationError(f'overrides is a list of columns: overrides=["{names}"]')
    check_overrides(names)
    return tuple(names)


def _fail_on(statuses: Sequence[str]) -> tuple[str, ...]:
    if isinstance(statuses, str):
        raise ConfigurationError(f'fail_on is a list of statuses: fail_on=["{statuses}"]')
    known = get_args(OutcomeStatus)
    for status in statuses:
        if status not in known:
            raise ConfigurationError(
                f'fail_on: "{status}" is not a status' + did_you_mean(status, known)
            )
    return tuple(statuses)


def _resource_key(key: str) -> str:
    if not key.isidentifier() or key in ("config", *CONTEXT_NAMES):
        raise ConfigurationError(
            f'resource_key "{key}" cannot be an argument of a function, beside context and config; '
            "use a name such as imagegen"
        )
    return key


# -- what the function takes -----------------------------------------------------------------------


def _parameters(function: PromptFunction) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(function, eval_str=True).parameters.values())
    except NameError as error:
        raise ConfigurationError(
            f"{getattr(function, '__name__', function)}: an annotation names what is not there at "
            f"run time ({error}); import it outside of `if TYPE_CHECKING`"
        ) from error


def _is_context(parameters: Sequence[inspect.Parameter]) -> bool:
    return bool(parameters) and parameters[0].name in CONTEXT_NAMES


def _config_class(asset: str, parameter: inspect.Parameter | None) -> type[dg.Config] | None:
    if parameter is None:
        return None
    annotation = parameter.annotation
    if parameter.default is not inspect.Parameter.empty:
        raise ConfigurationError(
            f"{asset}: its argument `config` has a default, which Dagster never uses; give the "
            "fields of its class their defaults"
        )
    if not (isinstance(annotation, type) and issubclass(annotation, dg.Config)):
        raise ConfigurationError(
            f"{asset}: annotate its argument `config` with a class derived from dg.Config, or from "
            "dg.PermissiveConfig where anything may be given: max_usd and redo stand beside its "
            "fields"
        )
    return annotation


def _is_image_resource(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, ImageGenResource)


async def _awaited(value: Any) -> object:
    return await value
