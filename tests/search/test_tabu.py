"""Tabu search is exact and feasible at every step, obeys its own rule, and finds the optimum of small layers."""

import time
from concurrent.futures import Executor
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from random_problems import small_problem

from optimizer.domain.placement import Placement
from optimizer.domain.problem import Problem
from optimizer.search.moves import MoveRules
from optimizer.search.multistart import DescentGoal, latency_goal
from optimizer.search.seeds.greedy import greedy
from optimizer.search.seeds.orders import random_permutation
from optimizer.search.state import SearchState
from optimizer.search.stop import Deadline, SearchBudget
from optimizer.search.tabu import Tabu, TabuMemory, tabu

USUAL = 300_000  # ns, which some peaks are below and some above


def state_of(problem: Problem, goal: DescentGoal, placement: Placement) -> SearchState:
    """The search state of a placement, with a tail above USUAL."""
    return SearchState.of(placement, problem.load, goal.value, goal.together, USUAL)


def held(slots: np.ndarray) -> list[set[int]]:
    """The experts that each device holds."""
    return [set(here) for here in slots.tolist()]


@settings(max_examples=5)
@given(st.integers(0, 10**6), st.sampled_from([None, "auto"]), st.integers(0, 12))
def test_a_walk_is_exact_feasible_and_never_undoes_what_is_tabu(seed: int, replicas: str | None, tenure: int) -> None:
    problem, sets = small_problem(seed, replicas=replicas)
    goal, rng = latency_goal(problem, sets.train), np.random.default_rng(seed)
    start = random_permutation(problem, rng).slots.copy()
    spare = [i for i, e in enumerate(start.ravel()) if (start == e).sum() > 1 and not problem.spread[e]][:1]
    start.ravel()[spare] = -1
    most, state = int((start >= 0).sum()), state_of(problem, goal, Placement(start))
    search = Tabu(state, MoveRules(problem.spread, 2, most), rng, TabuMemory(20, 5, tenure))
    objective, left = search.state.objective, np.full((problem.model.experts, 6), -np.inf)
    for step in range(120):
        before, least = held(search.state.slots), search.least
        assert 1 <= search.run(25) <= 25
        after, placement = held(search.state.slots), search.state.placement()
        fresh = state_of(problem, goal, placement)
        objective = search.state.objective
        assert objective == fresh.objective
        assert (search.state.cost == fresh.cost).all()
        assert placement.violations(problem.model.experts, 6, 3) == []
        assert (placement.slots >= 0).sum() <= most
        assert search.best().violations(problem.model.experts, 6, 3) == []
        assert search.least == state_of(problem, goal, search.best()).objective == min(least, objective)
        if replicas is None:
            assert ((placement.slots.reshape(3, 6) == 9).sum(axis=1) == 1).all()
        for device in range(6):
            come = after[device] - before[device] - {-1}
            if objective >= least:
                assert all(left[expert, device] + tenure < step for expert in come)
            for expert in before[device] - after[device] - {-1}:
                left[expert, device] = step
    assert min(search.least, objective) == search.least


def best_objective(problem: Problem, goal: DescentGoal) -> int:
    """The least objective of all valid placements of three experts on three devices of two slots."""
    pairs = [(a, b) for a in range(-1, 3) for b in range(a + 1, 3)]
    found = [Placement(np.array(slots)) for slots in product(pairs, repeat=3)]
    valid = [placement for placement in found if not placement.violations(3, 3, 2)]
    return min(state_of(problem, goal, placement).objective for placement in valid)


@pytest.mark.parametrize("seed", range(4))
def test_small_layers_reach_the_best_of_all_placements(seed: int) -> None:
    problem, sets = small_problem(seed, rows=3, cols=1, slots=2, routed=3, shared=0, top_k=2)
    goal = replace(latency_goal(problem, sets.train), tail_weight=0)
    best = min(
        reference.peak_sum(p.slots.tolist(), problem.load.tolist(), goal.value.tolist(), USUAL)
        - reference.saved(p.slots.tolist(), goal.together.tolist())
        for p in [greedy(problem)]
    )
    start = random_permutation(problem, np.random.default_rng(seed))
    search = Tabu(
        state_of(problem, goal, start), MoveRules.of(problem), np.random.default_rng(seed), TabuMemory(20, 5, 2)
    )
    for _ in range(40):
        search.run(100)
    assert search.least == best_objective(problem, goal) <= best


def ends(seed: int, iterations: int = 6000) -> list[list[list[int]]]:
    """The slots of all placements that tabu search yields with this seed."""
    problem, sets = small_problem(6, rows=4, cols=3, routed=24, slots=3)
    budget = SearchBudget(Deadline(600), 600, iterations)
    goal, starts = (
        latency_goal(problem, sets.train),
        [greedy(problem), random_permutation(problem, np.random.default_rng(0))],
    )
    found = tabu(
        problem, goal, starts, budget, np.random.default_rng(seed), lambda share: None, TabuMemory(40, 10, 4, 1500)
    )
    placements = list(found)
    assert budget.iterations == 0
    return [placement.slots.tolist() for placement in placements]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_search_also_in_another_process(another_process: Executor) -> None:
    here = ends(1)
    assert here
    assert here == ends(1) == another_process.submit(ends, 1).result()
    assert ends(2) != here


def test_what_is_yielded_gets_better_and_better() -> None:
    problem, sets = small_problem(6, rows=4, cols=3, routed=24, slots=3)
    goal, start = latency_goal(problem, sets.train), greedy(problem)
    usual = int(np.median(SearchState.of(start, problem.load, goal.value, goal.together).leading[0]))
    shares: list[float] = []
    budget = SearchBudget(Deadline(600), 600, 30_000)
    found = list(tabu(problem, goal, [start], budget, np.random.default_rng(0), shares.append))
    worth = [
        SearchState.of(placement, problem.load, goal.value, goal.together, usual).objective
        for placement in [start, *found]
    ]
    assert len(worth) > 1
    assert worth == sorted(set(worth), reverse=True)
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_nothing_is_yielded_once_the_time_is_up() -> None:
    problem, sets = small_problem(6)
    budget = SearchBudget(Deadline(60, time.monotonic() - 61), 60)
    goal = latency_goal(problem, sets.train)
    assert list(tabu(problem, goal, [greedy(problem)], budget, np.random.default_rng(0), lambda share: None)) == []


def test_a_problem_without_legal_moves_comes_to_an_end() -> None:
    problem, sets = small_problem(0, rows=1, cols=1, slots=4, routed=3)
    budget, goal = SearchBudget(Deadline(60), 60, 30), latency_goal(problem, sets.train)
    assert list(tabu(problem, goal, [greedy(problem)], budget, np.random.default_rng(0), lambda share: None)) == []
