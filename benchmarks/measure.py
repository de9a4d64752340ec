"""Timing: what a benchmark's row is, and how it is measured."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Measured:
    """Work per second of our kernel, and of numpy."""

    name: str
    unit: str
    ours: float
    numpy: float


def rate(work: float, run: Callable[[], object]) -> float:
    """Work units per second: the median of five runs after one that compiles and warms up."""
    run()
    times = []
    for _ in range(5):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return work / statistics.median(times)
