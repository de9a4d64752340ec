"""Replicas for the hottest experts of the batches that are planned on, packed by mean load."""

import numpy as np

from formulations.kit.arrays import Floats, Ints
from optimizer.domain.placement import Placement
from optimizer.domain.problem import Problem
from optimizer.search.seeds.greedy import heaviest_first, replica_weight
from optimizer.search.seeds.packing import Packing


def steps(problem: Problem) -> Placement:
    """A placement whose counts lower the sum over batches of the largest load per replica, packed by weight.

    Each replica more goes to the expert with which that sum is least. Then the heaviest replica is placed first, each
    on the lightest device that it fits.

    The counts are those of SGLang's `eplb_algorithms/deepseek_vec`, whose zigzag costs most of what they win where
    devices have few slots; packing is EPLB's.
    """
    counts = counts_by_steps(problem)
    packing = Packing(problem, replica_weight(problem, counts))
    for expert in heaviest_first(problem, counts):
        packing.place_lightest(expert)
    return packing.placement()


def counts_by_steps(problem: Problem) -> Ints:
    """Replicas of each expert, `[expert]`; none gets more than there are devices."""
    free = ~problem.spread
    counts = np.where(free, 1, problem.shared_replicas or 1)
    load = problem.load.astype(float) * free
    share = load.copy()
    hottest, second = _hottest_two(share)
    for _ in range(problem.most_free_replicas - int(free.sum())):
        open_to_more = free & (counts < problem.mesh.devices)
        if not open_to_more.any():
            break
        gain = _gain(load, share, counts, hottest, second)
        chosen = int(np.argmax(np.where(open_to_more, gain, -1.0)))
        counts[chosen] += 1
        share[:, chosen] = load[:, chosen] / counts[chosen]
        touched = np.flatnonzero((hottest == chosen) | (second == chosen))  # what falls elsewhere leads nowhere
        hottest[touched], second[touched] = _hottest_two(share[touched])
    return counts


def _hottest_two(share: Floats) -> tuple[Ints, Ints]:
    """The expert with the largest load per replica in each step, and the one with the next, both `[step]`; share
    `[step, expert]`. Of equal ones the lower number comes first."""
    step = np.arange(len(share))
    hottest, rest = share.argmax(axis=1), share.copy()
    rest[step, hottest] = -1.0
    return hottest, rest.argmax(axis=1)


def _gain(load: Floats, share: Floats, counts: Ints, hottest: Ints, second: Ints) -> Floats:
    """By how much the sum of the steps' maxima falls with one more replica of each expert, `[expert]`.

    A step's maximum falls only with the expert that is its maximum, and not below the second. load and share (load per
    replica) `[step, expert]`; hottest and second as of `_hottest_two`.
    """
    step = np.arange(len(load))
    split = load[step, hottest] / (counts[hottest] + 1)
    fall = share[step, hottest] - np.maximum(share[step, second], split)
    gain: Floats = np.bincount(hottest, weights=fall, minlength=len(counts)).astype(np.float64)
    return gain
