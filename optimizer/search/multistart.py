"""Descents from several starts, in turn, for as long as there is time."""

from collections.abc import Callable, Iterator
from itertools import count
from typing import NamedTuple

import numpy as np

from formulations.kit.arrays import Ints
from optimizer.domain.placement import Placement
from optimizer.domain.problem import Problem
from optimizer.search.descent import Descent
from optimizer.search.state import SearchState
from optimizer.search.stop import SearchBudget
from optimizer.statistics.coactivation import pair_counts
from optimizer.traces.batches import Batches

TOKEN_NS = 1000  # per token on the fullest device; with 400 the home case gains more latency but loses balance
CHUNK = 4_000  # iterations between looks at the clock: some hundredths of a second


class DescentGoal(NamedTuple):
    """`value` and `together` of `SearchState`, and whether batches above the usual peak weigh more."""

    value: Ints
    together: Ints
    tail: bool


def latency_goal(problem: Problem, train: Batches) -> DescentGoal:
    """What descents minimise, in nanoseconds over all train batches: peak compute, less messages saved.

    A slot costs its compute time and a little per token: the staircase of tiles decides, and tokens, which imbalance
    counts, show the way where it is flat. Two experts of one token on one device send one result back instead of two.
    """
    together = pair_counts(train.experts, problem.model.experts) * problem.cost.message_ns(problem.mesh)
    return DescentGoal(slot_value(problem), together, tail=True)


def slot_value(problem: Problem) -> Ints:
    """What a slot costs by its tokens, `[tokens + 1]` nanoseconds: its compute time and a little per token."""
    most = int(problem.load.max(initial=0))
    value: Ints = problem.cost.slot_ns(most, problem.batch_blocks) + TOKEN_NS * np.arange(most + 1)
    return value


def multistart(
    problem: Problem,
    goal: DescentGoal,
    starts: list[Placement],
    budget: SearchBudget,
    rng: np.random.Generator,
    progress: Callable[[float], None],
) -> Iterator[Placement]:
    """Yield where each descent ended, at a local optimum or at the end of the budget; starts are taken in turn."""
    usual = _usual_peak(problem, goal, starts) if goal.tail else None
    for number in count():
        if budget.grant(1) == 0:
            return
        start = starts[number % len(starts)]
        state = SearchState.of(start, problem.load, goal.value, goal.together, usual)
        descent = Descent(state, problem.spread, problem.mesh.cols, rng, problem.most_replicas)
        _descend(descent, budget, progress)
        yield state.placement()


def _usual_peak(problem: Problem, goal: DescentGoal, starts: list[Placement]) -> int:
    """The median over batches of the peak cost of the start where that is least."""
    states = (SearchState.of(start, problem.load, goal.value, goal.together) for start in starts)
    return min(int(np.median(state.leading[0])) for state in states)


def _descend(descent: Descent, budget: SearchBudget, progress: Callable[[float], None]) -> None:
    while granted := budget.grant(CHUNK):
        step = descent.run(granted)
        budget.spend(step.evaluated)
        progress(budget.share())
        if step.at_optimum:
            return
