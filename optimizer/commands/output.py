"""What a command writes: tables and sentences go to standard output, notes and progress to standard error."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from optimizer.report.tables import Part


def show(parts: "Sequence[Part]") -> None:
    """Print the parts of a report. Where standard output is no terminal, tables have a fixed width that holds all
    columns."""
    from rich.console import Console

    from optimizer.report.rendering import WIDTH, print_parts

    console = Console(highlight=False)
    print_parts(parts, console if console.is_terminal else Console(highlight=False, width=WIDTH))


def show_json(figures: Any) -> None:
    """Print figures as JSON on standard output."""
    click.echo(json.dumps(figures, indent=1))


def say(sentences: Iterable[str]) -> None:
    """Print notes that the user should read on standard error, each on a line of its own."""
    for sentence in sentences:
        click.echo(f"Note: {sentence}", err=True)


@contextmanager
def progress() -> Iterator[Callable[[str, float], None]]:
    """Yield a function that takes a stage and the share of it that is done, 0 to 1, and shows both on standard error.
    Where standard error is no terminal, nothing is shown."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    stderr = Console(stderr=True)
    with Progress(*columns, console=stderr, transient=True, disable=not stderr.is_terminal) as bar:
        task = bar.add_task("starting", total=1.0)
        yield lambda stage, share: bar.update(task, description=stage, completed=share)
