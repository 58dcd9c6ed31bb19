"""The exit statuses of all verbs."""

from dagster_imagegen.engine.errors import (
    BudgetExhausted,
    ConfigurationError,
    EndpointError,
    ImageGenError,
    StorageError,
)

FINE = 0
FINDINGS = 1
"""The work was done, and there is something to look at: rows without an image, damage."""
USAGE = 2
"""Options, settings or an input file cannot work. Nothing was sent or changed."""
STORAGE = 3
ENDPOINT = 4
BUDGET = 5
INTERNAL = 70
"""An error of this package; a traceback is printed."""
INTERRUPTED = 130
BROKEN_PIPE = 141

_OF_ERRORS: tuple[tuple[type[ImageGenError], int], ...] = (
    (ConfigurationError, USAGE),
    (StorageError, STORAGE),
    (EndpointError, ENDPOINT),
    (BudgetExhausted, BUDGET),
)


def exit_code_of(error: ImageGenError) -> int:
    """The status that a command ends with after this error."""
    return next((code for kind, code in _OF_ERRORS if isinstance(error, kind)), INTERNAL)
