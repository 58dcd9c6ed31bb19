"""What an image asset is declared to be: its spec, its step and its run config."""

import asyncio
import functools
import inspect
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeGuard, TypeVar, get_args, get_origin

import dagster as dg
from typing_extensions import Self

from dagster_imagegen.asset_step import COMPLETE, materialize
from dagster_imagegen.engine.attempt import OutcomeStatus
from dagster_imagegen.engine.errors import ConfigurationError, did_you_mean
from dagster_imagegen.engine.prompts.parameters import check_overrides, check_params
from dagster_imagegen.engine.prompts.table import check_carry_prefix
from dagster_imagegen.engine.publishing.names import Publication
from dagster_imagegen.engine.request import ImageParams
from dagster_imagegen.execution import TableOptions
from dagster_imagegen.resource import ImageGenResource, resource_of
from dagster_imagegen.run_config import OURS, ImageRunConfig, own_config, with_run_config
from dagster_imagegen.step import OnIncomplete, StepEvents, StepOptions
from dagster_imagegen.table_types import TableType, check_table_type

T = TypeVar("T")
PromptFunction: TypeAlias = Callable[..., object]

FAIL_ON: tuple[OutcomeStatus, ...] = ("failed", "unknown")
CONTEXT_NAMES = ("context", "_context", "_", "context_")  # Dagster's own set.
OUR_ARGUMENTS = (
    "carry_prefix",
    "definition",
    "fail_on",
    "on_incomplete",
    "overrides",
    "publish",
    "publish_stale",
    "resource_key",
    "table_type",
)


@dataclass(frozen=True, kw_only=True)
class PromptSource:
    """A function that returns a prompt table, and what Dagster reads of its signature."""

    function: PromptFunction
    context: inspect.Parameter | None
    parameters: Sequence[inspect.Parameter]
    """Those after the context."""

    @classmethod
    def of(cls, function: PromptFunction) -> Self:
        """A function as users decorate it, async or not. Raises `ConfigurationError`."""
        name = getattr(function, "__name__", function)
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise ConfigurationError(
                f"image_asset: {name} must return the whole prompt table, e.g. a list, not yield it"
            )
        try:
            parameters = list(inspect.signature(function, eval_str=True).parameters.values())
        except NameError as error:
            raise ConfigurationError(
                f"{name}: every annotation must exist at run time ({error}); import it outside of "
                "`if TYPE_CHECKING`"
            ) from error
        has_context = bool(parameters) and parameters[0].name in CONTEXT_NAMES
        context = parameters.pop(0) if has_context else None
        return cls(function=function, context=context, parameters=parameters)

    def call(self, step: dg.AssetExecutionContext, inputs: Mapping[str, Any]) -> object:
        """What the function returns, in a step with these inputs."""
        if self.context is None:
            result = self.function(**inputs)
        elif self.context.annotation is dg.OpExecutionContext:
            result = self.function(step.op_execution_context, **inputs)
        else:
            result = self.function(step, **inputs)
        # A coroutine runs here to its end, as the step of an async asset does.
        return asyncio.run(_awaited(result)) if inspect.isawaitable(result) else result


@dataclass(frozen=True, kw_only=True)
class ImageAssetDefinition:
    """An image asset as it was declared. Subclass it to change the spec or what the step does.

    class ShopImages(ImageAssetDefinition):
        def get_asset_spec(self, spec):
            return spec.replace_attributes(owners=["team:shop"])

        def execute(self, context, imagegen, prompts, config):
            yield from super().execute(context, imagegen, lambda: prompts()[:100], config)

    @image_asset(definition=ShopImages, quality="low")
    def hero(): ...
    """

    name: str
    source: PromptSource
    options: TableOptions
    """How the rows become requests: the request's parameters, template and overrides."""
    fail_on: tuple[str, ...] = FAIL_ON
    on_incomplete: OnIncomplete = "fail"
    table_type: TableType = "arrow"
    publication: Publication | None = None
    resource_key: str = "imagegen"
    prompt_columns: Sequence[str] | None = None
    """Those of the upstream asset that make the prompt, without a function."""
    asset_arguments: Mapping[str, Any]
    """Arguments of `dg.asset`, passed on as they are."""

    @classmethod
    def of(
        cls,
        name: str,
        source: PromptSource,
        arguments: Mapping[str, Any],
        *,
        template: str | None = None,
        prompt_columns: Sequence[str] | None = None,
    ) -> Self:
        """The definition with these arguments of `image_asset`, whose names were checked before.

        Raises `ConfigurationError` for values that cannot work.
        """
        rest = {each: value for each, value in arguments.items() if each != "definition"}
        with named(name):
            options = step_options(rest, template=template)
            resource_key = take_resource_key(rest)
        return cls(
            name=name,
            source=source,
            options=options.table,
            fail_on=options.fail_on,
            on_incomplete=options.on_incomplete,
            table_type=options.table_type,
            publication=options.publication,
            resource_key=resource_key,
            prompt_columns=prompt_columns,
            # A run of the plan alone, or of a part of the table, has no output.
            asset_arguments={"kinds": {"image"}, "output_required": False, **rest},
        )

    # -- for users to override -----------------------------------------------------------------

    def get_asset_spec(self, spec: dg.AssetSpec) -> dg.AssetSpec:
        """The asset's spec; `spec` is the one that the arguments make.

        Override it to set attributes, the key included, for all assets of a project.
        """
        return spec

    def execute(
        self,
        context: dg.AssetExecutionContext,
        imagegen: ImageGenResource,
        prompts: Callable[[], object],
        config: ImageRunConfig,
    ) -> StepEvents:
        """The step. Override it to change the prompt table or to add to what the step yields.

        Args:
            context: The step's. Take keys and partitions from it: an asset can be renamed after
                its definition.
            imagegen: The resource under `resource_key`.
            prompts: Returns the prompt table, by calling the decorated function or from the
                upstream asset. If nobody calls it, nothing is sent.
            config: The run config of the step.

        Yields:
            The `dg.MaterializeResult` with the image table; a `dg.AssetObservation` instead if
            the table is not whole, and the results of checks then, if the asset has any.
        """
        options = StepOptions(
            table=self.options,
            fail_on=self.fail_on,
            on_incomplete=self.on_incomplete,
            table_type=self.table_type,
            publication=self.publication,
            prompt_columns=self.prompt_columns,
            # One that overrides this method may return a table of another library.
            value_is_known=type(self).execute is ImageAssetDefinition.execute,
        )
        yield from materialize(context, imagegen, prompts, config, options=options)

    # -- for Dagster ---------------------------------------------------------------------------

    def to_assets_definition(self) -> dg.AssetsDefinition:
        """The asset for `dg.Definitions`, made by `dg.asset`."""
        arguments = dict(self.asset_arguments)
        if self._takes_keys:
            keys = arguments["required_resource_keys"]
            arguments["required_resource_keys"] = {*keys, self.resource_key}
        if self.on_incomplete == "materialize":
            arguments["check_specs"] = [*arguments.get("check_specs", ()), self.complete_spec()]
        asset = dg.asset(**arguments)(self.step())
        (before,) = asset.specs
        spec = self.get_asset_spec(before)
        if spec is before:
            return asset
        asset = asset.with_attributes(asset_key_replacements={before.key: spec.key})

        def replaced(_: dg.AssetSpec) -> dg.AssetSpec:
            return spec

        return asset.map_asset_specs(replaced)

    @property
    def key(self) -> dg.AssetKey:
        """The asset's key as it was declared; it can be renamed afterwards."""
        key, prefix = (self.asset_arguments.get(each) for each in ("key", "key_prefix"))
        if key:
            return key if isinstance(key, dg.AssetKey) else dg.AssetKey(key)
        return dg.AssetKey([*([prefix] if isinstance(prefix, str) else prefix or []), self.name])

    def complete_spec(self) -> dg.AssetCheckSpec:
        """Our check, of an asset that materializes tables with rows that have no image."""
        return dg.AssetCheckSpec(
            COMPLETE,
            asset=self.key,
            description="Whether every row of the image table has an image.",
        )

    @property
    def _takes_keys(self) -> bool:
        """Whether resources are named: Dagster takes them so or as typed arguments, not both."""
        return "required_resource_keys" in self.asset_arguments

    def step(self) -> Callable[..., StepEvents]:
        """The step with the signature for Dagster to read: the source's parameters, and ours.

        `functools.wraps` would not do: Dagster reads the signature of what is wrapped.
        """
        own = {each.name: each for each in self.source.parameters}
        takes_resource = self.resource_key in own
        if takes_resource and not _is_subclass(own[self.resource_key].annotation, ImageGenResource):
            raise ConfigurationError(
                f'{self.name}: the argument "{self.resource_key}" has the name of the resource, so '
                "it must be annotated as ImageGenResource; rename it, or set resource_key"
            )
        own_class = _config_class(self.name, own["config"]) if "config" in own else None
        config_class = with_run_config(own_class, asset=self.name) if own_class else ImageRunConfig

        def step(context: dg.AssetExecutionContext, **inputs: Any) -> StepEvents:
            config = inputs.pop("config")
            imagegen = resource_of(context, self.resource_key)
            if not takes_resource:
                inputs.pop(self.resource_key, None)
            if own_class is not None:
                given = context.op_execution_context.op_config
                inputs["config"] = own_config(own_class, given)
            yield from self.execute(
                context, imagegen, lambda: self.source.call(context, inputs), config
            )

        add_resource = not takes_resource and not self._takes_keys
        parameters = self._step_parameters(config_class, add_resource=add_resource)
        step.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]  # inspect reads it
        typed = (each for each in parameters if each.annotation is not inspect.Parameter.empty)
        step.__annotations__ = {each.name: each.annotation for each in typed}
        step.__name__ = step.__qualname__ = self.name
        step.__module__ = self.source.function.__module__
        step.__doc__ = inspect.getdoc(self.source.function)
        return step

    def _step_parameters(
        self, config_class: type[ImageRunConfig], *, add_resource: bool
    ) -> list[inspect.Parameter]:
        """All are positional or keyword: a keyword-only one is no input to Dagster."""
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        source = self.source.parameters
        rest = [each for each in source if each.kind is inspect.Parameter.VAR_KEYWORD]
        named = [
            each.replace(kind=kind) for each in source if each not in rest and each.name != "config"
        ]
        named.append(inspect.Parameter("config", kind, annotation=config_class))
        if add_resource:
            named.append(inspect.Parameter(self.resource_key, kind, annotation=ImageGenResource))
        # In a signature those with a default come last.
        named.sort(key=lambda each: each.default is not inspect.Parameter.empty)
        context = inspect.Parameter("context", kind, annotation=dg.AssetExecutionContext)
        return [context, *named, *rest]


# -- what users write ------------------------------------------------------------------------------


def step_options(
    arguments: dict[str, Any],
    *,
    template: str | None = None,
    prompt_columns: Sequence[str] | None = None,
) -> StepOptions:
    """The options of a step with these arguments, out of which it takes those that are ours.

    Raises `ConfigurationError` for values that cannot work.
    """
    names = ImageParams.__annotations__
    params = {each: arguments.pop(each) for each in names if each in arguments}
    overrides = arguments.pop("overrides", ())
    check_overrides(overrides)
    return StepOptions(
        table=TableOptions(
            params=check_params(params),
            template=template,
            overrides=tuple(overrides),
            carry_prefix=check_carry_prefix(arguments.pop("carry_prefix", None)),
        ),
        fail_on=_fail_on(arguments.pop("fail_on", FAIL_ON)),
        on_incomplete=_on_incomplete(arguments.pop("on_incomplete", "fail")),
        table_type=check_table_type(arguments.pop("table_type", "arrow")),
        publication=_publication(
            arguments.pop("publish", None), arguments.pop("publish_stale", None)
        ),
        prompt_columns=prompt_columns,
    )


def take_resource_key(arguments: dict[str, Any]) -> str:
    """The key of the resource, out of these arguments. Raises `ConfigurationError`."""
    key: str = arguments.pop("resource_key", "imagegen")
    if not key.isidentifier() or key in ("config", *CONTEXT_NAMES):
        raise ConfigurationError(
            f"resource_key must be a name that an argument can have beside context and config, got "
            f'"{key}"; use e.g. imagegen'
        )
    return key


@contextmanager
def named(asset: str) -> Generator[None]:
    """Put the asset's name before what is wrong with its arguments."""
    try:
        yield
    except ConfigurationError as error:
        raise ConfigurationError(f"{asset}: {error}") from error


@functools.cache
def dagster_arguments(of: Callable[..., object] = dg.asset) -> frozenset[str]:
    """What the installed `dg.asset` takes, or another decorator of Dagster's, by name."""
    parameters = inspect.signature(of).parameters.values()
    return frozenset(
        each.name for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY
    )


@functools.cache
def argument_names() -> frozenset[str]:
    """What `image_asset` takes: the request's parameters, the installed `dg.asset`'s, and ours."""
    dagster = dagster_arguments() - {"config_schema"}
    return dagster.union(ImageParams.__annotations__, OUR_ARGUMENTS)


def check_names(where: str, given: Mapping[str, object], *, without: Sequence[str] = ()) -> None:
    """`check_known` of the arguments of `image_asset`, `without` some of them."""
    if "config_schema" in given:
        raise ConfigurationError(
            f"{where} has no config_schema; annotate an argument `config` of the function with a "
            "class derived from dg.Config"
        )
    check_known(where, given, argument_names().difference(without))


def check_known(where: str, given: Mapping[str, object], known: Collection[str]) -> None:
    """Raise `ConfigurationError` with the nearest name for an argument that there is not."""
    for name in given:
        if name not in known:
            raise ConfigurationError(
                f'{where} has no argument "{name}", nor is it a parameter of an image request'
                + did_you_mean(name, sorted(known))
            )


def _fail_on(statuses: Sequence[str]) -> tuple[str, ...]:
    if isinstance(statuses, str):
        raise ConfigurationError(f'fail_on must be a list of statuses: fail_on=["{statuses}"]')
    known = get_args(OutcomeStatus)
    for status in statuses:
        if status not in known:
            raise ConfigurationError(
                f'fail_on: "{status}" is not a status' + did_you_mean(status, known)
            )
    return tuple(statuses)


def _on_incomplete(what: str) -> OnIncomplete:
    for known in get_args(OnIncomplete):
        if what == known:
            return known
    raise ConfigurationError(f'on_incomplete must be "fail" or "materialize", got {what!r}')


def _publication(template: object, stale: object) -> Publication | None:
    if template is None:
        if stale is not None:
            raise ConfigurationError(
                "publish_stale says what becomes of published files, and nothing is published; set "
                "publish as well"
            )
        return None
    return Publication.parse(template, stale="list" if stale is None else stale)


def _config_class(asset: str, parameter: inspect.Parameter) -> type[dg.Config]:
    annotation = parameter.annotation
    if parameter.default is not inspect.Parameter.empty:
        raise ConfigurationError(
            f"{asset}: its argument `config` must have no default, because Dagster never uses one; "
            "give the fields of its class their defaults"
        )
    if not _is_subclass(annotation, dg.Config):
        raise ConfigurationError(
            f"{asset}: annotate its argument `config` with a class derived from dg.Config, or from "
            f"dg.PermissiveConfig to accept any field; {', '.join(OURS)} are added to its fields"
        )
    return annotation


def _is_subclass(annotation: object, base: type[T]) -> TypeGuard[type[T]]:
    """In Python 3.10 `list[str]` is an instance of `type` as well, but has no base classes."""
    plain = get_origin(annotation) is None
    return isinstance(annotation, type) and plain and issubclass(annotation, base)


async def _awaited(value: Any) -> object:
    return await value
