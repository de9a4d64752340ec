"""Placements that look at no load, as a server makes them before it has seen a token."""

from itertools import islice

import numpy as np

from formulations.kit.arrays import Ints
from optimizer.domain.placement import Placement
from optimizer.domain.problem import Problem
from optimizer.search.seeds.packing import Packing


def sequential(problem: Problem) -> Placement:
    """Experts in the order of their ids over the slots, again and again, until all slots are full."""
    return _in_order(problem, np.flatnonzero(~problem.spread))


def random_permutation(problem: Problem, rng: np.random.Generator) -> Placement:
    """The sequential placement of shuffled expert ids."""
    return _in_order(problem, rng.permutation(np.flatnonzero(~problem.spread)))


def _in_order(problem: Problem, experts: Ints) -> Placement:
    """The experts in this order over the devices, again and again, until the slots or the replicas are used up."""
    packing = Packing(problem, np.zeros(problem.model.experts))
    rounds = (expert for _ in range(problem.mesh.devices) for expert in experts)
    for expert in islice(rounds, problem.most_free_replicas):
        packing.place_first(int(expert))
    return packing.placement()
