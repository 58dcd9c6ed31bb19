"""`ImageGenResourceComponent`: the resource in YAML."""

import re
from typing import Any

import dagster as dg
from pydantic import BaseModel, ConfigDict, Field, create_model
from typing_extensions import Self

from dagster_imagegen.component_scaffolding import ImageGenResourceScaffolder
from dagster_imagegen.engine.errors import ConfigurationError
from dagster_imagegen.resource import ImageGenResource
from dagster_imagegen.resource_settings import ResourceSettings
from dagster_imagegen.yaml_values import at_its_line, rendered, settings_model

KEY_VARIABLE = "api_key_env_var"
_VARIABLE = re.compile(r"[A-Za-z_]\w*", re.ASCII)


def _attributes_model() -> type[BaseModel]:
    """The settings of the resource, but for the key the name of its variable, and our own."""
    settings = settings_model(ResourceSettings).model_fields
    key = Field(default=None, description="The environment variable with the API key.")
    resource_key = Field(default="imagegen", description="The key of the resource.")
    fields: dict[str, Any] = {"resource_key": (str, resource_key), KEY_VARIABLE: (str | None, key)}
    for name, each in settings.items():
        if name != "api_key":
            fields[name] = (each.rebuild_annotation(), each)
    return create_model("ImageGenResourceAttributes", __base__=dg.Model, **fields)


_Attributes = _attributes_model()


@dg.scaffold_with(ImageGenResourceScaffolder)
class ImageGenResourceComponent(dg.Component, dg.Resolvable, dg.Model):
    """An `ImageGenResource` in YAML. Its attributes are the settings of the resource.

        type: dagster_imagegen.ImageGenResourceComponent
        attributes:
          base_url: https://api.openai.com/v1
          api_key_env_var: OPENAI_API_KEY
          model: gpt-image-2.5-flare
          storage_uri: s3://my-bucket/pictures

    The settings are no fields of this class, because a field `model` would hide `Resolvable.model`.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    resource: ImageGenResource
    resource_key: str = "imagegen"

    @classmethod
    def model(cls) -> type[BaseModel]:
        """The attributes that YAML can have."""
        return _Attributes

    @classmethod
    def resolve_from_model(cls, context: dg.ResolutionContext, model: BaseModel) -> Self:
        """The component of these attributes. Raises an error with file and line."""
        settings: dict[str, Any] = rendered(context, model)
        key, name = settings.pop("resource_key", "imagegen"), settings.pop(KEY_VARIABLE, None)
        if name is not None:
            settings["api_key"] = _variable(name)
        with at_its_line((context, model)):
            return cls(resource=ImageGenResource(**settings), resource_key=key)

    @classmethod
    def get_spec(cls) -> dg.ComponentTypeSpec:
        """What `dg` shows of the component."""
        return dg.ComponentTypeSpec(tags=["images", "openai"])

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The resource under its key."""
        return dg.Definitions(resources={self.resource_key: self.resource})


def _variable(name: str) -> dg.EnvVar:
    if _VARIABLE.fullmatch(name) is None:
        # Neither the value nor its line, which may be the key itself.
        raise ConfigurationError(
            f"{KEY_VARIABLE} must be the name of an environment variable, e.g. OPENAI_API_KEY, "
            "and never the key itself"
        )
    return dg.EnvVar(name)
