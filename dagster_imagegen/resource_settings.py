"""The settings of `ImageGenResource`, and how they become those of the engine."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, cast
from urllib.parse import urlsplit

import dagster as dg
from pydantic import ConfigDict, Field, model_validator

from dagster_imagegen.engine.attempt import SANDBOX
from dagster_imagegen.engine.endpoint.base_url import endpoint_url
from dagster_imagegen.engine.endpoint.retries import RetryPolicy
from dagster_imagegen.engine.engine import Engine
from dagster_imagegen.engine.errors import ConfigurationError, did_you_mean
from dagster_imagegen.engine.money.budget import Budget, Per, Scope, WhenExhausted
from dagster_imagegen.engine.settings import Settings

DEFAULT_PORTS = {"http": 80, "https": 443}


class _Config(dg.Config):
    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _known(cls, given: Any) -> Any:
        return _check_names(given, cls.model_fields)


class RetryConfig(_Config):
    """Which failed requests are sent again in the same run."""

    max_attempts: int = Field(
        default=RetryPolicy.max_attempts,
        ge=1,
        description="The most requests for one image in one run that end in server errors, which "
        "may have been billed. Refusals because of load, and outages, do not count.",
    )
    max_wait_seconds: float = Field(
        default=RetryPolicy.max_wait_seconds,
        ge=0,
        description="The longest wait before a request is sent again, in seconds. If the endpoint "
        "asks for a longer one, the image is left to a later run.",
    )
    resend_unknown: bool = Field(
        default=RetryPolicy.resend_unknown,
        description="Whether a request that timed out or broke off is sent again in the same run. "
        "It may then be paid for twice. By default only a later run sends it again, at most twice.",
    )


class BudgetConfig(_Config):
    """The most that may be spent. Each request's worst-case cost is reserved before it is sent."""

    max_usd: float = Field(
        gt=0,
        description="The limit in USD, by the price list. It holds over all requests in flight and "
        "all overlapping runs. A model without a price is an error before anything is sent.",
    )
    per: Per = Field(
        default="run",
        description="What the limit is for: `run` with its retries (outside a run: all calls of "
        "one resource object), `day` or `month` (UTC), or `all` time.",
    )
    scope: Scope = Field(
        default="asset",
        description="Whose spending counts: `asset` for the asset that runs, `storage` for every "
        "row of the usage table.",
    )
    when_exhausted: WhenExhausted = Field(
        default="fail",
        description="What happens at the limit: `fail` fails the step, and the images made are "
        "stored; `defer` gives the other rows the status `deferred`, and a later run does them.",
    )
    strict: bool = Field(
        default=False,
        description="Whether each request counts at the most that may have been charged "
        "(`cost_usd_max`). By default an answer that reports a server's failure counts 0.",
    )


class TokenRatesConfig(_Config):
    """USD per million tokens of each kind."""

    text_input: float | None = Field(default=None, description="Tokens of the prompt.")
    cached_text_input: float | None = Field(default=None, description="Cached ones of those.")
    image_input: float | None = Field(default=None, description="Tokens of input images.")
    cached_image_input: float | None = Field(default=None, description="Cached ones of those.")
    image_output: float | None = Field(default=None, description="Tokens of the image.")
    text_output: float | None = Field(default=None, description="Tokens of text in the answer.")


class PriceConfig(_Config):
    """What a model costs: per token, or per image if the endpoint reports no usage."""

    usd_per_million_tokens: TokenRatesConfig | None = Field(
        default=None, description="Rates by kind of token; a kind left out keeps its list price."
    )
    output_tokens: dict[str, dict[str, int]] = Field(
        default_factory=dict,
        description='Tokens of one image by size and quality, "*" for any. Without them there is '
        "no estimate before a run, and no cost for an answer that reports no usage.",
    )
    usd_per_image: dict[str, dict[str, float]] = Field(
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

    model_config = ConfigDict(extra="forbid")

    base_url: str = Field(
        description="The endpoint's address, with or without /images/generations, e.g. "
        "https://inference.do-ai.run/v1; or `sandbox` for one in this process, without key or cost."
    )
    endpoint_id: str | None = Field(
        default=None,
        description="The endpoint's name, by default its base URL. It is part of what identifies "
        "an image: with another name, images are paid for again. Set it to the old address when "
        "an endpoint moves.",
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
        "What is there is not paid for again; another storage starts empty."
    )
    storage_options: dict[str, Any] = Field(
        default_factory=dict,
        repr=False,
        description="Options of fsspec's filesystem, e.g. key, secret, endpoint_url. Values can be "
        "dg.EnvVar, also nested ones; Dagster stores literal ones with every run.",
    )
    usage_uri: str | None = Field(
        default=None,
        description="Where the usage table and the journal are stored, by default in the storage. "
        "Set it if the images are public: usage rows hold prompts and costs. All who share the "
        "images must share it, or they pay twice.",
    )
    timeout_seconds: float = Field(
        default=Settings.timeout_seconds,
        gt=0,
        description="The longest wait for an answer, in seconds. A request given up may have been "
        "billed; its usage row has the status `unknown`.",
    )
    patience_seconds: float = Field(
        default=Settings.patience_seconds,
        ge=0,
        description="How long a run waits for an endpoint that is away or fails all requests, in "
        "seconds, before it ends. An address that has never answered is given a minute.",
    )
    max_concurrency: int = Field(
        default=Settings.max_concurrency,
        ge=1,
        description="The most requests in flight in one process. The endpoint's rate limits can "
        "lower it.",
    )
    requests_per_minute: float | None = Field(
        default=None,
        gt=0,
        description="The most requests per minute in one process; by default only the endpoint's "
        "own limits.",
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
        description="Headers sent with every request, e.g. Azure's api-key. Values can be "
        "dg.EnvVar.",
    )
    extra_body: dict[str, Any] = Field(
        default_factory=dict,
        description="Further parameters in the body of every request. They are part of what "
        "identifies an image: with other ones, images are paid for again.",
    )
    record_prompts: bool = Field(
        default=True,
        description="Whether the usage table, previews and errors show prompts. If not, the usage "
        "table still has their sha256. The image table always has them.",
    )
    drain_seconds: float = Field(
        default=Settings.drain_seconds,
        ge=0,
        description="How long a terminated run waits for requests in flight, in seconds. The usage "
        "rows of those not answered by then have the status `unknown` and their worst-case cost.",
    )

    @model_validator(mode="before")
    @classmethod
    def _known(cls, given: Any) -> Any:
        return _check_names(given, cls.model_fields)

    def open_engine(self) -> Engine:
        """The engine with these settings, for a `with` block.

        Raises `ConfigurationError` for settings that cannot work, before anything is sent.
        """
        # The fields of this class alone: a subclass may have more.
        settings: dict[str, Any] = {
            name: _resolved(name, getattr(self, name)) for name in ResourceSettings.model_fields
        }
        for name in ("model", "storage_uri"):
            if not settings[name].strip():
                raise ConfigurationError(f"{name} is empty; set it")
        base_url, endpoint_id = _endpoint(settings["base_url"], settings["endpoint_id"])
        settings |= {
            "base_url": base_url,
            "endpoint_id": endpoint_id,
            "retry": RetryPolicy(**self.retry.model_dump()),
            "prices": {
                model: price.model_dump(exclude_none=True, exclude_defaults=True)
                for model, price in self.prices.items()
            },
        }
        if self.budget is not None:
            # From its text: $0.1 is meant, and not the nearest binary number.
            limits = {**self.budget.model_dump(), "max_usd": Decimal(str(self.budget.max_usd))}
            settings["budget"] = Budget(**cast("Any", limits))
        return Engine(Settings(**settings))


def normalised(base_url: str) -> str:
    """The base URL in one spelling: lower-case scheme and host, no default port, no last slash.

    Images are identified by it, so that all spellings of one address share them.
    """
    parts = urlsplit(base_url.strip())
    host = parts.hostname or ""
    if ":" in host:
        host = f"[{host}]"
    port = "" if parts.port in (None, DEFAULT_PORTS.get(parts.scheme)) else f":{parts.port}"
    query = f"?{parts.query}" if parts.query else ""
    return f"{parts.scheme}://{host}{port}{parts.path.rstrip('/')}{query}"


def _endpoint(base_url: str, endpoint_id: str | None) -> tuple[str, str]:
    """The address to send to, and the name of the endpoint."""
    if endpoint_id is not None and (endpoint_id == SANDBOX) != (base_url == SANDBOX):
        raise ConfigurationError(
            f'endpoint_id must be "sandbox" for the sandbox and for nothing else, got '
            f"{endpoint_id!r} with base_url {base_url!r}; leave it out"
        )
    if base_url != SANDBOX:
        endpoint_url(base_url)  # Raises for an address that cannot work.
        try:
            return base_url, endpoint_id or normalised(base_url)
        except ValueError as error:  # httpx accepts ports that TCP does not have.
            raise ConfigurationError(f"base_url {base_url!r} has no such port: {error}") from error
    try:
        from dagster_imagegen.sandbox import shared_sandbox  # noqa: PLC0415  # an extra
    except ImportError as error:
        raise ConfigurationError(
            f"base_url \"sandbox\" needs a package: pip install 'dagster-imagegen[sandbox]' "
            f"({error})"
        ) from error
    return shared_sandbox().base_url, SANDBOX


def _resolved(place: str, value: Any) -> Any:
    """The value with those of its environment variables, which nobody resolves outside a run.

    In a run Dagster resolves them where it knows that a text belongs. In the open
    `storage_options`, however deep, it hands over `{"env": "NAME"}`.
    """
    if isinstance(value, Mapping):
        items = cast("Mapping[str, Any]", value)
        nested = place.startswith("storage_options[")
        if not (nested and list(items) == ["env"] and isinstance(items["env"], str)):
            return {name: _resolved(f"{place}[{name!r}]", each) for name, each in items.items()}
        value = dg.EnvVar(items["env"])
    if isinstance(value, dg.EnvVar):
        found = value.get_value()
        if found is None:
            raise ConfigurationError(f"{place}: the environment variable {value!r} is not set")
        return found
    return value


def _check_names(given: Any, known: Mapping[str, object]) -> Any:
    """Dagster drops settings that it does not know; raise `ConfigurationError` for one instead."""
    if isinstance(given, Mapping):
        for name in cast("Mapping[str, object]", given):
            if name not in known:
                raise ConfigurationError(f'"{name}" is not a setting' + did_you_mean(name, known))
    return given
