"""The least sum of costs that fall with the replicas of each expert, where all experts share a number of slots."""

import numpy as np

from formulations.kit.arrays import Floats, Ints

MOST_CELLS = 1 << 28
"""Experts x choices x slots up to which the knapsack is solved exactly, in about half a second; not tuned."""


def least_sum(cost: Floats, number: Ints, spare: int) -> float:
    """Least sum over experts of cost `[choice, expert]`, where a choice takes these numbers of replicas `[choice]`, the
    first one of them one, at choices that take up to `spare` more than one for each expert.

    This is a dynamic program: best[s] is the least sum for the experts so far if s replicas are spared for them. Where
    that would take long, it is the sum of `least_hull`, which is a little lower.
    """
    if cost.size * (spare + 1) > MOST_CELLS:
        return least_hull(cost, number, spare)
    best = np.zeros(spare + 1)
    for of_expert in cost.T:
        tried = np.full((len(of_expert), spare + 1), np.inf)
        for row, more, value in zip(tried, number - 1, of_expert, strict=True):
            row[more:] = best[: max(0, spare + 1 - more)] + value
        best = tried.min(axis=0)
    return float(best[-1])


def least_hull(cost: Floats, number: Ints, spare: int) -> float:
    """As `least_sum`, of the lower convex hulls of the costs of each expert: a little lower, and quick to find.

    Where costs are convex, the replicas that save most are the best. The hull of a cost is below it by no more than
    one step of the hull, and the exact least sum differs from that of the hulls in the steps of one expert.
    """
    saved = -np.diff(np.array([_hull(of_expert, number) for of_expert in cost.T]), axis=1).ravel()
    best = saved if spare >= len(saved) else -np.partition(-saved, spare)[:spare]
    return float(cost[0].sum() - best[best > 0].sum())


def _hull(cost: Floats, number: Ints) -> Floats:
    """The lower convex hull of costs `[choice]` at 1, 2, ... replicas, `[count - 1]` (Andrew's monotone chain)."""
    corner: list[int] = []
    for place in range(len(cost)):
        while len(corner) > 1 and _above(cost, number, corner[-2], corner[-1], place):
            corner.pop()
        corner.append(place)
    hull: Floats = np.interp(np.arange(1, number[-1] + 1), number[corner], cost[corner])
    return hull


def _above(cost: Floats, number: Ints, left: int, middle: int, right: int) -> bool:
    """Whether the middle cost is on or above the line through the other two."""
    wide, step = number[right] - number[left], number[middle] - number[left]
    return bool((cost[middle] - cost[left]) * wide >= (cost[right] - cost[left]) * step)
