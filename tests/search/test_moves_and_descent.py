"""Moves, descent and choice: increments equal what is computed from scratch, and all placements stay valid."""

import time
from concurrent.futures import Executor

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from random_problems import small_problem

from formulations.kit.arrays import Ints
from optimizer.domain.placement import Placement
from optimizer.domain.problem import Problem
from optimizer.search.choose import SelectionGoal, choose, figures
from optimizer.search.descent import Descent
from optimizer.search.even_moves import apply, delta, scratch_for
from optimizer.search.moves import MoveRules, decode, is_legal, replacement_of, swap_of
from optimizer.search.multistart import DescentGoal, latency_goal, multistart
from optimizer.search.seeds.greedy import greedy
from optimizer.search.seeds.orders import random_permutation
from optimizer.search.state import SearchState
from optimizer.search.stop import Deadline, SearchBudget
from optimizer.simulation.conditions import Conditions
from optimizer.simulation.simulator import simulate

USUAL = 300_000  # ns, which some peaks are below and some above


def arrays_of(state: SearchState) -> list[Ints]:
    """All arrays of a state, those of its rule among them."""
    return [*(array for array in state if not isinstance(array, tuple)), *state.rule]


def state_of(problem: Problem, goal: DescentGoal, placement: Placement) -> SearchState:
    """The search state of a placement, with a tail above USUAL."""
    return SearchState.of(placement, problem.load, goal.value, goal.together, USUAL)


def from_scratch(problem: Problem, goal: DescentGoal, placement: Placement) -> int:
    """The objective of a placement by the reference implementation."""
    value, together = goal.value, goal.together
    slots = placement.slots.tolist()
    return reference.peak_sum(slots, problem.load.tolist(), value.tolist(), USUAL) - reference.saved(
        slots, together.tolist()
    )


def after_move(problem: Problem, slots: np.ndarray, move: int) -> np.ndarray:
    """The slots after a move, with its number taken apart independently of `moves.decode`."""
    flat = slots.ravel().copy()
    size, experts = flat.size, problem.model.experts
    if move < size * size:
        flat[[move // size, move % size]] = flat[[move % size, move // size]]
    else:
        flat[(move - size * size) // experts] = (move - size * size) % experts
    return flat.reshape(slots.shape)


@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 3), st.integers(1, 9))
def test_moves_are_taken_apart_as_they_were_put_together(seed: int, devices: int, depth: int, experts: int) -> None:
    rng = np.random.default_rng(seed)
    slots = rng.integers(-1, experts, (devices, depth))
    flat, size = slots.ravel().tolist(), slots.size
    for one in range(size):
        for other in range(size):
            a, b = min(one, other), max(one, other)
            assert decode(swap_of(one, other, size), slots, experts) == (a, b, flat[a], flat[b])
        for expert in range(experts):
            assert decode(replacement_of(one, expert, size, experts), slots, experts) == (one, -1, flat[one], expert)


def rows_of_shared(problem: Problem, placement: Placement) -> list[list[int]]:
    """How many replicas of each shared expert are in each mesh row."""
    mesh = problem.mesh
    by_row = placement.slots.reshape(mesh.rows, -1)
    return [(by_row == expert).sum(axis=1).tolist() for expert in problem.model.shared_ids]


@settings(max_examples=20)
@given(
    st.integers(0, 10**6),
    st.sampled_from([None, "auto", 1, 3]),
    st.sampled_from([None, None, 0, 2]),
    st.integers(1, 2),
    st.sampled_from([(3, 2, 3, 9), (1, 6, 2, 5), (2, 5, 4, 9), (14, 1, 1, 7)]),
)
def test_every_step_of_a_random_walk_is_exact_and_valid(
    seed: int, replicas: int | str | None, extra: int | None, shared: int, shape: tuple[int, int, int, int]
) -> None:
    rows, cols, slots, routed = shape
    problem, sets = small_problem(
        seed, rows=rows, cols=cols, slots=slots, routed=routed, shared=shared, replicas=replicas, extra=extra
    )
    goal = latency_goal(problem, sets.train)
    rng = np.random.default_rng(seed)
    start = random_permutation(problem, rng).slots.copy()
    spare = [i for i, e in enumerate(start.ravel()) if (start == e).sum() > 1 and not problem.spread[e]][:1]
    start.ravel()[spare] = -1  # an empty slot, so that moves meet one
    state = state_of(problem, goal, Placement(start))
    scratch = scratch_for(state)
    size, shared_rows = start.size, rows_of_shared(problem, state.placement())
    made, rules = 0, MoveRules.of(problem)
    for _ in range(4000):
        move = int(rng.integers(size * (size + problem.model.experts)))
        if not is_legal(move, state.slots, state.copies, rules):
            continue
        before = [array.copy() for array in arrays_of(state)]
        objective = state.objective
        change = delta(move, state, scratch)
        assert all((old == new).all() for old, new in zip(before, arrays_of(state), strict=True))
        expected = Placement(after_move(problem, state.slots, move))
        apply(move, state, scratch)
        made += 1
        fresh = state_of(problem, goal, state.placement())
        assert (state.slots == expected.slots).all()
        assert objective + change == state.objective == fresh.objective
        assert (state.part == fresh.part).all()
        assert (state.cost == fresh.cost).all()
        assert (state.saved == fresh.saved).all()
        assert problem.violations(state.placement()) == []
        if problem.shared_replicas is not None:
            assert rows_of_shared(problem, state.placement()) == shared_rows
        if made % 20 == 1:
            assert state.objective == from_scratch(problem, goal, state.placement())
        if made == 120:
            break
    assert made == 120


def test_a_thousand_move_walk_on_the_home_mesh_stays_exact() -> None:
    problem, sets = small_problem(3, rows=8, cols=4, slots=3, routed=64, top_k=6, tokens=128)
    goal = latency_goal(problem, sets.train)
    state = state_of(problem, goal, greedy(problem))
    scratch = scratch_for(state)
    rng = np.random.default_rng(0)
    made = 0
    while made < 1000:
        move = int(rng.integers(96 * (96 + 65)))
        if is_legal(move, state.slots, state.copies, MoveRules.of(problem)):
            expected = state.objective + delta(move, state, scratch)
            apply(move, state, scratch)
            made += 1
            assert state.objective == expected
            assert (state.cost == state_of(problem, goal, state.placement()).cost).all()
    assert state.objective == from_scratch(problem, goal, state.placement())
    assert state.placement().violations(65, 32, 3) == []


@given(st.integers(0, 10**6))
def test_evaluator_and_simulator_agree_exactly(seed: int) -> None:
    problem, sets = small_problem(seed, rows=4, cols=2)
    placement = random_permutation(problem, np.random.default_rng(seed))
    report = simulate(placement, sets.train, problem.model, problem.mesh, problem.cost, Conditions("even-ideal"))
    nothing = np.zeros((problem.model.experts, problem.model.experts), dtype=int)
    tokens = SearchState.of(placement, problem.load, np.arange(problem.load.max() + 1), nothing)
    spent = SearchState.of(placement, problem.load, problem.cost.slot_ns(int(problem.load.max())), nothing)
    assert (report.device_load == tokens.cost.T).all()
    assert (report.compute_us == spent.leading[0] / 1000).all()


@pytest.mark.slow
def test_batches_too_large_for_32_bits_are_counted_in_64() -> None:
    problem, sets = small_problem(2)
    goal = latency_goal(problem, sets.train)
    value, together = goal.value, goal.together
    placement = greedy(problem)
    large = SearchState.of(placement, problem.load, value * 2**20, together * 0)
    assert large.cost.dtype == np.int64
    assert large.objective == 2**20 * SearchState.of(placement, problem.load, value, together * 0).objective
    scratch = scratch_for(large)
    moves = [m for m in range(400) if is_legal(m, large.slots, large.copies, MoveRules.of(problem))]
    before = large.objective
    change = delta(moves[0], large, scratch)
    apply(moves[0], large, scratch)
    assert large.objective == before + change


def test_what_two_experts_save_is_what_the_batches_hold() -> None:
    problem, sets = small_problem(2, rows=4, cols=2)
    together = latency_goal(problem, sets.train).together
    tokens = [set(token.tolist()) for batch in sets.train.experts for token in batch]
    for x in range(problem.model.experts):
        for y in range(problem.model.experts):
            both = sum(x in token and y in token for token in tokens) if x != y else 0
            assert together[x, y] == both * problem.cost.message_ns(problem.mesh)


def test_descent_ends_where_no_move_improves() -> None:
    problem, sets = small_problem(5)
    goal = latency_goal(problem, sets.train)
    state = state_of(problem, goal, greedy(problem))
    start = state.objective
    descent = Descent(state, MoveRules.of(problem), np.random.default_rng(0))
    while not descent.run(1000).at_optimum:
        pass
    assert state.objective <= start
    scratch = scratch_for(state)
    size = state.slots.size
    for move in range(size * (size + problem.model.experts)):
        if is_legal(move, state.slots, state.copies, MoveRules.of(problem)):
            moved = Placement(after_move(problem, state.slots, move))
            assert delta(move, state, scratch) == from_scratch(problem, goal, moved) - state.objective >= 0


def test_descent_counts_its_evaluations() -> None:
    problem, sets = small_problem(5)
    goal = latency_goal(problem, sets.train)
    descent = Descent(state_of(problem, goal, greedy(problem)), MoveRules.of(problem), np.random.default_rng(0))
    assert descent.run(17).evaluated == 17


def ends(seed: int, iterations: int = 3000) -> list[list[list[int]]]:
    """The slots at the ends of all descents with this seed."""
    problem, sets = small_problem(6, routed=14, slots=4)
    budget = SearchBudget(Deadline(600), 600, iterations)
    found = multistart(
        problem,
        latency_goal(problem, sets.train),
        [greedy(problem)],
        budget,
        np.random.default_rng(seed),
        lambda share: None,
    )
    return [placement.slots.tolist() for placement in found]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_search_also_in_another_process(another_process: Executor) -> None:
    here = ends(1)
    assert len(here) > 1
    assert here == ends(1) == another_process.submit(ends, 1).result()
    assert ends(2) != here


def test_budgets_end_by_time_and_by_count() -> None:
    spent = SearchBudget(Deadline(60, time.monotonic() - 61), 60)
    assert spent.grant(5) == 0
    counted = SearchBudget(Deadline(60), 60, 7)
    assert counted.grant(5) == 5
    counted.spend(5)
    assert counted.grant(5) == 2
    counted.spend(2)
    assert counted.grant(5) == 0
    assert Deadline(60, time.monotonic() - 61).remaining() == 0


def test_choice_is_never_worse_than_the_baseline_in_any_figure() -> None:
    base, better = [2.0] * 8, [1.9] * 8
    one_worse = [1.0] * 7 + [2.1]
    faster, more_even = [1.8] + [1.9] * 3 + [2.0] * 4, [1.9] * 4 + [1.0] * 4
    judged = [np.array(values) for values in (base, one_worse, better, faster, more_even)]
    assert choose(judged, 0, SelectionGoal.LATENCY_AND_BALANCE) == 3  # the fastest of those allowed
    assert choose([judged[0], judged[1]], 0, SelectionGoal.LATENCY_AND_BALANCE) == 0
    assert choose(judged, 0, SelectionGoal.LATENCY) == 1
    assert choose(judged[1:], 1, SelectionGoal.BALANCE) == 3


def test_figures_are_of_latency_and_imbalance() -> None:
    problem, sets = small_problem(5)
    report = simulate(greedy(problem), sets.test, problem.model, problem.mesh, problem.cost, Conditions())
    expected = []
    for values in (report.latency_us, report.imbalance):  # of six batches the worst 3 % are one
        expected += [values.mean(), np.median(values), np.quantile(values, 0.99), values.max()]
    assert figures(report) == pytest.approx(expected)
