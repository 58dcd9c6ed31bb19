"""What an asset's function may return: a prompt table, alone or in what Dagster takes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import dagster as dg
from typing_extensions import Self

from dagster_imagegen.engine.errors import ConfigurationError

_NO_VALUE = dg.MaterializeResult[Any]().value
"""Dagster's mark of a result without a value, which has no public name."""


@dataclass(frozen=True, kw_only=True)
class Returned:
    """A prompt table, and what is to be shown beside the image table that is made of it."""

    prompts: object
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    tags: Mapping[str, str] | None = None
    data_version: dg.DataVersion | None = None
    check_results: Sequence[dg.AssetCheckResult] = ()

    @classmethod
    def of(cls, value: object) -> Self:
        """Take apart a `dg.MaterializeResult` or `dg.Output`; any other value is the prompt table.

        Raises `ConfigurationError` for a `dg.MaterializeResult` without a value.
        """
        if isinstance(value, dg.MaterializeResult):
            result = cast("dg.MaterializeResult[object]", value)
            if result.value is _NO_VALUE:
                raise ConfigurationError(
                    "the function returned a dg.MaterializeResult without a value; its value must "
                    "be the prompt table: dg.MaterializeResult(value=...)"
                )
            return cls(
                prompts=result.value,
                metadata=result.metadata or {},
                tags=result.tags,
                data_version=result.data_version,
                check_results=result.check_results,
            )
        if isinstance(value, dg.Output):
            output = cast("dg.Output[object]", value)
            return cls(
                prompts=output.value,
                metadata=output.metadata,
                tags=output.tags,
                data_version=output.data_version,
            )
        return cls(prompts=value)
