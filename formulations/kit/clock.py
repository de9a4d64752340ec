"""The clock that every loop of a formulation looks at: time runs out, or the caller cancels."""

import time
from collections.abc import Callable
from dataclasses import dataclass


def never() -> bool:
    """The answer of a caller that does not cancel."""
    return False


@dataclass(frozen=True)
class Clock:
    """A span of `seconds` from `started`, a reading of `time.monotonic`; it is over early where `cancelled` says so.

    `cancelled` is asked often, from other threads too, and must answer at once.
    """

    started: float
    seconds: float
    cancelled: Callable[[], bool] = never

    @classmethod
    def start(cls, seconds: float, cancelled: Callable[[], bool] = never) -> "Clock":
        """A clock that runs from now on."""
        return cls(time.monotonic(), seconds, cancelled)

    @classmethod
    def until(cls, deadline: float, cancelled: Callable[[], bool] = never) -> "Clock":
        """A clock that runs from now to a deadline, which is a reading of `time.monotonic`."""
        now = time.monotonic()
        return cls(now, deadline - now, cancelled)

    def elapsed(self) -> float:
        """Seconds since the start, whatever the caller cancelled."""
        return time.monotonic() - self.started

    def left(self) -> float:
        """Seconds that may still be spent, never negative; 0 once the caller cancelled."""
        return 0.0 if self.cancelled() else max(0.0, self.seconds - self.elapsed())

    def over(self) -> bool:
        """Whether to stop now with what was found so far."""
        return self.left() <= 0

    def part(self, share: float) -> "Clock":
        """A clock with the same start that is over after this share of the time."""
        return Clock(self.started, share * self.seconds, self.cancelled)
