"""What timings are made of, and the constants of 0 or above that fit them best."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import lsq_linear

from formulations.kit.arrays import Floats

PULL = 1e-7
"""How strongly constants are pulled to their start, beside what timings say: enough to decide on what these leave open,
and too little to move anything that they tell (a squared share of 1e-14)."""

FITS = 3  # times that constants are fitted; with two, one of 60,000 random models with exact times was not met


@dataclass(frozen=True)
class Design:
    """What each timing is made of: `plain @ constants`, and with two speeds the sum over items of
    `max(a * low, b * high)`.

    plain `[row, plain constant]`; low and high `[row, item]` belong to the constants a and b, which come after the
    plain ones, and are None where there are no two speeds.
    """

    plain: Floats
    low: Floats | None = None
    high: Floats | None = None

    def columns(self, ratio: float) -> Floats:
        """What each constant multiplies, `[row, constant]`, where a of the two is `ratio` x b."""
        if self.low is None or self.high is None:
            return self.plain
        second = self.high > ratio * self.low
        sides = [np.where(second, 0, self.low).sum(axis=1), np.where(second, self.high, 0).sum(axis=1)]
        return np.column_stack([self.plain, *sides])

    def times(self, constants: Floats) -> Floats:
        """The time of each row, `[row]` microseconds."""
        time: Floats = self.plain @ constants[: self.plain.shape[1]]
        if self.low is not None and self.high is not None:
            first, second = constants[-2:]
            time = time + np.maximum(first * self.low, second * self.high).sum(axis=1)
        return time


def nonnegative(columns: Floats, measured: Floats, start: Floats) -> Floats:
    """The best constants of a linear model; what it leaves open stays as near to the start as can be, in proportion.

    Each fit but the first is pulled to where the one before has ended. So what the pull to the start has moved of a
    constant that is thousands of times its start is taken back, and what the timings do not tell stays.
    """
    units = np.where(start > 0, start, 1.0)
    scaled = columns * units
    pull = PULL * max(np.linalg.norm(scaled, 2), np.finfo(float).tiny)
    rows = np.vstack([scaled, pull * np.eye(len(start))])
    best = start / units
    for _ in range(FITS):
        best = lsq_linear(rows, np.concatenate([measured, pull * best]), (0, np.inf), method="bvls").x
    above: Floats = np.maximum(best * units, 0.0)  # by rounding, a constant at its limit may be a little below it
    return above
