"""The options of verbs that read a prompt table from a file."""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from dagster_imagegen.cli.options import grouped, value_of
from dagster_imagegen.cli.output import note
from dagster_imagegen.engine.attempt import Identity
from dagster_imagegen.engine.engine import Engine
from dagster_imagegen.engine.errors import ConfigurationError, did_you_mean
from dagster_imagegen.engine.prompts.rows import PromptTable
from dagster_imagegen.engine.request import PARAMETERS, ImageParams
from dagster_imagegen.prompt_file import read_prompt_file

Command = TypeVar("Command", bound=Callable[..., Any])

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
N = "n"
"""The one parameter of `ImageParams` that no request has."""


@dataclass(frozen=True, kw_only=True)
class PromptChoice:
    """How a file is read as a prompt table, as given by `prompt_options`."""

    param: Sequence[str] = ()
    override: Sequence[str] = ()
    template: str | None = None
    limit: int | None = None

    def read(self, engine: Engine, path: Path) -> PromptTable:
        """The requests of a file. Raises `ConfigurationError` for one that cannot be sent."""
        return self.read_rows(engine, read_prompt_file(path))

    def read_rows(self, engine: Engine, source: object) -> PromptTable:
        """The requests of rows."""
        params = self.params
        if not engine.settings.model and "model" not in {*params, *self.override}:
            raise ConfigurationError("no model is named; set --model")
        prompts = engine.read_prompts(
            source,
            params=params,
            template=self.template,
            overrides=self.override,
        )
        for warning in prompts.warnings:
            note(f"warning: {warning}")
        return prompts if self.limit is None else prompts.first(self.limit)

    @property
    def params(self) -> ImageParams:
        """The parameters of all rows."""
        return cast("ImageParams", dict(_param(each) for each in self.param))


def prompt_options(command: Command) -> Command:
    """Add the options of a prompt table; the verb gets them as `prompts`, a `PromptChoice`."""
    return grouped(
        command,
        "prompts",
        PromptChoice,
        click.option(
            "--param",
            multiple=True,
            metavar="NAME=VALUE",
            help="A parameter of all rows, e.g. size=1024x1024 or n=2; may be given again.",
        ),
        click.option(
            "--override",
            multiple=True,
            metavar="COLUMN",
            help="A column that overrides the parameter of its name; may be given again.",
        ),
        click.option("--template", metavar="TEXT", help='A prompt with columns: "a {colour} mug".'),
        click.option(
            "--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N rows."
        ),
    )


def new_identity(asset: str | None = None) -> Identity:
    """On whose behalf a run of the command line sends; its id says when it began."""
    run_id = f"cli-{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    return Identity(run_id=run_id, root_run_id=run_id, asset_key=asset)


def _param(text: str) -> tuple[str, Any]:
    name, separator, value = text.partition("=")
    if not separator:
        raise ConfigurationError(f"--param {text!r} is not NAME=VALUE, e.g. size=1024x1024")
    known: Mapping[str, Any] = PARAMETERS
    if name not in {*known, N}:
        raise ConfigurationError(f"--param {name!r} is no parameter{did_you_mean(name, known)}")
    is_text = name in known and known[name].kind == "text"
    return name, value if is_text else value_of(value)
