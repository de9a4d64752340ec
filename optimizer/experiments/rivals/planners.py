"""All planners to compare with, and the replica routing each was published with."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from optimizer.domain.placement import Placement
from optimizer.domain.problem import Problem
from optimizer.experiments.rivals.eplb import eplb, eplb_by_groups, nodes
from optimizer.experiments.rivals.flashlb import flashlb
from optimizer.experiments.rivals.metro import METRO
from optimizer.experiments.rivals.orders import column_major, row_major
from optimizer.experiments.rivals.row_balance import row_balance
from optimizer.experiments.rivals.step_maximum import step_maximum
from optimizer.search.seeds.orders import random_permutation, sequential
from optimizer.search.seeds.pairing import pairing
from optimizer.search.seeds.steps import steps


@dataclass(frozen=True)
class Planner:
    """A planner's name, how it plans a layer, and its routings: policies of `routing.policies`, or METRO."""

    name: str
    plan: Callable[[Problem], Placement]
    routings: tuple[str, ...] = ("even",)


def planners(problem: Problem, seed: int) -> list[Planner]:
    """The planners that differ on this problem: EPLB by groups is none of its own where there is one node.

    Servers that spread requests over replicas at random, by hash or in turn, or that give each source a replica of its
    own (vllm-ascend, for FlashLB), get an even split, which is the best that these can come to.
    """
    found = [
        Planner("sequential", sequential),
        Planner("random", lambda problem: random_permutation(problem, np.random.default_rng(seed))),
        Planner("row-major", row_major),
        Planner("column-major", column_major),
        Planner("pairing", pairing),
        Planner("EPLB", eplb, ("even", METRO)),
        Planner("EPLB by groups", eplb_by_groups),
        Planner("step maximum", step_maximum),
        Planner("steps, packed", steps),
        Planner("FlashLB", flashlb),
        Planner("row balance", lambda problem: row_balance(problem, np.random.default_rng(seed)), ("capacity-fill",)),
    ]
    return [each for each in found if each.plan is not eplb_by_groups or nodes(problem) > 1]
