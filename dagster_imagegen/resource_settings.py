"""The settings of `ImageGenResource`, and how they become those of the engine."""

import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import dagster as dg
from pydantic import ConfigDict, Field, model_validator

from dagster_imagegen.engine.attempt import SANDBOX
from dagster_imagegen.engine.endpoint.retries import RetryPolicy
from dagster_imagegen.engine.engine import Engine
from dagster_imagegen.engine.errors import ConfigurationError, without_secrets
from dagster_imagegen.engine.money.budget import Budget
from dagster_imagegen.engine.settings import Settings
from dagster_imagegen.setting_values import (
    AboveZero,
    AtLeastOne,
    AtLeastZero,
    CheckedConfig,
    Flag,
    Number,
    PerSetting,
    ScopeSetting,
    WhenExhaustedSetting,
    Whole,
    as_written,
    resolved,
    secret_free,
    validated,
)


class RetryConfig(CheckedConfig):
    """Which failed requests are sent again in the same run."""

    PLACE: ClassVar[str] = "retry."

    max_attempts: AtLeastOne = Field(
        default=RetryPolicy.max_attempts,
        description="The most requests for one image in one run that end in server errors, which "
        "may have been billed. Refusals because of load, and outages, do not count.",
    )
    max_wait_seconds: AtLeastZero = Field(
        default=RetryPolicy.max_wait_seconds,
        description="The longest wait before a request is sent again, in seconds. If the endpoint "
        "asks for a longer one, the image is left to a later run.",
    )
    resend_unknown: Flag = Field(
        default=RetryPolicy.resend_unknown,
        description="Whether a request that timed out or broke off is sent again in the same run. "
        "It may then be paid for twice. By default only a later run sends it again.",
    )


class BudgetConfig(CheckedConfig):
    """The most that may be spent. Each request's worst-case cost is reserved before it is sent."""

    PLACE: ClassVar[str] = "budget."

    max_usd: AboveZero = Field(
        description="The limit in USD, by the price list. It holds over all requests in flight and "
        "all overlapping runs. A model without a price is an error before anything is sent.",
    )
    per: PerSetting = Field(
        default="run",
        description="What the limit is for: `run` with its retries (outside a run: all calls of "
        "one resource object), `day` or `month` (UTC), or `all` time.",
    )
    scope: ScopeSetting = Field(
        default="asset",
        description="Whose spending counts: `asset` for the asset that runs, `storage` for every "
        "row of the usage table.",
    )
    when_exhausted: WhenExhaustedSetting = Field(
        default="fail",
        description="What happens at the limit: `fail` fails the step, and the images made are "
        "stored; `defer` gives the other rows the status `deferred`, and a later run does them.",
    )
    strict: Flag = Field(
        default=False,
        description="Whether each request counts at the most that may have been charged "
        "(`cost_usd_max`). By default an answer that reports a server's failure counts 0.",
    )


class TokenRatesConfig(CheckedConfig):
    """USD per million tokens of each kind."""

    PLACE: ClassVar[str] = "prices: usd_per_million_tokens."

    text_input: Number | None = Field(default=None, description="Tokens of the prompt.")
    cached_text_input: Number | None = Field(
        default=None, description="Those of them that come from a cache."
    )
    image_input: Number | None = Field(default=None, description="Tokens of input images.")
    cached_image_input: Number | None = Field(
        default=None, description="Those of them that come from a cache."
    )
    image_output: Number | None = Field(default=None, description="Tokens of the image.")
    text_output: Number | None = Field(default=None, description="Tokens of text in the answer.")


class PriceConfig(CheckedConfig):
    """What a model costs: per token, or per image if the endpoint reports no usage."""

    PLACE: ClassVar[str] = "prices: "

    usd_per_million_tokens: TokenRatesConfig | None = Field(
        default=None, description="Rates by kind of token; a kind left out keeps its list price."
    )
    output_tokens: dict[str, dict[str, Whole]] = Field(
        default_factory=dict,
        description='Tokens of one image by size and quality, "*" for any. Without them there is '
        "no estimate before a run, and no cost for an answer that reports no usage.",
    )
    usd_per_image: dict[str, dict[str, Number]] = Field(
        default_factory=dict,
        description='USD for one image by size and quality, "*" for any. It applies whatever usage '
        "the answer reports.",
    )
    source: str | None = Field(
        default=None, description="Where the price is from. Stored with every cost."
    )
    as_of: str | None = Field(
        default=None, description="When it was checked, e.g. 2026-11-22. Stored with every cost."
    )


class ResourceSettings(dg.ConfigurableResource):  # pyright: ignore[reportMissingTypeArgument]  # its parameter is for resources that yield another object
    """The settings, and `open_engine`."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    base_url: str = Field(
        description="The endpoint's address, with or without /images/generations, e.g. "
        "https://inference.do-ai.run/v1; or `sandbox` for one in this process, without key or "
        "cost. A query such as Azure's `?api-version=…` is sent, and recorded and shown nowhere."
    )
    endpoint_id: str | None = Field(
        default=None,
        description="The endpoint's name, by default its base URL without the query. It is part of "
        "what identifies an image: with another name, images are paid for again. Set it to the old "
        "address when an endpoint moves, or to tell two apart whose addresses differ in the query "
        "alone.",
    )
    api_key: str | None = Field(
        default=None,
        repr=False,
        description="Sent as `Authorization: Bearer …`; by default nothing is. Use dg.EnvVar: "
        "Dagster stores a literal key with every run.",
    )
    model: str = Field(
        description="The model, e.g. openai-gpt-image-1, unless the asset or a row has another."
    )
    storage_uri: str = Field(
        description="Where images and records are stored: a folder, s3://…, gs://…, abfs://…. "
        "What is there is not paid for again; another storage starts empty. The path of a folder "
        "must be absolute, except with the sandbox."
    )
    storage_options: dict[str, Any] = Field(
        default_factory=dict,
        repr=False,
        description="Options of fsspec's filesystem, e.g. key, secret, endpoint_url. "
        "Dagster stores literal ones with every run.",
    )
    usage_uri: str | None = Field(
        default=None,
        description="Where the usage table and the journal are stored, by default in the storage. "
        "Set it if the images are public: usage rows hold prompts and costs. All who share the "
        "images must share it, or they pay twice.",
    )
    publish_storage_options: dict[str, Any] = Field(
        default_factory=dict,
        repr=False,
        description="Those of the place that assets publish to, if they differ. By default "
        "`storage_options` where both are of one kind (S3, say), and otherwise none.",
    )
    timeout_seconds: AboveZero = Field(
        default=Settings.timeout_seconds,
        description="The longest wait for an answer, in seconds. A request given up may have been "
        "billed; its usage row has the status `unknown`.",
    )
    patience_seconds: AtLeastZero = Field(
        default=Settings.patience_seconds,
        description="How long a run waits for an endpoint that is away or fails all requests, in "
        "seconds, before it ends. An address that has never answered is given a minute.",
    )
    max_concurrency: AtLeastOne = Field(
        default=Settings.max_concurrency,
        description="The most requests in flight, for each step or call. The endpoint's rate "
        "limits and the files that this process may open can lower it.",
    )
    requests_per_minute: AboveZero | None = Field(
        default=None,
        description="The most requests per minute that one process sends to the endpoint with "
        "one key, in all steps and calls; by default only the endpoint's own limits.",
    )
    retry: RetryConfig = Field(
        default_factory=RetryConfig, description="Which failed requests are sent again."
    )
    budget: BudgetConfig | None = Field(
        default=None, description="The most that may be spent; by default there is no limit."
    )
    prices: dict[str, PriceConfig] = Field(
        default_factory=dict,
        description="Your own prices by model name, or by family such as `flux-*`. They take "
        "precedence over the price list. The cost of a model without a price is unknown, not 0.",
    )
    extra_headers: dict[str, str] = Field(
        default_factory=dict,
        repr=False,
        description="Headers sent with every request, e.g. Azure's api-key.",
    )
    extra_body: dict[str, Any] = Field(
        default_factory=dict,
        repr=False,
        description="Further parameters in the body of every request. They are part of what "
        "identifies an image: if they change, images are paid for again. "
        '`{"env": "NAME"}` in it stands for the environment variable, as in all of Dagster.',
    )
    record_prompts: Flag = Field(
        default=True,
        description="Whether the usage table, previews and errors show prompts. If not, the usage "
        "table still has their sha256. The image table always has them.",
    )
    previews: Flag = Field(
        default=True,
        description="Whether Dagster's events show small copies of the images. Switch it off for "
        "private pictures: the event log keeps them, whoever may read the storage.",
    )
    usage_tags: list[str] = Field(
        default_factory=list,
        description="The names of those asset tags that usage rows have in `asset_tags`, e.g. "
        '["team", "cost-center"], so that costs can be charged to whoever caused them. Rows have '
        "the asset's owners and group in any case.",
    )
    drain_seconds: AtLeastZero = Field(
        default=Settings.drain_seconds,
        description="How long a terminated run waits for requests in flight, in seconds. The usage "
        "rows of those not answered by then have the status `unknown` and their worst-case cost. "
        "Publishing takes time too: keep it below the time that your platform gives a process "
        "between SIGTERM and SIGKILL, 30 s on Kubernetes.",
    )
    spill_folder: str | None = Field(
        default=None,
        description="The folder on this machine for images that the storage does not take; the "
        "next run there stores them. By default in the user's state folder. Put it on a disk that "
        "outlives the process, e.g. a volume.",
    )

    if not TYPE_CHECKING:  # It would hide the types of the settings.

        def __init__(self, **given: Any) -> None:
            for name in ("storage_options", "publish_storage_options", "extra_body"):
                if name in given:
                    given[name] = as_written(given[name])
            super().__init__(**given)

    @model_validator(mode="wrap")
    @classmethod
    def _valid(cls, given: Any, validate: Callable[[Any], Any]) -> Any:
        return validated(cls, given, validate)

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        return secret_free(super().__repr_args__())

    def open_engine(self) -> Engine:
        """The engine with these settings, for a `with` block.

        Raises `ConfigurationError` for settings that cannot work, before anything is sent.
        """
        # As this class: a subclass may have more fields.
        given = resolved(self, ResourceSettings)
        settings: dict[str, Any] = {
            name: getattr(given, name) for name in ResourceSettings.model_fields
        }
        for name in ("model", "storage_uri"):
            if not settings[name].strip():
                raise ConfigurationError(f"{name} is empty; set it")
        if given.base_url != SANDBOX:
            _check_absolute("storage_uri", given.storage_uri)
            _check_absolute("usage_uri", given.usage_uri)
        base_url, endpoint_id = _endpoint(given.base_url, given.endpoint_id)
        settings |= {
            "base_url": base_url,
            "endpoint_id": endpoint_id,
            "retry": RetryPolicy(**given.retry.model_dump()),
            "prices": {
                model: price.model_dump(exclude_none=True, exclude_defaults=True)
                for model, price in given.prices.items()
            },
        }
        if given.budget is not None:
            # From its text: $0.1 is meant, and not the nearest binary number.
            limits = {**given.budget.model_dump(), "max_usd": Decimal(str(given.budget.max_usd))}
            settings["budget"] = Budget(**cast("Any", limits))
        if given.spill_folder is None:
            del settings["spill_folder"]
        return Engine(Settings(**settings))


def _check_absolute(name: str, uri: str | None) -> None:
    """Raise `ConfigurationError` for a folder that depends on the working directory."""
    uri = without_secrets(uri or "/")
    folder = re.sub("^(file|local)://", "", uri)
    # fsspec takes ~ for the home folder.
    if "://" not in folder and not folder.startswith(("/", "~")):
        raise ConfigurationError(
            f"{name} must be absolute with a paid endpoint, got {uri!r}; use "
            f"{str(Path(folder).absolute())!r}, or s3://…. From another working directory it would "
            'be another folder, and all images would be paid for again. Only base_url "sandbox" '
            "takes a relative one"
        )


def _endpoint(base_url: str, endpoint_id: str | None) -> tuple[str, str]:
    """The address to send to, and the name of the endpoint."""
    if endpoint_id is not None and (endpoint_id == SANDBOX) != (base_url == SANDBOX):
        raise ConfigurationError(
            'endpoint_id must be "sandbox" for the sandbox (base_url "sandbox") and for nothing '
            f"else, got {endpoint_id!r}; leave it out"
        )
    if base_url != SANDBOX:
        from dagster_imagegen.engine.endpoint.base_url import (  # noqa: PLC0415  # loads httpx
            endpoint_name,
        )

        name = endpoint_name(base_url)  # Raises for an address that cannot work.
        return base_url, endpoint_id or name
    try:
        from dagster_imagegen.sandbox import shared_sandbox  # noqa: PLC0415  # an extra
    except ImportError as error:
        raise ConfigurationError(
            f"base_url \"sandbox\" needs a package: pip install 'dagster-imagegen[sandbox]' "
            f"({error})"
        ) from error
    return shared_sandbox().base_url, SANDBOX
