"""`ImageGenResource`: who is asked, where the images go, and how fast."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit
from uuid import uuid4

import dagster as dg
import pyarrow as pa
from pydantic import ConfigDict, Field, PrivateAttr, model_validator
from typing_extensions import Unpack

from dagster_imagegen import __version__
from dagster_imagegen.engine.attempt import SANDBOX, Identity
from dagster_imagegen.engine.endpoint.base_url import endpoint_url
from dagster_imagegen.engine.endpoint.retries import RetryPolicy
from dagster_imagegen.engine.engine import Engine
from dagster_imagegen.engine.errors import ConfigurationError, NoImage, did_you_mean
from dagster_imagegen.engine.money.budget import Budget, Per, Scope, WhenExhausted
from dagster_imagegen.engine.request import ImageParams
from dagster_imagegen.engine.run.thread import Generation
from dagster_imagegen.engine.settings import Settings

DEFAULT_PORTS = {"http": 80, "https": 443}

dg.DagsterLibraryRegistry.register(  # pyright: ignore[reportPrivateImportUsage]  # documented for libraries, but not marked as exported
    "dagster-imagegen", __version__, is_dagster_package=False
)


class _Config(dg.Config):
    """Dagster drops settings that it does not know; here a misspelt one is an error."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _known(cls, given: Any) -> Any:
        return check_names(given, cls.model_fields)


class RetryConfig(_Config):
    """What is sent again after a failure. What may have been billed is rarely among it."""

    max_attempts: int = Field(
        default=RetryPolicy.max_attempts,
        ge=1,
        description="How often one image is asked for in one run, in all, where the endpoint was "
        "not reached or did not accept the request. After server errors, which may have been "
        "billed, it is three times at most.",
    )
    max_wait_seconds: float = Field(
        default=RetryPolicy.max_wait_seconds,
        ge=0,
        description="The longest wait before a request is sent again. If the endpoint asks for a "
        "longer one, the image is left for a later run.",
    )
    resend_unknown: bool = Field(
        default=RetryPolicy.resend_unknown,
        description="Send again in the same run what timed out or broke off. It may be paid for "
        "twice; without this, only a later run asks again, twice at most.",
    )


class BudgetConfig(_Config):
    """The most that may be spent. Every request is reserved at the most it can cost."""

    max_usd: float = Field(
        gt=0,
        description="In USD, by the price list. No number of requests in flight or of overlapping "
        "runs spends more. A model whose cost the price list cannot bound is an error at the "
        "start.",
    )
    per: Per = Field(
        default="run",
        description="`run` (its retries included; outside a run, everything that one resource "
        "object asks for), `day` or `month` (UTC's), or `all` time.",
    )
    scope: Scope = Field(
        default="asset",
        description="`asset`: what the asset that asks has spent counts. `storage`: everything in "
        "the usage table does.",
    )
    when_exhausted: WhenExhausted = Field(
        default="fail",
        description="`fail` ends the step with one error, what was made being stored. `defer` "
        "gives the remaining rows the status `deferred`; a later run does them.",
    )


class TokenRatesConfig(_Config):
    """USD per million tokens of each kind."""

    text_input: float | None = Field(default=None, description="For the prompt's tokens.")
    cached_text_input: float | None = Field(default=None, description="For cached ones of them.")
    image_input: float | None = Field(default=None, description="For tokens of input images.")
    cached_image_input: float | None = Field(default=None, description="For cached ones of them.")
    image_output: float | None = Field(default=None, description="For the image's tokens.")
    text_output: float | None = Field(default=None, description="For tokens of text answered.")


class PriceConfig(_Config):
    """What one model costs: by tokens, or by the image where the server reports no usage."""

    usd_per_million_tokens: TokenRatesConfig | None = Field(
        default=None, description="Rates; a kind left out keeps the published one."
    )
    output_tokens: dict[str, dict[str, int]] = Field(
        default_factory=dict,
        description='Tokens of one image by size and quality, "*" for any. Without them there is '
        "no estimate before a run, and no cost where an answer reports no usage.",
    )
    usd_per_image: dict[str, dict[str, float]] = Field(
        default_factory=dict,
        description='Price of one image by size and quality, "*" for any. It is taken whatever '
        "usage an answer reports.",
    )
    source: str | None = Field(
        default=None, description="Where the price is from; beside every cost in the usage table."
    )
    as_of: str | None = Field(
        default=None, description="The day on which it was checked, e.g. 2026-11-22; likewise."
    )


@dataclass(frozen=True, kw_only=True)
class StoredImage:
    """One image that `generate` brought, made now (`generated`) or before (`reused`).

    `data` is what the provider sent, to the byte. `cost_usd` is what it cost whenever it was made.
    """

    status: str
    data: bytes = field(repr=False)
    uri: str
    path: str
    sha256: str
    format: str
    width: int | None
    height: int | None
    revised_prompt: str | None
    cost_usd: Decimal | None
    cost_basis: str
    attempt_id: str


class ImageGenResource(dg.ConfigurableResource):  # pyright: ignore[reportMissingTypeArgument]  # its parameter is for resources that yield another object
    """An image endpoint, the storage that its images go to, and the limits of both.

    Settings that cannot work are errors before anything is sent. The key is in the Authorization
    header and nowhere else; give it as `dg.EnvVar("NAME")`, because Dagster keeps a literal one
    with the job.
    """

    model_config = ConfigDict(extra="forbid")

    base_url: str = Field(
        description="Where the endpoint is, up to and without /images/generations, e.g. "
        "https://inference.do-ai.run/v1; or `sandbox`, which starts one in this process: no key, "
        "no cost.",
    )
    endpoint_id: str | None = Field(
        default=None,
        description="Who the images belong to: part of what names an image, so that another one "
        "pays anew. By default the base URL. Set it before an endpoint moves to another address, "
        "and its images are kept.",
    )
    api_key: str | None = Field(
        default=None,
        repr=False,
        description="Sent as `Authorization: Bearer …`. Give it as dg.EnvVar: a literal one is "
        "stored with every run's job.",
    )
    model: str = Field(
        description="The model to ask, e.g. openai-gpt-image-1, where neither the asset nor a row "
        "names another.",
    )
    storage_uri: str = Field(
        description="Where images and records go: a folder, s3://…, gs://…, abfs://…. What lies "
        "there is not paid for again; another storage starts from nothing.",
    )
    storage_options: dict[str, Any] = Field(
        default_factory=dict,
        repr=False,
        description="For fsspec's filesystem, e.g. key, secret, endpoint_url. Values, nested ones "
        "too, can be dg.EnvVar; literal ones are stored with every run's job.",
    )
    usage_uri: str | None = Field(
        default=None,
        description="Where the usage table and the journal go, by default the storage. Set it "
        "where images are public: the rows hold prompts and costs. All who share the images have "
        "to share it, or they pay twice.",
    )
    timeout_seconds: float = Field(
        default=Settings.timeout_seconds,
        gt=0,
        description="How long an answer may take. A request that is given up may have been billed: "
        "it becomes an `unknown` row.",
    )
    max_concurrency: int = Field(
        default=Settings.max_concurrency,
        ge=1,
        description="The most requests in flight. A cap: the endpoint's rate limits lower it.",
    )
    requests_per_minute: float | None = Field(
        default=None,
        gt=0,
        description="The most requests a minute in one process; unset, as fast as the endpoint "
        "lets it.",
    )
    retry: RetryConfig = Field(
        default_factory=RetryConfig, description="What is sent again after a failure."
    )
    budget: BudgetConfig | None = Field(
        default=None, description="The most that may be spent; unset, there is no limit."
    )
    prices: dict[str, PriceConfig] = Field(
        default_factory=dict,
        description="By model name, exact or a family such as `flux-*`: prices that go before the "
        "published ones. A model without any price has costs that are unknown, not 0.",
    )
    extra_headers: dict[str, str] = Field(
        default_factory=dict,
        repr=False,
        description="Sent with every request, e.g. Azure's api-key. Values can be dg.EnvVar.",
    )
    extra_body: dict[str, Any] = Field(
        default_factory=dict,
        description="Further parameters in every request's body, for servers that need more. Part "
        "of what names an image: changing them pays anew.",
    )
    record_prompts: bool = Field(
        default=True,
        description="Whether the usage table holds the prompts, and previews and errors show them. "
        "Without them it still holds their sha256. The image table has them in any case.",
    )
    drain_seconds: float = Field(
        default=Settings.drain_seconds,
        ge=0,
        description="How long a terminated run waits for the requests in flight. What has not "
        "answered by then is recorded as `unknown`, at the most it can have cost.",
    )

    _run_ids: tuple[str, str] | None = PrivateAttr(default=None)
    # One for all calls outside a run: a budget that is one per call would bound nothing.
    _outside_id: str = PrivateAttr(default_factory=lambda: f"outside-{uuid4()}")

    @model_validator(mode="before")
    @classmethod
    def _known(cls, given: Any) -> Any:
        return check_names(given, cls.model_fields)

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Remember the run that whatever is sent belongs to."""
        if context.run is not None:
            self._run_ids = (context.run.run_id, context.run.root_run_id or context.run.run_id)

    # -- for one's own assets, ops and notebooks -----------------------------------------------

    def generate(
        self,
        prompt: str,
        *,
        asset_key: dg.AssetKey | str | Sequence[str] | None = None,
        partition_key: str | None = None,
        **params: Unpack[ImageParams],
    ) -> StoredImage:
        """The image of one prompt, from storage where it is there already.

        Recorded like everything else, on behalf of `asset_key` if told. Outside a run, all calls of
        one resource object count as one: towards a budget, and in that what ended as `unknown` is
        left alone by the rest of them. Raises `NoImage` where
        the prompt was refused or failed, `EndpointError` where every prompt would fail, and
        `ConfigurationError` before anything is sent.
        """
        if params.get("n", 1) != 1:
            raise ConfigurationError("generate() makes one image; use generate_many() for n of one")
        identity = self._identity(asset_key, partition_key)
        with self.open_engine() as engine:
            prompts = engine.read_prompts([prompt], params=params)
            generation = _finish(engine.generate(prompts, identity=identity))
            (outcome,) = generation.outcomes.values()
            row = outcome.row
            if outcome.status not in ("generated", "reused"):
                asked = f" for {prompt!r}" if self.record_prompts else ""
                raise NoImage(
                    f"no image{asked}: {outcome.status}: {row.get('error_message')}",
                    status=outcome.status,
                    code=row.get("error_code"),
                )
            return StoredImage(
                status=outcome.status,
                data=engine.read_image(row["image_path"]),
                uri=engine.image_uri(row["image_path"]),
                path=row["image_path"],
                sha256=row["image_sha256"],
                format=row["image_format"],
                width=row["image_width"],
                height=row["image_height"],
                revised_prompt=row.get("revised_prompt"),
                cost_usd=row["cost_usd"],
                cost_basis=row["cost_basis"],
                attempt_id=row["attempt_id"],
            )

    def generate_many(
        self,
        prompts: object,
        *,
        template: str | None = None,
        overrides: Sequence[str] = (),
        asset_key: dg.AssetKey | str | Sequence[str] | None = None,
        partition_key: str | None = None,
        **params: Unpack[ImageParams],
    ) -> pa.Table:
        """The image table of a prompt table: one row for each of its rows and variants.

        A prompt that was refused or failed is a row that says so in `image_status`. Raises
        `EndpointError` where every prompt would fail; what was made until then is stored.
        """
        identity = self._identity(asset_key, partition_key)
        with self.open_engine() as engine:
            table = engine.read_prompts(
                prompts, params=params, template=template, overrides=overrides
            )
            generation = _finish(engine.generate(table, identity=identity))
            return engine.image_table(generation.plan, generation.outcomes)

    def usage(self, asset_key: dg.AssetKey | str | Sequence[str] | None = None) -> pa.Table:
        """Every usage row on record, of every run; of one asset if told."""
        with self.open_engine() as engine:
            return engine.usage(asset_key=_key_text(asset_key))

    def open_image(self, path: str) -> BinaryIO:
        """The bytes of a stored image, by its `image_path` or `image_uri`, as a file to read.

        Raises `FileNotFoundError`.
        """
        with self.open_engine() as engine:
            folder = engine.storage_uri.rstrip("/") + "/"
            return io.BytesIO(engine.read_image(path.removeprefix(folder)))

    # -- what the assets work with -------------------------------------------------------------

    def open_engine(self) -> Engine:
        """The engine with these settings, for a `with` block.

        Raises `ConfigurationError` for settings that cannot work; nothing was sent by then.
        """
        # The fields of this class alone: a subclass may have more.
        settings: dict[str, Any] = {
            name: _plain(name, getattr(self, name)) for name in ImageGenResource.model_fields
        }
        for name in ("model", "storage_uri"):
            if not settings[name].strip():
                raise ConfigurationError(f"{name} is empty; set it")
        base_url, owner = _endpoint(settings["base_url"])
        settings |= {
            "base_url": base_url,
            "endpoint_id": _endpoint_id(settings["endpoint_id"], owner, base_url=base_url),
            "storage_options": _options(settings["storage_options"]),
            "retry": RetryPolicy(**self.retry.model_dump()),
            "budget": self._budget(),
            "prices": {
                model: price.model_dump(exclude_none=True, exclude_defaults=True)
                for model, price in self.prices.items()
            },
        }
        return Engine(Settings(**settings))

    def _budget(self) -> Budget | None:
        if self.budget is None:
            return None
        given: dict[str, Any] = self.budget.model_dump()
        # By way of its text: $0.1 is meant, and not the nearest binary number.
        given["max_usd"] = Decimal(str(given["max_usd"]))
        return Budget(**given)

    def _identity(
        self, asset_key: dg.AssetKey | str | Sequence[str] | None, partition_key: str | None
    ) -> Identity:
        run_id, root_run_id = self._run_ids or (self._outside_id, self._outside_id)
        return Identity(
            run_id=run_id,
            root_run_id=root_run_id,
            asset_key=_key_text(asset_key),
            partition_key=partition_key,
        )


def check_names(given: Any, known: Mapping[str, object]) -> Any:
    """The settings as given; `ConfigurationError` with the nearest name for an unknown one."""
    if isinstance(given, Mapping):
        for name in cast("Mapping[str, object]", given):
            if name not in known:
                raise ConfigurationError(f'"{name}" is not a setting' + did_you_mean(name, known))
    return given


def normalised(base_url: str) -> str:
    """The base URL in one spelling: lower-case scheme and host, no default port, no last slash.

    It is what images are filed under, so that spellings of one address share them.
    """
    parts = urlsplit(base_url.strip())
    host = parts.hostname or ""
    if ":" in host:
        host = f"[{host}]"
    port = "" if parts.port in (None, DEFAULT_PORTS.get(parts.scheme)) else f":{parts.port}"
    query = f"?{parts.query}" if parts.query else ""
    return f"{parts.scheme}://{host}{port}{parts.path.rstrip('/')}{query}"


def _endpoint(base_url: str) -> tuple[str, str]:
    """The address to send to, and whom its images belong to unless told otherwise."""
    if base_url != SANDBOX:
        endpoint_url(base_url)  # Raises for an address that cannot work.
        try:
            return base_url, normalised(base_url)
        except ValueError as error:  # What is no port of TCP's is one to httpx.
            raise ConfigurationError(f"base_url {base_url!r} has no such port: {error}") from error
    try:
        from dagster_imagegen.sandbox import shared_sandbox  # noqa: PLC0415  # an extra
    except ImportError as error:
        raise ConfigurationError(
            f"base_url \"sandbox\" needs a package: pip install 'dagster-imagegen[sandbox]' "
            f"({error})"
        ) from error
    return shared_sandbox().base_url, SANDBOX


def _endpoint_id(given: str | None, owner: str, *, base_url: str) -> str:
    if given is None:
        return owner
    if (given == SANDBOX) != (owner == SANDBOX):
        raise ConfigurationError(
            f"endpoint_id {given!r} with base_url {base_url!r}: the sandbox's images and costs are "
            'marked by endpoint_id "sandbox", and nothing else is; leave it out'
        )
    return given


def _plain(place: str, value: Any) -> Any:
    """The value, with those of environment variables in it. Outside a run nobody resolved them."""
    if isinstance(value, dg.EnvVar):
        found = value.get_value()
        if found is None:
            raise ConfigurationError(f"{place}: the environment variable {value!r} is not set")
        return found
    if isinstance(value, Mapping):
        items = cast("Mapping[str, Any]", value).items()
        return {name: _plain(f"{place}[{name!r}]", each) for name, each in items}
    return value


def _options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Storage options with the values of environment variables that Dagster left unresolved.

    It resolves an EnvVar where it knows that a text belongs; in open options, however deep, it
    hands the run `{"env": "NAME"}`.
    """

    def resolved(place: str, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        items = cast("Mapping[str, Any]", value)
        if list(items) == ["env"] and isinstance(items["env"], str):
            return _plain(place, dg.EnvVar(items["env"]))
        return {name: resolved(f"{place}[{name!r}]", each) for name, each in items.items()}

    return {name: resolved(f"storage_options[{name!r}]", value) for name, value in options.items()}


def _key_text(key: dg.AssetKey | str | Sequence[str] | None) -> str | None:
    if key is None:
        return None
    return (key if isinstance(key, dg.AssetKey) else dg.AssetKey(key)).to_user_string()


def _finish(generation: Generation) -> Generation:
    """Wait for every outcome; on an interruption, for what is in flight."""
    with generation:
        for _ in generation:
            pass
    return generation
