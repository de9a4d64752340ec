"""Running the cases of the experiment: every method plans both settings of a layer, and every plan is judged under all
policies and capacities."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, NamedTuple

import numpy as np

from optimizer.domain.placement import Placement
from optimizer.domain.problem import Problem, check
from optimizer.experiments.optimisation_steps.settings import ROUTED, StepSetting
from optimizer.experiments.optimisation_steps.step_row import Block, Place, StepJournal, StepRow
from optimizer.experiments.program_version import program_version
from optimizer.interrupts import Cancel
from optimizer.planning.candidates import Candidate, seeds_and_formulation
from optimizer.planning.capacity_choice import Limited, limited, run
from optimizer.planning.options import Effort, Progress, SolveOptions
from optimizer.planning.portfolio import Portfolio
from optimizer.search.stop import Deadline
from optimizer.simulation.report import SimulationReport
from optimizer.traces.batches import Batches, Sets

OPTIMIZED: Literal["optimized"] = "optimized"
FUNCTIONAL: Literal["functional"] = "functional"
SEQUENTIAL, SEARCH = "sequential", "search"
METHODS = (SEQUENTIAL, "pairing", "greedy", "formulation", SEARCH)
EVEN, OPTIMAL = "even-source", "optimal"
POLICIES = (EVEN, "least-loaded", OPTIMAL)
FACTORS = (None, 1.0, 1.5, 2.0, 3.0, 4.0)
"""The capacities that every plan is judged with, in mean loads of a slot; None is no capacity."""

MOST_REROUTED = 0.01
"""The share of pairs that a capacity may reroute; a round number, not tuned. For a search's plan the fastest capacity
that keeps to the share is judged besides FACTORS."""

SELECTION_BATCHES = 256  # on which rows are chosen; a compromise with the time of judging
COMPILATION_SECONDS, COMPILATION_MOVES, COMPILATION_BATCHES = 60.0, 500, 4
"""What the run that only compiles may spend, and its batches; enough to reach all code, not tuned."""


class Op(NamedTuple):
    """A method, and the MoE op that its plan is judged with."""

    moe_op: str
    method: str


class Trial(NamedTuple):
    """A placement, to be judged under a policy and a capacity; None is no capacity."""

    policy: str
    placement: Placement
    capacity_factor: float | None

    @property
    def place(self) -> Place:
        """By what its row differs from others of the block."""
        return self.policy, self.capacity_factor


@dataclass(frozen=True)
class Terms:
    """What each planning may spend.

    limit: seconds; moves: those that a search may evaluate, None for any number; seed: that of all methods.
    """

    limit: float
    moves: int | None
    seed: int

    def effort(self) -> Effort:
        """The effort of one planning, whose time starts now."""
        return Effort(Deadline(self.limit), self.seed, self.moves)


@dataclass(frozen=True, eq=False)
class StepCase:
    """One setting of one layer of a data set."""

    dataset: str
    layer: int
    setting: StepSetting
    terms: Terms

    @property
    def problem(self) -> Problem:
        """The problem to be planned, for the optimized op."""
        return self.setting.problem

    @property
    def ops(self) -> list[Op]:
        """All methods for the optimized op, and for the functional op the placement where the steps begin.

        Hardware without a functional op has none.
        """
        begin = self.setting.name == ROUTED and self.problem.cost.preset.functional is not None
        return [Op(FUNCTIONAL, SEQUENTIAL)] * begin + [Op(OPTIMIZED, method) for method in METHODS]

    def block(self, op: Op) -> Block:
        """The block of the rows of a plan."""
        terms = self.terms
        where = self.dataset, self.layer, self.setting.name
        return (*where, *op, terms.seed, terms.limit, terms.moves, self.setting.digest)

    def missing(self, journal: StepJournal) -> list[Op]:
        """The plans of which the journal lacks a row."""
        known = {op: {row.place for row in journal.rows(self.block(op))} for op in self.ops}
        return [op for op in self.ops if not set(places(op)) <= known[op]]


def rows_of(case: StepCase, journal: StepJournal, notify: Progress) -> list[StepRow]:
    """The rows of a case. Plans that the journal has are not made again; the others are added to it, plan by plan."""
    missing = case.missing(journal)
    if missing:
        for rows in _made(case, missing, notify):
            journal.put(rows)
    return [row for op in case.ops for row in journal.rows(case.block(op))]


def compile_all(case: StepCase, notify: Progress) -> None:
    """Run all methods once on a few batches, so that no run spends its time on compiling."""
    few = Sets(*(batches.part(0, COMPILATION_BATCHES) for batches in case.setting.sets))
    problem = replace(case.problem, load=case.problem.load[:COMPILATION_BATCHES])
    setting = replace(case.setting, problem=problem, sets=few)
    terms = Terms(COMPILATION_SECONDS, COMPILATION_MOVES, case.terms.seed)
    for _ in _made(replace(case, setting=setting, terms=terms), case.ops, lambda *_: notify("compiling", 0.0)):
        pass


def _made(case: StepCase, ops: list[Op], notify: Progress) -> Iterator[list[StepRow]]:
    """Make the plans that are asked for, and give the rows of each."""
    portfolio = Portfolio.of(case.problem, case.setting.sets, SolveOptions(routings=POLICIES))
    found = list(seeds_and_formulation(case.problem, case.terms.effort(), notify))
    for candidate in found:
        placements = dict.fromkeys(POLICIES, candidate.placement)
        if (op := Op(FUNCTIONAL, candidate.method)) in ops:
            yield _rows(case, _functional(case), op, _trials(op, placements), candidate.seconds, notify)
        if (op := Op(OPTIMIZED, candidate.method)) in ops:
            yield _rows(case, portfolio, op, _trials(op, placements), candidate.seconds, notify)
    if (op := Op(OPTIMIZED, SEARCH)) in ops:
        started = time.monotonic()
        placements = _searched(portfolio, found, case.terms, notify)
        seconds = time.monotonic() - started
        yield _rows(case, portfolio, op, _suited(portfolio) + _trials(op, placements), seconds, notify)


def _functional(case: StepCase) -> Portfolio:
    """A portfolio that judges with the functional op."""
    problem = replace(case.problem, cost=replace(case.problem.cost, moe_op=FUNCTIONAL))
    return Portfolio.of(problem, case.setting.sets, SolveOptions(routings=(EVEN,)))


def places(op: Op) -> list[Place]:
    """The policies and capacities that a plan is judged under; with the functional op, where the steps begin, one."""
    if op.moe_op == FUNCTIONAL:
        return [(EVEN, None)]
    return [(policy, factor) for policy in POLICIES for factor in FACTORS]


def _trials(op: Op, placements: dict[str, Placement]) -> list[Trial]:
    """The trials of a plan that has a placement for each policy."""
    return [Trial(policy, placements[policy], factor) for policy, factor in places(op)]


def _searched(portfolio: Portfolio, found: list[Candidate], terms: Terms, notify: Progress) -> dict[str, Placement]:
    """The placement that one search, of the whole time, finds for each policy.

    Raises KeyboardInterrupt where the search was cut short, as that is no result of the experiment.
    """
    effort = terms.effort()
    portfolio.search(found, effort, terms.limit, notify)
    if effort.cancel.asked:
        raise KeyboardInterrupt
    return {policy: pool.placements[pool.best()] for policy, pool in portfolio.pools.items()}


def _suited(portfolio: Portfolio) -> list[Trial]:
    """A trial with the capacity that makes a search's placement fastest; none where no capacity makes it faster."""
    best = limited(portfolio, MOST_REROUTED, Cancel())
    return [] if best is None else [Trial(best.routing, best.placement, round(best.capacity_factor, 2))]


def _rows(
    case: StepCase, portfolio: Portfolio, op: Op, trials: list[Trial], seconds: float, notify: Progress
) -> list[StepRow]:
    """The rows of one plan, judged in threads; where two trials have the same policy and capacity, the later counts."""
    found = {}
    with ThreadPoolExecutor(portfolio.options.jobs) as threads:
        rows = threads.map(partial(_row, case, portfolio, op, seconds), trials)
        for done, (trial, row) in enumerate(zip(trials, rows, strict=True)):
            found[trial.place] = row
            notify(f"judging {op.method}", (done + 1) / len(trials))
    return list(found.values())


def _row(case: StepCase, portfolio: Portfolio, op: Op, seconds: float, trial: Trial) -> StepRow:
    """The row of one trial; seconds: what planning took."""
    check(case.problem, trial.placement)
    sets, mesh, terms = case.setting.sets, case.problem.mesh, case.terms
    report = _judged(portfolio, trial, sets.test)
    selection = _judged(portfolio, trial, sets.selection.part(0, SELECTION_BATCHES))
    imbalance, latency = (np.percentile(of, [50, 99]).tolist() for of in (report.imbalance, report.latency_us))
    mean, what = float(report.latency_us.mean()), report.rerouting
    bounded = what is None and op.moe_op == OPTIMIZED
    least = case.setting.bound if bounded else None
    return StepRow(
        version=program_version(),
        dataset=case.dataset,
        layer=case.layer,
        setting=case.setting.name,
        experts=case.problem.model.experts,
        slots=mesh.slots,
        moe_op=op.moe_op,
        method=op.method,
        policy=trial.policy,
        capacity_factor=trial.capacity_factor,
        seed=terms.seed,
        limit=terms.limit,
        moves=terms.moves,
        batches=report.batches,
        tokens=report.tokens,
        digest=case.setting.digest,
        imbalance_p50=imbalance[0],
        imbalance_p99=imbalance[1],
        tiles=float(report.tiles.mean()),
        latency_us=mean,
        latency_p50_us=latency[0],
        latency_p99_us=latency[1],
        rerouted=None if what is None else what.share(what.rerouted),
        over_capacity=None if what is None else what.share(what.over),
        gate_weight_kept=None if what is None else float(what.kept.mean()),
        selection_us=float(selection.latency_us.mean()),
        selection_rerouted=_wandering(selection),
        bound_us=None if least is None else least.mean,
        bound_p50_us=None if least is None else least.p50,
        bound_p99_us=None if least is None else least.p99,
        gap=None if least is None else mean / least.mean - 1,
        seconds=seconds,
    )


def _judged(portfolio: Portfolio, trial: Trial, batches: Batches) -> SimulationReport:
    """The trial simulated on some batches."""
    if trial.capacity_factor is None:
        return portfolio.pools[trial.policy].judge.on(trial.placement, batches)
    return run(portfolio, Limited(trial.policy, trial.placement, trial.capacity_factor), batches)


def _wandering(report: SimulationReport) -> float:
    """The share of pairs that are rerouted or, for want of room, served over capacity; 0 without a capacity."""
    what = report.rerouting
    return 0.0 if what is None else what.share(what.rerouted + what.over)
