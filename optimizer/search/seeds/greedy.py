"""Greedy replication and longest-first packing, the scheme of EPLB (deepseek-ai/EPLB, `eplb.py`)."""

import numpy as np

from formulations.expected_load.replication import hand_out
from formulations.kit.arrays import Floats, Ints
from optimizer.domain.placement import Placement
from optimizer.domain.problem import Problem
from optimizer.search.seeds.packing import Packing


def greedy_counts(problem: Problem) -> Ints:
    """Replicas of each expert, `[expert]`: one more to the largest load per replica until the slots are full.

    EPLB's `replicate_experts`, except that no expert gets more replicas than there are devices.
    """
    counts = np.ones(problem.model.experts, dtype=np.int64)
    counts[problem.spread] = problem.shared_replicas or 1
    free = ~problem.spread
    most = np.where(free, problem.mesh.devices, 0)
    hand_out(problem.total_load.astype(np.float64), counts, most, problem.most_free_replicas - int(free.sum()))
    return counts


def replica_weight(problem: Problem, counts: Ints) -> Floats:
    """Expected load of one replica of each expert, pairs over all train batches, `[expert]`."""
    return problem.total_load / counts


def heaviest_first(problem: Problem, counts: Ints) -> list[int]:
    """The experts of all replicas to place, spread experts left out, by falling load per replica."""
    weight = replica_weight(problem, counts)
    experts = np.flatnonzero(~problem.spread)
    ordered = experts[np.argsort(-weight[experts], kind="stable")]
    return [int(expert) for expert in np.repeat(ordered, counts[ordered])]


def greedy(problem: Problem) -> Placement:
    """The placement by EPLB's counts with the heaviest replica first, each on the lightest device with room.

    Unlike EPLB's `balanced_packing`, a device that holds the expert already is passed over.
    """
    counts = greedy_counts(problem)
    packing = Packing(problem, replica_weight(problem, counts))
    for expert in heaviest_first(problem, counts):
        packing.place_lightest(expert)
    return packing.placement()
