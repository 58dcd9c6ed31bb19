"""`ImageGenComponent`: an image asset in YAML."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_type_hints

import dagster as dg
from pydantic import BaseModel, Field, PrivateAttr, create_model
from typing_extensions import Self

from dagster_imagegen.assets import ImageAssetArguments, prompt_columns, upstream_source
from dagster_imagegen.checks import build_image_checks
from dagster_imagegen.component_scaffolding import ImageGenScaffolder
from dagster_imagegen.definition import OUR_ARGUMENTS, ImageAssetDefinition, PromptSource
from dagster_imagegen.engine.errors import ConfigurationError
from dagster_imagegen.engine.prompts.parameters import check_params
from dagster_imagegen.engine.prompts.template import PromptTemplate
from dagster_imagegen.engine.publishing.names import Publication
from dagster_imagegen.engine.request import PARAMETERS
from dagster_imagegen.prompt_file import prompt_file_in, read_prompt_file
from dagster_imagegen.resource import ImageGenResource
from dagster_imagegen.run_config import ImageRunConfig
from dagster_imagegen.step import PROMPT_TABLE, StepEvents
from dagster_imagegen.yaml_values import (
    BackfillValue,
    Place,
    RetryValue,
    Rows,
    at_its_line,
    checks_model,
    params_model,
    rendered,
    spec_arguments,
    with_types,
)

SOURCES = ("prompt_table", "prompt_file", "prompts")
"""Exactly one of them is set."""

OURS = tuple(name for name in OUR_ARGUMENTS if name != "definition")
OF_DAGSTER = ("check_specs", "io_manager_key", "op_tags", "pool", "retry_policy", "backfill_policy")
"""Arguments of `dg.asset` that an asset spec does not have."""

Text: TypeAlias = Annotated[str | None, dg.Resolver(rendered, inject_before_resolve=False)]


def _argument_types() -> dict[str, Any]:
    hints = get_type_hints(ImageAssetArguments)
    hints["overrides"] = Sequence[Literal[tuple(PARAMETERS)]]  # pyright: ignore[reportInvalidTypeForm]  # the names that there are
    return {name: hints[name] for name in OURS}


ARGUMENT_TYPES = _argument_types()
_ParamsAttributes = params_model()
_ChecksAttributes = checks_model(build_image_checks)
# Each is optional: without a value the default of `image_asset` holds.
_fields: dict[str, Any] = {name: (kind | None, None) for name, kind in ARGUMENT_TYPES.items()}
_Arguments = create_model("_Arguments", __base__=dg.Model, **_fields)


@dg.scaffold_with(ImageGenScaffolder)
class ImageGenComponent(dg.Component, dg.Resolvable, _Arguments):
    """An image asset in YAML: what `build_image_asset` makes, also of prompts in a file.

        type: dagster_imagegen.ImageGenComponent
        attributes:
          asset: {key: product_shots, group_name: marketing}
          prompt_table: products
          prompt: "A studio photo of {name}, {colour}, on white"
          params: {quality: medium, size: 1536x1024}

    The arguments of `image_asset` that are ours, `overrides` and so on, are attributes as well. A
    subclass can override `get_asset_spec` and `execute`.
    """

    asset: dg.ResolvedAssetSpec = Field(
        description="The asset: its key, and what else an asset spec has."
    )
    prompt_table: dg.ResolvedAssetKey | None = Field(
        default=None, description="The key of the upstream asset whose value is the prompt table."
    )
    prompt_file: Text = Field(
        default=None,
        description="Instead: a .csv or .parquet file in the component's folder, read in each run.",
    )
    prompts: Annotated[
        list[Any] | None,
        dg.Resolver(rendered, model_field_type=Rows, inject_before_resolve=False),
    ] = Field(default=None, description="Instead: a list of prompts, or of rows.")
    prompt: Text = Field(
        default=None,
        description="A template with columns in braces; by default the column `prompt`.",
    )
    params: Annotated[
        Mapping[str, Any], dg.Resolver(rendered, model_field_type=_ParamsAttributes)
    ] = Field(default={}, description="The request's parameters, e.g. quality and size.")

    image_checks: Annotated[
        Mapping[str, Any] | None, dg.Resolver(rendered, model_field_type=_ChecksAttributes)
    ] = Field(
        default=None,
        description="Asset checks of the images and their cost, with these limits: the arguments "
        "of `build_image_checks`.",
    )
    check_specs: Sequence[dg.ResolvedAssetCheckSpec] | None = Field(
        default=None, description="Asset checks that an overridden `execute` yields results of."
    )
    io_manager_key: str | None = Field(
        default=None, description="The key of the IO manager that stores the image table."
    )
    op_tags: dict[str, Any] | None = Field(default=None, description="Tags of the step.")
    pool: str | None = Field(default=None, description="The concurrency pool of the step.")
    retry_policy: RetryValue | None = Field(default=None, description="How the step is retried.")
    backfill_policy: BackfillValue | None = Field(
        default=None, description="How many partitions one run of a backfill has."
    )

    _place: Place | None = PrivateAttr(default=None)
    _definition: ImageAssetDefinition | None = PrivateAttr(default=None)

    @classmethod
    def get_spec(cls) -> dg.ComponentTypeSpec:
        """What `dg` shows of the component."""
        return dg.ComponentTypeSpec(tags=["images", "openai"])

    @classmethod
    def model(cls) -> type[BaseModel]:
        """The attributes that YAML can have."""
        return with_types(
            super().model(),
            params=_ParamsAttributes,
            image_checks=_ChecksAttributes | None,
            **ARGUMENT_TYPES,
        )

    @classmethod
    def resolve_from_model(cls, context: dg.ResolutionContext, model: BaseModel) -> Self:
        """The component of these attributes, which remembers their lines for its errors."""
        component = super().resolve_from_model(context, model)
        component._place = (context, model)
        return component

    # -- for users to override -----------------------------------------------------------------

    def get_asset_spec(self, spec: dg.AssetSpec) -> dg.AssetSpec:
        """The asset's spec; `spec` is the one that the attributes make."""
        return spec

    def execute(
        self,
        context: dg.AssetExecutionContext,
        imagegen: ImageGenResource,
        prompts: Callable[[], object],
        config: ImageRunConfig,
    ) -> StepEvents:
        """The step, as in `ImageAssetDefinition.execute`."""
        if self._definition is None:
            raise RuntimeError("build_defs was not called")
        yield from ImageAssetDefinition.execute(
            self._definition, context, imagegen, prompts, config
        )

    # -- for Dagster ---------------------------------------------------------------------------

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The asset and its checks. Raises `ConfigurationError`, from YAML with file and line."""
        self._check()
        folder = context.path if context.path.is_dir() else context.path.parent
        inputs, source = self._source(folder)
        columns = None if self.prompt_table is None else prompt_columns(self.prompt)
        with self._at():
            self._definition = self._definition_class().of(
                self.asset.key.to_user_string(),
                source,
                {**self._arguments(), **inputs},
                template=self.prompt,
                prompt_columns=columns,
            )
            asset = self._definition.to_assets_definition()
        return dg.Definitions(assets=[asset], asset_checks=self._checks(asset))

    def _checks(self, asset: dg.AssetsDefinition) -> Sequence[dg.AssetChecksDefinition]:
        if self.image_checks is None:
            return []
        key: str = getattr(self, "resource_key", None) or "imagegen"
        with self._at("image_checks"):
            return build_image_checks(asset, resource_key=key, **self.image_checks)

    def _check(self) -> None:
        """Raise `ConfigurationError` at the attribute that cannot work."""
        given = [name for name in SOURCES if getattr(self, name) is not None]
        with self._at(*given[1:]):
            if len(given) != 1:
                raise ConfigurationError(
                    f"exactly one of {', '.join(SOURCES)} must be set, got "
                    f"{' and '.join(given) or 'none'}"
                )
        with self._at("prompt"):
            if self.prompt is not None:
                PromptTemplate.parse(self.prompt)
        template: object = getattr(self, "publish")  # noqa: B009  # a field made from the code
        with self._at("publish"):
            if template is not None:
                Publication.parse(template)
        for name, value in self.params.items():
            with self._at("params", name):
                check_params({name: value})

    def _source(self, folder: Path) -> tuple[dict[str, Any], PromptSource]:
        """The inputs of the asset, and the function that returns its prompt table."""
        if self.prompt_table is not None:
            return {"ins": {PROMPT_TABLE: dg.AssetIn(self.prompt_table)}}, upstream_source()
        if self.prompt_file is None:
            return {}, PromptSource.of(lambda: self.prompts)
        with self._at("prompt_file"):
            path = prompt_file_in(folder, self.prompt_file)
        return {}, PromptSource.of(lambda: read_prompt_file(path))

    def _arguments(self) -> dict[str, Any]:
        """Those of `image_asset`."""
        ours = {name: getattr(self, name) for name in (*OURS, *OF_DAGSTER)}
        given = {name: each for name, each in ours.items() if each is not None}
        return {**spec_arguments(self.asset), **given, **self.params}

    def _definition_class(self) -> type[ImageAssetDefinition]:
        """One whose methods are the component's, as far as a subclass overrides them."""
        component = self

        class OfComponent(ImageAssetDefinition):
            def get_asset_spec(self, spec: dg.AssetSpec) -> dg.AssetSpec:
                return component.get_asset_spec(spec)

        if type(self).execute is ImageGenComponent.execute:
            return OfComponent

        class WithStep(OfComponent):
            def execute(
                self,
                context: dg.AssetExecutionContext,
                imagegen: ImageGenResource,
                prompts: Callable[[], object],
                config: ImageRunConfig,
            ) -> StepEvents:
                yield from component.execute(context, imagegen, prompts, config)

        return WithStep

    def _at(self, *path: str) -> AbstractContextManager[None]:
        return at_its_line(self._place, *path)
