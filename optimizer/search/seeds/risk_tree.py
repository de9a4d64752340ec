"""Replica counts and placement chosen together by risk, in a tree search as FlashLB makes it."""

import heapq
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from formulations.kit.arrays import Ints
from optimizer.domain.placement import Placement
from optimizer.domain.problem import Problem
from optimizer.search.seeds.risk import Loads, Z, loads_of, packed, risk_counts

GROUPS = 4  # the published depth of the tree
REACH = 4  # a group may get up to 4 replicas more or fewer than by the greedy rule, as the published width is 8
KEPT = 4  # branches followed at each depth; how many is not published, and this number is not tuned


class TreeNode(NamedTuple):
    """Replica counts, the placement that is packed from them, and its mean peak device load on the recorded steps."""

    peak: float
    counts: tuple[int, ...]
    placement: Placement


def risk_tree(problem: Problem, ended: Callable[[], bool] = lambda: False) -> Placement:
    """Choose replica counts and placement together, by tree search. Once it has `ended`, no further branch is looked
    at: with thousands of slots each takes a second.

    1. An expert's load is its mean + z standard deviations, and a device's load is made in the same way from the load
       of all that the device holds, covariances included.
    2. The experts, hottest first, are cut into groups. At each depth of the tree one group is settled: its branches
       give it more or fewer replicas than the greedy rule (one more replica to the largest load per replica) would, and
       the groups that are still to come share the rest.
    3. In each branch all experts are placed, the hottest replica first, each on the device that is lightest with it. A
       branch is judged by the mean over the recorded steps of the peak device load, with pairs split evenly over
       replicas. The best branches are followed.

    z, depth and width are the published defaults; how the groups are cut is not described, and here they are equal in
    size. No device is given an expert twice.
    """
    loads = loads_of(problem, Z)
    experts = np.flatnonzero(~problem.spread)
    hottest_first = experts[np.argsort(-loads.risk[experts], kind="stable")]
    counts = risk_counts(problem, loads.risk)
    best = _judged(problem, loads, counts)
    nodes = [best]
    groups = [group for group in np.array_split(hottest_first, GROUPS) if len(group)]
    for depth in range(len(groups) - 1):
        settled, group = np.concatenate([*groups[:depth], np.empty(0, dtype=np.int64)]), groups[depth]
        found = {
            counts for node in nodes for counts in _branches(problem, loads, np.array(node.counts), settled, group)
        }
        nodes = heapq.nsmallest(
            KEPT, (_judged(problem, loads, np.array(counts)) for counts in sorted(found) if not ended()), key=_peak
        )
        best = min([best, *nodes], key=_peak)
    return best.placement


def _peak(node: TreeNode) -> float:
    return node.peak


def _judged(problem: Problem, loads: Loads, counts: Ints) -> TreeNode:
    """The node of some replica counts `[expert]`."""
    placement = packed(problem, loads, counts)
    return TreeNode(mean_peak(problem.load, placement), tuple(counts.tolist()), placement)


def mean_peak(load: Ints, placement: Placement) -> float:
    """The mean over batches of the peak device load, where load `[batch, expert]` is split evenly over replicas."""
    share = load / placement.counts(load.shape[1])
    shares = np.concatenate([share, np.zeros((len(load), 1))], axis=1)  # the last column is for empty slots
    peaks = np.take(shares, placement.slots.T, axis=1).sum(axis=1).max(axis=1)
    return float(peaks.mean())


def _branches(problem: Problem, loads: Loads, counts: Ints, settled: Ints, group: Ints) -> list[tuple[int, ...]]:
    """Replica counts `[expert]` that give the group up to REACH replicas more or fewer than `counts` does.

    The settled experts keep their counts, and the experts that are neither settled nor in the group share the rest.
    """
    free, found = ~problem.spread, []
    inside, pending = np.isin(np.arange(len(counts)), group), free.copy()
    pending[group] = False
    pending[settled.astype(np.int64)] = False
    total, room = int(counts[inside].sum()), int(counts[free].sum())
    for change in range(-REACH, REACH + 1):
        extra = total + change - len(group)
        tried = np.where(inside | pending, 1, counts)
        if extra < 0 or int(tried[free].sum()) + extra > room:
            continue
        tried = risk_counts(problem, np.where(inside, loads.risk, -1.0), tried, extra)
        tried = risk_counts(problem, np.where(pending, loads.risk, -1.0), tried, room - int(tried[free].sum()))
        if int(tried[free].sum()) == room:
            found.append(tuple(tried.tolist()))
    return found
