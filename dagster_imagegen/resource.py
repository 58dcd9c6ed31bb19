"""`ImageGenResource`: an image endpoint, the storage that its images go to, and their limits."""

import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import BinaryIO, TypeAlias
from uuid import uuid4

import dagster as dg
import pyarrow as pa
from pydantic import PrivateAttr
from typing_extensions import Unpack

from dagster_imagegen import __version__
from dagster_imagegen.engine.attempt import Identity, Outcome
from dagster_imagegen.engine.endpoint.models import ListedModel
from dagster_imagegen.engine.engine import Engine
from dagster_imagegen.engine.errors import ConfigurationError, NoImage
from dagster_imagegen.engine.prompts.table import PromptTable
from dagster_imagegen.engine.request import ImageParams
from dagster_imagegen.engine.run.thread import Generation
from dagster_imagegen.metadata import check_carried
from dagster_imagegen.resource_settings import ResourceSettings

dg.DagsterLibraryRegistry.register(  # pyright: ignore[reportPrivateImportUsage]  # documented for libraries, but not marked as exported
    "dagster-imagegen", __version__, is_dagster_package=False
)

AssetKeyLike: TypeAlias = dg.AssetKey | str | Sequence[str]


@dataclass(frozen=True, kw_only=True)
class StoredImage:
    """The image that `generate` returns, made now (`generated`) or before (`reused`).

    `data` is exactly what the provider sent. `cost_usd` is what the image cost when it was made.
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


class ImageGenResource(ResourceSettings):
    """An image endpoint, the storage that its images go to, and the limits of both.

        ImageGenResource(
            base_url="https://inference.do-ai.run/v1",
            api_key=dg.EnvVar("GRADIENT_MODEL_ACCESS_KEY"),
            model="openai-gpt-image-1",
            storage_uri="s3://bucket/images",
        )

    Settings that cannot work are errors before anything is sent. The key is in the Authorization
    header and nowhere else.
    """

    _run_ids: tuple[str, str] | None = PrivateAttr(default=None)
    # One for all calls outside a run: a budget for each call would limit nothing.
    _outside_id: str = PrivateAttr(default_factory=lambda: f"outside-{uuid4()}")

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Remember the run that the usage rows of all requests will name."""
        if context.run is not None:
            self._run_ids = (context.run.run_id, context.run.root_run_id or context.run.run_id)

    def generate(
        self,
        prompt: str,
        *,
        asset_key: AssetKeyLike | None = None,
        partition_key: str | None = None,
        **params: Unpack[ImageParams],
    ) -> StoredImage:
        """The image of one prompt. One that is in storage already is not requested again.

            imagegen.generate("a red mug", quality="low").uri

        Outside a run, all calls of one resource object count as one run: a budget per run covers
        them together, and the others do not repeat a request whose outcome is unknown.

        Args:
            prompt: What to draw.
            asset_key: The asset that the usage row names.
            partition_key: The partition that it names.
            **params: The request's parameters (`quality`, `size`, …), without `n`.

        Raises:
            ConfigurationError: Before anything is sent, for what cannot work.
            NoImage: The prompt was refused, or the request failed.
            EndpointError: Every request would fail.
            BudgetExhausted: The remaining budget does not cover the request.
        """
        n = params.get("n", 1)
        if n != 1:
            raise ConfigurationError(f"n must be 1 for generate(), got {n!r}; use generate_many()")
        with self.open_engine() as engine:
            table = read_table(engine, [prompt], params=params)
            generation = self._run(engine, table, asset_key, partition_key)
            (outcome,) = generation.outcomes.values()
            if outcome.status not in ("generated", "reused"):
                asked = f" for {prompt!r}" if self.record_prompts else ""
                told = outcome.error_message or outcome.error_code or "without a message"
                raise NoImage(
                    f"no image{asked}: {outcome.status}: {told}",
                    status=outcome.status,
                    code=outcome.error_code,
                )
            return _stored_image(engine, outcome)

    def generate_many(
        self,
        prompts: object,
        *,
        template: str | None = None,
        overrides: Sequence[str] = (),
        asset_key: AssetKeyLike | None = None,
        partition_key: str | None = None,
        **params: Unpack[ImageParams],
    ) -> pa.Table:
        """The image table of a prompt table: one row for each of its rows and variants.

            imagegen.generate_many(products, template="A photo of {name}", quality="low")

        A prompt that was refused or failed is a row whose `image_status` says so.

        Args:
            prompts: Anything that speaks Arrow, a list of dicts, or a list of prompts.
            template: A prompt with the table's columns in braces; by default its column `prompt`.
            overrides: The columns that override a parameter for their row.
            asset_key: The asset that the usage rows name.
            partition_key: The partition that they name.
            **params: The request's parameters (`quality`, `size`, `n`, …).

        Raises:
            ConfigurationError: Before anything is sent, for what cannot work.
            EndpointError: Every further request would fail. The images made are stored.
            BudgetExhausted: The remaining budget does not cover a request. Likewise.
        """
        with self.open_engine() as engine:
            table = read_table(
                engine, prompts, params=params, template=template, overrides=overrides
            )
            for warning in table.warnings:
                dg.get_dagster_logger("dagster_imagegen").warning(warning)
            generation = self._run(engine, table, asset_key, partition_key)
            return engine.image_table(generation.plan, generation.outcomes)

    def usage(self, asset_key: AssetKeyLike | None = None) -> pa.Table:
        """The usage rows of all runs, or those of one asset: one row for each request ever sent.

        imagegen.usage("hero").group_by("model").aggregate([("cost_usd", "sum")])
        """
        with self.open_engine() as engine:
            return engine.usage(asset_key=_key_text(asset_key))

    def models(self) -> tuple[ListedModel, ...]:
        """The models that the account can use, as the endpoint lists them, and when each ends.

            [model.id for model in imagegen.models()]

        Raises `EndpointError` if the endpoint answers no list.
        """
        with self.open_engine() as engine:
            return engine.models()

    def open_image(self, path: str) -> BinaryIO:
        """A stored image as a file to read, by its `image_path` or `image_uri`.

            PIL.Image.open(imagegen.open_image(row["image_path"]))

        Raises `FileNotFoundError`.
        """
        with self.open_engine() as engine:
            folder = engine.storage_uri.rstrip("/") + "/"
            return io.BytesIO(engine.read_image(path.removeprefix(folder)))

    def _run(
        self,
        engine: Engine,
        table: PromptTable,
        asset_key: AssetKeyLike | None,
        partition_key: str | None,
    ) -> Generation:
        """Wait for every outcome; on an interruption, only for the requests in flight."""
        if partition_key is not None and not isinstance(partition_key, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # not everybody checks types
            raise ConfigurationError(
                f"partition_key must be text, got {type(partition_key).__name__} {partition_key!r}"
            )
        run_id, root_run_id = self._run_ids or (self._outside_id, self._outside_id)
        identity = Identity(
            run_id=run_id,
            root_run_id=root_run_id,
            asset_key=_key_text(asset_key),
            partition_key=partition_key,
        )
        with engine.generate(table, identity=identity) as generation:
            warnings = generation.plan.warnings
            for warning in (*warnings, *filter(None, [generation.warning])):
                logging.getLogger(__name__).warning(warning)
            for _ in generation:
                pass
        return generation


def read_table(
    engine: Engine,
    source: object,
    *,
    params: ImageParams,
    template: str | None = None,
    overrides: Sequence[str] = (),
) -> PromptTable:
    """The requests of a prompt table, of an asset and of a call alike.

    Raises `ConfigurationError` for one that cannot be sent, or become an image table.
    """
    table = engine.read_prompts(source, params=params, template=template, overrides=overrides)
    check_carried(table.carried, show_values=engine.settings.record_prompts)
    return table


def _stored_image(engine: Engine, outcome: Outcome) -> StoredImage:
    attempt, image = outcome.attempt, outcome.image
    if attempt is None or attempt.result is None or image is None:
        raise ValueError(f"an outcome without an image: {outcome}")
    return StoredImage(
        status=outcome.status,
        data=engine.read_image(image.path),
        uri=engine.image_uri(image.path),
        path=image.path,
        sha256=image.sha256 or "",
        format=image.format or "",
        width=image.width,
        height=image.height,
        revised_prompt=attempt.result.reply.revised_prompt,
        cost_usd=attempt.result.cost.usd,
        cost_basis=attempt.result.cost.basis,
        attempt_id=attempt.attempt_id,
    )


def _key_text(key: AssetKeyLike | None) -> str | None:
    if key is None:
        return None
    return (key if isinstance(key, dg.AssetKey) else dg.AssetKey(key)).to_user_string()
