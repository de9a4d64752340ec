"""Greedy replication and longest-first packing, the scheme of EPLB (deepseek-ai/EPLB, `eplb.py`)."""

import numpy as np

from formulations.kit.arrays import Floats, Ints
from optimizer.domain.placement import Placement
from optimizer.domain.problem import Problem
from optimizer.search.seeds.packing import Packing


def greedy_counts(problem: Problem) -> Ints:
    """Replicas of each expert, `[expert]`: one more to the largest load per replica until the slots are full.

    EPLB's `replicate_experts`, except that no expert gets more replicas than there are devices.
    """
    load = problem.total_load.astype(float)
    counts = np.ones(len(load), dtype=np.int64)
    counts[problem.spread] = problem.shared_replicas or 1
    free = ~problem.spread
    for _ in range(problem.most_free_replicas - int(free.sum())):
        open_to_more = free & (counts < problem.mesh.devices)
        if not open_to_more.any():
            break
        counts[np.argmax(np.where(open_to_more, load / counts, -1.0))] += 1
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
