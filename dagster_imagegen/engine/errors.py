"""What can go wrong, as one tree.

ImageGenError
├── ConfigurationError       the settings or arguments cannot work; nothing was sent
│   ├── InvalidRequest       one request breaks a hard limit of the reference
│   └── PromptTableError     the prompt table has rows that cannot be sent; all are named
├── EndpointError            every further request would fail the same way; the run stops
│   ├── EndpointMisconfigured    key, address, model or parameter is not accepted
│   ├── EndpointUnreachable      nobody answers at the base URL
│   └── OutOfCredit              the account cannot pay; resumable later
├── NoImage                  the one image that was asked for was refused, or failed
├── BudgetExhausted          what the budget has left does not cover the next request
└── StorageError             images or records cannot be written or read
    ├── StoreInconsistent    the store does not show what was just written to it
    └── Fenced               another writer took this one for dead and closed its journal
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches


class ImageGenError(Exception):
    """Root of every error that this library raises on purpose."""


class ConfigurationError(ImageGenError):
    """The settings or arguments cannot work. Raised before anything is sent."""


class InvalidRequest(ConfigurationError):
    """A request breaks a hard limit of the reference; `field` and `value` name it."""

    def __init__(self, field: str, value: object, remedy: str) -> None:
        super().__init__(f"{field} {abbreviate(value)}: {remedy}")
        self.field = field
        self.value = value
        self.remedy = remedy


@dataclass(frozen=True, kw_only=True)
class RowProblem:
    """One thing that is wrong with one row of a prompt table."""

    position: int
    prompt_id: str | None
    column: str
    value: object
    remedy: str
    detail: str = ""
    """What another library said of it, which can repeat a part of the value."""

    def __str__(self) -> str:
        name = "" if self.prompt_id is None else f" (prompt_id {abbreviate(self.prompt_id)})"
        detail = f" ({self.detail})" if self.detail else ""
        place = f"row {self.position}{name}: {self.column} {abbreviate(self.value)}"
        return f"{place}: {self.remedy}{detail}"

    def without_value(self) -> "RowProblem":
        """The same, for who must not see what stands in the row."""
        return replace(self, value=_NotShown(), detail="")


class PromptTableError(ConfigurationError):
    """Rows that cannot be sent, all of them: `problems`. Positions count from 0."""

    def __init__(self, problems: Sequence[RowProblem], *, shown: int = 20) -> None:
        lines = [f"prompt table {problem}" for problem in problems[:shown]]
        if len(problems) > shown:
            lines.append(f"and {len(problems) - shown} more")
        noun = "problem" if len(problems) == 1 else "problems"
        super().__init__(f"{len(problems)} {noun} in the prompt table:\n" + "\n".join(lines))
        self.problems = tuple(problems)

    def without_values(self, *, except_of: Collection[str]) -> "PromptTableError":
        """The same problems without what stands in the rows, but for that of some columns."""
        return PromptTableError(
            [
                problem if problem.column in except_of else problem.without_value()
                for problem in self.problems
            ]
        )


class _NotShown:
    """Stands for a value that is to be in no message."""

    def __repr__(self) -> str:
        return "(not shown)"


class EndpointError(ImageGenError):
    """The endpoint will answer every further request the same way, so the run stops.

    `http_status` and `code` are the answer's, where there was one. `retry_can_help` is whether
    running the same step again can get another answer.
    """

    def __init__(
        self,
        message: str,
        *,
        http_status: int | None = None,
        code: str | None = None,
        retry_can_help: bool = True,
    ) -> None:
        super().__init__(message)
        self.http_status = http_status
        self.code = code
        self.retry_can_help = retry_can_help


class EndpointMisconfigured(EndpointError):
    """The key, the address, the model or a parameter is not accepted."""


class EndpointUnreachable(EndpointError):
    """Nobody answers at the base URL."""


class OutOfCredit(EndpointError):
    """The account cannot pay for more. What was paid for is saved; a later run goes on."""


class NoImage(ImageGenError):
    """The one image that was asked for was refused or failed; in a table it is a row that says so.

    `status` is the outcome's (`refused`, `failed`, `unknown`), `code` the answer's.
    """

    def __init__(self, message: str, *, status: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class BudgetExhausted(ImageGenError):
    """What the budget has left does not cover the worst case of the next request.

    What was made is saved; a later run, with more to spend, goes on.
    """


class StorageError(ImageGenError):
    """Images or records cannot be written or read; the message names the place."""


class StoreInconsistent(StorageError):
    """The store does not list what was just written to it, so its records prove nothing."""


class Fenced(StorageError):
    """Another writer took this one for dead and closed its journal. Nothing more is sent."""


def abbreviate(value: object, *, length: int = 80) -> str:
    """`repr` of a value, cut in the middle, for messages."""
    text = repr(value)
    if len(text) <= length:
        return text
    half = (length - 1) // 2
    return f"{text[:half]}…{text[-half:]}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean "size"?` for the nearest of the known names, or the list of them all."""
    by_lower_case = {each.lower(): each for each in known}
    nearest = get_close_matches(name.lower(), by_lower_case, n=1)
    if nearest:
        return f'; did you mean "{by_lower_case[nearest[0]]}"?'
    return f"; there is {', '.join(by_lower_case.values()) or 'none'}"
