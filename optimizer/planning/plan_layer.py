"""One layer from batches to a judged placement; what each step does stands in the modules that this one calls."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from formulations.kit.arrays import Ints
from formulations.kit.compiling import CompilationEnded, compiling_until
from formulations.kit.outcome import Outcome
from optimizer import __version__
from optimizer.domain.cost import Cost
from optimizer.domain.mesh import Mesh
from optimizer.domain.placement import Placement
from optimizer.domain.problem import Problem, check, make_problem
from optimizer.interrupts import Cancel
from optimizer.planning.bounds import Gap, bound_any, bound_given, gaps_of
from optimizer.planning.candidates import Candidate
from optimizer.planning.capacity_choice import limited, run
from optimizer.planning.chance import Chance, chance_of
from optimizer.planning.convergence import Convergence
from optimizer.planning.options import Effort, Progress, SolveOptions, silent
from optimizer.planning.plan_file import LayerPlan, Plan
from optimizer.planning.pool import LayerJudge
from optimizer.planning.portfolio import Portfolio
from optimizer.planning.so_far import told_so_far
from optimizer.planning.thinning import affordable, has_time_for_groups
from optimizer.planning.token_seeds import all_seeds
from optimizer.planning.used_slots import UsedSlots, used_slots
from optimizer.planning.warm_start import started
from optimizer.routing.context import Unit
from optimizer.search.seeds.greedy import greedy
from optimizer.simulation.report import SimulationReport
from optimizer.traces.batches import Sets
from optimizer.traces.source import Source

MOST_BOUNDING = 0.5
"""How many times as long as the bounds of any placement those of the plan are allowed to take; on 32x16 devices they
take a twentieth of it."""


@dataclass(frozen=True, eq=False)
class MethodResult:
    """One method's placement, how long it took to plan (seconds), its test figures, and what a user should know of how
    it was made, in words."""

    method: str
    placement: Placement
    seconds: float
    report: SimulationReport
    says: str = ""


@dataclass(frozen=True, eq=False)
class LayerSolution:
    """What planning one layer came to, all judged on the test batches.

    seeds: of the given start and the constructions, in the order in which they were made. formulation: None where an
    early end came before it. searched: the best candidate by routing policy, that of the chosen policy last; after an
    early end the chosen policy's alone. rerouted: with a capacity factor, where one was asked for and pays. outcome: of
    the formulation, which chose replica counts too if free_counts, and else kept greedy's. unit: what the cost of
    compute counts. gaps: of the chosen result to its bounds, after an early end to those of any placement alone.
    chance: what it does to the chosen result's imbalance, None where the policy looks at loads or the end came early.
    candidates: how many were compared. first_result: seconds until a complete plan was judged. sets: the batches on
    which it was planned, compared and judged, fewer than there are where time was too short for all. remarks: what
    formulations proved or changed beside the searches, and what time was too short for, in sentences. convergence: how
    candidates and searches got better.
    """

    seeds: tuple[MethodResult, ...]
    formulation: MethodResult | None
    searched: dict[str, MethodResult]
    rerouted: MethodResult | None
    outcome: Outcome[Ints] | None
    free_counts: bool
    unit: Unit
    gaps: list[Gap]
    candidates: int
    first_result: float
    sets: Sets
    remarks: tuple[str, ...] = ()
    chance: Chance | None = None
    convergence: Convergence | None = None

    @property
    def chosen(self) -> MethodResult:
        """The result that becomes the plan."""
        return self.rerouted or list(self.searched.values())[-1]

    @property
    def rows(self) -> tuple[MethodResult, ...]:
        """All results in the order in which reports show them, the chosen one last."""
        after = [each for each in (self.formulation, *self.searched.values(), self.rerouted) if each is not None]
        return (*self.seeds, *after)


@dataclass(frozen=True, eq=False)
class LayerResult:
    """The plan of one layer, how it was found, and sentences that the user should read."""

    plan: Plan
    solution: LayerSolution
    notes: list[str]


def solve(
    problem: Problem, sets: Sets, options: SolveOptions, effort: Effort | None = None, progress: Progress = silent
) -> LayerSolution:
    """Plan on train batches, choose on selection batches and judge on test batches, under the best of the routing
    policies of the options; seeds are judged under the first of them.

    effort: None for that of the options, from now on. Once its cancel token is asked, planning ends with the best that
    it has; from the first judged seed on the token is heeded.
    """
    effort = effort or options.effort()
    affords = affordable(problem, sets, options, effort)
    sets, options = affords.sets, affords.options
    used = used_slots(problem, sets, options, effort, progress)
    portfolio = Portfolio.of(used.problem, sets, options)
    portfolio.remarks.extend((*affords.says, *used.says))
    seeds = Seeds.judged(portfolio, effort, progress)
    started = time.monotonic()
    bounds = bound_any(sets.test, problem.model, problem.mesh, problem.cost, has_time_for_groups(effort))
    bounding = time.monotonic() - started
    started = time.monotonic()
    finish = MOST_BOUNDING * bounding + options.shares.finish * effort.deadline.seconds
    if not effort.cancel.asked:
        told = told_so_far(progress, portfolio, effort.deadline)
        portfolio.search(seeds.found, effort, effort.deadline.seconds - finish, told)
    portfolio.fall_back(seeds.found)
    portfolio.settle()
    convergence = portfolio.convergence
    seconds = time.monotonic() - started
    progress("judging", 1.0)
    portfolio.tell_hints(effort)
    searched, rerouted = _searched(portfolio, seconds, effort), None
    if options.max_rerouted is not None:
        best = limited(portfolio, options.max_rerouted, effort.cancel)
        rerouted = best and MethodResult("rerouted", best.placement, seconds, run(portfolio, best, sets.test))
    plan, chance = rerouted or list(searched.values())[-1], None
    if not effort.cancel.asked:  # they take seconds, which somebody who has asked for the end does not want to wait
        if rerouted is None:
            chance = chance_of(portfolio.pools[plan.report.routing].judge, plan.placement)
        bounds += bound_given(sets.test, problem.model, used.problem.mesh, problem.cost, plan.placement)
    if plan.report.rerouting is not None:
        bounds = []  # they are of tokens that are served by their own experts
    solution = LayerSolution(
        tuple(seeds.constructed),
        seeds.formulation,
        searched,
        rerouted,
        seeds.outcome,
        problem.free_counts,
        problem.cost.unit,
        gaps_of(bounds, plan.report),
        portfolio.candidates,
        seeds.first_result,
        sets,
        tuple(portfolio.remarks),
        chance,
        convergence,
    )
    return _on_all_slots(solution, used, portfolio, effort.cancel) if used.some_are_empty else solution


def _on_all_slots(solution: LayerSolution, used: UsedSlots, portfolio: Portfolio, cancel: Cancel) -> LayerSolution:
    """A solution in the slots that are used with placements that have the empty ones, too. Its seeds are named by the
    slots that they use, and before them is, unless the end was asked for, greedy's placement in all slots, as EPLB's
    scheme would have it."""
    full = [] if cancel.asked else [_greedy_on_all(used, portfolio)]

    def padded(result: MethodResult) -> MethodResult:
        report = replace(result.report, network=used.asked.network)
        return replace(result, placement=used.on_all(result.placement), report=report)

    def named(result: MethodResult) -> MethodResult:
        return replace(padded(result), method=f"{result.method}, {used.in_words}")

    return replace(
        solution,
        seeds=(*full, *map(named, solution.seeds)),
        formulation=solution.formulation and named(solution.formulation),
        searched={name: padded(result) for name, result in solution.searched.items()},
        rerouted=solution.rerouted and padded(solution.rerouted),
    )


def _greedy_on_all(used: UsedSlots, portfolio: Portfolio) -> MethodResult:
    """Greedy's placement in all slots, and its figures on the test batches under the first policy."""
    started = time.monotonic()
    placement = greedy(used.asked)
    seconds = time.monotonic() - started
    judge = replace(portfolio.judge_of("greedy"), problem=used.asked)
    return MethodResult("greedy", placement, seconds, judge.test(placement))


@dataclass(eq=False)
class Seeds:
    """The candidates of the constructions and of the formulation, and their results; after an early end those that
    there are. first_result: seconds until the first was judged."""

    found: list[Candidate] = field(default_factory=list)
    constructed: list[MethodResult] = field(default_factory=list)
    formulation: MethodResult | None = None
    outcome: Outcome[Ints] | None = None
    first_result: float = 0.0

    @classmethod
    def judged(cls, portfolio: Portfolio, effort: Effort, progress: Progress) -> "Seeds":
        """Plan and judge each in turn, until the end is asked for; there is always one."""
        seeds = cls()
        with suppress(CompilationEnded), compiling_until(lambda: effort.cancel.asked and len(seeds.found) > 0):
            options, train = portfolio.options, portfolio.sets.train
            for candidate in all_seeds(portfolio.problem, train, options, effort, progress):
                seeds._add(candidate, portfolio.judge_of(candidate.method).test(candidate.placement))
                seeds.first_result = seeds.first_result or effort.deadline.elapsed()
                effort.cancel.heed()
        return seeds

    def _add(self, candidate: Candidate, report: SimulationReport) -> None:
        """Keep a candidate, and its result."""
        result = MethodResult(candidate.method, candidate.placement, candidate.seconds, report, candidate.says)
        if candidate.outcome is None:
            self.constructed.append(result)
        else:
            self.formulation, self.outcome = result, candidate.outcome
        self.found.append(candidate)


def _searched(portfolio: Portfolio, seconds: float, effort: Effort) -> dict[str, MethodResult]:
    """The best candidate of each policy on the test batches, the chosen policy's last, and alone after an early end."""
    chosen = portfolio.chosen()
    others = [] if effort.cancel.asked else [name for name in portfolio.pools if name != chosen]

    def tested(name: str) -> MethodResult:
        pool = portfolio.pools[name]
        placement = pool.placements[pool.best()]
        return MethodResult("search", placement, seconds, pool.judge.test(placement))

    with ThreadPoolExecutor(effort.jobs) as threads:
        return {result.report.routing: result for result in threads.map(tested, (*others, chosen))}


def plan_tokens(
    source: Source,
    layer: int,
    mesh: Mesh,
    cost: Cost,
    options: SolveOptions,
    effort: Effort | None = None,
    progress: Progress = silent,
    start: Plan | None = None,
) -> LayerResult:
    """Plan one layer of a source of batches for the best of the routing policies of the options.

    effort and early ends as of `solve`; start: a plan to start from, besides the seeds. Raises InputError where the
    model does not fit the mesh, or the start does not fit what is asked for.
    """
    sets = source.sets(layer)
    load = sets.train.load(source.model.experts)
    problem = make_problem(source.model, mesh, cost, load, options.constraints, layer)
    solution = solve(started(problem, start, layer), sets, options, effort, progress)
    chosen = solution.chosen
    check(problem, chosen.placement)
    provenance = provenance_of(source, layer, solution.sets, options.seed)
    provenance |= {"method": chosen.method, "candidates": solution.candidates}
    judge = LayerJudge(problem, solution.sets, replace(options.conditions, routing=chosen.report.routing))
    part = part_of(judge, chosen.placement, chosen.report, solution.gaps, provenance)
    part = replace(part, convergence=solution.convergence)
    limit = chosen.report.rerouting
    factor = None if limit is None else limit.capacity_factor
    routing, price, hints = chosen.report.routing, chosen.report.price_us, chosen.report.hints
    plan = Plan(problem.model, mesh, cost.name, routing, {layer: part}, options.unit, factor, price, hints)
    return LayerResult(plan, solution, [source.origin, *source.notes])


def provenance_of(source: Source, layer: int, sets: Sets, seed: int) -> dict[str, Any]:
    """What a layer's plan says that it is made from, all but the method, which the caller adds."""
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
    judge: LayerJudge, placement: Placement, report: SimulationReport, found: Sequence[Gap], provenance: dict[str, Any]
) -> LayerPlan:
    """One layer for the plan file: the placement, how it was judged, and what train batches teach its policy."""
    bounds = {gap.unit: gap.summary() for gap in found}
    return LayerPlan(placement, report.summary(), bounds, provenance, judge.taught(placement))
