"""When to stop: a wall clock shared by a whole command, a token that asks for the end, and a count of moves."""

import time
from dataclasses import dataclass, field

from optimizer.interrupts import Cancel
from optimizer.search.trail import Trail


@dataclass
class Deadline:
    """The moment `seconds` after `started` (a reading of time.monotonic), or earlier if `cancel` is asked.

    moves: how many moves searches have looked at until now, for whoever watches.
    """

    seconds: float
    started: float = field(default_factory=time.monotonic)
    cancel: Cancel = field(default_factory=Cancel)
    moves: int = 0

    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    def remaining(self) -> float:
        """Seconds left, never negative; 0 once the token was asked."""
        return 0.0 if self.cancel.asked else max(0.0, self.seconds - self.elapsed())


@dataclass
class SearchBudget:
    """What a search may spend: the time until `seconds` on its clock, and this number of `iterations`, if given.

    purpose: what is searched for by what, in words. trails: how the searches that spend it converge, a trail for each.
    """

    deadline: Deadline
    seconds: float
    iterations: int | None = None
    purpose: str = ""
    trails: list[Trail] = field(default_factory=list)

    @property
    def over(self) -> bool:
        """Whether the time is spent, or the token was asked."""
        return self.deadline.cancel.asked or self.deadline.elapsed() >= self.seconds

    def grant(self, chunk: int) -> int:
        """Evaluations that may be made now, at most `chunk`; 0 once the time or the count is spent."""
        if self.over:
            return 0
        return chunk if self.iterations is None else min(chunk, self.iterations)

    def spend(self, evaluated: int) -> None:
        """Account for iterations made."""
        self.deadline.moves += evaluated
        if self.iterations is not None:
            self.iterations -= evaluated

    def trail(self) -> Trail:
        """A trail for a search that begins now, or for one of its chains."""
        self.trails.append(Trail(self.purpose))
        return self.trails[-1]

    def share(self) -> float:
        """Share of the time spent so far."""
        return 1.0 if self.over else min(1.0, self.deadline.elapsed() / self.seconds)
