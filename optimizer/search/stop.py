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
class Budget:
    """What a search may spend: the time until `seconds` on its clock, and these `evaluations`, if given."""

    deadline: Deadline
    seconds: float
    evaluations: int | None = None

    def grant(self, chunk: int) -> int:
        """Evaluations that may be made now, at most `chunk`; 0 once the time or the count is spent."""
        if self.deadline.elapsed() >= self.seconds:
            return 0
        return chunk if self.evaluations is None else min(chunk, self.evaluations)

    def spend(self, evaluated: int) -> None:
        """Account for evaluations made."""
        if self.evaluations is not None:
            self.evaluations -= evaluated

    def share(self) -> float:
        """Share of the time spent so far."""
        return min(1.0, self.deadline.elapsed() / self.seconds)
