"""Planning where there are counts and no tokens: the expected load of devices, and nothing that needs a batch."""

import time
from dataclasses import dataclass

import numpy as np

from formulations.kit.arrays import Floats, Ints
from formulations.kit.outcome import Outcome
from optimizer import __version__
from optimizer.domain.cost import Cost
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.placement import Placement
from optimizer.domain.problem import Constraints, Problem, check, make_problem
from optimizer.errors import InputError
from optimizer.planning.bounds import IMBALANCE, Gap, bound_steps, gaps
from optimizer.planning.candidates import (
    SEARCHES,
    Candidate,
    Effort,
    Notify,
    SearchShare,
    seeds_and_formulation,
    split_evenly,
)
from optimizer.planning.plan_file import LayerPlan, Plan
from optimizer.planning.warm_start import started
from optimizer.search.multistart import DescentGoal
from optimizer.search.stop import SearchBudget
from optimizer.traces.formats.counts import Counts, step_counts

ROUTING = "even"
STEP_PAIRS = 1 << 18  # pairs that each recorded step is scaled to: small and large steps weigh alike
HELD_OUT = 5  # every fifth step is kept for judging
FINISH_SECONDS = 0.3


@dataclass(frozen=True, eq=False)
class ExpectedMethodResult:
    """One method's placement, its planning time in seconds, and peak / mean expected device load per step."""

    method: str
    placement: Placement
    seconds: float
    imbalance: Floats


@dataclass(frozen=True, eq=False)
class ExpectedSolution:
    """All methods' rows, `search` last; `unseen` is whether they are judged on steps that nothing was planned on."""

    rows: list[ExpectedMethodResult]
    outcome: Outcome[Ints]
    gaps: list[Gap]
    unseen: bool


def step_loads(counts: Counts, layer: int, model: Model) -> Ints:
    """Scaled pairs of each expert, shared ones included, in each step that counted anything, `[step, expert]` int32.

    Raises InputError for a layer or a number of experts that the counts do not have.
    """
    routed = step_counts(counts, layer)
    if routed.shape[1] != model.routed_experts:
        raise InputError(
            f"{counts.source} counts {routed.shape[1]} experts, not {model.routed_experts}; "
            "set --model or --routed-experts"
        )
    tokens = routed.sum(axis=1, keepdims=True) / model.top_k
    load = np.concatenate([routed, np.repeat(tokens, model.shared_experts, axis=1)], axis=1)
    scaled: Ints = np.rint(load * (STEP_PAIRS / load.sum(axis=1, keepdims=True))).astype(np.int32)
    return scaled


def split_steps(load: Ints) -> tuple[Ints, Ints, bool]:
    """Steps to plan on and to judge on, and whether they differ: with fewer than five steps all are used for both."""
    held = np.arange(len(load)) % HELD_OUT == HELD_OUT - 1
    return (load[~held], load[held], True) if held.any() else (load, load, False)


def expected_imbalance(placement: Placement, load: Ints) -> Floats:
    """Peak / mean expected device load of each step, each expert's load split evenly, `[step]`."""
    share = load / placement.counts(load.shape[1])
    padded = np.concatenate([share, np.zeros((len(load), 1))], axis=1)  # -1, an empty slot, finds the zero
    device = padded[:, placement.slots].sum(axis=2)
    ratio: Floats = device.max(axis=1) / device.mean(axis=1)
    return ratio


def solve_expected(problem: Problem, test: Ints, unseen: bool, effort: Effort, notify: Notify) -> ExpectedSolution:
    """Plan on the problem's steps for the least summed peak, judge on the test steps `[step, expert]`."""
    found = list(seeds_and_formulation(problem, effort, notify))
    started = time.monotonic()
    experts = problem.model.experts
    goal = DescentGoal(
        np.arange(int(problem.load.max()) + 1), np.zeros((experts, experts), dtype=np.int64), tail_weight=0
    )
    pool = [candidate.placement for candidate in found]
    budget = SearchBudget(effort.deadline, effort.deadline.seconds - FINISH_SECONDS, effort.iterations)
    search = SEARCHES[effort.search][0] or "descent"
    pool += split_evenly(problem, goal, found, search, SearchShare(budget, effort.seed, effort.jobs, notify))
    best = min(pool, key=lambda placement: float(expected_imbalance(placement, problem.load).mean()))
    found.append(Candidate("search", best, time.monotonic() - started))
    rows = [
        ExpectedMethodResult(
            candidate.method, candidate.placement, candidate.seconds, expected_imbalance(candidate.placement, test)
        )
        for candidate in found
    ]
    outcome = found[-2].outcome
    assert outcome is not None  # the formulation comes last but one
    return ExpectedSolution(
        rows, outcome, gaps(bound_steps(test, problem.mesh), {IMBALANCE: float(rows[-1].imbalance.mean())}), unseen
    )


def plan_counts(
    counts: Counts,
    model: Model,
    layer: int,
    mesh: Mesh,
    cost: Cost,
    constraints: Constraints,
    effort: Effort,
    notify: Notify,
    start: Plan | None = None,
) -> tuple[Plan, ExpectedSolution, list[str]]:
    """Plan one layer of counts: the plan, all figures, and sentences that the user should read. start: a plan to start
    from, too."""
    if constraints.row_traffic is not None:
        raise InputError("--max-row-traffic needs token traces: counts do not say from which rows tokens come")
    train, test, unseen = split_steps(step_loads(counts, layer, model))
    problem = make_problem(model, mesh, cost, train, *constraints)
    solution = solve_expected(started(problem, start, layer), test, unseen, effort, notify)
    chosen = solution.rows[-1]
    check(problem, chosen.placement)
    quality = {"expected_imbalance": {"mean": float(chosen.imbalance.mean()), "max": float(chosen.imbalance.max())}}
    provenance = {
        "moeplan": __version__,
        "method": chosen.method,
        "seed": effort.seed,
        "origin": counts.source,
        "train_steps": len(train),
        "test_steps": len(test),
        "unseen_test_steps": unseen,
    }
    part = LayerPlan(chosen.placement, quality, {gap.unit: gap.summary() for gap in solution.gaps}, provenance)
    note = f"{counts.source}: counts alone, so the expected load is planned; p99 and co-activation need token traces"
    return Plan(model, mesh, cost.name, ROUTING, {layer: part}), solution, [note]
