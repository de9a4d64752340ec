"""The candidates for one layer, in the order in which they are ready: seeds, formulation, then descents from them."""

import time
from collections import deque
from collections.abc import Callable, Collection, Container, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Literal

import numpy as np

from formulations.expected_load.joint_placement import JointInstance, place_jointly
from formulations.expected_load.layer_placement import LayerInstance, place_replicas
from formulations.kit.arrays import Floats, Ints
from formulations.kit.outcome import Outcome
from formulations.kit.solver import Limits
from optimizer.domain.placement import Placement
from optimizer.domain.problem import Problem
from optimizer.planning.options import MEMORY, Effort, Progress, SearchName, SolveOptions
from optimizer.planning.portfolio_shares import USUAL, PortfolioShares
from optimizer.search.annealing import anneal
from optimizer.search.latency import LatencyPrices, LatencyWork, anneal_latency
from optimizer.search.moves import MoveRules
from optimizer.search.multistart import DescentGoal, multistart
from optimizer.search.neighbourhood import search_neighbourhoods
from optimizer.search.ring_state import RingDemand
from optimizer.search.seeds.flexibility import flexibility
from optimizer.search.seeds.greedy import greedy
from optimizer.search.seeds.orders import random_permutation, sequential
from optimizer.search.seeds.packing import Packing
from optimizer.search.seeds.pairing import pairing
from optimizer.search.seeds.risk import risk, risk_counts
from optimizer.search.seeds.steps import steps
from optimizer.search.side_by_side import Team
from optimizer.search.stop import SearchBudget
from optimizer.search.tabu import TabuMemory, tabu
from optimizer.streams import Purpose, derived_seed, random_stream

FLEXIBILITY = "flexibility"
"""The seed for policies that follow the load of the batch."""

FORMULATION_WORK = 4.0  # deterministic units that limit the formulation where moves are counted; untuned: a few seconds
STARTS = ("start", "greedy", "steps", "rows", "partition", "formulation", "pairing")
"""The candidates from which descents for even routing begin, in turn."""

FINALISTS = 4  # placements that a search hands on to be judged: judging all that it passes would take its time

EvenSearch = Literal["descent", "tabu"]
SplitSearch = Literal["annealing", "lns"]
SEARCHES: dict[SearchName, tuple[EvenSearch | None, SplitSearch | None]] = {
    "auto": ("descent", "annealing"),
    "descent": ("descent", None),
    "tabu": ("tabu", None),
    "annealing": (None, "annealing"),
    "lns": (None, "lns"),
}
"""For each name that a user may give: what runs for even routing, and for routing that follows the batch's load."""


@dataclass(frozen=True)
class SearchShare:
    """What one search may spend, its seed, the threads that it may use, and who is told of its progress."""

    budget: SearchBudget
    seed: int
    threads: int
    progress: Progress

    @property
    def team(self) -> Team:
        """The chains and threads of the search."""
        return Team.of(self.budget, self.threads)


@dataclass(frozen=True, eq=False)
class Candidate:
    """A placement, the method that made it, and the seconds it took; outcome: the formulation's, with its bound; says:
    what a user should know of how it was made, in words."""

    method: str
    placement: Placement
    seconds: float
    outcome: Outcome[Ints] | None = None
    says: str = ""


def seeds_and_formulation(
    problem: Problem,
    effort: Effort,
    progress: Progress,
    shares: PortfolioShares = USUAL,
    wanted: Collection[str] | None = None,
    more: Iterable[Candidate] = (),
) -> Iterator[Candidate]:
    """One candidate of each: the given start, the constructions, and the formulation, which begins at greedy's.

    wanted: the names of the constructions besides greedy, None for all that look at loads; more: candidates that come
    before the formulation. Once the end is asked for there is no further one; the first is always there.
    """
    progress("seeds", 0.0)
    hint = None
    made = seeds(problem, effort.seed, None if wanted is None else {"greedy", *wanted})
    for candidate in chain(made, more):
        hint = candidate.placement if candidate.method == "greedy" else hint
        yield candidate
        if effort.cancel.asked:
            return
    assert hint is not None
    progress("formulation", 0.0)
    yield _formulated(problem, hint, effort, shares)


def seeds(problem: Problem, seed: int, wanted: Container[str] | None = None) -> Iterator[Candidate]:
    """One candidate of each of the given start and the constructions: of all, or of those whose names are wanted."""
    if problem.start is not None:
        yield Candidate("start", problem.start, 0.0)
    constructions: dict[str, Callable[[Problem], Placement]] = {
        "sequential": sequential,
        "random": lambda problem: random_permutation(problem, random_stream(Purpose.RANDOM_PLACEMENT, seed)),
        "pairing": pairing,
        "greedy": greedy,
        "risk": risk,
        "steps": steps,
        FLEXIBILITY: flexibility,
    }
    for method, construct in constructions.items():
        if wanted is not None and method not in wanted:
            continue
        started = time.monotonic()
        placement = construct(problem)
        yield Candidate(method, placement, time.monotonic() - started)


def split_evenly(
    problem: Problem,
    goal: DescentGoal,
    found: list[Candidate],
    search: EvenSearch,
    spell: SearchShare,
    memory: TabuMemory = MEMORY,
) -> Iterator[Placement]:
    """What a search for even routing ends with or passes, from the found candidates."""
    starts = [candidate.placement for method in STARTS for candidate in found if candidate.method == method]
    rng = random_stream(Purpose.DESCENT if search == "descent" else Purpose.TABU, spell.seed)
    common = problem, goal, starts, spell.budget, rng, lambda share: spell.progress(search, share)
    return multistart(*common, spell.team) if search == "descent" else tabu(*common, memory, spell.team)


def split_at_best(
    problem: Problem,
    start: Placement,
    units: Ints,
    known: Floats | None,
    search: SplitSearch,
    spell: SearchShare,
    options: SolveOptions,
) -> list[Placement]:
    """The best placements that a search passes from a start, the last ones first.

    units `[batch, expert]`: the loads that are levelled, in any unit; known `[batch, expert]`: by which loads batches
    are split, None for their own; the large-neighbourhood search knows these alone.
    """
    purpose = Purpose.ANNEALING if search == "annealing" else Purpose.NEIGHBOURHOODS
    rng, rules = random_stream(purpose, spell.seed), MoveRules.of(problem)
    told = lambda share: spell.progress(search, share)  # noqa: E731
    if search == "annealing":
        bettered = anneal(start, units, rules, spell.budget, rng, options.annealing, spell.team, told, known)
    else:
        asked = options.neighbourhood, told, spell.team
        bettered = search_neighbourhoods(start, units, rules, spell.budget, rng, *asked)
    return _finalists(bettered)


def shorten(
    problem: Problem,
    start: Placement,
    demand: RingDemand,
    prices: LatencyPrices,
    spell: SearchShare,
    better: Callable[[Placement], bool],
    options: SolveOptions,
) -> list[Placement]:
    """The best placements that a search for the latency of rings passes, the last ones first.

    It starts from a placement that is good in tiles. After the share `shares.early` of its time it is asked if what
    it has found is `better`, and given up with nothing if not. (At 1,024 and 2,048 tokens, where full devices decide
    how far tokens go, the search finds nothing that routing can use.)
    """
    rng, shares = random_stream(Purpose.LATENCY_SEARCH, spell.seed), [0.0]
    work, rules = LatencyWork(problem.cost.tiles(problem.load), demand, prices), MoveRules.of(problem)
    schedule, early = options.latency, options.shares.early
    bettered = anneal_latency(start, work, rules, spell.budget, rng, schedule, spell.team, shares.append)
    passed: list[Placement] = []
    asked = False
    for placement in bettered:
        passed.append(placement)
        spell.progress("latency", shares[-1])
        if not asked and shares[-1] >= early:
            asked = True
            if not better(placement):
                return []
    return _finalists(passed)


def _finalists(passed: Iterable[Placement]) -> list[Placement]:
    """The last placements that a search passes, which are its best, the very last first."""
    return [*deque(passed, FINALISTS)][::-1]


def _formulated(problem: Problem, hint: Placement, effort: Effort, shares: PortfolioShares) -> Candidate:
    """The formulation's placement of least peak expected load, or the hint, from which it begins, if that stands.

    Where no replica count is fixed, counts are chosen as well; where some are fixed, all counts of the hint are kept.
    """
    mesh, load, spread = problem.mesh, problem.total_load, problem.spread
    shape, limits = (mesh.rows, mesh.cols, mesh.slots_per_device), _limits(effort, shares)
    if problem.free_counts:
        outcome = place_jointly(JointInstance(load, spread, *shape, problem.most_replicas), hint.slots, limits)
    else:
        counts = hint.counts(problem.model.experts)
        outcome = place_replicas(LayerInstance(load, counts, spread, *shape), hint.slots, limits)
    placement = hint if outcome.value is None else filled(problem, Placement(outcome.value))
    return Candidate("formulation", placement, outcome.runtime, outcome)


def filled(problem: Problem, placement: Placement) -> Placement:
    """The placement with as many replicas as there may be. Those that the formulation has no use for, as the peak of
    the expected load is no lower with them, go one by one to the expert with the largest load per replica."""
    load, counts = problem.total_load.astype(np.float64), placement.counts(problem.model.experts)
    packing = Packing(problem, load / counts)
    packing.slots[:] = placement.slots
    packing.recount()
    more = risk_counts(problem, load, counts, problem.most_replicas - int(counts.sum())) - counts
    for expert in np.repeat(np.arange(len(counts)), more):
        packing.place_lightest(int(expert))
    return packing.placement()


def _limits(effort: Effort, shares: PortfolioShares) -> Limits:
    """A share of the time left; where moves are counted, solver work is too, so that the clock decides nothing."""
    left, cancelled = effort.deadline.remaining(), lambda: effort.cancel.asked
    seed = derived_seed(Purpose.LAYER_FORMULATION, effort.seed)
    if effort.iterations is not None:
        return Limits(left, deterministic=FORMULATION_WORK, seed=seed, cancelled=cancelled)
    return Limits(min(shares.formulation * left, shares.formulation_seconds), seed=seed, cancelled=cancelled)
