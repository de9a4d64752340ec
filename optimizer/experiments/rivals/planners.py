"""All planners that our plan is compared with, and the routing policy that each was published with."""

from collections.abc import Callable
from dataclasses import dataclass

from optimizer.domain.placement import Placement
from optimizer.domain.problem import Problem
from optimizer.experiments.rivals.director import director
from optimizer.experiments.rivals.eplb import eplb, eplb_by_groups, nodes
from optimizer.experiments.rivals.flashlb import flashlb
from optimizer.experiments.rivals.grace import grace
from optimizer.experiments.rivals.lplb import has_cubes, lplb_cube, lplb_torus
from optimizer.experiments.rivals.metro import METRO
from optimizer.experiments.rivals.moetuner import moetuner
from optimizer.experiments.rivals.orders import column_major, row_major
from optimizer.experiments.rivals.row_balance import row_balance
from optimizer.experiments.rivals.step_maximum import step_maximum
from optimizer.experiments.rivals.swift_balancer import swift_balancer
from optimizer.search.seeds.orders import random_permutation, sequential
from optimizer.search.seeds.pairing import pairing
from optimizer.search.seeds.steps import steps
from optimizer.streams import Purpose, random_stream
from optimizer.traces.batches import Batches


@dataclass(frozen=True)
class Planner:
    """A planner: its name, the function that plans a layer, and the routing policies that its placements are judged
    under, which are names of `routing.policies`, or METRO. full: whether it fills all slots that it can. limited:
    whether it keeps to a limit on replicas, where there is one."""

    name: str
    plan: Callable[[Problem], Placement]
    routings: tuple[str, ...] = ("even-source",)
    full: bool = True
    limited: bool = True


def planners(problem: Problem, train: Batches, seed: int) -> list[Planner]:
    """All planners.

    EPLB by groups is left out where there is but one node, as it is then the same as EPLB, and LPLB's cube where the
    devices cannot be cut into cubes. Planners that give replicas to all empty slots are left out where replicas are
    limited.

    train: the batches of the problem's loads, for planners that look at tokens.

    Some servers spread pairs over replicas at random, by hash or in turn, or give each source a replica of its own
    (vllm-ascend, for FlashLB). Their planners are judged under an even split, which is the best that those can reach.
    """
    found = [
        Planner("sequential", sequential),
        Planner(
            "random", lambda problem: random_permutation(problem, random_stream(Purpose.RIVAL_RANDOM_PLACEMENT, seed))
        ),
        Planner("row-major", row_major),
        Planner("column-major", column_major),
        Planner("pairing", pairing),
        Planner("EPLB", eplb, ("even-source", METRO)),
        Planner("EPLB by groups", eplb_by_groups, full=False),
        Planner("step maximum", step_maximum),
        Planner("steps, packed", steps),
        Planner("FlashLB", flashlb),
        Planner(
            "row balance",
            lambda problem: row_balance(problem, random_stream(Purpose.ROW_BALANCE, seed)),
            ("capacity-fill",),
        ),
        Planner("MoETuner", lambda problem: moetuner(problem, train), full=False),
        Planner("Director", lambda problem: director(problem, train), full=False),
        Planner("LPLB, cube", lplb_cube, ("optimal",), full=False, limited=False),
        Planner("LPLB, torus", lplb_torus, ("optimal",), full=False, limited=False),
        Planner("SwiftBalancer", lambda problem: swift_balancer(problem, sequential(problem))),
        Planner("SwiftBalancer on EPLB", lambda problem: swift_balancer(problem, eplb(problem))),
        Planner("GRACE+", lambda problem: grace(problem, train), ("weights",), full=False, limited=False),
    ]
    senseless = [eplb_by_groups] * (nodes(problem) == 1) + [lplb_cube] * (not has_cubes(problem.mesh))
    limited = problem.extra_replicas is not None
    return [each for each in found if each.plan not in senseless and (each.limited or not limited)]
