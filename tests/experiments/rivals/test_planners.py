"""Rivals give valid placements, reproduce their published examples, and do what their descriptions say."""

from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest
from hypothesis import assume, given, reject, settings
from hypothesis import strategies as st
from random_problems import cost, small_problem
from reference_risk import device_risks

from formulations.kit.arrays import Ints
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.placement import Placement
from optimizer.domain.problem import Problem
from optimizer.errors import InputError
from optimizer.experiments.rivals.eplb import eplb, eplb_by_groups, nodes
from optimizer.experiments.rivals.flashlb import flashlb
from optimizer.experiments.rivals.orders import column_major, row_major
from optimizer.experiments.rivals.planners import planners
from optimizer.experiments.rivals.row_balance import copies, row_balance
from optimizer.experiments.rivals.step_maximum import step_maximum
from optimizer.search.seeds.risk import risk
from optimizer.search.seeds.risk_tree import mean_peak
from optimizer.search.seeds.steps import counts_by_steps

EPLB_WEIGHTS = [
    [90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86],
    [20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27],
]
EPLB_PLACEMENTS = [
    [5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1],
    [7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1],
]


def problem_of(loads: list[list[int]], mesh: Mesh, groups: int = 1) -> Problem:
    """A problem of routed experts alone, with these loads by batch."""
    model = Model("drawn", len(loads[0]), 0, 1, groups=groups)
    return Problem(model, mesh, cost(), np.array(loads, dtype=np.int32), None)


@settings(max_examples=20)
@given(
    st.integers(0, 10**6),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 12),
    st.integers(0, 2),
    st.sampled_from([None, "auto", 1, 2, 4]),
    st.sampled_from([1, 2, 4]),
)
def test_every_plan_is_valid_and_the_same_for_the_same_seed(
    seed: int, rows: int, cols: int, slots: int, routed: int, shared: int, replicas: int | str | None, groups: int
) -> None:
    changes = {"rows": rows, "cols": cols, "slots": slots, "routed": routed * groups, "shared": shared}
    try:
        drawn, sets = small_problem(seed, top_k=1, tokens=8, replicas=replicas, **changes)
    except InputError:
        reject()  # what does not fit is refused before any planner sees it
    model = Model("drawn", routed * groups, shared, 1, groups=groups)
    problem = Problem(model, drawn.mesh, drawn.cost, drawn.load, drawn.shared_replicas)
    mesh = problem.mesh
    for planner in planners(problem, sets.train, seed):
        placement = planner.plan(problem)
        assert placement.violations(model.experts, mesh.devices, mesh.slots_per_device) == [], planner.name
        counts = placement.counts(model.experts)
        assert (counts[problem.spread] == problem.shared_replicas).all()
        room = mesh.slots - int(counts[problem.spread].sum())
        if planner.full:
            assert counts[~problem.spread].sum() == min(room, mesh.devices * int((~problem.spread).sum()))
        assert (planner.plan(problem).slots == placement.slots).all()


@pytest.mark.parametrize(("weights", "placement"), list(zip(EPLB_WEIGHTS, EPLB_PLACEMENTS, strict=True)))
def test_eplb_by_groups_is_as_in_the_example_of_its_readme(weights: list[int], placement: list[int]) -> None:
    """12 experts in 4 groups, 16 replicas, 2 nodes of 4 GPUs (README of deepseek-ai/EPLB, "Interface and Example")."""
    problem = problem_of([weights], Mesh(2, 4, 2), groups=4)
    assert nodes(problem) == 2
    assert eplb_by_groups(problem).slots.ravel().tolist() == placement


def published_eplb(load: list[int], devices: int, depth: int) -> list[list[int]]:
    """EPLB's global policy without repair: replicas to the largest load / count, then the heaviest to the lightest."""
    counts = [1] * len(load)
    for _ in range(devices * depth - len(load)):
        counts[max(range(len(load)), key=lambda e: (Fraction(load[e], counts[e]), -e))] += 1
    share = [Fraction(t, n) for t, n in zip(load, counts, strict=True)]
    held: list[list[int]] = [[] for _ in range(devices)]
    for expert in sorted(range(len(load)), key=lambda e: -share[e]):
        for _ in range(counts[expert]):
            room = [device for device in held if len(device) < depth]
            min(room, key=lambda device: sum(share[e] for e in device)).append(expert)
    return held


@given(st.lists(st.integers(1, 60), min_size=6, max_size=12), st.integers(1, 4))
def test_eplb_is_as_published_where_that_doubles_no_expert_on_a_device(drawn: list[int], more: int) -> None:
    load = [27720 * t for t in drawn]  # divisible by up to 12 replicas, so that no rounding decides a tie
    mesh = Mesh(1, -(-len(load) // 3) + more, 3)
    held = published_eplb(load, mesh.devices, 3)
    assume(all(len(set(device)) == 3 for device in held))
    assert eplb(problem_of([load], mesh)).slots.tolist() == held


def test_eplb_repairs_what_the_published_one_doubles() -> None:
    mesh = Mesh(1, 8, 2)
    assert [1, 1] in published_eplb(EPLB_WEIGHTS[0], 8, 2)
    assert eplb(problem_of(EPLB_WEIGHTS[:1], mesh)).violations(12, 8, 2) == []


def test_eplb_by_groups_keeps_a_group_in_a_node_and_balances_nodes() -> None:
    drawn, _ = small_problem(3, rows=4, cols=2, slots=4, routed=16, shared=1, top_k=4)
    model = Model("drawn", 16, 1, 4, groups=4)
    problem = Problem(model, drawn.mesh, drawn.cost, drawn.load, drawn.shared_replicas)
    assert nodes(problem) == 4
    rows = eplb_by_groups(problem).slots.reshape(4, -1)
    for row in rows:
        assert len({int(expert) // 4 for expert in row if 0 <= expert < 16}) == 1
        assert (row == 16).sum() == 1


def test_flashlb_does_as_well_as_in_the_example_of_its_description() -> None:
    """Greatest load 232 by EPLB and 205 by FlashLB (pull request 3042 of vllm-project/vllm-ascend)."""
    problem = problem_of([[600, 560, 120, 120, 20, 10, 10, 10]], Mesh(1, 8, 2))
    assert device_risks(eplb(problem), problem.load, 0).max() == 232
    assert device_risks(flashlb(problem), problem.load, 0).max() <= 205


@given(st.integers(0, 10**6))
def test_flashlb_is_never_worse_than_with_greedy_counts(seed: int) -> None:
    problem, _ = small_problem(seed, rows=3, cols=2, slots=3, routed=11, shared=1)
    assert mean_peak(problem.load, flashlb(problem)) <= mean_peak(problem.load, risk(problem))


def test_flashlb_judges_by_the_mean_peak_of_the_steps() -> None:
    placement = Placement(np.array([[0, 1], [0, -1]]))
    assert mean_peak(np.array([[4, 3], [10, 0]]), placement) == (5 + 5) / 2


def best_step_counts(load: Ints, slots: int, devices: int) -> list[int]:
    """One more replica at a time to the expert with which the steps' largest loads per replica sum up to the least."""
    counts = [1] * load.shape[1]

    def total(more: int) -> Fraction:
        tried = [count + (expert == more) for expert, count in enumerate(counts)]
        return sum((max(Fraction(int(t), n) for t, n in zip(step, tried, strict=True)) for step in load), Fraction(0))

    while sum(counts) < slots:
        counts[min((e for e in range(len(counts)) if counts[e] < devices), key=total)] += 1
    return counts


@given(st.integers(0, 10**6))
def test_step_maximum_gives_replicas_to_what_lowers_the_maxima_of_the_steps(seed: int) -> None:
    rng = np.random.default_rng(seed)
    load = rng.integers(0, 40, size=(4, 6))
    problem = problem_of(load.tolist(), Mesh(1, 5, 2))
    assert counts_by_steps(problem).tolist() == best_step_counts(load, 10, 5)


def test_step_maximum_deals_out_in_a_zigzag() -> None:
    problem = problem_of([[80, 70, 60, 50, 40, 30, 20, 10, 9, 8, 7, 6]], Mesh(2, 2, 3))
    assert step_maximum(problem).slots.tolist() == [[0, 7, 8], [1, 6, 9], [2, 5, 10], [3, 4, 11]]


def test_step_maximum_looks_at_steps_where_eplb_sees_the_sum_alone() -> None:
    problem = problem_of([[90, 30, 40], [0, 70, 40], [0, 20, 40]], Mesh(1, 4, 1))
    assert counts_by_steps(problem).tolist() == [2, 1, 1]
    assert eplb(problem).counts(3).tolist() == [1, 2, 1]


def test_row_and_column_major_deal_ids_out() -> None:
    problem = problem_of([[1] * 6], Mesh(2, 2, 2))
    assert row_major(problem).slots.tolist() == [[0, 4], [1, 5], [2, 0], [3, 1]]
    assert column_major(problem).slots.tolist() == [[0, 4], [2, 0], [1, 5], [3, 1]]


def test_row_balance_copies_the_hottest_once_more() -> None:
    problem, _ = small_problem(4, rows=4, cols=2, slots=3, routed=16, shared=1, top_k=4)
    hottest = np.argsort(-problem.total_load[:16], kind="stable")[:4]
    assert copies(problem).tolist() == [1 + (expert in hottest) for expert in range(16)] + [4]
    rows = row_balance(problem, np.random.default_rng(0)).slots.reshape(4, -1)
    assert [(row == 16).sum() for row in rows] == [1] * 4


def test_annealing_finds_the_best_pairs() -> None:
    load = [91, 77, 65, 41, 30, 22, 9, 4]
    squares = min(
        sum((load[chosen[2 * d]] + load[chosen[2 * d + 1]]) ** 2 for d in range(4)) for chosen in permutations(range(8))
    )
    found = row_balance(problem_of([load], Mesh(2, 2, 2)), np.random.default_rng(1)).slots
    assert sum(sum(load[expert] for expert in device) ** 2 for device in found.tolist()) == squares
