"""What a second thread wins: the same work of one layer's searches in one thread and in two.

Usage: python benchmarks/threads.py [NAME ...] [--rounds N]; without a name all are timed. Iterations are limited, so
both runs do exactly the same and must find the same; the time of one thread over that of two is the speed-up. Both run
in turn, each `--rounds` times, and the least times count, as other programs on the machine only add to them. Processor
time tells what threads lose to each other: it would be 1 if they did not wait for memory. The home case is layer 12 of
the built-in trace on 16x8 devices of 3 slots.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
from speed import home_problem

from optimizer.domain.placement import Placement
from optimizer.domain.problem import Problem
from optimizer.planning.candidates import Candidate, seeds_and_formulation
from optimizer.planning.options import AUTO, Effort, SolveOptions, silent
from optimizer.planning.portfolio import Portfolio
from optimizer.planning.rule_candidates import MOST_CELLS
from optimizer.search.annealing import anneal
from optimizer.search.iterated import iterated
from optimizer.search.latency import LatencyWork, anneal_latency, prices_of
from optimizer.search.moves import MoveRules
from optimizer.search.multistart import latency_goal, multistart
from optimizer.search.ring_state import RingDemand
from optimizer.search.rule_loads import RuleLoads
from optimizer.search.seeds.flexibility import flexibility
from optimizer.search.seeds.greedy import greedy
from optimizer.search.seeds.pairing import pairing
from optimizer.search.side_by_side import CHAINS, Team
from optimizer.search.stop import Deadline, SearchBudget
from optimizer.search.tabu import tabu
from optimizer.traces.batches import Sets

Found = list[list[list[int]]]
NEVER = 1e6  # seconds: iterations end every run

MOVES = {"descents": 400_000, "rule": 400_000, "tabu": 400_000, "annealing": 300_000, "latency": 300_000}
"""Iterations of each search: some seconds in one thread."""

MOST_COPIES = 16  # of the hottest expert; the shared one has 16 at the start
PLANNED = 400_000  # iterations of the whole plan


def searched(name: str, problem: Problem, sets: Sets, threads: int) -> Found:
    """What a search finds in its iterations."""
    budget, team = SearchBudget(Deadline(NEVER), NEVER, MOVES[name]), Team(CHAINS, threads)
    rng = np.random.default_rng(0)
    search = {"annealing": annealed, "latency": shortened}.get(name, evenly)
    return [placement.slots.tolist() for placement in search(name, problem, sets, budget, rng, team)]


def annealed(
    name: str, problem: Problem, sets: Sets, budget: SearchBudget, rng: np.random.Generator, team: Team
) -> Iterator[Placement]:
    """Annealing of peaks under optimal split."""
    return anneal(greedy(problem), problem.load, MoveRules.of(problem), budget, rng, team=team)


def shortened(
    name: str, problem: Problem, sets: Sets, budget: SearchBudget, rng: np.random.Generator, team: Team
) -> Iterator[Placement]:
    """Annealing of the latency of rings."""
    demand = RingDemand.of(sets.train, problem.network, problem.model.experts)
    work = LatencyWork(problem.cost.tiles(problem.load), demand, prices_of(problem.cost, problem.network))
    return anneal_latency(flexibility(problem), work, MoveRules.of(problem), budget, rng, team=team)


def evenly(
    name: str, problem: Problem, sets: Sets, budget: SearchBudget, rng: np.random.Generator, team: Team
) -> Iterator[Placement]:
    """Descents and tabu search for even routing, and iterated descents for round robin inside each source."""
    goal, starts = latency_goal(problem, sets.train), [greedy(problem), pairing(problem)]
    if name == "descents":
        return multistart(problem, goal, starts, budget, rng, quiet, team)
    if name == "tabu":
        return tabu(problem, goal, starts, budget, rng, quiet, team=team)
    some = sets.train.part(0, MOST_CELLS // problem.mesh.devices)  # as plans look at no more
    rule = RuleLoads.of("even-source", some, problem.model, problem.network, MOST_COPIES)
    load = some.load(problem.model.experts)
    goal = replace(latency_goal(replace(problem, load=load), some), rule=rule)
    return iterated(load, MoveRules.of(problem), goal, starts, budget, rng, quiet, team)


def quiet(share: float) -> None:
    """Nobody watches."""


def planned(problem: Problem, sets: Sets, seeds: list[Candidate], threads: int) -> Found:
    """All candidates of a plan under the usual policies: seeds, searches, and the judging of what they find."""
    portfolio = Portfolio.of(problem, sets, SolveOptions(routings=AUTO))
    portfolio.search(seeds, Effort(Deadline(NEVER), 0, PLANNED, jobs=threads), NEVER, silent)
    return [placement.slots.tolist() for pool in portfolio.pools.values() for placement in pool.placements]


def compared(name: str, run: Callable[[int], Found], rounds: int) -> None:
    """Print a row: seconds in one thread and in two, the speed-up, and the ratio of processor times."""
    least = {1: (np.inf, np.inf), 2: (np.inf, np.inf)}
    first = run(2)
    for _ in range(rounds):
        for threads in least:
            wall, processor = time.perf_counter(), time.process_time()
            assert run(threads) == first, f"{name} finds something else in {threads} threads"
            spent = time.perf_counter() - wall, time.process_time() - processor
            least[threads] = min(least[threads][0], spent[0]), min(least[threads][1], spent[1])
    (one, busy), (two, both) = least[1], least[2]
    print(f"{name:12}{one:10.2f}{two:10.2f}{one / two:10.2f}{both / busy:12.2f}", flush=True)


def main() -> None:
    """Read the names and time them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*MOVES, "plan", []])
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    problem, sets = home_problem()
    print(f"{'':12}{'1 thread':>10}{'2 threads':>10}{'speed-up':>10}{'processor':>12}")
    for name in given.names or [*MOVES, "plan"]:
        if name == "plan":
            seeds = list(seeds_and_formulation(problem, Effort(Deadline(NEVER), 0, 0), silent))
            compared(name, partial(planned, problem, sets, seeds), given.rounds)
        else:
            compared(name, partial(searched, name, problem, sets), given.rounds)


if __name__ == "__main__":
    main()
