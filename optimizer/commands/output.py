"""What a command writes: tables and sentences go to standard output, notes and warnings to standard error."""

import json
import logging
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

    from optimizer.report.tables import Part

LOG = logging.getLogger(__name__)


def show(parts: "Sequence[Part]") -> None:
    """Print the parts of a report on standard output."""
    from optimizer.report.rendering import print_parts

    print_parts(parts, terminal())


def terminal() -> "Console":
    """The console of standard output. Where that is no terminal, and the environment does not give its width in
    COLUMNS, it is as wide as the widest tables, and each sentence stays on its line for the programs that read it."""
    from rich.console import Console

    from optimizer.report.rendering import WIDTH

    console = Console(highlight=False)
    named = os.environ.get("COLUMNS", "").isdigit()
    return console if console.is_terminal or named else Console(highlight=False, width=WIDTH, soft_wrap=True)


def show_json(figures: Any) -> None:
    """Print figures as JSON on standard output."""
    click.echo(json.dumps(figures, indent=1))


def say(sentences: Iterable[str]) -> None:
    """Write notes that the user should read to standard error, each on a line of its own; what looks wrong in traces is
    a warning, which `--quiet` leaves."""
    from optimizer.statistics.suspicion import LOOKS_WRONG

    for sentence in sentences:
        LOG.log(logging.WARNING if LOOKS_WRONG in sentence else logging.INFO, "%s", sentence)


def warn(sentences: Iterable[str]) -> None:
    """Write what may go wrong to standard error, also with `--quiet`."""
    for sentence in sentences:
        LOG.warning("%s", sentence)
