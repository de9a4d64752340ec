"""Large-neighbourhood search for optimal split (Shaw, CP 1998): free the slots of some devices, and fill them anew.

The repair is the descent of the row formulation (`rows.row_descent`) with the freed devices as the row: it looks at
exact peaks of some sampled batches, half of them of the worst, while the load of other experts on other devices stays
as it is. The repaired placement is kept if the objective over the exact least peaks of all batches is no worse. Which
devices are freed is drawn by weights that follow success (adaptive: Ropke and Pisinger, Transportation Science 40,
2006); a run starts with equal weights.

The search pays after annealing, not instead of it: from the greedy placement it is stuck early, as too many devices
have to change at once.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from formulations.kit.arrays import Floats, Ints
from formulations.kit.clock import Clock
from formulations.rows.row_descent import SHAKES, descend_row
from optimizer.domain.placement import Placement
from optimizer.search.checks import require
from optimizer.search.freeing import WAYS, Freed, Order, View, one_row
from optimizer.search.moves import MoveRules
from optimizer.search.side_by_side import SINGLE, Team, side_by_side
from optimizer.search.split_state import PARTS, exact_peaks, split_of
from optimizer.search.stop import SearchBudget

MOST_AT_ONCE = np.iinfo(np.int64).max  # a repair is one step, however many moves it looks at


@dataclass(frozen=True)
class NeighbourhoodSettings:
    """How the search samples batches, what it minimises, and how fast it learns; no measurement of its values is
    recorded.

    sample: batches whose exact peaks a repair looks at, half of them of the worst, an odd number rounded down (more
    of them take longer and mislead less often); tail, tail_weight: the objective is mean + tail_weight *
    conditional value at risk, the mean of the worst share `tail` of batches, as in annealing; reaction: the share
    of its weight that a way of freeing devices wins or loses with each trial; least_weight: what no weight falls
    below, so that every way is tried again. Raises ValueError for a number out of range.
    """

    sample: int = 128
    tail: float = 0.1
    tail_weight: float = 1.0
    reaction: float = 0.1
    least_weight: float = 0.05

    def __post_init__(self) -> None:
        require(self.sample >= 2, "sample", self.sample, "at least 2 batches")
        require(0 < self.tail <= 1, "tail", self.tail, "above 0 and at most 1")
        require(0 <= self.tail_weight < np.inf, "tail_weight", self.tail_weight, "0 or more")
        require(0 <= self.reaction <= 1, "reaction", self.reaction, "between 0 and 1")
        require(0 < self.least_weight <= 1, "least_weight", self.least_weight, "above 0 and at most 1")


class Neighbourhoods:
    """A placement, what it is worth over all batches, and how well each way of freeing devices has done.

    units `[batch, expert]`: load in tokens or tiles.
    """

    def __init__(
        self,
        start: Placement,
        units: Ints,
        rules: MoveRules,
        rng: np.random.Generator,
        settings: NeighbourhoodSettings = NeighbourhoodSettings(),
    ) -> None:
        self.placement, self.weights = start, np.ones(len(WAYS))
        self._units, self._rules, self._rng, self._settings = units, rules, rng, settings
        self._row = np.arange(len(start.slots)) // rules.cols
        self._peaks = fine_peaks(start, units)
        self.objective = objective(self._peaks, settings)

    def step(self, clock: Clock) -> int:
        """Free, repair, and keep what is no worse; returns how many moves the repair looks at, at the least.

        deadline: a reading of time.monotonic at which a repair is to end.
        """
        reaction, least_weight = self._settings.reaction, self._settings.least_weight
        way = int(self._rng.choice(len(WAYS), p=self.weights / self.weights.sum()))
        sample = self._sample()
        flow = flow_of(self.placement, self._units[sample])
        devices = self._devices(*WAYS[way], flow[0].sum(axis=1))
        freed = Freed.of(self.placement, devices, self._rules.spread, self._units[sample], flow)
        found = descend_row(freed.row.compact(), freed.slots, self._rng, clock)
        filled = freed.filled(self.placement, found)
        legal = freed.is_legal(found) and int((filled.slots >= 0).sum()) <= self._rules.most
        legal = legal and self._rules.near_enough(filled)
        gained = legal and self._settle(filled)
        self.weights[way] = max((1 - reaction) * self.weights[way] + reaction * gained, least_weight)
        return (1 + SHAKES) * freed.slots.size * (freed.slots.size + len(freed.names))

    def _settle(self, placement: Placement) -> bool:
        """Go on from this placement if it is no worse; returns whether it is better."""
        peaks, before = fine_peaks(placement, self._units), self.objective
        found = objective(peaks, self._settings)
        if found <= before:
            self.placement, self._peaks, self.objective = placement, peaks, found
        return self.objective < before

    def _sample(self) -> Ints:
        """Numbers of batches, half of them of the tail, as the mean and the tail are the two terms of the objective."""
        tail = np.argsort(-self._peaks, kind="stable")[: _tail_size(len(self._peaks), self._settings)]
        half = self._settings.sample // 2
        return np.concatenate([self._rng.choice(tail, half), self._rng.choice(len(self._peaks), half)])

    def _devices(self, order: Order, most: int, load: Floats) -> Ints:
        """The devices to free, ascending; load `[device]` in one batch."""
        slots = self.placement.slots
        pinned = np.isin(slots, np.flatnonzero(self._rules.spread)).any(axis=1)
        view = View(slots, self._row, np.asarray(pinned), load)
        chosen = order(view, self._rng)[:most]
        return np.sort(chosen if len(chosen) else one_row(view, self._rng)[:most])


def objective(peaks: Floats, settings: NeighbourhoodSettings = NeighbourhoodSettings()) -> float:
    """Mean of the peaks `[batch]` plus tail_weight times the mean of the worst."""
    worst = np.sort(peaks)[-_tail_size(len(peaks), settings) :]
    return float(peaks.mean() + settings.tail_weight * worst.mean())


def flow_of(placement: Placement, units: Ints) -> Floats:
    """Units that each slot serves, split as evenly as possible, `[batch, device, slot]`; units `[batch, expert]`."""
    split = split_of(placement, units)
    flow: Floats = split.flow.transpose(2, 0, 1).reshape(-1, *placement.slots.shape)[: len(units)] / split.parts
    return flow


def fine_peaks(placement: Placement, units: Ints) -> Floats:
    """Exact least peaks to a fraction of a unit, `[batch]`: how near the next unit is tells placements apart."""
    return exact_peaks(placement, units.astype(np.int64) * PARTS) / PARTS


def _tail_size(batches: int, settings: NeighbourhoodSettings) -> int:
    """How many of the batches are the worst ones."""
    return max(1, round(settings.tail * batches))


@dataclass
class _NeighbourhoodChain:
    """A search that ends with the budget; shown: the objective of the placement that it handed on last."""

    search: Neighbourhoods
    budget: SearchBudget
    shown: float

    def advance(self, most: int, share: float) -> int:
        """Free and repair once, which may take more than `most` iterations, or what is left of the time."""
        end = self.budget.deadline.started + self.budget.seconds
        return min(most, self.search.step(Clock.until(end, lambda: self.budget.deadline.cancel.asked)))

    def reached(self) -> float:
        """The objective of its placement, which never rises."""
        return self.search.objective

    def passed(self, over: bool) -> list[Placement]:
        """The placement, if it has become better."""
        if self.search.objective >= self.shown:
            return []
        self.shown = self.search.objective
        return [self.search.placement]


def search_neighbourhoods(
    start: Placement,
    units: Ints,
    rules: MoveRules,
    budget: SearchBudget,
    rng: np.random.Generator,
    settings: NeighbourhoodSettings = NeighbourhoodSettings(),
    progress: Callable[[float], None] = lambda share: None,
    team: Team = SINGLE,
) -> Iterator[Placement]:
    """Free and repair from the start on, and yield placements that have become better whenever `side_by_side` looks.

    units `[batch, expert]`: load in tokens or tiles.
    """
    searches = [Neighbourhoods(start, units, rules, own, settings) for own in rng.spawn(team.chains)]
    chains = [_NeighbourhoodChain(search, budget, search.objective) for search in searches]
    return side_by_side(chains, budget, team.threads, MOST_AT_ONCE, progress)
