"""The run config of every image asset."""

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
    """The values of `redo`; the Launchpad offers them."""

    refused = "refused"
    unknown = "unknown"
    missing = "missing"


class ImageRunConfig(dg.Config):
    """For one run of one asset; every field has a default."""

    max_usd: float | None = Field(
        default=None,
        description="The most that this run may spend on this asset, in USD, its retries and "
        "re-executions included; by default there is no limit beside the resource's budget, which "
        "applies as well. With 0 nothing that costs money is sent.",
    )
    redo: list[ImageRedo] = Field(
        default=[],
        description="What to request again that is left alone by default: `refused` prompts, "
        "requests of `unknown` outcome, which may then be paid for twice, and `missing` images, "
        "which were paid for and deleted.",
    )
    limit: int | None = Field(
        default=None,
        description="Run only the first rows, this many. If that leaves out any row, the images "
        "are made and observed, and nothing is materialized.",
    )
    plan_only: bool = Field(
        default=False,
        description="Send nothing: observe what a run would request and what it would cost. "
        "Nothing is materialized.",
    )

    def row_limit(self) -> int | None:
        """`limit`. Raises `ConfigurationError` unless it is at least 1."""
        if self.limit is not None and self.limit < 1:
            raise ConfigurationError(
                f"limit in the run config must be at least 1, got {self.limit}; set plan_only to "
                "send nothing. Nothing was sent"
            )
        return self.limit

    def limit_usd(self) -> Decimal | None:
        """`max_usd` as money. Raises `ConfigurationError` unless it is finite and at least 0."""
        if self.max_usd is None:
            return None
        if not math.isfinite(self.max_usd) or self.max_usd < 0:
            raise ConfigurationError(
                f"max_usd in the run config must be finite and at least 0, got {self.max_usd}; "
                "nothing was sent"
            )
        # From its text: $0.1 is meant, and not the nearest binary number.
        return Decimal(str(self.max_usd))


OURS = tuple(ImageRunConfig.model_fields)


def with_run_config(own: type[dg.Config], *, asset: str) -> type[ImageRunConfig]:
    """A config class with our fields and those of the function's own class.

    Raises `ConfigurationError` if they share a name.
    """
    names = {name for key, field in own.model_fields.items() for name in (key, field.alias)}
    for name in OURS:
        if name in names or hasattr(own, name):
            raise ConfigurationError(
                f'{asset}: the run config of every image asset has a "{name}", so its config class '
                f"{own.__name__} must not have one; rename it"
            )
    # The user's class comes last, so that its pydantic settings apply.
    both = create_model(
        own.__name__, __base__=(ImageRunConfig, own), __module__=own.__module__, __doc__=own.__doc__
    )
    return cast("type[ImageRunConfig]", both)


def own_config(own: type[AnyConfig], given: Mapping[str, Any]) -> AnyConfig:
    """An instance of the function's own class from the run config that has ours too.

    As Dagster does it, values that equal the default are left out, for those need not be valid.
    """
    defaults = {field.alias or name: field.default for name, field in own.model_fields.items()}
    return own(
        **{
            name: value
            for name, value in given.items()
            if name not in OURS and not (name in defaults and value == defaults[name])
        }
    )
