"""Descents from several starts, in turn, for as long as there is time."""

from collections.abc import Callable, Iterator
from itertools import count

import numpy as np

from formulations.arrays import Ints
from optimizer.placement import Placement
from optimizer.problem import Problem
from optimizer.search.descent import Descent
from optimizer.search.state import SearchState
from optimizer.search.stop import Budget

CHUNK = 4_000  # evaluations between looks at the clock: some hundredths of a second


def slot_value(problem: Problem) -> Ints:
    """What descents minimise the peak of: a slot's compute time in ticks of 0.1 us, plus one tick per token.

    The staircase of tiles decides; the tokens show the way where it is flat, and are what imbalance counts.
    """
    most = int(problem.load.max(initial=0))
    return problem.cost.slot_ticks(most) + np.arange(most + 1)


def multistart(
    problem: Problem,
    starts: list[Placement],
    budget: Budget,
    rng: np.random.Generator,
    progress: Callable[[float], None],
) -> Iterator[Placement]:
    """Yield where each descent ended, at a local optimum or at the end of the budget; starts are taken in turn."""
    value = slot_value(problem)
    for number in count():
        if budget.grant(1) == 0:
            return
        state = SearchState.of(starts[number % len(starts)], problem.load, value)
        _descend(Descent(state, problem.spread, problem.mesh.cols, rng), budget, progress)
        yield state.placement()


def _descend(descent: Descent, budget: Budget, progress: Callable[[float], None]) -> None:
    while granted := budget.grant(CHUNK):
        step = descent.run(granted)
        budget.spend(step.evaluated)
        progress(budget.share())
        if step.at_optimum:
            return
