"""Moves that stay near the placement in force, and the walk back to it."""

from dataclasses import replace

import numpy as np
import pytest
from random_problems import random_placement, small_problem

from optimizer.domain.placement import EMPTY, Placement
from optimizer.domain.problem import MoveBudget, Problem
from optimizer.search.moves import MoveRules, decode, is_legal
from optimizer.search.multistart import latency_goal
from optimizer.search.retreat import EvenWalk, SplitWalk, Walked, retreat
from optimizer.search.split_state import split_of
from optimizer.traces.batches import Sets


def case(seed: int, most: int) -> tuple[Problem, Sets, Placement]:
    problem, sets = small_problem(seed, replicas="auto")
    rng = np.random.default_rng(seed)
    current, there = (random_placement(rng, problem.model.experts, problem.mesh) for _ in range(2))
    return replace(problem, budget=MoveBudget(current, most)), sets, there


def moved(move: int, placement: Placement, experts: int) -> Placement:
    """The placement after a move, made by hand."""
    slots = placement.slots.copy()
    a, b, x, y = decode(move, slots, experts)
    slots.flat[a] = y
    if b >= 0:
        slots.flat[b] = x
    return Placement(slots)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("most", [0, 3, 7])
def test_a_move_is_legal_if_it_stays_within_the_budget_or_comes_nearer(seed: int, most: int) -> None:
    problem, _, there = case(seed, most)
    assert problem.budget is not None
    experts, current = problem.model.experts, problem.budget.current
    near, anywhere = MoveRules.of(problem), MoveRules.of(problem)._replace(most_loaded=1 << 62)
    for start in (current, there):
        copies, now = start.counts(experts), start.weights_to_load(current)
        size = start.slots.size
        for move in range(0, size * (size + experts), 3):
            slots = start.slots.astype(np.int64)
            if not is_legal(move, slots, copies, anywhere):
                assert not is_legal(move, slots, copies, near)
                continue
            then = moved(move, start, experts).weights_to_load(current)
            assert is_legal(move, slots, copies, near) == (then <= most or then < now)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("split", [False, True])
def test_the_walk_comes_nearer_from_stop_to_stop_and_stays_valid(seed: int, split: bool) -> None:
    problem, sets, there = case(seed, 0)
    assert problem.budget is not None
    experts, current = problem.model.experts, problem.budget.current
    walk: Walked
    if split:
        walk = SplitWalk.of(split_of(there, problem.load))
    else:
        walk = EvenWalk.of(latency_goal(problem, sets.train).state(there, problem.load))
    far = there.weights_to_load(current)
    stops = [far, far // 2, 2, 0]
    found = list(retreat(walk, MoveRules.of(problem), stops, np.random.default_rng(0)))
    full = not (current.slots == EMPTY).any()
    assert len(found) == len(stops) or not full
    for stop, placement in zip(stops, found, strict=False):
        assert not placement.violations(experts, problem.mesh.devices, problem.mesh.slots_per_device)
        assert placement.weights_to_load(current) <= stop
    assert found[0].slots.tolist() == there.slots.tolist()


def test_the_walk_gives_up_what_is_worth_least() -> None:
    """Of two experts that were brought to devices, the one that was hot stays."""
    problem, _, _ = case(0, 0)
    load = np.ones((4, problem.model.experts), dtype=np.int64)
    load[:, 0] = 100
    base = np.full((6, 3), EMPTY)
    base.flat[:10] = np.arange(10)
    current = base.copy()
    current[4], current[5] = [8, EMPTY, EMPTY], [9, EMPTY, EMPTY]
    current[4, 1], current[5, 1] = 1, 2
    there = current.copy()
    there[4, 1], there[5, 1] = 0, 3
    rules = MoveRules.of(replace(problem, budget=MoveBudget(Placement(current), 0)))
    walk = SplitWalk.of(split_of(Placement(there), load))
    (found,) = retreat(walk, rules, [1], np.random.default_rng(0))
    assert found.slots[4, 1] == 0
    assert found.slots[5, 1] == 2
