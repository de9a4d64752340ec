"""The placement heuristics that are compared with the optimum; a new one is one more entry of METHODS or ROUTED."""

from collections.abc import Callable

import numpy as np

from optimizer.domain.placement import Placement
from optimizer.domain.problem import Problem, make_problem
from optimizer.planning.options import COOL, Effort
from optimizer.search.annealing import AnnealingSchedule, anneal
from optimizer.search.descent import Descent
from optimizer.search.moves import MoveRules
from optimizer.search.multistart import DescentGoal, descend
from optimizer.search.seeds.flexibility import flexibility
from optimizer.search.seeds.greedy import greedy
from optimizer.search.seeds.orders import random_permutation, sequential
from optimizer.search.seeds.pairing import pairing
from optimizer.search.seeds.risk import risk
from optimizer.search.state import SearchState
from optimizer.search.stop import SearchBudget
from optimizer.search.tabu import tabu
from optimizer.streams import Purpose, random_stream

DESCENTS = 16  # of multistart; a compromise with the time of the benchmark, not tuned
MOVES = 100_000  # that annealing and tabu search evaluate; a compromise with the time of the benchmark, not tuned

Method = Callable[[Problem, Effort], Placement]


def shared_per_row(problem: Problem) -> Problem:
    """The problem with one replica of each shared expert in every row, as far as they fit.

    All methods know that shared experts are hot, also those that look at no load.
    """
    return make_problem(problem.model, problem.mesh, problem.cost, problem.load)


def descended(problem: Problem, effort: Effort, descents: int) -> Placement:
    """The best of a number of descents, and of the greedy placement, by the sum of peaks under even split.

    The descents start from the greedy placement and from pairing in turn, and end early at the deadline.
    """
    goal, starts = peaks_goal(problem), [greedy(problem), pairing(shared_per_row(problem))]
    budget = SearchBudget(effort.deadline, effort.deadline.seconds, effort.iterations)
    rng = random_stream(Purpose.LADDER_DESCENT, effort.seed)
    found = [starts[0]]
    for number in range(descents):
        state = goal.state(starts[number % len(starts)], problem.load)
        descend(Descent(state, MoveRules.of(problem), rng), budget)
        found.append(state.placement())
    return least(problem, goal, found)


def tabued(problem: Problem, effort: Effort) -> Placement:
    """The best placement of tabu search, and of the greedy placement, by the sum of peaks under even split."""
    goal, starts = peaks_goal(problem), [greedy(problem), pairing(shared_per_row(problem))]
    rng = random_stream(Purpose.LADDER_TABU, effort.seed)
    found = tabu(problem, goal, starts, moves(effort), rng, lambda share: None)
    return least(problem, goal, [starts[0], *found])


def peaks_goal(problem: Problem) -> DescentGoal:
    """The goal of a search that lowers the pairs of the fullest device, and nothing else."""
    experts = problem.model.experts
    nothing_saved = np.zeros((experts, experts), dtype=np.int64)
    return DescentGoal(np.arange(int(problem.load.max()) + 1), nothing_saved, tail_weight=0)


def least(problem: Problem, goal: DescentGoal, placements: list[Placement]) -> Placement:
    """The placement with the least sum over batches of peak device loads under even split."""

    def peaks(placement: Placement) -> int:
        return SearchState.of(placement, problem.load, goal.value, goal.together).objective

    return min(placements, key=peaks)


def annealed(problem: Problem, effort: Effort, start: Placement, schedule: AnnealingSchedule) -> Placement:
    """The placement that simulated annealing of the peaks under optimal split ends with."""
    best, rng = start, random_stream(Purpose.LADDER_ANNEALING, effort.seed)
    for better in anneal(best, problem.load, MoveRules.of(problem), moves(effort), rng, schedule):
        best = better
    return best


def moves(effort: Effort) -> SearchBudget:
    """A budget of the moves that the effort allows, or of MOVES where it sets no limit, until the deadline."""
    iterations = MOVES if effort.iterations is None else effort.iterations
    return SearchBudget(effort.deadline, effort.deadline.seconds, iterations)


METHODS: dict[str, Method] = {
    "sequential": lambda problem, effort: sequential(shared_per_row(problem)),
    "random": lambda problem, effort: random_permutation(
        shared_per_row(problem), random_stream(Purpose.LADDER_RANDOM_PLACEMENT, effort.seed)
    ),
    "pairing": lambda problem, effort: pairing(shared_per_row(problem)),
    "greedy": lambda problem, effort: greedy(problem),
    "risk": lambda problem, effort: risk(problem),
    "descent": lambda problem, effort: descended(problem, effort, 1),
    "multistart": lambda problem, effort: descended(problem, effort, DESCENTS),
    "tabu": tabued,
}
"""The methods of all families, by name."""

ROUTED: dict[str, Method] = {
    "flexibility": lambda problem, effort: flexibility(problem),
    "annealing": lambda problem, effort: annealed(problem, effort, greedy(problem), AnnealingSchedule()),
    "search": lambda problem, effort: annealed(problem, effort, flexibility(problem), COOL),
}
"""Further methods of the family whose batches are routed optimally, by name."""
