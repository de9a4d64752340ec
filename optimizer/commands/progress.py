"""Progress on standard error: a bar where that is a terminal, and with `--verbose` a line for each stage that ended."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING

from optimizer.commands.session import session
from optimizer.commands.verbosity import is_quiet

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, Task, TaskID

LOG = logging.getLogger(__name__)

WIDE = 110
"""Columns of a terminal from which on a bar and the time since the beginning are shown, too: the longest stage with
what is known so far, its share and the time left take 79."""

SURE = 0.05
"""The share of a stage that has to be done before the time that is left is told by it. Not tuned: of less, the first
steps, which compile, would decide."""


class Stages:
    """Keeps the time of stages: what is told has the same name while a stage lasts, and behind a comma what is known so
    far."""

    def __init__(self) -> None:
        self.name, self.began = "", monotonic()

    def told(self, text: str) -> None:
        """Note the stage that a text tells of; once it is another one, the time of the last one is logged."""
        name = text.partition(",")[0]
        if name != self.name:
            self.end()
            self.name, self.began = name, monotonic()

    def end(self) -> None:
        """Log the time of the stage that ends."""
        if self.name:
            LOG.debug("%s: %.1f s", self.name, monotonic() - self.began)
        self.name = ""

    def left(self, share: float) -> float | None:
        """The seconds that the stage still takes, if it goes on as it did; None where that cannot be told yet."""
        return (monotonic() - self.began) * (1 / share - 1) if share >= SURE else None


@contextmanager
def progress(time_limit: float | None = None) -> Iterator[Callable[[str, float], None]]:
    """Yield a function that takes a stage and the share of it that is done, 0 to 1, and shows both on standard error.

    A bar also shows the time that is left: of `time_limit` seconds for the whole command, or without a limit of the
    stage. Where standard error is no terminal, and with `--quiet`, there is no bar.
    """
    from rich.console import Console

    stages, stderr = Stages(), Console(stderr=True)
    shown = stderr.is_terminal and not is_quiet()
    end = None if time_limit is None else session().started + time_limit
    with _bar(stderr, stages, end, shown) as (bar, task):

        def tell(stage: str, share: float) -> None:
            stages.told(stage)
            bar.update(task, description=stage, completed=share)

        yield tell
        stages.end()


@contextmanager
def _bar(stderr: "Console", stages: Stages, end: float | None, shown: bool) -> "Iterator[tuple[Progress, TaskID]]":
    """A line with the stage, its share and the time that is left until `end`, if there is one, a reading of
    time.monotonic; in wide terminals with a bar and the time since it began."""
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn
    from rich.text import Text

    class Left(ProgressColumn):
        """The time that is left."""

        def render(self, task: "Task") -> Text:
            seconds = stages.left(task.completed) if end is None else end - monotonic()
            return Text("" if seconds is None else f"{clock(seconds)} left")

    stage, share = TextColumn("{task.description}", markup=False), TextColumn("{task.percentage:>3.0f}%")
    wide = stderr.width >= WIDE
    columns = (stage, BarColumn(20), share, TimeElapsedColumn(), Left()) if wide else (stage, share, Left())
    with Progress(*columns, console=stderr, transient=True, disable=not shown) as bar:
        yield bar, bar.add_task("starting", total=1.0)


def clock(seconds: float) -> str:
    """A time as minutes and seconds, and hours if there are any; never below zero."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
