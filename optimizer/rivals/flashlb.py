"""FlashLB, the balancer of vllm-ascend (pull requests 3042 and 6477 of vllm-project/vllm-ascend)."""

import heapq

import numpy as np

from formulations.arrays import Ints
from optimizer.placement import Placement
from optimizer.problem import Problem
from optimizer.seeds.risk import Loads, Z, loads_of, packed, risk_counts

GROUPS = 4  # depth of the tree: the experts' counts are settled in so many steps
REACH = 4  # replicas that a group may get more or fewer than by the greedy rule
KEPT = 4  # branches followed at each depth

Node = tuple[float, tuple[int, ...], Placement]


def flashlb(problem: Problem) -> Placement:
    """Replica counts and placement chosen together, by tree search.

    1. Loads are judged by mean + z standard deviations, and devices with the covariance of what they hold;
    2. the experts, hottest first, form groups; for each in turn the tree branches by how many replicas the group gets,
       around what one more replica to the largest load per replica would give it, and the pending groups get the rest;
    3. a branch is as good as the largest risk of a device when all is placed, deployed and pending: the riskiest first
       to the device of least risk; the best branches are followed.

    The description gives neither the z nor the sizes of tree and groups. No device is given an expert twice.
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
    placement, peak = packed(problem, loads, counts)
    return peak, tuple(counts.tolist()), placement


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
