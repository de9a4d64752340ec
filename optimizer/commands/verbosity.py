"""How much a command says beside its results: `--quiet`, `--verbose`, and standard logging behind them.

Every module may log under its own name, below `optimizer`. Notes have the level INFO, stages with their times DEBUG.
All of it goes to standard error, as results go to standard output.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

import click

from optimizer.commands.failures import BadInput

LOGGER = logging.getLogger("optimizer")
"""The logger above those of all modules."""

NAMED = {logging.DEBUG: "", logging.INFO: "Note: "}
"""What lines begin with, by their level; all others begin with "Warning: "."""

GIVEN = "moeplan.verbosity"
"""The key under which the `meta` of a click context keeps which of the two flags was given."""


class Lines(logging.Handler):
    """Writes a line for each message to standard error, those of DEBUG after the seconds since the command began."""

    def __init__(self) -> None:
        super().__init__()
        self.began = monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line. Standard error is looked up each time, as a progress bar puts itself in its place."""
        name = NAMED.get(record.levelno, "Warning: ")
        after = f"{monotonic() - self.began:8.1f} s  " if record.levelno == logging.DEBUG else ""
        print(f"{after}{name}{' '.join(record.getMessage().split())}", file=sys.stderr)


@contextmanager
def spoken() -> Iterator[None]:
    """Inside the block messages are written: notes and warnings, unless an option changes that."""
    lines, level, propagate = Lines(), LOGGER.level, LOGGER.propagate
    LOGGER.addHandler(lines)
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False
    try:
        yield
    finally:
        LOGGER.removeHandler(lines)
        LOGGER.setLevel(level)
        LOGGER.propagate = propagate


def is_quiet() -> bool:
    """Whether warnings and errors alone are wanted."""
    return LOGGER.level > logging.INFO


def verbosity_options() -> list[click.Option]:
    """The options `--quiet` and `--verbose` for one command."""
    return [
        _flag("-q", "quiet", "Leave notes and progress out; warnings, errors and results stay."),
        _flag("-v", "verbose", "Tell on standard error how long stages take, and what of the traces is used."),
    ]


def _flag(short: str, name: str, said: str) -> click.Option:
    return click.Option([short, f"--{name}"], is_flag=True, expose_value=False, callback=_set, help=said)


def _set(ctx: click.Context, param: click.Parameter, given: bool) -> None:
    """Say no less and no more than was asked for. Raises BadInput for both of the flags."""
    if not given:
        return
    if GIVEN in ctx.meta:
        raise BadInput("--quiet and --verbose exclude each other; give one of them")
    ctx.meta[GIVEN] = param.name
    LOGGER.setLevel(logging.WARNING if param.name == "quiet" else logging.DEBUG)
