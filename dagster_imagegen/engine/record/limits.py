"""When things are due in a record."""

from dataclasses import dataclass, field

from dagster_imagegen.engine.patience import Patience

SHORTEST_SECONDS = 5.0
"""No call of the record is late before, however short the lease."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """When things are due. Seconds, unless the name says otherwise."""

    lease: float = 90.0
    """A writer that is silent for longer is presumed dead."""
    roll_seconds: float = 300.0
    roll_attempts: int = 5_000
    roll_objects: int = 256
    rival_grace: float = 5.0
    """How long a request waits, with its slot, for a rival that should give way."""
    poll: float = 1.0
    call_seconds: float = 30.0
    """A call of the store that takes longer counts as failed, and is repeated."""
    patience: Patience = field(default_factory=Patience)
    """How long the writer waits for a failing store."""

    @property
    def record_call_seconds(self) -> float:
        """The same for calls of the record: two that are late leave the lease time to spare."""
        return min(self.call_seconds, max(self.lease / 6, SHORTEST_SECONDS))
