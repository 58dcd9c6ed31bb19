"""Until when a provider serves a model, and what takes its place."""

from collections.abc import Sequence
from datetime import date

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class ModelLife:
    """The published end of a model. `provider` is who ends it; another one may go on serving it.

    `gateway` is the note on a gateway that serves it under a name of its own, "" for the provider.
    """

    provider: str
    shutdown_on: date
    successors: Sequence[str]
    source: str
    as_of: date
    gateway: str = ""

    def warning(self, model: str, today: date) -> str | None:
        """What to tell a run that is about to use the model; None: nothing.

        A gateway may serve it beyond the date, and whether it does is seen when it is asked.
        """
        ended = today >= self.shutdown_on
        if ended and self.gateway:
            return None
        return f"model {model!r}: {self._end(ended=ended)}; {self._advice()}"

    def explanation(self, today: date) -> str:
        """What to add where an endpoint says that the model does not exist."""
        return f"{self._end(ended=today >= self.shutdown_on)}; {self._advice()}"

    def _end(self, *, ended: bool) -> str:
        note = f", {self.gateway}" if self.gateway else ""
        verb = "shut it down" if ended else "shuts it down"
        return f"{self.provider} {verb} on {self.shutdown_on} ({self.source}{note})"

    def _advice(self) -> str:
        return f"its successors are {', '.join(self.successors)}"
