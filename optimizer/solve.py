"""One layer from batches to a judged placement: wiring only."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version

import numpy as np

from formulations.arrays import Ints
from formulations.bounds import any_placement_bound, hottest_expert_bound
from formulations.layer_placement import Instance, place_replicas
from formulations.outcome import Outcome
from formulations.solver import Limits
from optimizer.inputs import Source
from optimizer.placement import Placement
from optimizer.plan import LayerPlan, Plan
from optimizer.problem import Problem
from optimizer.search.choose import choose, figures
from optimizer.search.multistart import multistart
from optimizer.search.stop import Budget, Deadline
from optimizer.seeds.greedy import greedy
from optimizer.seeds.orders import random_permutation, sequential
from optimizer.seeds.pairing import pairing
from optimizer.simulator import SimulationReport, simulate
from optimizer.traces.batches import Batches

ROUTING = "even"  # what seeds, formulation and search all plan for
FORMULATION_SHARE, FORMULATION_SECONDS = (
    0.2,
    10.0,
)  # CP-SAT gets this share of the time left, at most so many seconds
FORMULATION_WORK = 4.0  # its limit in deterministic units where moves are counted instead of seconds
FINISH_SHARE = 0.02  # of the time limit, kept for judging and writing, besides what one judgement was measured to take

Notify = Callable[[str, float], None]


@dataclass(frozen=True)
class Effort:
    """How long to try: until the deadline, or for this many evaluated moves if that comes first."""

    deadline: Deadline
    seed: int = 0
    evaluations: int | None = None


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
    bounds: dict[str, float]
    candidates: int
    first_result: float


@dataclass(eq=False)
class _Bench:
    """Candidates in the order they came, with what the selection batches say of them."""

    problem: Problem
    test: Batches
    rows: list[Row] = field(default_factory=list)

    def judged(self, placement: Placement, batches: Batches) -> SimulationReport:
        problem = self.problem
        return simulate(placement, batches, problem.model.experts, problem.mesh, problem.cost, ROUTING)

    def add(self, method: str, placement: Placement, seconds: float) -> None:
        self.rows.append(Row(method, placement, seconds, self.judged(placement, self.test)))

    def placement(self, method: str) -> Placement:
        return next(row.placement for row in self.rows if row.method == method)


def solve(problem: Problem, test: Batches, effort: Effort, notify: Notify) -> Solution:
    """Plan on train batches (seeds, formulation, search), choose on selection batches, judge on test batches."""
    bench = _Bench(problem, test)
    notify("seeds", 0.0)
    for method, construct in _seeds(effort.seed).items():
        started = time.monotonic()
        placement = construct(problem)
        bench.add(method, placement, time.monotonic() - started)
    first_result = effort.deadline.elapsed()
    started = time.monotonic()
    bench.judged(bench.placement("greedy"), test)
    reserve = 4 * (time.monotonic() - started) + FINISH_SHARE * effort.deadline.seconds
    outcome = _formulate(bench, effort, notify)
    candidates = _search(bench, effort, reserve, notify)
    notify("judging", 1.0)
    return Solution(bench.rows, outcome, bounds_for(problem, test, bench.rows[-1]), candidates, first_result)


def _seeds(seed: int) -> dict[str, Callable[[Problem], Placement]]:
    return {
        "sequential": sequential,
        "random": lambda problem: random_permutation(problem, np.random.default_rng(seed)),
        "pairing": pairing,
        "greedy": greedy,
    }


def _formulate(bench: _Bench, effort: Effort, notify: Notify) -> Outcome[Ints]:
    """CP-SAT for the greedy replica counts, hinted with the greedy placement, which stands if nothing is found."""
    notify("formulation", 0.0)
    problem, hint = bench.problem, bench.placement("greedy")
    mesh = problem.mesh
    instance = Instance(
        load=problem.total_load,
        count=hint.counts(problem.model.experts),
        spread=problem.spread,
        rows=mesh.rows,
        cols=mesh.cols,
        slots_per_device=mesh.slots_per_device,
    )
    outcome = place_replicas(instance, hint.slots, _formulation_limits(effort))
    placement = hint if outcome.value is None else Placement(outcome.value)
    bench.add("formulation", placement, outcome.runtime)
    return outcome


def _formulation_limits(effort: Effort) -> Limits:
    """A share of the time left; where moves are counted, solver work is too, so that the clock decides nothing."""
    if effort.evaluations is not None:
        return Limits(effort.deadline.remaining(), deterministic=FORMULATION_WORK, seed=effort.seed)
    return Limits(min(FORMULATION_SHARE * effort.deadline.remaining(), FORMULATION_SECONDS), seed=effort.seed)


def _search(bench: _Bench, effort: Effort, reserve: float, notify: Notify) -> int:
    """Descents from the seeds; adds the candidate that the selection batches favour, returns how many there were."""
    started = time.monotonic()
    starts = [bench.placement(method) for method in ("greedy", "formulation", "pairing")]
    pool = [*starts]
    judged = [figures(bench.judged(placement, bench.problem.selection)) for placement in pool]
    budget = Budget(effort.deadline, effort.deadline.seconds - reserve, effort.evaluations)
    rng = np.random.default_rng(effort.seed)
    for placement in multistart(bench.problem, starts, budget, rng, lambda share: notify("search", share)):
        pool.append(placement)
        judged.append(figures(bench.judged(placement, bench.problem.selection)))
    bench.add("search", pool[choose(judged, baseline=0)], time.monotonic() - started)
    return len(pool)


def bounds_for(problem: Problem, test: Batches, row: Row) -> dict[str, float]:
    """Bounds on the mean over test batches of peak / mean device load, and the relative gap of a row to each.

    `any_placement` holds for every placement in these slots and every routing, `these_counts` for every placement
    with this row's replica counts.
    """
    mesh, load = problem.mesh, test.load(problem.model.experts)
    mean_load = load.sum(axis=1) / mesh.devices
    counts = row.placement.counts(problem.model.experts)
    free = any_placement_bound(load, mesh.devices, mesh.slots)
    fixed = np.maximum(free, hottest_expert_bound(load, counts))
    reached = float(row.report.imbalance.mean())
    found = {
        "any_placement": float((free / mean_load).mean()),
        "these_counts": float((fixed / mean_load).mean()),
    }
    gaps = {f"gap_to_{name}": reached / bound - 1 for name, bound in found.items()}
    return {"imbalance": reached} | found | gaps


def as_plan(solution: Solution, problem: Problem, source: Source, layer: int, seed: int) -> Plan:
    """The plan file's content: the last row, with where it came from."""
    chosen = solution.rows[-1]
    provenance = {
        "moeplan": version("moeplan"),
        "method": chosen.method,
        "seed": seed,
        "origin": source.origin,
        "traces": source.fingerprint(layer),
        "batch_tokens": chosen.report.tokens,
        "train_batches": problem.train.count,
        "selection_batches": problem.selection.count,
        "test_batches": len(chosen.report.hops),
        "candidates": solution.candidates,
    }
    part = LayerPlan(chosen.placement, chosen.report.summary(), solution.bounds, provenance)
    return Plan(problem.model, problem.mesh, problem.cost.name, ROUTING, {layer: part})
