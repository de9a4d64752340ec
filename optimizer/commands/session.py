"""What all commands share while they run: when the command began, and the token by which Ctrl-C ends its work."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic

import click

from optimizer.interrupts import Cancel, asking, heard_by


@dataclass(frozen=True)
class Session:
    """The run of one command.

    started: a reading of time.monotonic in seconds, from which time limits count. cancel: the token that the first
    Ctrl-C asks to end the work.
    """

    started: float = field(default_factory=monotonic)
    cancel: Cancel = field(default_factory=Cancel)

    def left(self, time_limit: float) -> float:
        """The seconds that are left now of a time limit for the whole command. At least a tenth of a second is left,
        because planning takes no limit of zero; a compromise and not tuned."""
        return max(time_limit - (monotonic() - self.started), 0.1)


def session() -> Session:
    """The session of the command that is running; a new one where a command is called without the group of commands."""
    found = click.get_current_context().find_object(Session)
    return found or Session()


@contextmanager
def begun() -> Iterator[Session]:
    """Yield a new session, whose token is asked by Ctrl-C until the block ends."""
    new = Session()
    with heard_by(asking(new.cancel)):
        yield new
