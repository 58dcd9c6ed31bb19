"""`ImageGenResource`: an image endpoint, the storage that its images go to, and their limits."""

import io
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, BinaryIO
from uuid import uuid4

import dagster as dg
import pyarrow as pa
from pydantic import PrivateAttr
from typing_extensions import Unpack

from dagster_imagegen import __version__
from dagster_imagegen.calls import (
    AssetKeyLike,
    Begin,
    StoredImage,
    generate_one,
    generate_table,
    key_text,
    partition_text,
)
from dagster_imagegen.engine.attempt import Identity
from dagster_imagegen.engine.endpoint.response import OnPartial
from dagster_imagegen.engine.engine import Engine
from dagster_imagegen.engine.request import ImageParams
from dagster_imagegen.for_asset import AnyContext, AssetImages, Place
from dagster_imagegen.resource_settings import ResourceSettings

if TYPE_CHECKING:  # Loading it takes long.
    from dagster_imagegen.engine.endpoint.models import ListedModel


dg.DagsterLibraryRegistry.register(  # pyright: ignore[reportPrivateImportUsage]  # documented for libraries, but not marked as exported
    "dagster-imagegen", __version__, is_dagster_package=False
)


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

    @property
    def run_ids(self) -> tuple[str, str]:
        """The ids of the run and of its root, which usage rows name; outside a run, a stand-in."""
        return self._run_ids or (self._outside_id, self._outside_id)

    def generate(
        self,
        prompt: str,
        *,
        asset_key: AssetKeyLike | None = None,
        partition_key: str | None = None,
        on_partial: OnPartial | None = None,
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
            on_partial: Called with the index and the bytes of each partial image as it comes, on
                the thread that calls `generate`. It needs `stream=True` and `partial_images`. An
                exception in it is logged, and does not lose the image.
            **params: The request's parameters (`quality`, `size`, …), without `n`.

        Raises:
            ConfigurationError: Before anything is sent, for what cannot work.
            NoImage: The prompt was refused, or the request failed.
            EndpointError: Every request would fail.
            BudgetExhausted: The remaining budget does not cover the request.
        """
        with self.open_engine() as engine:
            begin = self._begin(engine, asset_key, partition_key)
            return generate_one(engine, begin, prompt, params, on_partial=on_partial)

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
            begin = self._begin(engine, asset_key, partition_key)
            return generate_table(
                engine, begin, prompts, params, template=template, overrides=overrides
            )

    @contextmanager
    def for_asset(
        self,
        context: AnyContext,
        *,
        asset_key: AssetKeyLike | None = None,
        partition_key: str | None = None,
    ) -> Generator[AssetImages]:
        """Images on behalf of whatever runs here, for a `with` block in an asset, op or check.

            with imagegen.for_asset(context) as images:
                mug = images.generate("a red mug", quality="low")
                rest = images.generate_many(products, template="A photo of {name}")

        The usage rows name the asset, the partition, the run and the step of the context. They are
        published when the block ends, and before that if a request is sent when its journal is
        full or five minutes old. Calls of the block take turns, and its end waits for them. Then
        the materialization, or the output of an op, shows counts, cost, tokens and pictures;
        where Dagster shows none, as of a check or a sensor, the log does.

        Args:
            context: Of an asset, op, asset check, sensor or schedule.
            asset_key: The asset that is meant, in a step that makes several.
            partition_key: The partition that is meant, in a run over several.

        Raises:
            ConfigurationError: For settings that cannot work, or if it is not clear which asset or
                partition is meant.
            StorageError: At the end, if the usage rows cannot be published. They are on record,
                and the next run publishes them.
        """
        place = Place(context, asset_key=key_text(asset_key), partition_key=partition_key)
        with self.open_engine() as engine:
            tags = engine.settings.usage_tags
            images = AssetImages(engine, place.identity(self.run_ids, tags=tags))
            try:
                with images.block:
                    yield images
            finally:
                context.log.info(images.summary())
            place.add(images.metadata())

    def usage(self, asset_key: AssetKeyLike | None = None) -> pa.Table:
        """The usage rows of all runs, or those of one asset: one row for each request ever sent.

        imagegen.usage("hero").group_by("model").aggregate([("cost_usd", "sum")])
        """
        with self.open_engine() as engine:
            return engine.usage.read(asset_key=key_text(asset_key))

    def models(self) -> "tuple[ListedModel, ...]":
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

    def _begin(
        self,
        engine: Engine,
        asset_key: AssetKeyLike | None,
        partition_key: str | None,
    ) -> Begin:
        """What begins a pass on behalf of an asset."""
        run_id, root_run_id = self.run_ids
        identity = Identity(
            run_id=run_id,
            root_run_id=root_run_id,
            asset_key=key_text(asset_key),
            partition_key=partition_text(partition_key),
        )
        return partial(engine.generate, identity=identity)


def resource_of(context: AnyContext, key: str) -> ImageGenResource:
    """The resource under a key. Raises `dg.Failure` if it is something else.

    Dagster checks the type of a resource only where it is an annotated argument.
    """
    found: object = getattr(context.resources, key)
    if isinstance(found, ImageGenResource):
        return found
    raise dg.Failure(
        f"the resource {key!r} must be an ImageGenResource, got {type(found).__name__}; in your "
        f"Definitions set resources={{{key!r}: ImageGenResource(...)}}, or give the definition the "
        "key of one as resource_key",
        allow_retries=False,
    )
