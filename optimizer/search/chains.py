"""Several annealers that cool down at once, each in a thread, and the best placements that they pass.

A chain is one annealer with the best that it has passed.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from typing import Protocol

import numpy as np

from optimizer.domain.placement import Placement
from optimizer.search.stop import SearchBudget
from optimizer.search.trail import Trail

CHUNK = 500  # moves between looks at the clock: some hundredths of a second
LOOKS = 20  # times that a new best is handed on; a compromise between losing little and judging little, not tuned


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
class _Chain:
    """An annealer that cools down, and the best placement that it has passed."""

    annealer: Cooled
    pace: "_Pace"
    best: Placement
    trail: Trail
    objective: float = np.inf
    improved: bool = False

    def advance(self, until: float) -> None:
        """Run until this share of the budget is spent."""
        while (share := self.pace.share(self.annealer.tally)) < until:
            self.annealer.run(self.pace.draws(self.annealer.tally), self.annealer.temperature(share))
            objective = self.annealer.objective()
            if objective < self.objective:
                self.best, self.objective, self.improved = self.annealer.placement(), objective, True


@dataclass(frozen=True)
class _Pace:
    """What each chain may spend from `started` on, a reading in seconds of the budget's clock."""

    budget: SearchBudget
    started: float
    iterations: int | None

    def share(self, tally: Tally) -> float:
        """The share that is spent, of the iterations where they are limited, else of the time; 1 once there is nothing
        left of either, or the end was asked for."""
        if self.budget.over:
            return 1.0
        if self.iterations is not None:
            return min(1.0, tally.spent / max(self.iterations, 1))
        elapsed = self.budget.deadline.elapsed() - self.started
        return min(1.0, elapsed / (self.budget.seconds - self.started))

    def draws(self, tally: Tally) -> int:
        """How many moves to draw now, until the next look at the clock."""
        return CHUNK if self.iterations is None else min(CHUNK, self.iterations - tally.spent)


def cooled(
    annealers: Sequence[Cooled], budget: SearchBudget, progress: Callable[[float], None] = lambda share: None
) -> Iterator[Placement]:
    """Run all annealers, each with an equal part of the iterations, and yield the best of each chain whenever one of
    `LOOKS` even shares of the budget is spent and that best is new.

    The last placement that a chain yields is its best. Where iterations are limited, time decides nothing.
    """
    each = None if budget.iterations is None else budget.iterations // len(annealers)
    pace = _Pace(budget, budget.deadline.elapsed(), each)
    running = [_Chain(annealer, pace, annealer.placement(), budget.trail()) for annealer in annealers]
    for chain in running:
        chain.trail.passed(0, chain.annealer.objective())
    with ThreadPoolExecutor(len(annealers)) as pool:
        for look in range(1, LOOKS + 1):
            list(pool.map(_Chain.advance, running, repeat(look / LOOKS)))
            progress(look / LOOKS)
            for chain in running:
                chain.trail.passed(chain.annealer.tally.evaluated, chain.objective)
                if chain.improved:
                    chain.improved = False
                    yield chain.best
    budget.spend(sum(annealer.tally.spent for annealer in annealers))
