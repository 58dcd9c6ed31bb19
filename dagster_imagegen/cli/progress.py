"""Progress on standard error: bars where a person sees it, otherwise a line now and then."""

import contextlib
from collections.abc import Callable, Generator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dagster_imagegen.cli.output import note, text_of
from dagster_imagegen.engine.run.thread import Generation

BEAT_SECONDS = 0.25
LINE_SECONDS = 30.0


@contextlib.contextmanager
def counting(what: str) -> Generator[Callable[[int, int], None]]:
    """A bar that is moved by calling what this yields with how many are done, and of how many."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda done, total: None
        return
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    with bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def follow(generation: Generation) -> None:
    """Wait for the end of a pass, and show where it stands: rate, in flight, cost, time left."""
    console = Console(stderr=True)
    if not console.is_terminal:
        _follow_in_lines(generation)
        return
    bar = Progress(
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.description}", markup=False),
        console=console,
    )
    with bar:
        task = bar.add_task("", total=generation.plan.distinct)
        for _ in generation.beats(BEAT_SECONDS):
            at = generation.progress
            # The bar has the counts already.
            description = text_of(str(at).partition(" images, ")[2])
            bar.update(task, completed=at.done, description=description)
        bar.update(task, completed=generation.progress.done)


def _follow_in_lines(generation: Generation) -> None:
    for _ in generation.beats(LINE_SECONDS):
        note(str(generation.progress))
