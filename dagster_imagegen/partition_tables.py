"""Tables of a run over partitions: one value for each."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias, cast

from dagster_imagegen.engine.errors import ConfigurationError, abbreviate

Partition: TypeAlias = str | None
"""A partition key; None for what is not partitioned."""


def by_partition(
    value: object, partitions: Sequence[Partition], *, what: str
) -> dict[Partition, object]:
    """The table of each partition of a run, in their order.

    Several are in a dict with exactly their keys. A single one can be in such a dict, or be the
    value itself, which is not looked at. Raises `ConfigurationError`, which calls the value `what`.
    """
    tables = None
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value).items()
        tables = {str(key): table for key, table in items}
    if len(partitions) == 1 and (tables is None or set(tables) != set(partitions)):
        return {partitions[0]: value}
    if tables is None:
        raise ConfigurationError(
            f"this run is over {len(partitions):,} partitions, so {what} must be a dict by "
            f"partition key, got one {type(value).__qualname__}; return a table for each of "
            "context.partition_keys, or set backfill_policy=dg.BackfillPolicy.multi_run()"
        )
    wanted = [str(each) for each in partitions]
    missing, unknown = (
        sorted(each) for each in (set(wanted) - set(tables), set(tables) - set(wanted))
    )
    if missing or unknown:
        raise ConfigurationError(
            f"{what} must be a dict with exactly the partitions of this run as keys; missing: "
            f"{abbreviate(missing) if missing else 'none'}; not in this run: "
            f"{abbreviate(unknown) if unknown else 'none'}"
        )
    return {partition: tables[partition] for partition in wanted}
