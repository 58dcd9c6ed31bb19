"""When things are due in a record."""

from dataclasses import dataclass, field

from dagster_imagegen.engine.patience import Patience


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
    patience: Patience = field(default_factory=Patience)
    """How long the writer waits for a failing store."""
