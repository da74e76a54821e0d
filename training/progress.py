"""What a fit shows while it runs: a bar on a terminal, about ten lines a member elsewhere."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from training.recipe import Step

LINES = 10
"""Lines printed for each member where there is no terminal."""


@contextmanager
def shown(name: str, file: TextIO | None = None) -> Iterator[Callable[[str | Step], None]]:
    """A report for `recipe.run` that shows what it is given, each line beginning with the model's name."""
    console = Console(file=file or sys.stdout, emoji=False)
    if console.is_terminal:
        with _bar(console, name) as report:
            yield report
    else:
        yield lambda event: _print(name, event, file or sys.stdout)


@contextmanager
def _bar(console: Console, name: str) -> Iterator[Callable[[str | Step], None]]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        bar = bars.add_task(name, total=None, figures="")

        def report(event: str | Step) -> None:
            if isinstance(event, str):
                bars.console.print(f"{name}: {event}", markup=False, highlight=False)
                return
            of = f" {event.member}/{event.members}" if event.members > 1 else ""
            # by counting: several members are fitted side by side
            bars.update(
                bar, description=name + of, advance=1, total=event.members * event.epochs, figures=_figures(event)
            )

        yield report


def _print(name: str, event: str | Step, file: TextIO) -> None:
    if isinstance(event, str):
        print(f"{name}: {event}", file=file, flush=True)
        return
    every = max(1, event.epochs // LINES)
    if event.epoch.number % every == 0 or event.epoch.number == 1:
        of = f" {event.member}/{event.members}" if event.members > 1 else ""
        print(f"{name}{of}: {_figures(event)}", file=file, flush=True)


def _figures(step: Step) -> str:
    epoch = step.epoch
    return (
        f"epoch {epoch.number}/{step.epochs}  train {epoch.train_loss:.4g}  validation {epoch.validation_loss:.4g}  "
        f"{epoch.rows_per_second:,.0f} rows/s"
    )
