"""LPLB: copies lie along the published topologies, and optimal routing solves its linear program."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_problems import cost, small_problem
from scipy.optimize import linprog

from formulations.kit.arrays import Ints
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.placement import Placement
from optimizer.domain.problem import Problem
from optimizer.experiments.compare_rivals import judged
from optimizer.experiments.rivals.lplb import CUBE, has_cubes, lplb_cube, lplb_torus, torus
from optimizer.simulation.conditions import Conditions

LOADS = list(range(160, 0, -10))


def problem_of(mesh: Mesh, loads: list[int]) -> Problem:
    """A problem of routed experts alone with these loads."""
    return Problem(Model("drawn", len(loads), 0, 1), mesh, cost(), np.array([loads], dtype=np.int32), None)


def edges(backs: Ints) -> set[tuple[int, int]]:
    """The pairs of devices that a topology connects."""
    return {(min(a, b), max(a, b)) for row in backs.tolist() for a, b in enumerate(row)}


def test_the_example_of_the_readme_is_a_cube_with_diagonals() -> None:
    """Each device has edges to two neighbours in its ring, to the device opposite, and to one diagonally opposite."""
    rings = {(0, 1), (1, 2), (2, 3), (0, 3), (4, 5), (5, 6), (6, 7), (4, 7)}
    diagonals = {(0, 6), (1, 7), (2, 4), (3, 5)}
    assert edges(CUBE) == rings | {(0, 4), (1, 5), (2, 6), (3, 7)} | diagonals
    assert [has_cubes(Mesh(*sizes, 1)) for sizes in ((1, 8), (2, 8), (4, 1))] == [True, True, False]


def test_redundant_experts_are_those_that_the_readmes_example_names() -> None:
    """The i-th redundant expert of a device is the i-th heaviest one of the device that it backs in column i."""
    slots = lplb_cube(problem_of(Mesh(1, 8, 4), LOADS)).slots
    assert sorted(slots[:, :2].ravel().tolist()) == list(range(16))
    heaviest = np.sort(slots[:, :2], axis=1)  # loads fall with the id
    for column, row in enumerate(CUBE):
        assert slots[:, 2 + column].tolist() == heaviest[row, column].tolist()


def test_the_torus_backs_neighbours_in_the_row_and_in_the_column() -> None:
    assert torus(Mesh(2, 3, 1)).tolist() == [[2, 0, 1, 5, 3, 4], [3, 4, 5, 0, 1, 2]]
    assert torus(Mesh(1, 3, 1)).tolist() == [[2, 0, 1]]
    assert torus(Mesh(1, 1, 1)).shape == (0, 1)


@pytest.mark.parametrize("plan", [lplb_cube, lplb_torus])
def test_with_one_redundant_slot_the_heaviest_are_copied_and_no_direction_is_left_out(
    plan: Callable[[Problem], Placement],
) -> None:
    mesh = Mesh(2, 4, 3)
    slots = plan(problem_of(mesh, LOADS)).slots
    backs = CUBE if plan is lplb_cube else torus(mesh)
    home = {int(expert): device for device in range(8) for expert in slots[device, :2]}
    backed = [home[int(expert)] for expert in slots[:, 2]]
    assert sorted(backed) == list(range(8))
    assert [int(expert) for expert in slots[:, 2]] == [int(slots[device, :2].min()) for device in backed]
    assert all(other in backs[:, device] for device, other in enumerate(backed))
    assert all(any(row[device] == other for device, other in enumerate(backed)) for row in backs)


def test_with_one_redundant_slot_a_cube_is_one_ring() -> None:
    slots = lplb_cube(problem_of(Mesh(1, 8, 3), LOADS)).slots
    home = {int(expert): device for device in range(8) for expert in slots[device, :2]}
    ring = [0]
    while len(ring) < 8:
        ring.append(home[int(slots[ring[-1], 2])])
    assert sorted(ring) == list(range(8))


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.sampled_from([3, 4]))
def test_no_expert_has_more_than_two_replicas_and_shared_ones_keep_theirs(seed: int, slots: int) -> None:
    problem, _ = small_problem(seed, rows=2, cols=4, slots=slots, routed=14, shared=1, replicas=2)
    for plan in (lplb_cube, lplb_torus):
        placement = plan(problem)
        assert problem.violations(placement) == []
        assert placement.counts(15)[:14].max() <= 2


def test_optimal_routing_in_tokens_solves_the_linear_program() -> None:
    """The least peak of the program of each batch, rounded up to whole tokens, is that of the simulated routing."""
    problem, sets = small_problem(11, rows=2, cols=4, slots=4, routed=16, shared=0, tokens=40)
    placement = lplb_cube(problem)
    report = judged(problem, sets, placement, Conditions("optimal", "tokens"))
    held = placement.held(16)
    device, expert = np.nonzero(held)
    for batch, load in enumerate(sets.test.load(16)):
        rows = np.hstack([(device == np.arange(8)[:, None]).astype(float), -np.ones((8, 1))])
        once = np.hstack([(expert == np.arange(16)[:, None]).astype(float), np.zeros((16, 1))])
        aim = np.append(np.zeros(len(device)), 1)
        peak = linprog(aim, A_ub=rows, b_ub=np.zeros(8), A_eq=once, b_eq=load).fun
        assert report.device_load[batch].max() == np.ceil(peak - 1e-6)
    assert report.price_us == problem.cost.preset.routing.batch_us
