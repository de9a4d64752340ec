"""Several annealers that cool down at once, and the best placements that they pass."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from optimizer.domain.placement import Placement
from optimizer.search.side_by_side import side_by_side
from optimizer.search.stop import SearchBudget

CHUNK = 500  # moves between looks at the clock: some hundredths of a second


@dataclass
class Tally:
    """Moves evaluated, moves made, and runs in which no drawn move was legal."""

    evaluated: int = 0
    made: int = 0
    fruitless: int = 0

    @property
    def spent(self) -> int:
        """What counts towards a limit of iterations; a run without a legal move counts as one, so that there is an
        end."""
        return self.evaluated + self.fruitless


class Cooled(Protocol):
    """A placement that is moved about at a temperature which falls with the share of the budget that is spent."""

    tally: Tally

    def temperature(self, share: float) -> float:
        """The temperature once this share of the budget is spent, 0 to 1."""

    def run(self, draws: int, temperature: float) -> None:
        """Draw this number of moves, and make those that are accepted at this temperature."""

    def objective(self) -> float:
        """What the annealer minimises, of its current placement."""

    def placement(self) -> Placement:
        """The placement that the search is at now, which need not be the best that it has met."""


@dataclass
class _CoolingChain:
    """An annealer that cools down, and the best placement that it has passed; start: its objective at first."""

    annealer: Cooled
    best: Placement
    start: float
    objective: float = np.inf
    improved: bool = False

    def advance(self, most: int, share: float) -> int:
        """Draw this number of moves at the temperature of this share of the budget."""
        before = self.annealer.tally.spent
        self.annealer.run(most, self.annealer.temperature(share))
        objective = self.annealer.objective()
        if objective < self.objective:
            self.best, self.objective, self.improved = self.annealer.placement(), objective, True
        return self.annealer.tally.spent - before

    def reached(self) -> float:
        """The least objective so far."""
        return min(self.start, self.objective)

    def passed(self, over: bool) -> list[Placement]:
        """The best placement, if it is new."""
        new, self.improved = self.improved, False
        return [self.best] if new else []


def cooled(
    annealers: Sequence[Cooled],
    budget: SearchBudget,
    threads: int,
    progress: Callable[[float], None] = lambda share: None,
) -> Iterator[Placement]:
    """Run all annealers, and yield the best of each whenever `side_by_side` looks and that best is new.

    The last placement that an annealer yields is its best.
    """
    chains = [_CoolingChain(each, each.placement(), each.objective()) for each in annealers]
    return side_by_side(chains, budget, threads, CHUNK, progress)
