"""One layer from batches to a judged placement: wiring only."""

import time
from dataclasses import dataclass
from importlib.metadata import version

from formulations.arrays import Floats, Ints
from formulations.outcome import Outcome
from optimizer.bounding import Gap, bound_any, bound_given, gaps, reached_by
from optimizer.candidates import Candidate, Effort, Notify, descents, seeds_and_formulation
from optimizer.conditions import Conditions
from optimizer.cost import Cost
from optimizer.inputs import Source
from optimizer.mesh import Mesh
from optimizer.placement import Placement
from optimizer.plan import LayerPlan, Plan
from optimizer.problem import Problem, make_problem
from optimizer.routing.learn import learn
from optimizer.routing.policies import TAUGHT
from optimizer.search.choose import choose, figures
from optimizer.search.multistart import latency_goal, slot_value
from optimizer.simulated import SimulationReport
from optimizer.simulator import simulate
from optimizer.traces.batches import Batches, Sets

EVEN = Conditions()
FINISH_SHARE = 0.02  # of the time limit, kept for judging and writing, besides what judging was measured to take
MOST_BOUNDING = 3  # the bounds of the plan take at most so many times as long as those of any placement


@dataclass(frozen=True, eq=False)
class Row:
    """One method's placement, how long it took to plan (seconds), and its test figures."""

    method: str
    placement: Placement
    seconds: float
    report: SimulationReport


@dataclass(frozen=True, eq=False)
class Solution:
    """All methods' rows, `search` last: the plan. first_result: seconds until a complete plan was judged."""

    rows: list[Row]
    outcome: Outcome[Ints]
    gaps: list[Gap]
    candidates: int
    first_result: float


def solve(problem: Problem, sets: Sets, effort: Effort, notify: Notify, conditions: Conditions = EVEN) -> Solution:
    """Plan on train batches, choose on selection batches and judge on test batches under these conditions.

    Seeds, formulation and descents plan for an even split, whatever the routing policy.
    """
    judge = Judge(problem, sets, conditions)
    found: list[Candidate] = []
    rows: list[Row] = []
    first_result = judging = 0.0
    for candidate in seeds_and_formulation(problem, effort, notify):
        started = time.monotonic()
        report = judge.test(candidate.placement)
        judging = time.monotonic() - started
        rows.append(Row(candidate.method, candidate.placement, candidate.seconds, report))
        first_result = first_result or effort.deadline.elapsed()
        found.append(candidate)
    started = time.monotonic()
    bounds = bound_any(sets.test, problem.model, problem.mesh, problem.cost)
    bounding = time.monotonic() - started
    started = time.monotonic()
    reserve = 4 * judging + MOST_BOUNDING * bounding + FINISH_SHARE * effort.deadline.seconds
    chosen, count = _searched(problem, judge, found, effort, reserve, notify)
    seconds = time.monotonic() - started
    notify("judging", 1.0)
    report = judge.test(chosen)
    rows.append(Row("search", chosen, seconds, report))
    bounds += bound_given(sets.test, problem.model, problem.mesh, problem.cost, chosen)
    outcome = found[-1].outcome
    assert outcome is not None  # the formulation comes last
    return Solution(rows, outcome, gaps(bounds, reached_by(report)), count, first_result)


@dataclass(frozen=True)
class Judge:
    """The simulator with one layer's batches and conditions."""

    problem: Problem
    sets: Sets
    conditions: Conditions

    def test(self, placement: Placement) -> SimulationReport:
        """On the test batches."""
        return self._judged(placement, self.sets.test)

    def selection(self, placement: Placement) -> Floats:
        """The figures to choose by, on the selection batches."""
        return figures(self._judged(placement, self.sets.selection))

    def _judged(self, placement: Placement, batches: Batches) -> SimulationReport:
        problem = self.problem
        taught = learn(placement, problem.load, slot_value(problem)) if self.conditions.routing in TAUGHT else None
        return simulate(placement, batches, problem.model, problem.mesh, problem.cost, self.conditions, taught)


def _searched(
    problem: Problem, judge: Judge, found: list[Candidate], effort: Effort, reserve: float, notify: Notify
) -> tuple[Placement, int]:
    """What the selection batches favour of all candidates, descents included, and how many there were."""
    pool = [candidate.placement for candidate in found if candidate.method == "greedy"]
    pool += [candidate.placement for candidate in found if candidate.method in ("pairing", "formulation")]
    judged = [judge.selection(placement) for placement in pool]
    for placement in descents(problem, latency_goal(problem, judge.sets.train), found, effort, reserve, notify):
        pool.append(placement)
        judged.append(judge.selection(placement))
    return pool[choose(judged, baseline=0)], len(pool)


def plan_tokens(
    source: Source,
    layer: int,
    mesh: Mesh,
    cost: Cost,
    shared: int | str | None,
    effort: Effort,
    notify: Notify,
    conditions: Conditions = EVEN,
) -> tuple[Plan, Solution, list[str]]:
    """Plan one layer of a source of batches: the plan, all figures, and sentences that the user should read."""
    sets = source.sets(layer)
    problem = make_problem(source.model, mesh, cost, sets.train.load(source.model.experts), shared)
    solution = solve(problem, sets, effort, notify, conditions)
    chosen, composition = solution.rows[-1], source.composition
    provenance = {
        "moeplan": version("moeplan"),
        "method": chosen.method,
        "seed": effort.seed,
        "origin": source.origin,
        "traces": source.fingerprint(layer),
        "batch_tokens": chosen.report.tokens,
        "train_batches": sets.train.count,
        "selection_batches": sets.selection.count,
        "test_batches": sets.test.count,
        "candidates": solution.candidates,
    }
    if composition is not None:
        provenance |= {"phase": composition.phase, "row_users": list(composition.row_users)}
    taught = learn(chosen.placement, problem.load, slot_value(problem))
    part = LayerPlan(
        chosen.placement,
        chosen.report.summary(),
        {gap.unit: gap.summary() for gap in solution.gaps},
        provenance,
        taught,
    )
    plan = Plan(problem.model, mesh, cost.name, conditions.routing, {layer: part}, conditions.unit)
    return plan, solution, [source.origin, *source.notes]
