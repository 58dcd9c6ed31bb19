"""The options that verbs share, and the engine that they describe."""

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, TypeVar, cast

import click
import yaml

from dagster_imagegen.cli.storages import check_storage
from dagster_imagegen.engine.attempt import SANDBOX
from dagster_imagegen.engine.endpoint.base_url import endpoint_name
from dagster_imagegen.engine.engine import Engine
from dagster_imagegen.engine.errors import ConfigurationError
from dagster_imagegen.engine.settings import Settings

Command = TypeVar("Command", bound=Callable[..., Any])

KEY_VARIABLE = "IMAGEGEN_API_KEY"
_FROM_VARIABLE = "env:"
_SECRET_HEADER_WORDS = ("auth", "key", "cookie")
_SECRET_SCHEMES = {"bearer", "basic"}
_SECRET_WORDS = ("secret", "pass", "token", "account_key", "credential", "connection_string")


@dataclass(frozen=True, kw_only=True)
class StorageChoice:
    """Which storage, as given by `storage_options`."""

    storage: str
    storage_option: Sequence[str] = ()
    usage: str | None = None

    @property
    def options(self) -> Mapping[str, Any]:
        """What fsspec's filesystem is opened with."""
        return dict(_storage_option(each) for each in self.storage_option)


@dataclass(frozen=True, kw_only=True)
class EndpointChoice:
    """Which endpoint and model, as given by `endpoint_options`."""

    endpoint: str
    endpoint_id: str | None = None
    model: str | None = None
    key_env: str = KEY_VARIABLE
    prices: Path | None = None
    header: Sequence[str] = ()

    @property
    def headers(self) -> Mapping[str, str]:
        """What is sent with every request beside the key."""
        return dict(_header(each) for each in self.header)

    @property
    def key(self) -> str | None:
        """The key, from its environment variable."""
        return os.environ.get(self.key_env) or None


NO_ENDPOINT = EndpointChoice(endpoint="http://localhost/no-endpoint")
"""For verbs that send nothing."""


def storage_options(command: Command) -> Command:
    """Add `--storage`, `--storage-option` and `--usage`; the verb gets them as `storage`, a
    `StorageChoice`."""
    return grouped(
        command,
        "storage",
        StorageChoice,
        click.option(
            "--storage",
            required=True,
            envvar="IMAGEGEN_STORAGE",
            show_envvar=True,
            metavar="URI",
            help="The storage: a folder, s3://…, gs://…, abfs://….",
        ),
        click.option(
            "--storage-option",
            multiple=True,
            metavar="NAME=VALUE",
            help="An option of fsspec's filesystem; env:VARIABLE as a value is read from that "
            "environment variable. May be given again.",
        ),
        click.option(
            "--usage",
            envvar="IMAGEGEN_USAGE",
            show_envvar=True,
            metavar="URI",
            help="Where the usage table is, if it is not in the storage.",
        ),
    )


def endpoint_options(command: Command) -> Command:
    """Add the options of the endpoint; the verb gets them as `endpoint`, an `EndpointChoice`."""
    return grouped(
        command,
        "endpoint",
        EndpointChoice,
        click.option(
            "--endpoint",
            required=True,
            envvar="IMAGEGEN_BASE_URL",
            show_envvar=True,
            metavar="URL",
            help="The endpoint's base URL, e.g. https://api.openai.com/v1, or `sandbox`.",
        ),
        click.option(
            "--endpoint-id",
            metavar="NAME",
            help="The endpoint's name on record, as the resource's `endpoint_id`.",
        ),
        click.option("--model", envvar="IMAGEGEN_MODEL", show_envvar=True, metavar="NAME"),
        click.option(
            "--key-env",
            default=KEY_VARIABLE,
            show_default=True,
            metavar="VARIABLE",
            help="The environment variable that holds the key. A key is never an argument.",
        ),
        prices_option,
        click.option(
            "--header",
            multiple=True,
            metavar="NAME=VALUE",
            help="A header of every request, as the resource's `extra_headers`; env:VARIABLE as a "
            "value is read from that environment variable. May be given again.",
        ),
    )


prices_option = click.option(
    "--prices",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A YAML file of your own prices by model, as the resource's `prices`.",
)


def open_engine(
    storage: StorageChoice,
    endpoint: EndpointChoice = NO_ENDPOINT,
    *,
    may_be_new: bool = False,
    **settings: Any,
) -> Engine:
    """The engine on this storage, with further settings of the engine.

    Raises `ConfigurationError` for settings that cannot work, for a folder that is no storage
    (with `may_be_new`, an empty or absent one is fine), and for a usage table of a newer version.
    """
    base_url, endpoint_id = _endpoint(endpoint)
    if endpoint.prices is not None:
        settings["prices"] = read_prices(endpoint.prices)
    engine = Engine(
        Settings(
            base_url=base_url,
            endpoint_id=endpoint_id,
            api_key=endpoint.key,
            extra_headers=endpoint.headers,
            model=endpoint.model or "",
            storage_uri=storage.storage,
            storage_options=storage.options,
            usage_uri=storage.usage,
            **settings,
        )
    )
    check_storage(engine, may_be_new=may_be_new)
    return engine


def open_endpoint(endpoint: EndpointChoice) -> Engine:
    """An engine that is only asked about its endpoint."""
    base_url, endpoint_id = _endpoint(endpoint)
    return Engine(
        Settings(
            base_url=base_url,
            endpoint_id=endpoint_id,
            api_key=endpoint.key,
            extra_headers=endpoint.headers,
            model=endpoint.model or "",
            storage_uri=tempfile.gettempdir(),
        )
    )


def read_prices(path: Path) -> Mapping[str, Mapping[str, object]]:
    """The prices of a YAML file, by model. `PriceList.with_overrides` checks each price."""
    try:
        read: object = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise ConfigurationError(f"the price file {path} cannot be read: {error}") from error
    if not isinstance(read, dict):
        raise ConfigurationError(
            f"the price file {path} must map model names to prices, e.g.\n"
            "  my-model: {usd_per_image: {'*': {'*': 0.04}}}"
        )
    prices = cast("dict[object, object]", read)
    for model, price in prices.items():
        if not isinstance(model, str) or not isinstance(price, dict):
            raise ConfigurationError(
                f"the price file {path}: {model!r} must be a model name with a price below it"
            )
    return cast("dict[str, dict[str, object]]", prices)


def amount(text: str) -> Decimal:
    """An amount of money as the value of an option."""
    try:
        value = Decimal(text)
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite() or value < 0:
        raise click.BadParameter(f"must be a number of at least 0, got {text!r}")
    return value


def value_of(text: str) -> Any:
    """A value on the command line: as JSON where it is JSON, else as text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _endpoint(choice: EndpointChoice) -> tuple[str, str]:
    """The address to send to, and the endpoint's name on record."""
    if choice.endpoint != SANDBOX:
        name = endpoint_name(choice.endpoint)  # Raises for an address that cannot work.
        return choice.endpoint, choice.endpoint_id or name
    try:
        from dagster_imagegen.sandbox import shared_sandbox  # noqa: PLC0415  # an extra
    except ImportError as error:
        raise ConfigurationError(
            f"--endpoint sandbox needs a package: pip install 'dagster-imagegen[sandbox]' ({error})"
        ) from error
    return shared_sandbox().base_url, SANDBOX


def _storage_option(text: str) -> tuple[str, Any]:
    name, text, from_variable = _name_and_value("--storage-option", text)
    value = value_of(text)
    if from_variable:
        # Options within an option; a password of digits stays text.
        return name, value if isinstance(value, (dict, list)) else text
    _refuse_secrets("--storage-option", name, [name, *_names_in(value)], _SECRET_WORDS)
    return name, value


def _header(text: str) -> tuple[str, str]:
    name, value, from_variable = _name_and_value("--header", text)
    if not from_variable:
        schemes = {value.partition(" ")[0].lower()} & _SECRET_SCHEMES
        words = (*_SECRET_WORDS, *_SECRET_HEADER_WORDS, *_SECRET_SCHEMES)
        _refuse_secrets("--header", name, [name, *schemes], words)
    return name, value


def _name_and_value(option: str, text: str) -> tuple[str, str, bool]:
    """The name, the value, and whether that is from an environment variable."""
    name, separator, value = text.partition("=")
    if not (name and separator) or any(each in name for each in ": \t"):
        # Not shown: "Authorization: Bearer ..." has a secret in it.
        raise ConfigurationError(f"{option} must be NAME=VALUE, without a colon or space in NAME")
    if not value.startswith(_FROM_VARIABLE):
        return name, value, False
    variable = value.removeprefix(_FROM_VARIABLE)
    if variable not in os.environ:
        raise ConfigurationError(f"{option} {name}: the environment variable {variable} is not set")
    return name, os.environ[variable], True


def _refuse_secrets(
    option: str, name: str, names: Sequence[str], secret_words: Sequence[str]
) -> None:
    if any(word in each.lower() for each in names for word in secret_words):
        raise ConfigurationError(
            f"{option} {name} looks like a secret, which other users of this machine see on the "
            f"command line; use {name}={_FROM_VARIABLE}VARIABLE"
        )


def _names_in(value: object) -> Iterator[str]:
    """The names within a value that is JSON."""
    if isinstance(value, dict):
        for name, each in cast("dict[str, object]", value).items():
            yield name
            yield from _names_in(each)
    elif isinstance(value, list):
        for each in cast("list[object]", value):
            yield from _names_in(each)


def grouped(
    command: Command, name: str, kind: type, *options: Callable[[Command], Command]
) -> Command:
    """Add options, which the command gets as one object of the dataclass `kind`."""
    fields = kind.__dataclass_fields__

    def with_object(**given: Any) -> Any:
        own = {each: given.pop(each) for each in fields}
        return command(**given, **{name: kind(**own)})

    with_object.__doc__ = command.__doc__
    # Click keeps the options of decorators below this one here.
    with_object.__dict__.update(command.__dict__)
    grouped = cast("Command", with_object)
    for option in reversed(options):
        grouped = option(grouped)
    return grouped
