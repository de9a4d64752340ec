"""How the speed of a piece of work is measured, and the row of figures that comes out."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Measured:
    """The units of work that our kernel, and the same work in numpy, do in a second."""

    name: str
    unit: str
    ours: float
    numpy: float


def rate(work: float, run: Callable[[], object]) -> float:
    """The work that a run does, per second: the median of five runs, after one that compiles and warms up."""
    run()
    times = []
    for _ in range(5):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return work / statistics.median(times)
