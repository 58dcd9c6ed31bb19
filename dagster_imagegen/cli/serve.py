"""`serve`: the sandbox endpoint, until Ctrl+C."""

import signal
import sys
import threading
from collections.abc import Sequence
from typing import Any, get_args

import click

from dagster_imagegen.cli import exit_codes
from dagster_imagegen.engine.errors import ConfigurationError
from dagster_imagegen.sandbox.errors import Dialect
from dagster_imagegen.sandbox.orders import Shape

SERVING = """\
Sandbox image endpoint: {base_url}
No key, no cost; every picture says that it comes from a sandbox.

  Dagster         ImageGenResource(base_url="{base_url}", ...)
  openai client   OpenAI(base_url="{base_url}", api_key="any")
  request log     curl {root_url}/sandbox/requests

Ctrl+C stops it.
"""
# Waiting in slices, because Windows does not interrupt a wait without an end.
SLICE_SECONDS = 0.5


class _Seconds(click.ParamType):  # pyright: ignore[reportMissingTypeArgument]  # generic since click 8.4 only
    """`2`, or `2-30` for a range."""

    name = "seconds"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, float]:
        if isinstance(value, tuple):
            return value
        low, _, high = str(value).partition("-")
        try:
            return float(low), float(high or low)
        except ValueError:
            self.fail(f"{value!r} must be seconds, e.g. 2, or 2-30 for a range", param, ctx)


class _Rate(click.ParamType):  # pyright: ignore[reportMissingTypeArgument]  # generic since click 8.4 only
    """`KIND=RATE`."""

    name = "rate"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, float]:
        kind, _, rate = str(value).partition("=")
        try:
            return kind, float(rate)
        except ValueError:
            self.fail(f"{value!r} is not KIND=RATE, e.g. rate_limited=0.2", param, ctx)


# The options have the names of the arguments of `Sandbox`.
@click.command()
@click.option("--port", type=int, default=0, help="A port of your choice instead of a free one.")
@click.option("--api-key", help="Accept only this key; by default any, and none.")
@click.option(
    "--error-dialect",
    type=click.Choice(get_args(Dialect)),
    default="openai",
    help="Whose error bodies.",
)
@click.option(
    "--answer-shape", type=click.Choice(get_args(Shape)), default="openai", help="Whose answers."
)
@click.option("--strict-sizes", is_flag=True, help="Refuse sizes that the models do not list.")
@click.option(
    "--latency",
    "latency_seconds",
    type=_Seconds(),
    default=(0.0, 0.0),
    metavar="SECONDS",
    help="How long an image takes: 2, or 2-30 for a range.",
)
@click.option("--requests-per-minute", type=int, metavar="N", help="Answer 429 beyond it.")
@click.option("--max-concurrency", type=int, metavar="N", help="Answer 429 beyond it.")
@click.option(
    "--credit-usd", type=float, metavar="USD", help="Answer insufficient_quota once spent."
)
@click.option(
    "--refuse",
    multiple=True,
    metavar="PHRASE",
    help="Block prompts that contain this; may be given again.",
)
@click.option(
    "--fault",
    "fault_rates",
    multiple=True,
    type=_Rate(),
    metavar="KIND=RATE",
    help="Fail at random, e.g. rate_limited=0.2; may be given again.",
)
@click.option("--seed", type=int, default=0, help="For random latencies and faults.")
@click.option(
    "--no-paint", "paint", flag_value=False, default=True, help="Pictures of a few pixels."
)
def command(port: int, fault_rates: Sequence[tuple[str, float]], **settings: Any) -> int:
    """Run the sandbox endpoint until Ctrl+C or SIGTERM.

    \b
    Examples:
      dagster-imagegen serve --port 8080
      dagster-imagegen serve --latency 2-30 --fault rate_limited=0.2
    """
    try:
        from dagster_imagegen.sandbox.server import Sandbox  # noqa: PLC0415  # an optional extra
    except ModuleNotFoundError as exc:
        if (exc.name or "").split(".")[0] not in ("starlette", "uvicorn"):
            raise
        raise ConfigurationError(
            f"{exc.name} is not installed. Install it with:\n"
            "  pip install 'dagster-imagegen[sandbox]'"
        ) from exc
    try:
        sandbox = Sandbox(port=port, fault_rates=dict(fault_rates), **settings).start()
    except ValueError as exc:
        raise ConfigurationError(str(exc)) from exc
    except (OSError, OverflowError) as exc:  # Overflow: not a port number
        raise ConfigurationError(f"port {port}: {exc}") from exc
    try:
        sys.stdout.write(SERVING.format(base_url=sandbox.base_url, root_url=sandbox.root_url))
        sys.stdout.flush()
        _wait_for_a_signal()
    finally:
        sandbox.stop()
    return exit_codes.FINE


def _wait_for_a_signal() -> None:
    stopped = threading.Event()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, lambda _signal, _frame: stopped.set())
    while not stopped.wait(SLICE_SECONDS):
        pass
