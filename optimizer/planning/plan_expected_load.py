"""Planning where there are counts and no tokens: the expected load of devices, and nothing that needs a batch."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from formulations.kit.arrays import Floats, Ints
from formulations.kit.outcome import Outcome
from optimizer import __version__
from optimizer.domain.cost import Cost
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.placement import Placement
from optimizer.domain.problem import Problem, check, make_problem
from optimizer.errors import InputError
from optimizer.planning.bounds import IMBALANCE, Bound, Gap, bound_steps, gaps
from optimizer.planning.candidates import SEARCHES, Candidate, SearchShare, seeds_and_formulation, split_evenly
from optimizer.planning.options import BY_TOKENS, Effort, Progress, SolveOptions, silent
from optimizer.planning.plan_file import LayerPlan, Plan
from optimizer.planning.warm_start import started
from optimizer.routing.policies import price_us
from optimizer.search.multistart import DescentGoal
from optimizer.search.stop import SearchBudget
from optimizer.traces.formats.counts import Counts, step_counts

ROUTING = "even-source"
STEP_PAIRS = 1 << 18  # pairs that each step is scaled to, so that small and large steps weigh the same
HELD_OUT = 5  # every fifth step is kept for judging
FINISH_SECONDS = 0.3  # kept for judging and writing the plan; generous, not measured


@dataclass(frozen=True, eq=False)
class ExpectedMethodResult:
    """One method's placement, its planning time in seconds, and peak / mean expected device load per step."""

    method: str
    placement: Placement
    seconds: float
    imbalance: Floats


@dataclass(frozen=True, eq=False)
class ExpectedSolution:
    """What planning one layer of counts came to, all judged on the test steps.

    seeds: of the given start and the constructions. formulation, and outcome, which is the formulation's: None where an
    early end came before it. chosen: the best of all, which becomes the plan. gaps: of the chosen one to its bounds.
    unseen: whether the test steps are steps that nothing was planned on.
    """

    seeds: tuple[ExpectedMethodResult, ...]
    formulation: ExpectedMethodResult | None
    chosen: ExpectedMethodResult
    outcome: Outcome[Ints] | None
    gaps: list[Gap]
    unseen: bool

    @property
    def rows(self) -> tuple[ExpectedMethodResult, ...]:
        """All results in the order in which reports show them, the chosen one last."""
        return (*self.seeds, *([] if self.formulation is None else [self.formulation]), self.chosen)


@dataclass(frozen=True, eq=False)
class ExpectedResult:
    """The plan of one layer of counts, how it was found, and sentences that the user should read."""

    plan: Plan
    solution: ExpectedSolution
    notes: list[str]


def step_loads(counts: Counts, layer: int, model: Model) -> Ints:
    """Scaled pairs of each expert, shared ones included, in each step that counted anything, `[step, expert]` int32.

    Raises InputError for a layer or a number of experts that the counts do not have.
    """
    routed = step_counts(counts, layer)
    if routed.shape[1] != model.routed_experts:
        raise InputError(
            f"{counts.source} counts {routed.shape[1]} experts, not {model.routed_experts}; name another model, or say "
            "how many experts are routed",
            field="routed_experts",
        )
    tokens = routed.sum(axis=1, keepdims=True) / model.top_k
    load = np.concatenate([routed, np.repeat(tokens, model.shared_experts, axis=1)], axis=1)
    return equal_steps(load)


def equal_steps(load: Ints | Floats) -> Ints:
    """The loads `[step, expert]` with every step scaled to `STEP_PAIRS` pairs, int32."""
    scaled: Ints = np.rint(load * (STEP_PAIRS / load.sum(axis=1, keepdims=True))).astype(np.int32)
    return scaled


def check_limits(options: SolveOptions) -> None:
    """Raise InputError for what counts cannot give: a limit to the traffic between rows, and seeds by tokens."""
    unmade = [name for name in options.seeds or () if name in BY_TOKENS]
    if unmade:
        raise InputError(f"the seed {unmade[0]} needs token traces: counts do not say what is chosen together", "seeds")
    if options.constraints.row_traffic is not None:
        raise InputError(
            "a limit to the traffic between rows needs token traces: counts do not say from which rows tokens come",
            field="max_row_traffic",
        )


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


def solve_expected(
    problem: Problem, test: Ints, unseen: bool, options: SolveOptions, effort: Effort, progress: Progress
) -> ExpectedSolution:
    """Plan on the problem's steps for the least summed peak, judge on the test steps `[step, expert]`.

    Once the effort's cancel token is asked, it ends with the best so far; from the first seed on the token is heeded.
    """
    found = list(constructed(problem, options, effort, progress))
    started = time.monotonic()
    pool = [*(candidate.placement for candidate in found), *searched(problem, found, options, effort, progress)]
    best = min(pool, key=lambda placement: float(expected_imbalance(placement, problem.load).mean()))
    chosen = _judged(Candidate("search", best, time.monotonic() - started), test)
    formulated = next((candidate for candidate in found if candidate.outcome is not None), None)
    return ExpectedSolution(
        tuple(_judged(candidate, test) for candidate in found if candidate is not formulated),
        None if formulated is None else _judged(formulated, test),
        chosen,
        None if formulated is None else formulated.outcome,
        gaps(
            [*bound_steps(test, problem.mesh), *_by_formulation(problem, unseen, formulated)],
            {IMBALANCE: float(chosen.imbalance.mean())},
        ),
        unseen,
    )


def _by_formulation(problem: Problem, unseen: bool, formulated: Candidate | None) -> list[Bound]:
    """The bound that the formulation proves for any placement.

    There is none where it kept counts, or planned on other loads than those of the one step that is judged.
    """
    outcome = None if formulated is None else formulated.outcome
    if outcome is None or unseen or len(problem.load) > 1 or not problem.free_counts:
        return []
    says = "the formulation: no counts and placement of these experts have a lower peak"
    mean = float(problem.total_load.sum()) / problem.mesh.devices
    return [Bound("formulation", IMBALANCE, says, outcome.lower_bound / mean)]


def constructed(problem: Problem, options: SolveOptions, effort: Effort, progress: Progress) -> Iterator[Candidate]:
    """One candidate of each seed and of the formulation; from the first on the effort's cancel token is heeded."""
    for candidate in seeds_and_formulation(problem, effort, progress, options.shares, options.seeds):
        yield candidate
        effort.cancel.heed()


def searched(
    problem: Problem, found: list[Candidate], options: SolveOptions, effort: Effort, progress: Progress
) -> list[Placement]:
    """What searches from what was found come to, for the least summed peak of the problem's steps; none once the
    effort's cancel token is asked."""
    if effort.cancel.asked:
        return []
    budget = SearchBudget(effort.deadline, effort.deadline.seconds - FINISH_SECONDS, effort.iterations)
    spell = SearchShare(budget, effort.seed, effort.jobs, progress)
    return list(
        split_evenly(
            problem, expected_goal(problem), found, SEARCHES[effort.search][0] or "descent", spell, options.tabu
        )
    )


def expected_goal(problem: Problem) -> DescentGoal:
    """What searches minimise: the sum over steps of the peak expected load, and nothing that needs tokens."""
    experts = problem.model.experts
    value = np.arange(int(problem.load.max()) + 1)
    return DescentGoal(value, np.zeros((experts, experts), dtype=np.int64), tail_weight=0)


def _judged(candidate: Candidate, test: Ints) -> ExpectedMethodResult:
    """A candidate on the test steps `[step, expert]`."""
    imbalance = expected_imbalance(candidate.placement, test)
    return ExpectedMethodResult(candidate.method, candidate.placement, candidate.seconds, imbalance)


def plan_counts(
    counted: tuple[Counts, Model],
    layer: int,
    mesh: Mesh,
    cost: Cost,
    options: SolveOptions,
    effort: Effort | None = None,
    progress: Progress = silent,
    start: Plan | None = None,
) -> ExpectedResult:
    """Plan one layer of counts, as `source.open_counts` gives them with their model.

    Of the options, routing policies, units and rerouting do not apply. effort: None for that of the options, from now
    on. start: a plan to start from, besides the seeds. Raises InputError for a limit to traffic between rows, for a
    layer that the counts lack, and where the model does not fit the mesh.
    """
    (counts, model), effort = counted, effort or options.effort()
    check_limits(options)
    model.check_layers([layer])
    train, test, unseen = split_steps(step_loads(counts, layer, model))
    problem = make_problem(model, mesh, cost, train, options.constraints)
    solution = solve_expected(started(problem, start, layer), test, unseen, options, effort, progress)
    chosen = solution.chosen
    check(problem, chosen.placement)
    quality = {"expected_imbalance": {"mean": float(chosen.imbalance.mean()), "max": float(chosen.imbalance.max())}}
    provenance = {
        "moeplan": __version__,
        "method": chosen.method,
        "seed": options.seed,
        "origin": counts.source,
        "train_steps": len(train),
        "test_steps": len(test),
        "unseen_test_steps": unseen,
    }
    part = LayerPlan(chosen.placement, quality, {gap.unit: gap.summary() for gap in solution.gaps}, provenance)
    note = f"{counts.source}: counts alone, so the expected load is planned; p99 and co-activation need token traces"
    plan = Plan(model, mesh, cost.name, ROUTING, {layer: part}, price_us=price_us(cost, ROUTING))
    return ExpectedResult(plan, solution, [note, *counts.notes])
