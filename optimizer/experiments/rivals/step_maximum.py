"""Replication by each recorded step's maximum: the vectorised variant of EPLB in SGLang (`deepseek_vec`)."""

import numpy as np

from formulations.kit.arrays import Ints
from optimizer.domain.placement import EMPTY, Placement
from optimizer.domain.problem import Problem
from optimizer.search.seeds.greedy import heaviest_first, replica_weight
from optimizer.search.seeds.packing import Packing
from optimizer.search.seeds.steps import counts_by_steps


def step_maximum(problem: Problem) -> Placement:
    """Replicas for the hottest expert of each step, then a zigzag over the devices.

    As SGLang's `eplb_algorithms/deepseek_vec` does for decode, a step being a batch to plan on:

    1. one more replica at a time to the expert with which the steps' largest loads per replica sum up to the least;
    2. the replicas are sorted by load and dealt out to all devices in turn, every other round backwards.

    The zigzag may give a device an expert twice. Here the second goes to the lightest device that it fits, once all
    others are dealt out. Shared replicas, of which SGLang knows nothing, count as dealt out in the first rounds.
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
    """Slots in use, `[device]`."""
    filled: Ints = (packing.slots != EMPTY).sum(axis=1)
    return filled
