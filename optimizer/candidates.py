"""The candidates for one layer, in the order in which they are ready: seeds, formulation, then descents from them."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from formulations.arrays import Ints
from formulations.layer_placement import Instance, place_replicas
from formulations.outcome import Outcome
from formulations.solver import Limits
from optimizer.placement import Placement
from optimizer.problem import Problem
from optimizer.search.multistart import Goal, multistart
from optimizer.search.stop import Budget, Deadline
from optimizer.seeds.greedy import greedy
from optimizer.seeds.orders import random_permutation, sequential
from optimizer.seeds.pairing import pairing

FORMULATION_SHARE, FORMULATION_SECONDS = 0.2, 10.0  # CP-SAT gets this share of the time left, at most so many seconds
FORMULATION_WORK = 4.0  # its limit in deterministic units where moves are counted instead of seconds
STARTS = ("greedy", "formulation", "pairing")  # of the descents, in turn

Notify = Callable[[str, float], None]


@dataclass(frozen=True)
class Effort:
    """How long to try: until the deadline, or for this many evaluated moves if that comes first."""

    deadline: Deadline
    seed: int = 0
    evaluations: int | None = None


@dataclass(frozen=True, eq=False)
class Candidate:
    """A placement, the method that made it, and the seconds it took; outcome: the formulation's, with its bound."""

    method: str
    placement: Placement
    seconds: float
    outcome: Outcome[Ints] | None = None


def seeds_and_formulation(problem: Problem, effort: Effort, notify: Notify) -> Iterator[Candidate]:
    """One candidate of each: sequential, random, pairing, greedy, formulation."""
    notify("seeds", 0.0)
    constructions: dict[str, Callable[[Problem], Placement]] = {
        "sequential": sequential,
        "random": lambda problem: random_permutation(problem, np.random.default_rng(effort.seed)),
        "pairing": pairing,
        "greedy": greedy,
    }
    for method, construct in constructions.items():
        started = time.monotonic()
        placement = construct(problem)
        yield Candidate(method, placement, time.monotonic() - started)
    notify("formulation", 0.0)
    yield _formulated(problem, placement, effort)


def descents(
    problem: Problem, goal: Goal, found: list[Candidate], effort: Effort, reserve: float, notify: Notify
) -> Iterator[Placement]:
    """Where each descent from the found candidates ends, until `reserve` seconds before the deadline."""
    starts = [candidate.placement for method in STARTS for candidate in found if candidate.method == method]
    budget = Budget(effort.deadline, effort.deadline.seconds - reserve, effort.evaluations)
    rng = np.random.default_rng(effort.seed)
    return multistart(problem, goal, starts, budget, rng, lambda share: notify("search", share))


def _formulated(problem: Problem, hint: Placement, effort: Effort) -> Candidate:
    """CP-SAT for the replica counts of a placement, which is its hint and stands if nothing is found."""
    mesh = problem.mesh
    instance = Instance(
        load=problem.total_load,
        count=hint.counts(problem.model.experts),
        spread=problem.spread,
        rows=mesh.rows,
        cols=mesh.cols,
        slots_per_device=mesh.slots_per_device,
    )
    outcome = place_replicas(instance, hint.slots, _limits(effort))
    placement = hint if outcome.value is None else Placement(outcome.value)
    return Candidate("formulation", placement, outcome.runtime, outcome)


def _limits(effort: Effort) -> Limits:
    """A share of the time left; where moves are counted, solver work is too, so that the clock decides nothing."""
    if effort.evaluations is not None:
        return Limits(effort.deadline.remaining(), deterministic=FORMULATION_WORK, seed=effort.seed)
    return Limits(min(FORMULATION_SHARE * effort.deadline.remaining(), FORMULATION_SECONDS), seed=effort.seed)
