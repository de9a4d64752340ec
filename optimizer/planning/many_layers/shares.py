"""How long each of many tasks may take, so that several workers end together and on time."""

import heapq
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

LEAST_SECONDS = 0.5  # a task that starts late still gets its seeds judged


@dataclass
class TimeShares:
    """Seconds for tasks that are begun in turn by whichever worker is free, in proportion to their weights.

    weights: of the tasks, in the order in which they begin; workers: how many run at once; end: on the clock. What a
    task leaves over, or takes too much, is shared out among those that have not begun.
    """

    weights: Sequence[float]
    workers: int
    end: float
    clock: Callable[[], float] = time.monotonic
    begun: int = 0
    busy: list[float] = field(default_factory=list)

    def next(self) -> float:
        """Seconds for the task that begins now: its part of the time that all workers have left, and no more than lets
        as many tasks of its weight as come to one worker end in time."""
        now, left = self.clock(), self.weights[self.begun :]
        while len(self.busy) >= self.workers:
            heapq.heappop(self.busy)  # a worker is free, most likely the one that should be by now
        room = self.end - now
        others = sum(self.end - max(now, until) for until in self.busy)
        idle = (self.workers - len(self.busy) - 1) * room
        weight, rounds = left[0], -(-len(left) // self.workers)
        part = (room + others + idle) * weight / sum(left)
        even = room * weight * len(left) / (sum(left) * rounds)
        seconds = max(LEAST_SECONDS, min(part, even, room))
        self.begun += 1
        heapq.heappush(self.busy, now + seconds)
        return seconds
