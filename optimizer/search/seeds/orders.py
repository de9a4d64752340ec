"""Placements that look at no load: what a server does before it has seen a token."""

from itertools import islice

import numpy as np

from formulations.kit.arrays import Ints
from optimizer.domain.placement import Placement
from optimizer.domain.problem import Problem
from optimizer.search.seeds.packing import Packing


def sequential(problem: Problem) -> Placement:
    """Expert ids in order over the slots, then one more replica of each in the same order, until all are full."""
    return _in_order(problem, np.flatnonzero(~problem.spread))


def random_permutation(problem: Problem, rng: np.random.Generator) -> Placement:
    """The sequential placement of shuffled expert ids."""
    return _in_order(problem, rng.permutation(np.flatnonzero(~problem.spread)))


def _in_order(problem: Problem, experts: Ints) -> Placement:
    packing = Packing(problem, np.zeros(problem.model.experts))
    rounds = (expert for _ in range(problem.mesh.devices) for expert in experts)
    for expert in islice(rounds, problem.most_free_replicas):
        packing.place_first(int(expert))
    return packing.placement()
