"""Replication by each recorded step's maximum: the vectorised variant of EPLB in SGLang (`deepseek_vec`)."""

import numpy as np

from formulations.kit.arrays import Ints
from optimizer.domain.placement import EMPTY, Placement
from optimizer.domain.problem import Problem
from optimizer.search.seeds.greedy import heaviest_first, replica_weight
from optimizer.search.seeds.packing import Packing
from optimizer.search.seeds.steps import counts_by_steps


def step_maximum(problem: Problem) -> Placement:
    """Replicate for the hottest expert of each step, then deal the replicas out in a zigzag over the devices.

    This follows `eplb_algorithms/deepseek_vec` of SGLang, as used for decode; a step is here a batch to plan on.

    1. One replica at a time is added, to the expert that makes the sum over steps of the largest load per replica the
       least.
    2. The replicas are sorted by load and dealt out to all devices in turn, every other round backwards.

    The zigzag may give a device an expert twice. Here the second replica goes to the lightest device that it fits on,
    once all others are dealt out. Shared replicas, which SGLang does not know, count as dealt out in the first rounds.
    """
    counts = counts_by_steps(problem)
    packing = Packing(problem, replica_weight(problem, counts))
    left, clashes = heaviest_first(problem, counts), []
    order = np.argsort(-_filled(packing), kind="stable")
    for turn in range(problem.mesh.slots_per_device):
        devices = order[_filled(packing)[order] <= turn]
        for expert, device in zip(left, devices[::-1] if turn % 2 else devices, strict=False):
            if packing.holds[expert, device]:
                clashes.append(expert)
            else:
                packing.place(expert, int(device))
        left = left[len(devices) :]
    for expert in clashes + left:
        packing.place_lightest(expert)
    return packing.placement()


def _filled(packing: Packing) -> Ints:
    """The number of slots in use, `[device]`."""
    filled: Ints = (packing.slots != EMPTY).sum(axis=1)
    return filled
