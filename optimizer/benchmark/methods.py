"""The placement heuristics that are compared; a new one is one line here."""

from collections.abc import Callable
from itertools import islice

import numpy as np

from optimizer.candidates import Effort
from optimizer.placement import Placement
from optimizer.problem import Problem, make_problem
from optimizer.search.annealing import anneal
from optimizer.search.multistart import Goal, multistart
from optimizer.search.state import SearchState
from optimizer.search.stop import Budget
from optimizer.seeds.flexibility import flexibility
from optimizer.seeds.greedy import greedy
from optimizer.seeds.orders import random_permutation, sequential
from optimizer.seeds.pairing import pairing
from optimizer.seeds.risk import risk

DESCENTS = 16  # of multistart
ANNEALED = 100_000  # moves of annealing

Method = Callable[[Problem, Effort], Placement]


def shared_per_row(problem: Problem) -> Problem:
    """With one replica of each shared expert in every row, as far as they fit: all know that these are hot."""
    return make_problem(problem.model, problem.mesh, problem.cost, problem.load, None)


def descended(problem: Problem, effort: Effort, descents: int) -> Placement:
    """The best of so many descents from the greedy placement and pairing in turn, by the sum of peaks under even split.

    Ended by the deadline, too. The greedy placement is one to choose from.
    """
    experts = problem.model.experts
    nothing_saved = np.zeros((experts, experts), dtype=np.int64)
    goal = Goal(np.arange(int(problem.load.max()) + 1), nothing_saved, tail=False)
    starts = [greedy(problem), pairing(shared_per_row(problem))]
    budget = Budget(effort.deadline, effort.deadline.seconds, effort.evaluations)
    rng = np.random.default_rng(effort.seed)
    found = islice(multistart(problem, goal, starts, budget, rng, lambda share: None), descents)

    def peaks(placement: Placement) -> int:
        return SearchState.of(placement, problem.load, goal.value, goal.together).objective

    return min([starts[0], *found], key=peaks)


def annealed(problem: Problem, effort: Effort) -> Placement:
    """Simulated annealing from the greedy placement, of the peaks under optimal split."""
    budget = Budget(
        effort.deadline, effort.deadline.seconds, ANNEALED if effort.evaluations is None else effort.evaluations
    )
    best, rng = greedy(problem), np.random.default_rng(effort.seed)
    for better in anneal(
        best, problem.load, problem.spread, problem.mesh.cols, budget, rng, most=problem.most_replicas
    ):
        best = better
    return best


METHODS: dict[str, Method] = {
    "sequential": lambda problem, effort: sequential(shared_per_row(problem)),
    "random": lambda problem, effort: random_permutation(shared_per_row(problem), np.random.default_rng(effort.seed)),
    "pairing": lambda problem, effort: pairing(shared_per_row(problem)),
    "greedy": lambda problem, effort: greedy(problem),
    "risk": lambda problem, effort: risk(problem),
    "descent": lambda problem, effort: descended(problem, effort, 1),
    "multistart": lambda problem, effort: descended(problem, effort, DESCENTS),
}
"""Of all families."""

ROUTED: dict[str, Method] = {
    "flexibility": lambda problem, effort: flexibility(problem),
    "annealing": annealed,
}
"""Of batches that are routed at best."""
