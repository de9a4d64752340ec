"""What all commands share while they run: when the command began, and the token by which Ctrl-C ends its work."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic

import click

from optimizer.interrupts import Cancel, asking, heard_by


@dataclass(frozen=True)
class Session:
    """started: a reading of time.monotonic, from which time limits count; cancel: asked by the first Ctrl-C."""

    started: float = field(default_factory=monotonic)
    cancel: Cancel = field(default_factory=Cancel)

    def left(self, time_limit: float) -> float:
        """Seconds of a limit for the whole command that are left now, at least a tenth of a second."""
        return max(time_limit - (monotonic() - self.started), 0.1)


def session() -> Session:
    """The session of the command that runs; a new one where a command is called without the group."""
    found = click.get_current_context().find_object(Session)
    return found or Session()


@contextmanager
def begun() -> Iterator[Session]:
    """A session whose token hears Ctrl-C until the block ends."""
    new = Session()
    with heard_by(asking(new.cancel)):
        yield new
