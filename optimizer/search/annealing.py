"""Simulated annealing of the batches' peaks under optimal split (Kirkpatrick, Gelatt and Vecchi, Science 220, 1983).

A short descent comes first. What peaks exceed even loads by after it is the scale of temperatures: they say which share
of it a move may lose. (To set them by the share of sampled moves that are accepted failed: a few moves that change next
to nothing, made to and fro, are most of what is accepted.) From there they fall geometrically with the share of the
budget that is spent.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from formulations.kit.arrays import Bools, Floats, Ints
from formulations.kit.kernels import kernel
from optimizer.domain.placement import Placement
from optimizer.search.chains import Tally, cooled
from optimizer.search.moves import NO_LIMIT, is_legal
from optimizer.search.split_moves import TouchedSplit, apply, delta, forget, touched_for
from optimizer.search.split_state import LANES, SplitState, split_of, sweep
from optimizer.search.stop import SearchBudget

DRAWS = 6  # uniform random numbers that a move takes
REFRESH = 16  # moves made after which all experts are levelled, not only those near a move
DESCENT = 0.03  # share of the budget in which only what improves is accepted
ANYWHERE, SWAPS, FROM_PEAK = 0.3, 0.6, 0.8  # kinds of moves, as cumulated shares


@dataclass(frozen=True)
class AnnealingSchedule:
    """worsening: what is accepted at first with a probability of one half, as a share of the excess that a descent
    leaves; cooling: the last temperature over the first; tail: the share of batches, worst first, whose mean peak
    counts `tail_weight` times what the mean of all counts: the objective is mean + tail_weight * conditional value at
    risk."""

    worsening: float = 0.01
    cooling: float = 0.05
    tail: float = 0.1
    tail_weight: float = 1.0

    def __post_init__(self) -> None:
        if not (0 < self.worsening <= 1 and 0 < self.cooling <= 1 and 0 < self.tail <= 1 and self.tail_weight >= 0):
            raise ValueError(f"{self}: shares lie between 0 and 1, and no weight is negative")


class Annealer:
    """A placement that is moved about at a given temperature.

    units `[batch, expert]`: load of each expert in tokens or tiles; spread `[expert]`: experts whose replicas keep
    their number and their rows; cols: devices of a mesh row; most: replicas of all experts together.
    """

    def __init__(
        self,
        start: Placement,
        units: Ints,
        spread: Bools,
        cols: int,
        schedule: AnnealingSchedule,
        rng: np.random.Generator,
        most: int = NO_LIMIT,
    ) -> None:
        self.split = split_of(start, units)
        self.tally = Tally()
        self._trial = self.split.copy()
        self._touched = touched_for(self.split)
        self.schedule = schedule
        self._spread, self._cols, self._most, self._rng = spread, cols, most, rng
        self.batches = len(units)
        self._first: float | None = None

    def temperature(self, share: float) -> float:
        """Zero during the descent, then from the first to the last, summed over batches."""
        if share < DESCENT:
            return 0.0
        if self._first is None:
            self._first = self.schedule.worsening * self.excess() * self.batches / np.log(2)
        fallen: float = self.schedule.cooling ** ((share - DESCENT) / (1 - DESCENT))
        return self._first * fallen

    def run(self, draws: int, temperature: float) -> None:
        """Draw so many moves; evaluate those that are legal and accept by Metropolis' rule.

        temperature: in units of load, summed over batches.
        """
        usual, weight = self._tail()
        parts = temperature * self.split.parts
        evaluated, made = _anneal(
            self.split, self._trial, self._touched, self._spread, self._cols, self._most,
            self._rng.random((draws, DRAWS)), parts, usual, weight,
        )  # fmt: skip
        self.tally.evaluated += evaluated
        self.tally.made += made
        self.tally.fruitless += evaluated == 0

    def placement(self) -> Placement:
        """The current one."""
        return self.split.placement()

    def peaks(self) -> Floats:
        """Peak load of each batch in units, `[batch]`, an upper bound of the least."""
        return self.split.peak.T.ravel()[: self.batches] / self.split.parts

    def objective(self) -> float:
        """Mean peak plus tail_weight times the mean peak of the worst batches, in units."""
        peak = np.sort(self.peaks())
        worst = peak[-max(1, round(self.schedule.tail * len(peak))) :]
        return float(peak.mean() + self.schedule.tail_weight * worst.mean())

    def excess(self) -> float:
        """What the objective is above the one of even loads, in units; the scale of temperatures."""
        mean_load = self.split.load.sum() / (self.split.parts * self.batches * len(self.split.slots))
        return self.objective() - (1 + self.schedule.tail_weight) * float(mean_load)

    def _tail(self) -> tuple[int, int]:
        """The peak above which batches are in the tail at present, in parts, and how many times more they count.

        Conditional value at risk is that peak + mean of what is beyond it / tail (Rockafellar and Uryasev 2000).
        """
        usual = np.quantile(self.split.peak.T.ravel()[: self.batches], 1 - self.schedule.tail)
        return int(usual), round(self.schedule.tail_weight / self.schedule.tail)


def anneal(
    start: Placement,
    units: Ints,
    spread: Bools,
    cols: int,
    budget: SearchBudget,
    rng: np.random.Generator,
    schedule: AnnealingSchedule = AnnealingSchedule(),
    chains: int = 1,
    most: int = NO_LIMIT,
    progress: Callable[[float], None] = lambda share: None,
) -> Iterator[Placement]:
    """Anneal `chains` times at once, each in a thread, and yield what has become better, as `cooled` does.

    most: replicas of all experts together, which no placement on the way exceeds.
    The temperature follows the iterations spent where they are limited,
    else the time, so that with a limit of iterations the seed alone decides.
    """
    annealers = [Annealer(start, units, spread, cols, schedule, own, most) for own in rng.spawn(chains)]
    return cooled(annealers, budget, progress)


@kernel
def _anneal(
    current: SplitState, trial: SplitState, touched: TouchedSplit, spread: Bools, cols: int, most: int,
    draws: Floats, temperature: float, usual: int, weight: int,
) -> tuple[int, int]:  # fmt: skip
    evaluated = made = 0
    for number in range(len(draws)):
        move = _propose(draws[number], current)
        if not is_legal(move, current.slots, current.copies, spread, cols, most):
            continue
        evaluated += 1
        limit = -temperature * np.log(draws[number, DRAWS - 1])
        _, accepted = delta(move, current, trial, touched, usual, weight, limit)
        if accepted:
            apply(current, trial, touched)
            made += 1
            if made % REFRESH == 0:
                sweep(current, 2)
                sweep(trial, 2)
        else:
            forget(current, trial, touched)
    return evaluated, made


@kernel
def _propose(draw: Floats, split: SplitState) -> int:
    """A move, legal or not: mostly one that touches the fullest device of some batch.

    It is a swap, or a replica there of what is elsewhere, or a replica elsewhere of what is there.
    """
    size, depth = split.slots.size, split.slots.shape[1]
    one, other = int(draw[1] * size), int(draw[2] * size)
    if draw[0] >= ANYWHERE:
        device = _fullest(split, int(draw[3] * len(split.units)), int(draw[4] * LANES))
        one = device * depth + one % depth
    if draw[0] < SWAPS:
        return min(one, other) * size + max(one, other)
    if draw[0] >= FROM_PEAK:
        one, other = other, one
    return size * size + one * len(split.copies) + max(int(split.slots[other // depth, other % depth]), 0)


@kernel
def _fullest(split: SplitState, block: int, lane: int) -> int:
    """The first device that carries the peak."""
    device = 0
    while split.load[block, device, lane] < split.peak[block, lane]:
        device += 1
    return device
