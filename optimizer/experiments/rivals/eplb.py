"""EPLB, DeepSeek's balancer, with its two policies (README of deepseek-ai/EPLB, "The Algorithm")."""

from dataclasses import replace
from math import gcd

import numpy as np

from formulations.kit.arrays import Ints
from optimizer.domain.placement import Placement
from optimizer.domain.problem import Problem
from optimizer.search.seeds.greedy import greedy


def eplb(problem: Problem) -> Placement:
    """The global policy: each further replica goes to the expert with the largest load per replica, and each replica,
    the heaviest first, to the lightest device.

    EPLB may put two replicas of an expert on one device, where the second is worth nothing. Here the second goes to the
    lightest device that does not hold the expert, see `seeds.greedy`.
    """
    return greedy(problem)


def nodes(problem: Problem) -> int:
    """The number of nodes that the hierarchical policy places groups of experts on; 1 where it cannot place by nodes.

    EPLB needs a number of nodes that divides the number of groups. A node is here a number of whole mesh rows, the
    least that makes it so. Every node needs the same number of shared replicas, and room for its experts.
    """
    model, number = problem.model, gcd(problem.model.groups, problem.mesh.rows)
    shared = problem.shared_replicas or 0
    uneven = model.shared_experts > 0 and (shared == 0 or shared % number > 0)
    if uneven or problem.most_free_replicas < model.routed_experts or model.routed_experts % model.groups:
        return 1
    return number


def eplb_by_groups(problem: Problem) -> Placement:
    """The hierarchical policy.

    1. Each group of experts, the heaviest first, goes to the lightest node that has not yet its number of groups.
    2. and 3. Within each node experts are replicated and packed as in `eplb`, which keeps the replicas of an expert on
       distinct devices.

    With one node this is the global policy, as in EPLB where the groups do not fit the nodes.
    """
    number = nodes(problem)
    parts = [_node(problem, groups, number) for groups in _groups_of_nodes(problem, number)]
    return Placement(np.concatenate(parts))


def _groups_of_nodes(problem: Problem, number: int) -> list[list[int]]:
    """The groups of each node, in the order in which they were assigned to it."""
    model = problem.model
    load = problem.total_load[: model.routed_experts].reshape(model.groups, -1).sum(axis=1)
    held: list[list[int]] = [[] for _ in range(number)]
    for group in np.argsort(-load, kind="stable").tolist():
        open_to_more = [node for node in range(number) if len(held[node]) < model.groups // number]
        held[min(open_to_more, key=lambda node: load[held[node]].sum())].append(group)
    return held


def _node(problem: Problem, groups: list[int], number: int) -> Ints:
    """The slots `[device, slot]` of one node, planned as a problem of its own.

    The node serves an equal share of the shared experts' load, and holds an equal share of their replicas.
    """
    model, mesh = problem.model, problem.mesh
    routed = np.arange(model.routed_experts).reshape(model.groups, -1)[groups].ravel()
    ids = np.concatenate([routed, np.asarray(model.shared_ids, dtype=np.int64)])
    load = problem.load[:, ids]
    load[:, len(routed) :] //= number
    own = Problem(
        replace(model, routed_experts=len(routed), top_k=min(model.top_k, len(routed))),
        replace(mesh, rows=mesh.rows // number),
        problem.cost,
        load,
        None if problem.shared_replicas is None else problem.shared_replicas // number,
        None if problem.extra_replicas is None else problem.extra_replicas // number,
    )
    slots = greedy(own).slots
    return np.where(slots < 0, slots, ids[slots])
