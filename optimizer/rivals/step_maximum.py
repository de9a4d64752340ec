"""Replication by each recorded step's maximum: the vectorised variant of EPLB in SGLang (`deepseek_vec`)."""

import numpy as np

from formulations.arrays import Floats, Ints
from optimizer.placement import EMPTY, Placement
from optimizer.problem import Problem
from optimizer.seeds.greedy import heaviest_first, replica_weight
from optimizer.seeds.packing import Packing


def step_maximum(problem: Problem) -> Placement:
    """Replicas for the hottest expert of each step, then a zigzag over the devices.

    As SGLang's `eplb_algorithms/deepseek_vec` does for decode, a step being a batch to plan on:

    1. one more replica at a time to the expert with which the steps' largest loads per replica sum up to the least;
    2. the replicas are sorted by load and dealt out to all devices in turn, every other round backwards.

    The zigzag may give a device an expert twice. Here the second goes to the lightest device that it fits, once all
    others are dealt out. Shared replicas, of which SGLang knows nothing, count as dealt out in the first rounds.
    """
    counts = step_counts(problem)
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


def step_maximum_packed(problem: Problem) -> Placement:
    """The same replicas, packed as EPLB packs them: the heaviest first, each to the lightest device that it fits.

    Nobody's server does this; but with few slots per device the zigzag is what costs `step_maximum` most.
    """
    counts = step_counts(problem)
    packing = Packing(problem, replica_weight(problem, counts))
    for expert in heaviest_first(problem, counts):
        packing.place_lightest(expert)
    return packing.placement()


def _filled(packing: Packing) -> Ints:
    """Slots in use, `[device]`."""
    filled: Ints = (packing.slots != EMPTY).sum(axis=1)
    return filled


def step_counts(problem: Problem) -> Ints:
    """Replicas of each expert by rule 1, `[expert]`; no expert gets more than there are devices."""
    free = ~problem.spread
    counts = np.where(free, 1, problem.shared_replicas or 1)
    load = problem.load.astype(float) * free
    share = load.copy()
    for _ in range(problem.most_free_replicas - int(free.sum())):
        open_to_more = free & (counts < problem.mesh.devices)
        if not open_to_more.any():
            break
        chosen = int(np.argmax(np.where(open_to_more, _gain(load, share, counts), -1.0)))
        counts[chosen] += 1
        share[:, chosen] = load[:, chosen] / counts[chosen]
    return counts


def _gain(load: Floats, share: Floats, counts: Ints) -> Floats:
    """By how much the steps' maxima fall in sum with one more replica of each expert, `[expert]`.

    A step's maximum falls only with the expert that is its maximum, and not below the second. load and share (load per
    replica) `[step, expert]`.
    """
    step = np.arange(len(load))
    hottest = share.argmax(axis=1)
    rest = share.copy()
    rest[step, hottest] = -1.0
    split = load[step, hottest] / (counts[hottest] + 1)
    fall = share[step, hottest] - np.maximum(rest.max(axis=1), split)
    gain: Floats = np.bincount(hottest, weights=fall, minlength=len(counts)).astype(np.float64)
    return gain
