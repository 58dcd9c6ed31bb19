"""The command line, `dagster-imagegen`. Imports no Dagster."""

import argparse
import signal
import sys
import threading
from collections.abc import Sequence
from typing import get_args

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
WAIT_SECONDS = 0.5


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="dagster-imagegen", description="Prompt tables to images in Dagster."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_serve(commands.add_parser("serve", help="run the sandbox endpoint until Ctrl+C"))
    return serve(parser.parse_args(arguments))


def serve(options: argparse.Namespace) -> int:
    """Run the sandbox until Ctrl+C or SIGTERM."""
    try:
        from dagster_imagegen.sandbox.server import Sandbox  # noqa: PLC0415  # an optional extra
    except ModuleNotFoundError as exc:
        if (exc.name or "").split(".")[0] not in ("starlette", "uvicorn"):
            raise
        return _fail(
            f"{exc.name} is not installed. Install it with:\n"
            "  pip install 'dagster-imagegen[sandbox]'"
        )
    try:
        options.fault_rates = dict(options.fault_rates)
        sandbox = Sandbox(**vars(options)).start()
    except ValueError as exc:
        return _fail(str(exc))
    except (OSError, OverflowError) as exc:  # Overflow: not a port number
        return _fail(f"port {options.port}: {exc}")
    try:
        sys.stdout.write(SERVING.format(base_url=sandbox.base_url, root_url=sandbox.root_url))
        sys.stdout.flush()
        _wait_for_a_signal()
    finally:
        sandbox.stop()
    return 0


def _fail(problem: str) -> int:
    sys.stderr.write(f"dagster-imagegen serve: {problem}\n")
    return 1


def _wait_for_a_signal() -> None:
    stopped = threading.Event()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, lambda _signal, _frame: stopped.set())
    while not stopped.wait(WAIT_SECONDS):
        pass


def _add_serve(parser: argparse.ArgumentParser) -> None:
    """Add the options of `serve`, each stored under the name of its argument of `Sandbox`."""
    add = parser.add_argument
    add("--port", type=int, default=0, help="a port of your choice instead of a free one")
    add("--api-key", help="accept only this key; by default any, and none")
    add("--error-dialect", choices=get_args(Dialect), default="openai", help="whose error bodies")
    add("--answer-shape", choices=get_args(Shape), default="openai", help="whose answers")
    add("--strict-sizes", action="store_true", help="refuse sizes that the models do not list")
    add(
        "--latency",
        dest="latency_seconds",
        type=_seconds,
        default=(0.0, 0.0),
        metavar="SECONDS",
        help="how long an image takes: 2, or 2-30 for a range",
    )
    add("--requests-per-minute", type=int, metavar="N", help="answer 429 beyond it")
    add("--max-concurrency", type=int, metavar="N", help="answer 429 beyond it")
    add("--credit-usd", type=float, metavar="USD", help="answer insufficient_quota once spent")
    add(
        "--refuse",
        action="append",
        default=[],
        metavar="PHRASE",
        help="block prompts that contain this; may be given again",
    )
    add(
        "--fault",
        dest="fault_rates",
        action="append",
        default=[],
        type=_rate,
        metavar="KIND=RATE",
        help="fail at random, e.g. rate_limited=0.2; may be given again",
    )
    add("--seed", type=int, default=0, help="for random latencies and faults")
    add(
        "--no-paint",
        dest="paint",
        action="store_false",
        help="pictures of a few pixels, for load tests",
    )


def _seconds(text: str) -> tuple[float, float]:
    low, _, high = text.partition("-")
    return float(low), float(high or low)


def _rate(text: str) -> tuple[str, float]:
    kind, _, rate = text.partition("=")
    try:
        return kind, float(rate)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not KIND=RATE, e.g. rate_limited=0.2"
        ) from None


if __name__ == "__main__":
    sys.exit(main())
