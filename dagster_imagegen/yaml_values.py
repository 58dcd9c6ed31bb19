"""Values of YAML attributes: the models that check them, and what they stand for."""

import inspect
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from functools import cache
from types import UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    TypeAlias,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

import dagster as dg
from pydantic import BaseModel, Field, create_model
from pydantic.fields import FieldInfo

from dagster_imagegen.engine.errors import ConfigurationError
from dagster_imagegen.engine.request import PARAMETERS, Parameter

Template: TypeAlias = Annotated[str, Field(pattern=r"\{\{")]
"""Text for Dagster's templates, e.g. `{{ env.QUALITY }}`."""

OF_SPEC = (
    "key",
    "description",
    "metadata",
    "group_name",
    "code_version",
    "owners",
    "automation_condition",
    "partitions_def",
    "freshness_policy",
)
"""Attributes of an asset spec that are arguments of `dg.asset` as they are."""


class EnvironmentVariable(dg.Model):
    """`{env: NAME}`, as Dagster writes an environment variable: it is read in the run."""

    env: str


Place: TypeAlias = tuple[dg.ResolutionContext, BaseModel]
"""Where a component's attributes are written, and what they are."""

Rows: TypeAlias = list[str | dict[str, Any]]
"""Prompts, or rows of a prompt table."""


class RetryAttributes(dg.Model):
    """The arguments of `dg.RetryPolicy`."""

    max_retries: int = 1
    delay: float | None = None
    backoff: dg.Backoff | None = None
    jitter: dg.Jitter | None = None


class BackfillAttributes(dg.Model):
    """A `dg.BackfillPolicy`, written as in Dagster's own components."""

    type: Literal["single_run", "multi_run"]
    max_partitions_per_run: int = 1


def _retry_policy(context: dg.ResolutionContext, model: RetryAttributes) -> dg.RetryPolicy:
    return dg.RetryPolicy(**model.model_dump())


def _backfill_policy(context: dg.ResolutionContext, model: BackfillAttributes) -> dg.BackfillPolicy:
    if model.type == "single_run":
        return dg.BackfillPolicy.single_run()
    return dg.BackfillPolicy.multi_run(model.max_partitions_per_run)


RetryValue: TypeAlias = Annotated[
    dg.RetryPolicy, dg.Resolver(_retry_policy, model_field_type=RetryAttributes)
]
BackfillValue: TypeAlias = Annotated[
    dg.BackfillPolicy, dg.Resolver(_backfill_policy, model_field_type=BackfillAttributes)
]


# -- models made from the code ---------------------------------------------------------------------


def params_model() -> type[BaseModel]:
    """The request's parameters as attributes: a field for each row of the table of parameters.

    Null is for text alone, where it leaves out a parameter that is sent by default. A type for
    templates too would make `dg check yaml` say no more than that nothing fits.
    """
    fields: dict[str, Any] = {name: (_param_type(each), None) for name, each in PARAMETERS.items()}
    return create_model("ImageParamsAttributes", __base__=dg.Model, **fields)


def checks_model(build_checks: Callable[..., Any]) -> type[BaseModel]:
    """The limits of `build_image_checks` as attributes; the component knows the rest."""
    hints = get_type_hints(build_checks)
    fields: dict[str, Any] = {
        name: (float | None if hints[name] == float | Decimal | None else hints[name], each.default)
        for name, each in inspect.signature(build_checks).parameters.items()
        if name not in ("asset", "resource_key", "partitions_def")
    }
    return create_model("ImageChecksAttributes", __base__=dg.Model, **fields)


def _param_type(parameter: Parameter) -> Any:
    if parameter.kind == "integer":
        limits = Field(strict=True, ge=parameter.minimum, le=parameter.maximum)
        return Annotated[int, limits]
    if parameter.kind == "boolean":
        return Annotated[bool, Field(strict=True)]
    if parameter.kind == "mapping":
        return dict[str, Any]
    text: Any = Annotated[str, Field(max_length=parameter.max_characters)]
    return text | None if parameter.nullable else text


@cache
def with_types(model: type[BaseModel], **types: Any) -> type[BaseModel]:
    """The model with these types, where Dagster would take text for a template as well."""
    fields: dict[str, Any] = {}
    for name, kind in types.items():
        field = model.model_fields[name]
        fields[name] = (kind, Field(field.default, description=field.description))
    return create_model(model.__name__, __base__=model, **fields)


@cache
def settings_model(config: type[dg.Config]) -> type[BaseModel]:
    """The fields of a config class as attributes, with the descriptions and limits they have.

    A class of its own: in one of `CheckedConfig` an error would not know its line.
    """
    fields: dict[str, Any] = {}
    for name, field in config.model_fields.items():
        default: Any = ... if field.is_required() else None
        fields[name] = (_setting_type(field), Field(default, description=field.description))
    return create_model(f"{config.__name__}Attributes", __base__=dg.Model, **fields)


def _setting_type(field: FieldInfo) -> Any:
    kind: Any = _without_config(field.annotation)
    if field.metadata:
        annotated: Any = Annotated
        kind = annotated[(kind, *field.metadata)]
    optional: Any = kind if field.is_required() else kind | None
    return optional | EnvironmentVariable | Template


def _without_config(annotation: Any) -> Any:
    """The type with each config class replaced by its attributes; texts may be variables."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return Union[tuple(_without_config(each) for each in args)]  # noqa: UP007  # of any number
    if origin is dict:
        value = args[1] | EnvironmentVariable if args[1] is str else _without_config(args[1])
        return dict[args[0], value]
    # In Python 3.10 `list[str]` is a type, but no class.
    if origin is None and isinstance(annotation, type) and issubclass(annotation, dg.Config):
        return settings_model(annotation)
    return annotation


# -- what they stand for ---------------------------------------------------------------------------


def rendered(context: dg.ResolutionContext, value: Any) -> Any:
    """The value with its templates resolved, and `{env: NAME}` as a `dg.EnvVar`.

    Text without a template stays to the letter: Dagster would read the prompt "[a, b]" as a list,
    and drop the quotes of a prompt that has some.
    """
    if isinstance(value, BaseModel):
        value = value.model_dump(exclude_unset=True, warnings=False)  # a variable is no number
    if isinstance(value, str):
        return context.resolve_value(value) if "{{" in value else value
    if isinstance(value, Mapping):
        items = cast("Mapping[str, Any]", value)
        name = items.get("env")
        if set(items) == {"env"} and isinstance(name, str):
            return dg.EnvVar(name)
        return {key: rendered(context.at_path(key), each) for key, each in items.items()}
    if isinstance(value, list):
        items = cast("list[Any]", value)
        return [rendered(context.at_path(at), each) for at, each in enumerate(items)]
    return value


def spec_arguments(spec: dg.AssetSpec) -> dict[str, Any]:
    """The arguments of `dg.asset` that an asset spec says."""
    # Dagster keeps kinds among the tags, and takes them apart from these.
    kinds = {f"dagster/kind/{kind}" for kind in spec.kinds}
    given = {
        **{name: getattr(spec, name) for name in OF_SPEC},
        "deps": spec.deps or None,
        "tags": {name: each for name, each in spec.tags.items() if name not in kinds},
        "kinds": spec.kinds or None,
    }
    return {name: each for name, each in given.items() if each is not None}


@contextmanager
def at_its_line(place: Place | None, *path: str) -> Generator[None]:
    """Add file and line of an attribute to a `ConfigurationError`, if there is a file."""
    try:
        yield
    except ConfigurationError as error:
        if place is None:
            raise
        at, model = place
        for name in path:
            at = at.at_path(name)
        field = ".".join(path) or "attributes"
        raise at.build_resolve_fn_exc([str(error)], field_name=field, model=model) from None
