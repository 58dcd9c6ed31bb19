"""The library's errors, as one tree.

ImageGenError
├── ConfigurationError       the settings or arguments cannot work; nothing was sent
│   ├── InvalidRequest       a parameter of a request breaks a rule
│   └── PromptTableError     rows of the prompt table cannot be sent; names all of them
├── EndpointError            every further request would fail the same way; the run stops
│   ├── EndpointMisconfigured    key, address, model or parameter is not accepted
│   ├── EndpointUnreachable      nobody answers at the base URL
│   └── OutOfCredit              the account cannot pay; a later run can continue
├── NoImage                  the single image requested was refused or failed
├── BudgetExhausted          the remaining budget does not cover the next request
└── StorageError             images or records cannot be written or read
    ├── StoreInconsistent    the store does not list a file just written to it
    ├── DamagedJournal       an object of a journal is not what was written there
    └── Fenced               another writer declared this one dead and closed its journal
"""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches

_PROBLEMS_SHOWN = 20
_VALUE_LENGTH = 80


class ImageGenError(Exception):
    """Root of every error that this library raises on purpose."""


class ConfigurationError(ImageGenError):
    """The settings or arguments cannot work. Raised before anything is sent."""


class InvalidRequest(ConfigurationError):
    """A value breaks a rule for requests; the message is "size must be text, got int 1024".

    Args:
        field: The parameter or column.
        value: What it holds. None and "" are not repeated in the message.
        rule: What must hold, read after the field: "must be at least 0".
        got: A word for the value that the message puts before it, such as its type.
        remedy: What to do about it, where the rule alone does not say.
    """

    def __init__(
        self, field: str, value: object, rule: str, *, got: str = "", remedy: str = ""
    ) -> None:
        super().__init__(_sentence(field, value, rule, got, remedy))
        self.field = field
        self.value = value
        self.rule = rule
        self.got = got
        self.remedy = remedy


@dataclass(frozen=True, kw_only=True)
class RowProblem:
    """A rule that one row of a prompt table breaks; the fields are those of `InvalidRequest`."""

    position: int
    prompt_id: str | None
    column: str
    value: object
    rule: str
    got: str = ""
    remedy: str = ""
    detail: str = ""
    """The message of another library, which can repeat a part of the value."""

    def __str__(self) -> str:
        name = "" if self.prompt_id is None else f" (prompt_id {abbreviate(self.prompt_id)})"
        detail = f" ({self.detail})" if self.detail else ""
        sentence = _sentence(self.column, self.value, self.rule, self.got, self.remedy)
        return f"row {self.position}{name}: {sentence}{detail}"

    def without_value(self) -> "RowProblem":
        """The same problem for readers who must not see what the row holds."""
        value = None if self.value is None else _NotShown()
        return replace(self, value=value, detail="")


class PromptTableError(ConfigurationError):
    """All problems of all rows that cannot be sent. Positions count from 0.

    `problems` has all of them, the message the first 20.
    """

    def __init__(self, problems: Sequence[RowProblem]) -> None:
        lines = [f"prompt table {problem}" for problem in problems[:_PROBLEMS_SHOWN]]
        if len(problems) > _PROBLEMS_SHOWN:
            lines.append(f"and {len(problems) - _PROBLEMS_SHOWN} more")
        noun = "problem" if len(problems) == 1 else "problems"
        super().__init__(f"{len(problems)} {noun} in the prompt table:\n" + "\n".join(lines))
        self.problems = tuple(problems)

    def without_values(self, *, except_of: Collection[str]) -> "PromptTableError":
        """The same problems without the rows' values, except those of the columns named."""
        return PromptTableError(
            [
                problem if problem.column in except_of else problem.without_value()
                for problem in self.problems
            ]
        )


class _NotShown:
    """Takes the place of a value that no message may show."""

    def __repr__(self) -> str:
        return "(not shown)"


class EndpointError(ImageGenError):
    """Every further request would fail the same way, so the run stops.

    `http_status` and `code` are those of the answer, if there was one. `retry_can_help` is whether
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
    """The account cannot pay for more. Paid images are saved; a later run continues."""


class NoImage(ImageGenError):
    """The single image requested was refused or failed. A table has a row for this instead.

    `status` is the outcome (`refused`, `failed`, `unknown`), `code` the answer's error code.
    """

    def __init__(self, message: str, *, status: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class BudgetExhausted(ImageGenError):
    """The remaining budget does not cover the worst-case cost of the next request.

    Images made so far are saved; a later run with a larger budget continues.
    """


class StorageError(ImageGenError):
    """Images or records cannot be written or read; the message names the place.

    `can_pass` is whether the same call can succeed later, without anybody changing anything.
    """

    def __init__(self, message: str, *, can_pass: bool = True) -> None:
        super().__init__(message)
        self.can_pass = can_pass


class StoreInconsistent(StorageError):
    """The store does not list a file just written to it, so its records prove nothing."""


class DamagedJournal(StorageError):
    """An object of a journal is not what was written there; the message names the remedy."""


class Fenced(StorageError):
    """Another writer declared this one dead and closed its journal. Nothing more is sent."""


def abbreviate(value: object) -> str:
    """`repr` of a value for messages, cut in the middle to 80 characters."""
    text = repr(value)
    if len(text) <= _VALUE_LENGTH:
        return text
    half = (_VALUE_LENGTH - 1) // 2
    return f"{text[:half]}…{text[-half:]}"


# A password can have any character, so that it ends at the last @. No password is what follows the
# colon of a port, of a Windows drive, of an ARN or of an IPv6 address.
_PASSWORD = re.compile(
    r"(?:^(?![\w+.:-]*://)(?:https?//)?|^//|://)(?![A-Za-z]:[\\/]|arn:)[^/:@\[]*(?=:(?!\d{1,5}[/?#]).*@)",
    re.DOTALL,
)
_LOCAL = re.compile(r"/(?!/)|~|\.|[A-Za-z]:[\\/]")


def holds_password(address: str) -> bool:
    """Whether an address, with or without its scheme, seems to have a password: user:password@."""
    return _PASSWORD.search(address) is not None


def without_secrets(address: str) -> str:
    """What of an address any text may show: no password, and no query, which can hold a key.

    A local path may have the characters of a query, but for `?name=value`.
    """
    if user := _PASSWORD.search(address):
        password, _, rest = address[user.end() :].rpartition("@")
        # With an @ in the query, nobody can tell where the password ends.
        in_query = "?" in password or "#" in password
        address = f"{address[: user.end()]}:…" + ("" if in_query else f"@{rest}")
    query = r"\?.*=.*" if _LOCAL.match(address) else "[?#].*"
    return re.sub(query, "", address, flags=re.DOTALL)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean "size"?` for the nearest known name, else a list of all known names."""
    by_lower_case = {each.lower(): each for each in known}
    nearest = get_close_matches(name.lower(), by_lower_case, n=1)
    if nearest:
        return f'; did you mean "{by_lower_case[nearest[0]]}"?'
    return f"; known names: {', '.join(by_lower_case.values()) or 'none'}"


def _sentence(field: str, value: object, rule: str, got: str, remedy: str) -> str:
    shown = "" if value is None or (isinstance(value, str) and not value) else abbreviate(value)
    found = " ".join(part for part in (got, shown) if part)
    return f"{field} {rule}" + (f", got {found}" if found else "") + (remedy and f"; {remedy}")
