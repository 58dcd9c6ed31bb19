"""What every image asset takes for one run, in the Launchpad or as run config."""

import math
from collections.abc import Mapping
from decimal import Decimal
from enum import Enum
from typing import Any, TypeVar, cast

import dagster as dg
from pydantic import Field, create_model

from dagster_imagegen.engine.errors import ConfigurationError

AnyConfig = TypeVar("AnyConfig", bound=dg.Config)


class ImageRedo(Enum):
    """What `redo` takes: a list of texts to whoever writes the run config, offered by the UI."""

    refused = "refused"
    unknown = "unknown"
    missing = "missing"


class ImageRunConfig(dg.Config):
    """For one run. Everything can be left out."""

    max_usd: float | None = Field(
        default=None,
        description="The most, in USD, that this run may spend on this asset, its retries and "
        "re-executions included. It only tightens: the resource's budget holds as well. 0 sends "
        "nothing that costs anything.",
    )
    redo: list[ImageRedo] = Field(
        default=[],
        description="What is otherwise left alone and is to be asked for again: `refused` prompts, "
        "images of `unknown` outcome, which may then be paid for twice, and `missing` ones, which "
        "were paid for and deleted.",
    )

    def limit_usd(self) -> Decimal | None:
        """`max_usd` as money. Raises `ConfigurationError` for what is no amount of it."""
        if self.max_usd is None:
            return None
        if not math.isfinite(self.max_usd) or self.max_usd < 0:
            raise ConfigurationError(
                f"max_usd: {self.max_usd} in the run config is not an amount of USD; give 0 or "
                "more, or leave it out. Nothing was sent"
            )
        # By way of its text: $0.1 is meant, and not the nearest binary number.
        return Decimal(str(self.max_usd))


OURS = tuple(ImageRunConfig.model_fields)


def with_run_config(own: type[dg.Config], *, asset: str) -> type[ImageRunConfig]:
    """The config class of an asset whose function has one of its own: both their fields.

    Raises `ConfigurationError` where they share a name.
    """
    names = {name for key, field in own.model_fields.items() for name in (key, field.alias)}
    for name in OURS:
        if name in names or hasattr(own, name):
            raise ConfigurationError(
                f'{asset}: its config class {own.__name__} has a "{name}" of its own, and so has '
                "the run config of every image asset; rename the one in the class"
            )
    # The user's class comes last: where the two differ in their pydantic settings, its own hold.
    both = create_model(
        own.__name__, __base__=(ImageRunConfig, own), __module__=own.__module__, __doc__=own.__doc__
    )
    return cast("type[ImageRunConfig]", both)


def own_config(own: type[AnyConfig], given: Mapping[str, Any]) -> AnyConfig:
    """An instance of the function's own class, from the run config that it shares with ours.

    Made as Dagster makes one: of what was given, once, and without what is the default anyway,
    which need not be valid.
    """
    defaults = {field.alias or name: field.default for name, field in own.model_fields.items()}
    return own(
        **{
            name: value
            for name, value in given.items()
            if name not in OURS and not (name in defaults and value == defaults[name])
        }
    )
