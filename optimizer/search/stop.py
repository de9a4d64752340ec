"""When to stop: a wall clock shared by a whole command, and a count of evaluated moves."""

import time
from dataclasses import dataclass, field


@dataclass
class Deadline:
    """`seconds` from `started` (a reading of time.monotonic) on."""

    seconds: float
    started: float = field(default_factory=time.monotonic)

    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    def remaining(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.seconds - self.elapsed())


@dataclass
class SearchBudget:
    """What a search may spend: the time until `seconds` on its clock, and these `iterations`, if given."""

    deadline: Deadline
    seconds: float
    iterations: int | None = None

    def grant(self, chunk: int) -> int:
        """Evaluations that may be made now, at most `chunk`; 0 once the time or the count is spent."""
        if self.deadline.elapsed() >= self.seconds:
            return 0
        return chunk if self.iterations is None else min(chunk, self.iterations)

    def spend(self, evaluated: int) -> None:
        """Account for iterations made."""
        if self.iterations is not None:
            self.iterations -= evaluated

    def share(self) -> float:
        """Share of the time spent so far."""
        return min(1.0, self.deadline.elapsed() / self.seconds)
