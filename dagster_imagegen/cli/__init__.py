"""The command line, `dagster-imagegen`. Imports no Dagster.

To add a verb: write a module here, named like it, whose `command` is a click command that takes
the shared options from `options.py`, prints one `Report` with `output.py`, and returns one of the
statuses of `exit_codes.py`. Then add one line to `VERBS` in `app.py`. Errors are raised, as an
`ImageGenError` or a `click.UsageError`: `app.py` prints them, and knows their status.
Tests call `main([...])`, which returns the status, and read what pytest captured.
"""

from dagster_imagegen.cli.app import main

__all__ = ["main"]
