"""The values of settings: plain ones, and names of environment variables in their place."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, TypeGuard, TypeVar, cast

import dagster as dg
from pydantic import ConfigDict, Field, GetCoreSchemaHandler, ValidationError, model_validator
from pydantic_core import CoreSchema, ErrorDetails, core_schema

from dagster_imagegen.engine.errors import (
    ConfigurationError,
    abbreviate,
    did_you_mean,
    without_secrets,
)

AnyConfig = TypeVar("AnyConfig", bound=dg.Config)
IntEnvVar = type(dg.EnvVar.int("ANY"))
"""What `dg.EnvVar.int` makes, whose class Dagster does not export."""

# The beginnings of pydantic's error types.
_RULES = {
    "float_": "must be a number",
    "int_": "must be a whole number",
    "bool_": "must be true or false",
    "string_": "must be text",
    "dict_": "must be a mapping",
    "literal_": "must be {expected}",
    "greater_than_equal": "must be at least {ge:g}",
    "greater_than": "must be greater than {gt:g}",
    "finite_number": "must be finite",
}


class _OrEnvVar:
    """Marks a field that is validated as `kind`, unless an environment variable stands there.

    Dagster must take the field for one of any type: its own types for numbers and choices take no
    environment variable (Float, Enum), or take one of their kind alone (Int, Bool).
    """

    def __init__(self, kind: object, **limits: float) -> None:
        self._kind: Any = Annotated[kind, Field(**cast("Any", limits))] if limits else kind

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_wrap_validator_function(
            lambda value, validate: value if _names_variable(value) else validate(value),
            handler.generate_schema(self._kind),
        )


if TYPE_CHECKING:
    from dagster_imagegen.engine.money.budget import Per, Scope, WhenExhausted

    Number: TypeAlias = float
    AtLeastZero: TypeAlias = float
    AboveZero: TypeAlias = float
    Whole: TypeAlias = int
    AtLeastOne: TypeAlias = int
    Flag: TypeAlias = bool
    PerSetting: TypeAlias = Per
    ScopeSetting: TypeAlias = Scope
    WhenExhaustedSetting: TypeAlias = WhenExhausted
else:
    from dagster_imagegen.engine.money import budget

    Number = Annotated[Any, _OrEnvVar(float)]
    AtLeastZero = Annotated[Any, _OrEnvVar(float, ge=0)]
    AboveZero = Annotated[Any, _OrEnvVar(float, gt=0)]
    Whole = Annotated[Any, _OrEnvVar(int)]
    AtLeastOne = Annotated[Any, _OrEnvVar(int, ge=1)]
    Flag = Annotated[Any, _OrEnvVar(bool)]
    PerSetting = Annotated[Any, _OrEnvVar(budget.Per)]
    ScopeSetting = Annotated[Any, _OrEnvVar(budget.Scope)]
    WhenExhaustedSetting = Annotated[Any, _OrEnvVar(budget.WhenExhausted)]


class CheckedConfig(dg.Config):
    """Settings whose errors are `ConfigurationError`s that show no secret."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    @model_validator(mode="wrap")
    @classmethod
    def _valid(cls, given: Any, validate: Callable[[Any], Any]) -> Any:
        return validated(cls, given, validate)


def validated(model: type[dg.Config], given: Any, validate: Callable[[Any], Any]) -> Any:
    """What `validate` makes of `given`. Raises `ConfigurationError` for what it does not take.

    Dagster drops settings that it does not know; they are errors here. Values of fields that are
    left out of `repr`, and all that are not a single value, are left out of the message as well.
    """
    if isinstance(given, Mapping):
        for name in cast("Mapping[str, object]", given):
            if name not in model.model_fields:
                raise ConfigurationError(
                    f'"{name}" is not a setting' + did_you_mean(name, model.model_fields)
                )
    try:
        return validate(given)
    except ValidationError as error:
        problems = "; ".join(_problem(model, each) for each in error.errors(include_url=False))
    # Outside of the block: pydantic's error, which holds what was given, must not come along.
    raise ConfigurationError(problems)


def _problem(model: type[dg.Config], error: ErrorDetails) -> str:
    place = str(getattr(model, "PLACE", "")) + ".".join(str(each) for each in error["loc"])
    value = error["input"]
    if value is None or error["type"] == "missing":
        return f"{place} must be set"
    rule = next((_RULES[each] for each in _RULES if error["type"].startswith(each)), None)
    told = rule.format(**error.get("ctx", {})) if rule else error["msg"]
    field = model.model_fields.get(str(error["loc"][0])) if error["loc"] else None
    shown = field is not None and field.repr and isinstance(value, (str, int, float))
    return f"{place} {told}, got {abbreviate(value) if shown else type(value).__name__}"


def resolved(config: dg.Config, kind: type[AnyConfig], *, place: str = "") -> AnyConfig:
    """The same settings as a `kind`, with the values of the environment variables they name.

    Outside a run nobody else resolves them, and in a run Dagster leaves those that stand where any
    type may. Values are checked as if they had been written there.

    Raises `ConfigurationError` for a variable that is not set, and for a value that cannot work.
    """
    given = {
        name: _resolved(f"{place}{name}", getattr(config, name))
        for name in kind.model_fields
        if name in config.model_fields_set
    }
    return kind(**given)


def _resolved(place: str, value: Any) -> Any:
    if isinstance(value, dg.Config):
        return resolved(value, type(value), place=f"{place}.")
    if _names_variable(value):
        return _value_of(place, value)
    if isinstance(value, Mapping):
        items = cast("Mapping[str, Any]", value)
        return {name: _resolved(f"{place}[{name!r}]", each) for name, each in items.items()}
    if isinstance(value, (list, tuple)):
        items = cast("list[Any]", value)
        return [_resolved(f"{place}[{index}]", each) for index, each in enumerate(items)]
    return value


def as_written(value: Any) -> Any:
    """The same with each `dg.EnvVar.int` as `{"env": "NAME", "int": True}`.

    Where any type may stand, Dagster hands both kinds over to a run as `{"env": "NAME"}`, which
    would be text there.
    """
    if isinstance(value, IntEnvVar):
        return {"env": value.env_var_name, "int": True}
    if isinstance(value, Mapping):
        items = cast("Mapping[Any, Any]", value)
        return {name: as_written(each) for name, each in items.items()}
    if isinstance(value, list):
        return [as_written(each) for each in cast("list[Any]", value)]
    return value


def _names_variable(value: object) -> TypeGuard[Any]:
    """Whether it is an environment variable, or how Dagster writes one: `{"env": "NAME"}`."""
    if isinstance(value, Mapping):
        items = cast("Mapping[Any, object]", value)
        return set(items) in ({"env"}, {"env", "int"}) and isinstance(items["env"], str)
    return isinstance(value, (dg.EnvVar, IntEnvVar))


def _value_of(place: str, variable: Any) -> Any:
    if isinstance(variable, Mapping):
        name = cast("Mapping[str, str]", variable)["env"]
        variable = dg.EnvVar.int(name) if "int" in variable else dg.EnvVar(name)
    try:
        found = variable.get_value()
    except ValueError:
        found = None
        problem = "is not a whole number"
    else:
        problem = "is not set"
    if found is None:
        name = variable.env_var_name
        raise ConfigurationError(f"{place}: the environment variable {name!r} {problem}")
    return found


def secret_free(pairs: Iterable[tuple[str | None, Any]]) -> Iterator[tuple[str | None, Any]]:
    """The pairs of a repr without what can be a key in an address: a query, and a password."""
    for name, value in pairs:
        known = isinstance(value, str) and not _names_variable(value)
        if known and name in ("base_url", "uri", "storage_uri", "usage_uri"):
            yield name, without_secrets(value)
        else:
            yield name, value
