"""Running the experiments: every method plans both settings of a layer, and every plan is judged in all ways."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
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
EVEN, OPTIMAL = "even", "optimal"
POLICIES = (EVEN, "least-loaded", OPTIMAL)
FACTORS = (None, 1.0, 1.5, 2.0, 3.0, 4.0)
"""Capacities that every plan is judged with; 1 is the mean load of a slot."""

MOST_REROUTED = 0.01  # share of pairs; for a search the factor that suits it is judged as well
SELECTION_BATCHES = 256  # to choose between rows
COMPILATION_SECONDS, COMPILATION_MOVES, COMPILATION_BATCHES = 60.0, 500, 4


class Op(NamedTuple):
    """A method's plan under one of the MoE ops."""

    moe_op: str
    method: str


class Trial(NamedTuple):
    """A placement under a policy and a capacity, None for no limit."""

    policy: str
    placement: Placement
    capacity_factor: float | None

    @property
    def place(self) -> Place:
        """Where its row stands in the block."""
        return self.policy, self.capacity_factor


@dataclass(frozen=True)
class Terms:
    """What each planning may spend: seconds, and moves at most (None: no limit); the seed of all."""

    limit: float
    moves: int | None
    seed: int

    def effort(self) -> Effort:
        """With a clock that starts now."""
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
        """To be planned, for the optimized op."""
        return self.setting.problem

    @property
    def ops(self) -> list[Op]:
        """All methods for the optimized op, and for the functional one, if there is one, where all begin."""
        begin = self.setting.name == ROUTED and self.problem.cost.preset.functional is not None
        return [Op(FUNCTIONAL, SEQUENTIAL)] * begin + [Op(OPTIMIZED, method) for method in METHODS]

    def block(self, op: Op) -> Block:
        """Of the rows of a plan."""
        terms = self.terms
        where = self.dataset, self.layer, self.setting.name
        return (*where, *op, terms.seed, terms.limit, terms.moves, self.setting.digest)

    def missing(self, journal: StepJournal) -> list[Op]:
        """The plans that the journal does not have all rows of."""
        known = {op: {row.place for row in journal.rows(self.block(op))} for op in self.ops}
        return [op for op in self.ops if not set(places(op)) <= known[op]]


def rows_of(case: StepCase, journal: StepJournal, notify: Progress) -> list[StepRow]:
    """The rows of a case. What the journal has is not run again; the rest is added to it, plan by plan."""
    missing = case.missing(journal)
    if missing:
        for rows in _made(case, missing, notify):
            journal.put(rows)
    return [row for op in case.ops for row in journal.rows(case.block(op))]


def compile_all(case: StepCase, notify: Progress) -> None:
    """Run everything once on a few batches, so that the time of no run is spent on compiling."""
    few = Sets(*(batches.part(0, COMPILATION_BATCHES) for batches in case.setting.sets))
    problem = replace(case.problem, load=case.problem.load[:COMPILATION_BATCHES])
    setting = replace(case.setting, problem=problem, sets=few)
    terms = Terms(COMPILATION_SECONDS, COMPILATION_MOVES, case.terms.seed)
    for _ in _made(replace(case, setting=setting, terms=terms), case.ops, lambda *_: notify("compiling", 0.0)):
        pass


def _made(case: StepCase, ops: list[Op], notify: Progress) -> Iterator[list[StepRow]]:
    """The rows of each of the plans that are asked for."""
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
    problem = replace(case.problem, cost=replace(case.problem.cost, moe_op=FUNCTIONAL))
    return Portfolio.of(problem, case.setting.sets, SolveOptions(routings=(EVEN,)))


def places(op: Op) -> list[Place]:
    """Under what every plan is judged; that for the functional op is only where all begin."""
    if op.moe_op == FUNCTIONAL:
        return [(EVEN, None)]
    return [(policy, factor) for policy in POLICIES for factor in FACTORS]


def _trials(op: Op, placements: dict[str, Placement]) -> list[Trial]:
    return [Trial(policy, placements[policy], factor) for policy, factor in places(op)]


def _searched(portfolio: Portfolio, found: list[Candidate], terms: Terms, notify: Progress) -> dict[str, Placement]:
    """What one search of the whole time finds for each policy. Raises KeyboardInterrupt where it ended early, as what
    it has found by then is no result."""
    effort = terms.effort()
    portfolio.search(found, effort, terms.limit, notify)
    if effort.cancel.asked:
        raise KeyboardInterrupt
    return {policy: pool.placements[pool.best()] for policy, pool in portfolio.pools.items()}


def _suited(portfolio: Portfolio) -> list[Trial]:
    """The capacity that makes a search's placement fastest, where one does."""
    best = limited(portfolio, MOST_REROUTED, Cancel())
    return [] if best is None else [Trial(best.routing, best.placement, round(best.capacity_factor, 2))]


def _rows(
    case: StepCase, portfolio: Portfolio, op: Op, trials: list[Trial], seconds: float, notify: Progress
) -> list[StepRow]:
    """Of one plan; of trials under the same conditions the last."""
    found = {}
    for done, trial in enumerate(trials):
        notify(f"judging {op.method}", done / len(trials))
        check(case.problem, trial.placement)
        found[trial.place] = _row(case, portfolio, op, trial, seconds)
    return list(found.values())


def _row(case: StepCase, portfolio: Portfolio, op: Op, trial: Trial, seconds: float) -> StepRow:
    sets, mesh, terms = case.setting.sets, case.problem.mesh, case.terms
    report = _judged(portfolio, trial, sets.test)
    selection = _judged(portfolio, trial, sets.selection.part(0, SELECTION_BATCHES))
    imbalance, latency = (np.percentile(of, [50, 99]).tolist() for of in (report.imbalance, report.latency_us))
    mean, what = float(report.latency_us.mean()), report.rerouting
    bounded = what is None and op.moe_op == OPTIMIZED
    least = case.setting.floor if bounded else None
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
    if trial.capacity_factor is None:
        return portfolio.pools[trial.policy].judge.on(trial.placement, batches)
    return run(portfolio, Limited(trial.policy, trial.placement, trial.capacity_factor), batches)


def _wandering(report: SimulationReport) -> float:
    """Share of pairs that are rerouted or, for want of room, served over capacity; none without a capacity."""
    what = report.rerouting
    return 0.0 if what is None else what.share(what.rerouted + what.over)
