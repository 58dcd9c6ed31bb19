"""`ImageGenUsageComponent`: the usage table as an asset, in YAML."""

from collections.abc import Sequence

import dagster as dg
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr
from typing_extensions import Self

from dagster_imagegen.component_scaffolding import ImageGenUsageScaffolder
from dagster_imagegen.usage_asset import build_usage_asset
from dagster_imagegen.yaml_values import Place, at_its_line, spec_arguments


@dg.scaffold_with(ImageGenUsageScaffolder)
class ImageGenUsageComponent(dg.Component, dg.Resolvable, dg.Model):
    """The bill of image assets as an asset in YAML: what `build_usage_asset` makes.

    type: dagster_imagegen.ImageGenUsageComponent
    attributes:
      asset: {key: usage, group_name: costs}
      image_assets: [product_shots, banners]
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    asset: dg.ResolvedAssetSpec = Field(
        description="The asset: its key, and what else an asset spec has, except deps."
    )
    image_assets: Sequence[dg.ResolvedAssetKey] = Field(
        description="The keys of the image assets whose cost it shows."
    )
    resource_key: str = Field(
        default="imagegen", description="The key of the resource whose storage they use."
    )

    _place: Place | None = PrivateAttr(default=None)

    @classmethod
    def resolve_from_model(cls, context: dg.ResolutionContext, model: BaseModel) -> Self:
        """The component of these attributes, which remembers their lines for its errors."""
        component = super().resolve_from_model(context, model)
        component._place = (context, model)
        return component

    @classmethod
    def get_spec(cls) -> dg.ComponentTypeSpec:
        """What `dg` shows of the component."""
        return dg.ComponentTypeSpec(tags=["images", "openai"])

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The usage asset. Raises `ConfigurationError`, from YAML with file and line."""
        with at_its_line(self._place):
            usage = build_usage_asset(
                self.asset.key.to_user_string(),
                image_assets=self.image_assets,
                resource_key=self.resource_key,
                **spec_arguments(self.asset),
            )
        return dg.Definitions(assets=[usage])
