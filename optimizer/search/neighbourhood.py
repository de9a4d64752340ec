"""Large-neighbourhood search for optimal split (Shaw, CP 1998): free the slots of some devices, and fill them anew.

The repair is the descent of the row formulation (`rows.row_descent`) with the freed devices as the row: exact
peaks of some sampled batches, half of them of the worst, while what other experts bring to other devices stays. What it
finds is kept if the exact least peaks of all batches are no worse for it. Which devices are freed is drawn by weights
that follow success (adaptive: Ropke and Pisinger, Transportation Science 40, 2006), built fresh for each run.

It pays after annealing, not instead of it: from greedy it is stuck early, as too many devices have to change at once.
"""

from collections.abc import Callable, Iterator

import numpy as np

from formulations.kit.arrays import Bools, Floats, Ints
from formulations.kit.clock import Clock
from formulations.rows.row_descent import SHAKES, descend_row
from optimizer.domain.placement import Placement
from optimizer.search.freeing import WAYS, Freed, Order, View, one_row
from optimizer.search.looks import Looks
from optimizer.search.moves import NO_LIMIT
from optimizer.search.split_state import PARTS, exact_peaks, split_of
from optimizer.search.stop import SearchBudget

SAMPLE = 128  # batches in a repair
TAIL, TAIL_WEIGHT = 0.1, 1.0  # the objective is mean + weight * conditional value at risk, as of annealing
REACTION, LEAST_WEIGHT = 0.1, 0.05  # of weights to success


class Neighbourhoods:
    """A placement, what it is worth over all batches, and how well each way of freeing devices has done.

    units `[batch, expert]`: load in tokens or tiles; spread `[expert]`: experts whose replicas keep their number and
    their rows; cols: devices of a mesh row; most: replicas of all experts together.
    """

    def __init__(
        self,
        start: Placement,
        units: Ints,
        spread: Bools,
        cols: int,
        rng: np.random.Generator,
        most: int = NO_LIMIT,
    ) -> None:
        self.placement, self.weights = start, np.ones(len(WAYS))
        self._units, self._spread, self._rng, self._most = units, spread, rng, most
        self._row = np.arange(len(start.slots)) // cols
        self._peaks = _peaks(start, units)
        self.objective = objective(self._peaks)

    def step(self, deadline: float) -> int:
        """Free, repair, and keep what is no worse; returns how many moves the repair looks at, at the least.

        deadline: a reading of time.monotonic at which a repair is to end.
        """
        way = int(self._rng.choice(len(WAYS), p=self.weights / self.weights.sum()))
        sample = self._sample()
        flow = _flow(self.placement, self._units[sample])
        devices = self._devices(*WAYS[way], flow[0].sum(axis=1))
        freed = Freed.of(self.placement, devices, self._spread, self._units[sample], flow)
        found = descend_row(freed.row.compact(), freed.slots, self._rng, Clock.until(deadline))
        filled = freed.filled(self.placement, found)
        legal = freed.is_legal(found) and int((filled.slots >= 0).sum()) <= self._most
        gained = legal and self._settle(filled)
        self.weights[way] = max((1 - REACTION) * self.weights[way] + REACTION * gained, LEAST_WEIGHT)
        return (1 + SHAKES) * freed.slots.size * (freed.slots.size + len(freed.names))

    def _settle(self, placement: Placement) -> bool:
        """Go on from this placement if it is no worse; whether it is better."""
        peaks, before = _peaks(placement, self._units), self.objective
        if objective(peaks) <= before:
            self.placement, self._peaks, self.objective = placement, peaks, objective(peaks)
        return self.objective < before

    def _sample(self) -> Ints:
        """Batches, half of them of the tail, as each of the two terms of the objective counts alike."""
        tail = np.argsort(-self._peaks, kind="stable")[: _tail_size(len(self._peaks))]
        half = SAMPLE // 2
        return np.concatenate([self._rng.choice(tail, half), self._rng.choice(len(self._peaks), half)])

    def _devices(self, order: Order, most: int, load: Floats) -> Ints:
        """The devices to free, ascending; load `[device]` in one batch."""
        slots = self.placement.slots
        pinned = np.isin(slots, np.flatnonzero(self._spread)).any(axis=1)
        view = View(slots, self._row, np.asarray(pinned), load)
        chosen = order(view, self._rng)[:most]
        return np.sort(chosen if len(chosen) else one_row(view, self._rng)[:most])


def objective(peaks: Floats) -> float:
    """Mean of the peaks `[batch]` plus TAIL_WEIGHT times the mean of the worst."""
    worst = np.sort(peaks)[-_tail_size(len(peaks)) :]
    return float(peaks.mean() + TAIL_WEIGHT * worst.mean())


def _flow(placement: Placement, units: Ints) -> Floats:
    """Units that each slot serves, split as evenly as possible, `[batch, device, slot]`; units `[batch, expert]`."""
    split = split_of(placement, units)
    flow: Floats = split.flow.transpose(2, 0, 1).reshape(-1, *placement.slots.shape)[: len(units)] / split.parts
    return flow


def _peaks(placement: Placement, units: Ints) -> Floats:
    """Exact least peaks to a fraction of a unit, `[batch]`: how near the next unit is tells placements apart."""
    return exact_peaks(placement, units.astype(np.int64) * PARTS) / PARTS


def _tail_size(batches: int) -> int:
    return max(1, round(TAIL * batches))


def search_neighbourhoods(
    start: Placement,
    units: Ints,
    spread: Bools,
    cols: int,
    budget: SearchBudget,
    rng: np.random.Generator,
    most: int = NO_LIMIT,
    progress: Callable[[float], None] = lambda share: None,
) -> Iterator[Placement]:
    """Free and repair from the start on, and yield the placement at `looks.LOOKS` moments, if it has become better."""
    search = Neighbourhoods(start, units, spread, cols, rng, most)
    looks, shown = Looks(budget), search.objective
    while budget.grant(1):
        evaluated = search.step(budget.deadline.started + budget.seconds)
        budget.spend(budget.grant(evaluated))
        progress(looks.share())
        if looks.due() and search.objective < shown:
            shown = search.objective
            yield search.placement
