"""What a page is to show, and so what is simulated for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from optimizer.domain.cost import Cost
from optimizer.planning.plan_file import Plan
from optimizer.report.page.facts import GREEDY
from optimizer.routing.hints import USUAL_HINTS
from optimizer.routing.servers.abilities import RULES_OF_SERVERS
from optimizer.simulation.conditions import Conditions
from optimizer.traces.source import TraceInput

GREEDY_ROUTING = "even-source"
"""How EPLB's placements are routed where no server decides: round robin among the replicas of an expert, as in its own
code."""

CAPACITIES = (inf, 2.0, 1.5, 1.25, 1.1, 1.0)
"""Capacity factors of the curve: no limit, and from twice a replica's equal part to that part alone, closer together
where it bends. Not tuned."""


@dataclass(frozen=True)
class PageRequest:
    """What a page is to show.

    plan, cost: the plan, and what its work costs. named: the traces. routings: policies under which both placements are
    judged besides their own. before: a plan to compare with, under the name that pages give it; None for EPLB's scheme.
    layers: ids, None for all of the plan. batch_count: None for as many as a plan is judged on when it is made.
    command: the line that was typed. curves: whether one layer is judged with capacities and with fewer replicas, too.
    """

    plan: Plan
    cost: Cost
    named: TraceInput
    routings: tuple[str, ...] = ()
    before: tuple[str, Plan] | None = None
    layers: Sequence[int] | None = None
    batch_count: int | None = None
    command: str = ""
    curves: bool = False

    @property
    def greedy_routing(self) -> str:
        """How EPLB's placement is routed: by the server's rule where the plan is for one, as `solve` has it."""
        return self.plan.policy if self.plan.policy in RULES_OF_SERVERS else GREEDY_ROUTING

    @property
    def before_name(self) -> str:
        """What the page calls the placement before."""
        return GREEDY if self.before is None else self.before[0]


@dataclass(frozen=True)
class Placed:
    """A layer of a plan, under the name that the page gives it."""

    name: str
    plan: Plan
    layer: int


def trials(asked: PageRequest, placed: tuple[Placed, Placed]) -> list[tuple[Placed, Conditions]]:
    """What is simulated: the placement before and the plan, each under its own policy, and then both under all others
    that are asked for. The capacity of the plan, if it has one, holds for its own run alone."""
    unit, hints = asked.plan.unit, asked.plan.hints or USUAL_HINTS
    found = [
        (each, Conditions(each.plan.policy, unit, capacity_factor=each.plan.capacity_factor, hints=hints))
        for each in placed
    ]
    for routing in dict.fromkeys((asked.plan.policy, *asked.routings)):
        found += [(each, Conditions(routing, unit, hints=hints)) for each in placed if each.plan.policy != routing]
    return found


def limited(asked: PageRequest, placed: Placed, factors: Sequence[float]) -> list[tuple[Placed, Conditions]]:
    """The plan under its own policy with each of the capacity factors; infinity stands for no limit."""
    plan, hints = asked.plan, asked.plan.hints or USUAL_HINTS
    return [
        (placed, Conditions(plan.policy, plan.unit, capacity_factor=None if factor == inf else factor, hints=hints))
        for factor in factors
    ]


def closest_look(plan: Plan, layers: Sequence[int]) -> int:
    """The layer that is looked at closest: the slowest by the plan file, or the first where it does not say."""
    slow = {layer: plan.layers[layer].quality.get("latency_us", {}).get("p99", 0.0) for layer in layers}
    return max(layers, key=lambda layer: slow[layer])
