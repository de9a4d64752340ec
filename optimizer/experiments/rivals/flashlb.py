"""FlashLB, the balancer of vllm-ascend (pull requests 3042 and 6477 of vllm-project/vllm-ascend)."""

import heapq

import numpy as np

from formulations.kit.arrays import Ints
from optimizer.domain.placement import Placement
from optimizer.domain.problem import Problem
from optimizer.search.seeds.risk import Loads, Z, loads_of, packed, risk_counts

GROUPS = 4  # the published depth
REACH = 4  # replicas that a group may get more or fewer than by the greedy rule: the published width is 8
KEPT = 4  # branches followed at each depth

Node = tuple[float, tuple[int, ...], Placement]


def flashlb(problem: Problem) -> Placement:
    """Replica counts and placement chosen together, by tree search.

    1. An expert's load is its mean + z standard deviations, and a device's that of what it holds, covariance included;
    2. the experts, hottest first, form groups; for each in turn the tree branches by how many replicas the group gets,
       around what one more replica to the largest load per replica would give it, and the pending groups get the rest;
    3. in each branch all is placed, deployed and pending, the hottest replica first to the device that is lightest with
       it; what counts is the recorded steps' mean peak device load with pairs split evenly. The best are followed.

    z, depth and width are the published defaults; how the groups are cut is not described. No device is given an
    expert twice.
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
        found = {counts for _, was, _ in nodes for counts in _branches(problem, loads, np.array(was), settled, group)}
        nodes = heapq.nsmallest(
            KEPT, (_judged(problem, loads, np.array(counts)) for counts in sorted(found)), key=_peak
        )
        best = min([best, *nodes], key=_peak)
    return best[2]


def _peak(node: Node) -> float:
    return node[0]


def _judged(problem: Problem, loads: Loads, counts: Ints) -> Node:
    placement = packed(problem, loads, counts)
    return mean_peak(problem.load, placement), tuple(counts.tolist()), placement


def mean_peak(load: Ints, placement: Placement) -> float:
    """The peak device load of batches `[batch, expert]` that are split evenly over replicas, mean over batches."""
    share = load / placement.counts(load.shape[1])
    shares = np.concatenate([share, np.zeros((len(load), 1))], axis=1)  # the last for empty slots
    peaks = np.take(shares, placement.slots.T, axis=1).sum(axis=1).max(axis=1)
    return float(peaks.mean())


def _branches(problem: Problem, loads: Loads, counts: Ints, settled: Ints, group: Ints) -> list[tuple[int, ...]]:
    """Counts with some replicas more or fewer for the group, the rest for the pending experts, the settled as is."""
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
