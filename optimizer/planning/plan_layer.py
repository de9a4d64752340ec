"""One layer from batches to a judged placement: wiring only."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from formulations.kit.arrays import Ints
from formulations.kit.outcome import Outcome
from optimizer import __version__
from optimizer.domain.cost import Cost
from optimizer.domain.mesh import Mesh
from optimizer.domain.placement import Placement
from optimizer.domain.problem import Constraints, Problem, check, make_problem
from optimizer.planning.bounds import Gap, bound_any, bound_given, gaps, reached_by
from optimizer.planning.candidates import Candidate, Effort, Notify, seeds_and_formulation
from optimizer.planning.capacity_choice import limited, run
from optimizer.planning.plan_file import LayerPlan, Plan
from optimizer.planning.portfolio import Portfolio
from optimizer.planning.warm_start import started
from optimizer.routing.learned_shares import learn
from optimizer.search.multistart import slot_value
from optimizer.simulation.conditions import Conditions
from optimizer.simulation.report import SimulationReport
from optimizer.traces.batches import Sets
from optimizer.traces.source import Source

FINISH_SHARE = 0.02  # of the time limit, kept for writing, besides what bounding was measured to take
MOST_BOUNDING = 3  # the bounds of the plan take at most so many times as long as those of any placement


@dataclass(frozen=True, eq=False)
class MethodResult:
    """One method's placement, how long it took to plan (seconds), and its test figures."""

    method: str
    placement: Placement
    seconds: float
    report: SimulationReport


@dataclass(frozen=True, eq=False)
class LayerSolution:
    """All methods' rows; `search` has one for each routing policy that was tried, the plan's last. outcome: of the
    formulation, with free_counts or greedy's, None where an interruption came before it; first_result: seconds until a
    complete plan was judged."""

    rows: list[MethodResult]
    outcome: Outcome[Ints] | None
    free_counts: bool
    gaps: list[Gap]
    candidates: int
    first_result: float


def solve(
    problem: Problem,
    sets: Sets,
    effort: Effort,
    notify: Notify,
    conditions: Conditions,
    routings: Sequence[str],
    most_rerouted: float | None = None,
) -> LayerSolution:
    """Plan on train batches, choose on selection batches and judge on test batches, under these conditions and the best
    of the routing policies; seeds are judged under the first of them. most_rerouted: the share of pairs that may go to
    another expert of the token's, for which a capacity factor is chosen with the plan."""
    portfolio = Portfolio.of(problem, sets, conditions, routings)
    seeds = Seeds.judged(problem, portfolio, effort, notify)
    started = time.monotonic()
    bounds = bound_any(sets.test, problem.model, problem.mesh, problem.cost)
    bounding = time.monotonic() - started
    started = time.monotonic()
    finish = MOST_BOUNDING * bounding + FINISH_SHARE * effort.deadline.seconds
    try:
        if seeds.complete:
            portfolio.search(seeds.found, effort, effort.deadline.seconds - finish, notify)
    except KeyboardInterrupt:
        notify("interrupted", 1.0)
    portfolio.fall_back(seeds.found)
    portfolio.settle()
    seconds = time.monotonic() - started
    notify("judging", 1.0)
    rows = seeds.rows + _searched(portfolio, seconds)
    if most_rerouted is not None and (best := limited(portfolio, most_rerouted)) is not None:
        rows.append(MethodResult("rerouted", best.placement, seconds, run(portfolio, best, sets.test)))
    plan = rows[-1]
    bounds += bound_given(sets.test, problem.model, problem.mesh, problem.cost, plan.placement)
    if plan.report.rerouting is not None:
        bounds = []  # they are of tokens that are served by their own experts
    found = gaps(bounds, reached_by(plan.report))
    return LayerSolution(rows, seeds.outcome, problem.free_counts, found, portfolio.candidates, seeds.first_result)


@dataclass(frozen=True, eq=False)
class Seeds:
    """The candidates of the constructions and of the formulation, those that there are after an interruption, and their
    rows. first_result: seconds until the first was judged."""

    found: list[Candidate]
    rows: list[MethodResult]
    first_result: float

    @classmethod
    def judged(cls, problem: Problem, portfolio: Portfolio, effort: Effort, notify: Notify) -> "Seeds":
        """Plan and judge each in turn; Ctrl-C ends it with those that there are, if there is any."""
        found: list[Candidate] = []
        rows: list[MethodResult] = []
        first_result = 0.0
        try:
            for candidate in seeds_and_formulation(problem, effort, notify):
                report = portfolio.judge_of(candidate.method).test(candidate.placement)
                rows.append(MethodResult(candidate.method, candidate.placement, candidate.seconds, report))
                first_result = first_result or effort.deadline.elapsed()
                found.append(candidate)
        except KeyboardInterrupt:
            if not found:
                raise
        return cls(found, rows[: len(found)], first_result)

    @property
    def outcome(self) -> Outcome[Ints] | None:
        """The formulation's, which comes last."""
        return self.found[-1].outcome

    @property
    def complete(self) -> bool:
        """Whether nothing interrupted them."""
        return self.outcome is not None


def _searched(portfolio: Portfolio, seconds: float) -> list[MethodResult]:
    """The best candidate of each policy on the test batches, the chosen policy's last."""
    chosen = portfolio.chosen()
    order = sorted(portfolio.pools, key=lambda name: name == chosen)
    best = {name: portfolio.pools[name].placements[portfolio.pools[name].best()] for name in order}
    return [MethodResult("search", best[name], seconds, portfolio.pools[name].judge.test(best[name])) for name in order]


def plan_tokens(
    source: Source,
    layer: int,
    mesh: Mesh,
    cost: Cost,
    constraints: Constraints,
    effort: Effort,
    notify: Notify,
    conditions: Conditions,
    routings: Sequence[str],
    start: Plan | None = None,
    most_rerouted: float | None = None,
) -> tuple[Plan, LayerSolution, list[str]]:
    """Plan one layer of a source of batches for the best of the routing policies: the plan, all figures, and sentences
    that the user should read. start: a plan to start from, too; most_rerouted as of `solve`."""
    sets = source.sets(layer)
    problem = make_problem(source.model, mesh, cost, sets.train.load(source.model.experts), *constraints)
    solution = solve(started(problem, start, layer), sets, effort, notify, conditions, routings, most_rerouted)
    chosen = solution.rows[-1]
    check(problem, chosen.placement)
    provenance = provenance_of(source, layer, sets, effort.seed)
    provenance |= {"method": chosen.method, "candidates": solution.candidates}
    part = part_of(problem, chosen.placement, chosen.report, solution.gaps, provenance)
    limit = chosen.report.rerouting
    factor = None if limit is None else limit.capacity_factor
    plan = Plan(problem.model, mesh, cost.name, chosen.report.routing, {layer: part}, conditions.unit, factor)
    return plan, solution, [source.origin, *source.notes]


def provenance_of(source: Source, layer: int, sets: Sets, seed: int) -> dict[str, Any]:
    """What a layer's plan is made from, but for the method."""
    composition = source.composition
    found = {
        "moeplan": __version__,
        "seed": seed,
        "origin": source.origin,
        "traces": source.fingerprint(layer),
        "batch_tokens": sets.test.tokens,
        "train_batches": sets.train.count,
        "selection_batches": sets.selection.count,
        "test_batches": sets.test.count,
    }
    if composition is not None:
        found |= {"phase": composition.phase, "row_users": list(composition.row_users)}
    return found


def part_of(
    problem: Problem, placement: Placement, report: SimulationReport, found: Sequence[Gap], provenance: dict[str, Any]
) -> LayerPlan:
    """A layer of a plan: the placement, how it was judged, and what train batches teach."""
    taught = learn(placement, problem.load, slot_value(problem))
    return LayerPlan(placement, report.summary(), {gap.unit: gap.summary() for gap in found}, provenance, taught)
