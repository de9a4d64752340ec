"""Published planners, our plan and the bounds side by side, all judged on the same test batches."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from formulations.bounds.load import any_placement_bound
from formulations.kit.arrays import Floats, Ints
from optimizer.domain.cost import Cost
from optimizer.domain.mesh import Mesh
from optimizer.domain.placement import Placement
from optimizer.domain.problem import Problem, check, make_problem
from optimizer.experiments.rivals.metro import METRO, MetroSimulation
from optimizer.experiments.rivals.planners import Planner, planners
from optimizer.interrupts import Cancel
from optimizer.planning.options import AUTO, Progress, SolveOptions, silent
from optimizer.planning.plan_layer import solve
from optimizer.planning.pool import LayerJudge
from optimizer.routing.context import Unit
from optimizer.routing.servers.abilities import ANY, Server
from optimizer.search.choose import WITHOUT_P99, figures
from optimizer.simulation.conditions import Conditions
from optimizer.simulation.report import SimulationReport
from optimizer.traces.batches import Batches, Sets
from optimizer.traces.source import Source

OURS, OPTIMAL = "moeplan", "optimal"
WARMING = 2
"""Batches of the problem on which a planner is run first, so that no compilation is timed; as few as are quick to plan
for, not tuned."""


@dataclass(frozen=True, eq=False)
class PlannerResult:
    """A planner's placement, the seconds that planning took, and the policies by which its server routes."""

    name: str
    placement: Placement
    seconds: float
    routings: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class ComparedPlan:
    """A placement under one routing policy on the test batches, with its distance from the bounds.

    imbalance_gap, tiles_gap: mean over the test batches, over the bound of the `Comparison`, less 1.
    """

    planned: PlannerResult
    report: SimulationReport
    imbalance_gap: float
    tiles_gap: float


@dataclass(frozen=True, eq=False)
class Comparison:
    """The results of one layer, those of our plan last.

    imbalance_bound, tiles_bound: what no placement goes below, mean over the test batches; unit: what `tiles` counts on
    this hardware, see `Cost.unit`. server: whose policies the rows are judged under; for one with a rule of its own the
    last row is our placement under the best of all routing.
    """

    layer: int
    rows: list[ComparedPlan]
    unit: Unit
    imbalance_bound: float
    tiles_bound: float
    server: Server = ANY

    def under(self, routing: str) -> dict[str, ComparedPlan]:
        """The rows under a routing policy by the names of their planners, each planner's first."""
        found: dict[str, ComparedPlan] = {}
        for row in self.rows:
            if row.report.routing == routing:
                found.setdefault(row.planned.name, row)
        return found


def compare(
    source: Source,
    layer: int,
    mesh: Mesh,
    cost: Cost,
    options: SolveOptions,
    progress: Progress = silent,
    cancel: Cancel | None = None,
    server: Server = ANY,
) -> Comparison:
    """Let every planner plan a layer on the train batches, and judge each placement on the test batches.

    Each is judged under its own routings and under the optimal one, in the unit of the options or, where they name
    none, in tokens and in tiles. On a server with a rule of its own all are judged under that, and our placement, to
    show what other routing would win, also under the policy of `AUTO` that is best on selection batches. options: of
    our plan; the others take the time that they take.
    """
    sets = source.sets(layer)
    train, load = (of.load(source.model.experts) for of in (sets.train, sets.test))
    problem = make_problem(source.model, mesh, cost, train, options.constraints, layer)
    bounds = _least(load, mesh) / (load.sum(axis=1) / mesh.devices), _least(cost.tiles(load), mesh)
    imbalance, tiles = (float(bound.mean()) for bound in bounds)
    rivals = list(_rivals(problem, sets.train, options.seed, progress))
    ours = _ours(problem, sets, options, progress, cancel)
    trials = [(each, trial) for each in (*rivals, ours) for trial in _conditions(each, server, options.unit, cost)]
    if server.own_rule:
        trials.append((ours, _best(problem, sets, ours.placement, options.unit)))
    rows = []
    for done, (planned, conditions) in enumerate(trials):
        progress("judging", done / len(trials))
        check(problem, planned.placement)
        report = judged(problem, sets, planned.placement, conditions)
        gaps = float(report.imbalance.mean()) / imbalance - 1, float(report.tiles.mean()) / tiles - 1
        rows.append(ComparedPlan(planned, report, *gaps))
    return Comparison(layer, rows, cost.unit, imbalance, tiles, server)


def judged(problem: Problem, sets: Sets, placement: Placement, conditions: Conditions) -> SimulationReport:
    """A placement simulated on the test batches; the policy of the conditions may be METRO, which servers have not."""
    if conditions.routing != METRO:
        return LayerJudge(problem, sets, conditions).test(placement)
    simulation = MetroSimulation(placement, problem.model, problem.mesh, problem.cost, conditions)
    simulation.feed(sets.test)
    return simulation.report()


def timed(planner: Planner, problem: Problem) -> PlannerResult:
    """The placement that a planner makes of the problem, and the seconds that it takes once its code is compiled."""
    planner.plan(replace(problem, load=problem.load[:WARMING]))
    started = time.perf_counter()
    placement = planner.plan(problem)
    return PlannerResult(planner.name, placement, time.perf_counter() - started, planner.routings)


def _rivals(problem: Problem, train: Batches, seed: int, progress: Progress) -> Iterator[PlannerResult]:
    rivals = planners(problem, train, seed)
    for done, planner in enumerate(rivals):
        progress(planner.name, done / len(rivals))
        yield timed(planner, problem)


def _ours(
    problem: Problem, sets: Sets, options: SolveOptions, progress: Progress, cancel: Cancel | None
) -> PlannerResult:
    """What our planning finds in the time of the options, by a clock that starts here."""
    started = time.perf_counter()
    plan = solve(problem, sets, options, options.effort(cancel), progress).chosen
    return PlannerResult(OURS, plan.placement, time.perf_counter() - started, (plan.report.routing,))


def _conditions(planned: PlannerResult, server: Server, unit: Unit | None, cost: Cost) -> list[Conditions]:
    """The conditions of the server's routing policies, or for any server those of the planner's own, and then optimal
    routing in each unit that is asked for."""
    if server.own_rule:
        return [Conditions(routing, unit) for routing in server.policies]
    routings = planned.routings
    units = (unit,) if unit else dict.fromkeys(("tokens", cost.unit))
    own = [Conditions(routing, unit) for routing in routings if routing != OPTIMAL]
    return own + [Conditions(OPTIMAL, each) for each in units]


def _best(problem: Problem, sets: Sets, placement: Placement, unit: Unit | None) -> Conditions:
    """The conditions with that policy of `AUTO` that `solve` would choose for a placement by the selection batches."""

    def latency(trial: Conditions) -> float:
        return float(figures(LayerJudge(problem, sets, trial).selection(placement))[WITHOUT_P99].mean())

    return min((Conditions(routing, unit) for routing in AUTO), key=latency)


def p99(report: SimulationReport) -> float:
    """The latency that 99 % of batches keep to, in microseconds."""
    return float(np.percentile(report.latency_us, 99))


def _least(units: Ints, mesh: Mesh) -> Floats | Ints:
    """The least peak device load of each batch `[batch]` that any placement reaches, for loads `[batch, expert]`."""
    return any_placement_bound(units, mesh.devices, mesh.slots)
