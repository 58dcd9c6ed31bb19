"""Whether a step's IO manager can store what the step returns, before anything is paid for."""

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace, UnionType
from typing import Annotated, Any, TypeGuard, Union, cast, get_args, get_origin, get_type_hints

import dagster as dg

from dagster_imagegen.engine.errors import ConfigurationError
from dagster_imagegen.table_types import TABLE_TYPES, TableType, table_class


def check_io_manager(
    context: dg.OpExecutionContext,
    partitions: int,
    *,
    io_manager_key: str | None = None,
    table_type: TableType,
    value_is_known: bool,
) -> None:
    """Raise `ConfigurationError` if this run's IO manager cannot store the image table.

    `io_manager_key` is that of another step, if that one returns the table. What is not known
    refuses nothing. With `value_is_known` False, the step may return something else than an image
    table of `table_type`.
    """
    output = context.op_def.output_defs[0]
    key = io_manager_key or output.io_manager_key
    manager = getattr(context.resources, key, None)
    kind = getattr(manager, "_io_manager_name", type(manager).__name__)
    name = f'"{key}", {kind}'
    if partitions > 1 and _writes_one_value(manager):
        raise ConfigurationError(
            f"this run is over {partitions:,} partitions, and its IO manager ({name}) writes one "
            "at a time. Set backfill_policy=dg.BackfillPolicy.multi_run(), or an IO manager that "
            "takes a dict of a table by partition, such as ParquetIOManager. Nothing was sent"
        )
    if not value_is_known:
        return
    kind_of_table = table_class(table_type)
    value = dict if partitions > 1 else kind_of_table
    one = _type_name(kind_of_table)
    words = f"a dict of {one} by partition" if partitions > 1 else f"a {one}"
    stored = stored_types(manager)
    if not any(_takes(each, value) for each in stored):
        raise ConfigurationError(
            f"the image table is {words}, which its IO manager ({name}) cannot store: "
            f"it stores {', '.join(_type_name(each) for each in stored)}. {_remedy(stored)}. "
            "Nothing was sent"
        )
    if io_manager_key is None and not _takes(output.dagster_type.typing_type, value):
        raise ConfigurationError(
            f"the image table is {words}, and its dagster_type is "
            f"{output.dagster_type.display_name}; leave out dagster_type. Nothing was sent"
        )


def stored_types(manager: object) -> Sequence[object]:
    """The types that an IO manager says it stores; `Any` where it does not say."""
    # Managers of databases choose a handler by the type of the value.
    handlers = getattr(manager, "_handlers_by_type", None)
    if isinstance(handlers, Mapping):
        return list(cast("Mapping[object, object]", handlers))
    if _writes_one_value(manager):
        return [_annotation(manager.dump_to_path)]
    if isinstance(manager, dg.IOManager):
        return [_annotation(manager.handle_output)]
    return [Any]


def _writes_one_value(manager: object) -> TypeGuard[dg.UPathIOManager]:
    """Whether `dump_to_path` gets the value of the step, which is one partition's."""
    return (
        isinstance(manager, dg.UPathIOManager)
        and type(manager).handle_output is dg.UPathIOManager.handle_output
    )


def _annotation(method: Callable[..., object]) -> object:
    """The type of a method's argument after the context; `Any` if nothing is known of it."""
    try:
        annotation = list(inspect.signature(method).parameters.values())[1].annotation
        if isinstance(annotation, str):
            # This one alone: the others may name what is imported for type checkers only.
            stub = SimpleNamespace(__annotations__={"value": annotation})
            annotation = get_type_hints(stub, vars(sys.modules[method.__module__]))["value"]
    except Exception:  # noqa: BLE001  # an annotation can be any code
        return Any
    return Any if annotation is inspect.Parameter.empty else annotation


def _takes(annotation: Any, value: type) -> bool:
    """Whether an argument of this type takes such a value, as far as can be known."""
    origin = get_origin(annotation)
    if annotation is Any:
        return True
    if origin is Annotated:
        return _takes(get_args(annotation)[0], value)
    if origin in (Union, UnionType):
        return any(_takes(each, value) for each in get_args(annotation))
    kind = annotation if origin is None else origin
    if annotation is type(None):
        return False
    try:
        return not isinstance(kind, type) or issubclass(value, kind)
    except TypeError:  # A protocol, say.
        return True


def _remedy(stored: Sequence[object]) -> str:
    each_stored = (one for annotation in stored for one in _alternatives(annotation))
    modules = {getattr(one, "__module__", "").partition(".")[0] for one in each_stored}
    alike = [name for name in TABLE_TYPES if name in modules]
    other = "Set io_manager_key to an IO manager that stores such tables"
    return f'Set table_type="{alike[0]}". {other}, otherwise' if alike else other


def _alternatives(annotation: object) -> Sequence[object]:
    if get_origin(annotation) in (Union, UnionType):
        return [one for each in get_args(annotation) for one in _alternatives(each)]
    return [annotation]


def _type_name(annotation: object) -> str:
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return f"{annotation.__module__.partition('.')[0]} {annotation.__qualname__}"
    return str(annotation)
