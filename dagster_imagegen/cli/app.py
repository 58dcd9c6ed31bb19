"""The group of all verbs: which there are, and how each of them ends."""

import importlib
import os
import sys
import traceback
from collections.abc import Sequence

import click

from dagster_imagegen.cli import exit_codes
from dagster_imagegen.engine.errors import ImageGenError

PROGRAM = "dagster-imagegen"

VERBS = {
    "plan": "Tell what a file of prompts would send, and what it may cost.",
    "diff": "Tell what the change between two files of prompts affects.",
    "usage": "Tell what was charged, and the most that may have been.",
    "generate": "Generate the images of a file of prompts, without Dagster.",
    "adopt": "Make existing images part of the record, so that they are not bought.",
    "verify": "Compare a storage with its record; with --repair, repair it.",
    "reconcile": "Compare the usage table with the provider's export.",
    "models": "List the endpoint's models, with known prices and shutdown dates.",
    "gallery": "Write a page that shows the images of a storage.",
    "serve": "Run the sandbox endpoint until Ctrl+C.",
}
"""What `--help` lists, in this order. The module of a verb is loaded only when it is used."""

EPILOG = """\
\b
Exit status:
  0    fine
  1    done, with findings: rows without an image, damage, differences
  2    options, settings or an input file cannot work; nothing was changed
  3    the storage cannot be read or written
  4    the endpoint does not accept requests
  5    the budget does not cover the next request
  130  interrupted; what was sent is on record
"""


class Verbs(click.Group):
    """Loads a verb when it is used, and turns what it returns or raises into an exit status."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f"{__package__}.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs without loading them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))

    def invoke(self, ctx: click.Context) -> None:
        """Run the verb, and exit with its status."""
        try:
            status = super().invoke(ctx)
            sys.stdout.flush()
        except ImageGenError as error:
            from dagster_imagegen.cli.output import note  # noqa: PLC0415  # loads rich

            note(f"{PROGRAM} {ctx.invoked_subcommand}: {error}")
            status = exit_codes.exit_code_of(error)
        except BrokenPipeError:
            # Whoever read has enough. Python would complain when it flushes at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            status = exit_codes.BROKEN_PIPE
        ctx.exit(status if isinstance(status, int) else exit_codes.FINE)


@click.command(cls=Verbs, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name=PROGRAM, prog_name=PROGRAM)
def verbs() -> None:
    """Prompt tables to images, with every request on record."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit status."""
    if "pyarrow" not in sys.modules:
        # Arrow's own allocators keep memory in each thread: 150 MB more over a long usage table.
        os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    try:
        status = verbs.main(
            None if arguments is None else list(arguments),
            prog_name=PROGRAM,
            standalone_mode=False,
        )
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return exit_codes.INTERRUPTED
    except Exception:  # noqa: BLE001  # told apart from findings, which have status 1
        traceback.print_exc()
        return exit_codes.INTERNAL
    return status if isinstance(status, int) else exit_codes.FINE
