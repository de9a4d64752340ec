"""The candidates for one layer, in the order in which they are ready: seeds, formulation, then descents from them."""

import time
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from formulations.expected_load.joint_placement import JointInstance, place_jointly
from formulations.expected_load.layer_placement import LayerInstance, place_replicas
from formulations.kit.arrays import Ints
from formulations.kit.outcome import Outcome
from formulations.kit.solver import Limits
from optimizer.domain.placement import Placement
from optimizer.domain.problem import Problem
from optimizer.search.annealing import AnnealingSchedule, anneal
from optimizer.search.latency import LatencyPrices, LatencyWork, anneal_latency
from optimizer.search.moves import MoveRules
from optimizer.search.multistart import DescentGoal, multistart
from optimizer.search.neighbourhood import search_neighbourhoods
from optimizer.search.ring_state import RingDemand
from optimizer.search.seeds.flexibility import flexibility
from optimizer.search.seeds.greedy import greedy
from optimizer.search.seeds.orders import random_permutation, sequential
from optimizer.search.seeds.pairing import pairing
from optimizer.search.seeds.risk import risk
from optimizer.search.seeds.steps import steps
from optimizer.search.stop import Deadline, SearchBudget
from optimizer.search.tabu import tabu

FLEXIBILITY = "flexibility"  # the seed for policies that follow the load of the batch
COOL = AnnealingSchedule(worsening=0.003)  # keeps what is good about that seed; .01 loses some of it
FORMULATION_SHARE, FORMULATION_SECONDS = 0.1, 5.0  # of the time left, at most so many seconds
FORMULATION_WORK = 4.0  # its limit in deterministic units where moves are counted instead of seconds
STARTS = ("start", "greedy", "steps", "formulation", "pairing")  # of the descents, in turn
JOBS = 2  # chains of annealing, each in a thread
FINALISTS = 2  # of what a search for optimal routing passes, the last ones
EARLY = 0.5  # share of its time after which a search for latency has to have found something; hot at first, it loses

EvenSearch = Literal["descent", "tabu"]
SplitSearch = Literal["annealing", "lns"]
SEARCHES: dict[str, tuple[EvenSearch | None, SplitSearch | None]] = {
    "auto": ("descent", "annealing"),
    "descent": ("descent", None),
    "tabu": ("tabu", None),
    "annealing": (None, "annealing"),
    "lns": (None, "lns"),
}
"""What runs for even routing and for routing that follows the load of the batch."""

Notify = Callable[[str, float], None]


@dataclass(frozen=True)
class Effort:
    """How long to try, until the deadline or for this many evaluated moves if that comes first; by which search, one of
    `SEARCHES`; and in how many threads, where it can use several."""

    deadline: Deadline
    seed: int = 0
    iterations: int | None = None
    search: str = "auto"
    jobs: int = JOBS


@dataclass(frozen=True)
class SearchShare:
    """What one search may spend, its seed, its threads, and who is told of its progress."""

    budget: SearchBudget
    seed: int
    jobs: int
    notify: Notify


@dataclass(frozen=True, eq=False)
class Candidate:
    """A placement, the method that made it, and the seconds it took; outcome: the formulation's, with its bound."""

    method: str
    placement: Placement
    seconds: float
    outcome: Outcome[Ints] | None = None


def seeds_and_formulation(problem: Problem, effort: Effort, notify: Notify) -> Iterator[Candidate]:
    """One candidate of each: the given start, the constructions, and the formulation, which begins at greedy's."""
    notify("seeds", 0.0)
    hint = None
    for candidate in seeds(problem, effort.seed):
        hint = candidate.placement if candidate.method == "greedy" else hint
        yield candidate
    assert hint is not None
    notify("formulation", 0.0)
    yield _formulated(problem, hint, effort)


def seeds(problem: Problem, seed: int, wanted: Container[str] | None = None) -> Iterator[Candidate]:
    """One candidate of each: the given start, and the constructions, None for all or those that are wanted."""
    if problem.start is not None:
        yield Candidate("start", problem.start, 0.0)
    constructions: dict[str, Callable[[Problem], Placement]] = {
        "sequential": sequential,
        "random": lambda problem: random_permutation(problem, np.random.default_rng(seed)),
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
    problem: Problem, goal: DescentGoal, found: list[Candidate], search: EvenSearch, spell: SearchShare
) -> Iterator[Placement]:
    """What a search for even routing ends with or passes, from the found candidates."""
    starts = [candidate.placement for method in STARTS for candidate in found if candidate.method == method]
    rng, notify = np.random.default_rng(spell.seed), spell.notify
    look = multistart if search == "descent" else tabu
    return look(problem, goal, starts, spell.budget, rng, lambda share: notify(search, share))


def split_at_best(
    problem: Problem, found: list[Candidate], tiles: bool, search: SplitSearch, spell: SearchShare
) -> list[Placement]:
    """The best placements that a search for optimal routing passes, in tiles or tokens, the last ones first."""
    start = next(candidate.placement for candidate in found if candidate.method in ("start", FLEXIBILITY))
    units = problem.cost.tiles(problem.load) if tiles else problem.load
    rng, notify = np.random.default_rng(spell.seed), spell.notify
    passed: list[Placement] = []
    rules, told = MoveRules.of(problem), lambda share: notify(search, share)
    if search == "annealing":
        bettered = anneal(start, units, rules, spell.budget, rng, COOL, spell.jobs, told)
    else:
        bettered = search_neighbourhoods(start, units, rules, spell.budget, rng, progress=told)
    try:
        passed.extend(bettered)
    except KeyboardInterrupt:
        notify("interrupted", 1.0)
    return passed[: -1 - FINALISTS : -1]


def shorten(
    problem: Problem,
    start: Placement,
    demand: RingDemand,
    prices: LatencyPrices,
    spell: SearchShare,
    better: Callable[[Placement], bool],
) -> list[Placement]:
    """The best placements that a search for the latency of rings passes, the last ones first.

    It starts from a placement that is good in tiles, and goes on while it is `better`, which is asked once. (At 1,024
    and 2,048 tokens, where full devices decide how far tokens go, the search finds nothing that routing can use.)
    """
    rng, shares = np.random.default_rng(spell.seed), [0.0]
    passed: list[Placement] = []
    work, rules = LatencyWork(problem.cost.tiles(problem.load), demand, prices), MoveRules.of(problem)
    bettered = anneal_latency(start, work, rules, spell.budget, rng, chains=spell.jobs, progress=shares.append)
    early = True
    try:
        for placement in bettered:
            passed.append(placement)
            spell.notify("latency", shares[-1])
            if early and shares[-1] >= EARLY:
                early = False
                if not better(placement):
                    return []
    except KeyboardInterrupt:
        spell.notify("interrupted", 1.0)
    return passed[: -1 - FINALISTS : -1]


def _formulated(problem: Problem, hint: Placement, effort: Effort) -> Candidate:
    """The least peak expected load, from a placement that is the hint and stands if nothing is better.

    Where all counts are free they are chosen as well; where some are fixed, those of the hint are kept.
    """
    mesh, load, spread = problem.mesh, problem.total_load, problem.spread
    shape = mesh.rows, mesh.cols, mesh.slots_per_device
    if problem.free_counts:
        outcome = place_jointly(JointInstance(load, spread, *shape, problem.most_replicas), hint.slots, _limits(effort))
    else:
        outcome = place_replicas(
            LayerInstance(load, hint.counts(problem.model.experts), spread, *shape), hint.slots, _limits(effort)
        )
    placement = hint if outcome.value is None else Placement(outcome.value)
    return Candidate("formulation", placement, outcome.runtime, outcome)


def _limits(effort: Effort) -> Limits:
    """A share of the time left; where moves are counted, solver work is too, so that the clock decides nothing."""
    if effort.iterations is not None:
        return Limits(effort.deadline.remaining(), deterministic=FORMULATION_WORK, seed=effort.seed)
    return Limits(min(FORMULATION_SHARE * effort.deadline.remaining(), FORMULATION_SECONDS), seed=effort.seed)
